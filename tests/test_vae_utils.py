"""Known answers: values worked out by hand, by torch.distributions or by numerical integration."""

import ast
import dataclasses
import itertools
import json
import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch import distributions

import vae_figures
import vae_runs
import vae_utils
from vae_figures import interpolate
from vae_utils import (
    PRESETS,
    Autoencoder,
    Batches,
    Config,
    active_units,
    elbo,
    encode_dataset,
    evaluate,
    iwae_bound,
    kl_divergence,
    orthogonal,
    reconstruction_loss,
)

LOG2, LOG3 = math.log(2), math.log(3)
# Two rows of two pixels: p = sigmoid(logits) is 1/2, 3/4 and 1/4, 1/2.
LOGITS = torch.tensor([[0.0, LOG3], [-LOG3, 0.0]]).view(2, 1, 1, 2)
X = torch.tensor([[1.0, 0.0], [0.0, 0.5]]).view(2, 1, 1, 2)


def model_of(seed=0, **changes):
    torch.manual_seed(seed)
    return vae_utils.build_model(Config(**({"hidden": (32,)} | changes)))


def images(n, seed=0):
    return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(seed)).to(
        vae_utils.DEVICE
    )


def test_numbers_too_small_to_be_quick_count_as_zero():
    assert torch.full((3,), 1e-39).mul(0.5).eq(0).all()


# ---------------------------------------------------------------- objective


def test_kl_by_hand():
    mu = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    logvar = torch.tensor([[0.0, 0.0], [0.0, math.log(4)]])
    # second row: 1/2 (1) and 1/2 (4 + 4 - 1 - log 4)
    expected = torch.tensor([0.0, 0.5 + 3.5 - LOG2])
    torch.testing.assert_close(kl_divergence(mu, logvar), expected)


def test_kl_as_torch_distributions():
    mu, logvar = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    q = distributions.Normal(mu, torch.exp(0.5 * logvar))
    expected = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mu, logvar), expected)


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("bce", [LOG2 + 2 * LOG2, math.log(4 / 3) + LOG2]),
        ("mse", [1 / 4 + 9 / 16, 1 / 16 + 0]),
        # log C(1/2) = log 2, and C(p) = 2 artanh(1 - 2p) / (1 - 2p) = 2 log 3 for p = 1/4, 3/4
        ("cb", [3 * LOG2 - LOG2 - math.log(2 * LOG3), math.log(4 / 3) - math.log(2 * LOG3)]),
    ],
)
def test_reconstruction_of_two_rows_by_hand(kind, expected):
    loss = reconstruction_loss(LOGITS, X, kind)
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_bce_is_the_default_and_stays_finite_for_large_logits():
    torch.testing.assert_close(
        reconstruction_loss(LOGITS, X), reconstruction_loss(LOGITS, X, "bce")
    )
    far = torch.tensor([[200.0, -200.0]]).view(1, 1, 1, 2)
    black_white = torch.tensor([[0.0, 0.0]]).view(1, 1, 1, 2)
    torch.testing.assert_close(reconstruction_loss(far, black_white), torch.tensor([200.0]))


def test_cb_as_torch_distributions_with_finite_gradients():
    logits = torch.cat((torch.linspace(-30, 30, 121), torch.tensor([-0.05, 0.01, 0.049, 0.051])))
    logits = logits.double().view(-1, 1, 1, 1).requires_grad_()
    x = torch.linspace(0, 1, len(logits)).double().view_as(logits)
    loss = reconstruction_loss(logits, x, "cb")
    expected = -distributions.ContinuousBernoulli(logits=logits.detach()).log_prob(x)
    torch.testing.assert_close(loss.detach(), expected.flatten(), rtol=1e-4, atol=2e-5)
    loss.sum().backward()
    assert logits.grad.isfinite().all()


def test_cb_integrates_to_one():
    x = torch.linspace(0, 1, 2001).double().view(-1, 1, 1, 1)
    for logit in (-4.0, 0.0, 0.02, 1.5):
        density = torch.exp(-reconstruction_loss(torch.full_like(x, logit), x, "cb"))
        assert torch.trapezoid(density, dx=1 / 2000).item() == pytest.approx(1, abs=1e-5)


def test_elbo_of_two_rows_by_hand():
    mu, logvar = torch.tensor([[0.0], [2.0]]), torch.zeros(2, 1)
    loss, recon, kl = elbo(LOGITS, X, mu, logvar, "mse", beta=0.5)
    torch.testing.assert_close(recon, torch.tensor([13 / 16, 1 / 16]))
    torch.testing.assert_close(kl, torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(loss, torch.tensor([13 / 16, 17 / 16]))


@pytest.mark.parametrize("kind", ["l1", "BCE", "", None])
def test_unknown_loss_is_named_with_what_is_allowed(kind):
    with pytest.raises(ValueError, match=rf"{kind!r} is not known: choose bce or mse or cb"):
        reconstruction_loss(LOGITS, X, kind)


# ---------------------------------------------------------------- configuration

BAD = [
    ("dataset", "cifar", "mnist or fashion"),
    ("architecture", "resnet", "mlp or residual or conv"),
    ("activation", "swish", "relu or silu or gelu or tanh"),
    ("recon_loss", "l1", "bce or mse or cb"),
    ("schedule", "step", "one-cycle or linear or constant"),
    ("optimizer", "sgd", "adamw or muon"),
    ("precision", "float16", "auto or float32 or bfloat16"),
    ("val_fraction", 1.5, "from 0.01 to 0.9"),
    ("val_fraction", 0, "from 0.01 to 0.9"),
    ("seed", -1, "a whole number from 0"),
    ("latent_dim", 0, "from 1 to 784"),
    ("latent_dim", 2.0, "a whole number"),
    ("latent_dim", "2", "a whole number"),
    ("latent_dim", True, "a whole number"),
    ("epochs", -1, "from 1 to 10,000"),
    ("epochs", 0, "from 1 to 10,000"),
    ("batch_size", 0, "from 1 to 60,000"),
    ("beta", -1, "from 0 to 1,000"),
    ("beta", math.nan, "from 0 to 1,000"),
    ("beta", math.inf, "from 0 to 1,000"),
    ("lr", 0.0, "from 1e-09"),
    ("lr", "fast", "a number"),
    ("warmup_epochs", -2, "from 0"),
    ("shift", 0.5, "a whole number"),
    ("name", "", "letters, digits"),
    ("name", "a/b", "letters, digits"),
    ("name", "..", "letters, digits"),
    ("name", 5, "letters, digits"),
    ("binarize", "no", "False or True"),
    ("variational", None, "False or True"),
    ("variational", 1, "False or True"),
    ("hidden", (), "one or more whole numbers"),
    ("hidden", 512, "one or more whole numbers"),
]


@pytest.mark.parametrize("field, value, allowed", BAD, ids=[f"{f}={v!r}" for f, v, _ in BAD])
def test_bad_value_is_named_with_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError) as caught:
        Config(**{field: value})
    message = str(caught.value)
    assert message.startswith(f"{field}={value!r}")
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize("width", [0, 20_000, 2.5, True])
def test_bad_width_is_named(width):
    with pytest.raises(
        ValueError, match=rf"hidden={width} must be a whole number from 1 to 10,000"
    ):
        Config(hidden=(512, width))


def test_numbers_of_numpy_become_plain_ones():
    numpy = {"beta": np.float64(0.5), "lr": np.float32(0.5), "epochs": np.int64(3)}
    numpy |= {"hidden": [np.int32(8)], "binarize": np.True_, "activation": np.str_("silu")}
    config = Config(**numpy)
    assert [type(getattr(config, name)) for name in numpy] == [float, float, int, tuple, bool, str]
    assert type(config.hidden[0]) is int
    assert config == Config(
        beta=0.5, lr=0.5, epochs=3, hidden=(8,), binarize=True, activation="silu"
    )


def test_every_setting_is_described_once():
    for field in dataclasses.fields(Config):
        about = field.metadata
        assert about["help"], field.name
        assert field.name in ("name", "dataset") or about["choices"] or about["low"] is not None


def test_autoencoder_needs_beta_zero():
    with pytest.raises(ValueError, match=r"beta=1\.0 must be 0 when variational is False"):
        Config(variational=False)
    assert isinstance(model_of(variational=False, beta=0.0), Autoencoder)


def test_presets_are_known_by_their_names_and_can_be_changed():
    assert {"mlp-2d", "mlp-20d", "conv-2d", "best-2d", "best-16d"} <= set(PRESETS)
    assert all(config.name == name for name, config in PRESETS.items())
    changed = PRESETS["mlp-2d"].replace(name="mine", beta=4.0)
    assert changed.beta == 4.0
    assert changed.hidden == PRESETS["mlp-2d"].hidden
    assert PRESETS["mlp-2d"].beta == 1.0


def test_default_folder_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_OUT_DIR", str(tmp_path / "here"))
    assert vae_utils.outputs_dir() == tmp_path / "here" / "mnist"


def test_old_python_can_read_the_file_as_far_as_the_check_of_its_version():
    source = (vae_utils.ROOT / "vae_utils.py").read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 9))


# ---------------------------------------------------------------- model


@pytest.mark.parametrize(
    "preset, latent_dim, parameters",
    [("mlp-2d", 2, 1_333_012), ("mlp-20d", 20, 1_082_680), ("conv-2d", 2, 315_365)],
)
def test_parameter_counts(preset, latent_dim, parameters):
    model = vae_utils.build_model(PRESETS[preset])
    assert model.config.latent_dim == latent_dim
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("preset", PRESETS)
def test_shapes_and_types(preset):
    model = vae_utils.build_model(PRESETS[preset])
    d = model.config.latent_dim
    x = images(3)
    logits, mu, logvar = model(x)
    assert logits.shape == x.shape
    assert mu.shape == logvar.shape == (3, d)
    assert all(out.dtype == torch.float32 for out in (logits, mu, logvar))
    assert all(out.shape == (3,) for out in elbo(logits, x, mu, logvar))
    assert model.decode(torch.zeros(4, d).to(x.device)).shape == (4, 1, 28, 28)
    for picture in (model.reconstruct(x), model.sample(3)):
        assert picture.shape == x.shape
        assert picture.min() >= 0 and picture.max() <= 1
        assert not picture.requires_grad


def test_layers_of_the_conv_preset():
    model = vae_utils.build_model(PRESETS["conv-2d"])
    seen = []
    for layer in (*model.encoder.body, *model.decoder.body):
        if not isinstance(layer, torch.nn.ReLU):
            layer.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
    model(images(2))
    assert seen == [
        (32, 14, 14), (64, 7, 7), (128, 7, 7), (6272,),
        (6272,), (128, 7, 7), (64, 14, 14), (32, 28, 28), (1, 28, 28),
    ]  # fmt: skip


def test_activations_of_the_conv_preset():
    model = vae_utils.build_model(PRESETS["conv-2d"])
    names = [[type(part).__name__ for part in net.body] for net in (model.encoder, model.decoder)]
    assert names == [
        ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d", "ReLU", "Flatten"],
        ["Linear", "ReLU", "Unflatten", "ConvTranspose2d", "ReLU", "ConvTranspose2d", "ReLU",
         "Conv2d"],
    ]  # fmt: skip


def test_reparameterize_has_the_right_mean_spread_and_gradients():
    model = model_of(latent_dim=2)
    n, device = 40_000, vae_utils.DEVICE
    mu = torch.tensor([1.0, -2.0], device=device).repeat(n, 1).requires_grad_()
    logvar = torch.tensor([0.0, math.log(4)], device=device).repeat(n, 1).requires_grad_()
    torch.manual_seed(0)
    z = model.reparameterize(mu, logvar)
    assert z.mean(0).tolist() == pytest.approx([1, -2], abs=0.05)
    assert z.std(0).tolist() == pytest.approx([1, 2], abs=0.05)
    z.sum().backward()
    assert (mu.grad == 1).all()  # dz/dmu
    torch.testing.assert_close(logvar.grad, ((z - mu) / 2).detach())  # dz/dlogvar = sigma eps / 2


def test_seeds_decide_the_noise():
    model, x = model_of(), images(4)

    def noisy(seed):
        torch.manual_seed(seed)
        return model(x)[0], model.sample(4)

    for same, again, other in zip(noisy(1), noisy(1), noisy(2)):
        assert same.equal(again)
        assert not same.equal(other)


def test_autoencoder_has_no_noise():
    model, x = model_of(variational=False, beta=0.0), images(4)
    logits, mu, _ = model(x)
    torch.testing.assert_close(logits, model.decode(mu))
    assert model(x)[0].equal(logits)


# ---------------------------------------------------------------- optimizer


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (3, 3), (1, 40)])
def test_orthogonal_keeps_directions_and_evens_out_lengths(shape):
    torch.manual_seed(0)
    u, s, vt = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    s = torch.linspace(10, 0.5, len(s))
    middle = u.T @ orthogonal(u @ s.diag() @ vt) @ vt.T  # diagonal: same u and v
    lengths = middle.diag()
    assert lengths.min() > 0.6 and lengths.max() < 1.25
    torch.testing.assert_close(middle, lengths.diag(), atol=1e-4, rtol=0)


def test_muon_moves_a_weight_by_orthogonal_and_the_rest_as_adamw():
    models = [model_of(optimizer=name) for name in ("muon", "adamw")]
    before, gradient = models[0].encoder.body[1].weight.detach().clone(), torch.randn(32, 784)
    for model in models:
        optimizer = vae_utils.make_optimizer(model, model.config)
        optimizer.param_groups[0]["lr"] = 0.01
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        model.encoder.body[1].weight.grad = gradient.clone().to(vae_utils.DEVICE)
        optimizer.step()
    muon, adamw = (dict(model.named_parameters()) for model in models)
    # The first momentum points along the gradient; steps are 0.2 · lr · sqrt(784) long.
    moved = before.cpu() - 0.002 * 28 * orthogonal(gradient)
    torch.testing.assert_close(muon["encoder.body.1.weight"].detach().cpu(), moved)
    same = {name for name in muon if muon[name].equal(adamw[name])}
    assert muon.keys() - same == {"encoder.body.1.weight", "decoder.body.2.weight"}


# ---------------------------------------------------------------- measures


def test_evaluate_weighs_images_not_batches():
    model = model_of(variational=False, beta=0.0)  # no noise: the same value however it is split
    x = images(7)
    whole, parts = (
        evaluate(model, Batches(x, torch.zeros(7).to(x.device), size), model.config)
        for size in (7, 3)
    )
    recon = reconstruction_loss(model(x)[0], x).double()
    assert whole["recon"] == pytest.approx(recon.mean().item(), rel=1e-6)
    assert whole["loss_per_pixel"] == pytest.approx(whole["loss"] / 784)
    assert whole["loss_se"] == pytest.approx(recon.std().item() / 7**0.5, rel=1e-5)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_evaluate_gives_the_standard_error_of_the_whole_loss():
    model, x = model_of(latent_dim=4, beta=30.0), images(9)  # the KL term counts, too
    batches = Batches(x, torch.zeros(9).to(x.device), 4)
    loss, recon, _ = vae_utils.loss_per_image(model, batches, model.config)
    assert loss.std() > 1.01 * recon.std() or loss.std() < 0.99 * recon.std()
    expected = loss.std().item() / 3
    assert evaluate(model, batches, model.config)["loss_se"] == pytest.approx(expected)


def test_evaluate_is_a_sampled_loss_with_fixed_noise():
    model = model_of(latent_dim=3, beta=2.0)
    x = images(20)
    batches = Batches(x, torch.zeros(20).to(x.device), 20)
    result = evaluate(model, batches, model.config, seed=5)
    with torch.no_grad():
        torch.manual_seed(5)
        logits, mu, logvar = model(x)
        expected = [part.mean().item() for part in elbo(logits, x, mu, logvar, beta=2.0)]
    assert [result["loss"], result["recon"], result["kl"]] == pytest.approx(expected, rel=1e-5)
    assert evaluate(model, batches, model.config, seed=5) == result
    assert evaluate(model, batches, model.config, seed=6)["recon"] != result["recon"]
    assert evaluate(model, batches, model.config, seed=6)["kl"] == result["kl"]


def one_dimensional_model():
    """A VAE with one latent dimension whose posterior is plainly wrong, so that bounds differ."""
    model = model_of(latent_dim=1)
    with torch.no_grad():
        model.decoder.body[0].weight *= 0.5
        model.encoder.mu.bias += 1.0
        model.encoder.logvar.bias += 0.5
    return model


def test_iwae_with_one_sample_is_the_elbo_in_the_mean():
    model, x = one_dimensional_model(), images(2)
    draws = x.repeat_interleave(4000, 0)
    torch.manual_seed(0)
    with torch.no_grad():
        logits, mu, logvar = model(draws)
        negative_elbo = elbo(logits, draws, mu, logvar)[0].view(2, -1)
    single = iwae_bound(model, draws, 1).view(2, -1)
    error = (single.var(1) + negative_elbo.var(1)).div(4000).sqrt()
    assert ((single.mean(1) - negative_elbo.mean(1)).abs() < 4 * error).all()
    assert (error < 0.3).all()


def test_iwae_falls_with_k_towards_the_log_likelihood():
    model, x = one_dimensional_model(), images(2)
    z = torch.linspace(-8, 8, 801, device=x.device)[:, None]
    with torch.no_grad():
        logits = model.decode(z)
        log_joint = torch.stack([-reconstruction_loss(logits, i.expand_as(logits)) for i in x])
    log_joint += distributions.Normal(0.0, 1.0).log_prob(z[:, 0])
    exact = -torch.logsumexp(log_joint + math.log(16 / 800), 1)  # -log p(x), by quadrature
    torch.manual_seed(0)
    means = []
    for k in (1, 4, 16, 4000):
        copies = 4000 // k
        bound = iwae_bound(model, x.repeat_interleave(copies, 0), k)
        assert bound.shape == (2 * copies,)
        means.append(bound.view(2, copies).mean(1))
    means = torch.stack(means)
    assert (means.diff(dim=0) < 0).all(), means
    assert (means[0] - exact > 1).all()
    torch.testing.assert_close(means[-1], exact.double(), atol=0.05, rtol=0)


def test_encode_dataset():
    model, x = model_of(latent_dim=3), images(11)
    labels = torch.arange(11).to(x.device)
    mu, logvar, y = encode_dataset(model, Batches(x, labels, 4))
    with torch.no_grad():
        expected = model.encode(x)
    torch.testing.assert_close((mu, logvar), tuple(t.cpu() for t in expected))
    assert y.equal(labels.cpu())
    assert not mu.requires_grad


def test_active_units():
    mu = torch.tensor([[0.0, 0.0, 5.0], [0.1, 2.0, 5.0]])  # variances 0.005, 2, 0
    assert active_units(mu).tolist() == [False, True, False]
    assert active_units(mu, threshold=0.001).tolist() == [True, True, False]


# ---------------------------------------------------------------- figures


def test_interpolate_between_two_codes():
    start, end = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    line, arc = (interpolate(start, end, 7, spherical) for spherical in (False, True))
    for path in (line, arc):
        assert path.shape == (7, 2)
        torch.testing.assert_close(path[[0, -1]], torch.stack((start, end)), atol=1e-5, rtol=0)
    torch.testing.assert_close(line[3], torch.tensor([1.5, 1.5]))
    torch.testing.assert_close(arc.norm(dim=1), torch.full((7,), 3.0))
    torch.testing.assert_close(arc[3], torch.tensor([3.0, 3.0]) / 2**0.5)
    steps = arc.diff(dim=0).norm(dim=1)  # a quarter of a circle in six chords of 15 degrees
    torch.testing.assert_close(steps, torch.full((6,), 6 * math.sin(math.radians(7.5))))


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_interpolate_along_one_direction_is_finite(factor):
    start = torch.tensor([1.0, 2.0])
    path = interpolate(start, factor * start, 5, spherical=True)
    assert path.isfinite().all()
    torch.testing.assert_close(path[0], start, atol=1e-3, rtol=0)
    torch.testing.assert_close(path[-1], factor * start, atol=1e-3, rtol=0)


def test_no_arc_between_opposite_directions():
    start = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="opposite directions"):
        interpolate(start, -2 * start, spherical=True)
    assert interpolate(start, -start, 3)[1].abs().max() < 1e-6  # the line goes through the origin


def test_tile_places_images_row_by_row():
    x = images(5).cpu()
    picture = vae_figures.tile(x, 3)
    assert picture.shape == (60, 90)
    for i in range(5):
        top, left = 30 * (i // 3), 30 * (i % 3)
        cell = picture[top : top + 30, left : left + 30]
        np.testing.assert_array_equal(cell[1:-1, 1:-1], x[i, 0].numpy())
        assert np.isnan(cell[[0, -1]]).all() and np.isnan(cell[:, [0, -1]]).all()
    assert np.isnan(picture[30:, 60:]).all()


CLASSES = torch.arange(50) % 10
ROW = {f"{split}_{part}": 1.0 for split in ("train", "val") for part in ("loss", "recon", "kl")}
HISTORY = [{"epoch": epoch} | ROW for epoch in range(1, 4)]


FIGURES = {
    "grid": lambda m: vae_figures.show_grid(images(10)),
    "titles": lambda m: vae_figures.show_grid(images(3), 2, titles=["a", "b", "c"]),
    "rows": lambda m: vae_figures.show_grid(images(6), 3, rows=("one", "two")),
    "one epoch": lambda m: vae_figures.plot_history([{"epoch": 1} | ROW]),
    "history": lambda m: vae_figures.plot_history([{"epoch": e} | ROW for e in range(1, 4)]),
    "reconstructions": lambda m: vae_figures.plot_reconstructions(m, images(10)),
    "latent": lambda m: vae_figures.plot_latent(torch.randn(50, 2), CLASSES, "0123456789"),
    "one class": lambda m: vae_figures.plot_latent(torch.randn(5, 2), torch.zeros(5), "0123456789"),
    "manifold": lambda m: vae_figures.plot_manifold(m, 4),
}


def test_names_in_a_cloud_do_not_cover_each_other():
    codes = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))  # medians coincide
    ax = vae_figures.plot_latent(codes, torch.arange(1000) % 10, "0123456789").axes[0]
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert [text.get_text() for text in ax.texts] == list("0123456789")
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_names_stay_within_a_cloud_that_has_collapsed_to_a_dot():
    codes = 1e-3 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)).numpy()
    places = vae_figures.name_places(codes, np.arange(1000) % 10)
    assert list(places) == list(range(10))
    for place in places.values():
        assert (place >= codes.min(0)).all() and (place <= codes.max(0)).all()


def test_names_stay_at_their_classes_and_within_the_cloud():
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
    places = vae_figures.name_places(corners.repeat(5, 0), np.arange(4).repeat(5))
    for place, corner in zip(places.values(), corners):
        assert np.linalg.norm(place - corner) < 1e-3  # far from each other: no need to move
    crowd = np.vstack((corners, np.ones((100, 2))))  # all ten medians in one corner
    labels = np.concatenate((np.zeros(4, int), np.arange(100) % 10))
    places = vae_figures.name_places(crowd, labels)
    assert all((place >= 0).all() and (place <= 1).all() for place in places.values())
    again = vae_figures.name_places(crowd, labels)  # the same picture each time
    assert np.array_equal(list(places.values()), list(again.values()))


def test_each_reconstruction_stands_directly_below_its_image():
    model, x = model_of(), images(5)
    titles = [f"no. {i}" for i in range(5)]
    ax = vae_figures.plot_reconstructions(model, x, 3, titles).axes[0]
    height = 28 + 1 + 28 + 9 + 2  # image, gap, reconstruction, room for a title, seams
    picture = np.asarray(ax.images[0].get_array())
    assert picture.shape == (2 * height, 90)
    for i, pair in enumerate(zip(x.cpu(), model.reconstruct(x).cpu())):
        for below, expected in enumerate(pair):
            top, left = i // 3 * height + 10 + 29 * below, i % 3 * 30 + 1
            assert np.array_equal(picture[top : top + 28, left : left + 28], expected[0])
    places = {text.get_text(): text.get_position() for text in ax.texts}
    assert places == {t: (i % 3 * 30 + 15, i // 3 * height + 9) for i, t in enumerate(titles)}
    assert [text.get_text() for text in ax.get_yticklabels()] == ["image", "decoded"] * 2
    middles = [24, 53, height + 24, height + 53]  # of the images and of the reconstructions
    assert np.allclose(ax.get_yticks(), middles, atol=1)


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_drawn_without_warnings(draw):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # between libraries, no reader's
        fig = draw(model_of())
        fig.canvas.draw()
    assert isinstance(fig, plt.Figure)
    shown = [artist for ax in fig.axes for artist in (*ax.images, *ax.lines, *ax.collections)]
    assert shown
    plt.close(fig)


def test_manifold_has_z1_to_the_right_and_z2_upwards(monkeypatch):
    monkeypatch.setattr(vae_figures, "show_grid", lambda images, columns: images)
    model, edge = model_of(), 0.9674  # 5/6 of the prior lie below it
    grid = vae_figures.plot_manifold(model, 3)
    corners = torch.tensor([[-edge, edge], [edge, edge], [-edge, -edge], [edge, -edge]])
    with torch.no_grad():
        expected = torch.sigmoid(model.decode(corners.to(vae_utils.DEVICE)))
    torch.testing.assert_close(grid[[0, 2, 6, 8]], expected, atol=1e-4, rtol=0)


def test_names_stand_beside_their_rows():
    ax = vae_figures.show_grid(images(6), 3, rows=("one", "two")).axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["one", "two"]
    assert list(ax.get_yticks()) == [15, 45] and len(ax.get_xticks()) == 0


@pytest.mark.parametrize("pictures", [True, False])
def test_show_gives_a_figure_its_file_name_and_alt_text(monkeypatch, pictures):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **kw: shown.append((data, kw)))
    grid = vae_figures.show_grid(images(4), rows=("one",))
    fig = grid if pictures else vae_figures.plot_history(HISTORY)
    vae_figures.show(fig, "four-images", alt="Four images.")
    [(data, kw)] = shown
    about = kw["metadata"]
    assert kw["raw"] and about["filename"] == "four-images" and about["alt"] == "Four images."
    assert list(data) == ["image/png"] and data["image/png"].startswith(b"\x89PNG")
    wide = int.from_bytes(data["image/png"][16:20])  # pixels, of which 144 make an inch
    assert about["image/png"] == {"width": round(wide / 1.5)}
    svg = about["svg"]
    assert ("<image" in svg) == pictures and ("#ffffff" in svg) != pictures  # no plate behind them
    assert ">one</text>" in svg if pictures else ">epoch</text>" in svg  # text stays text
    assert not plt.fignum_exists(fig.number)


def test_names_of_lines_stand_at_their_ends_and_apart():
    fig, ax = plt.subplots()
    for name, end in (("low", 0.0), ("high", 1.0), ("as high", 1.001)):
        ax.plot([0, 1], [0, end], label=name)
    ax.axhline(0.5)  # without a name
    vae_figures.name_lines(ax)
    fig.canvas.draw()
    boxes = {text.get_text(): text.get_window_extent() for text in ax.texts}
    assert list(boxes) == ["low", "high", "as high"]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes.values(), 2))
    for text, line in zip(ax.texts, ax.lines):
        assert text.get_color() == line.get_color()
        assert abs(text.xy[1] - line.get_ydata()[-1]) < 1e-9
    plt.close(fig)


def test_table_formats_each_column():
    frame = pd.DataFrame({"model": ["a", "b"], "loss": [1234.5, -0.126], "n": [60000, -1]})
    text = vae_figures.table(frame.assign(share=[0.25, math.nan]), formats={"share": ".0%"}).data
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert rows[0] == ["model", "loss", "n", "share"]
    assert rows[2:] == [["a", "1,234.50", "60,000", "25%"], ["b", "−0.13", "−1", ""]]
    assert rows[1][0].startswith(":") and rows[1][1].endswith(":")
    assert "| z1" in vae_figures.table(frame.set_index(pd.Index(["z1", "z2"]))).data


def luminance_and_lab(rgb, vision):
    """CIE L*a*b* of sRGB colours as seen with a matrix of Machado et al. (2009)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    )
    xyz = (linear @ np.array(vision).T).clip(0, 1) @ to_xyz.T / np.array([0.9505, 1, 1.0888])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


VISION = {
    "full": np.eye(3),
    "deutan": [[0.3673, 0.8606, -0.228], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.969]],
    "protan": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0993], [-0.0039, -0.0481, 1.052]],
    "tritan": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("kind", VISION)
def test_no_two_class_colours_are_alike(kind):
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in vae_figures.COLORS])
    lab = luminance_and_lab(rgb, VISION[kind])
    distance = np.linalg.norm(lab[:, None] - lab, axis=2) + 1e9 * np.eye(10)
    assert distance.min() > 20  # 2 is just seen; 20 is another colour
    grey = np.sort(luminance_and_lab(rgb, np.eye(3))[:, 0])
    assert np.diff(grey).min() > 4  # in grey print they differ too
    for a, b in ((4, 9), (3, 8), (3, 5), (2, 4), (7, 9)):  # classes whose codes meet
        assert distance[a, b] > 30


# ---------------------------------------------------------------- what is refused, and small things


@pytest.mark.parametrize("kind", ["bce", "mse", "cb"])
@pytest.mark.parametrize("shape", [(2, 1, 2), (2, 1, 1, 1), (1, 1, 1, 2)])
def test_shapes_that_would_broadcast_are_refused(kind, shape):
    with pytest.raises(ValueError, match=r"logits \(2, 1, 1, 2\) and images"):
        reconstruction_loss(LOGITS, torch.zeros(shape), kind)


@pytest.mark.parametrize("bad", [255.0, -0.01, 1.01, math.nan])
def test_images_outside_0_1_are_refused(bad):
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        reconstruction_loss(LOGITS, torch.full_like(LOGITS, bad))
    model = model_of()
    batches = Batches(torch.full((3, 1, 28, 28), bad), torch.zeros(3), 3)
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        evaluate(model, batches, model.config)
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        optimizer = vae_utils.make_optimizer(model, model.config)
        vae_utils.train_one_epoch(model, batches, optimizer, model.config)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_optimizers_forget_sooner_than_by_default_and_shrink_no_weight(optimizer):
    config = Config(optimizer=optimizer)
    group = vae_utils.make_optimizer(vae_utils.build_model(config), config).param_groups[0]
    assert group["betas"] == (0.9, 0.95) and group["weight_decay"] == 0


@pytest.mark.parametrize("shapes", [((5, 2), (5, 1)), ((5,), (5,)), ((5, 2), (4, 2))])
def test_codes_that_would_broadcast_are_refused(shapes):
    with pytest.raises(ValueError, match=r"must both be \(B, latent_dim\)"):
        kl_divergence(*map(torch.zeros, shapes))


def test_nothing_to_measure_is_one_sentence():
    model, empty = model_of(), torch.zeros(0, 1, 28, 28)
    with pytest.raises(ValueError, match="k=0"):
        iwae_bound(model, images(2), k=0)
    with pytest.raises(ValueError, match="one or more"):
        reconstruction_loss(empty, empty)
    with pytest.raises(ValueError, match=r"\.\./x"):
        vae_utils.save_results("../x", {})


def test_cross_entropy_floor_by_hand_and_as_the_least_loss():
    x = torch.tensor([[0.0, 0.5], [1.0, 0.25]]).view(2, 1, 1, 2)
    quarter = 2 * LOG2 - 0.75 * LOG3
    expected = torch.tensor([LOG2, quarter])
    torch.testing.assert_close(vae_utils.cross_entropy_floor(x), expected)
    best = reconstruction_loss(torch.logit(x, 1e-7), x)  # a decoder that draws the very image
    torch.testing.assert_close(best, expected, atol=1e-4, rtol=0)


def test_most_confused_counts_both_directions():
    truth, predicted = [4, 4, 9, 9, 3, 3, 3], [9, 4, 4, 4, 8, 8, 3]
    assert vae_utils.most_confused(truth, predicted) == (4, 9, 3)


def test_binarize_draws_pixels_and_does_not_threshold():
    model = model_of(variational=False, beta=0.0, binarize=True)
    x = torch.full((200, 1, 28, 28), 0.25).to(vae_utils.DEVICE)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.decoder.body[-2].bias += -1.0
        logits = model(x[:1])[0]
    batches = Batches(x, torch.zeros(200).to(x.device), 50)
    result = evaluate(model, batches, model.config)
    drawn = reconstruction_loss(logits, x[:1]).item()  # the loss is linear in x: that of the mean
    thresholded = reconstruction_loss(logits, 0 * x[:1]).item()
    assert result["recon"] == pytest.approx(drawn, abs=5 * result["loss_se"])
    assert abs(result["recon"] - thresholded) > 50 * result["loss_se"] > 0


def test_muon_has_momentum():
    """The second step goes along the mean of both gradients, not along the second alone."""
    model = model_of(optimizer="muon")
    weight = model.encoder.body[1].weight
    optimizer = vae_utils.make_optimizer(model, model.config)
    optimizer.param_groups[0]["lr"] = 0.01
    first, second = torch.randn(2, 32, 784, generator=torch.Generator().manual_seed(0))
    for gradient in (first, second):
        before = weight.detach().clone()
        for other in model.parameters():
            other.grad = torch.zeros_like(other)
        weight.grad = gradient.clone().to(weight)
        optimizer.step()
    momentum = 0.95 * (0.05 * first) + 0.05 * second
    expected = -0.002 * 28 * orthogonal((0.05 * second + 0.95 * momentum).to(weight))
    torch.testing.assert_close(weight.detach() - before, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("rows, thin", [(16, True), (17, False)])
def test_muon_leaves_thin_matrices_to_adamw(rows, thin):
    weight = torch.nn.Parameter(torch.ones(rows, 40))
    optimizer = vae_utils.Muon([weight], lr=0.01, weight_decay=0.0)
    weight.grad = torch.rand(rows, 40, generator=torch.Generator().manual_seed(0)) + 0.5
    optimizer.step()
    moved = (1 - weight.detach()) / 0.01  # AdamW's first step is as long for every entry
    assert torch.allclose(moved, torch.ones(()), atol=1e-3) is thin


def test_mosaic_has_large_z2_at_the_top_of_the_picture():
    class Ramp(torch.nn.Module):  # grey is the second code alone
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def decode(self, z):
            return z[:, 1].view(-1, 1, 1, 1).expand(-1, 1, 28, 28)

    picture = vae_figures.plot_manifold(Ramp(), 3).axes[0].images[0].get_array()
    assert picture[15, 15] > picture[45, 15] > picture[75, 15]
    assert vae_figures.plot_manifold(Ramp(), 3).axes[0].get_ylim()[0] > 0  # drawn top row first


def test_residual_layer_adds_to_its_input():
    layer = vae_utils.Residual(3, torch.nn.ReLU)
    x = torch.randn(4, 3)
    torch.testing.assert_close(layer(x), x + torch.relu(layer.linear(x)))
    model = model_of(architecture="residual", hidden=(8, 8, 4))
    names = [[type(part).__name__ for part in net.body] for net in (model.encoder, model.decoder)]
    assert names == [
        ["Flatten", "Linear", "ReLU", "Residual", "Linear", "ReLU"],
        ["Linear", "ReLU", "Linear", "ReLU", "Residual", "Linear", "Unflatten"],
    ]


@pytest.mark.parametrize("fast", [True, False])
def test_check_says_whether_a_claim_holds(capsys, monkeypatch, fast):
    monkeypatch.setattr(vae_utils, "FAST", fast)
    vae_utils.check("two is more than one", 2 > 1)
    vae_utils.check("one is more than two", 1 > 2)
    lines = capsys.readouterr().out.splitlines()
    if fast:
        assert all(line.startswith("– ") and "not judged" in line for line in lines)
    else:
        assert lines == ["✓ two is more than one", "✗ one is more than two"]


@pytest.mark.parametrize(
    "answer, right, mark",
    [
        (..., 3, "○"),
        (3, 3, "✓"),
        (4, 3, "✗"),
        ("b", "b", "✓"),
        (1.01, lambda a: abs(a - 1) < 0.1, "✓"),
    ]
    + [(None, lambda a: a > 1, "✗"), (..., lambda a: a > 1, "○")],
)
def test_check_answer_says_whether_an_exercise_is_right(capsys, answer, right, mark):
    vae_utils.check_answer(answer, right)
    out = capsys.readouterr().out
    assert out.startswith(mark) and out.count("\n") == 1


def test_fingerprint_changes_with_layers_and_with_code():
    def network(width=3, factor=2.0):
        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(width, 3)

        class Network(Network):  # as 02 writes one: cell by cell, each inherits the last
            if factor == 2:

                def forward(self, x):
                    return 2.0 * self.layer(x)
            else:

                def forward(self, x):
                    return 3.0 * self.layer(x)

        class Network(Network):
            pass

        return vae_runs.fingerprint(Network())

    assert network() == network() and len(network()) == 6
    assert len({network(), network(width=4), network(factor=3.0)}) == 3


def test_a_cell_that_is_run_again_makes_no_other_network():
    class Network(torch.nn.Module):
        def forward(self, x):
            return 2.0 * x

    once = vae_runs.fingerprint(Network())
    for factor in (3.0, 2.0):  # as when `class VAE(VAE)` is edited, and edited back

        class Network(Network):
            if factor == 3:

                def forward(self, x):
                    return 3.0 * x
            else:

                def forward(self, x):
                    return 2.0 * x

    assert vae_runs.fingerprint(Network()) == once


def test_what_a_function_does_includes_functions_inside_it_and_no_chance():
    def doubled(x):
        return [2 * y for y in x if y not in {"a", "b"}]

    def tripled(x):
        return [3 * y for y in x if y not in {"a", "b"}]

    first, second = (vae_runs._does(function.__code__) for function in (doubled, tripled))
    assert first != second and "frozenset" not in str(first)  # a set has no order of its own


def test_save_results_keeps_a_chapters_numbers(tmp_path):
    vae_utils.save_results("03_training", {"best-2d": {"test_loss": torch.tensor(1.5), "n": 2}})
    saved = tmp_path / "outputs" / "mnist" / "results" / "03_training.json"
    assert json.loads(saved.read_text()) == {"best-2d": {"test_loss": 1.5, "n": 2}}
