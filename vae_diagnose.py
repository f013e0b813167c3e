"""What the numbers that a run logs say about its mistakes. Explained in 10_pitfalls.

Each rule looks at one thing and returns (mistake, why), or None. From the shell:

    python -m vae_utils --diagnose outputs/mnist/demo
"""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

MEAN_IMAGE = {"mnist": 206.0, "fashion": 384.0}  # nats that the mean image costs, under bce
COLUMNS = ("loss", "recon", "kl", "beta", "sigma", "mu2")


def diagnose(
    history, pixels=784, batch_size=None, latent_dim=None, baseline=206.0, recon_loss="bce"
):
    """The likely mistakes behind logged numbers, [(mistake, why)], best first; [] for none.

    ``history`` is a run's folder or a history.csv, the rows of one, or a dict of a few numbers:
    loss, and what there is of recon, kl, beta (the weight that was asked for), sigma (its mean
    over images and dimensions) and mu2 (the sum of mu², mean over images). ``baseline`` is what
    the mean image costs. Raises OSError where there is no file, ValueError where there is no loss.
    """
    if isinstance(history, (str, Path)):
        history, settings = read_log(Path(history))
        given = {"batch_size": batch_size, "latent_dim": latent_dim} | settings
        batch_size, latent_dim = number(given, "batch_size"), number(given, "latent_dim")
        recon_loss = settings.get("recon_loss", recon_loss)
        if "dataset" in settings:  # of other images the cost is not known: fewer rules speak
            baseline = MEAN_IMAGE.get(str(settings["dataset"]), math.nan)
    rows = [history] if isinstance(history, dict) else history
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("give a run's folder, a history.csv, its rows as dicts, or one dict.")
    if not rows or any(logged(row, "loss") is None for row in rows):
        raise ValueError("there is no loss in these numbers, or not in every row.")
    rows = [{name: number(row, name) for name in COLUMNS} for row in rows]
    if any(row["sigma"] < 0 for row in rows):
        raise ValueError("sigma is negative. Log exp(log σ² / 2).")
    grey = pixels * math.log(2)  # what a decoder pays that says "one half" for every pixel
    scale = unit(paid(rows[-1]), pixels, batch_size, grey, baseline)
    for row in rows:
        row |= {name: scale * row[name] for name in ("loss", "recon", "kl")}
    log = SimpleNamespace(rows=rows, **rows[-1])  # the last row, and all of them
    log.batch_size, log.latent_dim = batch_size or math.nan, latent_dim or math.nan
    log.pixels, log.grey, log.baseline = pixels, grey, baseline
    verdicts = [rule(log) for rule in (RULES if recon_loss == "bce" else ANY_LOSS)]
    return [verdict for verdict in verdicts if verdict]


def verdict(place):
    """What ``diagnose`` finds in a run's folder or history.csv, as lines of text."""
    found = [f"{mistake}: {why}" for mistake, why in diagnose(place)]
    return "\n".join(found) or "nothing wrong"


def read_log(path):
    """The rows of a history.csv and the settings beside it, {} where there are none."""
    folder = path if path.is_dir() else path.parent
    table, config = folder / "history.csv" if path.is_dir() else path, folder / "config.json"
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:  # -sig: as spreadsheets save it
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{table} is no table of numbers.") from None
    try:
        settings = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{config} is damaged.")
    return rows, settings


def logged(row, name):
    """What a row holds under a name; None for nothing."""
    value = row.get(name, row.get(f"train_{name}"))
    return None if value == "" else value


def number(row, name):
    """A logged number. NaN where there is none: then every comparison is false, no rule speaks."""
    value = logged(row, name)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is no number: {str(value)[:40]!r}.") from None


def paid(row):
    """The reconstruction, or the loss where that is all there is."""
    return row["loss"] if math.isnan(row["recon"]) else row["recon"]


def unit(recon, pixels, batch_size, grey, baseline):
    """The factor that brings losses to nats per image, if all of them were logged otherwise."""
    if 0 < recon < 0.02 * pixels and recon * pixels < 0.97 * baseline:
        return pixels  # per pixel, and something was learned
    if batch_size and recon > 2 * grey and recon / batch_size < grey:
        return 1 / batch_size  # summed over a batch
    return 1


# ---------------------------------------------------------------------------- the rules


def outside(log):
    if any(row["recon"] < 0 for row in log.rows):
        why = "The reconstruction is negative, which no cross-entropy of pixels in [0, 1] can be."
        return "images outside [0, 1]", why
    if math.isnan(log.recon) and log.loss < 0:
        why = "The loss is negative, and neither part of an honest one can be."
        return "images outside [0, 1], or the KL with a wrong sign", why


def wrong_sign(log):
    if any(row["kl"] < 0 for row in log.rows):
        return "KL with a wrong sign", "The KL is negative, which no KL can be."
    if implied_beta(log) < -0.001:
        why = f"loss = reconstruction + β KL holds with β = {implied_beta(log):.2g}."
        return "KL with a wrong sign", why


def missing_kl(log):
    if log.kl > 1 and abs(implied_beta(log)) < 0.001 and log.beta != 0:
        why = f"The loss is the reconstruction alone; a KL of {log.kl:.3g} nats is not in it."
        return "no KL in the loss", why


def too_fast(log):
    losses = [row["loss"] for row in log.rows if not row["beta"] < log.beta]  # β may have risen
    if not all(map(math.isfinite, losses)):
        why = "The loss became NaN or infinite. If a smaller rate does not help, look at the data."
        return "learning rate too high", why
    if 0 < min(losses) < log.loss / 1.2:
        why = f"The loss had been down at {min(losses):.4g} and rose to {log.loss:.4g}."
        return "learning rate too high", why


def too_fast_at_first(log):
    first = log.rows[0]["recon"]
    if first > 1.2 * log.grey and log.recon < log.grey:
        why = f"The first epoch cost {first:.4g} nats of reconstruction in the mean, more than the "
        why += f"{log.grey:.0f} of a decoder that knows nothing: the first steps went too far."
        return "learning rate too high", why


def averaged(log):
    recon = paid(log.rows[-1])
    small = 0.97 * log.baseline <= recon * log.pixels < 0.02 * log.pixels**2
    if small and not log.kl > 0.5:  # a KL that is not logged is not > 0.5
        why = f"{recon:.3g} must be nats per pixel, {recon * log.pixels:.0f} per image: no better "
        why += f"than the mean image ({log.baseline:.0f}). A KL that is summed weighs "
        why += f"{log.pixels} times as much, and the code is given up."
        return "reconstruction averaged over pixels, the KL not", why


def half_grey(log):
    dark = log.baseline < 0.8 * log.grey  # else honest images may cost as much
    if dark and 0.9 * log.grey < log.recon < 1.1 * log.grey:
        why = f"The reconstruction stays near {log.pixels} log 2 = {log.grey:.0f} nats, the cost of"
        why += " a decoder that cannot say black. Or it has not learned at all: a tiny rate."
        return "sigmoid twice", why


def small_kl(log):
    spread = log.latent_dim * (log.sigma * log.sigma - 1 - 2 * math.log(log.sigma or 1))
    least = 0.5 * (log.mu2 + spread)  # a mean of sigma gives the least that a mean of KLs can be
    if log.kl < 0.8 * least:
        why = f"μ and σ as logged make a KL of at least {least:.3g} nats, not {log.kl:.2g}. It is "
        why += "divided once too often, or is the KL of the mean code of a batch."
        return "KL counted too small", why
    for name, n in (("batch size", log.batch_size), ("latent size", log.latent_dim)):
        if n > 1 and abs(implied_beta(log) * n - 1) < 0.02 and not log.beta < 1:
            why = f"loss = reconstruction + KL / {n:.0f}, which is the {name}."
            return "KL counted too small", why


def no_noise(log):
    if log.sigma > 0.9 and log.mu2 > 2 and log.recon < 0.9 * log.baseline:
        why = f"σ is {log.sigma:.2f} in the mean. So much noise would drown the code, but the "
        why += "decoder draws well: it does not get that noise."
        return "ε drawn once, or log σ² taken for σ", why


def too_good(log):
    if small_kl(log) or no_noise(log):
        return None  # these know better why
    gain = log.baseline - log.recon  # honest runs buy up to 0.055 of the baseline with a nat of KL
    if gain > 0.1 * log.baseline and gain > 0.08 * log.baseline * log.kl:
        why = f"{log.kl:.2g} nats of KL cannot tell a decoder so much that it gains {gain:.0f}."
        if math.isnan(log.sigma + log.mu2):
            joint = "KL counted too small, or noise missing, or a decoder that sees the pixels"
            return joint, why + " Log the mean of σ and of μ² to know which."
        return "decoder that does without the code", why + " It sees the pixels some other way."


def collapsed(log):
    if log.kl < 0.5 and log.recon > 0.9 * log.baseline:
        why = f"With {log.kl:.2g} nats of KL the code says nothing, and every image is decoded to "
        return "posterior collapse: β too large", why + "the mean image, more or less."


def implied_beta(log):
    """The β with which loss = recon + β kl, whatever was asked for."""
    return (log.loss - log.recon) / log.kl if log.kl else math.nan


ANY_LOSS = (wrong_sign, missing_kl, too_fast)
RULES = (outside, *ANY_LOSS, too_fast_at_first, averaged, half_grey)  # the surest first
RULES += (small_kl, no_noise, too_good, collapsed)
