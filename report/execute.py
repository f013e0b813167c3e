"""Run notebooks with nbclient, keep what came out, and say meanwhile how far it is."""

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import nbformat
import torch
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert.filters import strip_ansi
from tqdm import tqdm

import vae_utils
from report.address import neutral
from vae_runs import write_file

PACKAGES = ("torch", "torchvision", "numpy", "matplotlib", "scikit-learn")
LAYOUT = "{desc} {bar} {n_fmt}/{total_fmt} cells {elapsed}<{remaining}{postfix}"


class ReportError(Exception):
    """Something the reader of the message can put right; printed without a traceback."""


def place(name: str) -> int:
    """The two that are text alone, and part of every report, stand at its two ends."""
    return {"index": -1, "references": 1}.get(name, 0)


def read(path: Path):
    """A notebook; ReportError where the file holds none."""
    try:
        return nbformat.read(path, as_version=4)
    except OSError:
        raise
    except Exception as error:  # nbformat and json have many
        cause = " ".join(str(error).split())[:80] or type(error).__name__
        raise ReportError(f"{path.name} is not a notebook, or is damaged ({cause})") from None


def read_json(path: Path) -> dict:
    """What a JSON file holds, {} where there is none; ReportError where it is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ReportError(f"{path} is damaged ({error}): restore or remove it") from None


def write(path: Path, text: str):
    """Write a text whole: a kill leaves the old file or the new one."""
    write_file(path, text.encode())


def digest(*parts) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def page_hash(notebook) -> str:
    """sha256 of all cells: kinds, sources and tags; not outputs, not metadata."""
    return digest(
        [[c.cell_type, neutral(c.source), c.metadata.get("tags", [])] for c in notebook.cells]
    )


def run_key(notebook, root: Path, settings: dict) -> str:
    """Hash of what decides the outputs: code cells, our modules, settings, versions. Not text."""
    code = [neutral(cell.source) for cell in notebook.cells if cell.cell_type == "code"]
    ours = list(root.glob("*.py"))
    if any("explorer" in source for source in code):
        ours += [*root.glob("explorer/*.[phj]*"), *root.glob("explorer/src/*")]
    if any("benchmarks" in source for source in code):
        ours += [*root.glob("benchmarks/likelihood.json"), *root.glob("benchmarks/choices.json")]
    modules = [path.read_bytes().hex() for path in sorted(ours) if path.suffix != ".png"]
    versions = [version(name) for name in PACKAGES]
    return digest(code, modules, settings, versions, platform.python_version())


def version(package: str) -> str:
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "-"


def precision(config) -> str:
    """What the networks of a Config compute in on this machine: bfloat16 or float32."""
    with vae_utils.autocast(config):
        return "bfloat16" if torch.is_autocast_enabled(vae_utils.DEVICE.type) else "float32"


def environment() -> dict:
    """What ran the notebooks, for the foot of the pages: no host name, no paths."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        processor = names[0] if names else processor
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": " ".join(re.sub(r"\((R|TM)\)", " ", processor).split()),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "precision": precision(vae_utils.Config()),  # the same processor is sold with both
    }


class Client(NotebookClient):
    """nbclient, telling a progress bar what a cell prints."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream" and (said := strip_ansi(msg["content"]["text"]).strip()):
            self.bar.set_postfix_str(said.splitlines()[-1].strip()[:60])
        return super().process_message(msg, cell, cell_index)


@contextmanager
def kernel_manager():
    """A kernel spoken to through Unix sockets: no network at all, not even the loopback.

    It is the interpreter that runs this tool, whatever kernels are installed.
    """
    short = "/tmp" if os.access("/tmp", os.W_OK) else None  # sockets want paths below 100 bytes
    with tempfile.TemporaryDirectory(dir=short, ignore_cleanup_errors=True) as folder:
        yield AsyncKernelManager(
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            transport="tcp" if sys.platform == "win32" else "ipc",
            connection_file=f"{folder}/kernel.json",  # the sockets lie beside it
        )


def run(chosen: list[Path], force: bool, outputs: Path, root: Path, settings: dict) -> dict:
    """Execute what has changed since it was last executed; return {path: executed notebook}.

    Text may change without a run: the outputs of an earlier one go to the cells as they are now.
    """
    done, waiting = {}, {}
    for path in chosen:
        notebook, kept = read(path), outputs / "executed" / path.name
        key = run_key(notebook, root, settings)
        earlier = None
        if not force:
            with suppress(OSError, ReportError):  # not there, or damaged: it is run
                earlier = read(kept)
        if earlier and earlier.metadata.get("report", {}).get("key") == key:
            notebook.metadata["report"] = earlier.metadata["report"]
            ran = [cell for cell in earlier.cells if cell.cell_type == "code"]
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs = ran.pop(0).outputs
            done[path] = notebook
        else:
            waiting[path] = notebook, kept, key
    cells = sum(len(notebook.cells) for notebook, *_ in waiting.values())
    with tqdm(total=cells, disable=None, bar_format=LAYOUT, dynamic_ncols=True) as bar:
        for path, (notebook, kept, key) in waiting.items():
            bar.set_description_str(path.stem)
            results, began = outputs / "results" / path.with_suffix(".json").name, time.monotonic()
            results.unlink(missing_ok=True)  # where the notebook leaves its numbers
            execute(path, notebook, kept, bar)
            seconds = round(time.monotonic() - began, 1)
            about = {"key": key, "seconds": seconds, "environment": environment()}
            notebook.metadata["report"] = about | {"results": read_json(results)}
            write(kept, nbformat.writes(notebook))
            done[path] = notebook
            bar.write(f"{path.stem}: {len(notebook.cells)} cells, {seconds:.0f} s", sys.stderr)
    return {path: done[path] for path in chosen}


def execute(path: Path, notebook, kept: Path, bar):
    """Run the cells of one notebook, where it has any that run.

    On a failing cell the partly executed notebook is saved as NAME.failed.ipynb, and ReportError
    names notebook, cell and cause.
    """
    index, place = 0, {"metadata": {"path": path.parent}}
    try:
        if not any(cell.cell_type == "code" for cell in notebook.cells):
            return
        with kernel_manager() as manager:
            client = Client(notebook, km=manager, timeout=None, resources=place)
            client.bar, client.extra_arguments = bar, ["--log-level=ERROR"]
            with client.setup_kernel(cleanup_kc=True):
                for index, cell in enumerate(notebook.cells):
                    client.execute_cell(cell, index)
                    bar.update()
    except (CellExecutionError, DeadKernelError) as error:
        failed, cause, trace = kept.with_suffix(".failed.ipynb"), "the kernel died (memory?)", ""
        write(failed, nbformat.writes(notebook))
        if isinstance(error, CellExecutionError):
            cause = f"{error.ename}: {error.evalue}".splitlines()[0]
            trace = error.traceback if sys.stderr.isatty() else strip_ansi(error.traceback)
        cell = f"{index + 1} of {len(notebook.cells)}, id {notebook.cells[index].get('id', '-')}"
        where = f"notebook  {path.name} (as far as it got: {failed})"
        message = f"{where}\ncell      {cell}\ncause     {cause}\n\n{trace}"
        raise ReportError(message) from None


def broken(path: Path, notebook) -> list[str]:
    """The claims of a notebook that did not hold; what checks an exercise says is no claim."""
    found = []
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code" and "check" not in cell.metadata.get("tags", []):
            printed = "".join(o.text for o in cell.outputs if o.output_type == "stream")
            claims = [line for line in printed.splitlines() if line.startswith("✗")]
            found += [f"{path.name}, cell {number} ({cell.get('id', '-')}): {c}" for c in claims]
    return found
