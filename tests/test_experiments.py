"""Many runs at once: in_parallel on local processes, and on two dask workers."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, sys
import joblib
from vae_runs import in_parallel
from vae_utils import Config, fit, load_run, outputs_dir


def train(config):
    fit(config, out_dir=FOLDER / config.name, figures=False)
    return sum(row["seconds"] for row in load_run(FOLDER / config.name).history)


def where(config):
    return os.getpid()


def main(backend):
    global FOLDER
    FOLDER = outputs_dir() / backend
    print("backend", backend)
    configs = [Config(name, hidden=(8,), epochs=2) for name in ("one", "two", "bad")]
    fit(Config("bad", hidden=(4,), epochs=1), out_dir=FOLDER / "bad")  # its folder is taken
    seconds = in_parallel(train, configs)
    written = {name: (FOLDER / name / "last.pt").stat().st_mtime_ns for name in seconds}
    again = in_parallel(train, configs)
    kept = {name: (FOLDER / name / "last.pt").stat().st_mtime_ns for name in seconds}
    many = [Config(f"n{i}", hidden=(8,)) for i in range(8)]
    print(json.dumps({
        "trained": sorted(seconds), "same": again == seconds and kept == written,
        "elsewhere": os.getpid() not in in_parallel(where, many).values(),
    }))


if __name__ == "__main__":
    main("loky")
    if len(sys.argv) > 1:
        from distributed import Client, LocalCluster

        with (
            LocalCluster(
                2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            ) as cluster,
            Client(cluster) as client,
            joblib.parallel_config(backend="dask"),
        ):
            main("dask")
            ran = client.run(lambda dask_worker: len(dask_worker.state.log) > 0)
            print(json.dumps({"workers": len(ran), "busy": sum(ran.values())}))
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the script printed for each backend: its lines, and its numbers."""
    folder = tmp_path_factory.mktemp("runner")
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    dask = ["dask"] if importlib.util.find_spec("distributed") else []
    done = subprocess.run(
        [sys.executable, script, *dask],
        env=os.environ | {"VAE_FAST": "1", "VAE_OUT_DIR": str(folder)},
        capture_output=True, text=True, encoding="utf-8", timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = {}
    for line in done.stdout.splitlines():
        if line.startswith("backend "):
            lines, numbers = parts[line.removeprefix("backend ")] = [], {}
        elif line[0] == "{":
            numbers |= json.loads(line)
        else:
            lines.append(line)
    return parts


def check(lines, numbers):
    """Good runs are trained, once, in other processes; the bad one is named with its cause."""
    assert numbers["trained"] == ["one", "two"]
    assert numbers["same"] and numbers["elsewhere"]
    failed = [line for line in lines if line.startswith("bad failed. ValueError: ")]
    assert len(failed) == 2 and "holds another run" in failed[0]


def test_runs_go_to_processes_and_a_failing_one_is_reported(printed):
    check(*printed["loky"])


def test_the_same_call_runs_on_a_dask_cluster(printed):
    if "dask" not in printed:
        pytest.skip("needs dask.distributed")
    lines, numbers = printed["dask"]
    check(lines, numbers)
    assert (numbers["workers"], numbers["busy"]) == (2, 2)
