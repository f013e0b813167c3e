"""``python -m report.address [URL [BRANCH]]``: the address of this copy, where readers need it.

It goes into the setup cells, as badges under the titles of the notebooks, as links under those of
the pages in docs/, and into README.md. Without URL git is asked; with ``none`` all that goes again.
Badges open the notebooks of a BRANCH: main, unless the workflow keeps them in one of its own.
"""

import re
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
BADGES = re.compile(r"\n\n(?:\[!)?\[Open in Colab\].*")  # pages have links alone
COURSE = re.compile('^COURSE = "[^"]*"', re.M)
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


def badges(address: str, branch: str, name: str) -> str:
    """Both services open notebooks from GitHub alone."""
    if not address.startswith("https://github.com/"):
        return ""
    path = f"{address.removeprefix('https://github.com/')}/blob/{branch}/notebooks/{name}.ipynb"
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


def under_title(text: str, links: str) -> str:
    """The text with these links under its title, in place of those that were there."""
    text = BADGES.sub("", text)
    return re.sub("^# .+$", lambda title: title[0] + links, text, count=1, flags=re.M)


def main(argv=None, root: Path = ROOT) -> int:
    given = sys.argv[1:] if argv is None else argv
    url = given[0] if given else remote()
    branch = given[1] if len(given) > 1 else "main"
    address = clean(url)
    if not address and url != "none":
        problem = f"{url} is no public address of a repository" if url else "git knows no origin"
        print(f"address: {problem}; make address URL=https://… names one", file=sys.stderr)
        return 1
    from report import execute, pages  # here, since execute imports this file

    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = execute.read(path)
        for cell in notebook.cells:
            if "setup" in cell.metadata.get("tags", []):  # a notebook that runs
                cell.source = COURSE.sub(f'COURSE = "{address}"', cell.source)
                title = notebook.cells[0]
                title.source = under_title(title.source, badges(address, branch, path.stem))
        execute.write(path, nbformat.writes(notebook) + "\n")
    line, readme = f"This copy lives at <{address}>.\n" if address else "", root / "README.md"
    text = README.sub(lambda m: m[1] + line + m[2], readme.read_text(encoding="utf-8"))
    execute.write(readme, text)
    results = execute.read_json(root / "docs" / "results.json")
    for path in (root / "docs").glob("*.md"):
        if path.stem in results:  # a chapter that runs
            links = as_links(badges(address, branch, path.stem))
            execute.write(path, under_title(path.read_text(encoding="utf-8"), links))
    if results:  # the HTML is made anew from the markdown
        pages.finish(root / "docs", results)
    print(address or "no address: no badges, no links")
    return 0


if __name__ == "__main__":
    sys.exit(main())
