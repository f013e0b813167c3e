"""The latent explorer of 05_latent_exploration: the trained networks in one page of JavaScript.

``show_explorer(run, test)`` writes two files into the run's folder and displays the first:

    explorer.html   weights, codes and widget in one file, explorer.html here with the data put in
    explorer.png    a still picture of it, for the markdown page
"""

import base64
import html
import itertools
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.patches import Ellipse
from matplotlib.patheffects import withStroke
from torch import nn
from torch.utils.data import DataLoader

from vae_utils import CLASS_NAMES, COLORS, encode_dataset, write_file

TEMPLATE = Path(__file__).with_suffix(".html")
MAX_BYTES = 4_000_000


def _linear_layers(body):
    """[(weight, bias, name of the activation after it)] of a Sequential of Linear layers."""
    layers = []
    for module in body:
        if isinstance(module, nn.Linear):
            layers.append((module.weight, module.bias, "none"))
        elif isinstance(module, (nn.ReLU, nn.SiLU, nn.GELU)):
            layers[-1] = (*layers[-1][:2], type(module).__name__.lower())
        elif not isinstance(module, (nn.Flatten, nn.Unflatten)):
            raise ValueError(f"The explorer cannot run the layer {type(module).__name__}.")
    return layers


def _base64(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _pack(model):
    """Sizes of all layers, and their weights as one run of little-endian fp16 in base64.

    The heads mu and log sigma² become one last layer of the encoder, with mu's rows first.
    """
    mu, logvar = model.encoder.mu, model.encoder.logvar
    heads = [torch.cat([mu.weight, logvar.weight]), torch.cat([mu.bias, logvar.bias]), "none"]
    networks = {
        "encoder": [*_linear_layers(model.encoder.body), heads],
        "decoder": _linear_layers(model.decoder.body),
    }
    sizes = {
        name: [[*weight.shape, activation] for weight, _, activation in layers]
        for name, layers in networks.items()
    }
    parts = [
        part.detach().cpu().float().numpy().ravel()
        for layers in networks.values()
        for weight, bias, _ in layers
        for part in (weight, bias)
    ]
    return {**sizes, "weights": _base64(np.concatenate(parts).astype("<f2"))}


def _examples(labels):
    """Indices of up to two images of each class: first one of each, then the second of each."""
    pairs = [np.flatnonzero(labels == label)[:2] for label in range(10)]
    return [int(pair[turn]) for turn in (0, 1) for pair in pairs if len(pair) > turn]


def _name_tags(names, mu, labels):
    """{label: [z1, z2]} for the names on the map: class medians, overlapping ones moved apart."""
    unit = 0.001 * np.ptp(mu, axis=0).max()  # a thousandth of the map's side
    tags = {int(label): np.median(mu[labels == label], axis=0) for label in np.unique(labels)}
    for _, (a, b) in itertools.product(range(100), itertools.permutations(tags, 2)):
        right, up = (tags[b] - tags[a]) / unit
        if 0 <= up < 50 and abs(right) < 15 + 14 * len(names[a] + names[b]):
            tags[a][1] -= unit
            tags[b][1] += unit
    return {label: tag.tolist() for label, tag in tags.items()}


def _draw_still(model, data, mu, sigma, test, path):
    """A still of the widget: the cloud with one image's code, the image, and its decoding."""
    images, labels = test.tensors
    index = _examples(labels.numpy())[0]
    image, z, ink = images[index : index + 1], mu[index], "#1f2328"
    fig, ax = plt.subplots(figsize=(6, 6))
    ax.scatter(*mu.T, s=4, c=np.array(COLORS)[labels.numpy()], alpha=0.6, linewidths=0)
    for label, tag in data["tags"].items():
        text = ax.text(*tag, data["names"][label], ha="center", va="center", weight="bold")
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    ax.axvline(z[0], color=ink, lw=0.7)
    ax.axhline(z[1], color=ink, lw=0.7)
    for k in (1, 2):  # an Ellipse takes diameters: twice k sigma
        ax.add_patch(Ellipse(z, *(2 * k * sigma[index]), fill=False, color=ink, zorder=3))
    ax.set(aspect="equal", xlabel="$z_1$", ylabel="$z_2$")
    decoded = model.reconstruct(image.to(next(model.parameters()).device)).cpu()
    for bottom, picture, title in (
        (0.53, image, "a test image"),
        (0, decoded, f"decoded from z = ({z[0]:.2f}, {z[1]:.2f})"),
    ):
        side = ax.inset_axes([1.05, bottom, 0.42, 0.42])
        side.imshow(picture[0, 0], cmap="gray", vmin=0, vmax=1)
        side.set_title(title, fontsize=10)
        side.axis("off")
    fig.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(fig)


def write_explorer(run, test):
    """Write explorer.html and explorer.png into ``run.out_dir`` and return their two paths.

    run: a Run whose model has MLP networks and a latent plane; test: a TensorDataset of images
    ``(N, 1, 28, 28)`` and labels ``(N,)``, whose codes make the cloud.
    Raises ValueError for another model, and for one too large for a file of 4 MB.
    """
    config, model = run.config, run.model.eval()
    if config.latent_dim != 2:
        raise ValueError(
            f"The explorer draws a plane: latent_dim must be 2, not {config.latent_dim}."
        )
    if config.architecture != "mlp":
        raise ValueError(
            f"The explorer runs MLP networks: architecture is {config.architecture!r}."
        )
    images, labels = test.tensors[0], test.tensors[1].numpy()
    device = next(model.parameters()).device
    batches = ((x.to(device), y) for x, y in DataLoader(test, batch_size=1000))
    mu, logvar, _ = encode_dataset(model, batches)
    mu, sigma = mu.numpy(), torch.exp(0.5 * logvar).numpy()
    scale = float(np.abs(mu).max()) / 32767
    chosen = _examples(labels)
    names = CLASS_NAMES[config.dataset]
    data = {
        **_pack(model),
        "names": names,
        "tags": _name_tags(names, mu, labels),
        "colors": COLORS,
        "codes": _base64((mu / scale).round().astype("<i2")),  # z = scale · integer
        "scale": scale,
        "labels": "".join(map(str, labels)),
        "examples": _base64((images[chosen] * 255).round().byte().numpy()),
        "exampleLabels": labels[chosen].tolist(),
    }
    page = TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", json.dumps(data))
    page = page.replace("__THING__", {"mnist": "digit", "fashion": "garment"}[config.dataset])
    page = page.encode()
    if len(page) > MAX_BYTES:
        raise ValueError(f"The explorer would take {len(page) / 1e6:.1f} MB: use smaller layers.")
    out_dir = Path(run.out_dir).resolve()
    write_file(out_dir / "explorer.html", page)
    still = out_dir / "explorer.png"
    _draw_still(model, data, mu, sigma, test, still)
    return out_dir / "explorer.html", still


def show_explorer(run, test):
    """Write the explorer of a run (see ``write_explorer``) and show it in the notebook."""
    page, still = write_explorer(run, test)
    alt = (
        f"Latent explorer: the codes of {len(test):,} test images in a plane, coloured by class, "
        "and the picture that the decoder draws from the marked point."
    )
    content = html.escape(page.read_text(encoding="utf-8"))
    frame = (
        f'<iframe title="Latent explorer" class="explorer" srcdoc="{content}"'
        ' style="width: 100%; height: 880px; border: 0"></iframe>'
    )
    display(
        {"text/html": frame, "text/plain": alt},
        raw=True,
        metadata={
            "explorer": str(page), "still": str(still), "alt": alt,
            "filename": "latent-explorer.png",
        },
    )  # fmt: skip
