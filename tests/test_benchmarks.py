"""The benchmark programs run through on a few images, and leave the measured results alone."""

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

import vae_utils


def test_benchmark_of_one_network():
    kept = [ROOT / "benchmarks" / name for name in ("RESULTS.md", "results.json")]
    before = [path.read_bytes() for path in kept]
    done = subprocess.run(
        [sys.executable, "benchmarks/bench.py", "--repeats", "1", "--only", "784-400-20"],
        cwd=ROOT, env=os.environ | {"VAE_FAST": "1"},
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| 784-400-20"))
    assert len(row.split("|")) == 11
    for name in ("ordinary_epoch_s", "ours_epoch_s", "target_loss", "ratio", "step_over_bare"):
        assert f'"{name}": ' in done.stdout
    assert [path.read_bytes() for path in kept] == before


def test_a_pass_may_be_a_part_of_the_images_others_each_time(monkeypatch, tiny_data):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import bench

    config, seen = bench.SHORT.replace(hidden=(8,), epochs=3), []
    monkeypatch.setattr(vae_utils, "train_one_epoch", lambda _, batches, *__: seen.append(batches))
    monkeypatch.setitem(bench.PASS, config.name, 90)
    bench.ours(config, seed=0)
    assert [len(batches.images) for batches in seen] == [90] * 3
    assert not torch.equal(seen[0].images.sort(0).values, seen[1].images.sort(0).values)
    assert bench.epochs_seen(config) * bench.IMAGES == 3 * 90


def test_seeds_that_end_in_nan_are_counted(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import bench

    def ours(config, seed):
        if config.name == "mlp-2d-9":
            raise FloatingPointError("NaN")
        return 0, 0, 100.0 + seed

    def one_after_the_other(task, configs):
        return {config.name: task(config) for config in configs}

    monkeypatch.setattr(bench, "ours", ours)
    monkeypatch.setattr(bench, "in_parallel", one_after_the_other)
    monkeypatch.setattr(vae_utils, "FAST", True)  # prints, and leaves the measured ones alone
    bench.write_results({"seeds": bench.measure("seeds", 3)})
    rows = [line for line in capsys.readouterr().out.splitlines() if "| 100.00, " in line]
    assert rows[0] == "| mlp-2d | 104.00 ± 2.74 | 100.00, 108.00 | 1 of 10 |"
    assert rows[1] == "| mlp-20d | 104.50 ± 3.03 | 100.00, 109.00 | 0 of 10 |" and len(rows) == 6
    monkeypatch.setattr(bench, "in_parallel", lambda *_: {})  # runs that failed in another way
    with pytest.raises(KeyError, match="mlp-2d-0"):
        bench.losses_of_presets()


def test_a_row_of_the_likelihood_chapter_is_trained_and_measured():
    kept = (ROOT / "benchmarks" / "likelihood.json").read_text()
    script = [sys.executable, "benchmarks/likelihood.py", "burda-iwae-5", "--seeds", "3"]
    done = subprocess.run(
        script, cwd=ROOT, env=os.environ | {"VAE_FAST": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r'burda-iwae-5 3 \{"bound_k500": \d+\.', done.stdout)
    assert (ROOT / "benchmarks" / "likelihood.json").read_text() == kept  # a FAST run leaves no row


def test_choices_are_other_runs_of_one_network(monkeypatch, tiny_data):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import choices

    monkeypatch.setattr(vae_utils, "CLIP", vae_utils.CLIP)  # set by choices, and put back here
    config = choices.NET.replace(hidden=(8,), latent_dim=2, epochs=2)
    ways = ({}, {"average": True}, {"finish": 1}, {"clip": 0.1})
    bounds = [choices.trained(config, **how)[0] for how in ways]
    assert len(set(bounds)) == 4 and all(50 < bound < 1000 for bound in bounds)


def test_the_ordinary_way_stops_at_the_goal_or_after_the_longest_run(monkeypatch, tiny_data):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import speedrun

    bounds = iter((95.0, 91.0, 89.5, 86.5, 1.0))
    monkeypatch.setattr(speedrun, "measure", lambda *_: {"bound_k500": next(bounds)})
    monkeypatch.setattr(speedrun, "LOOK", 1)
    few = speedrun.USUAL.replace(hidden=(8,), latent_dim=2)
    monkeypatch.setattr(vae_utils, "iwae_bound", lambda *_: torch.zeros(1))  # near, at each look
    found = speedrun.ordinary(few, [90.0, 87.0])
    assert [(took["bound_k500"], took["epochs"]) for took in found.values()] == [
        (89.5, 3),
        (86.5, 4),
    ]
    assert found[90.0]["seconds"] < found[87.0]["seconds"]
    monkeypatch.setattr(speedrun, "LONGEST", 2)
    bounds = iter((95.0, 91.0))
    assert speedrun.ordinary(few, [90.0])[90.0]["bound_k500"] == 91.0  # not reached


def test_a_track_trains_a_prior_with_its_model_anew_for_each_seed(monkeypatch, tiny_data):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import speedrun

    priors = []

    def measure(model, prior, config):
        priors.append(prior)
        return {"bound_k500": 80.0 + len(priors)}

    monkeypatch.setattr(speedrun, "measure", measure)
    few = speedrun.RECIPES["90"].replace(hidden=(8,), decoder_hidden=(), latent_dim=4, epochs=1)
    monkeypatch.setitem(speedrun.RECIPES, "90", few)
    result = speedrun.ours("90", seeds=2)
    assert result["bounds"] == [81.0, 82.0] and result["highest_bound"] == 82.0
    assert result["flops"] > 0
    first, second = (prior.layers[0].net[-1].weight for prior in priors)
    assert first.any() and second.any()  # they start at 0, and were trained
    assert not torch.equal(first, second)
