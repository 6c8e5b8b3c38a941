# SPDX-License-Identifier: GPL-2.0-only
"""The mutation tester: what it changes, that the change takes effect, and what it leaves out."""

from __future__ import annotations

import functools
import importlib
import itertools
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import mutants

SOURCE = '''\
"""Text."""
import functools

LIMIT = 3


class Gate:
    """Text."""

    opened = 0

    def open(self, by: int = 2) -> None:
        """Text."""
        self.opened += by
        if by > LIMIT:
            raise ValueError("too far")

    @property
    def wide(self) -> bool:
        return self.opened > LIMIT

    @classmethod
    def made(cls) -> int:
        def inner() -> int:
            return LIMIT
        return inner()


@functools.cache
def limit() -> int:
    return LIMIT
'''


def changed(old: str, new: str) -> mutants.Mutant:
    before, found, after = SOURCE.partition(old)
    assert found
    return mutants._located(SOURCE, f"{before}{new}{after}")


def test_statements_that_act_are_left_out_one_at_a_time() -> None:
    removed = mutants.mutants(SOURCE, mutants._by_removal(SOURCE))
    assert [(mutant.function, mutant.old, mutant.new) for mutant in removed] == [
        ("Gate.open", "self.opened += by", "pass"),
        ("Gate.open", 'raise ValueError("too far")', "pass"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "function", "within"),
    [
        ("LIMIT = 3", "LIMIT = 4", "", False),
        ("opened = 0", "opened = 1", "Gate", False),
        ("by: int = 2", "by: int = 3", "Gate.open", False),
        ("by > LIMIT", "by < LIMIT", "Gate.open", True),
        ("@property\n", "", "Gate.wide", False),
        ("            return LIMIT", "            return 0", "Gate.made.inner", True),
    ],
)
def test_a_mutant_says_where_it_is_and_whether_it_takes_effect_on_import(
    old: str, new: str, function: str, within: bool
) -> None:
    mutant = changed(old, new)
    assert (mutant.function, mutant.is_within_a_function) == (function, within)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "gate_to_be_changed.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("gate_to_be_changed")
    del sys.modules["gate_to_be_changed"]


@pytest.mark.parametrize(
    ("old", "new", "shows"),
    [
        ("opened += by", "opened -= by", lambda gate, one: one.open() or one.opened == -2),
        ("self.opened > LIMIT", "self.opened < LIMIT", lambda gate, one: one.wide),
        ("            return LIMIT", "            return 0", lambda gate, one: one.made() == 0),
        ("int:\n    return LIMIT", "int:\n    return 0", lambda gate, one: gate.limit() == 0),
    ],
)
def test_a_change_of_a_function_is_there_for_who_has_it_already(
    gate: Any, old: str, new: str, shows: Callable[[Any, Any], bool]
) -> None:
    one = gate.Gate()
    mutants._change("gate_to_be_changed.py", changed(old, new))
    assert shows(gate, one)


def test_a_process_that_fails_dies_or_never_ends_does_not_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dies() -> int:
        raise SystemExit(0)

    def waits() -> int:
        signal.pause()
        return 0

    assert mutants._passes(lambda: 0)
    assert not mutants._passes(lambda: 2)
    assert not mutants._passes(dies)
    monkeypatch.setattr(mutants, "CPU_S", 1)
    assert not mutants._passes(lambda: sum(1 for _ in itertools.count()))
    monkeypatch.setattr(mutants, "TIMEOUT_S", 0.05)
    assert not mutants._passes(waits)


def test_a_larger_sample_holds_the_smaller_and_a_seed_repeats_it() -> None:
    made: list[mutants.Change] = [functools.partial(str, number) for number in range(100)]
    ten, twenty = (mutants._sample(made, number, 1) for number in (10, 20))
    assert list(twenty[:10]) == list(ten) != list(made[:10])
    assert list(mutants._sample(made, 10, 2)) != list(ten)
    assert mutants._sample(made, None, 1) == made


def test_a_mutant_that_several_changes_make_counts_once() -> None:
    def change() -> str:
        head, line, rest = SOURCE.partition("LIMIT = 3")
        return f"{head}LIMIT = 4{rest}" if line else ""

    assert len(mutants.mutants(SOURCE, [change, change, lambda: SOURCE, lambda: None])) == 1


def test_the_tests_of_each_module_exist() -> None:
    for module, tests in mutants.TARGETS.items():
        assert all((mutants.ROOT / path).is_file() for path in (module, *tests))
    for test in mutants.DESELECTED:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (mutants.ROOT / path).read_text()


def test_an_equivalent_mutant_stands_in_its_function_and_has_a_reason() -> None:
    """One whose line is gone would be forgotten, and might hide another later."""
    listed = tomllib.loads(mutants.EQUIVALENTS.read_text())["equivalent"]
    assert listed
    for entry in listed:
        source = (mutants.ROOT / entry["module"]).read_text()
        assert " ".join(entry["old"].split()) in " ".join(source.split()), entry
        name = entry["function"].rpartition(".")[2]
        assert any(f" {name}{end}" in source for end in "(:"), entry
        assert entry["why"]
        assert entry["old"] not in entry["new"]
