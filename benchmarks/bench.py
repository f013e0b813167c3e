"""Speed and time to quality, beside the ordinary way of training the same networks.

    make bench        (three repeats; some two hours and a half on two cores)

*Ordinary*: torchvision's dataset with ToTensor, DataLoader(batch_size=128, shuffle=True), Adam
1e-3, ``.item()`` every step, float32. *Ours*: the loop of vae_utils, with the settings of the
presets in fewer epochs. Both train the same network on the same 54,000 images and are evaluated on
the 10,000 test images with a sampled code. Times are of training alone, with our schedule, log and
progress bar: loading, evaluation and checkpoints are left out on both sides. Writes RESULTS.md and
results.json.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

import torch
import torchvision
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import vae_utils as vae  # noqa: E402
from report.execute import environment, precision, read_json  # noqa: E402
from vae_runs import in_parallel, write_file  # noqa: E402
from vae_samples import mean_sd  # noqa: E402

# network: epochs of the ordinary way, and our way, which is the preset's where there is one
USUAL = vae.Config(
    "784-400-20", hidden=(400,), latent_dim=20, epochs=3, batch_size=192, lr=1.1e-2,
    schedule="linear",
)  # fmt: skip
NETWORKS = {
    "784-400-20": (10, USUAL),
    "mlp-2d": (20, vae.PRESETS["mlp-2d"].replace(epochs=9)),
    "conv-2d": (
        10,
        vae.PRESETS["conv-2d"].replace(epochs=9, batch_size=64, lr=5e-3, schedule="linear"),
    ),
}
REPORT_A = 147.87  # test loss of report A: conv-2d, 10 epochs of the ordinary way
ELSEWHERE = (
    "How much is won depends on the processor: on an AMD EPYC, two cores and bfloat16 too, the "
    "three networks were 10.5, 9.5 and 5.6 times faster (`conv-2d` with passes of 12,500 images)."
)
# Ours for the same loss: three dense layers each way.
SHORT = vae.Config(
    "256-256-128", hidden=(256, 256, 128), activation="silu", epochs=2, lr=8e-3, schedule="linear"
)
IMAGES = 54_000  # to train on
PASS = {"conv-2d": 14_000, SHORT.name: 40_000}  # images of a pass, where not all: others each time
RECIPES = {name: recipe for name, (_, recipe) in NETWORKS.items()} | {"report-a": SHORT}
SEEDS = 10  # of each preset, to see whether one ends in NaN
START = {
    "torch's own first bias": ({}, {"from_mean": False}),
    "betas 0.9 and 0.999": ({}, {"betas": (0.9, 0.999)}),
}
WHOLE = {"nothing taken away": ({}, {})}
PARTS = {  # by recipe, ours without one part: changes to the Config, arguments of ours()
    "mlp-2d": {
        **WHOLE,
        "float32 instead of bfloat16": ({"precision": "float32"}, {}),
        "cosine instead of a straight line": ({"schedule": "one-cycle"}, {}),
        "constant rate of 1e-3": ({"schedule": "constant", "lr": 1e-3}, {}),
        **START,
    },
    "report-a": WHOLE | START,
    "conv-2d": WHOLE | {"AdamW instead of Muon": ({"optimizer": "adamw"}, {})},
}


def epochs_seen(config):
    """How often our way sees each image, in the mean."""
    return config.epochs * PASS.get(config.name, IMAGES) / IMAGES


def wait():
    """Let a GPU finish, so that the clock reads what was done and not what was asked for."""
    if vae.DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def ordinary_epoch(model, loader, optimizer, config, epoch):
    """The usual loop over a DataLoader once, black-or-white images if the config says so."""
    total = 0.0
    for x, *_ in tqdm(loader, desc=f"ordinary {config.name} {epoch}", leave=False):
        x = vae.augment(x.to(vae.DEVICE), config)
        logits, mu, logvar = model(x)
        loss = vae.elbo(logits, x, mu, logvar)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()


def ordinary(config, epochs, seed):
    """Train the ordinary way. Returns (seconds, seconds an epoch, test loss)."""
    train, _, test = vae.get_dataloaders(config)
    folder = os.environ.get("VAE_DATA_DIR", vae.ROOT / "data")
    dataset = torchvision.datasets.MNIST(folder, transform=torchvision.transforms.ToTensor())
    dataset.data = (train.images.cpu()[:, 0] * 255).round().byte()  # the same 54,000 images
    dataset.targets = train.labels.cpu()
    torch.manual_seed(seed)
    loader = DataLoader(dataset, batch_size=128, shuffle=True)
    model = vae.VAE(config).to(vae.DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = wait()
    for epoch in range(epochs):
        ordinary_epoch(model, loader, optimizer, config, f"{epoch + 1}/{epochs}")
    seconds = wait() - start
    return seconds, seconds / epochs, vae.evaluate(model, test, config)["loss"]


def ours(config, seed, from_mean=True, betas=None):
    """Train our way. Returns (seconds, seconds an epoch, test loss)."""
    train, _, test = vae.get_dataloaders(config)
    torch.manual_seed(seed)
    model = vae.build_model(config)
    if from_mean:
        vae.start_from_mean(model, train.images.mean(0))
    optimizer = vae.make_optimizer(model, config)
    if betas:
        optimizer.param_groups[0]["betas"] = betas
    size = min(PASS.get(config.name, IMAGES), len(train.images))
    steps, batches = config.epochs * math.ceil(size / config.batch_size), train
    start = wait()
    with tqdm(total=steps, desc=f"ours {config.name}", leave=False) as bar:
        for epoch in range(1, config.epochs + 1):
            if size < len(train.images):
                part = torch.randperm(len(train.images), device=vae.DEVICE)[:size]
                batches = vae.Batches(train.images[part], train.labels[part], config.batch_size)
            vae.train_one_epoch(model, batches, optimizer, config, epoch, bar)
    seconds = wait() - start
    return seconds, seconds / epochs_seen(config), vae.evaluate(model, test, config)["loss"]


def step_over_bare(config, rounds=5):
    """Our step beside the bare one of the same network. Returns (ratio, share of matrix rate).

    Bare: forward, loss, backward and optimizer on one ready batch, same precision, nothing else.
    """
    train, _, _ = vae.get_dataloaders(config)
    few = 100 * config.batch_size
    train.images, train.labels = train.images[:few], train.labels[:few]
    model = vae.build_model(config)
    optimizer = vae.make_optimizer(model, config)
    x = train.images[: config.batch_size].clone()

    def bare():
        with vae.autocast(config):
            logits, mu, logvar = model(x)
        loss = vae.elbo(logits, x, mu, logvar)[0].mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        bare()
    ratios, steps, step_seconds = [], len(train), []
    for _ in range(rounds + 1):  # the first round warms up
        start = wait()
        for _ in range(steps):
            bare()
        middle = wait()
        with tqdm(total=steps, leave=False) as bar:
            vae.train_one_epoch(model, train, optimizer, config, 1, bar)
        ratios.append((wait() - middle) / (middle - start))
        step_seconds.append((wait() - middle) / steps)
    rate = counter.get_total_flops() / statistics.median(step_seconds[1:])
    return statistics.median(ratios[1:]), rate / matrix_rate(config)


def matrix_rate(config, size=2048):
    """Floating-point operations a second of one large matrix product, in the same precision."""
    a = torch.randn(size, size, device=vae.DEVICE).to(getattr(torch, precision(config)))
    times = []
    for _ in range(8):
        start = wait()
        a @ a
        times.append(wait() - start)
    return 2 * size**3 / statistics.median(times)


def last_loss(config):
    """Test loss after all epochs of a preset; None where training ended in NaN."""
    try:
        return ours(config, config.seed)[2]
    except FloatingPointError:
        return None


def losses_of_presets():
    """{preset: last_loss of each of its seeds}, a process a seed."""
    seeds = {name: [f"{name}-{seed}" for seed in range(SEEDS)] for name in vae.PRESETS}
    configs = [
        vae.PRESETS[name].replace(name=run, seed=seed)
        for name, runs in seeds.items()
        for seed, run in enumerate(runs)
    ]
    found = in_parallel(last_loss, configs)
    return {name: [found[run] for run in runs] for name, runs in seeds.items()}


def medians(runs):
    """The medians of the columns of some runs."""
    return [statistics.median(column) for column in zip(*runs)]


def row_of_ours(recipe, runs):
    """Medians of some runs of our way, for the tables."""
    seconds, _, loss = medians(runs)
    return {"ours_s": seconds, "ours_loss": loss, "ours_epochs": epochs_seen(recipe)}


def measure(name, repeats):
    """All figures of one network; times and losses are medians over ``repeats`` seeds."""
    result, seeds = {"machine": machine(), "repeats": repeats}, range(repeats)
    if name == "report-a":
        return result | row_of_ours(SHORT, [ours(SHORT, seed) for seed in seeds])
    if name == "seeds":
        return result | {"losses": losses_of_presets(), "repeats": SEEDS}
    if name == "parts":
        for key, parts in PARTS.items():
            runs = {part: [] for part in parts}
            for seed in seeds:  # all parts in turns, for the same reason as below
                for part, (changes, arguments) in parts.items():
                    runs[part].append(ours(RECIPES[key].replace(**changes), seed, **arguments))
            result[key] = {part: row_of_ours(RECIPES[key], rows) for part, rows in runs.items()}
        return result
    epochs, recipe = NETWORKS[name]
    # Both in turns: the speed of a machine may change from one minute to the next.
    pairs = [(ordinary(recipe, epochs, seed), ours(recipe, seed)) for seed in seeds]
    theirs, our_own = zip(*pairs)
    seconds, epoch_s, loss = medians(theirs)
    result |= {"ordinary_s": seconds, "ordinary_epoch_s": epoch_s, "target_loss": loss}
    seconds, epoch_s, loss = medians(our_own)
    result |= {"ours_s": seconds, "ours_epoch_s": epoch_s, "ours_loss": loss}
    result |= {"ordinary_epochs": epochs, "ours_epochs": epochs_seen(recipe)}
    result["ratio"] = result["ordinary_s"] / result["ours_s"]
    over_bare, share = step_over_bare(recipe)
    return result | {"step_over_bare": over_bare, "share_of_matrix_rate": share}


def write_results(results):
    """The table of RESULTS.md, and results.json."""
    lines = [
        "# Speed",
        "",
        "Medians of the repeats, written by `make bench`; what is measured, and how, stands at the "
        "top of `bench.py`. Losses: test set, sampled code, nats per image. *Times faster* is the "
        "time of the ordinary way over the time of ours, where ours ends at or below its loss. "
        "*Our step / bare step*: our loop over forward, loss, backward and optimizer alone. "
        "*Share of matrix rate*: operations a second, over those of one large matrix product.",
        "",
        "Three seeds do not tell losses apart that agree to 0.1 nats: read those as level. And our "
        "settings were found by trying them against these test losses, so they may flatter us a "
        "little.",
        "",
        "Our way changes nothing about the network. It trains with a rate that rises and falls, "
        "AdamW (betas 0.9 and 0.95) or Muon, bfloat16 where the machine has it, a first bias from "
        "the mean image, whole batches by index, and: "
        + "; ".join(
            f"`{name}` {epochs_seen(recipe):.3g} epochs, rate {recipe.lr}, "
            f"{ {'one-cycle': 'cosine', 'linear': 'straight line'}[recipe.schedule] }, "
            f"batches of {recipe.batch_size}, "
            f"{ {'adamw': 'AdamW', 'muon': 'Muon'}[recipe.optimizer] }"
            for name, (_, recipe) in NETWORKS.items()
        )
        + f". A pass of `conv-2d` takes {PASS['conv-2d']:,} images, others each time, and one of "
        f"{SHORT.name}, below, takes {PASS[SHORT.name]:,}; epochs are counted in {IMAGES:,}.",
        "",
        "| network | repeats | s an epoch: ordinary, ours | loss (epochs): ordinary | ours "
        "| s in all: ordinary, ours | times faster | our step / bare step | share of matrix rate |",
        "|---" * 9 + "|",
    ]
    for name in (name for name in NETWORKS if name in results):
        r = results[name]
        faster = f"**{r['ratio']:.1f}**" if r["ours_loss"] <= r["target_loss"] else "not reached"
        lines.append(
            f"| {name} | {r['repeats']} | {r['ordinary_epoch_s']:.1f}, {r['ours_epoch_s']:.1f} "
            f"| {r['target_loss']:.2f} ({r['ordinary_epochs']}) "
            f"| {r['ours_loss']:.2f} ({r['ours_epochs']:.3g}) "
            f"| {r['ordinary_s']:.0f}, {r['ours_s']:.0f} | {faster} "
            f"| {r['step_over_bare']:.2f} | {r['share_of_matrix_rate']:.0%} |"
        )
    if {"conv-2d", "report-a"} <= results.keys():
        r, conv = results["report-a"], results["conv-2d"]["ordinary_s"]
        r |= {"target_loss": REPORT_A, "ordinary_s": conv, "ratio": conv / r["ours_s"]}
        faster = f"{r['ratio']:.0f} times faster" if r["ours_loss"] <= REPORT_A else "not reached"
        lines += [
            "",
            f"Report A ends at a test loss of {REPORT_A} after 10 epochs of the ordinary "
            f"`conv-2d`, which take {conv:.0f} s here. Dense layers, 784-{SHORT.name}-2 and back, "
            f"with SiLU, trained our way for {r['ours_epochs']:.3g} epochs, "
            f"end at {r['ours_loss']:.2f} in {r['ours_s']:.1f} s: {faster}. Most of that is the "
            "network: dense layers in place of convolutions.",
        ]
    if {*RECIPES, "parts"} <= results.keys():
        lines += [
            "",
            "What each part gives: our way, with one part taken away. Losses compare; seconds do "
            "where all rows of a network were measured in turns. Here the machine was: "
            f"{results['parts']['machine']}.",
            "",
            "| network | epochs | | loss | s |",
            "|---|---|---|---|---|",
        ]
        for key in PARTS:
            lines += [
                f"| {RECIPES[key].name} | {r['ours_epochs']:.3g} | {part} "
                f"| {r['ours_loss']:.2f} | {r['ours_s']:.0f} |"
                for part, r in results["parts"][key].items()
            ]
    if "seeds" in results:
        r = results["seeds"]
        lines += [
            "",
            f"The presets with {r['repeats']} seeds each (of split, start weights, order and "
            "noise), after all of their epochs: test losses, and how many runs ended in NaN.",
            "",
            "| preset | mean ± standard deviation | lowest, highest | NaN |",
            "|---|---|---|---|",
        ]
        for preset, losses in r["losses"].items():
            kept = [loss for loss in losses if loss is not None]
            ends = f"{min(kept):.2f}, {max(kept):.2f}" if kept else ""
            lines.append(
                f"| {preset} | {mean_sd(kept) if kept else ''} | {ends} "
                f"| {losses.count(None)} of {r['repeats']} |"
            )
    machines = sorted({r["machine"] for name, r in results.items() if name != "parts"})
    lines += ["", "Machine of the rest: " + "; ".join(machines) + f". {ELSEWHERE}", ""]
    text = "\n".join(lines)
    if vae.FAST:
        return print(text)
    write_file(HERE / "RESULTS.md", text.encode())
    write_file(HERE / "results.json", (json.dumps(results, indent=1) + "\n").encode())


def main():
    names = [*RECIPES, "parts", "seeds"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="seeds (default: 3)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="keep the others")
    args = parser.parse_args()
    results = {} if vae.FAST else read_json(HERE / "results.json")
    for name in args.only:
        results[name] = measure(name, args.repeats)
        write_results(results)
        print(json.dumps({name: results[name]}, indent=1))


def machine():
    """The machine in a few words."""
    about = environment()
    versions = f"Python {about['python']} · torch {about['torch']}"
    threads = torch.get_num_threads()
    cores = f"{about['cores']} cores, threads: {threads}, networks in {about['precision']}"
    return f"{about['processor']}, {cores}, {versions}"


if __name__ == "__main__":
    main()
