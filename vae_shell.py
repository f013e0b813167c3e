"""The shell of vae_utils: train a run, or ask what went wrong with one."""

import os
import signal


def stopped(*_):
    os.write(2, b"stopped before the first step\n")
    os._exit(130)


def main(argv=None):
    """``python -m vae_utils``: every setting is a flag. Returns the exit status."""
    signal.signal(signal.SIGINT, stopped)  # Ctrl-C during the seconds that the imports take
    import argparse
    import dataclasses

    import matplotlib

    import vae_utils as vae
    from vae_diagnose import verdict

    signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on, fit knows what to do
    matplotlib.use("agg")  # pictures go into files: no window
    parser = argparse.ArgumentParser(
        prog="python -m vae_utils",
        description="Train a VAE from the shell.",
        argument_default=argparse.SUPPRESS,  # flags that are not given leave no trace
        allow_abbrev=False,
    )
    parser.error = lambda text: parser.exit(2, f"error: {text} (--help lists all flags)\n")
    parser.add_argument("--preset", choices=vae.PRESETS, help="start from these settings")
    parser.add_argument("--out", help="folder of the run (outputs/<dataset>/<name>)")
    inverted = "swap light and dark in a folder of images (default: where the border is light)"
    parser.add_argument("--invert", action=argparse.BooleanOptionalAction, help=inverted)
    parser.add_argument("--diagnose", metavar="RUN", help="say what went wrong in a run's folder")
    for field in dataclasses.fields(vae.Config):
        text = f"{field.metadata['help']} (default: {field.default})"
        about = {"help": text.replace("%", "%%")}  # argparse would format it
        if isinstance(field.default, bool):
            about["action"] = argparse.BooleanOptionalAction
        elif isinstance(field.default, tuple):
            about |= {"type": int, "nargs": "+"}
        else:
            about |= {"type": type(field.default), "choices": field.metadata["choices"]}
        parser.add_argument("--" + field.name.replace("_", "-"), **about)
    given = vars(parser.parse_args(argv))
    preset, out, suspect = (given.pop(name, None) for name in ("preset", "out", "diagnose"))
    if "invert" in given:
        os.environ["VAE_INVERT"] = str(int(given.pop("invert")))
    if preset and given.keys() - {"dataset"} and "name" not in given and not out:
        parser.error(f"the folder {preset} is for the preset itself: add a --name or --out")
    try:
        config = vae.PRESETS.get(preset, vae.Config()).replace(**given)
    except ValueError as error:
        parser.error(error)
    try:
        if suspect is not None:
            print(verdict(suspect))
            return 0
        run = vae.fit(config, out_dir=out)
    except (ValueError, OSError, FloatingPointError) as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped before the first step\n")
    losses = [row["val_loss"] for row in run.history]
    best = f"best validation loss {min(losses):.2f} nats" if losses else "no epoch finished"
    print(f"{run.out_dir}: {best}")
    return 0 if len(losses) >= vae.epochs_of(run.config) else 130
