"""The bound in chunks, black-or-white images, the flow prior, training for likelihood."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

import vae_likelihood
import vae_utils
from vae_likelihood import Coupling, Flow, Mixture, objective, train
from vae_utils import binary, iwae_bound, log_normal, log_weights


class Linear(nn.Module):
    """x = 1/2 + W z + noise of variance 1/2; the encoder knows the posterior's mean."""

    def __init__(self):
        super().__init__()
        random = torch.Generator().manual_seed(3)
        self.W = 0.02 * torch.randn(784, 2, generator=random) @ torch.tensor([[1.0, 0.8], [0, 0.6]])
        self.precision = torch.eye(2) + 2 * self.W.T @ self.W
        self.decoded = []  # how many codes at a time

    reparameterize = vae_utils.VAE.reparameterize

    def encode(self, x):
        mu = 2 * (x.flatten(1) - 0.5) @ self.W @ self.precision.inverse()
        return mu, -self.precision.diag().log().expand_as(mu)

    def decode(self, z):
        self.decoded.append(len(z))
        return torch.logit(0.5 + z @ self.W.T).view(-1, 1, 28, 28)

    def exact(self, x):
        """-log p(x) without the constant that "mse" leaves out."""
        half = torch.full((784,), 0.5)
        known = torch.distributions.LowRankMultivariateNormal(half, self.W, half)
        return -known.log_prob(x.flatten(1)) - 392 * math.log(math.pi)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return Linear()


def test_the_bound_reaches_a_known_likelihood_and_the_elbo_does_not(linear):
    x = torch.rand(10, 1, 28, 28)
    one = torch.stack([iwae_bound(linear, x, 1, "mse") for _ in range(500)]).mean(0)
    many = iwae_bound(linear, x, 20_000, "mse")
    assert (many - linear.exact(x)).abs().max() < 0.02
    # What the ELBO loses is the KL of two normals with one mean.
    lost = 0.5 * (linear.precision.diag().log().sum() - torch.logdet(linear.precision))
    assert (one - linear.exact(x)).mean() == pytest.approx(lost.item(), abs=0.03)
    assert lost > 0.02


@pytest.mark.parametrize("k", [1, 3, 7, 25])
@pytest.mark.parametrize("images", [1, 5, 20])
def test_chunks_of_any_size_give_one_bound_an_image(linear, monkeypatch, k, images):
    monkeypatch.setattr(vae_utils, "AT_ONCE", 7)
    bound = iwae_bound(linear, torch.rand(images, 1, 28, 28), k, "mse")
    assert bound.shape == (images,) and bound.dtype == torch.float64
    assert max(linear.decoded) <= 7 and sum(linear.decoded) == k * images


def test_chunks_do_not_change_the_bound(linear, monkeypatch):
    x = torch.rand(3, 1, 28, 28)
    whole = iwae_bound(linear, x, 4000, "mse")
    monkeypatch.setattr(vae_utils, "AT_ONCE", 130)
    assert (iwae_bound(linear, x, 4000, "mse") - whole).abs().max() < 0.05


def test_weights_too_small_for_float32_are_not_lost(tiny_config):
    model = vae_utils.VAE(tiny_config(latent_dim=4))
    bound = iwae_bound(model, torch.rand(2, 1, 28, 28).round(), 10)  # about exp(-540)
    assert torch.isfinite(bound).all() and (bound > 400).all()


def test_another_prior_counts(linear):
    x = torch.rand(4, 1, 28, 28)
    torch.manual_seed(1)
    plain = iwae_bound(linear, x, 5, "mse")
    torch.manual_seed(1)
    lower = iwae_bound(linear, x, 5, "mse", lambda z: log_normal(z) - 3)
    assert torch.allclose(lower, plain + 3, atol=1e-4)


def test_log_normal_is_the_density():
    z = torch.randn(6, 3)
    known = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert torch.allclose(log_normal(z), known, atol=1e-5)


# ---------------------------------------------------------------- black or white


def test_binary_is_the_same_draw_each_time_and_white_as_often_as_grey_says():
    x = torch.tensor([0.0, 0.2, 1.0])[:, None, None, None].expand(3, 1, 28, 28)
    drawn = binary(x.repeat(100, 1, 1, 1)).view(100, 3, 784).mean((0, 2))
    assert drawn[0] == 0 and drawn[2] == 1 and drawn[1] == pytest.approx(0.2, abs=0.005)
    assert torch.equal(binary(x), binary(x)) and not torch.equal(binary(x), binary(x, seed=1))
    torch.manual_seed(0)
    binary(x)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))  # torch's own generator stays as it was


def test_binary_is_the_same_draw_everywhere():
    bits = binary(torch.full((2, 1, 28, 28), 0.5)).numpy().astype(bool)
    assert np.packbits(bits)[:6].tolist() == [31, 128, 9, 145, 175, 248]


# ---------------------------------------------------------------- learned priors


def test_a_mixture_is_a_mixture():
    torch.manual_seed(0)
    prior, z = Mixture(3, n=5), torch.randn(7, 3)
    nn.init.normal_(prior.logvar)
    nn.init.normal_(prior.share)
    normals = torch.distributions.Normal(prior.mean, torch.exp(0.5 * prior.logvar))
    known = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=prior.share),
        torch.distributions.Independent(normals, 1),
    )
    assert torch.allclose(prior(z), known.log_prob(z), atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # as in training: no digit may be lost
        assert torch.allclose(prior(z), known.log_prob(z), atol=1e-4)
    nn.init.constant_(prior.logvar, -50.0)
    assert torch.isfinite(prior(z)).all()


@pytest.mark.parametrize("dimensions", [2, 5])
def test_a_coupling_is_undone_and_knows_its_determinant(dimensions):
    torch.manual_seed(dimensions)
    layer = Coupling(dimensions, width=8)
    nn.init.normal_(layer.net[-1].weight, std=0.5)
    z = torch.randn(3, dimensions)
    moved, log_det = layer(z)
    assert torch.allclose(layer.inverse(moved), z, atol=1e-5) and not torch.allclose(moved, z)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0][0], z[i])
        assert torch.linalg.slogdet(jacobian)[1] == pytest.approx(log_det[i].item(), abs=1e-4)


def test_a_flow_begins_as_the_standard_normal_and_samples_what_it_learned():
    torch.manual_seed(0)
    flow = Flow(2, layers=4)
    z = torch.randn(500, 2)
    assert torch.allclose(flow(z), log_normal(z), atol=1e-5)
    data = torch.tensor([3.0, -1.0]) + 0.5 * z
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (-flow(data).mean()).backward()
        optimizer.step()
    samples = flow.sample(2000)
    assert samples.mean(0).tolist() == pytest.approx([3.0, -1.0], abs=0.2)
    assert samples.std(0).tolist() == pytest.approx([0.5, 0.5], abs=0.15)


# ---------------------------------------------------------------- training


def test_objectives(tiny_config):
    torch.manual_seed(0)
    model, x = vae_utils.VAE(tiny_config(latent_dim=3)), torch.rand(8, 1, 28, 28).round()
    found = {}
    for iwae in (False, True):
        torch.manual_seed(0)
        found[iwae] = objective(model, x, 5, iwae)
    torch.manual_seed(0)
    log_w = log_weights(model, x, 5)
    assert found[False].item() == pytest.approx(-log_w.mean().item(), abs=1e-3)
    tight = math.log(5) - torch.logsumexp(log_w, 0).mean()
    assert found[True].item() == pytest.approx(tight.item(), abs=1e-3)
    assert found[True] < found[False]
    draws = torch.stack([objective(model, x).detach() for _ in range(300)])
    losses = [vae_utils.elbo(logits, x, mu, logvar)[0].mean()
              for logits, mu, logvar in (model(x) for _ in range(300))]  # fmt: skip
    assert draws.mean().item() == pytest.approx(torch.stack(losses).mean().item(), abs=0.3)


def test_training_takes_prior_and_encoder_along(tiny_data, tiny_config):
    config = tiny_config(latent_dim=4, epochs=6, binarize=True, lr=3e-3)
    losses = {}
    for name, how in {"plain": {}, "iwae": {"finish": 2}, "flow": {"prior": Flow(4)}}.items():
        prior = how.get("prior")
        before = [weight.clone() for weight in prior.parameters()] if prior else []
        model, seconds = train(config, **how)
        moved = [not torch.equal(a, b) for a, b in zip(before, prior.parameters())] if prior else []
        assert all(moved) and seconds > 0 and not model.training
        x = binary(vae_utils.get_dataloaders(config)[2].images)
        losses[name] = iwae_bound(model, x, 20, log_prior=prior or log_normal).mean().item()
    assert max(losses.values()) < 330  # 543 for a model that knows nothing


def test_the_second_phase_trains_on_the_tighter_bound(tiny_data, tiny_config, monkeypatch):
    calls = []

    def spy(model, x, k, iwae, log_prior):
        calls.append((len(x), k, iwae))
        return objective(model, x, k, iwae, log_prior)

    monkeypatch.setattr(vae_likelihood, "objective", spy)
    train(tiny_config(epochs=1, binarize=True), finish=1)
    assert calls == [(50, 1, False)] * 6 + [(25, 5, True)] * 12  # all 300 images, twice


def test_a_rate_that_explodes_is_an_error(tiny_data, tiny_config):
    with pytest.raises(FloatingPointError, match="smaller lr"):
        train(tiny_config(epochs=3, binarize=True, lr=10.0, schedule="constant", hidden=(64,) * 8))


# ---------------------------------------------------------------- the kept rows


def test_kept_rows_say_how_they_were_made():
    rows = json.loads((ROOT / "benchmarks" / "likelihood.json").read_text())
    assert {"t50", "t190", "t600", "learned-prior"} <= set(rows)
    for name, runs in rows.items():
        for seed, row in runs.items():
            assert f"likelihood.py {name} --seeds {seed}" in row["command"]
            assert row["bound_k500"] < row["elbo"] and row["machine"] and row["date"]
