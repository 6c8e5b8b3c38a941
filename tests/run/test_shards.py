# SPDX-License-Identifier: GPL-2.0-only
"""How kernels are divided into shards."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.manifest.kernels_yaml import ImageSource
from harness.run import shards
from harness.verdict.results import Shard
from tests import fake_boots

NAMES = tuple(f"kernel-{number}" for number in range(9))
durations = st.dictionaries(st.sampled_from(NAMES), st.floats(0.1, 1e4))


@given(durations, st.integers(1, 12))
def test_every_kernel_is_in_exactly_one_shard(seconds: dict[str, float], of: int) -> None:
    parts = shards.split(NAMES, seconds, of)
    assert len(parts) == of
    assert sorted(name for part in parts for name in part) == sorted(NAMES)


@given(durations, st.randoms())
def test_the_order_of_the_list_does_not_move_a_kernel(
    seconds: dict[str, float], chance: random.Random
) -> None:
    mixed = [*NAMES]
    chance.shuffle(mixed)
    before, after = shards.split(NAMES, seconds, 3), shards.split(mixed, seconds, 3)
    assert [set(part) for part in before] == [set(part) for part in after]


def test_the_longest_come_first_and_each_goes_where_least_is() -> None:
    seconds = {"a": 1.0, "b": 8.0, "c": 5.0, "d": 4.0, "e": 2.0}
    assert shards.split("abcde", seconds, 2) == [("b", "e"), ("a", "c", "d")]


def test_without_durations_names_take_turns() -> None:
    assert shards.split("dbca", {}, 2) == [("c", "a"), ("d", "b")]


def test_a_kernel_of_unknown_duration_counts_as_the_mean() -> None:
    assert shards.split("abc", {"a": 9.0, "b": 1.0}, 2) == [("a",), ("b", "c")]


def test_there_may_be_more_shards_than_kernels() -> None:
    assert shards.split("ab", {}, 3) == [("a",), ("b",), ()]


def test_a_list_in_another_directory_is_the_same_list() -> None:
    def entries(directory: str) -> str:
        source = ImageSource(Path(directory, "bzImage"))
        return shards.digest(
            [
                replace(entry, source=source, where=f"{directory}/kernels.yaml:3:5")
                for entry in fake_boots.entries(2)
            ]
        )

    assert entries("/home/one") == entries("/srv/two")
    assert entries("/home/one") != shards.digest(fake_boots.entries(2))


@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_stretches_of_a_series_share_their_ends(of: int) -> None:
    found = [shards.stretch(NAMES, Shard(number, of)) for number in range(1, of + 1)]
    assert found[0][0] == NAMES[0]
    assert found[-1][-1] == NAMES[-1]
    assert [part[-1] for part in found[:-1]] == [part[0] for part in found[1:]]


def test_a_series_has_no_more_stretches_than_steps() -> None:
    with pytest.raises(UsageError, match="9 kernels, so 8 steps"):
        shards.stretch(NAMES, Shard(1, 9))
