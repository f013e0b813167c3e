"""The notebooks as they are stored, and each of them run in FAST mode: alone, and all in order."""

import json
import math
import os
import re
import shutil
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
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells_of(path, kind):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


# ---------------------------------------------------------------- as stored


def test_the_core_course_is_complete():
    assert [path.stem for path in PATHS[:5]] == CORE


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
        assert set(cell["metadata"]) <= {"tags"}, cell["id"]
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not re.search(r"/home/|/root/|/tmp/|/Users/", text)


@each_notebook
def test_setup_cell_is_the_same_everywhere(path):
    first = cells_of(path, "code")[0]
    assert first.metadata.get("tags") == ["setup"]
    assert first.source == cells_of(PATHS[0], "code")[0].source


@each_notebook
def test_built_as_the_others(path):
    code, prose = cells_of(path, "code"), cells_of(path, "markdown")
    title = prose[0].source.splitlines()[0]
    number = rf"{path.stem[:2]} · " if path.stem[0] in "0123456789" else ""
    assert re.match(rf"# {number}\S", title), title
    assert re.search(rf'save_results\(\s*"{path.stem}"', code[-1].source)
    assert not any(re.search(r"^\s*from \S+ import \*", cell.source, re.M) for cell in code)
    text = "\n".join(cell.source for cell in prose)
    assert len(re.findall(r"<details>\s*<summary>Solution", text)) >= 2
    assert "learned" in text
    for target in re.findall(r"\]\((\w+\.ipynb)", text):
        assert (path.parent / target).exists(), target
    if path.stem in CORE[:-1]:
        assert f"]({CORE[CORE.index(path.stem) + 1]}.ipynb)" in text


# ---------------------------------------------------------------- as run


def clone(folder):
    """A fresh copy of what the notebooks need, without outputs; data stay where they are."""
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("notebooks", "report"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    return folder


def environment():
    """FAST, with nothing that points to this checkout but the data."""
    data = os.environ.get("VAE_DATA_DIR", str(ROOT / "data"))
    env = os.environ | {"VAE_FAST": "1", "VAE_DATA_DIR": data}
    return {k: v for k, v in env.items() if k not in ("PYTHONPATH", "VAE_OUT_DIR", "MPLBACKEND")}


def run_in_order(folder):
    command = [sys.executable, "-m", "report", *CORE]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, encoding="utf-8"
    )


def run_alone(folder, name):
    path = folder / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    return NotebookClient(notebook, resources=resources).execute(env=environment())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All runs as (folder, future) by name, two at a time; each test waits for its own."""
    vae_utils.load_dataset("mnist")
    names = [path.stem for path in PATHS]
    try:
        vae_utils.load_dataset("fashion")
    except FileNotFoundError:
        names.remove("fashion")
    base = tmp_path_factory.mktemp("clones")
    with ThreadPoolExecutor(2) as pool:
        folder = clone(base / "in-order")
        started = {"in-order": (folder, pool.submit(run_in_order, folder))}
        for name in reversed(names[1:]):
            folder = clone(base / name)
            if name == "05_latent_exploration":  # alone without UMAP, in order with it
                (folder / "umap.py").write_text("raise ImportError")
            started[name] = folder, pool.submit(run_alone, folder, name)
        yield started
        pool.shutdown(cancel_futures=True)


def without_umap(notebook):
    """Does a cell say that it goes on without UMAP?"""
    return "UMAP is left out here" in str([cell.get("outputs") for cell in notebook.cells])


def check_run(notebook, folder, name):
    """Every cell has run, nothing failed or warned, and the numbers are kept."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error", cell.id
            if output.get("name") == "stderr":  # progress bars are all that may be there
                assert not re.search(r"Warning|Error|Traceback", output.text), cell.id
    outputs = folder / "outputs" / "fast" / "mnist"
    results = json.loads((outputs / "results" / f"{name}.json").read_text())
    assert results

    def numbers(value):
        if not isinstance(value, dict):
            return [value]
        return [number for part in value.values() for number in numbers(part)]

    assert all(math.isfinite(n) for n in numbers(results) if isinstance(n, (int, float)))


@pytest.mark.parametrize("path", PATHS[1:], ids=lambda path: path.stem)
def test_runs_alone_in_a_fresh_clone(runs, path):
    """All but the first, which is alone when the run in order begins."""
    if path.stem not in runs:
        pytest.skip("Fashion-MNIST is not to be had here")
    folder, future = runs[path.stem]
    notebook = future.result()
    check_run(notebook, folder, path.stem)
    assert (folder / "umap.py").exists() == without_umap(notebook)


def test_the_core_course_runs_in_order(runs):
    folder, future = runs["in-order"]
    done = future.result()
    assert done.returncode == 0, done.stderr
    for name in CORE:
        executed = folder / "outputs" / "fast" / "mnist" / "executed" / f"{name}.ipynb"
        notebook = nbformat.read(executed, as_version=4)
        check_run(notebook, folder, name)
        assert not without_umap(notebook)
        assert (folder / "build" / f"{name}.html").exists()
    places = [done.stderr.index(f"] {name} …") for name in CORE]
    assert places == sorted(places)
    assert set(CORE) <= set(json.loads((folder / "build" / "results.json").read_text()))
    assert not (folder / "docs").exists()  # a FAST build never touches docs/
