"""A Variational Autoencoder for small grey images, in the order of the course.

Losses are in nats per image: summed over pixels and latent dimensions, averaged over images.
Images are ``(B, 1, 28, 28)`` float32 in [0, 1]; codes are ``(B, latent_dim)``. From the shell:

    python -m vae_utils --dataset mnist --epochs 10 --latent-dim 2 --beta 1.0 --out outputs/demo

Beside it lie vae_data.py, which fetches the images, vae_folder.py, which reads your own,
vae_runs.py, which keeps a run on disk, vae_figures.py, which draws, and vae_shell.py, the shell.
"""

import sys

if sys.version_info < (3, 11):
    found = ".".join(map(str, sys.version_info[:2]))
    sys.exit(f"Python {found} is too old: this course needs Python 3.11 or newer.")

if __name__ == "__main__":
    from vae_shell import main

    sys.exit(main())

import dataclasses
import gc
import itertools
import json
import math
import numbers
import os
import re
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import TensorDataset
from tqdm import tqdm

from vae_data import CLASS_NAMES, find_dataset, identity, read_arrays
from vae_figures import draw_run
from vae_folder import folder_name
from vae_runs import HISTORY, RunFolder, fingerprint, hold, load_weights, read_run, write_file

# ------------------------------------------------------------------------------ configuration

ROOT = Path(__file__).resolve().parent
FAST = os.environ.get("VAE_FAST", "0") not in ("", "0")  # few images, epochs, codes: for tests
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.backends.cudnn.deterministic = True  # same numbers each time on a GPU too
torch.set_flush_denormal(True)  # numbers below 1e-38 count as 0: they slow a CPU down
try:
    DATASET = find_dataset(os.environ.get("VAE_DATASET") or "mnist")
except ValueError as error:
    sys.exit(f"VAE_DATASET: {error}")
if DATASET not in CLASS_NAMES:  # other processes start elsewhere, and need the whole path
    os.environ["VAE_DATASET"] = DATASET


def option(default, help, choices=None, low=None, high=None):
    """A setting, described once: Config's check, the shell and notebook 03 read it from here."""
    about = {"help": help, "choices": choices, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=about)


def _plain(name, value, kind, about):
    """``value`` as a plain Python ``kind`` (NumPy's numbers too). ValueError if not allowed."""
    family = {bool: (bool, np.bool_), int: numbers.Integral, float: numbers.Real, str: str}[kind]
    fits = isinstance(value, family) and (kind is bool or not isinstance(value, bool))
    if about["choices"]:
        if not fits or value not in about["choices"]:
            known = " or ".join(map(str, about["choices"]))
            raise ValueError(f"{name}={value!r} is not known: choose {known}.")
    elif kind is str:
        if not fits or not re.fullmatch(r"\w[\w.-]*", value):
            raise ValueError(f"{name}={value!r} must be made of letters, digits, '.', '_', '-'.")
    elif not fits or not about["low"] <= value <= about["high"]:
        what = "a whole number" if kind is int else "a number"
        limits = f"from {about['low']:,} to {about['high']:,}"
        raise ValueError(f"{name}={value!r} must be {what} {limits}.")
    return kind(value)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run. Raises ValueError, naming the field, for a bad value."""

    name: str = option("demo", "name of the run and of its folder under outputs/")
    dataset: str = option(DATASET, "mnist, fashion, or a folder of your own images")
    val_fraction: float = option(0.1, "share of images kept for validation", None, 0.01, 0.9)
    seed: int = option(0, "of split, start weights, order and noise", None, 0, 2**31)
    architecture: str = option("mlp", "kind of layers", ("mlp", "residual", "conv"))
    hidden: tuple[int, ...] = option((512, 512), "encoder's widths", None, 1, 10_000)
    decoder_hidden: tuple[int, ...] = option((), "decoder's widths; (): mirrored", None, 1, 10_000)
    latent_dim: int = option(2, "size of a code z", None, 1, 784)
    activation: str = option("relu", "between layers", ("relu", "silu", "gelu", "tanh"))
    variational: bool = option(True, "False: a plain autoencoder, with beta 0", (False, True))
    recon_loss: str = option("bce", "cb: continuous Bernoulli", ("bce", "mse", "cb"))
    beta: float = option(1.0, "weight of the KL term; 1 is the ELBO", None, 0, 1000)
    warmup_epochs: int = option(0, "epochs over which beta rises to its value", None, 0, 10_000)
    binarize: bool = option(False, "images drawn black or white, anew each time", (False, True))
    shift: int = option(0, "move training batches by up to so many pixels", None, 0, 8)
    epochs: int = option(10, "passes over the training images", None, 1, 10_000)
    batch_size: int = option(128, "images a step", None, 1, 60_000)
    lr: float = option(1e-3, "(highest) learning rate", None, 1e-9, 10)
    schedule: str = option("one-cycle", "of the learning rate", ("one-cycle", "linear", "constant"))
    optimizer: str = option("adamw", "how a gradient becomes a step", ("adamw", "muon"))
    precision: str = option("auto", "auto: bfloat16 where fast", ("auto", "float32", "bfloat16"))

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if field.name == "dataset":
                value = find_dataset(value)
            elif kind is not tuple:
                value = _plain(field.name, value, kind, field.metadata)
            elif isinstance(value, (tuple, list)) and (value or field.default == ()):
                value = tuple(_plain(field.name, one, int, field.metadata) for one in value)
            else:
                raise ValueError(f"{field.name}={value!r} must be one or more whole numbers.")
            object.__setattr__(self, field.name, value)
        if not self.variational and self.beta != 0:
            raise ValueError(f"beta={self.beta} must be 0 when variational is False: no KL there.")

    replace = dataclasses.replace  # PRESETS["best-2d"].replace(name="b4", beta=4): a copy


BEST = Config(architecture="residual", activation="silu", batch_size=256, lr=3e-3)
PRESETS = (
    Config("mlp-2d", hidden=(512, 512), epochs=20, batch_size=512, lr=6e-3, schedule="linear"),
    Config("mlp-20d", hidden=(512, 256), latent_dim=20, epochs=20, lr=3e-3),
    Config("conv-2d", architecture="conv", optimizer="muon", epochs=5, lr=4e-3),
    BEST.replace(name="best-2d", hidden=(512, 256, 128), decoder_hidden=(512,) * 4, epochs=24),
    BEST.replace(name="best-16d", hidden=(512,) * 3, latent_dim=16, epochs=20),
    BEST.replace(name="best-40d", hidden=(512,) * 3, latent_dim=40, epochs=18, binarize=True),
)
PRESETS = {config.name: config for config in PRESETS}


def outputs_dir(dataset=DATASET):
    """Where runs are kept: outputs/<dataset>, moved by VAE_OUT_DIR; FAST runs stay apart."""
    base = Path(os.environ.get("VAE_OUT_DIR") or ROOT / "outputs")
    name = dataset if dataset in CLASS_NAMES else folder_name(dataset)
    return base / ("fast" if FAST else "") / name


# ------------------------------------------------------------------------------ data (01_data)


def read_files(name, data_dir=None):
    """Train, then test, as bytes: images ``(N, 1, 28, 28)`` uint8, labels ``(N,)`` int64."""
    for (images, labels), few in zip(read_arrays(find_dataset(name), data_dir), (900, 300)):
        rows = slice(few if FAST else None)
        yield torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])


def load_dataset(name=DATASET, data_dir=None):
    """MNIST, Fashion-MNIST or a folder of images, as (train, test). Explained in 01_data.

    Two TensorDatasets of images ``(N, 1, 28, 28)`` float32 in [0, 1] and labels ``(N,)`` int64. The
    first two sets, N = 60,000 and 10,000, are checked by digest and lie in ``data_dir``, in
    torchvision's layout (VAE_DATA_DIR, or data/). Of a folder, read as vae_folder.read_folder says,
    one image in seven is for testing. Raises ValueError for an unknown name, FileNotFoundError
    where no source is within reach.
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


def get_dataloaders(config):
    """Train, validation and test Batches for a Config. Explained in 01_data.

    The split is seeded. It is stratified, so that each class has the same share in train and
    validation, if every class has two images and both parts as many images as there are classes.
    Only train is shuffled; validation and test come in batches of 500.
    """
    (images, labels), test = read_files(config.dataset)
    count = max(2, round(config.val_fraction * len(labels)))
    sizes = labels.unique(return_counts=True)[1]  # of the classes
    room = sizes.min() > 1 and len(sizes) <= min(count, len(labels) - count)
    rows, classes = np.arange(len(labels)), labels if room else None
    kept, out = train_test_split(rows, test_size=count, stratify=classes, random_state=config.seed)
    parts = (images[kept], labels[kept]), (images[out], labels[out]), test
    train, val, test = (((x / 255).to(DEVICE), y.to(DEVICE)) for x, y in parts)
    return Batches(*train, config.batch_size, shuffle=True), Batches(*val, 500), Batches(*test, 500)


def binary(images, seed=0):
    """Images ``(N, 1, 28, 28)`` drawn black or white, by the greys: the same draw for a seed."""
    random = np.random.default_rng(seed).random(images.shape, np.float32)
    return (torch.from_numpy(random).to(images.device) < images).float()


# ----------------------------------------------------------------------------- model (02_model)

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class Residual(nn.Module):
    """x + act(W x + b), ``(B, width)`` to the same: the layer adds to x instead of replacing it."""

    def __init__(self, width, act):
        super().__init__()
        self.linear, self.act = nn.Linear(width, width), act()

    def forward(self, x):
        return x + self.act(self.linear(x))


def dense_layers(widths, act, residual=False):
    """Linear layers of the given widths, each followed by the activation."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(widths):
        if residual and fan_in == fan_out:
            layers.append(Residual(fan_in, act))
        else:
            layers += [nn.Linear(fan_in, fan_out), act()]
    return layers


class Encoder(nn.Module):
    """q(z|x): images ``(B, 1, 28, 28)`` to mu and log sigma², each ``(B, latent_dim)``."""

    def __init__(self, config):
        super().__init__()
        act = ACTIVATIONS[config.activation]
        if config.architecture == "conv":
            self.body = nn.Sequential(
                nn.Conv2d(1, 32, 4, stride=2, padding=1), act(),  # (B, 32, 14, 14)
                nn.Conv2d(32, 64, 4, stride=2, padding=1), act(),  # (B, 64, 7, 7)
                nn.Conv2d(64, 128, 3, stride=1, padding=1), act(),  # (B, 128, 7, 7)
                nn.Flatten(),  # (B, 6272)
            )  # fmt: skip
            width = 128 * 7 * 7
        else:
            layers = dense_layers((784, *config.hidden), act, config.architecture == "residual")
            self.body = nn.Sequential(nn.Flatten(), *layers)  # (B, 784) to (B, hidden[-1])
            width = config.hidden[-1]
        self.mu = nn.Linear(width, config.latent_dim)
        self.logvar = nn.Linear(width, config.latent_dim)

    def forward(self, x):
        h = self.body(x)
        return self.mu(h), self.logvar(h).clamp(max=4)  # its exp: one image could cost millions


class Decoder(nn.Module):
    """p(x|z): codes ``(B, latent_dim)`` to logits ``(B, 1, 28, 28)``; their sigmoid is grey."""

    def __init__(self, config):
        super().__init__()
        act = ACTIVATIONS[config.activation]
        if config.architecture == "conv":
            self.body = nn.Sequential(
                nn.Linear(config.latent_dim, 128 * 7 * 7), act(),
                nn.Unflatten(1, (128, 7, 7)),  # (B, 128, 7, 7)
                nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1), act(),  # (B, 64, 14, 14)
                nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), act(),  # (B, 32, 28, 28)
                nn.Conv2d(32, 1, 3, stride=1, padding=1),  # (B, 1, 28, 28)
            )  # fmt: skip
        else:
            hidden = config.decoder_hidden or config.hidden[::-1]
            widths = (config.latent_dim, *hidden)
            layers = dense_layers(widths, act, config.architecture == "residual")
            last = nn.Linear(widths[-1], 784), nn.Unflatten(1, (1, 28, 28))  # (B, 1, 28, 28)
            self.body = nn.Sequential(*layers, *last)

    def forward(self, z):
        return self.body(z)


class VAE(nn.Module):
    """Kingma & Welling (2014): encoder, reparameterised sample, decoder. Explained in 02_model."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, x):
        """Images ``(B, 1, 28, 28)`` to mu and log sigma², each ``(B, latent_dim)``."""
        return self.encoder(x)

    def reparameterize(self, mu, logvar):
        """z = mu + sigma · eps with eps ~ N(0, I), so that gradients reach mu and sigma."""
        eps = torch.randn(mu.shape, device=mu.device)
        return mu + torch.exp(0.5 * logvar) * eps

    def decode(self, z):
        """Codes ``(B, latent_dim)`` to logits ``(B, 1, 28, 28)``."""
        return self.decoder(z)

    def forward(self, x):
        """Images to (logits, mu, logvar), with one sampled code per image."""
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar

    @torch.no_grad()
    def reconstruct(self, x):
        """Images in [0, 1] decoded from the mean code: for looking at, not for a loss."""
        return torch.sigmoid(self.decode(self.encode(x)[0]))

    @torch.no_grad()
    def sample(self, n):
        """n images in [0, 1] decoded from codes of the prior N(0, I)."""
        z = torch.randn(n, self.config.latent_dim, device=next(self.parameters()).device)
        return torch.sigmoid(self.decode(z))


class Autoencoder(VAE):
    """The same networks without noise: z = mu. Its config has beta 0, so there is no KL."""

    def reparameterize(self, mu, logvar):
        return mu


def build_model(config, model=None):
    """The VAE, or the Autoencoder, that a Config asks for, or your own ``model``, on the DEVICE."""
    if model is None:
        model = (VAE if config.variational else Autoencoder)(config)
    return model.to(DEVICE, memory_format=torch.channels_last)  # convolutions run faster so


def start_from_mean(model, mean):
    """Set the decoder's last bias, so that it first draws the mean ``(1, 28, 28)``, or its grey."""
    bias = [weight for name, weight in model.decoder.named_parameters() if "bias" in name][-1]
    bias.data = torch.logit(mean, 1e-3).reshape(len(bias), -1).mean(1)


# ------------------------------------------------------------------------- objective (02_model)


def reconstruction_loss(logits, x, kind="bce"):
    """-log p(x|z) per image, ``(B,)`` nats, summed over pixels. Explained in 02_model.

    With p = sigmoid(logits) and images x of the same shape in [0, 1]: "bce" is the cross-entropy
    -[x log p + (1-x) log(1-p)]; "mse" the squared error (p - x)², a Gaussian of variance 1/2 up to
    a constant; "cb" the continuous Bernoulli (Loaiza-Ganem & Cunningham 2019), bce minus its
    log-normaliser. Raises ValueError for another kind, other shapes, or pixels outside [0, 1].
    """
    if logits.shape != x.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and images {tuple(x.shape)} must be alike.")
    if not (x.numel() and x.min() >= 0 and x.max() <= 1):  # NaN fails too
        raise ValueError("images must be one or more, with pixels in [0, 1]: divide bytes by 255.")
    if kind == "mse":
        return ((torch.sigmoid(logits) - x) ** 2).flatten(1).sum(1)
    per_pixel = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    if kind == "cb":
        per_pixel = per_pixel - cb_log_normaliser(logits)
    elif kind != "bce":
        raise ValueError(f"kind={kind!r} is not known: choose bce or mse or cb.")
    return per_pixel.flatten(1).sum(1)


def cb_log_normaliser(logits):
    """log C of the continuous Bernoulli: log(l / tanh(l/2)), and log 2 + l²/12 near l = 0."""
    size = logits.abs()
    far = size.clamp(min=0.05)
    exact = (far / torch.tanh(far / 2)).log()
    return torch.where(size < 0.05, math.log(2) + size**2 / 12, exact)


def kl_divergence(mu, logvar):
    """KL( N(mu, sigma²) || N(0, I) ) per image, ``(B,)`` nats, summed over latent dimensions."""
    if mu.shape != logvar.shape or mu.ndim != 2:
        shapes = f"{tuple(mu.shape)} and log sigma² {tuple(logvar.shape)}"
        raise ValueError(f"mu {shapes} must both be (B, latent_dim).")
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)


def elbo(logits, x, mu, logvar, kind="bce", beta=1.0):
    """The negative ELBO, recon + beta · kl, as (loss, recon, kl), each ``(B,)`` nats per image."""
    recon = reconstruction_loss(logits, x, kind)
    kl = kl_divergence(mu, logvar)
    return recon + beta * kl, recon, kl


# ------------------------------------------------------ training (03_training, 08_under_the_hood)


def learning_rate(config, progress):
    """Learning rate at ``progress`` in [0, 1) of the run: up over a tenth, then down to 0.

    "one-cycle" goes down along a cosine, "linear" along a straight line; "constant" stays.
    """
    if config.schedule == "constant":
        return config.lr
    if progress < 0.1:
        return config.lr * (0.1 + 9 * progress)
    if config.schedule == "linear":
        return config.lr * (1 - progress) / 0.9
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


def orthogonal(matrix):
    """About U V^T of a matrix U S V^T: five steps of Jordan's polynomial take S towards 1."""
    x = matrix / (matrix.norm() + 1e-7)
    x = x.T if len(x) > x.shape[1] else x  # the short side first
    square, one = x @ x.T, torch.eye(len(x), device=x.device)
    total = one
    for step in range(5):  # on the small square alone: x is multiplied once, at the end
        factor = 3.4445 * one - 4.775 * square + 2.0315 * square @ square
        total = factor @ total
        if step < 4:  # the last round needs no square after it
            square = factor @ square @ factor
    x = total @ x
    return x.T if len(matrix) > matrix.shape[1] else x


class Muon(torch.optim.AdamW):
    """AdamW for biases and thin matrices; others move by orthogonal ones (Jordan et al. 2024).

    With the momentum of a weight, as a matrix, decomposed into U S V^T, the step is about U V^T:
    every direction moves equally far, rare ones too. Its size is that of AdamW's steps (Liu et al.
    2025), so that one learning rate suits both.
    """

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None or weight.ndim < 2 or min(weight.flatten(1).shape) <= 16:
                    continue
                state = self.state[weight]
                if not state:  # AdamW looks for its count of steps when it loads a state
                    state |= {"step": weight.new_zeros(()), "momentum": torch.zeros_like(weight)}
                momentum = state["momentum"].lerp_(weight.grad, 0.05)
                move = orthogonal(weight.grad.lerp(momentum, 0.95).flatten(1))
                size = 0.2 * group["lr"] * max(move.shape) ** 0.5
                weight.sub_(size * move.view_as(weight))
                weight.grad = None  # so that AdamW leaves it alone
        super().step()


def make_optimizer(model, config):
    """AdamW or Muon for a model; train_one_epoch sets its learning rate at every step."""
    kind = {"adamw": torch.optim.AdamW, "muon": Muon}[config.optimizer]
    return kind(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)


def augment(x, config):
    """A training batch, moved by up to config.shift pixels, and black or white if binarize."""
    if config.shift:  # one random move for the whole batch: a window into the padded images
        top, left = torch.randint(2 * config.shift + 1, (2,)).tolist()
        x = F.pad(x, [config.shift] * 4)[..., top : top + 28, left : left + 28]
    if config.binarize:
        x = (torch.rand_like(x) < x).float()  # as torch.bernoulli, four times as fast
    return x


CLIP = 300.0  # a few times the usual length of a gradient: one odd image cannot throw a model off


def train_one_epoch(model, batches, optimizer, config, epoch=1, bar=None):
    """One pass over ``batches``. Explained in 03_training.

    ``epoch`` counts from 1 and decides learning rate and beta; ``bar`` is a tqdm bar. Returns
    train_loss, train_recon and train_kl (nats, means over images), beta and lr. Raises
    FloatingPointError, with epoch and learning rate, for a loss that is NaN or infinite.
    """
    beta = config.beta * min(1.0, epoch / max(1, config.warmup_epochs))
    sums, images = [], 0
    model.train()
    for step, (x, _) in enumerate(batches):
        lr = learning_rate(config, (epoch - 1 + step / len(batches)) / config.epochs)
        optimizer.param_groups[0]["lr"] = lr
        x = augment(x, config)
        with autocast(config):
            logits, mu, logvar = (part.float() for part in model(x))
        loss, recon, kl = elbo(logits, x, mu, logvar, config.recon_loss, beta)
        optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        sums.append(torch.stack((loss, recon, kl)).detach().sum(1))  # stays on the device
        images += len(x)
        if bar is not None:
            bar.update()
            if step % 50 == 0:  # a look at the numbers makes a GPU wait: seldom
                bar.set_postfix_str(f"epoch {epoch}, loss {sums[-1][0] / len(x):.1f}")
    means = torch.stack(sums).double().sum(0) / images
    loss, recon, kl = finite(means.tolist(), epoch, config.lr)
    return {"train_loss": loss, "train_recon": recon, "train_kl": kl, "beta": beta, "lr": lr}


def finite(losses, epoch, lr):
    """The losses as they are. FloatingPointError if one is NaN or infinite."""
    if all(map(math.isfinite, losses)):
        return losses
    raise FloatingPointError(
        f"the loss became NaN or infinite in epoch {epoch}, at a learning rate up to {lr:.2g}: "
        "try a smaller lr, or precision='float32', in a new folder; every finished epoch is kept."
    )


@torch.no_grad()
def loss_per_image(model, batches, config, seed=0):
    """Loss, reconstruction and KL of every image, a tensor ``(3, N)`` in nats on the CPU.

    The code is *sampled*, in float32; ``seed`` decides the noise, and torch's own stays as it was.
    """
    parts = []
    model.eval()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for x, _ in batches:
            x = torch.bernoulli(x) if config.binarize else x
            logits, mu, logvar = model(x)
            parts.append(torch.stack(elbo(logits, x, mu, logvar, config.recon_loss, config.beta)))
    return torch.cat(parts, 1).double().cpu()


def evaluate(model, batches, config, seed=0):
    """Mean loss over ``batches`` with a *sampled* z. Explained in 03_training.

    Returns loss (recon + config.beta · kl), recon and kl in nats per image, loss_per_pixel, and
    loss_se, the standard error of the mean loss over images.
    """
    per_image = loss_per_image(model, batches, config, seed)
    loss, recon, kl = per_image.mean(1).tolist()
    se = (per_image[0].std() / per_image.shape[1] ** 0.5).item()
    return {"loss": loss, "recon": recon, "kl": kl, "loss_per_pixel": loss / 784, "loss_se": se}


# ------------------------------------------------------------------------ runs (03_training)


@dataclasses.dataclass
class Run:
    """A trained model with its history (a list of dicts, the rows of history.csv)."""

    model: nn.Module
    history: list
    config: Config
    out_dir: Path


def epochs_of(config):
    """How many epochs to train: no more than two when FAST."""
    return min(config.epochs, 2) if FAST else config.epochs


def fit(config, model=None, out_dir=None, figures=True):
    """Train, or go on training, or return what is finished. Explained in 03_training.

    Trains ``VAE(config)``, or your own ``model``: a module with encode, decode and forward. Every
    epoch ends with a checkpoint: kill the process at any moment, call ``fit`` again, and it reaches
    the numbers of an unbroken run bit for bit (same machine, same threads). Ctrl-C returns the run
    so far. The Run's model is that of the best validation loss; its folder is ``out_dir``, or
    ``outputs_dir() / config.name``, to which your own model adds six characters that change with
    its code; without ``figures`` it gets no pictures and no report.md. Raises ValueError for a
    folder that another process or another run has, FloatingPointError as train_one_epoch, OSError
    for missing data or a folder that it cannot fill.
    """
    if not isinstance(config, Config):
        raise ValueError(f"fit wants a Config, such as PRESETS['best-2d'], not {config!r}.")
    parts = hasattr(model, "encode") and hasattr(model, "decode")
    if model is not None and not (isinstance(model, nn.Module) and parts):
        raise ValueError("your model must be a torch module, made, with encode and decode.")
    own = fingerprint(model) if model is not None else ""
    name = f"{config.name}-{own}" if own else config.name
    out_dir, epochs = Path(out_dir or outputs_dir(config.dataset) / name), epochs_of(config)
    data = {"fast": FAST, "network": own} | identity(config.dataset)
    folder = RunFolder(out_dir, vars(config), data)
    torch.manual_seed(config.seed)
    network = build_model(config, model)
    optimizer = make_optimizer(network, config)
    state = folder.newest(network, optimizer)
    history = state["history"] if state else []
    try:
        if len(history) < epochs:
            train, val, _ = get_dataloaders(config)
            folder.data["images"] = len(train.images)
            if model is None and not history:
                start_from_mean(network, train.images.mean(0))
            elif not history:  # if its shapes do not fit, that is said here, not by the pictures
                loss_per_image(network, [(val.images[:2], None)], config)
            with hold(out_dir):
                state = folder.newest(network, optimizer)  # once more: now nobody else writes here
                history = folder.go_on(state, network, optimizer)
                if figures and not history:
                    folder.write(draw_run(network, val, history, config))
                done, steps = len(history) * len(train), epochs * len(train)
                with tqdm(desc=config.name, total=steps, initial=done) as bar:
                    for epoch in range(len(history) + 1, epochs + 1):
                        start = time.perf_counter()
                        row = train_one_epoch(network, train, optimizer, config, epoch, bar)
                        losses = evaluate(network, val, config)
                        row |= {f"val_{key}": x for key, x in losses.items()}
                        finite([row["val_loss"]], epoch, config.lr)
                        row |= {"epoch": epoch, "seconds": time.perf_counter() - start}
                        history.append({column: row[column] for column in HISTORY})
                        if figures and epoch in (1, 5, 10, epochs):
                            folder.write(draw_run(network, val, history, config))
                        folder.save(network, optimizer, history)
    except KeyboardInterrupt:
        if not (out_dir / "last.pt").exists():
            raise
        print(f"stopped: epochs finished so far are in {out_dir}; the same call goes on from there")
        if not (out_dir / "best.pt").exists():
            return Run(network.eval(), history, config, out_dir)
    if figures:
        gc.collect()  # matplotlib's leftovers keep all that this function held, 200 MB, until then
    return load_run(out_dir, model)


def load_run(out_dir, model=None):
    """The Run kept in a folder: model of the best epoch, history of all.

    ``model`` is your own module, if the run trained one. If only last.pt can be read, the model is
    that of the last epoch, and a warning says so. Raises FileNotFoundError where there is no run,
    ValueError for damaged or foreign checkpoints.
    """
    settings, history, weights = read_run(Path(out_dir), vars(Config()))
    config = Config(**settings)
    model = build_model(config, model)
    load_weights(model, weights, out_dir)
    return Run(model.eval(), history, config, Path(out_dir))


# ----------------------------------------------------------------------- measures (04_evaluation)


def log_normal(z):
    """log N(z; 0, I) of codes ``(B, latent_dim)``: ``(B,)`` nats."""
    return -0.5 * (z**2 + math.log(2 * math.pi)).sum(1)


def log_weights(model, x, k, kind="bce", log_prior=log_normal):
    """log p(x|z) + log p(z) - log q(z|x) of k codes z ~ q(z|x) an image: ``(k, B)`` nats.

    Images x are ``(B, 1, 28, 28)``; ``log_prior`` takes codes to log p(z). Their log-mean-exp over
    k bounds log p(x) from below (Burda et al. 2016), and gradients pass. Memory grows with k · B.
    """
    mu, logvar = (part.float().repeat(k, 1) for part in model.encode(x))  # (k * B, latent_dim)
    z = model.reparameterize(mu, logvar)
    eps = (z - mu) / torch.exp(0.5 * logvar)
    log_q = log_normal(eps) - 0.5 * logvar.sum(1)
    recon = reconstruction_loss(model.decode(z).float(), x.repeat(k, 1, 1, 1), kind)
    return (log_prior(z) - log_q - recon).view(k, len(x))


AT_ONCE = 4000  # codes: with what a decoder needs for them, well below 1 GB


@torch.no_grad()
def iwae_bound(model, x, k=50, kind="bce", log_prior=log_normal):
    """Importance-weighted bound on -log p(x), ``(B,)`` nats, in the mean tighter with larger k.

    -log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x), z_i ~ q(z|x) (Burda et al. 2016), summed in float64;
    k = 1 is the negative ELBO. Any B and k: codes are drawn some thousands at a time. Of grey
    images, "bce" is no density, and this bounds no likelihood.
    """
    if k < 1:
        raise ValueError(f"k={k} codes an image: it must be 1 or more.")
    k = min(k, 50) if FAST else k
    model.eval()
    bounds = []
    for few in x.split(max(1, AT_ONCE // k)):
        counts = [min(AT_ONCE, k - done) for done in range(0, k, AT_ONCE)]
        parts = [log_weights(model, few, count, kind, log_prior) for count in counts]
        bounds.append(math.log(k) - torch.logsumexp(torch.cat(parts).double(), dim=0))
    return torch.cat(bounds)


@torch.no_grad()
def encode_dataset(model, batches):
    """Codes of all images: mu and log sigma² ``(N, latent_dim)``, labels ``(N,)``, on the CPU."""
    model.eval()
    parts = [(*model.encode(x), y) for x, y in batches]
    return tuple(torch.cat(column).cpu() for column in zip(*parts))


def active_units(mu, threshold=0.01):
    """mu ``(N, latent_dim)`` to booleans: is its variance over images > threshold? (Burda 2016)"""
    return mu.var(0) > threshold


def cross_entropy_floor(x):
    """Entropy of grey pixels, per image ``(B,)`` in nats: no model's bce can be lower."""
    return -(torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x)).flatten(1).sum(1)


def most_confused(truth, predicted):
    """The two classes most often taken for each other, and how often: (a, b, count), a < b.

    Without a mistake it is class 0 twice, and a count of 0.
    """
    classes = range(1 + max(np.max(truth), np.max(predicted)))
    counts = confusion_matrix(truth, predicted, labels=classes)
    both = np.triu(counts + counts.T, k=1)  # without the diagonal, each pair once
    a, b = np.unravel_index(both.argmax(), both.shape)
    return int(a), int(b), int(both[a, b])


def check(claim, holds):
    """Print ✓ or ✗ before a claim, in sight of the reader; a FAST run is too small to judge."""
    mark = "✓" if holds else "✗"
    print(f"– {claim} (not judged on a fast run)" if FAST else f"{mark} {claim}")


def check_answer(answer, right):
    """Say whether an exercise is answered right: ✓, ✗, or ○ while ``answer`` is still ``...``.

    ``right`` is the right answer, or a function of the answer that says yes or no.
    """
    if answer is ...:
        return print("○ not answered yet")
    try:
        good = right(answer) if callable(right) else answer == right
        print("✓ right" if good else "✗ not yet: try again")
    except Exception as error:  # an answer may be anything
        cause = f"{type(error).__name__}: {error}"
        print(f"✗ not yet: an answer of another kind is asked for ({cause})")


def save_results(chapter, results):
    """Keep a chapter's numbers, {name: {quantity: number}}, for the report and its marks."""
    if not re.fullmatch(r"\w+", chapter):
        raise ValueError(f"chapter={chapter!r} must be made of letters, digits and '_'.")
    text = json.dumps(results, indent=1, default=float)
    write_file(outputs_dir() / "results" / f"{chapter}.json", text.encode())
