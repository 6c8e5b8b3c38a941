# SPDX-License-Identifier: GPL-2.0-only
"""How many small faults in the modules that decide would fail a test: ``nox -s mutants``.

cosmic-ray (https://cosmic-ray.readthedocs.io) makes one change at a time, in a copy of the tree,
and runs the tests of the module. A mutant that no test notices survives. Some of those are
equivalent to the code; a person tells which.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: What is mutated, and the tests that are to notice.
TARGETS = {
    "harness/verdict/judge.py": [
        "tests/verdict/test_judge.py",
        "tests/verdict/test_decision_table.py",
    ],
    "harness/records/reuse.py": [
        "tests/records/test_reuse.py",
        "tests/run/test_session.py",
        "tests/manifest/test_fingerprint.py",
    ],
    "harness/run/session.py": ["tests/run"],
    "harness/vm/stream.py": [
        "tests/vm/test_stream.py",
        "tests/vm/test_stream_hostile.py",
        "tests/vm/test_stream_rounds.py",
    ],
    "harness/manifest/known_issues.py": [
        "tests/manifest/test_known_issues.py",
        "tests/run/test_idle_issues.py",
    ],
}
#: Operators that change annotations most of the time, ``int | None``, which nothing evaluates.
LEFT_OUT = ["core/ReplaceBinaryOperator_BitOr_.*"]
#: Seconds for the tests of one mutant: a loop that never ends is noticed, too.
TIMEOUT = 300.0


@dataclass(frozen=True)
class Mutant:
    """One change: ``noticed`` by a test, or not; ``diff`` shows it."""

    noticed: bool
    diff: str


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="nox -s mutants --", description=__doc__)
    parser.add_argument(
        "modules", nargs="*", help="such as harness/verdict/judge.py (default: all)"
    )
    given = parser.parse_args(arguments)
    wanted = given.modules or list(TARGETS)
    if unknown := set(wanted) - TARGETS.keys():
        parser.error(f"no tests are known for {', '.join(sorted(unknown))}: see TARGETS")
    for module in wanted:
        mutants = list(of(module))
        killed = sum(mutant.noticed for mutant in mutants)
        for mutant in mutants:
            if not mutant.noticed:
                print(mutant.diff)
        share = 100 * killed / len(mutants) if mutants else 100
        print(f"{module}: {killed} of {len(mutants)} mutants killed, {share:.0f} %", flush=True)
    return 0


def of(module: str) -> Iterator[Mutant]:
    """Every mutant of ``module``, each tried with the module's tests."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        tree = Path(place, "tree")
        ignored = shutil.ignore_patterns(".git", ".nox", "__pycache__", "site")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
        config, session = f"{place}/config.toml", f"{place}/session.sqlite"
        Path(config).write_text(_config(module))
        for program, *step in (
            ("cosmic-ray", "init", config, session),
            ("cr-filter-operators", session, config),
            ("cosmic-ray", "baseline", config),
            ("cosmic-ray", "exec", config, session),
        ):
            subprocess.run([_program(program), *step], cwd=tree, check=True)
        dump = [_program("cosmic-ray"), "dump", session]
        lines = subprocess.run(dump, cwd=tree, check=True, capture_output=True, text=True).stdout
    for line in lines.splitlines():
        _, result = json.loads(line)
        if result is not None and result["test_outcome"] is not None:  # None: left out
            yield Mutant(result["test_outcome"] != "survived", result["diff"] or "")


def _config(module: str) -> str:
    tests = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not boots and not apt", *TARGETS[module]]
    command = shlex.join([sys.executable, "-m", "pytest", *tests])
    settings = {
        "module-path": module,
        "timeout": TIMEOUT,
        "excluded-modules": [],
        "test-command": command,
    }
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in settings.items()]
    return (
        f'[cosmic-ray]\n{"".join(lines)}[cosmic-ray.distributor]\nname = "local"\n'
        f"[cosmic-ray.filters.operators-filter]\nexclude-operators = {json.dumps(LEFT_OUT)}\n"
    )


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
