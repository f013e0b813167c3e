"""The report tool on tiny notebooks, then the report that is in git."""

import json
import os
import re
import runpy
import signal
import sys
import threading
import time
from functools import cache
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

import vae_utils
from report import export, mathsvg
from report.__main__ import main
from report.execute import source_hash

ROOT = Path(__file__).resolve().parents[1]
FIGURE = (
    "import base64, io\nfrom IPython.display import display\nfrom PIL import Image\n"
    "file = io.BytesIO()\nImage.new('RGB', (192, 96)).save(file, 'PNG', dpi=(192, 192))\n"
    "png = base64.b64encode(file.getvalue()).decode()\n"
    "about = {'alt': 'A black box', 'caption': 'A box for $x$.'}\n"
    "display({'image/png': png}, raw=True, metadata={'filename': 'box.png', 'image/png': about})"
)


def code(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})


def text(source):
    return nbformat.v4.new_markdown_cell(source)


class Course:
    """A folder with notebooks, a README and outputs of its own."""

    def __init__(self, root, monkeypatch):
        self.root, self.docs = root, root / "docs"
        self.runs = root / "runs.txt"
        monkeypatch.setenv("VAE_OUT_DIR", str(root / "outputs"))
        monkeypatch.setattr(vae_utils, "FAST", False)
        monkeypatch.setattr(vae_utils, "DATASET", "mnist")
        (root / "README.md").write_text("a\n<!-- results:start -->\n<!-- results:end -->\nb\n")

    def add(self, name, *cells):
        path = self.root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        counter = code(f"print('{name}', file=open('../runs.txt', 'a'))")
        nbformat.write(nbformat.v4.new_notebook(cells=[*cells, counter]), path)
        return path

    def run(self, *argv):
        return main(list(argv), root=self.root)

    def executed(self):
        return self.runs.read_text().split() if self.runs.exists() else []

    def snapshot(self):
        return {p: p.read_bytes() for p in self.docs.rglob("*") if p.is_file()}

    def page(self, name):
        return (self.docs / name).read_text(encoding="utf-8")


@pytest.fixture
def course(tmp_path, monkeypatch):
    return Course(tmp_path, monkeypatch)


def results_cell(name, results):
    source = "import json, pathlib\nfolder = pathlib.Path('../outputs/mnist/results')\n"
    source += "folder.mkdir(parents=True, exist_ok=True)\n"
    source += f"(folder / '{name}.json').write_text(json.dumps({results!r}))"
    return code(source)


def test_pages_results_and_second_run(course, capsys):
    numbers = {"net": {"test_loss": 1.5, "parameters": 1234}}
    long = "def f():\n" + "    pass\n" * 20
    course.add(
        "01_one",
        text("# One\n\n$x \\mid z$. see [two](02_two.ipynb#the-end), [nine](09_nine.ipynb)."),
        code("import os, sys\nprint('\\x1b[31mred\\x1b[0m', os.getcwd())", "setup"),
        code("print('no' + 'ise', file=sys.stderr)\nprint(9, '%\\rdone')\nprint(object())"),
        code(long),
        code(FIGURE),
        results_cell("01_one", {"count": 3}),
    )
    course.add(
        "02_two",
        text("# Two\n\n$$y = \\frac{1}{2}$$\n\n## The end\n\n| a | b |\n|:--|--:|\n| c | 1 |"),
        results_cell("04_evaluation", {}),
    )
    course.add("04_evaluation", text("# Four"), results_cell("04_evaluation", numbers))
    assert course.run() == 0
    assert course.executed() == ["01_one", "02_two", "04_evaluation"]

    html, md = course.page("01_one.html"), course.page("01_one.md")
    for page in (html, md):
        assert "red notebooks" in page and "done" in page and "object object" in page
        for noise in ("\x1b", "noise", "9 %", " at 0x", str(course.root)):
            assert noise not in page
    soup = BeautifulSoup(html, "html.parser")
    assert [d.summary.get_text(" ", strip=True) for d in soup.select("details.fold")] == [
        "Setup 2 lines",
        "def f(): 21 lines",
    ]
    figure = soup.select_one("article figure")
    assert figure.img["alt"] == "A black box" and figure.img["width"] == "96"
    assert figure.figcaption.svg["aria-label"] == "x"
    assert (course.docs / "img/01_one/box.png").exists()
    assert soup.select_one("article a[href='02_two.html#the-end']")
    assert "![A black box](img/01_one/box.png)\n\nA box for $`x`$." in md
    assert "](02_two.md#the-end), nine." in md and "$`x \\mid z`$" in md
    assert "```math\ny = \\frac{1}{2}\n```" in course.page("02_two.md")
    assert 'aria-label="y = \\frac{1}{2}"' in course.page("02_two.html")

    results = json.loads(course.page("results.json"))
    assert results["01_one"] == {"count": 3} and results["04_evaluation"] == numbers
    assert "1,234" in course.page("index.md") and "1.50" in course.page("index.html")
    assert "| `net` |" in (course.root / "README.md").read_text()

    before = course.snapshot()
    assert course.run() == 0  # nothing has changed: nothing runs, the report is the same
    assert len(course.executed()) == 3 and course.snapshot() == before
    assert course.run("02", "--force") == 0
    assert course.executed()[3:] == ["02_two"]


def test_failing_cell_leaves_docs_untouched(course, capsys):
    course.add("01_one", text("# One"))
    assert course.run() == 0
    before = course.snapshot()
    course.add("01_one", text("# One, changed"))
    course.add("02_two", text("# Two"), code("x = 1"), code("x / 0"))
    capsys.readouterr()
    assert course.run() == 1
    assert course.snapshot() == before
    lines = capsys.readouterr().err.split("report: ", 1)[1].splitlines()
    assert "02_two.ipynb" in lines[0]
    assert lines[1].split()[:4] == ["cell", "3", "of", "4,"]
    assert lines[2].endswith("ZeroDivisionError: division by zero")
    partly = nbformat.read(course.root / "outputs/mnist/executed/02_two.failed.ipynb", 4)
    assert [cell.execution_count for cell in partly.cells[1:]] == [1, 2, None]
    assert not list(course.root.glob(".docs*"))


def test_other_pages_stay(course):
    course.add("01_one", text("# One"))
    course.add("06_six", text("# Six"), results_cell("06_six", {"n": 6}))
    assert course.run("--all") == 0
    six = course.page("06_six.md")
    course.add("01_one", text("# One, better"))
    course.add("07_seven", text("# Seven"))
    assert course.run() == 0  # the core alone
    assert course.executed() == ["01_one", "06_six", "01_one"]
    assert json.loads(course.page("results.json"))["06_six"] == {"n": 6}
    renewed = course.page("06_six.md")
    assert "[One, better](01_one.md)" in renewed and "seven" not in renewed
    assert re.sub("One, better", "One", renewed) == six
    (course.root / "notebooks/06_six.ipynb").unlink()
    assert course.run() == 0
    assert not (course.docs / "06_six.html").exists()


def test_check_names_stale_pages(course, capsys):
    path = course.add("01_one", text("# One"))
    assert course.run() == 0 and course.run("--check") == 0
    course.add("01_one", text("# One"), code("1"))
    assert source_hash(path) not in course.page("01_one.html")
    assert course.run("--check") == 1
    assert "01_one.md: 01_one.ipynb has changed" in capsys.readouterr().out


def test_fast_build_never_touches_docs(course, monkeypatch):
    course.add("01_one", text("# One"))
    monkeypatch.setattr(vae_utils, "FAST", True)
    assert course.run() == 0
    monkeypatch.setattr(vae_utils, "FAST", False)
    monkeypatch.setattr(vae_utils, "DATASET", "fashion")
    assert course.run() == 0
    assert (course.root / "build/index.html").exists()
    assert (course.root / "build/fashion/index.html").exists()
    assert not course.docs.exists()


@pytest.mark.parametrize("argv", [["03_nothing"], ["--frobnicate"]])
def test_wrong_argument_is_one_line(course, capsys, argv):
    course.add("01_one", text("# One"))
    with pytest.raises(SystemExit) as stop:
        course.run(*argv)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and argv[0] in error
    assert argv[0].startswith("-") or "01_one" in error


def test_old_python_is_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(SystemExit, match=r"^The report needs Python 3.11 or newer; .* 3\.9\.1\.$"):
        runpy.run_path(str(ROOT / "report" / "__main__.py"))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (text("# One\n\nHere $\\nonsense x$."), r"cell 1 .*\\nonsense"),
        (
            code(FIGURE.replace("'alt': 'A black box', ", "")),
            "cell 1: figure box.png has no alt text",
        ),
        (code(FIGURE + "\n" + FIGURE), "cell 1: a second figure is called box.png"),
    ],
)
def test_unfit_for_print_is_an_error(course, capsys, cell, message):
    course.add("01_one", cell)
    assert course.run() == 1
    assert re.search(f"01_one, {message}", capsys.readouterr().err)
    assert not course.docs.exists()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupt_leaves_docs_and_exits_130(course):
    course.add("01_one", text("# One"))
    assert course.run() == 0
    before = course.snapshot()
    course.add("01_one", code("open('../started', 'w')\nimport time\ntime.sleep(60)"))

    pressed = []

    def press_stop():
        for _ in range(600):
            if (course.root / "started").exists():
                break
            time.sleep(0.1)
        pressed.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=press_stop, daemon=True).start()
    assert course.run() == 130
    assert time.monotonic() - pressed[0] < 20
    assert course.snapshot() == before


def test_a_swap_that_was_killed_is_mended(course):
    course.add("01_one", text("# One"))
    assert course.run() == 0
    course.docs.rename(course.root / ".docs-old")
    course.add("01_one", code("1 / 0"))
    assert course.run() == 1
    assert (course.docs / "01_one.html").exists()


# ---------------------------------------------------------------- formulas


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a $x$ b", "a $`x`$ b"),
        ("`$x$` and $y$", "`$x$` and $`y`$"),
        ("```\n$x$\n```\n$y$", "```\n$x$\n```\n$`y`$"),
        ("$$x$$", "```math\nx\n```\n"),
        ("- a\n\n  $$\n  x\n  $$", "- a\n\n  ```math\n  x\n  ```\n"),
        ("cost \\$5", "cost \\$5"),
        ("[a](02_model.ipynb#The-KL-term)", "[a](02_model.md#the-kl-term)"),
        ("[a](../vae_utils.py)", "[a](../vae_utils.py)"),
    ],
)
def test_markdown_for_code_hosts(source, expected):
    assert export.host_markdown(source) == expected


@pytest.mark.parametrize(
    "tex",
    [
        r"\mathbb{E}_{q_\phi(z \mid x)}\left[\log p_\theta(x \mid z)\right]",
        r"\underbrace{x}_{\text{data}} + \lVert \hat{x} \rVert^2 \odot \boldsymbol{\mu}",
        r"\begin{aligned} a &= b \\ &\ge c \end{aligned}",
        r"f(x) = \begin{cases} 1 & x > 0 \\ 0 & \text{otherwise} \end{cases}",
        r"\operatorname*{arg\,max}_\theta \tfrac{1}{2} \sum_{j=1}^{d} \sigma_j^2",
    ],
)
def test_formulas_are_drawn(tex):
    svg, symbols = mathsvg.draw(tex, True)
    assert svg.count("<use") > 3 and "NaN" not in svg and symbols
    assert BeautifulSoup(svg, "html.parser").svg["aria-label"] == tex


@pytest.mark.parametrize("tex", [r"\foo x", r"\frac{1", r"x \Bigg\nothing y"])
def test_bad_formulas_are_refused(tex):
    with pytest.raises(ValueError):
        mathsvg.draw(tex, False)


# ---------------------------------------------------------------- the report in git

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted(p for p in (ROOT / "docs").glob("*.html") if p.stem != "explorer")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
MARKDOWN = [page.with_suffix(".md") for page in PAGES] + [ROOT / "benchmarks/RESULTS.md"]
MARKDOWN += [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@cache
def parsed(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@each_notebook
def test_no_bar_in_the_formulas_of_a_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    sources = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    for match in export.MATH.finditer(sources):
        assert "|" not in (match["block"] or match["inline"] or ""), match[0]


def test_pages_are_fresh():
    assert export.stale_pages(ROOT / "docs", NOTEBOOKS) == []


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
        assert not anchor or parsed(there).find(id=anchor), link
    assert len(soup.title.get_text()) > 5
    assert len(soup.find("meta", attrs={"name": "description"})["content"]) > 20


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda p: p.stem)
def test_images_and_links_of_markdown(path):
    content = path.read_text(encoding="utf-8")
    for block, inline in re.findall(r"```math\n(.*?)```|\$`(.*?)`\$", content, flags=re.S):
        assert "|" not in block + inline  # a bar breaks tables
    prose = re.sub(r"^ *```.*?^ *```$|`[^`\n]*`", "code", content, flags=re.S | re.M)
    assert not re.search(r"(?<!\\)\$\$", prose)
    for alt, src in re.findall(r"!\[(.*?)\]\(([^)\s]+)", prose):
        assert alt and (path.parent / src).exists(), src
    for target in re.findall(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)", prose):
        if not re.match("https?:", target):
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), flags=re.M)
                assert anchor in map(export.slug, headings), target


@each_page
def test_page_weight(path):
    soup = parsed(path)
    images = {path.parent / image["src"] for image in soup.find_all("img")}
    weight = path.stat().st_size + sum(image.stat().st_size for image in images)
    assert weight <= 2_500_000


def test_numbers_of_the_readme_come_from_results():
    table = export.results_table(export.read_results(ROOT / "docs"))
    assert table and table in (ROOT / "README.md").read_text(encoding="utf-8")
