"""A folder of one's own images: what is read, how, how it is split, and a run on it."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

import vae_figures
import vae_folder
import vae_shell
import vae_utils
from report.__main__ import main as report
from vae_data import class_names, find_dataset
from vae_folder import find_folder, folder_name, read_folder, read_image, split_test
from vae_utils import Config, fit, get_dataloaders, load_dataset


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Nothing read before, and no wish about light and dark."""
    vae_folder._read.cache_clear()
    monkeypatch.delenv("VAE_INVERT", raising=False)


def shapes(n, seed=0):
    """n images (n, 28, 28) uint8 of a light block on dark noise, no two alike."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 60, (n, 28, 28), dtype=np.uint8)
    for image in images:
        row, column = random.integers(4, 12, 2)
        image[row : row + 10, column : column + 8] += 180
    return images


def write(folder, images, suffix=".png", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images, start):
        Image.fromarray(image).save(folder / f"{i:04d}{suffix}")
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Forty images of three classes."""
    folder = tmp_path / "My pictures"
    for seed, (name, n) in enumerate({"cats": 20, "dogs": 13, "eels": 7}.items()):
        write(folder / name, shapes(n, seed))
    return folder


# ---------------------------------------------------------------- one file


def test_small_grey_image_is_read_as_it_is(tmp_path):
    image = shapes(1)[0]
    write(tmp_path, [image])
    assert np.array_equal(read_image(tmp_path / "0000.png"), image)


def middle_of(image, path, **options):
    """The middle pixel of an image that was saved and read."""
    image.save(path, **options)
    read = read_image(path)
    assert read.shape == (28, 28) and read.dtype == np.uint8
    return int(read[14, 14])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp"])
def test_formats(tmp_path, suffix):
    image = Image.new("RGB", (90, 60), (120, 120, 120))
    assert abs(middle_of(image, tmp_path / f"a{suffix}") - 120) < 3


@pytest.mark.parametrize("mode, value", [("1", 1), ("L", 255), ("P", 255), ("CMYK", 0)])
def test_white_in_other_modes(tmp_path, mode, value):
    image = Image.new("P" if mode == "P" else mode, (40, 40), value)
    if mode == "P":
        image.putpalette([level for grey in range(256) for level in (grey, grey, grey)])
    assert middle_of(image, tmp_path / ("a.tif" if mode == "CMYK" else "a.png")) > 250


def test_sixteen_bits_and_fractions_keep_their_greys(tmp_path):
    deep = np.full((50, 50), 0.25 * 65535, np.uint16)
    assert middle_of(Image.fromarray(deep), tmp_path / "a.png") == 64
    fractions = Image.fromarray(np.full((50, 50), 0.25, np.float32))
    assert middle_of(fractions, tmp_path / "a.tif") == 64


def test_transparency_is_white(tmp_path):
    clear, half = Image.new("RGBA", (40, 40), (0, 0, 0, 0)), Image.new("LA", (40, 40), (0, 128))
    assert middle_of(clear, tmp_path / "a.png") == 255
    assert abs(middle_of(half, tmp_path / "b.png") - 127) < 2
    palette = Image.new("P", (40, 40), 3)
    palette.putpalette(range(12))
    assert middle_of(palette, tmp_path / "c.png", transparency=3) == 255


def test_wide_image_is_cut_to_its_middle(tmp_path):
    image = np.zeros((40, 200), np.uint8)
    image[:, 80:120] = 255
    write(tmp_path, [image])
    assert read_image(tmp_path / "0000.png").min() == 255


def test_photo_is_turned_as_the_camera_noted(tmp_path):
    upper = np.zeros((64, 64), np.uint8)
    upper[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(upper).save(tmp_path / "a.jpg", exif=exif)
    read = read_image(tmp_path / "a.jpg")
    assert read[:12].max() < 10 and read[-12:].min() > 245


def test_large_image_is_read_and_a_bomb_is_not(tmp_path, monkeypatch):
    assert abs(middle_of(Image.new("L", (3000, 2000), 90), tmp_path / "a.jpg") - 90) < 3
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(Image.DecompressionBombError):
        read_image(tmp_path / "a.jpg")


# ---------------------------------------------------------------- a folder


def test_sub_folders_are_classes(pictures, capsys):
    images, labels, names, _ = read_folder(pictures)
    assert images.shape == (40, 1, 28, 28) and images.dtype == np.uint8
    assert names == class_names(str(pictures)) == ["cats", "dogs", "eels"]
    assert np.bincount(labels).tolist() == [20, 13, 7] and labels.dtype == np.int64
    assert np.array_equal(images[20:33, 0], shapes(13, 1))
    said = capsys.readouterr().out.splitlines()
    assert said == ["My pictures: 40 images of 3 classes, as they are"]  # once


def test_folders_in_a_class_belong_to_it_and_images_beside_have_no_name(pictures):
    write(pictures / "cats" / "2019" / "may", shapes(2, 7))
    write(pictures, shapes(3, 8))
    own = read_folder(pictures)
    assert own.names == ["", "cats", "dogs", "eels"]
    assert np.bincount(own.labels).tolist() == [3, 22, 13, 7]


def test_without_sub_folders_there_is_one_class(tmp_path):
    own = read_folder(write(tmp_path / "flat", shapes(10)))
    assert own.names == [""] and own.labels.tolist() == [0] * 10


def test_what_cannot_be_read_is_named_and_left_out(pictures, capsys):
    whole = (pictures / "cats" / "0000.png").read_bytes()
    (pictures / "cats" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "dogs" / "text.png").write_text("no image")
    (pictures / "dogs" / "empty.jpg").touch()
    (pictures / "fish").mkdir()
    (pictures / "fish" / "scan.tiff").write_bytes(bytes(100))
    (pictures / "notes.txt").write_text("not even tried")
    (pictures / ".hidden.png").write_bytes(whole)
    shutil.copytree(pictures / "cats", pictures / ".thumbs")
    own = read_folder(pictures)
    assert own.names == ["cats", "dogs", "eels"] and len(own.images) == 40
    first, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("My pictures: 4 of 44 files cannot be read and are left out (")
    assert all(name in first for name in ("cut.png", "empty.jpg", "text.png", ", …)"))


def test_a_name_that_no_folder_can_have_is_no_crash():
    for name in ("x" * 5000 + "/", "~nobody-here/pictures", "a\0b/"):
        assert find_dataset(name) == name


@pytest.mark.parametrize("count", [None, 0, 9])
def test_no_folder_or_hardly_an_image_says_what_to_do(tmp_path, count):
    if count is not None:
        write(tmp_path / "none", shapes(count))
    with pytest.raises(FileNotFoundError) as caught:
        read_folder(tmp_path / "none")
    message = str(caught.value)
    assert str(tmp_path / "none") in message and "\n" not in message
    assert ("is not there" in message) == (count is None)
    assert (f"holds {count} images" in message) == (count is not None)


def test_light_border_is_inverted_and_said(tmp_path, monkeypatch, capsys):
    images = shapes(12)
    on_paper = write(tmp_path / "paper", 255 - images)
    assert np.array_equal(read_folder(on_paper).images[:, 0], images)
    assert "12 images of one class, inverted: their border is light" in capsys.readouterr().out
    monkeypatch.setenv("VAE_INVERT", "0")
    assert np.array_equal(read_folder(on_paper).images[:, 0], 255 - images)
    monkeypatch.setenv("VAE_INVERT", "1")
    dark = read_folder(write(tmp_path / "dark", images))
    assert np.array_equal(dark.images[:, 0], 255 - images)
    assert capsys.readouterr().out.splitlines()[-1].endswith("one class, inverted")


def test_light_all_over_is_no_light_border(tmp_path):
    images = shapes(12) // 8 + 200  # the inside is lighter still
    assert np.array_equal(read_folder(write(tmp_path / "sky", images)).images[:, 0], images)


def test_digest_changes_with_pixels_and_with_classes(pictures):
    def digest():
        vae_folder._read.cache_clear()
        return read_folder(pictures).digest

    first = digest()
    assert digest() == first
    (pictures / "dogs").rename(pictures / "dots")
    assert digest() == first  # the same classes by another name
    shutil.move(pictures / "dots" / "0000.png", pictures / "cats" / "9999.png")
    moved = digest()
    write(pictures / "cats", shapes(1, 99))
    assert len({first, moved, digest()}) == 3


# ---------------------------------------------------------------- the split


@pytest.mark.parametrize(
    "sizes, tests",
    [([70_000], [10_000]), ([20, 13, 7], [3, 2, 1]), ([1, 2, 8, 9], [0, 1, 1, 2]), ([10], [2])],
)
def test_a_seventh_of_each_class_is_for_testing(sizes, tests):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    train, test = split_test(labels)
    assert np.bincount(labels[test], minlength=len(sizes)).tolist() == tests
    assert sorted([*train, *test]) == list(range(len(labels)))
    again = split_test(labels)
    assert np.array_equal(train, again[0]) and np.array_equal(test, again[1])
    if len(labels) > 30:  # mixed, so that the first few are of all classes
        assert not np.array_equal(train, np.sort(train))


def test_all_images_reach_one_part(pictures):
    train, test = load_dataset(str(pictures))
    assert len(train) + len(test) == 40 and len(test) == 6
    assert train.tensors[0].shape[1:] == (1, 28, 28) and train.tensors[0].max() <= 1
    parts = get_dataloaders(Config(dataset=str(pictures), val_fraction=0.2))
    assert [len(part.images) for part in parts] == [27, 7, 6]
    assert torch.equal(parts[2].labels.cpu(), test.tensors[1])
    seen = torch.cat([part.images.flatten(1).cpu() for part in parts])
    assert len(seen.unique(dim=0)) == 40
    shares = [part.labels.bincount(minlength=3).tolist() for part in parts]
    assert shares[1] == [3, 2, 2] or min(shares[1]) >= 1  # stratified


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [30, 1], [2] * 20])
def test_few_images_or_rare_classes_are_split_all_the_same(tmp_path, sizes):
    for label, n in enumerate(sizes):
        write(tmp_path / "set" / f"class {label:02d}", shapes(n, label))
    parts = get_dataloaders(Config(dataset=str(tmp_path / "set")))
    counts = [len(part.images) for part in parts]
    assert sum(counts) == sum(sizes) and min(counts) >= 1


# ---------------------------------------------------------------- names and places


def test_folder_is_found_from_here_and_from_the_course(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert find_dataset("here") == find_folder("./here") == str((tmp_path / "here").resolve())
    assert find_dataset("tests") == str(Path(__file__).resolve().parent)
    assert Config(dataset="here").dataset == Config(dataset=str(tmp_path / "here")).dataset
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_dataset("~/here") == find_dataset("here")


def test_names_of_data_sets():
    assert find_dataset("mnist") == "mnist"
    assert find_dataset("gone/away") == "gone/away"  # a run may outlive its images
    for name in ("cifar", "", 3, None):
        with pytest.raises(ValueError, match=r"is not known: choose mnist or fashion, or a folder"):
            find_dataset(name)


def test_each_folder_has_outputs_of_its_own(tmp_path):
    names = {
        folder_name(str(tmp_path / name)) for name in ("a/cats", "b/cats", "c/mnist", "d/(ü) .")
    }
    assert len(names) == 4 and all(name.count("-") == 1 and "/" not in name for name in names)
    place = vae_utils.outputs_dir(str(tmp_path / "a" / "cats"))
    assert place.parent == vae_utils.outputs_dir("mnist").parent
    assert place.name.startswith("cats-")


def test_environment_names_a_folder(pictures, monkeypatch):
    monkeypatch.chdir(pictures.parent)
    monkeypatch.setenv("VAE_DATASET", pictures.name)
    module = runpy.run_path(vae_utils.__file__)
    assert module["DATASET"] == module["Config"]().dataset == str(pictures.resolve())
    assert (
        module["os"].environ["VAE_DATASET"] == module["DATASET"]
    )  # for kernels, which start elsewhere


# ---------------------------------------------------------------- runs


def test_run_from_the_shell(pictures, tmp_path, capsys):
    flags = ["--dataset", str(pictures), "--hidden", "16", "--epochs", "1", "--no-invert"]
    assert vae_shell.main([*flags, "--latent-dim", "8", "--out", str(tmp_path / "run")]) == 0
    assert "40 images of 3 classes, as they are" in capsys.readouterr().out
    assert (tmp_path / "run" / "ep001_d_latent2d.png").exists()
    run = vae_utils.load_run(tmp_path / "run")
    assert run.config.dataset == str(pictures.resolve())
    assert run.model.sample(2).shape == (2, 1, 28, 28)
    shutil.rmtree(pictures)
    vae_folder._read.cache_clear()
    assert vae_utils.load_run(tmp_path / "run").model.sample(2).shape == (2, 1, 28, 28)
    with pytest.raises(SystemExit) as caught:
        vae_shell.main([*flags, "--out", str(tmp_path / "other")])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is not there" in error


def test_run_on_other_images_of_the_same_folder_is_refused(pictures, tmp_path, monkeypatch):
    config = Config(dataset=str(pictures), **TINY | {"epochs": 1})
    fit(config, out_dir=tmp_path / "run", figures=False)
    assert fit(config, out_dir=tmp_path / "run").history
    monkeypatch.setenv("VAE_INVERT", "1")
    with pytest.raises(ValueError, match="holds another run, which differs in pictures"):
        fit(config, out_dir=tmp_path / "run")


def test_report_leaves_the_folder_and_docs_alone(pictures, tmp_path, monkeypatch, capsys):
    root = tmp_path / "course"
    (root / "notebooks").mkdir(parents=True)
    before = sorted(pictures.rglob("*"))
    monkeypatch.setattr(vae_utils, "DATASET", str(pictures))
    monkeypatch.setattr(vae_utils, "FAST", False)
    assert report([], root) == 0
    assert sorted(pictures.rglob("*")) == before and not (root / "docs").exists()
    assert [path.name for path in (root / "build").iterdir()] == [folder_name(str(pictures))]


# ---------------------------------------------------------------- pictures of few or many classes


def test_images_in_turn():
    assert vae_figures.in_turn([2, 0, 0, 1, 2, 0], 5) == [1, 3, 0, 2, 4]
    assert vae_figures.in_turn([0, 0], 3) == [0, 1, 0]


@pytest.mark.parametrize("count", [1, 3, 25])
def test_cloud_of_any_number_of_classes(count):
    codes = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    fig = vae_figures.plot_latent(
        codes, torch.arange(100) % count, [f"class {i}" for i in range(count)]
    )
    legend = fig.axes[0].get_legend()
    assert (len(legend.get_texts()) if legend else 0) == {1: 0, 3: 3, 25: 20}[count]
    vae_figures.plt.close(fig)


def test_few_images_are_not_drawn_large():
    fig = vae_figures.show_grid(torch.zeros(2, 1, 28, 28), 1, ["a long name"])
    assert fig.get_size_inches().max() < 4
    assert [text.get_text() for text in fig.axes[0].texts] == ["a long …"]
    vae_figures.plt.close(fig)
