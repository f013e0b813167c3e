"""The rows of 09_likelihood that take too long for a chapter: trained, measured, kept.

    python benchmarks/likelihood.py              all rows (about two and a half hours on two cores)
    python benchmarks/likelihood.py t190 t600    some rows

Each row trains on all 60,000 images, drawn black or white anew each epoch, and is measured on one
fixed draw of the 10,000 test images. Nothing was chosen on these: recipes were chosen on 54,000 and
6,000 images. Training alone is timed. Every run is written into likelihood.json when it is done.
"""

import argparse
import json
import math
import sys
from datetime import date
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from bench import machine, wait  # noqa: E402

import vae_utils as vae  # noqa: E402

NET = vae.PRESETS["best-40d"]
BURDA = vae.Config(  # the network of Burda et al. 2016 with one stochastic layer
    "burda", hidden=(200, 200), latent_dim=50, activation="tanh", binarize=True, epochs=25, lr=2e-3
)
CLIP = 30.0  # these networks have no norm: one odd batch must not throw them off
ROWS = {  # settings of vae.fit, and what is none
    "t50": {"config": NET},
    "t190": {"config": NET.replace(epochs=82)},
    "t600": {"config": NET.replace(epochs=160), "finish": 34},
    "learned-prior": {"config": NET.replace(epochs=110), "learned": True},
    "fashion": {"config": NET.replace(epochs=82, dataset="fashion"), "seeds": (0,)},
    "burda-1": {"config": BURDA, "seeds": (0,)},
    "burda-vae-5": {"config": BURDA, "seeds": (0,), "k": 5},
    "burda-iwae-5": {"config": BURDA, "seeds": (0,), "k": 5, "iwae": True},
    "burda-vae-50": {"config": BURDA, "seeds": (0,), "k": 50},
    "burda-iwae-50": {"config": BURDA, "seeds": (0,), "k": 50, "iwae": True},
}


class Flow(nn.Module):
    """A prior that is learned: log p(z) of codes ``(B, latent_dim)``, by affine coupling layers.

    Each layer shuffles the dimensions, and scales and shifts one half by a network of the other
    half (Dinh et al. 2017), until what comes out is N(0, I).
    """

    def __init__(self, latent_dim, layers=8, width=128):
        super().__init__()
        self.half = latent_dim // 2
        self.nets = nn.ModuleList()
        for i in range(layers):
            last = nn.Linear(width, 2 * (latent_dim - self.half))
            nn.init.zeros_(last.weight)  # so that the prior begins as N(0, I)
            nn.init.zeros_(last.bias)
            first = nn.Linear(self.half, width)
            self.nets.append(nn.Sequential(first, nn.SiLU(), vae.Residual(width, nn.SiLU), last))
            self.register_buffer(f"order{i}", torch.randperm(latent_dim))

    def forward(self, z):
        log_det = 0.0
        for i, net in enumerate(self.nets):
            z = z[:, getattr(self, f"order{i}")]
            kept, moved = z[:, : self.half], z[:, self.half :]
            scale, shift = net(kept).float().chunk(2, dim=1)
            scale = 2 * torch.tanh(scale / 2)  # at most a factor of e² a layer
            z = torch.cat((kept, moved * scale.exp() + shift), 1)
            log_det = log_det + scale.sum(1)
        return vae.log_normal(z) + log_det

    @torch.no_grad()
    def sample(self, n):
        """n codes of the prior, by the layers run backwards: ``(n, latent_dim)``."""
        z = torch.randn(n, len(self.order0))
        for i in reversed(range(len(self.nets))):
            kept, moved = z[:, : self.half], z[:, self.half :]
            scale, shift = self.nets[i](kept).chunk(2, dim=1)
            moved = (moved - shift) * torch.exp(-2 * torch.tanh(scale / 2))
            z = torch.cat((kept, moved), 1)[:, getattr(self, f"order{i}").argsort()]
        return z


def objective(model, x, k, iwae, log_prior):
    """Mean loss of a batch: k codes an image, averaged as log weights or, for iwae, as weights."""
    log_w = vae.log_weights(model, x, k, log_prior=log_prior)  # (k, B)
    if iwae:
        return (math.log(k) - torch.logsumexp(log_w, 0)).mean()
    return -log_w.mean()


def train(config, prior=None, k=1, iwae=False, finish=0, seed=0):
    """A VAE, and its ``prior`` with it, on all 60,000 images. Returns (model, seconds).

    After the epochs of ``config`` come ``finish`` more with the iwae objective, k = 5, on half
    batches. The learning rate follows the whole run.
    """
    train, val, _ = vae.get_dataloaders(config)
    train.images = torch.cat((train.images, val.images))
    train.labels = torch.cat((train.labels, val.labels))
    torch.manual_seed(seed)
    model = vae.build_model(config)
    vae.start_from_mean(model, train.images.mean(0))
    both = nn.ModuleList([model, prior] if prior else [model]).to(vae.DEVICE)
    optimizer = vae.make_optimizer(both, config)
    phases = [(config.epochs, k, iwae, config.batch_size)]
    phases += [(finish, 5, True, config.batch_size // 2)] * (finish > 0)
    steps = sum(epochs * math.ceil(len(train.images) / size) for epochs, _, _, size in phases)
    both.train()
    start = wait()
    with tqdm(total=steps, desc=f"{config.name} seed {seed}") as bar:
        for epochs, k, iwae, train.batch_size in phases:
            for _ in range(epochs):
                for x, _ in train:
                    optimizer.param_groups[0]["lr"] = vae.learning_rate(config, bar.n / steps)
                    x = torch.bernoulli(x)
                    with vae.autocast(config):
                        loss = objective(model, x, k, iwae, prior or vae.log_normal)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    nn.utils.clip_grad_norm_(both.parameters(), CLIP)
                    optimizer.step()
                    bar.update()
                bar.set_postfix_str(f"loss {loss.item():.1f}")
    both.eval()
    return model, wait() - start


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
        path.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"which rows, of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="which seeds (default: the row's)")
    args = parser.parse_args()
    for name in args.rows or ROWS:
        how = dict(ROWS[name])
        config, learned, seeds = (
            how.pop("config"),
            how.pop("learned", False),
            how.pop("seeds", (0, 1, 2)),
        )
        for seed in args.seeds or seeds:
            torch.manual_seed(seed)
            prior = Flow(config.latent_dim) if learned else None
            model, seconds = train(config.replace(name=name), prior, seed=seed, **how)
            found = measure(model, prior, config) | {
                "seconds": seconds, "epochs": config.epochs + how.get("finish", 0),
                "parameters": sum(weight.numel() for weight in model.parameters()),
                "command": f"python benchmarks/likelihood.py {name} --seeds {seed}",
                "machine": machine(), "date": str(date.today()),
            }  # fmt: skip
            if prior:
                found["prior_parameters"] = sum(weight.numel() for weight in prior.parameters())
            print(name, seed, json.dumps(found), flush=True)
            keep(name, seed, found)


if __name__ == "__main__":
    main()
