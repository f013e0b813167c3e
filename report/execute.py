"""Run notebooks with nbclient, keep what came out, and say meanwhile how far it is."""

import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PACKAGES = ("torch", "torchvision", "numpy", "matplotlib", "scikit-learn")


class ReportError(Exception):
    """Something the reader of the message can put right; printed without a traceback."""


def source_hash(notebook: Path) -> str:
    """sha256 of the cells of a notebook: kinds, sources and tags; not outputs, not metadata."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    content = [
        [cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags", [])]
        for cell in cells
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def run_key(notebook: Path, sources: list[Path], settings: dict) -> str:
    """Hash of all that decides what a run of the notebook gives: its cells, our code, settings."""
    digest = hashlib.sha256(source_hash(notebook).encode())
    for path in sources:
        digest.update(path.read_bytes())
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    digest.update(json.dumps([settings, versions], sort_keys=True).encode())
    return digest.hexdigest()


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "-"


def environment() -> dict:
    """What ran the notebooks, for the index page: no host name, no paths."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        processor = names[0] if names else processor
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": re.sub(r"\s+|\((R|TM)\)", " ", processor).replace("  ", " ").strip(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }


class Progress:
    """One line on stderr: notebook, cell, last printed line, elapsed, left. Redrawn by a thread."""

    def __init__(self, names: list[str], cells: dict[str, int], expected: dict[str, float]):
        self.names, self.cells, self.expected = names, cells, expected
        self.began = self.notebook_began = time.monotonic()
        self.name, self.cell, self.last = "", 0, ""
        self.done: list[str] = []
        self.tty = sys.stderr.isatty()
        self.stop = threading.Event()
        self.lock = threading.Lock()
        if self.tty:
            threading.Thread(target=self._redraw, daemon=True).start()

    def notebook(self, name: str):
        with self.lock:
            self.name, self.cell, self.last = name, 0, ""
            self.notebook_began = time.monotonic()
        if not self.tty:
            print(f"[{self._place()}] {name} …", file=sys.stderr, flush=True)

    def finish(self, name: str, note: str):
        with self.lock:
            self.done.append(name)
            self.name = ""
        self._print(f"[{len(self.done)}/{len(self.names)}] {name}: {note}")

    def heard(self, text: str):
        """Remember the last line that the notebook printed."""
        lines = [ANSI.sub("", line).strip() for line in re.split(r"[\r\n]", text)]
        self.last = next((line for line in reversed(lines) if line), self.last)

    def close(self):
        self.stop.set()
        self._print("")

    def left(self) -> float | None:
        """Seconds left: from the times of earlier runs, else from the share of cells done."""
        now = time.monotonic()
        waiting = [n for n in self.names if n not in self.done and n != self.name]
        if all(n in self.expected for n in [self.name, *waiting]):
            here = max(1.0, self.expected[self.name] - (now - self.notebook_began))
            return here + sum(self.expected[n] for n in waiting)
        seen = sum(self.cells[n] for n in self.done) + self.cell
        total = sum(self.cells.values())
        return (now - self.began) * (total - seen) / seen if seen else None

    def line(self) -> str:
        left = self.left()
        within = self.cell / max(1, self.cells.get(self.name, 1))
        share = (len(self.done) + within) / len(self.names)
        bar = ("█" * round(8 * share)).ljust(8, "░")
        parts = [
            f"{bar} {self._place()} {self.name}",
            f"cell {self.cell + 1}/{self.cells.get(self.name, 0)}",
            clock(time.monotonic() - self.began),
            f"{clock(left)} left" if left is not None else "",
            self.last,
        ]
        return " · ".join(part for part in parts if part)

    def _place(self) -> str:
        return f"{len(self.done) + 1}/{len(self.names)}"

    def _print(self, text: str):
        """A line of its own; on a terminal it takes the place of the progress line."""
        if self.tty:
            sys.stderr.write("\r\x1b[K")
        if text:
            print(text, file=sys.stderr, flush=True)

    def _redraw(self):
        while not self.stop.wait(0.25):
            with self.lock:
                if self.name:
                    width = shutil.get_terminal_size().columns - 1
                    sys.stderr.write(f"\r{self.line()[:width]}\x1b[K")
                    sys.stderr.flush()


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class ThisPython(KernelSpecManager):
    """The kernel is the interpreter that runs this tool, whatever kernels are installed."""

    def get_kernel_spec(self, kernel_name):
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


class Client(NotebookClient):
    """nbclient, telling the progress line what a cell prints."""

    def __init__(self, notebook, progress, **kw):
        super().__init__(notebook, **kw)
        self.progress = progress

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            self.progress.heard(msg["content"]["text"])
        return super().process_message(msg, cell, cell_index)


def execute(path: Path, kept: Path, key: str, results: Path, progress: Progress):
    """Run one notebook and keep it in ``kept``, with its results, seconds and environment.

    ``results`` is the file where the notebook leaves its numbers. On a failing cell the partly
    executed notebook is saved as NAME.failed.ipynb and ReportError names notebook, cell and cause.
    """
    notebook, source = nbformat.read(path, as_version=4), source_hash(path)
    manager = AsyncKernelManager(kernel_spec_manager=ThisPython())
    sockets = tempfile.TemporaryDirectory()
    if sys.platform != "win32":  # Unix sockets: no network at all, not even the loopback
        manager.transport, manager.ip = "ipc", os.path.join(sockets.name, "kernel")
    client = Client(
        notebook,
        progress,
        km=manager,
        timeout=None,
        resources={"metadata": {"path": path.parent}},
        extra_arguments=["--log-level=ERROR"],
    )
    client.reset_execution_trackers()
    results.unlink(missing_ok=True)
    began = time.monotonic()
    try:
        with sockets, client.setup_kernel(cleanup_kc=True):
            for index, cell in enumerate(notebook.cells):
                progress.cell = index
                client.execute_cell(cell, index)
    except (CellExecutionError, DeadKernelError) as error:
        failed = kept.with_suffix(".failed.ipynb")
        save(notebook, failed)
        raise ReportError(failure(path, notebook, progress.cell, error, failed)) from None
    notebook.metadata["report"] = {
        "key": key,
        "source": source,
        "seconds": round(time.monotonic() - began, 1),
        "environment": environment(),
        "results": json.loads(results.read_text()) if results.exists() else {},
    }
    save(notebook, kept)


def failure(path, notebook, index, error, failed: Path) -> str:
    """Three lines (notebook, cell, cause), then the traceback."""
    cell = notebook.cells[index]
    if isinstance(error, CellExecutionError):
        cause = f"{error.ename}: {error.evalue}".splitlines()[0]
        trace = error.traceback if sys.stderr.isatty() else ANSI.sub("", error.traceback)
    else:
        cause, trace = "the kernel died (out of memory?)", ""
    return (
        f"notebook  {path.name} (as far as it got: {os.path.relpath(failed)})\n"
        f"cell      {index + 1} of {len(notebook.cells)}, id {cell.get('id', '-')}\n"
        f"cause     {cause}\n\n{trace}"
    )


def save(notebook, path: Path):
    """Write beside and rename, so that a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    nbformat.write(notebook, beside)
    os.replace(beside, path)


def load_kept(kept: Path):
    """The notebook kept from an earlier run, or None where there is none (or a broken one)."""
    try:
        notebook = nbformat.read(kept, as_version=4)
        return notebook if {"key", "source"} <= set(notebook.metadata.get("report", {})) else None
    except Exception:
        return None


def count_cells(path: Path) -> int:
    return len(json.loads(path.read_text(encoding="utf-8"))["cells"])
