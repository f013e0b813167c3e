"""11_applications: the code of its cells, run here on tiny models and known answers."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn

import vae_utils as vae
from vae_samples import clearly_below, clearly_different, learn, mean_sd, mixture_of_codes

ROOT = Path(__file__).resolve().parent.parent
PATH = ROOT / "notebooks" / "11_applications.ipynb"


def defined(*names, **known):
    """What the chapter's cells define that mention one of the names first, run with ``known``."""
    space = {"nn": nn, "torch": torch, "vae": vae} | known
    for cell in nbformat.read(PATH, as_version=4).cells:
        if cell.cell_type == "code" and cell.source.startswith(names):
            exec(cell.source, space)
    return space


def test_a_mixture_draws_other_codes_at_every_call():
    model = vae.VAE(vae.Config("small", hidden=(8,), latent_dim=2))
    images = torch.rand(100, 1, 28, 28)
    draws = [mixture_of_codes(model, images, 2) for _ in range(2)]
    first, again = draws[0](5), draws[0](5)
    assert not torch.equal(first, again) and torch.equal(first, draws[1](5))  # but all are seeded


def test_the_label_changes_the_picture_and_the_code_too():
    kind = defined("class ConditionalVAE")["ConditionalVAE"]
    torch.manual_seed(0)
    model = kind(vae.Config(hidden=(16,), latent_dim=3), labels=4)
    x, y = torch.rand(5, 1, 28, 28), torch.tensor([0, 1, 2, 3, 0])
    logits, mu, logvar = model(x, y)
    assert (logits.shape, mu.shape, logvar.shape) == (x.shape, (5, 3), (5, 3))
    z = torch.zeros(5, 3)
    drawn = model.decode(z, y)
    assert torch.equal(drawn[0], drawn[4])  # same code, same label
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3  # same code, other label
    moved = model.encode(x, (y + 1) % 4)[0]
    assert (moved - mu).abs().min(1).values.max() > 1e-4  # the encoder is told too


def test_the_flow_learns_a_known_gaussian():
    space = defined(
        "class Velocity",
        "def flow_loss",
        "@torch.no_grad()\ndef follow",
        config=vae.Config(),
    )
    torch.manual_seed(0)
    places = torch.tensor([[2.0, -1.0]]) + 0.3 * torch.randn(2000, 2)
    y = (places[:, 0] > 2).long()
    flow = space["Velocity"](2, width=32, labels=10)
    batches = vae.Batches(places, y, 200, shuffle=True)
    learn(flow, lambda z, y: space["flow_loss"](flow, z, y), batches, 30, lr=1e-2)
    end = space["follow"](flow, torch.randn(2000, 2), steps=10)
    assert (end.mean(0) - torch.tensor([2.0, -1.0])).abs().max() < 0.1
    assert (end.std(0) - 0.3).abs().max() < 0.1
    asked = torch.ones(2000, dtype=torch.long)
    right = [(space["follow"](flow, torch.randn(2000, 2), asked, w)[:, 0] > 2).float().mean()
             for w in (0.0, 1.0)]  # fmt: skip
    assert right[0] < 0.65 and right[1] > 0.8  # w = 0 ignores the label


def test_the_energy_ignores_what_is_missing():
    space = defined("def white", "def energy", "def optimise")
    torch.manual_seed(0)
    model = vae.VAE(vae.Config(hidden=(16,), latent_dim=3)).requires_grad_(False)
    space["model"] = model  # the cells know it by this name
    r = torch.full((28, 28), 1e-3)
    r[14:] = 1.0
    y, z = torch.rand(4, 1, 28, 28), torch.randn(4, 3)
    other = y.clone()
    other[:, :, 14:] = torch.rand(4, 1, 14, 28)
    same = space["energy"](z, y, r)
    assert torch.allclose(same, space["energy"](z, other, r), rtol=1e-4)
    other[:, :, :14] = torch.rand(4, 1, 14, 28)
    assert not torch.allclose(same, space["energy"](z, other, r), rtol=1e-4)
    best = space["optimise"](z, y, r, steps=30)
    assert (space["energy"](best, y, r) < same).all()


def test_langevin_samples_a_known_gaussian():
    space = defined("def sample")
    space["energy"] = lambda z, x, r: ((z - 2) ** 2).sum(1) / (2 * 0.5**2)  # of N(2, 0.5²)
    torch.manual_seed(0)
    z = space["sample"](torch.zeros(4000, 2), None, None, steps=200, size=0.01)
    assert (z.mean(0) - 2).abs().max() < 0.05
    assert (z.std(0) - 0.5).abs().max() < 0.05


def test_prices_add_up_and_the_bound_is_below():
    space = defined("from vae_likelihood", "@torch.no_grad()\ndef prices", np=np)
    torch.manual_seed(0)
    model = vae.VAE(vae.Config(hidden=(16,), latent_dim=3))
    model.log_sigma = nn.Parameter(torch.tensor(-1.0))
    x = torch.rand(20, 1, 28, 28)
    found = space["prices"](model, x, "bce")
    assert torch.allclose(found["ELBO"], found["reconstruction"] + found["KL"])
    assert found["bound"].mean() < found["ELBO"].mean() + 1
    logits = model.decode(torch.zeros(20, 3))
    sigma = model.log_sigma.exp()
    density = torch.distributions.Normal(torch.sigmoid(logits), sigma).log_prob(x)
    right = -density.flatten(1).sum(1)
    assert torch.allclose(space["misfit"](model, logits, x, "gauss"), right, rtol=1e-4)


def test_the_rule_of_the_course():
    a, b = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]  # deviations of 1, a gap of 3
    assert clearly_below(a, b) and not clearly_below(b, a)
    assert clearly_different(a, b) and clearly_different(b, a)
    wide = [2.0, 4.0, 6.0]  # a gap of 2, and the larger deviation is 2
    assert not clearly_below(a, wide) and not clearly_different(wide, a)
    assert (mean_sd(a, 1), mean_sd([1.25])) == ("2.0 ± 1.0", "1.25")


def test_results_have_the_areas():
    """Of the published run: every likelihood, every job, and AUROCs between 0 and 1."""
    found = json.loads((ROOT / "docs" / "results.json").read_text()).get("11_applications")
    if found is None:
        pytest.skip("the chapter has not been published yet")
    for kind in ("bce", "cb", "gauss"):
        areas = found[f"alarm-left-out-{kind}"]
        assert {"reconstruction", "KL", "ELBO", "bound", "size", "S"} <= set(areas)
        assert all(0 <= area <= 1 for area in areas.values())
