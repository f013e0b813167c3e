"""``python -m report``: run the notebooks and write the report."""

import sys

if sys.version_info < (3, 11):  # before any import that needs it
    found = ".".join(str(part) for part in sys.version_info[:3])
    sys.exit("The report needs Python 3.11 or newer; this is Python " + found + ".")

import argparse
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import vae_utils
except (ImportError, ValueError) as error:
    sys.exit(f"report: {error}")
from report import execute, export
from report.execute import ReportError


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, without the usage."""
        self.exit(2, f"report: {message}\n")


def parse(argv, notebooks: list[Path]):
    parser = Parser(prog="python -m report", description="Run the notebooks, write the report.")
    parser.add_argument("names", nargs="*", help="names or numbers (default: 01 to 05)")
    parser.add_argument("--all", action="store_true", help="every notebook")
    parser.add_argument("--force", action="store_true", help="run also what has not changed")
    parser.add_argument("--check", action="store_true", help="run nothing, list stale pages")
    args = parser.parse_args(argv)
    if not args.names:
        core = [p for p in notebooks if args.all or "01" <= p.stem[:2] <= "05"]
        return args, core
    chosen = []
    for name in args.names:
        stem = Path(name).stem
        hits = [p for p in notebooks if p.stem == stem] or [
            p for p in notebooks if p.stem.startswith(f"{stem}_")
        ]
        if len(hits) != 1:
            allowed = ", ".join(p.stem for p in notebooks)
            parser.error(f"no notebook is called {name!r}; there are {allowed}")
        chosen += hits
    return args, [p for p in notebooks if p in chosen]


def target_folder(root: Path) -> Path:
    """docs/ for a full run on MNIST; anything else goes to build/, which git ignores."""
    if vae_utils.DATASET != "mnist":
        return root / "build" / vae_utils.DATASET
    return root / "build" if vae_utils.FAST else root / "docs"


def run_notebooks(chosen: list[Path], force: bool, outputs: Path, root: Path, site: dict) -> dict:
    """Execute what has changed since it was last executed; return the executed notebooks.

    The pages of a notebook are written in a thread while the next one runs.
    """
    settings = {"fast": vae_utils.FAST, "dataset": vae_utils.DATASET}
    sources = [*sorted(root.glob("*.py")), *sorted((root / "report").glob("explorer.*"))]
    keys = {p.stem: execute.run_key(p, sources, settings) for p in chosen}
    kept = {p.stem: outputs / "executed" / p.name for p in chosen}
    earlier = {name: execute.load_kept(path) for name, path in kept.items()}
    times = export.read_results(target_folder(root)).get("environment", {}).get("seconds", {})
    times |= {n: nb.metadata["report"]["seconds"] for n, nb in earlier.items() if nb}
    cells = {p.stem: execute.count_cells(p) for p in chosen}

    progress = execute.Progress([p.stem for p in chosen], cells, times)
    done, pages, writer = {}, [], ThreadPoolExecutor(1)
    try:
        for path in chosen:
            name, notebook = path.stem, earlier[path.stem]
            if notebook and notebook.metadata["report"]["key"] == keys[name] and not force:
                progress.finish(name, "unchanged")
            else:
                progress.notebook(name)
                results = outputs / "results" / f"{name}.json"
                execute.execute(path, kept[name], keys[name], results, progress)
                notebook = execute.load_kept(kept[name])
                seconds = notebook.metadata["report"]["seconds"]
                progress.finish(name, f"{cells[name]} cells, {execute.clock(seconds)}")
            done[name] = notebook
            pages.append(writer.submit(export.export_page, site, name, notebook, root))
        for page in pages:
            page.result()
    finally:
        writer.shutdown(cancel_futures=True)
        progress.close()
    return done


def swap(new: Path, target: Path):
    """Put the new report in the place of the old one."""
    old = target.with_name(f".{target.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def main(argv=None, root: Path = vae_utils.ROOT) -> int:
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    target = target_folder(root)
    args, chosen = parse(argv, notebooks)
    if args.check:
        stale = export.stale_pages(target, chosen)
        print("\n".join(stale) or f"{len(chosen)} notebooks, every page is fresh")
        return 1 if stale else 0
    new, old = (target.with_name(f".{target.name}-{part}") for part in ("new", "old"))
    if old.exists() and not target.exists():  # killed between the two renames of a swap
        old.rename(target)
    try:
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(target, new) if target.exists() else new.mkdir(parents=True)
        site = export.plan(new, notebooks, {path.stem for path in chosen}, vae_utils.DATASET)
        executed = run_notebooks(chosen, args.force, vae_utils.outputs_dir(), root, site)
        export.finish(site, executed)
        swap(new, target)
    except ReportError as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"report: stopped; {target.name}/ is as it was", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(new, ignore_errors=True)
    if target == root / "docs":
        export.update_readme(root / "README.md", export.read_results(target))
    print(f"{os.path.relpath(target / 'index.html')} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
