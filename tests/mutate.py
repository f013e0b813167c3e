"""Would the tests notice? ``make mutate`` puts faults into the modules, one at a time.

mutmut makes the faults (- for +, <= for <, 2 for 1, None for a value) in a copy under build/mutate,
and runs the tests that reach each. Words of messages do not count. The verdicts are kept there: a
stopped run goes on. All of it takes hours; ``python tests/mutate.py "vae_utils.*elbo*"`` takes some
functions only, ``--sample 200`` so many faults. Needs Linux or macOS, and a machine that is idle.
"""

import argparse
import ast
import collections
import json
import os
import random
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build" / "mutate"
TESTS = ["test_data", "test_vae_utils", "test_training", "test_diagnose", "test_likelihood"]
FUNCTIONS = ["vae_utils.*", "vae_runs.*", "vae_data.*", "vae_diagnose.*", "vae_likelihood.*"]
# Not vae_folder and vae_samples: what tests them needs report/ and notebooks/ beside it.
# Of the figures, what computes; how the others look is for eyes.
FUNCTIONS += [f"vae_figures.x_{name}__*" for name in ("tile", "interpolate", "name_places")]
ELSEWHERE = ("in_parallel", "_attempt")  # work in processes of their own: test_experiments
ALONE = "not random_moments and not two_processes"  # processes of processes wait for ever
ALONE += " and not kept_rows"  # benchmarks/ is not copied
WORDS = [r"\braise\b", "message", "refused", "advice", r"print\(", r"warn\(", r"^\s*f?\"", "help="]


def undecorated(text):
    """mutmut passes over decorated functions: without gradients, but in another way."""
    lines = text.splitlines()
    for node in sorted(ast.walk(ast.parse(text)), key=lambda node: -getattr(node, "lineno", 0)):
        if isinstance(node, ast.FunctionDef) and len(node.decorator_list) == 1:
            decorator = node.decorator_list[0]
            if ast.unparse(decorator) == "torch.no_grad()":
                indent = " " * node.col_offset
                lines.insert(node.end_lineno, f"{indent}{node.name} = torch.no_grad()({node.name})")
                del lines[decorator.lineno - 1]
    return "\n".join(lines) + "\n"


def make_copy():
    """The modules and their tests, beside what mutmut keeps from an earlier run."""
    (COPY / "tests").mkdir(parents=True, exist_ok=True)
    modules = sorted(path.name for path in ROOT.glob("vae_*.py"))
    for name in modules:
        (COPY / name).write_text(undecorated((ROOT / name).read_text()))
    for path in [*(ROOT / "tests").glob("*.py"), ROOT / "tests" / "faulty_runs.json"]:
        shutil.copy2(path, COPY / "tests")
    tests = [f"tests/{name}.py" for name in TESTS if (COPY / "tests" / f"{name}.py").exists()]
    settings = {
        "source_paths": modules,
        "do_not_mutate_patterns": WORDS,
        "pytest_add_cli_args_test_selection": tests,
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-W", "ignore", "-k", ALONE],
        "process_isolation": "forkserver",  # a process that has trained cannot be forked
        "use_git_change_detection": False,
        "timeout_constant": 60.0,  # seconds of computing: a busy machine makes no fault look caught
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    lines = ["[tool.pytest.ini_options]", 'addopts = ""', "[tool.mutmut]", *lines]
    (COPY / "pyproject.toml").write_text("\n".join(lines) + "\n")


def mutmut(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["VAE_DATA_DIR"] = os.environ.get("VAE_DATA_DIR") or str(ROOT / "data")
    command = [Path(sys.executable).with_name("mutmut"), *arguments]
    return subprocess.run(
        command, cwd=COPY, env=environment, stdin=subprocess.DEVNULL, text=True, **options
    )


def is_cosmetic(diff):
    """Does a fault change words only: a text with a blank in it?"""
    old, new = (re.findall(rf"^\{sign} (.*)", diff, re.M) for sign in "-+")
    without = [re.sub(r'"[^"]* [^"]*"', '""', "\n".join(lines)) for lines in (old, new)]
    return without[0] == without[1]


def verdicts():
    """What mutmut has found about each fault: killed, survived, not checked …"""
    lines = mutmut("results", "--all", "True", stdout=subprocess.PIPE).stdout.splitlines()
    return dict(line.strip().split(": ") for line in lines if ": " in line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("functions", nargs="*", default=FUNCTIONS, help="such as vae_utils.*elbo*")
    parser.add_argument("--sample", type=int, help="so many faults, drawn at random")
    parser.add_argument("--list", action="store_true", help="only say what has been found so far")
    given = parser.parse_args()
    chosen = given.functions
    if not given.list:
        make_copy()
    if given.sample:
        mutmut("run", "vae_utils.x_elbo__mutmut_1")  # makes all faults, judges one
        names = [name for name in verdicts() if any(fnmatch(name, one) for one in chosen)]
        chosen = random.Random(0).sample(sorted(names), min(given.sample, len(names)))
    if not given.list:
        mutmut("run", *chosen)
    found, counts = verdicts(), collections.Counter()
    for name, verdict in found.items():
        if any(part in name for part in ELSEWHERE):
            continue
        if verdict in ("survived", "no tests", "suspicious"):
            diff = mutmut("show", name, stdout=subprocess.PIPE).stdout
            if is_cosmetic(diff):
                continue
            changes = [line for line in diff.splitlines()[3:] if line.startswith(("-", "+"))]
            print(f"{name}: {verdict}", *changes, sep="\n    ")
        counts[verdict] += 1
    caught = counts["killed"] + counts["timeout"] + counts["segfault"]
    judged = sum(counts.values()) - counts["not checked"]
    print(f"{caught} of {judged} faults were caught ({caught / max(judged, 1):.1%})")


if __name__ == "__main__":
    main()
