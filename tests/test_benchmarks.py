"""The benchmark program runs through on a few images, and leaves the measured results alone."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
