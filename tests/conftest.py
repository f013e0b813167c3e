"""What all tests share: a clean environment, tiny data in MNIST's format, tiny configs."""

import gc
import hashlib
import os
import signal
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
for variable in ("VAE_FAST", "VAE_DATASET", "VAE_OUT_DIR"):  # tests set what they need
    os.environ.pop(variable, None)
os.environ["MPLBACKEND"] = "Agg"
os.environ["PYTHONUTF8"] = "1"  # what other processes print is read as UTF-8
os.environ["OMP_NUM_THREADS"] = "1"  # tiny matrices; threads that wait for each other cost more
# For this process and for those that tests start:
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "tests")))

# Tests press Ctrl-C, which a background process ignores unless it is told not to.
signal.signal(signal.SIGINT, signal.default_int_handler)

import vae_data  # noqa: E402

AXE = ROOT / "tests" / "node_modules" / "axe-core" / "axe.min.js"
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="no axe-core: run npm ci in tests/")


def axe_finds(page):
    """What axe-core finds wrong with an open page, as (rule, first element)."""
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(content=AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document)")["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found]


TINY = {"hidden": (32,), "batch_size": 50, "val_fraction": 0.2, "precision": "float32"}


@pytest.fixture(autouse=True)
def own_outputs(tmp_path, monkeypatch):
    """No test writes into the outputs of the checkout."""
    monkeypatch.setenv("VAE_OUT_DIR", str(tmp_path / "outputs"))


def idx_files(n_train=300, n_test=60):
    """The four files of a tiny set: a bright blob where the class says; no two images alike."""
    files = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        random = np.random.default_rng(n)
        labels = np.arange(n, dtype=np.uint8) % 10
        images = random.integers(0, 60, (n, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels):
            row, column = 4 + 10 * (label // 5), 2 + 5 * (label % 5)
            image[row : row + 8, column : column + 4] += 180
        header = struct.pack(">iiii", 2051, n, 28, 28)
        files[f"{part}-images-idx3-ubyte"] = header + images.tobytes()
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">ii", 2049, n) + labels.tobytes()
    return files


@pytest.fixture
def tiny_files(monkeypatch):
    """The bytes of a tiny data set, whose digests stand in for those of both real sets."""
    files = idx_files()
    digests = " ".join(hashlib.md5(files[name]).hexdigest() for name in vae_data.DATA_FILES)
    monkeypatch.setattr(vae_data, "MD5", {"mnist": digests, "fashion": digests})
    return files


@pytest.fixture
def tiny_data(tiny_files, tmp_path, monkeypatch):
    """The tiny set in place, as MNIST and as Fashion-MNIST; returns the data folder."""
    for folder in vae_data.DATA_FOLDERS.values():
        raw = tmp_path / "data" / folder / "raw"
        raw.mkdir(parents=True)
        for name, content in tiny_files.items():
            (raw / name).write_bytes(content)
    monkeypatch.setenv("VAE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def tiny_config():
    """Makes a Config that trains in a blink."""

    def make(name="tiny", **changes):
        import vae_utils  # here, so that the process that only hands out tests needs no torch

        return vae_utils.Config(name, **(TINY | {"epochs": 3} | changes))

    return make


SLOW = [
    "test_notebooks", "test_training", "test_browser", "test_explorer", "test_lab", "test_report",
    "test_pages", "test_data", "test_experiments", "test_cli", "test_benchmarks", "test_likelihood",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    """Slow files first, so that no process is left with a long one at the end."""
    items.sort(key=lambda item: (SLOW + [item.path.stem]).index(item.path.stem))


def pytest_collection_finish(session):
    """What was imported stays: fit, which collects garbage, need not look at it again."""
    gc.collect()
    gc.freeze()
