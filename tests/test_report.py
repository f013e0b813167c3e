"""The report tool on tiny notebooks of its own: the chain, its errors, marks, addresses."""

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import page_checks
import pytest
from bs4 import BeautifulSoup
from filelock import FileLock

import vae_utils
from report import address, execute, export, marks, pages
from report.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
FIGURE = """# Plot: a line
import io, matplotlib
matplotlib.rcParams["svg.fonttype"] = "none"
from IPython.display import display
from matplotlib.figure import Figure
fig = Figure((6, 3))
for ax in fig.subplots(1, 2):
    ax.plot([1, 2])
    ax.set_title("height")
file = io.StringIO()
fig.savefig(file, format="svg")
about = {"filename": "line", "alt": "A line", "svg": file.getvalue()}
display({"image/png": "iVBORw0KGgo="}, raw=True, metadata=about)
"""
PICTURE = """import base64, io
from IPython.display import display
from PIL import Image
file = io.BytesIO()
Image.new("RGBA", (192, 96), (9, 9, 9, 200)).save(file, "PNG", dpi=(192, 192))
png = base64.b64encode(file.getvalue()).decode()
about = {"filename": "box", "alt": "A black box"}
display({"image/png": png}, raw=True, metadata=about)
"""
FRAME = """from html import escape
page = '<!doctype html><p id="it">A page & more</p>'
open("still.png", "wb").write(file.getvalue())
about = {"page": "lab.html", "alt": "Train it here", "still": os.path.abspath("still.png")}
display({"text/html": f'<iframe srcdoc="{escape(page)}"></iframe>'}, raw=True, metadata=about)
"""


def code(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})


def text(source):
    return nbformat.v4.new_markdown_cell(source)


def results_cell(name, results):
    source = "import json, pathlib\nfolder = pathlib.Path('../outputs/mnist/results')\n"
    source += "folder.mkdir(parents=True, exist_ok=True)\n"
    source += f"(folder / '{name}.json').write_text(json.dumps({results!r}))"
    return code(source, "results")


class Course:
    """A folder with notebooks, a README and outputs of its own."""

    def __init__(self, root, monkeypatch):
        self.root, self.docs = root, root / "docs"
        self.runs = root / "runs.txt"
        monkeypatch.setenv("VAE_OUT_DIR", str(root / "outputs"))
        monkeypatch.setattr(vae_utils, "FAST", False)
        monkeypatch.setattr(vae_utils, "DATASET", "mnist")
        (root / "README.md").write_text("Loss 9.9<!--01_one:net/loss--> nats.\n")
        (root / "requirements.txt").write_text("numpy>=1.26  # numbers\nno-such-package>=1\n")
        self.add("index", text("# All of it\n\nThe loss is 1.0<!--01_one:net/loss-->."))

    def add(self, name, *cells):
        path = self.root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        cells = list(cells)
        if any(cell.cell_type == "code" for cell in cells):
            cells.append(code(f"print('{name}', file=open('../runs.txt', 'a'))"))
        for number, cell in enumerate(cells, 1):
            cell["id"] = f"c{number:02d}"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    def run(self, *argv):
        return main(list(argv), root=self.root)

    def executed(self):
        return self.runs.read_text().split() if self.runs.exists() else []

    def snapshot(self):
        return {p: p.read_bytes() for p in self.docs.rglob("*") if p.is_file()}

    def page(self, name):
        return (self.docs / name).read_text(encoding="utf-8")

    def soup(self, name):
        return BeautifulSoup(self.page(name), "html.parser")


@pytest.fixture
def course(tmp_path, monkeypatch):
    return Course(tmp_path, monkeypatch)


def test_what_a_student_may_write(course):
    """An aside with nothing before it, dollars, a fence in a language that nobody knows."""
    source = "# T\n\n> **Aside.** A.\n\n\\$5 to \\$6, `$x$`\n\n```nosuch\na = 1\n```"
    course.add("01_one", text(source + "\n\n| | a |\n|---|---|\n| r | 1 |"))
    assert course.run() == 0
    page = course.soup("01_one.html").select_one("article")
    assert page.select_one("aside").get_text(strip=True) == "A."
    assert "$5 to $6" in page.get_text() and "a = 1" in page.select_one("pre").get_text()
    assert page.select("math") == [] and page.code.get_text() == "$x$"
    (head,) = page.select("th")  # the empty corner is none
    assert head["scope"] == "col" and head.get_text() == "a"


@pytest.mark.parametrize(
    "said", ["# AI\n\nReplace it.\n\n## Mine\n\nNone.\n\n## Form\n\nX.\n", "None.\n"]
)
def test_the_index_shows_the_ai_statement(course, said):
    (course.root / "AI_USE.md").write_text(said)
    course.add("index", text("# All\n\n<!-- AI_USE.md -->"))
    assert course.run() == 0
    page = course.page("index.md")
    assert "None." in page and "Replace it" not in page and "X." not in page


def test_a_report(course, capsys, monkeypatch):
    monkeypatch.setattr(export, "LONG", 8)
    long = "# What it does\ndef f():\n" + "    pass\n" * 20
    path = course.add(
        "01_one",
        text("# One\n\nOf $x \\mid z$. See [two](02_two.ipynb#The-end), [nine](09_nine.ipynb)."),
        code("import os, sys\nprint('\\x1b[31mred\\x1b[0m', os.getcwd())", "setup"),
        code("print('no' + 'ise', file=sys.stderr)\nprint(9, '%\\rdone')\nprint(object())"),
        code(long),
        code(FIGURE, "plot"),
        text("**Figure.** It rises.\n\nThe loss is **2.0<!--net/loss--> nats**."),
        text("> **Aside.** A nat is a unit.\n\nSee [A 2014](references.ipynb#a2014)."),
        code(PICTURE),
        code(FRAME),
        code("print('✓ it is so\\n– not judged')"),
        code("# @title Check your answer\nprint(1)", "check"),
        results_cell("01_one", {"net": {"loss": 1234.56}}),
    )
    course.add(
        "02_two",
        text("# Two\n\n$$y = \\frac{1}{2}$$\n\n## The end\n\n| a | b |\n|:--|--:|\n| c | 1 |"),
        text("<details><summary>Solution</summary>\n\nIt is $3$.\n\n</details>"),
    )
    course.add(
        "references", text('# Works\n\n- <a id="a2014"></a>A. [A title](https://a.b). 2014.')
    )
    assert course.run() == 0
    assert course.executed() == ["01_one"]  # where there is no code, nothing is run

    html, md = course.page("01_one.html"), course.page("01_one.md")
    for page in (html, md):
        assert "red notebooks" in page and "done" in page and "object object" in page
        for noise in ("\x1b", "noise", "9 %", " at 0x", str(course.root), "write_text", "net/loss"):
            assert noise not in page
    soup = course.soup("01_one.html")
    folds = [fold.summary.get_text() for fold in soup.select("details.code")]
    assert folds == ["Setup", "What it does", "Plot: a line", "Check your answer"]
    plot, picture, frame = soup.select("article figure")
    assert plot.svg["aria-label"] == "A line" and "height" in plot.svg.get_text()
    assert "DejaVu" not in str(plot) and "#000000" not in str(plot)
    assert plot.figcaption.get_text() == "Figure 1. It rises."
    assert picture.img["alt"] == "A black box" and picture.img["width"] == "96"
    assert frame["class"] == ["frame"] and frame.a["href"] == "lab.html"
    assert course.page("lab.html") == '<!doctype html><p id="it">A page & more</p>'
    assert "[![Train it here](img/01_one/lab.png)](lab.html)" in md
    assert [li["data-mark"] for li in soup.select(".checks li")] == ["✓", "–"]
    assert soup.select_one("aside").get_text(strip=True) == "A nat is a unit."
    assert soup.select_one("a[href='references.html#a2014']")["data-work"] == "A. A title. 2014."
    assert soup.select_one("article a[href='02_two.html#the-end']") and "math" in html
    assert "](02_two.md#the-end), nine." in md and "$`x \\mid z`$" in md
    assert soup.find(string=re.compile("1,234.6\u00a0nats")) and "**1,234.6 nats**" in md
    assert "nine" in html and "09_nine.html" not in html  # no page: named, not linked
    assert "```math\ny = \\frac{1}{2}\n```" in course.page("02_two.md")
    assert course.soup("02_two.html").select_one(".display mfrac")
    assert course.soup("02_two.html").select_one("details:not(.code) math")
    assert "**Figure 1.**" in md and "![A line](img/01_one/line.svg)" in md
    order = [a["href"] for a in soup.select(".pages a")]
    assert order == ["index.html", "01_one.html", "02_two.html", "references.html"]
    found = json.loads(course.page("search-data.js").removeprefix("searchData(").rstrip(");\n"))
    assert ["the-end", "The end", "a b c 1 It is 3."] in found[2][2]

    results = json.loads(course.page("results.json"))
    assert results["01_one"] == {"net": {"loss": 1234.56}}
    assert "2.0<!--" not in path.read_text() and "1,234.6<!--net/loss-->" in path.read_text()
    assert (course.root / "README.md").read_text().startswith("Loss 1,234.6<!--")
    assert "1,234.6<!--01_one:net/loss-->" in (course.root / "notebooks/index.ipynb").read_text()
    constraints = (course.root / "constraints.txt").read_text()
    assert constraints.splitlines()[1:] == [f"numpy=={execute.version('numpy')}"]
    assert page_checks.stale(course.root / "docs", [path]) == []

    before = course.snapshot()
    assert course.run() == 0  # nothing has changed: nothing runs, the report is the same
    assert course.executed() == ["01_one"] and course.snapshot() == before
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source = "# One, better\n\nOther words."
    nbformat.write(notebook, path)
    [first, _] = page_checks.stale(course.root / "docs", [path])
    assert "01_one.md: 01_one.ipynb has changed" in first
    began = time.monotonic()
    assert course.run() == 0  # text alone: nothing runs
    assert time.monotonic() - began < 10 and course.executed() == ["01_one"]
    assert "Other words." in course.page("01_one.html") and "red notebooks" in course.page(
        "01_one.md"
    )
    assert "[One, better](01_one.md)" in course.page("02_two.md")


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_the_precision_of_a_config_is_named(kind):
    assert execute.precision(vae_utils.Config(precision=kind)) == kind
    assert execute.environment()["precision"] in ("float32", "bfloat16")


def test_only_pages_that_changed_are_made_anew(course, monkeypatch):
    for name in ("01_one", "02_two"):
        course.add(name, text(f"# {name}\n\nWords of {name}."))
    assert course.run() == 0
    made = []

    class Noted(pages.Page):
        def __init__(self, folder, name, *rest):
            made.append(name)
            super().__init__(folder, name, *rest)

    monkeypatch.setattr(pages, "Page", Noted)
    course.add("02_two", text("# 02_two\n\nOther words."))
    assert course.run() == 0
    assert made == ["02_two"] and "Other words." in course.page("02_two.html")
    found = course.page("search-data.js")
    assert "Words of 01_one." in found and "Other words." in found
    course.add("02_two", text("# Two\n\nOther words."))  # its title stands on every page
    made.clear()
    assert course.run() == 0 and len(made) == 3
    (course.docs / "search-data.js").write_text("searchData([")  # damaged
    (course.docs / "01_one.html").unlink()
    made.clear()
    assert course.run() == 0 and len(made) == 3
    assert "Words of 01_one." in course.page("search-data.js")
    picture = course.docs / "img" / "02_two" / "x.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(b"new")
    made.clear()
    pages.finish(course.docs, execute.read_json(course.docs / "results.json"))
    assert made == ["02_two"]


def test_failing_cell_leaves_docs_untouched(course, capsys):
    course.add("01_one", text("# One"))
    assert course.run() == 0
    before = course.snapshot()
    course.add("01_one", text("# One, changed"))
    course.add("02_two", text("# Two"), code("x = 1"), code("x / 0"))
    (course.root / ".docs-new").mkdir()  # what a killed report left
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


def test_a_claim_that_does_not_hold_is_not_published(course, capsys, monkeypatch):
    course.add("01_one", text("# One"), code("print('✗ the sky is green')"))
    assert course.run() == 1 and not course.docs.exists()
    assert "01_one.ipynb, cell 2 (c02): ✗ the sky is green" in capsys.readouterr().err
    monkeypatch.setattr(vae_utils, "DATASET", "fashion")  # there a claim may fail, in sight
    course.add("01_one", text("# One: 5<!--net/a-->"), code("print('✗ the sky is green')"))
    assert course.run() == 0 and not course.docs.exists()
    page = (course.root / "build/fashion/01_one.md").read_text()
    assert "✗ the sky is green" in page and "# One: –" in page
    assert "5<!--net/a-->" in (course.root / "notebooks/01_one.ipynb").read_text()
    monkeypatch.setattr(vae_utils, "DATASET", "mnist")
    course.add("01_one", text("# One"), code("print('✗ not yet')", "check"))
    assert course.run() == 0


def test_other_pages_stay(course):
    course.add("01_one", text("# One"))
    course.add("06_six", text("# Six"), results_cell("06_six", {"n": {"k": 6}}))
    assert course.run("--all") == 0
    six = course.page("06_six.md")
    course.add("01_one", text("# One, better"))
    course.add("07_seven", text("# Seven"))
    assert course.run() == 0  # the core alone
    assert course.executed() == ["06_six"]
    assert json.loads(course.page("results.json"))["06_six"] == {"n": {"k": 6}}
    renewed = course.page("06_six.md")
    assert "[One, better](01_one.md)" in renewed and "seven" not in renewed
    assert re.sub("One, better", "One", renewed) == six
    (course.root / "notebooks/06_six.ipynb").unlink()
    assert course.run() == 0
    assert not (course.docs / "06_six.html").exists()


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


def damage(root, kind):
    if kind == "truncated":
        path = root / "notebooks/01_one.ipynb"
        path.write_text(path.read_text()[:60])
    elif kind == "empty":
        (root / "notebooks/01_one.ipynb").write_text("")
    elif kind == "results":
        (root / "docs").mkdir()
        (root / "docs/results.json").write_text('{"01_one": ')
    elif kind == "formula":
        path = root / "notebooks/01_one.ipynb"
        path.write_text(path.read_text().replace("# One", "# One $\\\\nonsense x$"))
    elif kind == "mark":
        path = root / "notebooks/01_one.ipynb"
        path.write_text(path.read_text().replace("# One", "# One 3<!--06_six:net/nothing-->"))
        (root / "docs").mkdir()
        (root / "docs/results.json").write_text('{"06_six": {"net": {"loss": 1}}}')


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", r"01_one.ipynb is not a notebook, or is damaged \(.*\)"),
        ("empty", r"01_one.ipynb is not a notebook, or is damaged \(.*\)"),
        ("results", r"docs/results.json is damaged \(.*\): restore or remove it"),
        ("formula", r"01_one: cannot draw \\nonsense x \(.*\)"),
        ("mark", r"01_one.ipynb: 3<!--06_six:net/nothing--> names no result"),
    ],
)
def test_damaged_things_are_one_line(course, capsys, kind, message):
    course.add("01_one", text("# One"))
    course.add("06_six", text("# Six"))
    damage(course.root, kind)
    before = course.snapshot()
    assert course.run() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(f"report: .*{message}", error)
    assert course.snapshot() == before


def test_a_full_disk_is_one_line(course, capsys, monkeypatch):
    course.add("01_one", text("# One"))

    def full(path, *_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(pages, "write", full)
    assert course.run() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("report: No space left on device (") and "docs/ is as it was" in error
    assert not course.docs.exists() and not list(course.root.glob(".docs*"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(course, capsys):
    course.add("01_one", text("# One"))
    course.root.chmod(0o555)
    try:
        assert course.run() == 1
    finally:
        course.root.chmod(0o755)
    assert "report: Permission denied" in capsys.readouterr().err


def test_one_report_at_a_time(course, capsys):
    course.add("01_one", text("# One"))
    assert course.run() == 0
    capsys.readouterr()
    with FileLock(course.root / "outputs/mnist/report.lock"):
        assert course.run() == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"report: another report is running since \d\d:\d\d on \d\d \w+\n", error)
    assert course.run() == 0  # the lock of a finished or killed report blocks nobody


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([code(PICTURE.replace("A black box", ""))], "cell 1: box has no alt text"),
        ([code(PICTURE), code(PICTURE)], ".*box.png"),
    ],
)
def test_unfit_for_print_is_an_error(course, capsys, cells, message):
    course.add("01_one", *cells)
    assert course.run() == 1
    assert re.search(f"01_one.*{message}", capsys.readouterr().err, re.S)
    assert not course.docs.exists()


def test_a_long_temporary_folder_is_no_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(execute.tempfile, "gettempdir", lambda: str(tmp_path / ("long" * 30)))
    with execute.kernel_manager() as manager:
        assert manager.transport == ("tcp" if os.name == "nt" else "ipc")
        folder = Path(manager.ip).parent
        assert len(manager.ip) < 95
    assert not folder.exists() or os.name == "nt"


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


def test_a_swap_that_fails_leaves_docs(course, monkeypatch):
    course.add("01_one", text("# One"))
    assert course.run() == 0
    rename = Path.rename

    def refuse(path, target):
        if path.name == ".docs-new":
            raise PermissionError(13, "in use", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    course.add("01_one", text("# Another"))
    assert course.run() == 1
    assert "One" in (course.docs / "01_one.md").read_text()


def test_a_notebook_that_changes_while_it_runs_is_not_published(course, capsys):
    edit = "import pathlib\nhere = pathlib.Path('01_one.ipynb')\n"
    edit += "here.write_text(here.read_text().replace('One', 'Two'))"
    course.add("01_one", text("# One"), code(edit))
    assert course.run() == 1
    assert "01_one.ipynb has changed while it ran" in capsys.readouterr().err
    assert not course.docs.exists()
    assert course.run() == 0
    assert "# Two" in course.page("01_one.md")


def test_a_swap_that_was_killed_is_mended(course):
    course.add("01_one", text("# One"))
    assert course.run() == 0
    course.docs.rename(course.root / ".docs-old")
    (course.root / "notebooks/01_one.ipynb").write_text("")
    assert course.run() == 1
    assert (course.docs / "01_one.html").exists()


# ---------------------------------------------------------------- marks


RESULTS = {
    "a": {"net": {"loss": 134.414, "count": 1133844, "gap": -0.3, "share": 78.2, "nan": None}},
    "b": {"x": {"y z": 2}},
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("136.47<!--net/loss-->", "134.41<!--net/loss-->"),
        ("**136<!--net/loss--> nats**", "**134<!--net/loss--> nats**"),
        ("1,000<!--net/count-->", "1,133,844<!--net/count-->"),
        ("1000<!--net/count-->", "1133844<!--net/count-->"),
        ("+1.2<!--net/loss-->, 2<!--b:x/y z-->", "+134.4<!--net/loss-->, 2<!--b:x/y z-->"),
        ("−0.1<!--net/gap--> 0<!--net/gap-->", "−0.3<!--net/gap--> 0<!--net/gap-->"),
        ("-0.1<!--net/gap-->", "-0.3<!--net/gap-->"),
        ("| 7 | 80<!--net/share--> % |", "| 7 | 78<!--net/share--> % |"),
        ("4.0<!--net/nan-->", "–<!--net/nan-->"),
        ("–<!--net/loss-->", "134<!--net/loss-->"),
    ],
)
def test_marks_take_the_numbers_of_the_run(before, after):
    assert marks.fill(before, "a", RESULTS) == after
    assert "<!--" not in marks.strip(after)


def test_marks_that_are_wrong_or_missing_are_found():
    wrong = page_checks.problems(
        "134.41<!--net/loss--> 136.47<!--net/loss--> 3<!--net/none--> and<!--net/loss-->; "
        "0.1, β = 0.001, `4.44`, $5.55$, 148.21 ([report A](references.ipynb#report-a))",
        "a",
        RESULTS,
    )
    assert wrong == [
        "136.47<!--net/loss--> should be 134.41",
        "3<!--net/none--> names no result",
        "<!--net/loss--> follows no number",
    ]
    assert page_checks.problems("It is 5.41 nats.", "a", RESULTS) == ["5.41 has no mark"]


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("git@github.com:someone/vae-course.git", "https://github.com/someone/vae-course"),
        ("ssh://git@github.com/someone/vae.git", "https://github.com/someone/vae"),
        ("https://user:secret@github.com/someone/vae.git", "https://github.com/someone/vae"),
        ("https://gitlab.com/group/sub/vae", "https://gitlab.com/group/sub/vae"),
        ("ssh://git@host.edu:2222/a/b.git", "https://host.edu/a/b"),
        ("/srv/course.git", ""),
        ("file:///srv/course.git", ""),
        ("", ""),
    ],
)
def test_addresses(url, clean):
    assert address.clean(url) == clean


def test_address_is_written_and_taken_away(course, capsys, monkeypatch):
    setup = code('import sys\nCOURSE = ""  # written by make address\n', "setup")
    path = course.add("01_one", text("# One\n\nFirst words."), setup)
    readme = course.root / "README.md"
    readme.write_text("Hi\n<!-- address:start -->\n<!-- address:end -->\n")
    before = path.read_bytes(), readme.read_bytes()
    for _ in range(2):  # twice is as good as once
        assert address.main(["git@github.com:me/vae.git"], root=course.root) == 0
    notebook = nbformat.read(path, 4)
    assert 'COURSE = "https://github.com/me/vae"  # written' in notebook.cells[1].source
    top = notebook.cells[0].source
    assert top.count("[![Open in Colab](") == top.count("[![Open in Kaggle](") == 1
    assert "github/me/vae/blob/main/notebooks/01_one.ipynb)" in top
    assert top.startswith("# One\n\n[![") and top.endswith(")\n\nFirst words.")
    assert "https://github.com/me/vae" in readme.read_text()
    page = export.host(top)
    assert "[Open in Colab](https://colab" in page and "![" not in page  # links, no images
    assert address.main(["https://gitlab.com/me/vae"], root=course.root) == 0
    assert "[![" not in path.read_text()  # neither service opens notebooks from there
    assert address.main(["https://github.com/me/vae", "colab"], root=course.root) == 0
    assert "github/me/vae/blob/colab/notebooks/01_one.ipynb)" in path.read_text()
    kept = path.read_bytes()
    assert address.main(["nonsense"], root=course.root) == 1
    monkeypatch.setattr(address, "remote", str)  # git has no origin, or is not there
    assert address.main([], root=course.root) == 1
    assert "URL=" in capsys.readouterr().err
    assert path.read_bytes() == kept  # nothing is taken away unasked
    assert address.main(["none"], root=course.root) == 0
    assert (path.read_bytes(), readme.read_bytes()) == before


def test_address_reaches_the_pages_and_makes_none_stale(course):
    path = course.add("01_one", text("# One\n\nFirst words."), code('COURSE = ""', "setup"))
    docs = course.root / "docs"
    docs.mkdir(exist_ok=True)
    for name, title in (("index", "All"), ("01_one", "One")):
        (docs / f"{name}.md").write_text(f"<!-- from sha256 abc; -->\n\n# {title}\n\nWords.\n")
    (docs / "results.json").write_text('{"01_one": {"a": 1}}')
    (course.root / "README.md").write_text("Hi\n")
    before = execute.page_hash(nbformat.read(path, 4)), (docs / "01_one.md").read_text()
    address.main(["git@github.com:me/vae.git"], root=course.root)
    for page in (docs / "01_one.md", docs / "01_one.html"):
        assert "colab.research.google.com/github/me/vae/blob/main" in page.read_text(), page
    assert "Colab" not in (docs / "index.md").read_text()
    assert execute.page_hash(nbformat.read(path, 4)) == before[0]
    address.main(["none"], root=course.root)
    assert "Colab" not in (docs / "01_one.html").read_text()
    assert re.sub(r"<!-- nav -->.*\n\n", "", (docs / "01_one.md").read_text()) == before[1]


@pytest.mark.skipif(not shutil.which("git"), reason="no git")
def test_address_asks_git(course, monkeypatch):
    monkeypatch.setattr(address, "ROOT", course.root)
    assert address.remote() == "" or "://" in address.remote()
    subprocess.run(["git", "init", "-q", course.root], check=True)
    command = ["git", "-C", course.root, "remote", "add", "origin", "git@github.com:me/x.git"]
    subprocess.run(command, check=True)
    assert address.clean(address.remote()) == "https://github.com/me/x"


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
        ("![a](../docs/img/x/y.png)", "![a](img/x/y.png)"),
    ],
)
def test_markdown_for_code_hosts(source, expected):
    assert export.host(source) == expected


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
    drawn = pages.Renderer("x").math(tex, display=True)
    assert drawn.count("<m") > 3 and "merror" not in drawn


@pytest.mark.parametrize("tex", [r"\foo x", r"\frac{1", r"x \Bigg\nothing y"])
def test_bad_formulas_are_refused(tex):
    with pytest.raises(execute.ReportError, match="cannot draw"):
        pages.Renderer("x").math(tex)
