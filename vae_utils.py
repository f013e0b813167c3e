"""A Variational Autoencoder for MNIST and Fashion-MNIST, in the order of the course.

Losses are in nats per image: summed over pixels and latent dimensions, averaged over images.
Images are ``(B, 1, 28, 28)`` float32 in [0, 1]; codes are ``(B, latent_dim)``. From the shell:

    python -m vae_utils --dataset mnist --epochs 10 --latent-dim 2 --beta 1.0 --out outputs/demo

What is not about VAEs lives beside it: data_files.py fetches the images, figures.py draws (its
names can be imported from here), muon.py is an optimizer.
"""

import sys


def _refuse(kind, message):
    """Raise an error at import; from the shell the message is all that is shown."""
    raise (SystemExit if __name__ == "__main__" else kind)(message)


if sys.version_info < (3, 11):
    _old = "Python %d.%d is too old for this course: install Python 3.11 or newer and run it again."
    _refuse(ImportError, _old % sys.version_info[:2])

import argparse
import contextlib
import dataclasses
import gc
import inspect
import io
import itertools
import json
import math
import os
import re
import time
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

from data_files import CLASS_NAMES, get_files  # noqa: F401
from figures import (  # noqa: F401
    COLORS,
    draw_run,
    interpolate,
    plot_history,
    plot_latent,
    plot_manifold,
    plot_reconstructions,
    show,
    show_grid,
    show_source,
    tile,
)
from muon import Muon

try:
    import torchvision
    from torchvision.transforms import v2
except (ImportError, RuntimeError) as error:  # "operator torchvision::nms does not exist"
    _refuse(
        ImportError,
        f"torchvision does not fit torch {torch.__version__} ({error}): install both from one "
        "index, pip install --force-reinstall torch torchvision, and restart.",
    )

# ------------------------------------------------------------------------------ configuration

ROOT = Path(__file__).resolve().parent
FAST = os.environ.get("VAE_FAST", "0") not in ("", "0")  # tiny data, two epochs: for tests
DATASET = os.environ.get("VAE_DATASET", "mnist")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cudnn.deterministic = True  # same numbers each time on a GPU too

CHOICES = {"dataset": ("mnist", "fashion"), "architecture": ("mlp", "conv")}
CHOICES |= {"activation": ("relu", "silu", "gelu"), "recon_loss": ("bce", "mse", "cb")}
CHOICES |= {"schedule": ("one-cycle", "constant"), "precision": ("auto", "float32", "bfloat16")}
CHOICES |= {"optimizer": ("adamw", "muon")}
CHOICES |= {"variational": (False, True), "binarize": (False, True)}
if DATASET not in CHOICES["dataset"]:
    _refuse(ValueError, f"VAE_DATASET={DATASET!r} is not known: choose mnist or fashion.")
LIMITS = {"val_fraction": (0.01, 0.9), "seed": (0, 2**31), "latent_dim": (1, 784)}
LIMITS |= {"beta": (0.0, 1000.0), "warmup_epochs": (0, 10_000), "shift": (0, 8)}
LIMITS |= {"epochs": (1, 10_000), "batch_size": (1, 60_000), "lr": (1e-9, 10.0)}


def _check_choice(field, value):
    if value not in CHOICES[field] or type(value) is not type(CHOICES[field][0]):
        known = " or ".join(map(str, CHOICES[field]))
        raise ValueError(f"{field}={value!r} is not known: choose {known}.")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run. Raises ValueError, naming the field, for a bad value."""

    name: str = "demo"  # name of the run and of its folder under outputs/
    dataset: str = DATASET  # mnist or fashion
    val_fraction: float = 0.1  # share of the 60,000 training images kept for validation
    seed: int = 0  # of the split, the start weights, the batch order and the noise
    architecture: str = "mlp"  # mlp or conv
    hidden: tuple[int, ...] = (512, 512)  # mlp: widths of the encoder; the decoder mirrors them
    latent_dim: int = 2  # size of a code z
    activation: str = "relu"  # relu, silu or gelu
    variational: bool = True  # no: a plain autoencoder, z = mu (needs beta 0)
    recon_loss: str = "bce"  # bce, mse or cb (continuous Bernoulli)
    beta: float = 1.0  # weight of the KL term; 1 is the ELBO
    warmup_epochs: int = 0  # beta grows to its value over so many epochs
    binarize: bool = False  # draw black-or-white images from the grey ones, anew each time
    shift: int = 0  # move each training batch by up to so many pixels
    epochs: int = 10  # passes over the training images
    batch_size: int = 128  # images a step
    lr: float = 1e-3  # (highest) learning rate
    schedule: str = "one-cycle"  # one-cycle (up, then down to 0) or constant
    optimizer: str = "adamw"  # adamw or muon
    precision: str = "auto"  # auto takes bfloat16 where the hardware has it

    def __post_init__(self):
        for field in CHOICES:
            _check_choice(field, getattr(self, field))
        for field, (low, high) in LIMITS.items():
            value, whole = getattr(self, field), isinstance(low, int)
            types = (int,) if whole else (int, float)
            if type(value) not in types or not low <= value <= high:
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{field}={value!r} must be {kind} from {low} to {high}.")
        widths = self.hidden if isinstance(self.hidden, (tuple, list)) else ()
        if not widths or any(type(n) is not int or not 0 < n <= 10_000 for n in widths):
            known = "one or more whole numbers above 0, at most 10,000"
            raise ValueError(f"hidden={self.hidden!r} must be {known}.")
        if type(self.name) is not str or not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(f"name={self.name!r} must be made of letters, digits, '.', '_', '-'.")
        if not self.variational and self.beta != 0:
            raise ValueError(f"beta={self.beta} must be 0 when variational is False: no KL there.")
        object.__setattr__(self, "hidden", tuple(widths))
        if FAST:
            object.__setattr__(self, "epochs", min(self.epochs, 2))


PRESETS = (
    Config("mlp-2d", hidden=(512, 512), epochs=20, batch_size=256, lr=3e-3),
    Config("mlp-20d", hidden=(512, 256), latent_dim=20, epochs=20, lr=3e-3),
    Config("conv-2d", architecture="conv", optimizer="muon", epochs=5, lr=4e-3),
    Config("best-2d", hidden=(512, 256, 128), activation="silu", epochs=16, lr=2e-3),
    Config("best-16d", latent_dim=16, activation="silu", epochs=20, batch_size=256, lr=3e-3),
)
PRESETS = {config.name: config for config in PRESETS}


def get_preset(name, /, **changes):
    """The Config ``name`` of PRESETS, some fields changed. ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not known: choose {' or '.join(PRESETS)}.")
    return dataclasses.replace(PRESETS[name], **changes)


def outputs_dir(dataset=DATASET):
    """Where runs are kept: outputs/<dataset>, moved by VAE_OUT_DIR; FAST runs stay apart."""
    base = Path(os.environ.get("VAE_OUT_DIR", ROOT / "outputs"))
    return base / ("fast" if FAST else "") / dataset


def describe_machine():
    """One line for the top of a notebook: versions, device, threads."""
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    python, threads = sys.version.split()[0], torch.get_num_threads()
    versions = f"torch {torch.__version__} · torchvision {torchvision.__version__}"
    return f"Python {python} · {versions} · {device}, threads: {threads}"


# ------------------------------------------------------------------------------ data (01_data)


def read_files(name, data_dir):
    """Train, then test, as bytes: images ``(N, 1, 28, 28)`` uint8, labels ``(N,)`` int64."""
    _check_choice("dataset", name)
    raw = get_files(name, data_dir)
    for prefix, few in (("train", 1500), ("t10k", 500)):
        images = np.fromfile(raw / f"{prefix}-images-idx3-ubyte", np.uint8, offset=16)
        labels = np.fromfile(raw / f"{prefix}-labels-idx1-ubyte", np.uint8, offset=8)
        images = torch.from_numpy(images.reshape(-1, 1, 28, 28)[: few if FAST else None])
        yield images, torch.from_numpy(labels[: few if FAST else None]).long()


def load_dataset(name=DATASET, data_dir=None):
    """MNIST or Fashion-MNIST, checked by digest, as (train, test). Explained in 01_data.

    Two TensorDatasets of images ``(N, 1, 28, 28)`` float32 in [0, 1] and labels ``(N,)`` int64, N =
    60,000 and 10,000. They lie in ``data_dir``, in torchvision's layout (VAE_DATA_DIR, or data/).
    Raises ValueError for an unknown name, FileNotFoundError where no source is within reach.
    """
    return tuple(TensorDataset(x / 255, y) for x, y in read_files(name, data_dir))


class Batches:
    """Mini-batches by whole-batch indexing of tensors that lie ready in memory.

    Yields ``(x, y)`` of shapes ``(B, 1, 28, 28)`` and ``(B,)``; with ``shuffle`` in a new order
    each time, from torch's global generator.
    """

    def __init__(self, images, labels, batch_size, shuffle=False):
        self.images, self.labels = images, labels
        self.batch_size, self.shuffle = batch_size, shuffle

    def __len__(self):
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self):
        n, device = len(self.images), self.images.device
        order = torch.randperm(n, device=device) if self.shuffle else torch.arange(n, device=device)
        for index in order.split(self.batch_size):
            yield self.images[index], self.labels[index]


def get_dataloaders(config, data_dir=None):
    """Train, validation and test Batches for a Config. Explained in 01_data.

    The split is seeded and stratified: each class has the same share in train and validation.
    Only train is shuffled; validation and test come in batches of 500.
    """
    (images, labels), test = read_files(config.dataset, data_dir)
    kept, held_out = train_test_split(
        np.arange(len(labels)),
        test_size=round(config.val_fraction * len(labels)),
        stratify=labels,
        random_state=config.seed,
    )
    parts = (images[kept], labels[kept]), (images[held_out], labels[held_out]), test
    train, val, test = (((x / 255).to(DEVICE), y.to(DEVICE)) for x, y in parts)
    return Batches(*train, config.batch_size, shuffle=True), Batches(*val, 500), Batches(*test, 500)


# ----------------------------------------------------------------------------- model (02_model)

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}


def _mlp(widths, activation):
    """Linear layers of the given widths, each followed by the activation."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return layers


class Encoder(nn.Module):
    """q(z|x): images ``(B, 1, 28, 28)`` to mu and log sigma², each ``(B, latent_dim)``."""

    def __init__(self, config):
        super().__init__()
        act = ACTIVATIONS[config.activation]
        if config.architecture == "mlp":
            self.body = nn.Sequential(nn.Flatten(), *_mlp((784, *config.hidden), act))
            width = config.hidden[-1]
        else:
            self.body = nn.Sequential(
                nn.Conv2d(1, 32, 4, stride=2, padding=1), act(),  # (B, 32, 14, 14)
                nn.Conv2d(32, 64, 4, stride=2, padding=1), act(),  # (B, 64, 7, 7)
                nn.Conv2d(64, 128, 3, stride=1, padding=1), act(),  # (B, 128, 7, 7)
                nn.Flatten(),  # (B, 6272)
            )  # fmt: skip
            width = 128 * 7 * 7
        self.mu = nn.Linear(width, config.latent_dim)
        self.logvar = nn.Linear(width, config.latent_dim)

    def forward(self, x):
        h = self.body(x)
        return self.mu(h), self.logvar(h)


class Decoder(nn.Module):
    """p(x|z): codes ``(B, latent_dim)`` to logits ``(B, 1, 28, 28)``; their sigmoid is grey."""

    def __init__(self, config):
        super().__init__()
        act = ACTIVATIONS[config.activation]
        if config.architecture == "mlp":
            widths = (config.latent_dim, *reversed(config.hidden))
            self.body = nn.Sequential(
                *_mlp(widths, act), nn.Linear(widths[-1], 784), nn.Unflatten(1, (1, 28, 28))
            )
        else:
            self.body = nn.Sequential(
                nn.Linear(config.latent_dim, 128 * 7 * 7), act(),
                nn.Unflatten(1, (128, 7, 7)),  # (B, 128, 7, 7)
                nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1), act(),  # (B, 64, 14, 14)
                nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), act(),  # (B, 32, 28, 28)
                nn.Conv2d(32, 1, 3, stride=1, padding=1),  # (B, 1, 28, 28)
            )  # fmt: skip

    def forward(self, z):
        return self.body(z)

    @torch.no_grad()
    def start_from(self, mean):
        """Set the last bias so that training starts from the mean image ``(1, 28, 28)``."""
        bias = next(layer.bias for layer in reversed(self.body) if hasattr(layer, "bias"))
        bias.copy_(torch.logit(mean, 1e-3).reshape(len(bias), -1).mean(1))


class VAE(nn.Module):
    """Kingma & Welling (2014): encoder, reparameterised sample, decoder. Explained in 02_model."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, x):
        """Images ``(B, 1, 28, 28)`` to mu and log sigma², each ``(B, latent_dim)`` float32."""
        mu, logvar = self.encoder(x)
        return mu.float(), logvar.float()

    def reparameterize(self, mu, logvar, generator=None):
        """z = mu + sigma · eps with eps ~ N(0, I), so that gradients reach mu and sigma."""
        eps = torch.randn(mu.shape, generator=generator, device=mu.device)
        return mu + torch.exp(0.5 * logvar) * eps

    def decode(self, z):
        """Codes ``(B, latent_dim)`` to logits ``(B, 1, 28, 28)`` float32."""
        return self.decoder(z).float()

    def forward(self, x, generator=None):
        """Images to (logits, mu, logvar), with one sampled code per image."""
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar, generator)), mu, logvar

    @torch.no_grad()
    def reconstruct(self, x):
        """Images in [0, 1] decoded from the mean code: for looking at, not for a loss."""
        return torch.sigmoid(self.decode(self.encode(x)[0]))

    @torch.no_grad()
    def sample(self, n, generator=None):
        """n images in [0, 1] decoded from codes of the prior N(0, I)."""
        device = next(self.parameters()).device
        z = torch.randn(n, self.config.latent_dim, generator=generator, device=device)
        return torch.sigmoid(self.decode(z))


class Autoencoder(VAE):
    """The same networks without noise: z = mu. Its config has beta 0, so there is no KL."""

    def reparameterize(self, mu, logvar, generator=None):
        return mu


def build_model(config, mean_image=None):
    """The VAE, or the Autoencoder, of a Config, decoding to ``mean_image`` at first if given."""
    model = (VAE if config.variational else Autoencoder)(config).to(DEVICE)
    if mean_image is not None:
        model.decoder.start_from(mean_image)
    return model


# ------------------------------------------------------------------------- objective (02_model)


def reconstruction_loss(logits, x, kind="bce"):
    """-log p(x|z) per image, ``(B,)`` nats, summed over pixels. Explained in 02_model.

    With p = sigmoid(logits) and images x of the same shape in [0, 1]: "bce" is the cross-entropy
    -[x log p + (1-x) log(1-p)]; "mse" the squared error (p - x)², a Gaussian of variance 1/2 up to
    a constant; "cb" the continuous Bernoulli (Loaiza-Ganem & Cunningham 2019), bce minus its
    log-normaliser. Raises ValueError for another kind.
    """
    _check_choice("recon_loss", kind)
    if kind == "mse":
        per_pixel = (torch.sigmoid(logits) - x) ** 2
    else:
        per_pixel = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    if kind == "cb":  # log C = log(l / tanh(l/2)), and log 2 + l²/12 near l = 0
        size = logits.abs()
        far = size.clamp(min=0.05)
        log_c = (far / torch.tanh(far / 2)).log()
        per_pixel = per_pixel - torch.where(size < 0.05, math.log(2) + size**2 / 12, log_c)
    return per_pixel.flatten(1).sum(1)


def kl_divergence(mu, logvar):
    """KL( N(mu, sigma²) || N(0, I) ) per image, ``(B,)`` nats, summed over latent dimensions."""
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)


def elbo(logits, x, mu, logvar, kind="bce", beta=1.0):
    """The negative ELBO, recon + beta · kl, as (loss, recon, kl), each ``(B,)`` nats per image."""
    recon = reconstruction_loss(logits, x, kind)
    kl = kl_divergence(mu, logvar)
    return recon + beta * kl, recon, kl


# ------------------------------------------------------------------------ training (03_training)


def learning_rate(config, progress):
    """Learning rate at ``progress`` in [0, 1) of the run: up over a tenth, cosine down to 0."""
    if config.schedule == "constant":
        return config.lr
    if progress < 0.1:
        return config.lr * (0.1 + 9 * progress)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


def autocast(config):
    """Context in which the networks run in bfloat16, where that is asked for or pays.

    It pays on GPUs and CPUs that multiply bfloat16 in hardware; on others it is far slower.
    """
    bf16 = config.precision == "bfloat16"
    if config.precision == "auto" and DEVICE.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif config.precision == "auto":
        cpu = getattr(torch.cpu, "get_capabilities", dict)()
        bf16 = bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16)


def make_optimizer(model):
    """AdamW or Muon for a model; train_one_epoch sets its learning rate at every step."""
    kind = {"adamw": torch.optim.AdamW, "muon": Muon}[model.config.optimizer]
    return kind(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)


def _diverged(where, lr):
    return FloatingPointError(
        f"the loss became NaN or infinite in {where}, at learning rate {lr:.2g}: try a smaller lr, "
        "or precision='float32', in a new folder; every finished epoch is kept."
    )


def train_one_epoch(model, batches, optimizer, epoch=1, bar=None):
    """One pass over ``batches``. Explained in 03_training.

    ``epoch`` counts from 1 and decides learning rate and beta; ``bar`` is a tqdm bar. Returns
    train_loss, train_recon and train_kl (nats, means over images), beta and lr. Raises
    FloatingPointError, with epoch, step and learning rate, for a loss that is NaN or infinite.
    """
    config = model.config
    beta = config.beta * min(1.0, epoch / max(1, config.warmup_epochs))
    shift = v2.RandomCrop(28, padding=config.shift)
    steps, sums, images, precision = len(batches), [], 0, autocast(config)
    model.train()
    for step, (x, _) in enumerate(batches):
        lr = learning_rate(config, (epoch - 1 + step / steps) / config.epochs)
        optimizer.param_groups[0]["lr"] = lr
        if config.shift:
            x = shift(x)  # one random move for the whole batch
        if config.binarize:
            x = torch.bernoulli(x)
        with precision:
            logits, mu, logvar = model(x)
        loss, recon, kl = elbo(logits, x, mu, logvar, config.recon_loss, beta)
        optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()
        with precision:  # for the matrix products of Muon
            optimizer.step()
        sums.append(torch.stack((loss, recon, kl)).detach().sum(1))
        images += len(x)
        if bar is not None:
            if step % 50 == 0:  # a look at the numbers makes a GPU wait: seldom
                shown = sums[-1] / len(x)
                bar.set_postfix_str(f"epoch {epoch}, loss {shown[0]:.1f}, KL {shown[2]:.1f}")
            bar.update()
    sums = torch.stack(sums).double()
    bad = (~sums.isfinite().all(1)).nonzero()
    if len(bad):
        step = int(bad[0])
        lr = learning_rate(config, (epoch - 1 + step / steps) / config.epochs)
        raise _diverged(f"epoch {epoch}, step {step + 1} of {steps}", lr)
    loss, recon, kl = (sums.sum(0) / images).tolist()
    return {"train_loss": loss, "train_recon": recon, "train_kl": kl, "beta": beta, "lr": lr}


@torch.no_grad()
def evaluate(model, batches, seed=0):
    """Mean loss over ``batches`` with a *sampled* z, in float32. Explained in 04_evaluation.

    Returns loss (recon + config.beta · kl), recon and kl in nats per image, loss_per_pixel, and
    loss_se, the standard error of the mean loss over images.
    """
    config = model.config
    generator = torch.Generator(DEVICE).manual_seed(seed)
    model.eval()
    parts = []
    for x, _ in batches:
        if config.binarize:
            x = torch.bernoulli(x, generator=generator)
        logits, mu, logvar = model(x, generator)
        parts.append(torch.stack(elbo(logits, x, mu, logvar, config.recon_loss, config.beta)))
    per_image = torch.cat(parts, 1).double().cpu()  # (3, N)
    loss, recon, kl = per_image.mean(1).tolist()
    se = (per_image[0].std() / per_image.shape[1] ** 0.5).item()
    return {"loss": loss, "recon": recon, "kl": kl, "loss_per_pixel": loss / 784, "loss_se": se}


HISTORY = ["epoch", "train_loss", "train_recon", "train_kl", "val_loss", "val_recon", "val_kl"]
HISTORY += ["val_loss_per_pixel", "beta", "lr", "seconds"]  # the columns of history.csv


@dataclasses.dataclass
class Run:
    """A trained model with its history (a list of dicts, the rows of history.csv)."""

    model: VAE
    history: list
    config: Config
    out_dir: Path


def write_file(path, data):
    """Write bytes beside ``path`` and rename: a kill, a crash or a full disk leaves the old file.

    Raises OSError, which names the file, where it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{time.time_ns()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())  # on the disk before it takes the name
        os.replace(beside, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} could not be written ({error.strerror}): free some space or choose another "
            "folder, and run again; every finished epoch on disk is kept",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def save_figures(model, val, out_dir, history):
    """Write the pictures of a run, and report.md, into its folder."""
    for name, data in draw_run(model, val, history).items():
        write_file(out_dir / name, data)


def _save_checkpoint(model, optimizer, history, out_dir):
    state = {"config": vars(model.config), "epoch": len(history), "history": history}
    state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    state["rng"] = torch.get_rng_state()
    if DEVICE.type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state()
    data = io.BytesIO()
    torch.save(state, data)
    rows = [HISTORY, *(row.values() for row in history)]
    table = "".join(",".join(map(str, row)) + "\n" for row in rows)
    write_file(out_dir / "history.csv", table.encode())
    if history and history[-1]["val_loss"] == min(row["val_loss"] for row in history):
        write_file(out_dir / "best.pt", data.getvalue())
    write_file(out_dir / "last.pt", data.getvalue())


def _read_checkpoint(path, resume=False):
    """The dict in a checkpoint file, with config, model and, to ``resume``, optimizer as objects.

    Raises ValueError for a damaged or foreign file.
    """
    try:
        state = torch.load(path, map_location=DEVICE, weights_only=True)
        assert state["epoch"] == len(state["history"])
        state["config"] = Config(**state["config"])
        model = build_model(state["config"])
        model.load_state_dict(state["model"])
        state["model"] = model.eval()
        if resume:
            optimizer = make_optimizer(model)
            optimizer.load_state_dict(state["optimizer"])
            state["optimizer"], state["rng"] = optimizer, state["rng"].cpu()
    except (OSError, MemoryError, torch.OutOfMemoryError):  # this says nothing about what is in it
        raise
    except Exception as error:  # whatever is wrong with the file, it is not used
        message = f"{path} is refused: it is damaged or holds code, or is no run of this course."
        raise ValueError(message) from error
    return state


def _last_state(out_dir, config):
    """The newest readable checkpoint of this config in a folder, or None in a fresh folder."""
    problems = []
    for path in filter(Path.exists, (out_dir / "last.pt", out_dir / "best.pt")):
        try:
            state = _read_checkpoint(path, resume=True)
        except ValueError as error:
            problems.append(str(error))
            continue
        there, here = vars(state["config"]), vars(config)
        differ = [f"{k} ({there[k]} there, {here[k]} here)" for k in here if there[k] != here[k]]
        if differ:
            raise ValueError(
                f"{out_dir} holds a run of another config, which differs in {', '.join(differ)}: "
                "choose another out_dir or name, or delete that folder."
            )
        for problem in problems:
            warnings.warn(f"{problem} Going on from {path.name}.", stacklevel=3)
        return state
    if problems:
        raise ValueError(f"{' '.join(problems)} Delete {out_dir} to train it anew.")
    return None


def fit(config, out_dir=None, data_dir=None, figures=True):
    """Train, or go on training, or return what is finished. Explained in 03_training.

    Every epoch ends with a checkpoint: kill the process at any moment, call ``fit`` again, and it
    reaches the numbers of an unbroken run bit for bit (same machine, same threads). Ctrl-C returns
    the run so far. The Run's model is that of the best validation loss; its folder is ``out_dir``,
    or ``outputs_dir() / config.name``; without ``figures`` it gets no pictures and no report.md.
    Raises ValueError for a folder with another config or no readable checkpoint,
    FloatingPointError as train_one_epoch, OSError for missing data or a folder it cannot fill.
    """
    out_dir = Path(out_dir or outputs_dir(config.dataset) / config.name)
    state = _last_state(out_dir, config)
    if state and state["epoch"] == config.epochs:
        return load_run(out_dir)
    model, history = (state["model"], state["history"]) if state else (None, [])
    try:
        train, val, _ = get_dataloaders(config, data_dir)
        torch.manual_seed(config.seed)
        if state:
            optimizer = state["optimizer"]
            torch.set_rng_state(state["rng"])
            if DEVICE.type == "cuda" and "cuda_rng" in state:
                torch.cuda.set_rng_state(state["cuda_rng"].cpu())
        else:
            model = build_model(config, train.images.mean(0))
            optimizer = make_optimizer(model)
        write_file(out_dir / "config.json", json.dumps(vars(config), indent=1).encode())
        if not history:
            _save_checkpoint(model, optimizer, history, out_dir)
            if figures:
                save_figures(model, val, out_dir, history)
        done, steps = len(history) * len(train), config.epochs * len(train)
        with tqdm(desc=config.name, total=steps, initial=done) as bar:
            for epoch in range(len(history) + 1, config.epochs + 1):
                start = time.perf_counter()
                row = {"epoch": epoch} | train_one_epoch(model, train, optimizer, epoch, bar)
                row |= {f"val_{key}": value for key, value in evaluate(model, val).items()}
                if not math.isfinite(row["val_loss"]):
                    raise _diverged(f"epoch {epoch}, last step", row["lr"])
                row["seconds"] = time.perf_counter() - start
                history.append({column: row[column] for column in HISTORY})
                if figures and epoch in (1, 5, 10, config.epochs):
                    save_figures(model, val, out_dir, history)
                _save_checkpoint(model, optimizer, history, out_dir)
    except KeyboardInterrupt:
        if model is None:
            raise
        print(f"stopped: epochs finished so far are in {out_dir}; the same call goes on from there")
        if not (out_dir / "best.pt").exists():
            return Run(model.eval(), history, config, out_dir)
    if figures:
        gc.collect()  # matplotlib's leftovers keep all that this function held, 200 MB, until then
    return load_run(out_dir)


def load_run(out_dir):
    """The Run kept in a folder: model of the best epoch, history of all.

    If only last.pt can be read, the model is that of the last epoch, and a warning says so. Raises
    FileNotFoundError where there is no run, ValueError for damaged or foreign checkpoints.
    """
    out_dir, found, problems = Path(out_dir), {}, []
    for name in ("best.pt", "last.pt"):
        try:
            found[name] = _read_checkpoint(out_dir / name)
        except (ValueError, OSError) as error:
            problems.append(error)
    trained = [state for state in found.values() if state["epoch"]]
    if not trained:
        if problems and not isinstance(problems[0], FileNotFoundError):
            raise problems[0]
        message = f"{out_dir} holds no trained run (best.pt): train one with fit(), from the start."
        raise FileNotFoundError(message)
    if "best.pt" not in found:
        warnings.warn(f"{problems[0]} The model is that of the last epoch.", stacklevel=2)
    history = max((state["history"] for state in trained), key=len)
    return Run(trained[0]["model"], history, trained[0]["config"], out_dir)


# ----------------------------------------------------------------------- measures (04_evaluation)


@torch.no_grad()
def iwae_bound(model, x, k=50, generator=None):
    """Importance-weighted bound on -log p(x), ``(B,)`` nats, in the mean tighter with larger k.

    -log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x), z_i ~ q(z|x) (Burda et al. 2016); k = 1 is the
    negative ELBO. Uses the config's recon_loss. Memory grows with B · k.
    """
    mu, logvar = model.encode(x)
    mu, logvar = mu.repeat(k, 1), logvar.repeat(k, 1)  # (k * B, latent_dim)
    z = model.reparameterize(mu, logvar, generator)
    eps = (z - mu) / torch.exp(0.5 * logvar)
    log_ratio = 0.5 * (eps**2 + logvar - z**2).sum(1)  # log p(z) - log q(z|x)
    recon = reconstruction_loss(model.decode(z), x.repeat(k, 1, 1, 1), model.config.recon_loss)
    return math.log(k) - torch.logsumexp((log_ratio - recon).view(k, len(x)), dim=0)


@torch.no_grad()
def encode_dataset(model, batches):
    """Codes of all images: mu and log sigma² ``(N, latent_dim)``, labels ``(N,)``, on the CPU."""
    model.eval()
    parts = [(*model.encode(x), y) for x, y in batches]
    return tuple(torch.cat(column).cpu() for column in zip(*parts))


def active_units(mu, threshold=0.01):
    """mu ``(N, latent_dim)`` to booleans: is its variance over images > threshold? (Burda 2016)"""
    return mu.var(0) > threshold


def save_results(chapter, results):
    """Keep a chapter's numbers, {name: {quantity: number}}, for the report's tables."""
    text = json.dumps(results, indent=1, default=float)
    write_file(outputs_dir() / "results" / f"{chapter}.json", text.encode())


# --------------------------------------------------------------------------------------- the shell


def main(argv=None):
    """``python -m vae_utils``: every field of Config is a flag. Returns the exit status."""
    matplotlib.use("agg")  # pictures go into files: no window
    parser = argparse.ArgumentParser(
        prog="python -m vae_utils",
        description="Train a VAE from the shell.",
        argument_default=argparse.SUPPRESS,  # flags that are not given leave no trace
        allow_abbrev=False,
    )
    parser.error = lambda text: parser.exit(2, f"error: {text} (--help lists all flags)\n")
    parser.add_argument("--preset", choices=PRESETS, help="start from these settings")
    parser.add_argument("--out", help="folder of the run (outputs/<dataset>/<name>)")
    comments = dict(re.findall(r"    (\w+): .*  # (.*)", inspect.getsource(Config)))
    for field in dataclasses.fields(Config):
        flag = {"help": f"{comments[field.name]} (default: {field.default})"}
        if isinstance(field.default, bool):
            flag["action"] = argparse.BooleanOptionalAction
        elif isinstance(field.default, tuple):
            flag |= {"type": int, "nargs": "+"}
        else:
            flag |= {"type": type(field.default), "choices": CHOICES.get(field.name)}
        parser.add_argument("--" + field.name.replace("_", "-"), **flag)
    given = vars(parser.parse_args(argv))
    base, out = PRESETS.get(given.pop("preset", None), Config()), given.pop("out", None)
    try:
        run = fit(dataclasses.replace(base, **given), out)
    except (ValueError, OSError, FloatingPointError) as error:
        parser.exit(2, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped before the first step\n")
    losses = [row["val_loss"] for row in run.history]
    best = f"best validation loss {min(losses):.2f} nats" if losses else "no epoch finished"
    print(f"{run.out_dir}: {best}")
    return 0 if len(losses) == run.config.epochs else 130


if __name__ == "__main__":
    sys.exit(main())
