"""The rows of 09_likelihood that take too long for a chapter: trained, measured, kept.

    python benchmarks/likelihood.py              all rows (about two and a half hours on two cores)
    python benchmarks/likelihood.py t190 t600    some rows
    python benchmarks/likelihood.py t600 --seeds 0 --k 5000    a kept run, more codes

Each row trains on all 60,000 images, drawn black or white anew each epoch, and is measured on one
fixed draw of the 10,000 test images. Recipes were chosen on 54,000 and 6,000 images; the limit on
log sigma² alone, and with it the length of t190, came after a look at test images. Training alone
is timed. Every run is written into likelihood.json when it is done.
"""

import argparse
import json
import sys
from datetime import date
from pathlib import Path

import torch
from filelock import FileLock

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from bench import machine, wait  # noqa: E402

import vae_utils as vae  # noqa: E402
from report.execute import read_json  # noqa: E402
from vae_likelihood import Flow, Mixture, together, train  # noqa: E402
from vae_runs import write_file  # noqa: E402

NET = vae.PRESETS["best-40d"]
BURDA = vae.Config(  # the network of Burda et al. 2016 with one stochastic layer
    "burda", hidden=(200, 200), latent_dim=50, activation="tanh", binarize=True, epochs=10, lr=2e-3
)
ROWS = {  # settings of vae.fit, and what is none; t50, mixture and flow differ in the prior alone
    "t50": {"config": NET},
    "t190": {"config": NET.replace(epochs=48)},
    "t600": {"config": NET.replace(epochs=100), "finish": 24},
    "mixture": {"config": NET, "prior": Mixture},
    "flow": {"config": NET, "prior": Flow},
    "learned-prior": {"config": NET.replace(epochs=110), "prior": Flow},
    "fashion": {"config": NET.replace(epochs=40, lr=1e-3, dataset="fashion"), "seeds": (0,)},
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
    start = wait()
    with torch.random.fork_rng(), vae.autocast(config):  # a training may go on after this
        torch.manual_seed(0)
        bound = vae.iwae_bound(model, x, k, log_prior=log_prior)
        seconds = wait() - start
        elbos = [vae.iwae_bound(model, x, 1, log_prior=log_prior) for _ in range(10)]
        mu = torch.cat([model.encode(part)[0].float() for part in x.split(500)])
    return {
        f"bound_k{k}": bound.mean().item(), "se": (bound.std() / len(x) ** 0.5).item(),
        "elbo": torch.stack(elbos).mean().item(), "active_units": int(vae.active_units(mu).sum()),
        "bound_seconds": seconds,
    }  # fmt: skip


def weights_path(name, seed):
    """Where the weights of a run are kept, with those of its prior."""
    dataset = ROWS[name]["config"].dataset
    return vae.outputs_dir(dataset) / "likelihood" / f"{name}-seed-{seed}.pt"


def run(name, seed):
    """Train and measure one row with one seed."""
    how = dict(ROWS[name])
    config, kind = how.pop("config").replace(name=name), how.pop("prior", None)
    how.pop("seeds", None)  # what is left are arguments of train
    torch.manual_seed(seed)
    prior = kind(config.latent_dim) if kind else None
    model, seconds = train(config, prior, seed=seed, **how)
    weights_path(name, seed).parent.mkdir(parents=True, exist_ok=True)
    torch.save(together(model, prior).state_dict(), weights_path(name, seed))
    found = measure(model, prior, config) | {
        "seconds": seconds, "epochs": config.epochs + how.get("finish", 0),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "command": f"python benchmarks/likelihood.py {name} --seeds {seed}",
        "machine": machine(), "threads": torch.get_num_threads(), "date": str(date.today()),
    }  # fmt: skip
    if prior:
        found["prior_parameters"] = sum(weight.numel() for weight in prior.parameters())
    return found


def run_again(name, seed, k):
    """The bound of a kept run with k codes: no training."""
    config, kind = ROWS[name]["config"], ROWS[name].get("prior")
    model, prior = vae.VAE(config), kind(config.latent_dim) if kind else None
    both = together(model, prior)
    both.load_state_dict(torch.load(weights_path(name, seed), weights_only=True))
    both.to(vae.DEVICE).eval()
    found = measure(model, prior, config, k)
    return {f"bound_k{k}": found[f"bound_k{k}"], f"se_k{k}": found["se"]}


def keep(name, seed, found):
    """Write a run into likelihood.json, beside the others."""
    path = HERE / "likelihood.json"
    with FileLock(HERE / ".likelihood.lock"):
        rows = read_json(path)
        rows.setdefault(name, {}).setdefault(str(seed), {}).update(found)
        text = json.dumps(rows, indent=1, sort_keys=True) + "\n"
        write_file(path, text.encode())  # hours of runs: a kill must leave the old file whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"which rows, of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="which seeds (default: the row's)")
    parser.add_argument("--k", type=int, help="the bound of kept runs with k codes: no training")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    for name in args.rows or ROWS:
        for seed in args.seeds or ROWS[name].get("seeds", (0, 1, 2)):
            found = run_again(name, seed, args.k) if args.k else run(name, seed)
            print(name, seed, json.dumps(found), flush=True)
            if not vae.FAST:  # a quick try leaves no row
                keep(name, seed, found)


if __name__ == "__main__":
    main()
