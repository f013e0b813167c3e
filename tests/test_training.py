"""Training is exact and loses nothing: the same numbers however often it is stopped."""

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import vae_data
import vae_utils
from vae_utils import fit, load_run

COLUMNS = [
    *("epoch", "train_loss", "train_recon", "train_kl", "val_loss", "val_recon", "val_kl"),
    *("val_loss_per_pixel", "beta", "lr", "seconds"),
]
# Everything that draws random numbers: order, noise, shifts, pixels. 3-D codes need a plane.
RANDOM = {"latent_dim": 3, "shift": 1, "binarize": True, "warmup_epochs": 2}


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing, and tidying up after it, takes most of a tiny run's time."""
    monkeypatch.setattr(vae_utils, "draw_run", lambda *args: {})
    monkeypatch.setattr(vae_utils.gc, "collect", lambda: None)


def contents(folder):
    """All that two equal runs share: both checkpoints and the history, but for seconds."""
    checkpoints = []
    for name in ("best.pt", "last.pt"):
        state = torch.load(folder / name, weights_only=True)
        for row in state["history"]:
            del row["seconds"]
        checkpoints.append(state)
    table = [line.rsplit(",", 1)[0] for line in (folder / "history.csv").read_text().splitlines()]
    return *checkpoints, table


def assert_same(one, other, where=""):
    """Equal to the last bit, tensors included."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.equal(other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{where}/{i}")
    else:
        assert one == other, where


def snapshot(folder):
    """Every file with its bytes and its time."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def stop_in_epoch(monkeypatch, number, how):
    """Make epoch ``number`` call ``how()`` half-way; the returned function undoes it."""
    whole = vae_utils.train_one_epoch

    def broken(model, batches, optimizer, config, epoch=1, bar=None):
        row = whole(model, batches, optimizer, config, epoch, bar)
        if epoch == number:
            how()
        return row

    monkeypatch.setattr(vae_utils, "train_one_epoch", broken)
    return lambda: monkeypatch.setattr(vae_utils, "train_one_epoch", whole)


def press_stop():
    signal.raise_signal(signal.SIGINT)


# ---------------------------------------------------------------- a run


def test_run_and_history(tiny_data, tiny_config, tmp_path):
    run = fit(tiny_config(), out_dir=tmp_path / "run")
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert all(list(row) == COLUMNS for row in run.history)
    for row in run.history:
        assert row["val_loss_per_pixel"] == pytest.approx(row["val_loss"] / 784)
        assert row["val_loss"] == pytest.approx(row["val_recon"] + row["val_kl"], rel=1e-6)
    assert run.history[-1]["val_loss"] < run.history[0]["val_loss"]
    assert run.config == tiny_config()
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    table = [[float(value) for value in line.split(",")] for line in lines[1:]]
    assert table == [list(row.values()) for row in run.history]


def test_default_folder_is_outputs_data_set_name(tiny_data, tiny_config, tmp_path, no_figures):
    for dataset in ("mnist", "fashion"):
        run = fit(tiny_config("named", epochs=1, dataset=dataset))
        assert run.out_dir == tmp_path / "outputs" / dataset / "named"
        assert (run.out_dir / "best.pt").exists()


def test_load_run_gives_what_fit_gave(tiny_data, tiny_config, tmp_path, no_figures):
    run = fit(tiny_config(), out_dir=tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert_same(loaded.model.state_dict(), run.model.state_dict())
    assert (loaded.history, loaded.config) == (run.history, run.config)
    with pytest.raises(FileNotFoundError, match="nothing holds no trained run"):
        load_run(tmp_path / "nothing")


def test_model_is_that_of_the_best_validation_loss(
    tiny_data, tiny_config, tmp_path, no_figures, monkeypatch
):
    losses, weights = iter([3.0, 1.0, 2.0]), []

    def prescribed(model, batches, config, seed=0):
        weights.append({key: tensor.clone() for key, tensor in model.state_dict().items()})
        loss = next(losses)
        return {"loss": loss, "recon": loss, "kl": 0.0, "loss_per_pixel": 0.0, "loss_se": 0.0}

    monkeypatch.setattr(vae_utils, "evaluate", prescribed)
    run = fit(tiny_config(), out_dir=tmp_path / "run")
    assert_same(dict(run.model.state_dict()), weights[1])
    assert len(run.history) == 3
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert_same(dict(last["model"]), weights[2])


def test_beta_warms_up_and_the_rate_goes_up_and_down(tiny_data, tiny_config, tmp_path, no_figures):
    run = fit(tiny_config(epochs=4, beta=2.0, warmup_epochs=4, lr=1e-3), out_dir=tmp_path / "a")
    assert [row["beta"] for row in run.history] == [0.5, 1.0, 1.5, 2.0]
    rates = [row["lr"] for row in run.history]
    assert rates == sorted(rates, reverse=True)  # after the first tenth it only falls
    assert 0 < rates[-1] < 2e-5
    run = fit(tiny_config(epochs=2, lr=1e-3, schedule="constant"), out_dir=tmp_path / "b")
    assert [row["lr"] for row in run.history] == [1e-3, 1e-3]
    assert [row["beta"] for row in run.history] == [1.0, 1.0]  # no warm-up: at once
    for schedule, quarter in (("one-cycle", (2 + 2**0.5) / 4), ("linear", 3 / 4)):
        config = tiny_config(lr=1e-3, schedule=schedule)
        rates = [vae_utils.learning_rate(config, t) for t in (0.0, 0.1, 0.325, 0.55, 1.0)]
        expected = [1e-4, 1e-3, quarter * 1e-3, 5e-4, 0]
        assert rates == pytest.approx(expected, abs=1e-12), schedule


def test_train_losses_are_means_over_images(tiny_config):
    config = tiny_config(variational=False, beta=0.0, lr=1e-9, schedule="constant")
    torch.manual_seed(0)
    model, x = vae_utils.build_model(config), torch.rand(7, 1, 28, 28).to(vae_utils.DEVICE)
    batches = vae_utils.Batches(x, torch.zeros(7).to(x.device), 3)  # 3, 3 and 1
    optimizer = torch.optim.SGD(model.parameters(), 1e-9)
    row = vae_utils.train_one_epoch(model, batches, optimizer, config)
    assert row["train_recon"] == pytest.approx(
        vae_utils.evaluate(model, batches, config)["recon"], 1e-5
    )


def test_augmented_batches(tiny_config, monkeypatch):
    seen, whole = [], vae_utils.elbo
    monkeypatch.setattr(vae_utils, "elbo", lambda *a, **k: (seen.append(a[1]), whole(*a, **k))[1])
    x = torch.zeros(6, 1, 28, 28)
    x[:, :, 10:14, 10:14] = 0.5
    batches = vae_utils.Batches(*(t.to(vae_utils.DEVICE) for t in (x, torch.zeros(6))), 1)

    def inputs(**changes):
        seen.clear()
        torch.manual_seed(0)
        config = tiny_config(**changes)
        model = vae_utils.build_model(config)
        optimizer = torch.optim.SGD(model.parameters(), 1e-9)
        vae_utils.train_one_epoch(model, batches, optimizer, config)
        return torch.cat(seen).cpu()

    assert inputs().equal(x)
    drawn = inputs(binarize=True)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn[x == 0].sum() == 0
    moved = inputs(shift=2)
    corners = [image.nonzero()[0, 1:].tolist() for image in moved]
    assert moved.sum(dim=(1, 2, 3)).eq(8).all()  # the square stays whole
    assert all(8 <= row <= 12 and 8 <= column <= 12 for row, column in corners)
    assert len({tuple(corner) for corner in corners}) > 1


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "conv"},
        {"recon_loss": "mse"},
        {"recon_loss": "cb"},
        {"precision": "bfloat16"},
        {"optimizer": "muon"},
        {"optimizer": "muon", "architecture": "conv"},
        {"variational": False, "beta": 0.0},
    ],
    ids=str,
)
def test_other_settings_learn_too(tiny_data, tiny_config, tmp_path, no_figures, changes):
    run = fit(tiny_config(lr=3e-3, **changes), out_dir=tmp_path / "run")
    assert run.history[-1]["train_recon"] < run.history[0]["train_recon"]


@pytest.mark.parametrize("size", [1, 3])
def test_codes_of_other_sizes_are_drawn_too(tiny_data, tiny_config, tmp_path, size):
    run = fit(tiny_config(epochs=1, latent_dim=size), out_dir=tmp_path / "run")
    with Image.open(run.out_dir / "ep001_d_latent2d.png") as picture:
        assert len(set(picture.convert("RGB").getdata())) > 10  # all ten classes


# ---------------------------------------------------------------- exact


def test_same_seed_same_run_bit_for_bit(tiny_data, tiny_config, tmp_path):
    fit(tiny_config(**RANDOM), out_dir=tmp_path / "one")
    torch.manual_seed(12345)  # what the reader did before does not matter
    fit(tiny_config(**RANDOM), out_dir=tmp_path / "two")
    assert_same(contents(tmp_path / "one"), contents(tmp_path / "two"))
    digests = [  # the pictures too: same images, same noise
        {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in (tmp_path / run).glob("ep*.png")}
        for run in ("one", "two")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 12  # four at epochs 0, 1 and 3


def test_drawing_changes_no_number(tiny_data, tiny_config, tmp_path):
    fit(tiny_config(**RANDOM), out_dir=tmp_path / "drawn")
    fit(tiny_config(**RANDOM), out_dir=tmp_path / "plain", figures=False)
    assert_same(contents(tmp_path / "drawn"), contents(tmp_path / "plain"))
    assert not list((tmp_path / "plain").glob("*.png"))
    assert not (tmp_path / "plain" / "report.md").exists()


def test_another_seed_another_run(tiny_data, tiny_config, tmp_path, no_figures):
    fit(tiny_config(**RANDOM), out_dir=tmp_path / "one")
    fit(tiny_config(seed=1, **RANDOM), out_dir=tmp_path / "three")
    one, three = (contents(tmp_path / name)[1]["model"] for name in ("one", "three"))
    assert not one["encoder.mu.weight"].equal(three["encoder.mu.weight"])


def test_finished_folder_is_returned_at_once(
    tiny_data, tiny_config, tmp_path, no_figures, monkeypatch
):
    run = fit(tiny_config(), out_dir=tmp_path / "run")
    before = snapshot(tmp_path / "run")

    def refuse(*args, **kwargs):
        raise AssertionError("a finished run needs no data and no training")

    monkeypatch.setattr(vae_utils, "get_dataloaders", refuse)
    monkeypatch.setattr(vae_utils, "train_one_epoch", refuse)
    again = fit(tiny_config(), out_dir=tmp_path / "run")
    assert again.history == run.history
    assert_same(again.model.state_dict(), run.model.state_dict())
    assert snapshot(tmp_path / "run") == before


def test_folder_of_another_config_is_not_touched(tiny_data, tiny_config, tmp_path, no_figures):
    fit(tiny_config(), out_dir=tmp_path / "run")
    before = snapshot(tmp_path / "run")
    with pytest.raises(ValueError) as caught:
        fit(tiny_config(latent_dim=5, beta=4.0), out_dir=tmp_path / "run")
    message = str(caught.value)
    assert "latent_dim (2 there, 5 here)" in message
    assert "beta (1.0 there, 4.0 here)" in message
    assert "epochs" not in message
    assert str(tmp_path / "run") in message
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("epoch", "changes"),
    [
        (1, {}),
        (3, {}),
        (3, {"optimizer": "muon"}),
        (3, {"precision": "bfloat16"}),
        (3, {"optimizer": "muon", "architecture": "conv"}),
    ],
    ids=str,
)
def test_stopped_run_comes_back_and_goes_on_exactly(
    tiny_data, tiny_config, tmp_path, monkeypatch, epoch, changes
):
    config = tiny_config(**changes, **RANDOM)
    figures = not changes  # they take most of a tiny run, and are the same in all
    fit(config, out_dir=tmp_path / "unbroken", figures=figures)
    mend = stop_in_epoch(monkeypatch, epoch, press_stop)
    run = fit(config, out_dir=tmp_path / "stopped", figures=figures)
    assert len(run.history) == epoch - 1 and run.config == config
    assert run.model.sample(2).shape == (2, 1, 28, 28)
    if epoch > 1:  # the weights of the best epoch, not those at the stop
        best = torch.load(tmp_path / "stopped" / "best.pt", weights_only=True)["model"]
        assert_same(dict(run.model.state_dict()), dict(best))
    mend()
    run = fit(config, out_dir=tmp_path / "stopped", figures=figures)
    assert len(run.history) == 3
    assert_same(contents(tmp_path / "stopped"), contents(tmp_path / "unbroken"))


@pytest.mark.parametrize("epoch", [0, 1])
def test_stop_while_the_first_figures_are_drawn(
    tiny_data, tiny_config, tmp_path, monkeypatch, epoch
):
    whole = vae_utils.draw_run

    def stop(model, val, history, config):
        if len(history) == epoch:
            press_stop()
        return {}

    monkeypatch.setattr(vae_utils, "draw_run", stop)
    run = fit(tiny_config(), out_dir=tmp_path / "run")
    assert len(run.history) == epoch and run.model.sample(2).shape == (2, 1, 28, 28)
    monkeypatch.setattr(vae_utils, "draw_run", whole)
    assert len(fit(tiny_config(), out_dir=tmp_path / "run").history) == 3


def test_stop_while_images_are_read(tiny_data, tiny_config, tmp_path, no_figures, monkeypatch):
    mend = stop_in_epoch(monkeypatch, 2, press_stop)
    fit(tiny_config(), out_dir=tmp_path / "run")
    mend()
    monkeypatch.setattr(vae_utils, "get_dataloaders", lambda *args: press_stop())
    assert len(fit(tiny_config(), out_dir=tmp_path / "run").history) == 1
    with pytest.raises(KeyboardInterrupt):  # there is no run yet
        fit(tiny_config(), out_dir=tmp_path / "fresh")


@pytest.mark.parametrize("epoch", [1, 2])
def test_unfinished_folder_of_another_config(tiny_data, tiny_config, tmp_path, monkeypatch, epoch):
    mend = stop_in_epoch(monkeypatch, epoch, press_stop)
    fit(tiny_config(), out_dir=tmp_path / "run")
    mend()
    before = snapshot(tmp_path / "run")
    with pytest.raises(ValueError, match=r"latent_dim \(2 there, 5 here\)"):
        fit(tiny_config(latent_dim=5), out_dir=tmp_path / "run")
    assert snapshot(tmp_path / "run") == before


class Killed(BaseException):
    """Ends a run at a chosen point, as SIGKILL would: nothing in the code catches it."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_run_ended_at_each_of_its_writes(
    tiny_data, tiny_config, tmp_path, no_figures, monkeypatch, after
):
    config = tiny_config(epochs=2, **RANDOM)
    whole, names = os.replace, []

    def count(source, target):
        names.append(Path(target).name)
        whole(source, target)

    monkeypatch.setattr(os, "replace", count)
    fit(config, out_dir=tmp_path / "unbroken")
    assert {"config.json", "history.csv", "best.pt", "last.pt"} <= set(names)
    for number, name in enumerate(names):
        left = iter(range(number, -1, -1))

        def kill(source, target, left=left):
            last = next(left) == 0
            if after or not last:
                whole(source, target)
            if last:
                raise Killed

        folder = tmp_path / f"{number}-{name}"
        monkeypatch.setattr(os, "replace", kill)
        with pytest.raises(Killed):
            fit(config, out_dir=folder)
        monkeypatch.setattr(os, "replace", whole)
        fit(config, out_dir=folder)
        assert_same(contents(folder), contents(tmp_path / "unbroken"), folder.name)


def train(config, folder, figures, data, digests):
    """What the processes of the next tests do."""
    os.environ["VAE_DATA_DIR"] = str(data)
    vae_data.MD5["mnist"] = digests
    fit(config, out_dir=folder, figures=figures)


@pytest.fixture
def start(tiny_data):
    """Starts processes that train; where the system can fork, libraries are loaded only once."""
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        # The first optimizer imports torch's compiler; and no test should time the imports.
        context.set_forkserver_preload(["vae_utils", "torch._dynamo", "test_training"])
        first = context.Process(target=time.sleep, args=(0,))
        first.start()
        first.join()
    processes = []

    def begin(config, folder, figures=True):
        arguments = (config, folder, figures, tiny_data, vae_data.MD5["mnist"])
        process = context.Process(target=train, args=arguments)
        process.start()
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.join()


def test_run_killed_at_ten_random_moments(start, tiny_config, tmp_path):
    """Without pictures, which take most of a tiny run: the kills hit its steps and its writes."""
    config = tiny_config(epochs=30, **RANDOM)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    began = time.monotonic()
    process = start(config, unbroken, figures=False)
    process.join()
    whole = time.monotonic() - began  # with the seconds before the first step
    assert process.exitcode == 0
    expected = contents(unbroken)

    moments, reached = [], []
    while len(moments) < 10 or max(reached) < 1:
        moment = random.uniform(0, 0.5 * whole)
        process = start(config, broken, figures=False)
        process.join(moment)
        if process.exitcode is None:
            process.kill()
            process.join()
            moments.append(round(moment, 3))
            table = broken / "history.csv"
            reached.append(len(table.read_text().splitlines()) - 1 if table.exists() else 0)
            if (broken / "best.pt").exists():
                load_run(broken)  # at every moment there is a run to use
        else:  # it got to the end before all ten: compare, and break another
            assert process.exitcode == 0
            assert_same(contents(broken), expected, str(moments))
            shutil.rmtree(broken)
    print(f"killed after {moments} s, with {reached} epochs on disk")
    process = start(config, broken, figures=False)
    process.join()
    assert process.exitcode == 0
    assert_same(contents(broken), expected, str(moments))


def test_two_processes_on_one_folder(start, tiny_config, tmp_path):
    """One trains, the other says who does; with another config too. A killed one lets go."""
    config, shared = tiny_config(epochs=80), tmp_path / "shared"
    first = start(config, shared)
    while not (shared / "last.pt").exists():
        assert first.exitcode is None
        time.sleep(0.01)
    for other in (config, config.replace(latent_dim=5)):
        with pytest.raises(ValueError, match=rf"in use by process {first.pid} since|another run"):
            fit(other, out_dir=shared)
    first.kill()
    first.join()
    kept = torch.load(shared / "last.pt", weights_only=True)["epoch"]
    assert kept < 80
    with pytest.raises(ValueError, match="latent_dim"):
        fit(config.replace(latent_dim=5), out_dir=shared)
    second = start(config, shared, figures=False)  # no stale lock is in its way
    second.join()
    assert second.exitcode == 0
    assert len(load_run(shared).history) == 80


# ---------------------------------------------------------------- loses nothing


class Code:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.write_text, (Path(self.path), "the code has run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Where the runs of the next fixture are kept."""
    return tmp_path_factory.mktemp("half-way")


@pytest.fixture
def half_way(trained, tiny_data, tiny_config, tmp_path, no_figures, monkeypatch):
    """A config, the folder of its unbroken run, and one whose run stopped after two of three.

    Trained for the first test; each works on a copy.
    """
    config = tiny_config(**RANDOM)
    if not (trained / "run").exists():
        fit(config, out_dir=trained / "unbroken")
        mend = stop_in_epoch(monkeypatch, 3, press_stop)
        fit(config, out_dir=trained / "run")
        mend()
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return config, tmp_path / "unbroken", tmp_path / "run"


def truncate(path, tmp_path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bytes(path, tmp_path):
    data = bytearray(path.read_bytes())
    data[: len(data) // 4] = b"x" * (len(data) // 4)
    path.write_bytes(data)


def change(path, edit):
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


DAMAGE = {
    "empty": lambda path, tmp_path: path.write_bytes(b""),
    "truncated": truncate,
    "overwritten": flip_bytes,
    "a text": lambda path, tmp_path: path.write_text("this is no checkpoint\n"),
    "a tensor": lambda path, tmp_path: torch.save(torch.zeros(3), path),
    "a list": lambda path, tmp_path: torch.save([1, 2], path),
    "only weights": lambda path, tmp_path: torch.save({"weight": torch.zeros(3)}, path),
    "foreign config": lambda path, tmp_path: torch.save(
        {"config": {"depth": 3}, "epoch": 1, "model": {}, "history": []}, path
    ),
    "foreign fields": lambda path, tmp_path: torch.save(
        {"config": "mlp", "epoch": 1, "model": {}, "history": []}, path
    ),
    "other weights": lambda path, tmp_path: change(path, lambda state: state["model"].popitem()),
    "a pickle": lambda path, tmp_path: path.write_bytes(pickle.dumps({"epoch": 1})),
    "code": lambda path, tmp_path: torch.save({"config": Code(tmp_path / "ran")}, path),
    "pickled code": lambda path, tmp_path: path.write_bytes(pickle.dumps(Code(tmp_path / "ran"))),
}


def in_a_tensor(path, tmp_path):
    """Flip bits in the middle of the largest stored tensor: only the archive's CRC can tell."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + 200 + largest.file_size // 2] ^= 0x7F
    path.write_bytes(data)


def squeeze(path, tmp_path):
    """The same archive compressed: what a small file that unpacks to gigabytes would be."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


def as_folder(path, tmp_path):
    path.unlink()
    path.mkdir()


def as_pipe(path, tmp_path):
    path.unlink()
    os.mkfifo(path) if hasattr(os, "mkfifo") else path.mkdir()


def edit(change_state):
    return lambda path, tmp_path: change(path, change_state)


DAMAGE |= {
    "a flipped bit in a tensor": in_a_tensor,
    "compressed": squeeze,
    "a folder": as_folder,
    "a pipe": as_pipe,
    "nan weights": edit(lambda s: s["model"]["encoder.mu.bias"].fill_(float("nan"))),
    "no losses": edit(lambda s: [row.pop("val_loss") for row in s["history"]]),
    "losses of text": edit(lambda s: s["history"][0].update(val_loss="low")),
    "more epochs than the config's": edit(lambda s: s["config"].update(epochs=1)),
    "newer": edit(lambda s: s["config"].update(dropout=0.1)),
    "older": edit(lambda s: s["config"].pop("shift")),
    "rng of a wrong size": edit(lambda s: s.update(rng=s["rng"][:100])),
    "rng of a wrong type": edit(lambda s: s.update(rng=s["rng"].float())),
    "emptied optimizer": edit(lambda s: s["optimizer"]["state"].clear()),
    "one emptied moment": edit(lambda s: s["optimizer"]["state"][0].clear()),
    "infinite moment": edit(lambda s: s["optimizer"]["state"][0]["exp_avg"].fill_(float("inf"))),
    "no data": edit(lambda s: s.pop("data")),
}
UNFIT_TO_GO_ON = {
    "moments of a wrong shape": edit(
        lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(3))
    ),
    "another optimizer's groups": edit(lambda s: s["optimizer"]["param_groups"].clear()),
    "no optimizer": lambda path, tmp_path: change(path, lambda state: state.pop("optimizer")),
    "no random state": lambda path, tmp_path: change(path, lambda state: state.pop("rng")),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("damage", (DAMAGE | UNFIT_TO_GO_ON).values(), ids=DAMAGE | UNFIT_TO_GO_ON)
def test_damaged_last_checkpoint(half_way, tmp_path, damage):
    config, unbroken, folder = half_way
    before = load_run(folder).model.state_dict()
    damage(folder / "last.pt", tmp_path)
    assert_same(load_run(folder).model.state_dict(), before)
    if (folder / "last.pt").is_dir():  # no file can take its place
        with pytest.raises(OSError, match=r"last\.pt could not be written"):
            fit(config, out_dir=folder)
        return
    with pytest.warns(UserWarning, match=r"last\.pt .*The other checkpoint is taken"):
        mended = fit(config, out_dir=folder)
    assert not (tmp_path / "ran").exists()
    assert len(mended.history) == 3
    assert_same(contents(folder), contents(unbroken))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_no_checkpoint_can_be_read(half_way, tmp_path, damage):
    config, _, folder = half_way
    for name in ("last.pt", "best.pt"):
        damage(folder / name, tmp_path)
    before = snapshot(folder)
    with pytest.raises(ValueError) as caught:
        fit(config, out_dir=folder)
    message = str(caught.value)
    assert "last.pt" in message and "best.pt" in message
    assert f"Delete {folder}" in message
    with pytest.raises(ValueError, match=r"best\.pt|another network"):
        load_run(folder)
    assert snapshot(folder) == before
    assert not (tmp_path / "ran").exists()


def test_each_refusal_says_what_is_wrong(half_way, tmp_path):
    _, _, folder = half_way
    whole = (folder / "best.pt").read_bytes()
    for name, words in {
        "newer": "newer than this course (setting dropout)",
        "older": "older than this course (setting shift)",
        "a folder": "it is no file",
        "nan weights": "not finite",
        "a flipped bit in a tensor": "damaged",
    }.items():
        DAMAGE[name](folder / "best.pt", tmp_path)
        with pytest.warns(UserWarning) as caught:
            load_run(folder)
        message = str(caught[0].message)
        assert words in message and "\n" not in message and "best.pt" in message
        if (folder / "best.pt").is_dir():
            (folder / "best.pt").rmdir()
        (folder / "best.pt").write_bytes(whole)


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_foreign_checkpoint_is_never_returned(half_way, tiny_config, tmp_path, name):
    config, _, folder = half_way
    fit(tiny_config(latent_dim=5), out_dir=tmp_path / "foreign")
    shutil.copy(tmp_path / "foreign" / name, folder / name)
    before = snapshot(folder)
    with pytest.raises(ValueError, match=r"latent_dim \(5 there, 3 here\)"):
        fit(config, out_dir=folder)
    with pytest.raises(ValueError, match="two runs"):
        load_run(folder)
    assert snapshot(folder) == before


def test_a_fast_run_never_goes_on_with_a_full_one(half_way, monkeypatch):
    config, unbroken, folder = half_way
    for run in (unbroken, folder):
        before = snapshot(run)
        with monkeypatch.context() as patch:
            patch.setattr(vae_utils, "FAST", True)
            with pytest.raises(ValueError, match=r"fast \(False there, True here\)"):
                fit(config, out_dir=run)
        assert snapshot(run) == before


def test_a_fast_run_keeps_its_config_and_trains_two_epochs(
    tiny_data, tiny_config, tmp_path, no_figures, monkeypatch
):
    monkeypatch.setattr(vae_utils, "FAST", True)
    run = fit(tiny_config(), out_dir=tmp_path / "run")
    assert (run.config.epochs, len(run.history)) == (3, 2)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 3
    assert len(fit(tiny_config(), out_dir=tmp_path / "run").history) == 2  # finished
    monkeypatch.setattr(vae_utils, "FAST", False)
    with pytest.raises(ValueError, match=r"fast \(True there, False here\)"):
        fit(tiny_config(), out_dir=tmp_path / "run")


def test_other_data_is_refused(half_way, monkeypatch):
    config, _, folder = half_way
    train, val, test = vae_utils.get_dataloaders(config)
    fewer = vae_utils.Batches(train.images[:100], train.labels[:100], 50)
    monkeypatch.setattr(vae_utils, "get_dataloaders", lambda config: (fewer, val, test))
    before = snapshot(folder)
    with pytest.raises(ValueError, match=r"images \(240 there, 100 here\)"):
        fit(config, out_dir=folder)
    after = snapshot(folder)  # the lock may have been touched
    assert [name for name in before if after[name] != before[name] and name != ".lock"] == []


@pytest.mark.parametrize("wrong", ["best-2d", None, {"epochs": 3}])
def test_fit_says_what_it_wants(wrong):
    with pytest.raises(ValueError, match=r"fit wants a Config, such as PRESETS\['best-2d'\]"):
        fit(wrong)


def test_litter_of_a_killed_write_is_gone_after_the_next(half_way):
    config, _, folder = half_way
    (folder / ".last.pt.part").write_bytes(b"half")
    fit(config, out_dir=folder)
    assert not list(folder.glob("*.part")) and not list(folder.glob(".*.part"))


# ---------------------------------------------------------------- your own network


class Own(torch.nn.Module):
    """Not a VAE of the course: no config, no reparameterize, layers of other names."""

    def __init__(self, size=2):
        super().__init__()
        self.down, self.up = torch.nn.Linear(784, 2 * size), torch.nn.Linear(size, 784)

    def encode(self, x):
        return self.down(x.flatten(1)).chunk(2, dim=1)

    def decode(self, z):
        return self.up(z).view(-1, 1, 28, 28)

    def forward(self, x):
        mu, logvar = self.encode(x)
        return self.decode(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)), mu, logvar


class Edited(Own):
    def decode(self, z):
        return 2 * self.up(z).view(-1, 1, 28, 28)


def test_your_own_network_trains_stops_and_goes_on(tiny_data, tiny_config, monkeypatch):
    config = tiny_config("own", lr=3e-3)

    def own():
        torch.manual_seed(7)
        return Own()

    whole = fit(config, own())
    assert whole.out_dir.name.startswith("own-") and len(whole.out_dir.name) == 10
    assert (whole.out_dir / "ep003_d_latent2d.png").exists()
    assert whole.history[-1]["val_loss"] < whole.history[0]["val_loss"]
    mend = stop_in_epoch(monkeypatch, 3, press_stop)
    stopped = fit(config, own(), out_dir=whole.out_dir.parent / "stopped")
    mend()
    assert len(stopped.history) == 2 and isinstance(stopped.model, Own)
    fit(config, own(), out_dir=stopped.out_dir)
    assert_same(contents(stopped.out_dir), contents(whole.out_dir))
    loaded = load_run(whole.out_dir, Own())
    assert_same(loaded.model.state_dict(), whole.model.state_dict())
    with pytest.raises(ValueError, match="another network"):
        load_run(whole.out_dir)


class Square(Own):
    """Without the channel that images have."""

    def decode(self, z):
        return self.up(z).view(-1, 28, 28)


def test_a_network_that_does_not_fit_is_refused_in_one_line(tiny_data, tiny_config, tmp_path):
    for wrong in (Own, 3, torch.nn.Linear(784, 784)):
        with pytest.raises(ValueError, match="a torch module, made, with encode"):
            fit(tiny_config(), wrong)
    with pytest.raises(ValueError, match=r"logits \(2, 28, 28\) and images \(2, 1, 28, 28\)"):
        fit(tiny_config(), Square(), out_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_edited_network_is_another_run(tiny_data, tiny_config, no_figures):
    config = tiny_config("own", epochs=1)
    first, edited, again = (fit(config, kind()) for kind in (Own, Edited, Own))
    assert first.out_dir == again.out_dir != edited.out_dir
    with pytest.raises(ValueError, match=r"network \(\w{6} there, \w{6} here\)"):
        fit(config, Edited(), out_dir=first.out_dir)  # same weights' shapes, other code
    with pytest.raises(ValueError, match="network"):
        fit(config, out_dir=first.out_dir)


def test_code_is_refused_by_name(half_way, tmp_path):
    torch.save({"config": Code(tmp_path / "ran")}, half_way[2] / "best.pt")
    with pytest.warns(UserWarning, match=r"best\.pt is refused: it is damaged or holds code"):
        load_run(half_way[2])  # the model is that of last.pt
    assert not (tmp_path / "ran").exists()


def test_best_checkpoint_is_damaged_but_not_the_last(half_way):
    config, unbroken, folder = half_way
    truncate(folder / "best.pt", None)
    fit(config, out_dir=folder)
    assert_same(contents(folder), contents(unbroken))


@pytest.mark.parametrize("damage", [truncate, lambda path, tmp_path: path.unlink()])
def test_best_checkpoint_is_lost_and_the_run_finished(half_way, damage):
    config, folder, _ = half_way
    last = torch.load(folder / "last.pt", weights_only=True)
    damage(folder / "best.pt", None)
    with pytest.warns(UserWarning, match=r"best\.pt.* The model is that of the last epoch"):
        run = fit(config, out_dir=folder)
    assert_same(run.model.state_dict(), last["model"])
    assert run.history == last["history"]


@pytest.mark.parametrize("text", ["", "epoch,loss\n1,0\n", "\x00\x01", "1;2;3\n" * 500])
def test_history_edited_by_hand_changes_nothing(half_way, text):
    config, unbroken, folder = half_way
    history = load_run(folder).history
    (folder / "history.csv").write_text(text)
    assert load_run(folder).history == history
    fit(config, out_dir=folder)
    assert_same(contents(folder), contents(unbroken))


def test_history_and_config_removed(half_way):
    config, unbroken, folder = half_way
    (folder / "history.csv").unlink()
    (folder / "config.json").unlink()
    fit(config, out_dir=folder)
    assert_same(contents(folder), contents(unbroken))


@pytest.mark.parametrize("name", ["history.csv", "best.pt", "last.pt"])
@pytest.mark.parametrize("step", ["writing", "renaming"])
def test_disk_full(half_way, monkeypatch, name, step):
    config, unbroken, folder = half_way
    kept = {p: (folder / p).read_bytes() for p in ("best.pt", "last.pt")}
    write, rename = Path.write_bytes, os.replace

    def full(path):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def write_half(path, data):
        if step == "writing" and name in path.name:
            write(path, data[: len(data) // 2])
            raise full(path)
        return write(path, data)

    def rename_not(source, target):
        if step == "renaming" and Path(target).name == name:
            raise full(target)
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half)
        patch.setattr(os, "replace", rename_not)
        with pytest.raises(OSError) as caught:
            fit(config, out_dir=folder)
    assert caught.value.errno == errno.ENOSPC
    message = str(caught.value)
    assert str(folder / name) in message
    assert os.strerror(errno.ENOSPC) in message
    assert "free some space" in message
    assert (folder / name).exists()
    if name in kept:
        assert (folder / name).read_bytes() == kept[name]
    assert not [p.name for p in folder.iterdir() if p.name.endswith(".part")]  # no half files
    assert len(load_run(folder).history) >= 2
    fit(config, out_dir=folder)  # once there is space again
    assert_same(contents(folder), contents(unbroken))


@pytest.fixture
def no_rights():
    """Write rights are for others: root, who has all of them, becomes nobody for the while."""
    if sys.platform == "win32":
        pytest.skip("Windows has no read-only folders in this sense")
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:  # tmp_path is closed to all but its owner
        folder = Path(folder)
        folder.chmod(0o755)

        def drop():
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o555 if path.is_dir() else 0o444)
            if root:
                os.seteuid(65534)

        yield folder, drop
        if root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def test_read_only_folder(half_way, no_rights):
    config, unbroken, run = half_way
    train, val, test = vae_utils.get_dataloaders(config)
    before = contents(run)
    folder, drop = no_rights
    for source in (unbroken, run):
        shutil.copytree(source, folder / source.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae_utils, "get_dataloaders", lambda *args: (train, val, test))
        drop()
        for name in ("run", "new"):
            with pytest.raises(OSError) as caught:
                fit(config, out_dir=folder / name)
            assert str(folder / name) in str(caught.value)
            assert "choose another folder" in str(caught.value)
        assert len(fit(config, out_dir=folder / "unbroken").history) == 3  # reading needs no rights
    assert_same(contents(folder / "run"), before)


def test_folder_is_a_file(tiny_data, tiny_config, tmp_path, no_figures):
    (tmp_path / "file").write_text("mine")
    for out_dir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError) as caught:
            fit(tiny_config(), out_dir=out_dir)
        assert str(out_dir) in str(caught.value)
        assert "choose another folder" in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


def test_nan_stops_with_epoch_and_rate(half_way, monkeypatch):
    config, _, folder = half_way
    before = {name: (folder / name).read_bytes() for name in ("best.pt", "last.pt")}
    monkeypatch.setattr(vae_utils, "learning_rate", lambda config, progress: 1e30)
    with pytest.raises(FloatingPointError) as caught:
        fit(config, out_dir=folder)
    message = str(caught.value)
    assert "epoch 3, at a learning rate up to 0.001" in message
    assert "try a smaller lr" in message
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert len(load_run(folder).history) == 2


@pytest.mark.parametrize("epoch", [1, 3])
def test_nan_after_the_last_step_of_an_epoch(
    tiny_data, tiny_config, tmp_path, no_figures, monkeypatch, epoch
):
    config, rate = tiny_config(), vae_utils.learning_rate
    last_step = (epoch - 0.2) / config.epochs - 1e-6
    monkeypatch.setattr(
        vae_utils, "learning_rate", lambda c, p: 1e30 if p > last_step else rate(c, p)
    )
    with pytest.raises(FloatingPointError, match=f"epoch {epoch}"):
        fit(config, out_dir=tmp_path / "run")
    monkeypatch.setattr(vae_utils, "learning_rate", rate)
    run = fit(config, out_dir=tmp_path / "run")  # with a rate that suits, the run goes on
    assert [row["epoch"] for row in run.history] == [1, 2, 3]
    assert run.history[-1]["val_loss"] < float("inf")


def test_a_rate_that_is_far_too_high_leaves_no_broken_run(
    tiny_data, tiny_config, tmp_path, monkeypatch
):
    config = tiny_config(lr=10.0, schedule="constant", epochs=30, hidden=(32,) * 8)
    monkeypatch.setattr(vae_utils, "CLIP", float("inf"))  # which might hold it
    with pytest.raises(FloatingPointError, match=r"epoch \d+"):
        fit(config, out_dir=tmp_path / "run")
    saved = tmp_path / "run" / "best.pt"
    if saved.exists():
        assert all(tensor.isfinite().all() for tensor in load_run(saved.parent).model.parameters())
