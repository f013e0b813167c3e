"""The lab: a page in which the reader trains a VAE. ``lab()`` shows it; it needs no trained run.

4,000 images to train on and 768 to measure on travel in the page, in 16 grey levels: two pixels to
a byte, compressed, in base64. The network is src/nn.js, its trainer src/worker.js.
"""

import base64
import functools
import gzip
from pathlib import Path

import numpy as np

from explorer.page import assemble, frame, join_modules
from vae_data import CLASS_NAMES, get_files
from vae_figures import COLORS

HERE = Path(__file__).parent
SRC = HERE / "src"
TRAIN, HELD_OUT = 4000, 768  # HELD_OUT as in lab-settings.js
WORKER = ["nn.js", "lab-settings.js", "worker.js"]
PAGE = ["shared.js", "lab-settings.js", "lab-draw.js", "lab-measures.js", "lab.js"]
ALT = (
    "A VAE in training: the codes of 768 images on the plane, in the colours of their classes,"
    " before the decoded pictures of the plane; six images and their reconstructions, six"
    " samples, and curves of loss, reconstruction and KL."
)


def _base64(data):
    return base64.b64encode(data).decode()


def _pack(name):
    """Images, labels and names of a data set, as lab.js reads them."""
    raw = get_files(name)
    count = TRAIN + HELD_OUT
    images = np.fromfile(raw / "train-images-idx3-ubyte", np.uint8, count * 784, offset=16)
    labels = np.fromfile(raw / "train-labels-idx1-ubyte", np.uint8, count, offset=8)
    images, labels = np.resize(images, count * 784), np.resize(labels, count)  # few? they repeat
    held = np.arange(TRAIN, count)
    first = [held[labels[held] == label][0] for label in (0, 2, 3, 5, 7, 9)]  # six of six classes
    order = np.concatenate([np.arange(TRAIN), first, np.setdiff1d(held, first)])
    greys = np.rint(images.reshape(count, 784)[order] / 17).astype(np.uint8)
    packed = greys[:, ::2] << 4 | greys[:, 1::2]
    return {
        "images": _base64(gzip.compress(packed.tobytes(), 9, mtime=0)),
        "labels": labels[order][TRAIN:].tolist(),
        "names": CLASS_NAMES[name],
    }


@functools.cache
def page():
    """The whole page as text; without garments where their files cannot be had."""
    datasets = {"digits": _pack("mnist")}
    try:
        datasets["fashion"] = _pack("fashion")
    except OSError as error:
        print(f"The lab goes without garments: {error}")
    data = {
        "datasets": datasets,
        "colors": COLORS,
        "wasm": _base64((SRC / "nn.wasm").read_bytes()),
        "worker": join_modules([SRC / name for name in WORKER]),
    }
    return assemble(HERE / "lab.html", [SRC / name for name in PAGE], data)


def lab():
    """Displays the lab in a frame."""
    frame(page(), page="lab.html", alt=ALT, still=HERE / "lab.png", height=1500)
