"""The notebooks as they are stored, and each of them run in FAST mode: alone, and all in order."""

import ast
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import vae_utils

ROOT = Path(__file__).resolve().parent.parent
CORE = ["01_data", "02_model", "03_training", "04_evaluation", "05_latent_exploration"]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHAPTERS = [path for path in PATHS if path.stem not in ("index", "references")]
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def cells_of(path, kind="code", tag=None):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]
    return [c for c in cells if tag is None or tag in c.metadata.get("tags", [])]


# ---------------------------------------------------------------- as stored


def test_the_course_is_complete():
    extra = ["06_experiments", "07_from_scratch", "08_under_the_hood", "09_likelihood"]
    extra += ["10_pitfalls", "11_applications", "fashion"]
    assert [path.stem for path in CHAPTERS] == CORE + extra


@each_notebook
def test_stored_clean(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    nbformat.validate(notebook)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert [c["id"] for c in notebook["cells"]] == [
        f"c{number:02d}" for number in range(1, len(notebook["cells"]) + 1)
    ]
    for cell in notebook["cells"]:
        about = dict(cell["metadata"])
        tags = set(about.pop("tags", []))
        if tags & {"results", "check"}:  # what is kept for the report, what knows an answer
            assert about.pop("jupyter") == {"source_hidden": True}, cell["id"]
        if "check" in tags:
            assert about.pop("cellView") == "form", cell["id"]  # folded in Colab, under its title
        assert about == {}, cell["id"]
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not re.search(r"/home/|/root/|/tmp/|/Users/", text)


@each_chapter
def test_setup_and_imports_are_short_and_the_setup_is_the_same_everywhere(path):
    setup, imports = cells_of(path)[:2]
    assert setup.metadata.tags == ["setup"] and imports.metadata.tags == ["imports"]
    assert setup.source == cells_of(CHAPTERS[0])[0].source
    assert len(setup.source.splitlines()) <= 7
    assert len(imports.source.splitlines()) <= 10


@each_chapter
def test_built_as_the_others(path):
    prose = cells_of(path, "markdown")
    title = prose[0].source.splitlines()[0]
    number = rf"{path.stem[:2]} · " if path.stem[0] in "0123456789" else ""
    assert re.match(rf"# {number}\S", title), title
    kept = cells_of(path, tag="results")[-1]
    assert re.search(rf'save_results\(\s*"{path.stem}"', kept.source)
    text = "\n".join(cell.source for cell in prose)
    assert "learned" in text and "\n## Read on" in "\n" + text
    for target in re.findall(r"\]\((\w+\.ipynb)", text):
        assert (path.parent / target).exists(), target
    if path.stem in CORE[:-1]:
        assert f"]({CORE[CORE.index(path.stem) + 1]}.ipynb)" in text


@each_chapter
def test_sentences_are_written_in_markdown(path):
    for cell in cells_of(path):
        assert "prose" not in cell.metadata.get("tags", [])
        assert not re.search(r"show_source|Markdown\(\s*f?\"|import \*", cell.source), cell.id


@each_chapter
def test_each_figure_has_its_caption_below(path):
    cells = nbformat.read(path, as_version=4).cells
    names = []
    for cell, below in zip(cells, [*cells[1:], None]):
        found = re.findall(r"figures\.show\(.*?\"([a-z0-9-]+)\",", cell.source, re.S)
        if cell.cell_type == "code" and found:
            names += found
            assert below.cell_type == "markdown", cell.id
            assert below.source.startswith("**Figure.** "), below.id
    assert len(names) == len(set(names))


@each_chapter
def test_exercises_can_be_answered(path):
    exercises = exercises_of(nbformat.read(path, as_version=4))
    assert len(exercises) >= 3
    for cell, check, _ in exercises:
        assert re.search(r"^answer = \.\.\.", cell.source, re.M), cell.id
        assert "check_answer" not in cell.source, cell.id  # how it is computed would be told
        assert check.metadata.tags == ["check"], check.id
        assert check.source.startswith("# @title Check your answer\n"), check.id
        assert "vae.check_answer(answer, " in check.source, check.id
    unsolved = 1 if path.stem == "02_model" else 0  # there one is to write a better network
    assert [answer for *_, answer in exercises].count(None) == unsolved


def exercises_of(notebook):
    """Each cell to answer in, its check, and the line or lines of its solution, if it has any."""
    found, cells = [], notebook.cells
    for cell, check, solution in zip(cells, cells[1:], cells[2:]):
        if "exercise" in cell.metadata.get("tags", []):
            assert solution.source.startswith("<details><summary>Solution</summary>"), cell.id
            blocks = re.findall(r"^```python\n(.*?)```", solution.source, re.S | re.M)
            lines = re.findall(r"`(answer = [^`]+)`", solution.source)
            answers = [code for code in blocks + lines if re.search(r"^answer = ", code, re.M)]
            found.append((cell, check, answers[0] if answers else None))
    return found


LATER = {"09_likelihood": 625, "10_pitfalls": 400, "11_applications": 445}  # lines of code


def test_cells_are_small():
    lengths = {
        (path.stem, cell.id): len(cell.source.splitlines())
        for path in CHAPTERS
        for cell in cells_of(path)
    }
    assert sum(n for (chapter, _), n in lengths.items() if chapter not in LATER) <= 2900
    for later, most in LATER.items():
        assert sum(n for (chapter, _), n in lengths.items() if chapter == later) <= most, later
    assert statistics.median(lengths.values()) <= 6
    assert {where: n for where, n in lengths.items() if n > 25} == {}
    assert sum(n > 15 for n in lengths.values()) < 0.1 * len(lengths)


# What Colab has, of all that we import (github.com/googlecolab/backend-info, August 2026): nothing
# is installed there. dask's scheduler comes with the machines that have a GPU.
COLAB = {"IPython", "PIL", "dask", "filelock", "joblib", "matplotlib", "numpy", "pandas", "scipy"}
COLAB |= {"sklearn", "torch", "torchvision", "tqdm"}


def test_colab_has_all_that_is_imported():
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("vae_*.py")]
    sources += [path.read_text(encoding="utf-8") for path in ROOT.glob("explorer/*.py")]
    for path in CHAPTERS:
        others = [c for c in cells_of(path) if "setup" not in c.metadata.get("tags", [])]
        sources += [cell.source for cell in others]  # setup asks a shell for git: no Python
    found = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    ours = {path.stem for path in ROOT.glob("vae_*.py")} | {"explorer"}
    assert found - ours - sys.stdlib_module_names <= COLAB
    assert "torch" in found


# ---------------------------------------------------------------- code equal to the module


def definitions(source):
    """{"name" or "Class.method": code without docstring and comments} of a file or a cell."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = ""
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            found |= {f"{node.name}.{part.name}": part for part in methods}
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = node
    for name, node in found.items():
        if node:
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
            found[name] = ast.unparse(node)
    return found


TAUGHT = {
    "02_model": ["Encoder", "Decoder", "VAE", "reconstruction_loss", "kl_divergence", "elbo"],
    "03_training": ["train_one_epoch", "evaluate"],
    "06_experiments": ["train_classifier", "FrechetDistance", "mixture_of_codes"],
    "08_under_the_hood": ["orthogonal", "Muon"],
    "09_likelihood": ["Mixture", "Coupling", "Flow", "objective", "gauss_loss"],
}


@pytest.mark.parametrize("chapter", TAUGHT)
def test_taught_code_equals_the_module(chapter):
    module = {}
    for file in ("vae_utils.py", "vae_samples.py", "vae_likelihood.py"):
        module |= definitions((ROOT / file).read_text(encoding="utf-8"))
    cells = [c.source for c in cells_of(ROOT / f"notebooks/{chapter}.ipynb", tag="module")]
    taught = {}
    for cell in cells:
        taught |= definitions(cell)
    for name, code in taught.items():
        assert code == module[name], name
    for name in TAUGHT[chapter]:
        assert name in taught
        whole = {key for key in module if key.startswith(f"{name}.")}
        assert whole <= set(taught), f"{name} is not whole"


# ---------------------------------------------------------------- as run


def clone(folder):
    """A fresh copy of what the notebooks need, without outputs; data stay where they are."""
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "node_modules")
    for name in ("notebooks", "report", "explorer", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("*.txt")]:
        shutil.copy(path, folder)
    return folder


def environment():
    """FAST, with nothing that points to this checkout but the data."""
    data = os.environ.get("VAE_DATA_DIR", str(ROOT / "data"))
    env = os.environ | {"VAE_FAST": "1", "VAE_DATA_DIR": data}
    return {k: v for k, v in env.items() if k not in ("PYTHONPATH", "VAE_OUT_DIR", "MPLBACKEND")}


def execute(sources, folder, env=None):
    """Run pieces of code as the cells of a notebook that lies in a folder."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, resources={"metadata": {"path": str(folder)}})
    return client.execute(env=env or environment())


def run_in_order(folder):
    command = [sys.executable, "-m", "report", *CORE]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, encoding="utf-8"
    )


def run_alone(folder, name):
    """A notebook with the solutions in place of the blanks (in the report blanks are run)."""
    path = folder / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    for cell, _, answer in exercises_of(notebook):
        blank = re.search(r"^answer = \.\.\..*", cell.source, re.M)[0]
        cell.source = cell.source.replace(blank, answer)
    resources = {"metadata": {"path": str(path.parent)}}
    return NotebookClient(notebook, resources=resources).execute(env=environment())


LONG = ["06", "08", "09", "11"]  # they start first


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All runs as (folder, future) by name, three at a time; each test waits for its own."""
    vae_utils.load_dataset("mnist")
    names = [path.stem for path in CHAPTERS]
    try:
        vae_utils.load_dataset("fashion")
    except OSError:
        names.remove("fashion")
    base = tmp_path_factory.mktemp("clones")
    with ThreadPoolExecutor(3) as pool:
        folder = clone(base / "in-order")
        started = {"in-order": (folder, pool.submit(run_in_order, folder))}
        for name in sorted(names[3:], key=lambda name: name[:2] not in LONG):
            folder = clone(base / name)
            started[name] = folder, pool.submit(run_alone, folder, name)
        yield started
        pool.shutdown(cancel_futures=True)


# What checks say of the solutions; of one that is right of all the images only, anything: "."
SOLVED = {"05_latent_exploration": "✓.✓", "06_experiments": "✓.✓", "10_pitfalls": "✓✓✓."}
SOLVED["fashion"] = ".✓.✓"


def check_run(notebook, folder, name, said="○+"):
    """Every cell has run, nothing failed or warned, exercises are marked, numbers are kept."""
    marks = ""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        printed = ""
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            if output.get("name") == "stderr":  # progress bars are all that may be there
                assert not re.search(r"Warning|Error|Traceback", output.text), cell.id
            if output.get("name") == "stdout":  # one print may come in two pieces
                printed += output.text
        if "check" in cell.metadata.get("tags", []):
            marks += printed[0]
    assert re.fullmatch(said, marks), marks
    outputs = folder / "outputs" / "fast" / "mnist"
    results = json.loads((outputs / "results" / f"{name}.json").read_text())
    assert results

    def numbers(value):
        if not isinstance(value, dict):
            return [value]
        return [number for part in value.values() for number in numbers(part)]

    assert all(math.isfinite(n) for n in numbers(results) if isinstance(n, (int, float)))


@pytest.mark.parametrize("path", CHAPTERS[3:], ids=lambda path: path.stem)
def test_runs_alone_in_a_fresh_clone(runs, path):
    """All but the first three, which in their order find nothing that another one left."""
    if path.stem not in runs:
        pytest.skip("Fashion-MNIST is not to be had here")
    folder, future = runs[path.stem]
    check_run(future.result(), folder, path.stem, SOLVED.get(path.stem, "✓+"))


def test_the_core_course_runs_in_order(runs):
    folder, future = runs["in-order"]
    done = future.result()
    assert done.returncode == 0, done.stderr
    for name in CORE:
        executed = folder / "outputs" / "fast" / "mnist" / "executed" / f"{name}.ipynb"
        check_run(nbformat.read(executed, as_version=4), folder, name)
        assert (folder / "build" / "fast" / "mnist" / f"{name}.html").exists()
    results = json.loads((folder / "build" / "fast" / "mnist" / "results.json").read_text())
    assert set(CORE) <= set(results)
    assert not (folder / "docs").exists()  # a FAST build never touches docs/


def test_setup_in_colab_fetches_the_course(tmp_path):
    """No checkout beside the notebook, a fake google.colab, a repository at a file:// address."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    course = clone(tmp_path / "course.git")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "course"]):
        subprocess.run([*git, *arguments], cwd=course, check=True)
    (tmp_path / "fake" / "google" / "colab").mkdir(parents=True)
    for place in ("google", "google/colab"):
        (tmp_path / "fake" / place / "__init__.py").touch()
    content = tmp_path / "content" / "here"
    content.mkdir(parents=True)
    setup = cells_of(CHAPTERS[0])[0].source
    filled = setup.replace('COURSE = ""', f'COURSE = "{course.as_uri()}"')
    assert filled != setup
    env = environment() | {"PYTHONPATH": str(tmp_path / "fake")}
    probe = "import google.colab\nimport vae_utils as vae\nprint(vae.ROOT)"
    done = execute([filled, probe], content, env)
    assert done.cells[1].outputs[0].text.strip() == str(content / "course")


# ---------------------------------------------------------------- the student edits a class

EDIT = "def forward(self, z):\n        return self.body(z)"
TRAIN = """
config = vae.Config("mine", hidden=(32,), epochs=2)
run = vae.fit(config, VAE(config))
print(run.out_dir.name, type(run.model.decoder).__module__, len(run.history))
"""
LOAD = """
config = vae.Config("mine", hidden=(32,), epochs=2)
again = vae.fit(config, VAE(config))
print(again.out_dir.name, again.history[-1]["val_loss"] == {loss})
"""


def test_an_edited_decoder_is_what_trains(tmp_path):
    folder = clone(tmp_path / "course")
    path = folder / "notebooks" / "02_model.ipynb"
    cells = [*cells_of(path)[:2], *cells_of(path, tag="module")]
    plain = [cell.source for cell in cells]
    edited = [source.replace(EDIT, EDIT.replace("return", "return 2 *")) for source in plain]
    (change,) = [b for a, b in zip(plain, edited) if a != b]
    done = execute([*plain, TRAIN, change, TRAIN], path.parent)  # edited, and run again
    names = []
    for cell in (done.cells[-3], done.cells[-1]):
        text = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")
        name, module, epochs = text.split()
        assert (module, epochs) == ("__main__", "2")
        names.append(name)
    assert names[0] != names[1]  # each in a folder of its own
    run = folder / "outputs" / "fast" / "mnist" / names[1]
    assert (run / "ep002_d_latent2d.png").exists() and (run / "report.md").exists()
    loss = float((run / "history.csv").read_text().splitlines()[-1].split(",")[4])
    done = execute([*edited, LOAD.format(loss=loss)], path.parent)  # a fresh kernel
    text = "".join(o.text for o in done.cells[-1].outputs if o.get("name") == "stdout")
    assert text.split() == [names[1], "True"]
