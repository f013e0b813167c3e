"""SIGKILL at random moments costs nothing: ``make check-resume``.

Ten configurations are trained from the shell, on a tiny data set: once unbroken, then killed again
and again, each time going on from what the kill left. Every run must end with the weights, the
optimizer, the history and the pictures of the unbroken one, bit for bit.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from conftest import ROOT, idx_files  # which lets Python find the modules of the course
from tqdm import tqdm

import vae_data

CONFIGURATIONS = {
    "plain": "",
    "conv": "--architecture conv --latent-dim 3",
    "residual": "--architecture residual --hidden 64 64",
    "muon": "--optimizer muon --lr 0.004",
    "conv-muon": "--architecture conv --optimizer muon",
    "bfloat16": "--precision bfloat16 --activation silu",
    "augmented": "--binarize --shift 2 --warmup-epochs 3 --beta 2",
    "cb": "--recon-loss cb --activation gelu --latent-dim 1",
    "autoencoder": "--no-variational --beta 0 --recon-loss mse",
    "fashion": "--dataset fashion --latent-dim 16 --schedule constant --seed 7",
}
EVERY = "--epochs 5 --batch-size 50 --hidden 64 --precision float32"  # a later flag counts


def write_data(folder):
    """A tiny data set, and what lets vae_data take it for the real ones."""
    files = idx_files(1500, 100)
    for name in vae_data.DATA_FOLDERS.values():
        (folder / "data" / name / "raw").mkdir(parents=True)
        for file, content in files.items():
            (folder / "data" / name / "raw" / file).write_bytes(content)
    digests = " ".join(hashlib.md5(files[file]).hexdigest() for file in vae_data.DATA_FILES)
    patch = f"import vae_data\nvae_data.MD5 = dict.fromkeys(vae_data.MD5, {digests!r})\n"
    (folder / "sitecustomize.py").write_text(patch)  # Python runs it at its start


def start(options, folder, out):
    """The shell command, as a process."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VAE_")}
    environment |= {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    environment["VAE_DATA_DIR"] = str(folder / "data")
    command = [sys.executable, "-m", "vae_utils", *f"{EVERY} {options}".split(), "--out", str(out)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)


def finish(process, seconds=None):
    """Wait for the end of a process, a good one. TimeoutExpired if it takes longer."""
    _, text = process.communicate(timeout=seconds)
    assert process.returncode == 0, text.decode(errors="replace")


def written(path):
    """When a file was written last; 0 if never."""
    return path.stat().st_mtime_ns if path.exists() else 0


def wait_for_work(process, out, before):
    """Until the run has its folder, and has written config.json in it anew."""
    while process.poll() is None and written(out / "config.json") == before:
        time.sleep(0.01)


def epochs_kept(out):
    """How many epochs a run that goes on will find finished."""
    path = out / "last.pt"
    return torch.load(path, weights_only=True)["epoch"] if path.exists() else 0


def contents(out):
    """All that two equal runs share, by file: how long an epoch took is left out."""
    files = {}
    for path in out.iterdir():
        if path.suffix == ".pt":
            files[path.name] = torch.load(path, weights_only=True)
            for row in files[path.name]["history"]:
                del row["seconds"]
        elif path.name == "history.csv":
            lines = path.read_text().splitlines()
            files[path.name] = [line.rsplit(",", 1)[0] for line in lines]
        elif path.name == "report.md":  # the same table
            text = path.read_text()
            files[path.name] = re.sub(r"^(\| \d.*) \|.*\|$", r"\1", text, flags=re.M)
        elif path.name != ".lock":
            files[path.name] = path.read_bytes()
    return files


def differences(one, other, where):
    """Yields the places where nests of dicts, lists and tensors are not equal to the last bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        yield from (f"{where}/{key}" for key in set(one) ^ set(other))
        for key in set(one) & set(other):
            yield from differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)) and len(one) == len(other):
        for i, pair in enumerate(zip(one, other)):
            yield from differences(*pair, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        if one.dtype != other.dtype or not one.equal(other):
            yield where
    elif one != other:
        yield where


def run_unbroken(options, folder, out):
    """Train without a stop; returns the seconds between the start of the work and its end."""
    process = start(options, folder, out)
    wait_for_work(process, out, 0)
    begin = time.monotonic()
    finish(process)
    return time.monotonic() - begin


def run_and_kill(options, folder, out, moment, longest):
    """Train, go on training, until a random moment. Was the process still there to be killed?"""
    before = written(out / "config.json")
    process = start(options, folder, out)
    if moment.random() < 0.9:  # of the others some hit the imports
        wait_for_work(process, out, before)
    try:
        finish(process, moment.uniform(0, longest))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    return False


def check(name, kills, seed, folder, bar):
    """Kill runs of one configuration so many times; returns the number of runs and what differs."""
    options, moment = CONFIGURATIONS[name], random.Random(f"{seed} {name}")
    unbroken, out = folder / name / "unbroken", folder / name / "killed"
    longest = 2 * run_unbroken(options, folder, unbroken) / kills
    runs, landed, kept, wrong = 0, 0, 0, []
    while landed < kills or out.exists():
        if landed < kills and run_and_kill(options, folder, out, moment, longest):
            landed += 1
            bar.update()
            lost, kept = kept, epochs_kept(out)
            wrong += [f"{name}: {lost} epochs were finished, {kept} are left"] * (kept < lost)
            continue
        finish(start(options, folder, out))
        wrong += differences(contents(out), contents(unbroken), name)
        shutil.rmtree(out)
        runs, kept = runs + 1, 0
    return runs, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="kills a configuration")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10_000, help="of the moments")
    given = parser.parse_args()
    begin, total = time.monotonic(), given.kills * len(CONFIGURATIONS)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=total, unit="kill") as bar:
        write_data(Path(folder))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            arguments = given.kills, given.seed, Path(folder), bar
            results = list(pool.map(lambda name: check(name, *arguments), CONFIGURATIONS))
    wrong = [line for result in results for line in result[1]]
    for line in wrong:
        print("different:", line)
    verdict = f"{len(wrong)} differences" if wrong else "each as the unbroken one, bit for bit"
    runs, seconds = sum(result[0] for result in results), time.monotonic() - begin
    print(f"{total} SIGKILLs over {len(results)} configurations (seed {given.seed}):")
    print(f"{runs} runs in {seconds:.0f} s, {verdict}.")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
