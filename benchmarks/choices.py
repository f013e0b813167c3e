"""What each choice in the recipe of best-40d gives: one thing changed, three seeds.

    python benchmarks/choices.py        (about twenty minutes on two cores)

Trained on 54,000 images, drawn black or white anew each epoch, and measured on one fixed draw of
the other 6,000, with 100 codes each: the test images choose nothing. The loop is that of vae.fit
(KL by its formula), with gradients clipped as vae_likelihood.train clips them. Writes choices.json.
"""

import json
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from bench import machine  # noqa: E402

import vae_utils as vae  # noqa: E402
from vae_likelihood import CLIP, objective, step  # noqa: E402
from vae_runs import in_parallel, write_file  # noqa: E402

NET = vae.PRESETS["best-40d"]
CHOICES = {  # changes to the settings, and arguments of trained()
    "as-it-is": ({}, {}),
    "width-768": ({"hidden": (768,) * 3}, {}),
    "third-residual-block": ({"hidden": (512,) * 4}, {}),
    "warm-up-6-epochs": ({"warmup_epochs": 6}, {}),
    "straight-line-down": ({"schedule": "linear"}, {}),
    "clipped-at-300": ({}, {"clip": 300.0}),
    "mean-of-the-weights": ({}, {"average": True}),
    "iwae-in-the-last-4-epochs": ({}, {"finish": 4}),
}
SEEDS = (0, 1, 2)


def trained(config, clip=CLIP, average=False, finish=0):
    """Train; the bound on the 6,000 images (nats, k = 100), seconds, and parameters.

    ``average``: what counts in the end is a running mean of the weights, over some 1,000 steps.
    ``finish``: so many of the epochs with the iwae objective, k = 5, on half batches.
    """
    train, val, _ = vae.get_dataloaders(config)
    torch.manual_seed(config.seed)
    model = vae.build_model(config)
    vae.start_from_mean(model, train.images.mean(0))
    optimizer = vae.make_optimizer(model, config)
    vae.CLIP = clip  # train_one_epoch reads it there
    result = model
    if average:
        result = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        optimizer.register_step_post_hook(lambda *_: result.update_parameters(model))
    epochs, start = vae.epochs_of(config), time.perf_counter()
    finish = min(finish, epochs)
    for epoch in range(1, epochs - finish + 1):
        vae.train_one_epoch(model, train, optimizer, config, epoch)
    train.batch_size //= 2
    for epoch in range(epochs - finish, epochs):
        for batch, (x, _) in enumerate(train):
            progress = (epoch + batch / len(train)) / epochs
            optimizer.param_groups[0]["lr"] = vae.learning_rate(config, progress)
            with vae.autocast(config):
                loss = objective(model, vae.augment(x, config), k=5, iwae=True)
            step(loss, model, optimizer, clip)
    seconds = time.perf_counter() - start
    result = result.module if average else result
    with vae.autocast(config):
        bound = vae.iwae_bound(result.eval(), vae.binary(val.images), 100)
    return bound.mean().item(), seconds, sum(weight.numel() for weight in model.parameters())


def main():
    configs, how = [], {}  # how a run is trained, by its name
    for choice, (changes, arguments) in CHOICES.items():
        for seed in SEEDS:
            how[f"{choice}-{seed}"] = arguments
            configs.append(NET.replace(name=f"{choice}-{seed}", seed=seed, **changes))
    done = in_parallel(lambda config: trained(config, **how[config.name]), configs)
    about = {"machine": machine(), "each run": "one thread", "date": str(date.today())}
    found = {"about": about | {"epochs": NET.epochs}, "choices": {}}
    for choice in CHOICES:
        kept = [done[f"{choice}-{seed}"] for seed in SEEDS if f"{choice}-{seed}" in done]
        if len(kept) < len(SEEDS):
            continue  # in_parallel has said why
        bounds, seconds, parameters = zip(*kept)
        found["choices"][choice] = {
            "bound_k100": statistics.mean(bounds), "sd": statistics.stdev(bounds),
            "seconds": statistics.median(seconds), "parameters": parameters[0],
        }  # fmt: skip
    text = json.dumps(found, indent=1)
    print(text)
    if not vae.FAST:
        write_file(HERE / "choices.json", (text + "\n").encode())


if __name__ == "__main__":
    main()
