"""diagnose: the faulty runs of 10_pitfalls on seeds it was not made from, healthy runs, the shell.

faulty_runs.py made faulty_runs.json.
"""

import json
import math
import re
from pathlib import Path

import pytest

import vae_shell
import vae_utils
from vae_diagnose import diagnose, verdict

KEPT = json.loads((Path(__file__).parent / "faulty_runs.json").read_text(encoding="utf-8"))
TRUTH, SEEDS = KEPT["truth"], KEPT["seeds"]
ABOUT = {"batch_size": 128, "latent_dim": 8}
UNSEEN = [seed for seed in SEEDS if seed != "0"]  # the rules were set on seed 0


def first(rows, **about):
    """The name that comes first, or None."""
    return next(iter(diagnose(rows, **about)), (None,))[0]


def test_the_right_mistake_comes_first_for_nine_in_ten_unseen_runs():
    asked = [(name, seed) for name in TRUTH for seed in UNSEEN if TRUTH[name]]
    wrong = [
        (name, seed, found)
        for name, seed in asked
        if (found := first(SEEDS[seed][name], **ABOUT)) != TRUTH[name]
    ]
    assert len(asked) >= 40 and len(wrong) <= 0.1 * len(asked), wrong


@pytest.mark.parametrize("seed", UNSEEN)
def test_silent_where_nothing_is_wrong(seed):
    for name in (name for name in TRUTH if TRUTH[name] is None):
        assert diagnose(SEEDS[seed][name], **ABOUT) == []


@pytest.mark.parametrize("name", KEPT["presets"])
@pytest.mark.parametrize("epochs", [1, 2, 5, None])  # None: all of them
def test_silent_on_presets(name, epochs):
    rows = KEPT["presets"][name][:epochs]
    about = {"batch_size": vae_utils.PRESETS[name].batch_size}
    assert diagnose(rows, latent_dim=vae_utils.PRESETS[name].latent_dim, **about) == []
    per_pixel = [{key: value / 784 for key, value in row.items()} for row in rows]
    assert diagnose(per_pixel) == []
    summed = [{key: value * 128 for key, value in row.items()} for row in rows]
    assert diagnose(summed, batch_size=128) == []


def test_without_sigma_and_mu2_what_looks_alike_is_named_together():
    for name in ("kl-over-batch", "kl-of-mean", "eps-once", "peeks"):
        rows = SEEDS[UNSEEN[0]][name]
        plain = [{key: row[key] for key in ("loss", "recon", "kl")} for row in rows]
        assert "or" in first(plain).split(), name


@pytest.mark.parametrize(
    "numbers, words",
    [
        ({"loss": math.nan}, "rate"),
        ({"loss": 0.4}, "averaged over pixels"),
        ({"loss": -5.0}, "wrong sign"),
        ({"loss": 150.0, "recon": 145.0, "kl": -5.0}, "wrong sign"),
        ({"loss": 120.0, "recon": 145.0, "kl": 25.0}, "wrong sign"),
        ({"loss": 110.0, "recon": 110.0, "kl": 90.0}, "no KL"),
        ({"loss": 104.87, "recon": 104.2, "kl": 85.76}, "too small"),
        ({"loss": 207.0, "recon": 206.9, "kl": 0.1}, "collapse"),
        ({"loss": 105.0, "recon": 81.0, "kl": 24.0}, ""),
        ({"loss": 70.0, "recon": 70.0, "kl": 125.0, "beta": 0.0}, ""),  # an autoencoder
        ({"loss": 0.189, "recon": 0.1808, "kl": 0.0082}, ""),  # nats per pixel
        ({"loss": 200.0}, ""),
        ({"loss": 0.189}, ""),
    ],
)
def test_a_few_numbers_are_enough(numbers, words):
    found = first(numbers, batch_size=128)
    assert words in (found or "") and bool(words) == bool(found)


def test_other_losses_have_another_scale():
    assert diagnose({"loss": -4436.0, "recon": -4623.0, "kl": 187.0}, recon_loss="cb") == []
    assert diagnose({"loss": 30.4, "recon": 18.1, "kl": 12.3}, recon_loss="mse") == []


@pytest.mark.parametrize(
    "history, words",
    [
        ([], "no loss"),
        ({}, "no loss"),
        ({"kl": 3.0}, "no loss"),
        ({"loss": None}, "no loss"),
        ([{"loss": 150.0}, {"kl": 3.0}], "not in every row"),
        ({"loss": "150,3"}, "loss is no number: '150,3'"),
        ({"loss": [1.0]}, "loss is no number"),
        ({"loss": 150.0, "sigma": -1.0}, "sigma is negative"),
        ([[150.0, 140.0]], "rows as dicts"),
        (None, "rows as dicts"),
    ],
)
def test_nonsense_is_refused_in_one_line(history, words):
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        diagnose(history)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "table, config, words",
    [
        (b"", "{}", "no loss"),
        (b"a,b\n1,2\n", "{}", "no loss"),
        (b"loss;kl\n150;3\n", "{}", "no loss"),
        (b"loss,kl\n,3\n", "{}", "no loss"),
        (b"loss,kl\nhigh,3\n", "{}", "loss is no number: 'high'"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "{}", "no table"),
        (b"loss,kl\n150,3\n", "{oops", "config.json is damaged"),
        (b"loss,kl\n150,3\n", "[1]", "config.json is damaged"),
        (b"loss,kl\n150,3\n", '{"batch_size": "many"}', "batch_size is no number"),
    ],
)
def test_files_of_nonsense_are_refused_in_one_line(tmp_path, capsys, table, config, words):
    (tmp_path / "history.csv").write_bytes(table)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(SystemExit) as caught:
        vae_shell.main(["--diagnose", str(tmp_path)])
    said = capsys.readouterr().err
    assert caught.value.code == 1 and words in said and said.count("\n") == 1


def test_tables_as_spreadsheets_save_them(tmp_path):
    table = tmp_path / "history.csv"
    table.write_bytes(b"\xef\xbb\xbfloss, recon, kl\r\n150, 145, -5\r\n")
    assert verdict(table).startswith("KL with a wrong sign: ")
    table.write_text("loss,recon,kl\n150,140\n")  # the KL was not logged
    assert verdict(table) == "nothing wrong"


def test_what_is_said_of_a_run_counts_where_no_settings_lie_beside_its_table(tmp_path):
    (tmp_path / "history.csv").write_text("loss,recon,kl\n140.1,140,12.8\n")
    assert diagnose(tmp_path) == []
    (mistake, _), *_ = diagnose(tmp_path, batch_size=128)
    assert mistake == "KL counted too small"


def test_silent_on_healthy_images_of_any_brightness(tmp_path):
    """Rules that rest on the cost of the mean image say nothing where that is not known."""
    (tmp_path / "config.json").write_text('{"dataset": "photos", "latent_dim": 8}')
    for recon in (9.0, 80.0, 500.0):
        table = f"train_loss,train_recon,train_kl\n{recon + 9},{recon},9\n{recon + 1},{recon},1\n"
        (tmp_path / "history.csv").write_text(table)
        assert verdict(tmp_path) == "nothing wrong"
    (tmp_path / "history.csv").write_text("train_loss,train_recon,train_kl\n500,500,9\n")
    assert verdict(tmp_path).startswith("no KL in the loss: ")


def test_a_loss_may_rise_while_beta_does():
    rows = [{"loss": 100.0, "recon": 80.0, "kl": 40.0, "beta": 0.5}]
    rows += [{"loss": 160.0, "recon": 100.0, "kl": 15.0, "beta": 4.0}]
    assert diagnose(rows) == []
    assert first([rows[1], rows[1] | {"loss": 900.0, "kl": 200.0}]) == "learning rate too high"


def test_a_run_from_the_shell(tiny_data, tiny_config, tmp_path, capsys):
    run = vae_utils.fit(tiny_config(epochs=1), figures=False)
    assert vae_shell.main(["--diagnose", str(run.out_dir)]) == 0
    said = capsys.readouterr().out
    assert said == verdict(run.out_dir) + "\n"
    table = tmp_path / "history.csv"
    table.write_text("epoch,train_loss,train_recon,train_kl\n1,nan,nan,nan\n")
    assert vae_shell.main(["--diagnose", str(table)]) == 0
    assert capsys.readouterr().out.startswith("learning rate too high: ")
    table.write_text("epoch,train_loss,train_recon,train_kl\n1,104.9,81.0,23.9\n")
    assert vae_shell.main(["--diagnose", str(table)]) == 0
    assert capsys.readouterr().out == "nothing wrong\n"
    table.write_text("epoch,train_loss,train_recon,train_kl\n1,104.9\n")  # cut short
    assert vae_shell.main(["--diagnose", str(table)]) == 0
    assert capsys.readouterr().out == "nothing wrong\n"
    with pytest.raises(SystemExit) as caught:
        vae_shell.main(["--diagnose", str(tmp_path / "none")])
    assert caught.value.code == 1 and capsys.readouterr().err.startswith("error: ")
