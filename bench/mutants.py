# SPDX-License-Identifier: GPL-2.0-only
"""How many small faults in the modules that decide fail a test: ``nox -s mutants``.

The changes are those of cosmic-ray (https://cosmic-ray.readthedocs.io), and one more: a statement
is left out. Each is made alone in a copy of the tree, and the tests of the module run until one
fails. A mutant that no test notices survives. docs/mutants.md has the figures, and says how to
read them; bench/equivalents.toml lists the mutants that change nothing, each with the reason.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib
import inspect
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]
#: What is mutated, and the tests that are to notice, the fastest first.
TARGETS = {
    "harness/verdict/judge.py": [
        "tests/verdict/test_judge.py",
        "tests/verdict/test_reasons.py",
    ],
    "harness/records/reuse.py": [
        "tests/records/test_reuse.py",
        "tests/records/test_reuse_edges.py",
        "tests/manifest/test_fingerprint.py",
        "tests/run/test_session.py",
    ],
    "harness/run/session.py": [
        "tests/run/test_session.py",
        "tests/run/test_session_edges.py",
        "tests/run/test_idle_issues.py",
        "tests/run/test_repeat.py",
        "tests/run/test_matrix.py",
    ],
    "harness/vm/stream.py": [
        "tests/vm/test_stream.py",
        "tests/vm/test_stream_edges.py",
        "tests/vm/test_stream_groups.py",
        "tests/vm/test_stream_programs.py",
        "tests/vm/test_stream_rounds.py",
        "tests/vm/test_stream_hostile.py",
    ],
    "harness/manifest/known_issues.py": [
        "tests/manifest/test_known_issues.py",
        "tests/manifest/test_known_issues_edges.py",
        "tests/run/test_idle_issues.py",
    ],
}
#: Too slow for each mutant: they kill processes for 20 seconds, or measure time and memory.
DESELECTED = (
    "tests/run/test_session.py::test_kills_at_any_moment_lose_no_result_and_each_run_goes_on",
    "tests/vm/test_stream_rounds.py::test_many_rounds_take_no_more_memory_than_one_stream_may",
    "tests/vm/test_stream_hostile.py"
    "::test_a_million_events_or_100_mb_are_lost_soon_and_in_little_memory",
)
#: Operators that make mutants of no use.
LEFT_OUT = re.compile(
    # Most change annotations, ``int | None``, which nothing evaluates.
    r"core/ReplaceBinaryOperator_BitOr_.*|"
    # Nearly all join paths, which have no other operator: one of the eleven is enough.
    r"core/ReplaceBinaryOperator_Div_(?!Mul).*|"
    # Members of an enum and None are equal only to themselves.
    r"core/ReplaceComparisonOperator_(Is_Eq|IsNot_NotEq)"
)
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
#: Seconds of a processor for the tests of one mutant: a loop that never ends is noticed, too. On a
#: busy host they may take long all the same; then what waits for ever is noticed.
CPU_S, TIMEOUT_S = 60, 900.0
#: What the tests import that is not the project's: imported once, before the fork.
PRELOADED = ("pytest", "hypothesis.strategies", "yaml", "pydantic", "sqlite3", "rich.console")


#: Makes one change of a source; None where cosmic-ray cannot.
Change = Callable[[], str | None]


@dataclass(frozen=True)
class Mutant:
    """``source``, in which the lines ``old`` of ``function`` are ``new``."""

    source: str
    function: str
    line: int
    old: str
    new: str
    is_within_a_function: bool

    def __str__(self) -> str:
        return f"{self.line} {self.function}\n    - {self.old}\n    + {self.new}"


def main(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    wanted = given.modules or list(TARGETS)
    for module in wanted:
        source = (ROOT / module).read_text()
        made = changes(source)
        chosen = mutants(source, _sample(made, given.sample, given.seed))
        equal = equivalents(module)
        counting = [m for m in chosen if (m.function, m.old, m.new) not in equal]
        killed = 0
        for mutant, noticed in tried(module, counting):
            killed += noticed
            if not noticed:
                print(f"{module}:{mutant}", flush=True)
        share = 100 * killed / len(counting) if counting else 100
        print(
            f"{module}: {len(chosen)} mutants of {len(made)} changes, "
            f"{len(chosen) - len(counting)} of them equivalent; "
            f"{killed} of the other {len(counting)} killed, {share:.1f} %",
            flush=True,
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nox -s mutants --", description=__doc__)
    help_ = "such as harness/verdict/judge.py (default: all five)"
    parser.add_argument("modules", nargs="*", choices=[*TARGETS, []], metavar="MODULE", help=help_)
    help_ = "try N mutants of each module, chosen at random"
    parser.add_argument("--sample", type=int, metavar="N", help=help_)
    help_ = "the same seed chooses the same mutants (default: 1)"
    parser.add_argument("--seed", type=int, default=1, metavar="S", help=help_)
    return parser


def equivalents(module: str) -> set[tuple[str, str, str]]:
    """Function, old and new lines of the mutants of ``module`` that change nothing."""
    listed = tomllib.loads(EQUIVALENTS.read_text()).get("equivalent", [])
    return {
        (entry["function"], entry["old"], new)
        for entry in listed
        if entry["module"] == module
        for new in entry["new"]
    }


def changes(source: str) -> list[Change]:
    """What may be changed in ``source``, one thing at a time."""
    return [*_by_operators(source), *_by_removal(source)]


def _sample(made: Sequence[Change], number: int | None, seed: int) -> Sequence[Change]:
    """All, or as many as that, chosen at random. A larger sample holds the smaller."""
    if number is None:
        return made
    return random.Random(seed).sample(made, len(made))[:number]  # noqa: S311


def mutants(source: str, chosen: Iterable[Change]) -> list[Mutant]:
    """Each mutant of ``source`` once, though several changes make it, in the order of its lines."""
    sources = dict.fromkeys(change() for change in chosen)
    found = [_located(source, changed) for changed in sources if changed not in (None, source)]
    return sorted(found, key=lambda mutant: (mutant.line, mutant.new))


def _by_operators(source: str) -> Iterator[Change]:
    """cosmic-ray's."""
    plugins = importlib.import_module("cosmic_ray.plugins")
    trees = importlib.import_module("cosmic_ray.ast")
    mutate = importlib.import_module("cosmic_ray.mutating").mutate_code

    def changed(operator: Any, place: int) -> str | None:
        try:
            return str(mutate(source, operator, place))
        except AttributeError:  # of cosmic-ray 8.7, at ``except module.Name``
            return None

    nodes = list(trees.ast_nodes(trees.get_ast(source)))
    for name in plugins.operator_names():
        kind = plugins.get_operator(name)
        if LEFT_OUT.fullmatch(name) or kind.arguments():
            continue
        operator = kind()
        for place in range(sum(len(list(operator.mutation_positions(node))) for node in nodes)):
            yield functools.partial(changed, operator, place)


def _by_removal(source: str) -> Iterator[Change]:
    """A call, an assignment to an attribute or an item, or a raise is left out."""
    lines = source.splitlines(keepends=True)

    def changed(node: ast.stmt) -> str:
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        return "".join([*lines[:first], f"{' ' * node.col_offset}pass\n", *lines[last:]])

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and _acts(node):
            yield functools.partial(changed, node)


def _acts(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Constant()):  # a docstring
            return False
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
    return isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Delete)


def _located(source: str, changed: str) -> Mutant:
    """Where the two differ, by whole lines."""
    old, new = source.splitlines(), changed.splitlines()
    first = next(
        index
        for index in range(len(old))
        if old[index] != (new[index] if index < len(new) else None)
    )
    last = 0
    while last < min(len(old), len(new)) - first - 1 and old[-1 - last] == new[-1 - last]:
        last += 1
    function, body = _enclosing(source, first + 1)
    return Mutant(
        source=changed,
        function=function,
        line=first + 1,
        old=_joined(old[first : len(old) - last]),
        new=_joined(new[first : len(new) - last]),
        is_within_a_function=body,
    )


def _joined(lines: Sequence[str]) -> str:
    return " ".join(line.strip() for line in lines)


def _enclosing(source: str, line: int) -> tuple[str, bool]:
    """The names of classes and functions around ``line``, and whether it is in a function's body.

    A decorator and a default are evaluated on import.
    """
    names: list[str] = []
    within = False
    around: list[ast.stmt] = ast.parse(source).body
    while found := next((inner for inner in around if _holds(inner, line)), None):
        assert isinstance(found, ast.ClassDef | ast.FunctionDef)
        names.append(found.name)
        within = within or (isinstance(found, ast.FunctionDef) and line >= found.body[0].lineno)
        around = found.body
    return ".".join(names), within


def _holds(node: ast.stmt, line: int) -> bool:
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        return False
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return first <= line <= (node.end_lineno or 0)


def tried(module: str, chosen: Sequence[Mutant]) -> Iterator[tuple[Mutant, bool]]:
    """Each of ``chosen``, and whether one of the module's tests fails with it.

    The tests are collected once. For each mutant a process is forked, which changes the code of
    the function and runs them: a tenth of a second instead of two. What is not inside a function
    takes effect on import, so its process collects the tests itself.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-", dir=_memory()) as place:
        tree = Path(place, "tree")
        ignored = shutil.ignore_patterns(".git", ".nox", "__pycache__", "site", ".hypothesis")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
        os.environ |= {
            "HYPOTHESIS_PROFILE": "ci",  # the same examples for each
            "PYTHONPATH": str(tree),
        }
        for name in PRELOADED:
            importlib.import_module(name)
        if not _passes(lambda: _pytest(module, tree)):
            raise SystemExit(f"the tests of {module} fail without a mutant: {TARGETS[module]}")
        within = [mutant for mutant in chosen if mutant.is_within_a_function]
        yield from zip(within, _collected(module, tree, within), strict=True)
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True
        mutated = tree / module
        for stale in mutated.parent.glob(f"__pycache__/{mutated.stem}.*"):
            stale.unlink()  # a mutant may be as long, and written in the same second
        for mutant in chosen:
            if not mutant.is_within_a_function:
                mutated.write_text(mutant.source)
                yield mutant, not _passes(lambda: _pytest(module, tree))


def _memory() -> str | None:
    """A directory in memory, where each test's fsync costs nothing, or None."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def _collected(module: str, tree: Path, chosen: Sequence[Mutant]) -> Iterator[bool]:
    """For each of ``chosen`` whether a test fails; the tests are collected in one process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _exit_with(lambda: _pytest(module, tree, _Forking(module, tree, chosen, writing)))
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        for _ in chosen:
            yield answers.read(1) == b"n"
    os.waitpid(child, 0)


@dataclass(frozen=True)
class _Forking:
    """A plugin of pytest: the tests run once for each of ``mutants``, in a process each."""

    module: str
    tree: Path
    mutants: Sequence[Mutant]
    answers: int

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for mutant in self.mutants:
            passes = _passes(functools.partial(self._run, session, mutant))
            os.write(self.answers, b"p" if passes else b"n")
        return True

    def _run(self, session: pytest.Session, mutant: Mutant) -> int:
        from _pytest import main

        _change(self.module, mutant)
        with contextlib.suppress(session.Failed):
            main.pytest_runtestloop(session)
        return session.testsfailed


def _change(module: str, mutant: Mutant) -> None:
    """Give the function of ``mutant`` its code. Those who imported the function have it, too."""
    place: Any = importlib.import_module(module.removesuffix(".py").replace("/", "."))
    names = []
    for name in mutant.function.split("."):
        names.append(name)
        place = vars(place)[name]
        if not isinstance(place, type):
            break
    if isinstance(place, property):
        place = place.fget
    function = inspect.unwrap(getattr(place, "__func__", place))
    wanted = ".".join(names)
    code = next(
        code
        for code in _codes(compile(mutant.source, function.__code__.co_filename, "exec"))
        if code.co_qualname == wanted
    )
    function.__code__ = code


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _passes(run: Callable[[], int]) -> bool:
    """Whether ``run`` returns 0 in a process that is forked for it, within the time."""
    with tempfile.TemporaryDirectory(prefix="mutant-", dir=_memory()) as place:
        child = os.fork()
        if child == 0:
            os.environ["TMPDIR"] = tempfile.tempdir = place
            _exit_with(run)
        descriptor = os.pidfd_open(child)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ended = poll.poll(TIMEOUT_S * 1000)
        if not ended:
            os.killpg(child, signal.SIGKILL)
        os.close(descriptor)
        _, status = os.waitpid(child, 0)
    return bool(ended) and os.waitstatus_to_exitcode(status) == 0


def _exit_with(run: Callable[[], int]) -> NoReturn:
    """End this process, which was forked, with what ``run`` returns; 1 where that raises."""
    status = 1
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        status = min(run(), 1)
    finally:
        os._exit(status)


def _pytest(module: str, tree: Path, *plugins: object) -> int:
    import pytest

    os.chdir(tree)
    sys.path[0] = str(tree)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not boots and not apt"]
    options += [f"--deselect={test}" for test in DESELECTED]
    return int(pytest.main([*options, *TARGETS[module]], plugins))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
