"""The rows of 09_likelihood that take too long for a chapter: trained, measured, kept.

    python benchmarks/likelihood.py              all rows (about two and a half hours on two cores)
    python benchmarks/likelihood.py t190 t600    some rows

Each row trains on all 60,000 images, drawn black or white anew each epoch, and is measured on one
fixed draw of the 10,000 test images. Nothing was chosen on these: recipes were chosen on 54,000 and
6,000 images. Training alone is timed. Every run is written into likelihood.json when it is done.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from bench import machine, wait  # noqa: E402

import vae_utils as vae  # noqa: E402
from vae_likelihood import Flow, train  # noqa: E402
from vae_runs import write_file  # noqa: E402

NET = vae.PRESETS["best-40d"]
BURDA = vae.Config(  # the network of Burda et al. 2016 with one stochastic layer
    "burda", hidden=(200, 200), latent_dim=50, activation="tanh", binarize=True, epochs=10, lr=2e-3
)
ROWS = {  # settings of vae.fit, and what is none
    "t50": {"config": NET},
    "t190": {"config": NET.replace(epochs=74)},
    "t600": {"config": NET.replace(epochs=100), "finish": 24},
    "learned-prior": {"config": NET.replace(epochs=110), "learned": True},
    "fashion": {"config": NET.replace(epochs=74, dataset="fashion"), "seeds": (0,)},
    "burda-1": {"config": BURDA, "seeds": (0,)},
    "burda-vae-5": {"config": BURDA, "seeds": (0,), "k": 5},
    "burda-iwae-5": {"config": BURDA, "seeds": (0,), "k": 5, "iwae": True},
    "burda-vae-50": {"config": BURDA, "seeds": (0,), "k": 50},
    "burda-iwae-50": {"config": BURDA, "seeds": (0,), "k": 50, "iwae": True},
}


def measure(model, prior, config, k=500):
    """Bounds on the fixed draw of the test images, with k codes and with one."""
    x = vae.binary(vae.get_dataloaders(config)[2].images)
    log_prior = prior or vae.log_normal
    torch.manual_seed(0)
    start = wait()
    with vae.autocast(config):
        bound = vae.iwae_bound(model, x, k, log_prior=log_prior)
        seconds = wait() - start
        elbos = [vae.iwae_bound(model, x, 1, log_prior=log_prior) for _ in range(10)]
        mu = torch.cat([model.encode(part)[0].float() for part in x.split(500)])
    return {
        "bound_k500": bound.mean().item(), "se": (bound.std() / len(x) ** 0.5).item(),
        "elbo": torch.stack(elbos).mean().item(), "active_units": int(vae.active_units(mu).sum()),
        "bound_seconds": seconds,
    }  # fmt: skip


def keep(name, seed, found):
    """Write a run into likelihood.json, beside the others."""
    path = HERE / "likelihood.json"
    with FileLock(HERE / ".likelihood.lock"):
        rows = json.loads(path.read_text()) if path.exists() else {}
        rows.setdefault(name, {})[str(seed)] = found
        text = json.dumps(rows, indent=1, sort_keys=True) + "\n"
        write_file(path, text.encode())  # hours of runs: a kill must leave the old file whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"which rows, of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="which seeds (default: the row's)")
    args = parser.parse_args()
    for name in args.rows or ROWS:
        how = dict(ROWS[name])
        config, learned = how.pop("config"), how.pop("learned", False)
        seeds = how.pop("seeds", (0, 1, 2))  # what is left are arguments of train
        for seed in args.seeds or seeds:
            torch.manual_seed(seed)
            prior = Flow(config.latent_dim) if learned else None
            model, seconds = train(config.replace(name=name), prior, seed=seed, **how)
            weights = vae.outputs_dir(config.dataset) / "likelihood" / f"{name}-seed-{seed}.pt"
            weights.parent.mkdir(parents=True, exist_ok=True)
            torch.save(nn.ModuleList([model, prior] if prior else [model]).state_dict(), weights)
            found = measure(model, prior, config) | {
                "seconds": seconds, "epochs": config.epochs + how.get("finish", 0),
                "parameters": sum(weight.numel() for weight in model.parameters()),
                "command": f"python benchmarks/likelihood.py {name} --seeds {seed}",
                "machine": machine(), "date": str(date.today()),
            }  # fmt: skip
            if prior:
                found["prior_parameters"] = sum(weight.numel() for weight in prior.parameters())
            print(name, seed, json.dumps(found), flush=True)
            if not vae.FAST:  # a quick try leaves no row
                keep(name, seed, found)


if __name__ == "__main__":
    main()
