"""``python -m report.address [URL]``: the address of this copy, where readers need it.

It goes into the setup cells, as badges under the titles of the notebooks, as links under those of
the pages in docs/, and into README.md. Without URL git is asked; where there is no address, or URL
is ``none``, all that goes again.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BADGES = re.compile(r"\n\n\[!\[Open in Colab\].*?(?=\n\n|$)", re.S)
COURSE = re.compile('^COURSE = "[^"]*"', re.M)
LINKS = re.compile(r"\n\n\[Open in Colab\]\([^\n]*")  # on pages: no image from elsewhere
README = re.compile(r"(<!-- address:start -->\n).*?(<!-- address:end -->)", re.S)


def remote() -> str:
    """What git calls origin, or nothing."""
    try:
        command = ["git", "remote", "get-url", "origin"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def clean(url: str) -> str:
    """https://host/owner/name, from any form in which git writes a public address, or ''."""
    scheme, host = r"(?:\w+@|ssh://(?:\w+@)?|https?://(?:[^@/]*@)?)", r"([\w-]+(?:\.[\w-]+)+)"
    url = url.strip().removesuffix("/").removesuffix(".git")
    found = re.fullmatch(rf"{scheme}{host}(?::\d+)?[:/](\w[\w./-]*/[\w.-]+)", url)
    return f"https://{found[1]}/{found[2]}" if found else ""


def badges(address: str, name: str) -> str:
    """Both services open notebooks from GitHub alone."""
    if not address.startswith("https://github.com/"):
        return ""
    path = f"{address.removeprefix('https://github.com/')}/blob/main/notebooks/{name}.ipynb"
    colab, kaggle = "https://colab.research.google.com", "https://kaggle.com"
    first = f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({colab}/github/{path})"
    other = f"{kaggle}/kernels/welcome?src=https://github.com/{path}"
    return f"\n\n{first} [![Open in Kaggle]({kaggle}/static/images/open-in-kaggle.svg)]({other})"


def neutral(source: str) -> str:
    """A cell without the address, which changes nothing that is computed or said."""
    return BADGES.sub("", COURSE.sub('COURSE = ""', source))


def as_links(text: str) -> str:
    """Markdown with badges as plain links: a page asks for no image from elsewhere."""
    return re.sub(r"\[!\[(Open in \w+)\]\([^)]*\)\]", r"[\1]", text)


def address_pages(folder: Path, address: str):
    """Put links under the titles of the pages, whose HTML is made anew from their markdown."""
    from report import execute, pages

    results = execute.read_json(folder / "results.json")
    for path in folder.glob("*.md"):
        if path.stem not in results:  # text alone: there is nothing to run
            continue
        text = LINKS.sub("", path.read_text(encoding="utf-8"))
        links = as_links(badges(address, path.stem))
        text = re.sub("^# .+$", lambda title, new=links: title[0] + new, text, count=1, flags=re.M)
        path.write_text(text, encoding="utf-8", newline="\n")
    pages.finish(folder, results)


def main(argv=None, root: Path = ROOT) -> int:
    given = (sys.argv[1:] if argv is None else argv) or [remote() or "none"]
    address = clean(given[0])
    if not address and given[0] != "none":
        print(f"address: {given[0]} is no public address of a repository", file=sys.stderr)
        return 1
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if "setup" in cell["metadata"].get("tags", []):  # a notebook that runs
                source = "".join(cell["source"])
                source = COURSE.sub(f'COURSE = "{address}"', source)
                cell["source"] = source.splitlines(keepends=True)
                title = notebook["cells"][0]
                text = BADGES.sub("", "".join(title["source"]))
                head, line, rest = text.partition("\n")
                text = head + badges(address, path.stem) + line + rest
                title["source"] = text.splitlines(keepends=True)
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8", newline="\n")
    line, readme = f"This copy lives at <{address}>.\n" if address else "", root / "README.md"
    text = README.sub(lambda m: m[1] + line + m[2], readme.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8", newline="\n")
    if (root / "docs" / "index.md").exists():
        address_pages(root / "docs", address)
    print(address or "no address: no badges, no links")
    return 0


if __name__ == "__main__":
    sys.exit(main())
