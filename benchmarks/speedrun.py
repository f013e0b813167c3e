"""How soon can a laptop have a VAE with a good likelihood?

    python benchmarks/speedrun.py                 both tracks, five seeds, and the ordinary way
    python benchmarks/speedrun.py --tracks 90     one track
    python benchmarks/speedrun.py --no-ordinary   ours alone: to try an idea

The clock runs from data in memory to the trained model. Then, off the clock, log p(x) of the 10,000
test images (one fixed draw, black or white) is bounded with k = 500 codes each: the mean must be at
most 90.0 nats, or 87.0 on the second track, for every seed. One stochastic layer, all 60,000
training images drawn anew each epoch, and nothing chosen by the test images. speedrun.json keeps
what a whole run found. To try for a record, change RECIPES or vae_likelihood.train.

The ordinary way: DataLoader, Adam 1e-3, float32, batches of 128, the usual loop; the network
784-400-20 and that of the track. Every few epochs the clock is stopped for a look at the bound.
"""

import argparse
import json
import statistics
import sys
from datetime import date
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from bench import machine, ordinary_epoch, wait  # noqa: E402
from likelihood import measure  # noqa: E402

import vae_utils as vae  # noqa: E402
from vae_likelihood import objective, train  # noqa: E402

RECIPES = {
    "90": vae.PRESETS["best-40d"].replace(name="track-90", epochs=14),
    "87": vae.PRESETS["best-40d"].replace(name="track-87", epochs=60),
}
USUAL = vae.Config("784-400-20", hidden=(400,), latent_dim=20, binarize=True)
LOOK, LONGEST = 5, 60  # the ordinary way: epochs between two looks at the bound, and at most


def flops(config):
    """Floating-point operations of a training run, without those of the optimizer."""
    model, x = vae.VAE(config), torch.zeros(config.batch_size, 1, 28, 28)
    with FlopCounterMode(display=False) as counter:
        objective(model, x).backward()
    return counter.get_total_flops() * config.epochs * 60_000 / config.batch_size


def ours(config, seed):
    """Returns (seconds, bound)."""
    model, seconds = train(config, seed=seed)
    return seconds, measure(model, None, config)["bound_k500"]


def ordinary(config, goal, few=2000):
    """The usual loop until the bound reaches ``goal``: (seconds, bound, epochs).

    The looks on the way use the first ``few`` test images and k = 100, which flatters nobody by
    more than some tenths; the last one is as ours.
    """
    train, val, test = vae.get_dataloaders(config)
    images = torch.cat((train.images, val.images))
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(images), batch_size=128, shuffle=True)
    model = vae.VAE(config).to(vae.DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x_few, seconds = vae.binary(test.images)[:few], 0.0
    for epoch in range(1, LONGEST + 1):
        start = wait()
        ordinary_epoch(model, loader, optimizer, config, epoch)
        seconds += wait() - start
        near = epoch % LOOK == 0 and vae.iwae_bound(model, x_few, 100).mean() <= goal + 0.3
        if near or epoch == LONGEST:
            bound = measure(model, None, config)["bound_k500"]
            if bound <= goal:
                break
    return seconds, bound, epoch


def run_track(track, seeds, with_ordinary):
    """All figures of a track."""
    config, goal = RECIPES[track], float(track)
    runs = [ours(config, seed) for seed in range(seeds)]
    seconds, bounds = zip(*runs)
    result = {
        "bound_k500": statistics.mean(bounds), "highest_bound": max(bounds), "bounds": bounds,
        "ours_s": statistics.median(seconds), "seconds": seconds, "epochs": config.epochs,
        "flops": flops(config), "machine": machine(), "date": str(date.today()),
    }  # fmt: skip
    print(
        f"| {result['date']} | {track}.0 | {result['bound_k500']:.2f} ({max(bounds):.2f}) "
        f"| {result['ours_s']:.1f} | {config.epochs} | {result['flops'] / 1e12:.1f} |"
    )
    if with_ordinary:
        for network in (USUAL, config):
            took, bound, epochs = ordinary(network, goal)
            found = {"seconds": took, "bound_k500": bound, "epochs": epochs}
            result[f"ordinary {network.name}"] = found
            print(network.name, json.dumps(found))
        reached = [
            found["seconds"]
            for key, found in result.items()
            if key.startswith("ordinary") and found["bound_k500"] <= goal
        ]
        if reached:
            result["ordinary_s"] = min(reached)
            result["ratio"] = min(reached) / result["ours_s"]
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracks", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=5, help="so many (default: 5)")
    parser.add_argument("--ordinary", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    print("| date | track | bound: mean (highest) | seconds: median | epochs | 10¹² operations |")
    path = HERE / "speedrun.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for track in args.tracks:
        results[f"track-{track}"] = run_track(track, args.seeds, args.ordinary)
        if args.ordinary and not vae.FAST:  # a whole record, in one go on one machine
            path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
