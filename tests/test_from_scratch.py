"""The NumPy VAE of notebook 07: its cells tagged numpy-vae, run without the rest of the page."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "07_from_scratch.ipynb"
each_kind = pytest.mark.parametrize("kind", ["mse", "bce"])


@pytest.fixture(scope="module")
def vae():
    """All names that the tagged cells define. NumPy and math are all that they may use."""
    names = {"np": np, "math": math}
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if "numpy-vae" in cell.metadata.get("tags", []):
            exec(cell.source, names)
    return type("NumPyVAE", (), {key: staticmethod(value) for key, value in names.items()})


def batch(vae, latent_dim, rows=8, seed=0):
    """Weights, a place for their gradient, images and noise, in float64."""
    rng = np.random.default_rng(seed)
    theta = vae.new_weights(latent_dim, rng, np.float64)
    theta += 0.01 * rng.normal(size=theta.size)  # biases too
    x, eps = rng.random((rows, 784)), rng.normal(size=(rows, latent_dim))
    return theta, np.full_like(theta, np.nan), x, eps


def loss_of(vae, theta, x, eps, kind):
    _, mu, logvar, _, _, a = vae.forward(vae.views(theta, eps.shape[1]), x, eps)
    return (vae.reconstruction(x, a, kind) + vae.kl(mu, logvar)).mean()


def gradient_of(vae, theta, g, x, eps, kind):
    w, grad = vae.views(theta, eps.shape[1]), vae.views(g, eps.shape[1])
    vae.backward(w, grad, x, vae.forward(w, x, eps), kind)
    return grad


def torch_loss(w, x, eps, kind):
    """The same loss in torch, written apart from the notebook."""
    h = torch.relu(x @ w["W1"] + w["b1"])
    mu, logvar = (h @ w["W2"] + w["b2"]).chunk(2, dim=1)
    z = mu + torch.exp(logvar / 2) * eps
    a = torch.relu(z @ w["W3"] + w["b3"]) @ w["W4"] + w["b4"]
    if kind == "mse":
        recon = F.mse_loss(torch.sigmoid(a), x, reduction="sum")
    else:
        recon = F.binary_cross_entropy_with_logits(a, x, reduction="sum")
    q = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return (recon + torch.distributions.kl_divergence(q, p).sum()) / len(x)


@pytest.mark.parametrize("latent_dim, count", [(2, 631_188), (10, 640_804), (20, 652_824)])
def test_parameter_count(vae, latent_dim, count):
    theta = vae.new_weights(latent_dim, np.random.default_rng(0))
    parts = vae.views(theta, latent_dim)
    assert theta.size == sum(part.size for part in parts.values()) == count
    assert all(np.shares_memory(part, theta) for part in parts.values())


@each_kind
@pytest.mark.parametrize("latent_dim", [2, 10])
def test_loss_and_gradients_equal_autograd(vae, kind, latent_dim):
    theta, g, x, eps = batch(vae, latent_dim)
    grad = gradient_of(vae, theta, g, x, eps, kind)
    parts = vae.views(theta, latent_dim)
    w = {name: torch.tensor(part, requires_grad=True) for name, part in parts.items()}
    loss = torch_loss(w, torch.tensor(x), torch.tensor(eps), kind)
    loss.backward()
    assert loss_of(vae, theta, x, eps, kind) == pytest.approx(loss.item(), rel=1e-12)
    for name, reference in w.items():
        assert np.abs(grad[name] - reference.grad.numpy()).max() < 1e-6, name
        np.testing.assert_allclose(grad[name], reference.grad, rtol=1e-8, atol=1e-11, err_msg=name)


@each_kind
def test_gradients_equal_finite_differences(vae, kind):
    theta, g, x, eps = batch(vae, 3, seed=1)
    grad = gradient_of(vae, theta, g, x, eps, kind)
    rng, step = np.random.default_rng(2), 1e-5
    for name, part in vae.views(theta, 3).items():
        for index in rng.choice(part.size, 5, replace=False):
            start, sides = part.flat[index], []
            for sign in (1, -1):
                part.flat[index] = start + sign * step
                sides.append(loss_of(vae, theta, x, eps, kind))
            part.flat[index] = start
            slope = (sides[0] - sides[1]) / (2 * step)
            assert grad[name].flat[index] == pytest.approx(slope, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("ours, theirs", [("Adam", torch.optim.Adam), ("SGD", torch.optim.SGD)])
def test_optimizers_equal_torch(vae, ours, theirs):
    theta, g, x, eps = batch(vae, 2)
    start, reference = theta.copy(), torch.tensor(theta, requires_grad=True)
    mine, other = getattr(vae, ours)(theta, lr=1e-3), theirs([reference], lr=1e-3)
    for _ in range(5):
        gradient_of(vae, theta, g, x, eps, "mse")
        reference.grad = torch.tensor(g)
        other.step()
        mine.step(g)
        np.testing.assert_allclose(theta, reference.detach(), rtol=0, atol=1e-9)
    assert np.abs(theta - start).max() > 1e-4


@each_kind
@pytest.mark.filterwarnings("error")
def test_large_logits_stay_finite(vae, kind):
    x = np.array([[0.0, 1.0, 0.5]], np.float32)
    a = np.array([[-1000.0, 1000.0, 1000.0]], np.float32)
    assert np.isfinite(vae.reconstruction(x, a, kind)).all()
    assert np.isfinite(vae.logits_gradient(x, a, kind)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_training_in_float32_lowers_the_loss_and_repeats(vae, optimizer):
    images = np.random.default_rng(0).random((200, 784), dtype=np.float32) ** 4

    def train():
        rng = np.random.default_rng(3)
        theta = vae.new_weights(2, rng)
        rule = getattr(vae, optimizer)(theta, lr=1e-3)
        g, before = np.empty_like(theta), vae.evaluate(theta, 2, images).sum()
        for _ in range(3):
            vae.train_epoch(theta, g, 2, images, rule, rng, batch_size=64)  # 200 = 3 · 64 + 8
        return theta, before, vae.evaluate(theta, 2, images).sum()

    theta, before, after = train()
    assert theta.dtype == np.float32 and after < before
    assert np.array_equal(theta, train()[0])


def test_sampled_code_differs_from_the_mean_code_and_repeats(vae):
    images = np.random.default_rng(0).random((70, 784), dtype=np.float32)
    theta = vae.new_weights(2, np.random.default_rng(0))
    mean, sampled, again = (
        vae.evaluate(theta, 2, images, rng)
        for rng in (None, np.random.default_rng(1), np.random.default_rng(1))
    )
    assert np.array_equal(sampled, again) and mean[1] == sampled[1] and mean[0] != sampled[0]
