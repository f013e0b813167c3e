"""How good samples look, where better ones come from, and which of two settings is better.

A small classifier, the Fréchet distance by its features, and a mixture fitted to the codes.
06_experiments writes all three; 11_applications uses them. Both compare by the rule given here.
"""

import copy
import time

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import nn

import vae_utils as vae


def mean_sd(values, digits=2):
    """Repeats of a number as text: mean ± standard deviation, or the one value."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def clearly_below(a, b):
    """Is the mean of repeats a below that of b by more than twice the larger deviation?"""
    return np.mean(b) - np.mean(a) > 2 * max(np.std(a, ddof=1), np.std(b, ddof=1))


def clearly_different(a, b):
    """Is either of two lots of repeats clearly below the other?"""
    return clearly_below(a, b) or clearly_below(b, a)


def learn(model, loss, batches, epochs, lr=2e-3):
    """Train a model by the mean of ``loss(x, y)`` over each of Batches. Returns seconds.

    The loop of 03_training in short: Adam, one cycle of the learning rate, gradients clipped.
    """
    start, steps = time.perf_counter(), epochs * len(batches)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(epochs):
        for x, y in batches:
            value = loss(x, y).mean()
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), vae.CLIP)
            optimizer.step()
            schedule.step()
    model.eval()
    return time.perf_counter() - start


def train_classifier(batches, epochs=6):
    """A small convolutional network trained on Batches. Its part [0] computes 64 features.

    Images ``(B, 1, 28, 28)`` to logits ``(B, classes)``. Explained in 06_experiments.
    """
    features = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),  # (B, 16, 14, 14)
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),  # (B, 32, 7, 7)
        nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(),  # (B, 64)
    )  # fmt: skip
    classes = int(batches.labels.max()) + 1
    classifier = nn.Sequential(features, nn.Dropout(0.3), nn.Linear(64, classes)).to(vae.DEVICE)

    def loss(x, y):
        return nn.functional.cross_entropy(classifier(x), y)

    learn(classifier, loss, batches, epochs, lr=4e-3)
    return classifier


class FrechetDistance:
    """Distance of images to given ones by a network's features (Heusel et al. 2017).

    ``images`` are ``(N, 1, 28, 28)``; then call it with batches of as many. See 06_experiments.
    """

    def __init__(self, features, images):
        self.features = copy.deepcopy(features).cpu()
        self.mean, self.cov = self.moments(images.split(500))

    @torch.no_grad()
    def moments(self, batches):
        f = torch.cat([self.features(x.cpu()).double() for x in batches])  # (N, D)
        return f.mean(0), f.T.cov().reshape(2 * f.shape[1:])  # (D,), (D, D)

    def __call__(self, batches):
        mean, cov = self.moments(batches)
        roots = torch.linalg.eigvals(self.cov @ cov).sqrt().real  # eigenvalues of the root
        spread = (self.cov + cov).trace() - 2 * roots.sum()
        return ((self.mean - mean).square().sum() + spread).item()


def mixture_of_codes(model, images, components, seed=0):
    """Fit a mixture to codes of 20,000 images; a function that draws n codes ``(n, latent_dim)``.

    Ghosh et al. (2020): a prior fitted once training is over. Explained in 06_experiments.
    """
    torch.manual_seed(seed)
    with torch.no_grad():  # sampled codes; an autoencoder's are its mu
        parts = [model.reparameterize(*model.encode(x)) for x in images[:20_000].split(500)]
    random = np.random.RandomState(seed)  # a plain seed would draw the same codes at every call
    mixture = GaussianMixture(components, random_state=random, reg_covar=1e-4, tol=1e-2)
    mixture.fit(torch.cat(parts).double().cpu().numpy())
    return lambda n: torch.from_numpy(mixture.sample(n)[0]).float()
