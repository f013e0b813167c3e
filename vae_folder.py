"""A folder of your own images as a data set: grey squares of 28 x 28 pixels, a class a sub-folder.

Nothing is written into the folder. It is read once in a process: restart Python after a change.
"""

import functools
import hashlib
import math
import os
import re
import warnings
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

FEWEST = 10  # images; with fewer, nothing would be left to validate and to test on
THREADS = min(8, os.cpu_count() or 1)


class Pictures(NamedTuple):
    """What is in a folder, file by file in the order of their names."""

    images: np.ndarray  # (N, 1, 28, 28) uint8
    labels: np.ndarray  # (N,) int64, places in names
    names: list  # of the classes
    digest: str  # changes with any pixel and any label


def find_folder(name):
    """The folder that ``name`` means, as an absolute path, or None.

    A relative name starts from the current directory, or from the folder of this file: notebooks
    and shell find the same one.
    """
    for start in (os.getcwd(), os.path.dirname(os.path.abspath(__file__))):
        folder = os.path.join(start, os.path.expanduser(name))
        if os.path.isdir(folder):  # False also for what nobody may look at, or no name can be
            return os.path.realpath(folder)
    return None


def read_folder(folder):
    """The Pictures in a folder.

    Its sub-folders are the classes; images beside them, or all where there are none, are of class
    "". Files whose names start with a dot are left alone, and so are those without an image's
    suffix; files that cannot be read are named and left out. Where the border of the images is
    light, as on paper, all are inverted, so that things are light on dark as in MNIST; VAE_INVERT=0
    or 1 decides it. Raises FileNotFoundError where there is no folder, or hardly an image in it.
    """
    return _read(str(folder), os.environ.get("VAE_INVERT", ""))


@functools.cache
def _read(folder, invert):
    if invert not in ("", "0", "1"):
        raise ValueError(f"VAE_INVERT={invert!r} is not known: choose 0 or 1.")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"the folder {folder} is not there: check its name, and run again.")
    paths, title = _find_images(folder), os.path.basename(folder)
    images, good = _read_files(paths, title)
    bad = [os.path.relpath(path, folder) for path, fine in zip(paths, good) if not fine]
    if bad:
        few = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
        print(f"{title}: {len(bad)} of {len(paths)} files cannot be read and are left out ({few})")
    if good.sum() < FEWEST:
        message = f"{folder} holds {good.sum()} images that can be read, and a data set needs "
        message += f"{FEWEST}: put more there (PNG, JPEG, …), a sub-folder for each class, if any."
        raise FileNotFoundError(message)
    parts = [Path(path).relative_to(folder).parts for path, fine in zip(paths, good) if fine]
    classes = [part[0] if len(part) > 1 else "" for part in parts]
    names, labels = np.unique(classes, return_inverse=True)
    images = images[good] if bad else images
    how = "as they are"
    if invert == "1" or (invert == "" and _border_is_light(images)):
        np.subtract(255, images, out=images)
        how = "inverted" + ("" if invert else ": their border is light (VAE_INVERT=0 keeps it so)")
    kinds = "one class" if len(names) == 1 else f"{len(names)} classes"
    print(f"{title}: {len(images):,} images of {kinds}, {how}")
    labels, digest = labels.astype(np.int64), hashlib.sha256(images)
    digest.update(labels)
    return Pictures(images[:, None], labels, names.tolist(), digest.hexdigest()[:12])


def _find_images(folder):
    """Paths of the files below a folder that by their names are images, in order."""
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    paths = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [name for name in files if not name.startswith(".")]
        paths += [
            os.path.join(place, name)
            for name in shown
            if os.path.splitext(name)[1].lower() in known
        ]
    return sorted(paths)


def _read_files(paths, title):
    """The images in files, (N, 28, 28) uint8, and which of them could be read, (N,) booleans."""
    images, good = np.empty((len(paths), 28, 28), np.uint8), np.zeros(len(paths), bool)
    with warnings.catch_warnings(), ThreadPool(THREADS) as pool:
        warnings.simplefilter("ignore")  # Pillow's, on odd files
        found = pool.imap(_try_to_read, paths, chunksize=16)  # in the order of the paths
        bar = tqdm(found, desc=title, total=len(paths), unit=" images", delay=1)
        for i, image in enumerate(bar):
            if image is not None:
                images[i], good[i] = image, True
    return images, good


def read_image(path):
    """A file as an image (28, 28) uint8, by way of the largest square in its middle.

    Upright, as the camera noted. What is transparent shows white, as on a page; of several frames
    the first is taken. Raises what Pillow raises where it cannot read the file, or where the file
    has more than some 180 million pixels.
    """
    with Image.open(path) as image:
        image.draft("L", (112, 112))  # a large JPEG is decoded at a fraction of its size: faster
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":  # 16 bits a pixel; F: fractions
            white = 1 if image.mode == "F" else 65535
            greys = np.asarray(image, np.float32) * (255 / white)
            image = Image.fromarray(greys.round().clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        # BOX: a new pixel is the mean of the pixels that it covers
        return np.asarray(ImageOps.fit(image.convert("L"), (28, 28), Image.Resampling.BOX))


def _try_to_read(path):
    try:
        return read_image(path)
    except Exception:  # Pillow's plugins raise many kinds
        return None


def _border_is_light(images):
    """Is the border of images (N, 28, 28) lighter than middle grey, and than what it encloses?"""
    mean, inside = images.mean(0), np.zeros((28, 28), bool)
    inside[1:-1, 1:-1] = True
    return mean[~inside].mean() > max(127.5, mean[inside].mean())


def split_test(labels):
    """Places of the training images and of the test images, each in a mixed order.

    Of each class a seventh is for testing, as in MNIST, and at least one image where there are two.
    The same files give the same split, whatever the seed of a run.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        test[own[: math.ceil((len(own) - 1) / 7)]] = True
    if not test.any():  # every image a class of its own
        test[order[: math.ceil(len(order) / 7)]] = True
    return order[~test[order]], order[test[order]]


def folder_name(folder):
    """The name under outputs/ for runs on a folder of images: cats-3fa2b1 for one called cats."""
    title = re.sub(r"[^\w-]", "", os.path.basename(folder)) or "images"
    return f"{title}-{hashlib.sha256(str(folder).encode()).hexdigest()[:6]}"
