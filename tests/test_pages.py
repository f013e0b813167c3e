"""The report that is in git: fresh, true to its results, whole links, fit for other builders."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import page_checks
import pytest
from bs4 import BeautifulSoup

from report import export, pdf

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[!.]*.ipynb"))
PAGES = sorted(p for p in DOCS.glob("*.html") if p.stem not in ("explorer", "lab"))
MARKDOWN = [page.with_suffix(".md") for page in PAGES] + [ROOT / "benchmarks/RESULTS.md"]
MARKDOWN += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "AI_USE.md"]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)


@cache
def parsed(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(path):
    """The ids of a page: looked for one by one, they would take as long as all other tests here."""
    return {tag["id"] for tag in parsed(path).select("[id]")}


@cache
def results():
    return json.loads((DOCS / "results.json").read_text(encoding="utf-8"))


def prose(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


@each_notebook
def test_no_bar_in_the_formulas_of_a_notebook(path):
    for match in export.MATH.finditer(prose(path)):
        assert "|" not in (match["block"] or match["inline"] or ""), match[0]


@each_notebook
def test_numbers_of_a_notebook_are_those_of_the_run(path):
    assert page_checks.problems(prose(path), path.stem, results()) == []


def test_numbers_of_the_readme_are_those_of_the_run():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    wrong = page_checks.problems(text, "README", results())
    assert [problem for problem in wrong if "has no mark" not in problem] == []


@each_notebook
def test_cited_works_are_in_the_list(path):
    known = set(re.findall(r'<a id="([\w-]+)">', prose(ROOT / "notebooks/references.ipynb")))
    cited = set(re.findall(r"references\.ipynb#([\w-]+)", prose(path)))
    assert cited <= known


def test_pages_are_fresh():
    assert page_checks.stale(DOCS, NOTEBOOKS) == []


@each_page
def test_page_has_no_noise(path):
    for page in (path, path.with_suffix(".md")):
        content = page.read_text(encoding="utf-8")
        assert not re.search(r"<p>[^<]*\|:?--", content)  # a table that was not read as one
        for noise in ("Traceback (most recent", "\x1b[", "/tmp/", str(ROOT), "it/s]", "⟦"):
            assert noise not in content, noise
        assert not re.search(r"No description has been provided| at 0x[0-9a-f]{6}", content)
        assert "/home/" not in content and "/root/" not in content


@each_page
def test_images_and_links_of_page(path):
    soup = parsed(path)
    for image in soup.select("main img"):
        assert image["alt"].strip() and (path.parent / image["src"]).exists(), image
    for link in soup.find_all(["a", "link", "script", "iframe"]):
        target, _, anchor = (link.get("href") or link.get("src") or "").partition("#")
        if re.match("https?:", target):
            assert link.name == "a", link  # a page asks for nothing from outside
            continue
        there = path.parent / target if target else path
        assert there.exists(), link
        framed = there.stem in ("explorer", "lab")  # they read what is after the #
        assert not anchor or framed or anchor in anchors(there), link
    assert len(soup.title.get_text()) > 5
    assert len(soup.find("meta", attrs={"name": "description"})["content"]) > 20


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda p: p.stem)
def test_images_and_links_of_markdown(path):
    content = path.read_text(encoding="utf-8")
    for block, inline in re.findall(r"```math\n(.*?)```|\$`(.*?)`\$", content, flags=re.S):
        assert "|" not in block + inline  # a bar breaks tables
    text = re.sub(r"^ *```.*?^ *```$|`[^`\n]*`", "code", content, flags=re.S | re.M)
    assert not re.search(r"(?<!\\)\$\$", text)
    for alt, src in re.findall(r"!\[(.*?)\]\(([^)\s]+)", text):
        assert alt and (path.parent / src).exists(), src
    for target in re.findall(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)", text):
        if not re.match("https?:", target):
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), target
            if anchor and there.suffix == ".md":
                content = there.read_text(encoding="utf-8")
                known = set(map(export.slug, re.findall(r"^#+ (.+)$", content, flags=re.M)))
                assert anchor in known | set(re.findall(r'<a id="([\w-]+)">', content)), target


def test_fonts_are_small_and_free():
    fonts = ROOT / "report" / "static" / "fonts"
    assert sum(font.stat().st_size for font in fonts.glob("*.woff2")) <= 250_000
    assert "SIL OPEN FONT LICENSE" in (fonts / "LICENSE.txt").read_text(encoding="utf-8")


def test_the_explorer_is_light_enough():
    assert (DOCS / "explorer.html").stat().st_size <= 5_000_000


def test_the_book_holds_every_page():
    soup = BeautifulSoup(pdf.book(DOCS, {"01_data": 7}), "html.parser")
    assert len(soup.select("article")) == len(PAGES) == len(soup.select(".contents li"))
    ids = {tag["id"] for tag in soup.select("[id]")}
    for link in soup.select("main a[href^='#']"):
        assert link["href"][1:] in ids, link
    assert soup.select(".contents li")[1].get_text() == "01 · Data 7"


def test_pages_of_a_pdf_are_counted():
    file = b"2 0 obj\n<</Type /Page\n>>\n8 0 obj\n<</Type /Page\n>>\n16 0 obj\n"
    file += b"<</a [8 0 R /XYZ 6 579 0]\n/b-c [2 0 R /XYZ 6 9 0]>>"
    assert pdf.page_numbers(file) == {"a": 2, "b-c": 1}


def test_mkdocs_builds_the_pages(tmp_path):
    pytest.importorskip("material", reason="no mkdocs-material")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    settings = re.search(r"```yaml\n(site_name:.*?)```", readme, re.S)[1]
    assert settings.count("\n") <= 8
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    shutil.copytree(DOCS, tmp_path / "docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site/02_model/index.html").read_text(encoding="utf-8")
    assert "<math" in page and "```" not in page and "$<code>" not in page
    assert (tmp_path / "site/explorer.html").exists()


@each_page
def test_no_line_ends_between_a_number_and_its_unit(path):
    article = re.search("<article>.*</article>", path.read_text(encoding="utf-8"), re.S)[0]
    article = re.sub(r"<(pre|code|svg|details)\b.*?</\1>", "", article, flags=re.S)
    article = re.sub(r"<[^>]*>", "", article)
    units = "nats?|images?|epochs?|seconds?|pixels?|steps?|codes?|MB"
    assert re.findall(rf".{{20}}\d (?:{units})\b", article) == []
