"""The module from the shell: flags, messages, the folder that a run leaves."""

import dataclasses
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vae_shell
import vae_utils
from vae_utils import Config

MODULE = vae_utils.ROOT / "vae_utils.py"
TINY = ["--hidden=32", "--batch-size=50", "--val-fraction=0.2", "--precision=float32"]


def refused(capsys, *flags, code=2):
    """The one line on stderr of a call that exits with ``code``."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        vae_shell.main(list(flags))
    out, err = capsys.readouterr()
    assert caught.value.code == code
    assert out == ""
    assert err.count("\n") == 1 and err.endswith("\n"), err
    return err


def python(*arguments, executable=sys.executable, **environment):
    """A process of its own, in the checkout; kept outputs of the tests are not its business."""
    return subprocess.run(
        [executable, *arguments],
        cwd=vae_utils.ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--dataset cifar", "dataset='cifar' mnist fashion folder"),
        ("--preset mlp-3d", "--preset mlp-3d mlp-2d mlp-20d conv-2d best-2d best-16d"),
        ("--recon-loss l1", "--recon-loss l1 bce mse cb"),
        ("--architecture resnet", "--architecture resnet mlp residual conv"),
        ("--schedule step", "--schedule step one-cycle linear constant"),
        ("--optimizer sgd", "--optimizer sgd adamw muon"),
        ("--latent-dim 0", "latent_dim=0 whole 1 784"),
        ("--latent-dim two", "--latent-dim two"),
        ("--latent-dim 2.5", "--latent-dim 2.5"),
        ("--val-fraction 1.5", "val_fraction=1.5 0.01 0.9"),
        ("--epochs -1", "epochs=-1 whole 1 10,000"),
        ("--epochs", "--epochs expected"),
        ("--beta -1", "beta=-1.0 0 1,000"),
        ("--beta nan", "beta=nan 0 1,000"),
        ("--lr 1e99", "lr=1e+99 10"),
        ("--hidden 512 -3", "hidden=-3 whole"),
        ("--hidden", "--hidden expected"),
        ("--name a/b", "name='a/b' letters"),
        ("--no-variational", "beta=1.0 variational 0"),
        ("--colour red", "--colour red"),
        ("--epoch 3", "--epoch 3"),
        ("demo", "demo"),
    ],
)
def test_wrong_flag_or_value_exits_2_with_one_line(capsys, tmp_path, flags, words):
    message = refused(capsys, *flags.split(), "--out", str(tmp_path / "run"))
    assert [word for word in words.split() if word not in message] == [], message
    assert not (tmp_path / "run").exists()


def test_wrong_value_from_a_real_shell(tmp_path):
    """And torchvision is not needed: one that does not fit torch cannot be imported."""
    error = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
    (tmp_path / "torchvision.py").write_text(error)
    found = os.pathsep.join((str(tmp_path), os.environ["PYTHONPATH"]))
    flags = ["--val-fraction", "1.5", "--out", str(tmp_path / "run")]
    result = python("-m", "vae_utils", *flags, PYTHONPATH=found)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"error: val_fraction=1\.5 must be .* 0\.9.*\n", result.stderr)
    assert not (tmp_path / "run").exists()


def test_unknown_data_set_in_the_environment(monkeypatch):
    monkeypatch.setenv("VAE_DATASET", "cifar")
    with pytest.raises(SystemExit, match=r"^VAE_DATASET: dataset='cifar' is not known: choose mni"):
        runpy.run_path(str(MODULE))


@pytest.mark.parametrize("name", ["VAE_DATASET", "VAE_OUT_DIR", "VAE_FAST"])
def test_empty_environment_variables_count_as_unset(monkeypatch, name):
    monkeypatch.setenv(name, "")
    module = runpy.run_path(str(MODULE))
    assert (module["DATASET"], module["FAST"]) == ("mnist", False)
    if name == "VAE_OUT_DIR":
        assert module["outputs_dir"]() == vae_utils.ROOT / "outputs" / "mnist"


def test_help_lists_every_field_with_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as caught:
        vae_shell.main(["--help"])
    assert caught.value.code == 0
    flags = re.split(r"\n  (?=-)", capsys.readouterr().out)  # each with its explanation
    for field in dataclasses.fields(Config):
        flag = "--" + field.name.replace("_", "-")
        text = next(text for text in flags if re.match(rf"{flag}[ ,]", text))
        assert text.strip().endswith(f"(default: {field.default})"), text
        assert len(text.split("(default")[0].split()) > 2, f"{flag} is not explained"
    assert any(text.startswith("--preset ") for text in flags)
    assert any(text.startswith("--out ") for text in flags)


def test_flags_reach_the_config(capsys, monkeypatch):
    seen = []

    def fake(config, out_dir=None):
        seen.append((config, out_dir))
        row = dict.fromkeys(vae_utils.HISTORY, 1.0)
        return vae_utils.Run(None, [row] * config.epochs, config, Path("somewhere"))

    monkeypatch.setattr(vae_utils, "fit", fake)
    flags = "--dataset fashion --val-fraction 0.2 --seed 3 --architecture conv --hidden 64 32"
    flags += " --decoder-hidden 8"
    flags += " --latent-dim 5 --activation gelu --no-variational --recon-loss cb --beta 0"
    flags += " --warmup-epochs 2 --binarize --shift 1 --epochs 4 --batch-size 64 --lr 0.01"
    flags += " --schedule constant --optimizer muon --precision float32"
    flags += " --name mine --out here"
    assert vae_shell.main(flags.split()) == 0
    expected = Config(
        "mine", "fashion", 0.2, 3, "conv", (64, 32), (8,), 5, "gelu", False, "cb", 0.0,
        2, True, 1, 4, 64, 0.01, "constant", "muon", "float32",
    )  # fmt: skip
    assert seen == [(expected, "here")]
    seen.clear()
    assert vae_shell.main(["--preset", "mlp-20d", "--beta", "4", "--name", "b4"]) == 0
    assert seen == [(vae_utils.PRESETS["mlp-20d"].replace(name="b4", beta=4.0), None)]
    seen.clear()
    assert vae_shell.main(["--preset", "mlp-20d"]) == 0
    assert seen == [(vae_utils.PRESETS["mlp-20d"], None)]
    seen.clear()
    assert vae_shell.main([]) == 0
    assert seen == [(Config(), None)]


def test_a_changed_preset_wants_a_name_of_its_own(capsys):
    message = refused(capsys, "--preset", "best-2d", "--epochs", "1")
    assert "--name or --out" in message


def test_a_run_leaves_the_folder_of_the_design(tiny_data, tmp_path, capsys):
    out = tmp_path / "demo"
    flags = ["--epochs", "2", "--beta", "0.5", "--out", str(out), *TINY]
    assert vae_shell.main(flags) == 0
    stdout, stderr = capsys.readouterr()
    assert str(out) in stdout and "nats" in stdout
    assert "loss" in stderr and "<" in stderr  # the bar; time left
    figures = [
        f"ep{epoch:03d}_{name}.png"
        for epoch in (0, 1, 2)
        for name in ("a_input", "b_recon", "c_samples", "d_latent2d")
    ]
    files = ["config.json", "history.csv", "best.pt", "last.pt", "report.md", *figures]
    assert set(files) <= {path.name for path in out.iterdir()}
    report = (out / "report.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(Config):
        assert field.name in report
    assert "0.5" in report and "val_loss" in report
    shown = re.findall(r"!\[.+?\]\((.+?)\)", report)
    assert {f"ep002_{name}.png" for name in ("b_recon", "c_samples", "d_latent2d")} <= set(shown)
    assert any("history" in name for name in shown)
    assert all((out / name).exists() for name in shown)
    assert vae_shell.main(flags) == 0  # again: at once
    assert "another run, which differs in beta" in refused(capsys, *flags, "--beta", "2", code=1)


def test_default_folder_is_that_of_the_data_set(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(vae_utils, "draw_run", lambda *args: {})
    flags = ["--dataset", "fashion", "--epochs", "1", "--name", "boots", *TINY]
    assert vae_shell.main(flags) == 0
    assert (tmp_path / "outputs" / "fashion" / "boots" / "best.pt").exists()


def test_no_data_and_unwritable_folders_are_one_line_too(tiny_data, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    flags = ["--epochs", "1", *TINY, "--out"]
    assert "choose another folder" in refused(capsys, *flags, str(tmp_path / "file"), code=1)
    monkeypatch.setattr(vae_utils, "learning_rate", lambda config, progress: 1e30)
    with pytest.raises(SystemExit) as caught:
        vae_shell.main([*flags, str(tmp_path / "nan")])
    assert caught.value.code == 1
    assert "NaN or infinite in epoch 1" in capsys.readouterr().err.splitlines()[-1]


def test_stopped_run_says_how_to_go_on(tiny_data, tmp_path, capsys, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(vae_utils, "draw_run", lambda *args: {})
    with monkeypatch.context() as patch:
        patch.setattr(vae_utils, "train_one_epoch", stop)
        code = vae_shell.main(["--epochs", "1", *TINY, "--out", str(tmp_path / "run")])
    assert code == 130
    out = capsys.readouterr().out
    assert "goes on" in out and "no epoch finished" in out
    assert vae_shell.main(["--epochs", "1", *TINY, "--out", str(tmp_path / "run")]) == 0


# ---------------------------------------------------------------- installations that do not fit


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_ctrl_c_during_the_imports_is_one_line(seconds):
    if sys.platform == "win32":
        pytest.skip("Windows sends no SIGINT to a child")
    command = [sys.executable, "-m", "vae_utils", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=vae_utils.ROOT, **pipes)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "stopped before the first step\n")


def old_python():
    """A Python before 3.11, if this machine has one."""
    names = [shutil.which(f"python3.{minor}") for minor in (9, 10, 8)]
    names += sorted(Path.home().glob(".pyenv/versions/3.9.*/bin/python"))
    for name in filter(None, names):
        probe = "import sys; sys.exit(not (3, 8) <= sys.version_info < (3, 11))"
        if subprocess.run([name, "-c", probe], capture_output=True).returncode == 0:
            return str(name)
    return None


@pytest.mark.parametrize("arguments", [["-m", "vae_utils"], ["-c", "import vae_utils"]])
def test_old_python_gets_one_sentence(arguments):
    executable = old_python()
    if executable is None:
        pytest.skip("this machine has no Python before 3.11")
    result = python(*arguments, executable=executable)
    assert result.returncode == 1
    assert re.search(
        r"Python 3\.\d+ is too old: this course needs Python 3\.11 or newer\.\n\Z",
        result.stderr,
    )
    assert result.stderr.count("\n") == 1
