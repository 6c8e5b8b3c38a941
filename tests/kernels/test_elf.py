# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.kernels import elf

STEP = mmap.PAGESIZE
#: Around the ends of steps, and elsewhere.
PLACES = st.sampled_from(
    [0, STEP - 2, STEP - 1, STEP, STEP + 5, 2 * STEP - 1, 2 * STEP, 3 * STEP - 3]
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elf")


PATTERN = re.compile(rb"a(b{2,9})c?")


@given(st.lists(st.tuples(PLACES, st.sampled_from([b"abc", b"abbc", b"abbbbbbbbb"])), max_size=3))
def test_a_map_is_searched_as_bytes_are(directory: Path, parts: list[tuple[int, bytes]]) -> None:
    data = bytearray(3 * STEP + 20)
    for place, part in parts:
        data[place : place + len(part)] = part
    path = directory / "data"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elf, "_STEP", STEP)
        found = elf.search(elf.mapped(path), PATTERN, 11)
    wanted = PATTERN.search(data)
    assert (found and (found.span(), found[1])) == (wanted and (wanted.span(), bytes(wanted[1])))


def test_false_starts_of_what_is_searched_cost_no_page_each(tmp_path: Path) -> None:
    """A kernel of a gigabyte that only says "Linux version" took a quarter of an hour."""
    (tmp_path / "image").write_bytes(b"Linux version " * STEP)
    steps: list[int] = []

    class Map(mmap.mmap):
        def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
            steps.append(start)

    with (tmp_path / "image").open("rb") as file:
        data = Map(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert elf.search(data, re.compile(rb"Linux version (\d+)"), 100) is None
    assert steps == [0]


def test_an_empty_file_has_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert elf.mapped(tmp_path / "empty") == b""
