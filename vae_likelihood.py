"""Training for likelihood: the importance-weighted objective, and a prior that is learned.

Explained in 09_likelihood, which trains with it; benchmarks/ use it too. And a density for grey
images, which 11_applications uses as well.
"""

import math
import time

import torch
from torch import nn
from tqdm import tqdm

import vae_utils as vae

CLIP = 30.0  # the residual networks have no norm: one odd batch must not throw them off


class Mixture(nn.Module):
    """A learned prior: log p(z) of codes ``(B, latent_dim)`` under a mixture of n normals."""

    def __init__(self, latent_dim, n=500):
        super().__init__()
        self.mean = nn.Parameter(torch.randn(n, latent_dim))
        self.logvar = nn.Parameter(torch.zeros(n, latent_dim))
        self.share = nn.Parameter(torch.zeros(n))  # of each normal, before the softmax

    def forward(self, z):
        with torch.autocast(z.device.type, enabled=False):  # squares minus squares want float32
            logvar = self.logvar.clamp(min=-4)  # none may shrink to a point
            inverse = torch.exp(-logvar)  # (n, latent_dim)
            squares = z**2 @ inverse.T - 2 * z @ (inverse * self.mean).T  # (B, n)
            constant = (inverse * self.mean**2 + logvar + math.log(2 * math.pi)).sum(1)
            log_p = torch.log_softmax(self.share, 0) - 0.5 * (squares + constant)
        return torch.logsumexp(log_p, 1)


class Coupling(nn.Module):
    """Shuffles the dimensions of z, then scales and shifts half of them by a network of the others.

    Codes ``(B, latent_dim)`` to codes and log |det| of the step, ``(B,)`` (Dinh et al. 2017).
    """

    def __init__(self, latent_dim, width=128):
        super().__init__()
        self.half = latent_dim // 2
        last = nn.Linear(width, 2 * (latent_dim - self.half), bias=False)
        nn.init.zeros_(last.weight)  # at first it changes nothing
        self.net = nn.Sequential(
            nn.Linear(self.half, width), nn.SiLU(), vae.Residual(width, nn.SiLU), last
        )
        self.register_buffer("order", torch.randperm(latent_dim))

    def scale_and_shift(self, kept):
        scale, shift = self.net(kept).float().chunk(2, dim=1)
        return 2 * torch.tanh(scale / 2), shift  # a factor of at most e²

    def forward(self, z):
        kept, moved = z[:, self.order].tensor_split([self.half], dim=1)
        scale, shift = self.scale_and_shift(kept)
        return torch.cat((kept, moved * scale.exp() + shift), 1), scale.sum(1)

    def inverse(self, z):
        kept, moved = z.tensor_split([self.half], dim=1)
        scale, shift = self.scale_and_shift(kept)
        z = torch.cat((kept, (moved - shift) * torch.exp(-scale)), 1)
        return z[:, self.order.argsort()]


class Flow(nn.Module):
    """A learned prior: log p(z) of codes ``(B, latent_dim)``; couplings turn them into N(0, I)."""

    def __init__(self, latent_dim, layers=8):
        super().__init__()
        self.latent_dim = latent_dim
        self.layers = nn.ModuleList(Coupling(latent_dim) for _ in range(layers))

    def forward(self, z):
        log_det = 0.0
        for layer in self.layers:
            z, more = layer(z)
            log_det = log_det + more
        return vae.log_normal(z) + log_det

    @torch.no_grad()
    def sample(self, n):
        """n codes of the prior, ``(n, latent_dim)``: the layers backwards, from N(0, I)."""
        z = torch.randn(n, self.latent_dim, device=self.layers[0].order.device)
        for layer in reversed(self.layers):
            z = layer.inverse(z)
        return z


def objective(model, x, k=1, iwae=False, log_prior=vae.log_normal):
    """Loss of a batch, nats: weights of k codes an image, averaged, for iwae before taking the log.

    The mean of the logs is the negative ELBO.
    """
    log_w = vae.log_weights(model, x, k, log_prior=log_prior)  # (k, B)
    if iwae:
        return (math.log(k) - torch.logsumexp(log_w, 0)).mean()
    return -log_w.mean()


def gauss_loss(logits, x, log_sigma):
    """-log N(x; sigmoid(logits), sigma²) per image, ``(B,)`` nats (Rybkin et al. 2021)."""
    squares = vae.reconstruction_loss(logits, x, "mse")
    constant = 784 * (log_sigma + 0.5 * math.log(2 * math.pi))
    return squares / (2 * torch.exp(2 * log_sigma)) + constant


def together(model, prior=None):
    """A model and its prior, if it has one, as one module: to train them, and to keep them."""
    return nn.ModuleList([model, prior] if prior else [model])


def step(loss, module, optimizer, clip=CLIP):
    """One step of the optimizer down a loss, with gradients clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()


def train(config, prior=None, k=1, iwae=False, finish=0, seed=0):
    """A VAE, and its ``prior`` with it, on all 60,000 images. Returns (model, seconds).

    The loss is ``objective``: beta, recon_loss and warmup_epochs of ``config`` do not count. After
    its epochs come ``finish`` more with the iwae objective, k = 5, on half batches. The learning
    rate follows the whole run. FloatingPointError if the loss becomes NaN.
    """
    batches, val, _ = vae.get_dataloaders(config)
    batches.images = torch.cat((batches.images, val.images))
    batches.labels = torch.cat((batches.labels, val.labels))
    torch.manual_seed(seed)
    model = vae.build_model(config)
    vae.start_from_mean(model, batches.images.mean(0))
    both = together(model, prior).to(vae.DEVICE)
    optimizer = vae.make_optimizer(both, config)
    half = math.ceil(config.batch_size / 2)
    phases = [(vae.epochs_of(config), k, iwae, config.batch_size), (finish, 5, True, half)]
    steps = sum(epochs * math.ceil(len(batches.images) / size) for epochs, _, _, size in phases)
    rates = (vae.learning_rate(config, done / steps) for done in range(steps))
    both.train()
    start = time.perf_counter()
    with tqdm(total=steps, desc=f"{config.name} seed {seed}") as bar:
        for epochs, k, iwae, size in phases:
            batches.batch_size = size
            for _ in range(epochs):
                for x, _ in batches:
                    optimizer.param_groups[0]["lr"] = next(rates)
                    x = vae.augment(x, config)
                    with vae.autocast(config):
                        loss = objective(model, x, k, iwae, prior or vae.log_normal)
                    step(loss, both, optimizer)
                    bar.update()
                bar.set_postfix_str(f"loss {loss.item():.1f}")
                if not loss.isfinite():
                    raise FloatingPointError(f"{config.name}: the loss is NaN; try a smaller lr.")
    both.eval()
    return model, time.perf_counter() - start
