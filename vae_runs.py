"""A run on disk: written whole, read with suspicion, worked on by one process at a time.

vae_utils.fit decides when; 08_under_the_hood explains why. At the end: many runs at once.
Nothing here is about VAEs.
"""

import contextlib
import hashlib
import inspect
import io
import json
import math
import os
import re
import sys
import time
import warnings
import zipfile
from errno import EDQUOT, ENOSPC

import torch
from filelock import FileLock, Timeout
from joblib import Parallel, delayed
from tqdm import tqdm

HISTORY = ["epoch", "train_loss", "train_recon", "train_kl", "val_loss", "val_recon", "val_kl"]
HISTORY += ["val_loss_per_pixel", "beta", "lr", "seconds"]  # the columns of history.csv


def write_file(path, data):
    """Write bytes beside ``path`` and rename: a kill, a crash or a full disk leaves the old file.

    Raises OSError, which names the file, where it cannot be written.
    """
    beside = path.with_name(f".{path.name}.part")  # what a kill leaves, the next write replaces
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())  # on the disk before it takes the name
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        full = error.errno in (ENOSPC, EDQUOT)
        advice = "free some space" if full else "choose another folder, or mend this one"
        message = f"{path} could not be written ({error.strerror}): {advice}, and run again; "
        raise OSError(error.errno, message + "what was there is kept") from error


@contextlib.contextmanager
def hold(folder):
    """One process at a time works in a folder; a killed one lets go. ValueError says who has it."""
    lock, holder = FileLock(folder / ".lock"), folder / ".lock-holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        who = "another process"
        with contextlib.suppress(OSError):  # it may just have ended
            who = holder.read_text()
        message = f"{folder} is in use by {who}: wait for it, or choose another folder."
        raise ValueError(message) from None
    except OSError as error:
        message = f"{folder} cannot be used ({error.strerror}): choose another folder."
        raise OSError(error.errno, message) from error
    try:
        holder.write_text(f"process {os.getpid()} since {time.strftime('%H:%M')}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _does(code):
    """What a function does: its instructions, names and constants, functions inside it too."""
    constants = []
    for constant in code.co_consts:
        if inspect.iscode(constant):
            constant = _does(constant)
        elif isinstance(constant, frozenset):
            constant = sorted(map(repr, constant))  # in one order in every process
        constants.append(constant)
    return code.co_code, code.co_names, constants


def fingerprint(model):
    """Six characters that change with a network's layers and with the methods of its classes."""
    parts, library = [str(model)], ("torch.", "builtins")
    for kind in dict.fromkeys(map(type, model.modules())):
        bases = [base for base in kind.__mro__ if not base.__module__.startswith(library)]
        methods = {}  # its own and those that it inherits, each as it is last defined
        for base in reversed(bases):
            methods |= vars(base)
        for name in sorted(methods):
            method = inspect.unwrap(methods[name])
            if hasattr(method, "__code__"):
                parts.append((_does(method.__code__), method.__defaults__))
    text = re.sub(r" at 0x\w+", "", str(parts))  # addresses
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _unpack(path):
    """The dict in a checkpoint file. ValueError if its bytes are not those that were written."""
    with zipfile.ZipFile(path) as archive:  # torch's format: a zip, not compressed, with CRCs
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
        if packed or archive.testzip():
            raise ValueError("not the bytes that were written")
    return torch.load(path, map_location="cpu", weights_only=True)  # refuses code


def _is_sound(state):
    """Does a checkpoint hold a run up to its epoch, all numbers finite?"""
    rows, rng, moments = state["history"], state["rng"], state["optimizer"]["state"].values()
    tensors = [*state["model"].values(), *(value for one in moments for value in one.values())]
    return (
        len(rows) == state["epoch"] <= state["config"]["epochs"]
        and all(list(row) == HISTORY and all(map(math.isfinite, row.values())) for row in rows)
        and rng.dtype == torch.uint8 and rng.shape == torch.get_rng_state().shape
        and (state["epoch"] == 0 or (len(moments) > 0 and all(moments)))
        and all(tensor.isfinite().all() for tensor in tensors)
        and isinstance(state["data"], dict)
    )  # fmt: skip


def read_checkpoint(path, settings):
    """What a checkpoint holds; ``settings`` are the names that its config must have.

    Raises FileNotFoundError, or ValueError, which says in one line why the file is refused.
    """
    refused = f"{path} is refused: "
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{path} does not exist.")
    if not path.is_file():  # a folder, a pipe: reading it would fail, or wait for ever
        raise ValueError(refused + "it is no file.")
    try:
        state = _unpack(path)
        unknown, lacking = state["config"].keys() - settings, settings.keys() - state["config"]
        sound = bool(unknown or lacking) or _is_sound(state)
    except (OSError, MemoryError, torch.OutOfMemoryError):  # this says nothing about what is in it
        raise
    except Exception as error:  # whatever is wrong with the file, it is not used
        message = refused + "it is damaged or holds code, or is no run of this course."
        raise ValueError(message) from error
    if unknown or lacking:
        age = "newer" if unknown else "older"
        names = ", ".join(sorted(unknown or lacking))
        raise ValueError(f"{refused}it is {age} than this course (setting {names}).")
    if not sound:
        raise ValueError(refused + "its numbers are not finite, or do not belong together.")
    return state


def load_weights(model, weights, place):
    """Load weights into a module. ValueError, which names the ``place``, where they do not fit."""
    _check_shapes(model, weights, place)
    model.load_state_dict(weights)


def _check_shapes(model, weights, place):
    shapes = {name: weight.shape for name, weight in weights.items()}
    if shapes != {name: weight.shape for name, weight in model.state_dict().items()}:
        raise ValueError(f"{place} is refused: it holds another network.")


def _load(path, state, model, optimizer):
    """Load weights and the optimizer's state, or neither: ValueError where one does not fit."""
    _check_shapes(model, state["model"], path)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    try:
        for number, moments in state["optimizer"]["state"].items():
            shapes = {value.shape for value in moments.values() if torch.is_tensor(value)}
            if not shapes <= {weights[number].shape, torch.Size()}:
                raise ValueError("moments of another shape")
        optimizer.load_state_dict(state["optimizer"])  # looks before it changes anything
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        message = f"{path} is refused: its optimizer's state is that of another network."
        raise ValueError(message) from error
    model.load_state_dict(state["model"])


class RunFolder:
    """Where fit keeps a run. ``config`` and ``data``, plain dicts, say which run it is."""

    def __init__(self, path, config, data):
        self.path, self.config, self.data = path, config, data

    def newest(self, model, optimizer):
        """The newest sound checkpoint, loaded into model and optimizer; None in a fresh folder.

        A damaged one is left aside, with a warning. ValueError for a run of another config or data.
        """
        found, problems, here = [], [], self.config | self.data
        for path in filter(os.path.lexists, (self.path / "best.pt", self.path / "last.pt")):
            try:
                state = read_checkpoint(path, self.config)
                there = state["config"] | state["data"]
                differ = [key for key in here if there.get(key) != here[key]]
                if not differ:
                    _load(path, state, model, optimizer)
                    found.append(state)
            except ValueError as error:
                problems.append(str(error))
                continue
            if differ:
                names = ", ".join(f"{k} ({there.get(k)} there, {here[k]} here)" for k in differ)
                raise ValueError(
                    f"{self.path} holds another run, which differs in {names}: "
                    "choose another out_dir or name, or delete that folder."
                )
        if problems and not found:
            raise ValueError(f"{' '.join(problems)} Delete {self.path} to train it anew.")
        for problem in problems:
            warnings.warn(f"{problem} The other checkpoint is taken.", stacklevel=3)
        return found[-1] if found else None

    def go_on(self, state, model, optimizer):
        """Set torch's random state to that of a checkpoint; in a fresh folder, write a first one.

        Returns the history so far.
        """
        self.write({"config.json": json.dumps(self.config, indent=1).encode()})
        if state is None:
            self.save(model, optimizer, [])
            return []
        torch.set_rng_state(state["rng"])
        if torch.cuda.is_available() and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"])
        return state["history"]

    def save(self, model, optimizer, history):
        """Write last.pt, history.csv and, where the last epoch is the best one, best.pt."""
        state = {"config": self.config, "data": self.data, "epoch": len(history)}
        state |= {"history": history, "rng": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda_rng"] = torch.cuda.get_rng_state()
        state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        packed = io.BytesIO()
        torch.save(state, packed)
        rows = [HISTORY, *(row.values() for row in history)]
        table = "".join(",".join(map(str, row)) + "\n" for row in rows)
        files = {"history.csv": table.encode()}
        if history and history[-1]["val_loss"] == min(row["val_loss"] for row in history):
            files["best.pt"] = packed.getvalue()
        self.write(files | {"last.pt": packed.getvalue()})  # last.pt last: it says all is written

    def write(self, files):
        """Write files, {name: bytes}, into the folder."""
        for name, data in files.items():
            write_file(self.path / name, data)


def read_run(out_dir, settings):
    """Config, history and best weights of the run in a folder, as vae_utils.load_run says."""
    found, problems = {}, []
    for name in ("best.pt", "last.pt"):
        try:
            found[name] = read_checkpoint(out_dir / name, settings)
        except (ValueError, OSError) as error:
            problems.append(error)
    trained = [state for state in found.values() if state["epoch"]]
    if not trained:
        if problems and not isinstance(problems[0], FileNotFoundError):
            raise problems[0]
        message = f"{out_dir} holds no trained run (best.pt): train one with fit(), from the start."
        raise FileNotFoundError(message)
    runs = [state["config"] | state["data"] for state in trained]
    if runs[0] != runs[-1]:
        raise ValueError(f"{out_dir} holds checkpoints of two runs: delete the folder.")
    if "best.pt" not in found:
        warnings.warn(f"{problems[0]} The model is that of the last epoch.", stacklevel=3)
    history = max((state["history"] for state in trained), key=len)
    return trained[0]["config"], history, trained[0]["model"]


def _attempt(task, config):
    """(name, result, None) of one task, in silence on one thread; or (name, None, problem)."""
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its own bar would run across ours
            return config.name, task(config), None
    except Exception as error:
        return config.name, None, f"{type(error).__name__}: {error}"


def in_parallel(task, configs, cost=lambda config: config.epochs):
    """{name: task(config)}, one process per core; a task that fails is printed, the others go on.

    The costly ones go first. Under joblib.parallel_config(backend="dask") the same call runs on a
    cluster whose workers see the same folder.
    """
    configs, done = sorted(configs, key=cost, reverse=True), {}
    jobs = Parallel(n_jobs=-1, return_as="generator_unordered")
    with warnings.catch_warnings(), tqdm(total=len(configs)) as bar:
        warnings.filterwarnings("ignore", message="A worker stopped")  # joblib starts another
        for name, result, problem in jobs(delayed(_attempt)(task, config) for config in configs):
            bar.update()
            bar.set_postfix_str(f"{name} done")
            if problem:
                bar.write(f"{name} failed. {problem}", file=sys.stdout)
            else:
                done[name] = result
    return done
