"""The figures of the course, as 05_latent_exploration and others use them.

Images are ``(N, 1, 28, 28)`` in [0, 1]. A function that makes a figure returns it; ``show`` puts
it into a notebook. All names can be imported from vae_utils.
"""

import inspect
import io
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from data_files import CLASS_NAMES

# Ten colours told apart by colour-blind readers (Petroff 2021, matplotlib's petroff10).
COLORS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"]
COLORS += ["#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
plt.rcParams.update({"figure.figsize": (6.4, 4), "figure.dpi": 144, "savefig.dpi": 144})
plt.rcParams.update({"font.size": 12, "figure.constrained_layout.use": True})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})


def show(fig, name, alt, caption=None):
    """Display a figure in a notebook under a stable file name, with alt text and caption."""
    from IPython.display import display

    text = {"alt": alt, "caption": caption}
    display(fig, metadata={"filename": f"{name}.png", "image/png": text})
    plt.close(fig)


def show_source(thing):
    """The code of a function or class, as a notebook shows it."""
    from IPython.display import Markdown

    return Markdown(f"```python\n{textwrap.dedent(inspect.getsource(thing))}```")


def tile(images, columns):
    """Images ``(N, 1, 28, 28)`` as one grey picture (H, W) with white seams, row by row."""
    padding = (1, 1, 1, 1, 0, -len(images) % columns)  # seams, and blank images at the end
    images = F.pad(images.detach().cpu()[:, 0], padding, value=1.0)
    rows = images.unflatten(0, (-1, columns))  # (rows, columns, H, W)
    return rows.transpose(1, 2).flatten(2).flatten(0, 1).numpy()


def show_grid(images, columns=8, titles=None, rows=()):
    """Images ``(N, 1, 28, 28)`` as a figure; titles stand above each, names of ``rows`` beside."""
    if titles is not None:
        images = F.pad(images, (0, 0, 9, 0), value=1.0)  # room for a line of text
    picture, height = tile(images, columns), images.shape[2] + 2
    size = 8.4 if rows else 6.4, 6.4 * len(picture) / picture.shape[1] + 0.1
    fig, ax = plt.subplots(figsize=size)
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    for i, title in enumerate(titles or []):
        x, y = i % columns * 30 + 15, i // columns * height + 9
        ax.text(x, y, title, ha="center", va="bottom", fontsize=11)
    ax.set_xticks([])
    ax.set_yticks(height * np.arange(len(rows)) + height / 2, rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


def plot_history(history):
    """Total, reconstruction and KL by epoch, a panel each, for train and validation."""
    fig, axes = plt.subplots(1, 3, figsize=(8.4, 3.2))
    epochs = [row["epoch"] for row in history]
    for ax, part, title in zip(axes, ("loss", "recon", "kl"), ("Loss", "Reconstruction", "KL")):
        for split, color in (("train", COLORS[0]), ("val", COLORS[2])):
            ax.plot(epochs, [row[f"{split}_{part}"] for row in history], "o-", ms=3, color=color)
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("nats per image")
    axes[0].legend(["train", "validation"], frameon=False)
    return fig


def plot_reconstructions(model, images, columns=8, titles=None):
    """Originals ``(N, 1, 28, 28)``, each row, under its titles, above that of reconstructions."""
    blank = images.new_ones(-len(images) % columns, *images.shape[1:])  # fills the last row
    parts = (torch.cat((x, blank)).split(columns) for x in (images, model.reconstruct(images)))
    if titles is not None:
        rows = [titles[i : i + columns] for i in range(0, len(titles), columns)]
        titles = [title for row in rows for title in row + [""] * columns]
    return show_grid(torch.cat([row for pair in zip(*parts) for row in pair]), columns, titles)


def plot_latent(codes, labels, class_names, title=None, ax=None):
    """Codes ``(N, 2)`` as a cloud by class, on ``ax`` or on a figure of its own, which is returned.

    Short names stand near the medians of their classes, long ones below the cloud.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 5.6))
    codes, labels = np.asarray(codes), np.asarray(labels, int)
    order = np.random.default_rng(0).permutation(len(codes))  # no class lies on top of all others
    ax.scatter(*codes[order].T, s=4, alpha=0.6, c=np.array(COLORS)[labels[order]], linewidths=0)
    ax.set(title=title, xlabel="$z_1$", ylabel="$z_2$")
    if max(map(len, class_names)) > 2:
        for label, name in enumerate(class_names):
            ax.scatter([], [], s=4, color=COLORS[label], label=name)
        tight = {"columnspacing": 0.8, "handletextpad": 0, "markerscale": 4, "frameon": False}
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, fontsize=9, **tight)
    else:
        known = np.unique(labels)
        places = np.array([np.median(codes[labels == label], axis=0) for label in known])
        for _ in range(50):  # names that cover each other move apart
            gaps = places[:, None] - places  # (C, C, 2)
            near = np.linalg.norm(gaps, axis=2, keepdims=True) < 0.06 * np.ptp(codes)
            places += 0.1 * (near * gaps).sum(1)
        for label, place in zip(known, places):
            box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": COLORS[label]}
            text = {"ha": "center", "va": "center", "weight": "bold", "bbox": box}
            ax.text(*place, class_names[label], **text)
    ax.set_aspect("equal", adjustable="datalim")
    return ax.figure


@torch.no_grad()
def plot_manifold(model, n=15, limit=3.0, quantiles=False):
    """An n × n mosaic of decoded 2-D codes; z1 grows to the right, z2 upwards.

    Codes are evenly spaced in [-limit, limit], or lie at evenly spaced quantiles of the prior.
    """
    if quantiles:
        grid = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.5, n - 0.5, n) / n)
    else:
        grid = torch.linspace(-limit, limit, n)
    z = torch.cartesian_prod(grid.flip(0), grid).flip(1)  # (n * n, 2): z1, z2; top row first
    device = next(model.parameters()).device
    return show_grid(torch.sigmoid(model.decode(z.to(device))), n)


def interpolate(start, end, steps=12, spherical=False):
    """Codes ``(steps, latent_dim)`` from start to end, both ``(latent_dim,)``.

    On the straight line, or on the arc between the two directions (White 2016), which keeps the
    length of codes near that of samples from the prior.
    """
    t = torch.linspace(0, 1, steps, device=start.device)[:, None]
    if not spherical:
        return (1 - t) * start + t * end
    angle = torch.acos(F.cosine_similarity(start, end, dim=0).clamp(-0.9999, 0.9999))
    return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)


def _png(picture):
    """A figure, or an array (H, W) of greys in [0, 1], as the bytes of a PNG file."""
    png = io.BytesIO()
    if isinstance(picture, np.ndarray):
        plt.imsave(png, picture, cmap="gray", vmin=0, vmax=1, format="png")
    else:
        picture.savefig(png, format="png")
        plt.close(picture)
    return png.getvalue()


@torch.no_grad()
def draw_run(model, val, history):
    """The files of a run's pictures and report.md, as {file name: bytes}.

    Same images and same noise at every epoch; before training ``history`` is empty.
    """
    config, images, labels = model.config, val.images[:2000], val.labels[:2000].cpu()
    codes, axes = model.encode(images)[0].cpu(), {}
    if codes.shape[1] > 2:  # the plane of largest variance
        codes = codes @ torch.linalg.eigh(codes.T.cov()).eigenvectors[:, [-1, -2]]
        axes = {"xlabel": "widest direction", "ylabel": "second widest direction"}
    codes = F.pad(codes, (0, 2 - codes.shape[1]))  # one dimension: on a line
    cloud = plot_latent(codes, labels, CLASS_NAMES[config.dataset])
    cloud.axes[0].set(**axes)
    samples = model.sample(64, torch.Generator(images.device).manual_seed(0))
    stem = f"ep{len(history):03d}"
    pictures = {
        f"{stem}_a_input.png": tile(images[:32], 8),
        f"{stem}_b_recon.png": tile(model.reconstruct(images[:32]), 8),
        f"{stem}_c_samples.png": tile(samples, 8),
        f"{stem}_d_latent2d.png": cloud,
    }
    report = {}
    if history:
        pictures = {"history.png": plot_history(history)} | pictures
        lines = [f"# {config.name}", "", "| setting | value |", "|---|---|"]
        lines += [f"| {field} | {value} |" for field, value in vars(config).items()]
        lines += ["", "Losses in nats per image, with a sampled z.", ""]
        lines += [f"| {' | '.join(history[0])} |", "|---" * len(history[0]) + "|"]
        lines += [f"| {' | '.join(f'{v:.5g}' for v in row.values())} |" for row in history]
        lines += [f"\n![{name.removesuffix('.png')}]({name})" for name in pictures]
        report["report.md"] = "\n".join([*lines, ""]).encode()
    return report | {name: _png(picture) for name, picture in pictures.items()}
