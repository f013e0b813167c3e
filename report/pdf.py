"""``python -m report.pdf``: all pages of docs/ as one PDF with contents, printed by Chromium."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer")
FLAGS += ("--generate-pdf-document-outline",)  # bookmarks


def page_numbers(pdf: bytes) -> dict[str, int]:
    """{id: page} of all places that links lead to, in a file as Chromium writes it."""
    pages = re.findall(rb"^(\d+) 0 obj\n<</Type /Page\n", pdf, re.M)
    places = re.findall(rb"^(?:<<)?/(\S+) \[(\d+) 0 R /XYZ", pdf, re.M)
    return {name.decode(): pages.index(page) + 1 for name, page in places}


def book(docs: Path, numbers: dict[str, int]) -> str:
    """One page that holds the articles of all, with links that stay inside it."""
    page = BeautifulSoup((docs / "index.html").read_text(encoding="utf-8"), "html.parser")
    names = {a["href"].removesuffix(".html"): a.get_text() for a in page.select(".pages a")}
    inside, articles, contents = "|".join(names), [], []
    for name, title in names.items():
        text = (docs / f"{name}.html").read_text(encoding="utf-8")
        article = re.search(r"<article>(.*)</article>", text, re.S)[1]  # inline SVG stays as it is
        article = re.sub(r'(<(?:h[1-4][^>]*|a) id=")', rf"\g<1>{name}--", article)
        article = re.sub(r'(<a [^>]*href="#)', rf"\g<1>{name}--", article)
        article = re.sub(rf'href="({inside})\.html#', r'href="#\1--', article)
        article = re.sub(rf'href="({inside})\.html"', r'href="#\1"', article)
        article = re.sub(  # the lab and the explorer: pictures here, without a link
            r'<a [^>]*href="(?:lab|explorer)\.html[^"]*"[^>]*>(.*?)</a>', r"\1", article, flags=re.S
        )
        article = article.replace("<details", "<details open").replace('loading="lazy"', "")
        articles.append(f'<article id="{name}" class="{name}">{article}</article>')
        contents.append(f'<li><a href="#{name}">{title}</a> {numbers.get(name, "")}</li>')
    head = str(page.head).replace('href="', f'href="{docs.as_uri()}/', 2)
    first, *rest = articles
    contents = f'<nav class="contents"><h2>Contents</h2><ol>{"".join(contents)}</ol></nav>'
    body = f'<body class="book"><main>{first}{contents}{"".join(rest)}</main></body>'
    return f'<!doctype html><html lang="en">{head}{body}</html>'


def main(docs: Path = ROOT / "docs", target: Path = ROOT / "build" / "report.pdf") -> int:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("pdf: no Chromium here; a browser can print single pages", file=sys.stderr)
        return 1
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        path, numbers = Path(folder, "book.html"), {}
        command = [browser, *FLAGS, f"--user-data-dir={folder}", f"--print-to-pdf={target}"]
        for _ in range(2):  # once to find the pages, once with their numbers in the contents
            html = book(docs, numbers).replace('src="', f'src="{docs.as_uri()}/')
            path.write_text(html, encoding="utf-8")
            done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True)
            if done.returncode == 0:
                numbers = page_numbers(target.read_bytes())
    print(f"{target} written" if done.returncode == 0 else done.stderr[-500:])
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
