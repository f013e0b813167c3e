"""Do numbers agree with the results, and pages with their notebooks?"""

import re
from pathlib import Path

from report import execute, marks

LIKE_A_MARK = re.compile(r"<!--(?:\w+:)?[\w.-]+/[^>\n]*-->")
NO_PROSE = re.compile(  # code, formulas, solutions, targets of links, sentences that cite others
    r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|<details.*?</details>"
    r"|[^\n|]*references\.ipynb#[^\n]*|\]\([^)]*\)|(?:Python|torch|version) [\d.]+",
    re.S,
)
DECIMAL = re.compile(r"(?<![\w.^/×·-])(?:[1-9]\d*\.\d+|0\.\d*[1-8]\d+)(?![\w.])")


def problems(text: str, chapter: str, results: dict) -> list[str]:
    """Marks that disagree with the results or name nothing, and decimals that carry no mark."""
    unknown: list[re.Match] = []
    fresh = marks.fill(text, chapter, results, unknown)
    pairs = zip(marks.MARK.finditer(text), marks.MARK.finditer(fresh))
    found = [f"{old[0]} should be {new['number']}" for old, new in pairs if old[0] != new[0]]
    found += [f"{mark[0]} names no result" for mark in unknown]
    bare = marks.MARK.sub("", text)
    found += [f"{mark[0]} follows no number" for mark in LIKE_A_MARK.finditer(bare)]
    return found + [
        f"{number[0]} has no mark" for number in DECIMAL.finditer(NO_PROSE.sub("", bare))
    ]


def stale(folder: Path, notebooks: list[Path]) -> list[str]:
    """Pages that are missing, or whose notebook has changed since they were made."""
    found = []
    for path in notebooks:
        digest = execute.page_hash(execute.read(path))
        for page in (folder / f"{path.stem}.md", folder / f"{path.stem}.html"):
            if not page.exists():
                found.append(f"{page.name}: missing")
            elif digest not in page.read_text(encoding="utf-8"):
                found.append(f"{page.name}: {path.name} has changed since")
    return found
