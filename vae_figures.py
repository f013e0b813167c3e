"""The figures of the course that are long, or that more than one notebook draws, and their style.

Images are ``(N, 1, 28, 28)`` in [0, 1]. A function that makes a figure returns it; ``show`` puts
it into a notebook, ``table`` does so with a table.
"""

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

from vae_data import class_names

# A colour for each class. Searched so that no two are alike, in grey and for colour-blind readers
# too, and that classes whose codes meet (4 and 9, 3 and 8, shirt and pullover) are far apart.
COLORS = ["#5db9a8", "#9fc372", "#595b0e", "#d0365a", "#7b70e3"]
COLORS += ["#692e92", "#ad882b", "#b03180", "#b08cd8", "#dfc73f"]
LINES = ["#2f7fc1", "#d2603a", "#3f9468", "#9567c4"]  # curves and bars, on light and dark pages
INK, GREY = "#222222", "#767676"  # text and axes; what stays legible on light and on dark pages
plt.rcParams.update({"figure.figsize": (6.4, 4), "figure.dpi": 144, "savefig.dpi": 144})
plt.rcParams.update({"font.size": 12, "figure.constrained_layout.use": True})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "vae"})  # text stays text; same bytes
plt.rcParams.update({f"{part}.color": INK for part in ("text", "xtick", "ytick")})
plt.rcParams.update({"axes.labelcolor": INK, "axes.edgecolor": INK, "legend.frameon": False})
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=LINES)


def class_colors(labels):
    """The colour of each of the labels ``(N,)``; after ten classes the colours come again."""
    return np.array(COLORS)[np.asarray(labels) % len(COLORS)]


def show(fig, name, alt):
    """Display a figure in a notebook, with a file name for the report and a text for the blind.

    It travels as SVG too, for pages, where its text takes the page's type and ink.
    """
    from IPython.display import display

    about, pictures = {"filename": name, "alt": alt}, any(ax.images for ax in fig.axes)
    if pictures:  # no plate behind them; their text is legible on light and on dark
        for text in fig.findobj(plt.Text):
            text.set_color(GREY)
    look, drawn = {"transparent": pictures, "bbox_inches": "tight"}, io.StringIO()
    fig.savefig(drawn, format="svg", metadata={"Date": None}, pad_inches=0.12, **look)
    about["svg"] = drawn.getvalue()  # 0.12 inches: the page's letters may be wider
    png = _png(fig, pad_inches=0.02, **look)
    about["image/png"] = {"width": round(Image.open(io.BytesIO(png)).width * 96 / fig.dpi)}
    display({"image/png": png}, raw=True, metadata=about)


def name_lines(ax):
    """Write the label of each line beside its right end, in its colour, instead of a legend."""
    ax.get_ylim()  # settles the scale
    room, free = 13 * ax.figure.dpi / 72, -np.inf  # pixels: of one line of text, next to be had
    named = [line for line in ax.lines if line.get_label()[0] != "_"]
    ends = [(ax.transData.transform(line.get_xydata()[-1])[1], line) for line in named]
    for end, line in sorted(ends, key=lambda pair: pair[0]):
        free = max(end, free)
        style = {"textcoords": "offset points", "va": "center", "color": line.get_color()}
        shift = (6, (free - end) * 72 / ax.figure.dpi)
        ax.annotate(line.get_label(), line.get_xydata()[-1], shift, **style)
        free += room


def table(frame, digits=2, formats=None):
    """A DataFrame as a table that notebook, page and code host draw alike.

    Floats get so many ``digits``, or the format of their column: {"share": ".1%"}.
    """
    from IPython.display import Markdown

    named = not isinstance(frame.index, pd.RangeIndex)  # one that only counts rows is left out
    shown, align = frame.copy().astype(object), ["left"] * named
    for column, values in frame.items():
        number = pd.api.types.is_numeric_dtype(values) and values.dtype != bool
        spec = f",.{digits}f" if pd.api.types.is_float_dtype(values) else "," * number
        spec = (formats or {}).get(column, spec)
        texts = ["" if value != value else format(value, spec) for value in values]
        shown[column] = [text.replace("-", "−") if number else text for text in texts]
        align.append("right" if number else "left")
    return Markdown(shown.to_markdown(index=named, disable_numparse=True, colalign=align))


def tile(images, columns):
    """Images ``(N, 1, 28, 28)`` as one grey picture (H, W), row by row; NaN in the seams."""
    padding = (1, 1, 1, 1, 0, -len(images) % columns)  # seams, and blank images at the end
    images = F.pad(images.detach().float().cpu()[:, 0], padding, value=torch.nan)
    rows = images.unflatten(0, (-1, columns))  # (rows, columns, H, W)
    return rows.transpose(1, 2).flatten(2).flatten(0, 1).numpy()


def show_grid(images, columns=8, titles=None, rows=()):
    """Images ``(N, 1, H, 28)`` as a figure; titles stand above each, names of ``rows`` beside.

    There may be more names than rows of images, where an image is a stack of several.
    """
    room = 9 if titles is not None else 0  # for a line of text
    picture = tile(F.pad(images, (0, 0, room, 0), value=torch.nan), columns)
    height = images.shape[2] + room + 2
    names = 1.2 if rows else 0  # inches; with them a figure is as wide as the others
    width = min(6.4 - names, 1.1 * columns)  # of few images none is drawn large
    fig, ax = plt.subplots(figsize=(width + names, width * len(picture) / picture.shape[1] + 0.1))
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    for i, title in enumerate(titles or []):
        x, y = i % columns * 30 + 15, i // columns * height + 9
        title = title if len(title) <= 8 else f"{title[:7]}…"
        ax.text(x, y, title, ha="center", va="bottom", fontsize=11)
    each = max(1, len(rows) * height // len(picture))  # names for one row of images
    places = [
        i // each * height + room + 1 + (i % each + 0.5) * images.shape[2] / each
        for i in range(len(rows))
    ]
    ax.set_xticks([])
    ax.set_yticks(places, rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


def plot_history(history):
    """Total, reconstruction and KL by epoch, a panel each, for train and validation."""
    fig, axes = plt.subplots(1, 3, figsize=(8.4, 3.2))
    epochs = [row["epoch"] for row in history]
    for ax, part, title in zip(axes, ("loss", "recon", "kl"), ("Loss", "Reconstruction", "KL")):
        for split, name in (("train", "train"), ("val", "validation")):
            losses = [row[f"{split}_{part}"] for row in history]
            ax.plot(epochs, losses, "o-", ms=3, label=name)
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("nats per image")
    name_lines(axes[-1])  # the last: on phones panels are cut apart
    return fig


def plot_reconstructions(model, images, columns=8, titles=None):
    """Originals ``(N, 1, 28, 28)``, under their titles, each directly above its reconstruction."""
    seam = images.new_full((len(images), 1, 1, 28), torch.nan)
    pairs = torch.cat((images, seam, model.reconstruct(images)), dim=2)  # (N, 1, 57, 28)
    names = ("image", "decoded") * -(-len(images) // columns)
    return show_grid(pairs, columns, titles, names)


def name_places(codes, labels):
    """{label: (z1, z2)} near the medians of the classes in a cloud, where names do not overlap."""
    known = [int(label) for label in np.unique(labels)]
    places = np.array([np.median(codes[labels == label], axis=0) for label in known], float)
    low, high = codes.min(0), codes.max(0)
    apart = 0.07 * (high - low).max() + 1e-9  # how far names must be from each other
    places += 1e-3 * apart * np.random.default_rng(0).standard_normal(places.shape)  # no ties
    for _ in range(100):
        gaps = places[:, None] - places  # (C, C, 2)
        distance = np.linalg.norm(gaps, axis=2, keepdims=True) + 1e-12
        places += (0.25 * (apart - distance).clip(0) * gaps / distance).sum(1)
        places = places.clip(low, high)
    return dict(zip(known, places))


def plot_latent(codes, labels, names, title=None, ax=None):
    """Codes ``(N, 2)`` as a cloud by class, on ``ax`` or on a figure of its own, which is returned.

    Short names stand near the medians of their classes, long ones below the cloud; a single class
    goes without.
    """
    ax = ax or plt.subplots(figsize=(6.4, 5.6))[1]
    codes, labels = np.asarray(codes), np.asarray(labels, int)
    order = np.random.default_rng(0).permutation(len(codes))  # no class lies on top of all others
    dots = {"s": 4, "alpha": 0.7, "linewidths": 0, "rasterized": True}
    ax.scatter(*codes[order].T, c=class_colors(labels[order]), **dots)
    ax.set(title=title, xlabel="$z_1$", ylabel="$z_2$")
    if len(names) > 1 and max(map(len, names)) > 2:
        for label, name in enumerate(names[:20]):  # more would push the cloud aside
            ax.scatter([], [], s=4, color=class_colors(label), label=name)
        tight = {"columnspacing": 0.8, "handletextpad": 0, "markerscale": 4}
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, fontsize=9, **tight)
    elif len(names) > 1:
        for label, place in name_places(codes, labels).items():
            edge = class_colors(label)
            box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": edge, "lw": 1.5}
            style = {"ha": "center", "va": "center", "weight": "bold", "color": INK}
            ax.text(*place, names[label], bbox=box, **style)
    ax.set_aspect("equal", adjustable="datalim")
    return ax.figure


@torch.no_grad()
def plot_manifold(model, n=15):
    """An n × n mosaic of decoded 2-D codes; z1 grows to the right, z2 upwards.

    Codes lie at evenly spaced quantiles of the prior, as in Kingma & Welling (2014).
    """
    grid = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.5, n - 0.5, n) / n)
    z = torch.cartesian_prod(grid.flip(0), grid).flip(1)  # (n * n, 2): z1, z2; top row first
    device = next(model.parameters()).device
    return show_grid(torch.sigmoid(model.decode(z.to(device))), n)


def plot_diagram():
    """A VAE as boxes and arrows, with the two terms of the loss and what each looks at."""
    fig, ax = plt.subplots(figsize=(6.4, 3))
    blue, red, green = LINES[:3]
    boxes = (
        ("$x$", 0, 2, green), ("encoder", 1.4, 2, GREY), ("$\\mu$", 2.8, 2.45, blue),
        ("$\\log\\,\\sigma^2$", 2.8, 1.55, blue), ("$z=\\mu+\\sigma\\,\\varepsilon$", 4.4, 2, blue),
        ("noise $\\varepsilon$", 4.4, 0.9, GREY), ("decoder", 6, 2, GREY),
        ("logits", 7.3, 2, green),
    )  # fmt: skip
    arrows = ((0.25, 2, 0.9, 2), (1.9, 2.1, 2.45, 2.4), (1.9, 1.9, 2.3, 1.6), (3.1, 2.4, 3.7, 2.1))
    arrows += ((3.3, 1.6, 3.7, 1.9), (4.4, 1.15, 4.4, 1.7), (5.1, 2, 5.5, 2), (6.5, 2, 6.9, 2))
    for x, y, to_x, to_y in arrows:
        ax.annotate("", (to_x, to_y), (x, y), arrowprops={"arrowstyle": "-|>", "color": INK})
    frame = (2.15, 3.45, 3.45, 2.15, 2.15), (2.85, 2.85, 1.15, 1.15, 2.85)  # around mu, log sigma²
    for line in (((0, 0, 7.3, 7.3), (2.3, 3.2, 3.2, 2.3)), ((2.8, 2.8), (1.15, 0.75)), frame):
        ax.plot(*line, color=red, lw=1.2, ls=(0, (3, 3)))
    style = {"ha": "center", "va": "center"}
    for text, x, y, color in boxes:
        box = {"boxstyle": "round,pad=0.4", "fc": "none", "ec": color, "lw": 1.5}
        ax.text(x, y, text, bbox=box, **style)
    for x, y, text in ((3.65, 3.4, "reconstruction"), (2.8, 0.55, "KL to the prior")):
        ax.text(x, y, text, color=red, **style)
    ax.set(xlim=(-0.5, 7.9), ylim=(0.2, 3.6))
    ax.axis("off")
    return fig


def in_turn(labels, n=10):
    """Places of n images: the first of each class, then each second one; too few come again."""
    labels = np.asarray(labels)
    place = pd.Series(labels).groupby(labels).cumcount()  # of an image within its class
    return np.resize(np.lexsort((labels, place)), n).tolist()


def interpolate(start, end, steps=12, spherical=False):
    """Codes ``(steps, latent_dim)`` from start to end, both ``(latent_dim,)``.

    On the straight line, or on the arc (White 2016), which keeps the length of codes near that of
    samples from the prior. ValueError for an arc between opposite directions: there are many.
    """
    t = torch.linspace(0, 1, steps, device=start.device)[:, None]
    if not spherical:
        return (1 - t) * start + t * end
    cosine = F.cosine_similarity(start, end, dim=0)
    if cosine < -0.9999:
        raise ValueError("start and end point in opposite directions: no arc is the shortest.")
    angle = torch.acos(cosine.clamp(max=0.9999))
    return (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)


def _png(picture, **look):
    """A figure, which is closed, or an array (H, W) of greys in [0, 1], as the bytes of a PNG."""
    png = io.BytesIO()
    if isinstance(picture, np.ndarray):
        plt.imsave(png, picture, cmap="gray", vmin=0, vmax=1, format="png")
    else:
        picture.savefig(png, format="png", **look)
        plt.close(picture)
    return png.getvalue()


@torch.no_grad()
def draw_run(model, val, history, config):
    """The files of a run's pictures and report.md, as {file name: bytes}.

    Same images and same noise at every epoch; before training ``history`` is empty. ``model`` is
    any module with encode and decode.
    """
    model.eval()
    images, labels = val.images[:2000], val.labels[:2000].cpu()
    codes, axes = model.encode(images)[0].float().cpu(), {}
    noise = torch.randn(64, codes.shape[1], generator=torch.Generator().manual_seed(0))
    if codes.shape[1] > 2:  # the plane of largest variance
        codes = codes @ torch.linalg.eigh(codes.T.cov()).eigenvectors[:, [-1, -2]]
        axes = {"xlabel": "widest direction", "ylabel": "second widest direction"}
    codes = F.pad(codes, (0, 2 - codes.shape[1]))  # one dimension: on a line
    cloud = plot_latent(codes, labels, class_names(config.dataset))
    cloud.axes[0].set(**axes)
    decoded = model.decode(model.encode(images[:32])[0])
    stem = f"ep{len(history):03d}"
    pictures = {
        f"{stem}_a_input.png": tile(images[:32], 8),
        f"{stem}_b_recon.png": tile(torch.sigmoid(decoded), 8),
        f"{stem}_c_samples.png": tile(torch.sigmoid(model.decode(noise.to(images.device))), 8),
        f"{stem}_d_latent2d.png": cloud,
    }
    report = {}
    if history:
        pictures = {"history.png": plot_history(history)} | pictures
        settings = pd.Series(vars(config), name="value").to_markdown()
        losses = pd.DataFrame(history).to_markdown(index=False, floatfmt=".5g")
        text = f"# {config.name}\n\n{settings}\n\n"
        text += f"Losses in nats per image, with a sampled z.\n\n{losses}\n"
        text += "".join(f"\n![{name.removesuffix('.png')}]({name})\n" for name in pictures)
        report["report.md"] = text.encode()
    return report | {name: _png(picture) for name, picture in pictures.items()}
