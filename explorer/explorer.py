"""The explorer of 05_latent_exploration: two trained VAEs in one page of JavaScript.

``show(run_2d, run_16d, test)`` packs both models and some test images into explorer.html, displays
it, and leaves a still picture of it, explorer.png, in the folder of the first run.
"""

import base64
import gzip
import html
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patheffects import withStroke
from torch import nn

import vae_figures as figures
import vae_utils as vae
from explorer.page import assemble, frame
from vae_data import class_names
from vae_runs import write_file

HERE = Path(__file__).parent
MODULES = ["shared.js", "network.js", "places.js", "picture.js"]
MODULES += ["explorer-map.js", "explorer-pad.js", "explorer.js"]
MAX_BYTES = 5_000_000
FRAMES = 11  # of the film; the draws are ten and the mean, eleven too
ALIVE = 0.01  # nats of KL, less than which a dimension is called dead
CANVAS = '<canvas class="pixels"></canvas>'
SLIDER = """<div class="slider{dead}">{canvas}<div>
  <label for="dim-{k}">z<sub>{number}</sub> = <output></output>, {about}</label>
  <input type="range" id="dim-{k}" min="-3" max="3" step="0.05"></div>{canvas}</div>"""
IMAGES = (1500, 1000, 500)  # test images in the page: as many as fit into MAX_BYTES
GROUP = 16  # columns that share a scale, in the layer that draws the pixels
CODE_UNIT = 1 / 2048  # codes travel as 16-bit multiples of it: up to ±16


def _layers(body):
    """[(linear layer, name of the activation after it, whether it is residual)] of a network."""
    layers = []
    for module in body:
        if isinstance(module, vae.Residual):
            layers.append((module.linear, type(module.act).__name__.lower(), True))
        elif isinstance(module, nn.Linear):
            layers.append((module, "none", False))
        elif isinstance(module, (nn.ReLU, nn.SiLU, nn.GELU)):
            layers[-1] = (layers[-1][0], type(module).__name__.lower(), False)
        elif not isinstance(module, (nn.Flatten, nn.Unflatten)):
            raise ValueError(f"The explorer cannot run the layer {type(module).__name__}.")
    return layers


def round_weights(weight, inputs, group):
    """W ``(rows, cols)`` as whole numbers in [-127, 127], scales of rows, and shares of the scales.

    A number counts its row's scale times, in 255ths, the share of its group of columns. Not each is
    rounded to its nearest: what rounding one column changes is made good, as far as ``inputs``
    ``(N, cols)`` allow, by the columns that are still to come (GPTQ, Frantar et al. 2023). With
    pictures, whose pixels go together, the outputs are four times as close for the same bytes.
    """
    weight, inputs = weight.double().clone(), inputs.double()
    row, shares = weight.abs().amax(1).clamp(min=1e-12) / 127, []
    moments = inputs.T @ inputs / len(inputs)
    moments += 0.01 * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.linalg.inv(moments), upper=True)
    whole = torch.empty_like(weight)
    for j in range(weight.shape[1]):
        if j % group == 0:
            largest = weight[:, j : j + group].abs().amax(1) / 127
            shares.append((255 * largest / row).ceil().clamp(1, 255))
            scale = row * shares[-1] / 255
        whole[:, j] = (weight[:, j] / scale).round().clamp(-127, 127)
        error = (weight[:, j] - scale * whole[:, j]) / factor[j, j]
        weight[:, j + 1 :] -= torch.outer(error, factor[j, j + 1 :])
    return whole.to(torch.int8).numpy(), row.float().numpy(), torch.stack(shares, 1).byte().numpy()


def restore_weights(whole, row, shares, group):
    """The weights that the page computes with: whole ``(rows, cols)`` times its scales."""
    scales = np.repeat(row[:, None] * shares / np.float32(255), group, 1)
    return torch.from_numpy(whole * scales[:, : whole.shape[1]])


@torch.no_grad()
def _pack_network(layers, x):
    """Sizes of all layers, their arrays, and what the network makes of x ``(N, fan_in)``."""
    sizes, arrays = [], []
    for linear, activation, residual in layers:
        weight, bias = linear.weight.cpu(), linear.bias.cpu()
        group = GROUP if linear is layers[-1][0] else weight.shape[1]
        whole, row, shares = round_weights(weight, x, group)
        sizes.append([*weight.shape, group, activation, residual])
        arrays += [row, bias.numpy(), shares, whole]
        # The next layer sees what the page will see.
        h = x @ restore_weights(whole, row, shares, group).T + bias
        if activation != "none":
            h = getattr(nn.functional, activation)(h)
        x = x + h if residual else h
    return sizes, arrays, x


@torch.no_grad()
def _pack_model(model, images):
    """What the page needs of a model: a header for JSON, and arrays that follow one another."""
    device = next(model.parameters()).device
    mu, logvar = (part.cpu() for part in model.encode(images.to(device)))
    kl = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).mean(0)  # of each dimension, in nats
    heads = nn.Linear(*reversed((2 * mu.shape[1], model.encoder.mu.in_features)))
    heads.weight.data = torch.cat([model.encoder.mu.weight, model.encoder.logvar.weight])
    heads.bias.data = torch.cat([model.encoder.mu.bias, model.encoder.logvar.bias])
    few = images[-2000:].flatten(1)  # not those that travel
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    codes = torch.cat([mu[-2000:], 1.5 * noise[-2000:]])  # of images, and places around them
    encoder = _pack_network([*_layers(model.encoder.body), (heads, "none", False)], few)
    decoder = _pack_network(_layers(model.decoder.body), codes)
    header = {
        "encoder": encoder[0],
        "decoder": decoder[0],
        "order": kl.argsort(descending=True).tolist(),
    }
    return header, [*encoder[1], *decoder[1]], mu, torch.exp(0.5 * logvar), kl


def _sight(mu):
    """Middle and half a side of the square that shows nearly all codes ``(N, 2)``."""
    low, high = np.quantile(mu, [0.003, 0.997], axis=0) + [[-0.2], [0.2]]
    return (low + high) / 2, (high - low).max() / 2


def _repeated(order, kl, tags, names):
    """What there is many times on the page: its draws, its film, its legend, its sliders."""
    names = list(map(html.escape, names))  # a class may be a folder with any name
    draws = ["the mean μ, without noise", *(f"draw {i}" for i in range(1, FRAMES))]
    radio = '<label><input type="radio" name="draw" value="{}" aria-label="{}">{}{}</label>'
    button = (
        '<button type="button" value="{}" aria-pressed="false">'
        '<i class="dot" style="background: {}"></i>{}</button>'
    )
    sliders = (
        SLIDER.format(
            k=k,
            number=k + 1,
            canvas=CANVAS,
            dead="" if kl[k] >= ALIVE else " dead",
            about=f"KL {kl[k]:.2f}" if kl[k] >= ALIVE else "dead",
        )
        for k in order
    )
    where = (f"{names[label]} around ({x:.2f}, {y:.2f})" for label, (x, y) in tags.items())
    return {
        "draws": "".join(radio.format(i, name, CANVAS, i or "μ") for i, name in enumerate(draws)),
        "ticks": '<i class="tick"></i>' * (FRAMES - 1),
        "film": CANVAS * FRAMES,
        "legend": "".join(button.format(i, figures.class_colors(i), names[i]) for i in tags),
        "sliders": "\n".join(sliders),
        "dead": "; dead ones come last and change nothing" if min(kl) < ALIVE else "",
        "where": "; ".join(where).replace("-", "−"),
    }


@torch.no_grad()
def draw_still(model, images, labels, mu, sigma, first, tags, names):
    """A still of the page, as the bytes of a PNG: the plane, one image, and ten draws of its code.

    The plane shows its pictures and the codes; number ``first`` is the image.
    """
    middle, reach = _sight(mu)
    steps = torch.linspace(-1, 1, 2 * 16 + 1)[1::2] * reach  # the middles of 16 tiles
    x, y = np.meshgrid(middle[0] + steps, middle[1] - steps)
    device = next(model.parameters()).device

    def decode(codes):
        codes = torch.as_tensor(np.asarray(codes), dtype=torch.float32, device=device)
        return torch.sigmoid(model.decode(codes)).cpu()

    fig, ax = plt.subplots(figsize=(6, 6), layout="none")
    mosaic = decode(np.column_stack([x.ravel(), y.ravel()])).reshape(16, 16, 28, 28)
    extent = [middle[0] - reach, middle[0] + reach, middle[1] - reach, middle[1] + reach]
    mosaic = mosaic.transpose(1, 2).reshape(448, 448)
    ax.imshow(mosaic, cmap="gray_r", vmin=0, vmax=2.2, extent=extent)
    ax.scatter(*mu.T, s=6, c=figures.class_colors(labels), alpha=0.8, linewidths=0)
    for label, tag in tags.items():
        text = ax.text(*tag, names[label], ha="center", va="center", weight="bold")
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    ax.plot(*mu[first], "o", ms=11, mfc="white", mec="black", mew=2)
    ax.annotate("x", mu[first], (9, 9), textcoords="offset points", weight="bold")
    ax.set(xlabel="$z_1$", ylabel="$z_2$", xlim=extent[:2], ylim=extent[2:])
    eps = np.random.default_rng(0).standard_normal((10, 2))
    draws = decode(mu[first] + sigma[first] * eps)
    for box, picture, title in (
        ([1.06, 0.56, 0.4, 0.4], images[first, 0], "x, a test image"),
        ([1.06, 0.0, 0.4, 0.46], figures.tile(draws, 3), "ten draws of its code, decoded"),
    ):
        side = ax.inset_axes(box)
        side.imshow(picture, cmap="gray", vmin=0, vmax=1)
        side.set_title(title, fontsize=10)
        side.axis("off")
    buffer = io.BytesIO()
    fig.savefig(buffer, dpi=150, bbox_inches="tight")
    plt.close(fig)
    return buffer.getvalue()


@torch.no_grad()
def build(run_2d, run_16d, test):
    """The page as text, and a still picture of it as the bytes of a PNG.

    Raises ValueError for models that the page cannot run.
    """
    images, labels = (tensor.cpu() for tensor in test.tensors)
    device = next(run_2d.model.parameters()).device
    if run_2d.config.latent_dim != 2:
        raise ValueError(f"The map is a plane: latent_dim 2, not {run_2d.config.latent_dim}.")
    for config in (run_2d.config, run_16d.config):
        if config.architecture == "conv":
            raise ValueError(f"The explorer runs MLP and residual networks; {config.name} is conv.")
    header_2d, arrays_2d, mu, sigma, _ = _pack_model(run_2d.model.eval(), images)
    header_16d, arrays_16d, mu_16d, _, kl = _pack_model(run_16d.model.eval(), images)
    tags = figures.name_places(mu.numpy(), labels.numpy())
    names = class_names(run_2d.config.dataset)
    # To begin with: of the first 200 images, from the better half, the one whose noise shows most.
    some = images[:200].to(device)
    ends = torch.stack([mu[:200] - sigma[:200], mu[:200] + sigma[:200]])
    low, high = torch.sigmoid(run_2d.model.decode(ends.flatten(0, 1).to(device))).chunk(2)
    error = (run_2d.model.reconstruct(some) - some).square().flatten(1).sum(1)
    seen = (high - low).abs().flatten(1).sum(1) * (error <= error.median())
    middle, reach = _sight(mu.numpy())
    data = {
        "models": [header_2d, header_16d],
        "codeUnit": CODE_UNIT,
        "names": names,
        "colors": figures.class_colors(range(max(10, len(names)))).tolist(),
        "first": int(seen.argmax()),
        "scale": {"mnist": 300}.get(run_2d.config.dataset, 500),  # of the bars, in nats
        "tags": {label: place.round(3).tolist() for label, place in tags.items()},
        "view": {"centre": middle.round(3).tolist(), "reach": round(float(reach), 3)},
    }
    things = {"mnist": "digit", "fashion": "garment"}
    thing = things.get(run_2d.config.dataset, "picture")
    words = _repeated(header_16d["order"], kl, tags, names) | {"thing": thing, "dims": str(len(kl))}
    modules = [HERE / "src" / name for name in MODULES]
    template = HERE / "explorer.html"
    for count in IMAGES:
        count = min(count, len(images))
        whole_2d, whole_16d = (
            (codes[:count] / CODE_UNIT).round().clamp(-32767, 32767).short().numpy()
            for codes in (mu, mu_16d)
        )
        pixels = (images[:count] * 255).round().byte().numpy()
        parts = [*arrays_2d, whole_2d, *arrays_16d, whole_16d, pixels]
        blob = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
        data["labels"] = labels[:count].tolist()
        data["arrays"] = base64.b64encode(gzip.compress(blob, 9, mtime=0)).decode()
        page = assemble(template, modules, data, count=f"{count:,}", **words)
        if len(page.encode()) <= MAX_BYTES:
            break  # weights that are hardly trained pack badly: then the fewest images it is
    shown = mu[:count].numpy(), sigma[:count].numpy(), data["first"], tags, names
    still = draw_still(run_2d.model, images[:count], labels[:count].numpy(), *shown)
    return page, still


def show(run_2d, run_16d, test):
    """Display the explorer of two runs.

    run_2d: its model has two latent dimensions; run_16d: more of them; both MLP or residual.
    test: a TensorDataset of images ``(N, 1, 28, 28)`` and labels ``(N,)``, as ``load_dataset``
    gives it. Raises ValueError for other models.
    """
    page, still = build(run_2d, run_16d, test)
    path = Path(run_2d.out_dir).resolve() / "explorer.png"
    write_file(path, still)
    alt = (
        "The latent explorer: an image goes through encoder, noise and decoder; beside it the plane"
        " with the codes of test images, coloured by class, and the pictures decoded from it."
    )
    frame(page, page="explorer.html", alt=alt, still=path, height=1400)
