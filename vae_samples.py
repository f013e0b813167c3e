"""How good samples look, and where better ones come from.

A small classifier, the Fréchet distance by its features, and a mixture fitted to the codes.
06_experiments writes all three; 11_applications uses them.
"""

import copy

import torch
from sklearn.mixture import GaussianMixture
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

import vae_utils as vae


def train_classifier(batches, epochs=6):
    """A small convolutional network trained on Batches. Its part [0] computes 64 features.

    Images ``(B, 1, 28, 28)`` to logits ``(B, classes)``. Explained in 06_experiments.
    """
    features = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),  # (B, 16, 14, 14)
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),  # (B, 32, 7, 7)
        nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(),  # (B, 64)
    )  # fmt: skip
    features.num_features = 64  # torchmetrics asks
    classes = int(batches.labels.max()) + 1
    classifier = nn.Sequential(features, nn.Dropout(0.3), nn.Linear(64, classes)).to(vae.DEVICE)
    optimizer, steps = torch.optim.Adam(classifier.parameters()), epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for x, y in batches:
            loss = nn.functional.cross_entropy(classifier(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


class FrechetDistance:
    """Distance of images to given ones by a network's features (Heusel et al. 2017).

    ``images`` are ``(N, 1, 28, 28)``; then call it with batches of as many. See 06_experiments.
    """

    def __init__(self, features, images):
        features = copy.deepcopy(features).cpu()
        self.fid = FrechetInceptionDistance(feature=features, reset_real_features=False)
        for part in images.cpu().split(500):
            self.fid.update(part, real=True)

    def __call__(self, batches):
        self.fid.reset()  # keeps the given images
        for part in batches:
            self.fid.update(part.cpu(), real=False)
        return self.fid.compute().item()


def mixture_of_codes(model, images, components, seed=0):
    """Fit a mixture to codes of 20,000 images; a function that draws n codes ``(n, latent_dim)``.

    Ghosh et al. (2020): a prior fitted once training is over. Explained in 06_experiments.
    """
    torch.manual_seed(seed)
    with torch.no_grad():  # sampled codes; an autoencoder's are its mu
        parts = [model.reparameterize(*model.encode(x)) for x in images[:20_000].split(500)]
    mixture = GaussianMixture(components, random_state=seed, reg_covar=1e-4, tol=1e-2)
    mixture.fit(torch.cat(parts).double().cpu().numpy())
    return lambda n: torch.from_numpy(mixture.sample(n)[0]).float()
