# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.kernels import elf

STEP = mmap.PAGESIZE
#: Around the ends of steps, and elsewhere.
PLACES = st.sampled_from([0, 1, STEP - 2, STEP - 1, STEP, 2 * STEP - 1, 2 * STEP, 3 * STEP - 3])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elf")


@given(st.lists(PLACES, max_size=3), PLACES)
def test_a_map_is_searched_as_bytes_are(directory: Path, places: list[int], start: int) -> None:
    data = bytearray(3 * STEP + 7)
    for place in places:
        data[place : place + 3] = b"abc"
    path = directory / "data"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elf, "_STEP", STEP)
        found = elf.find(elf.mapped(path), b"abc", start)
    assert found == data.find(b"abc", start) == elf.find(bytes(data), b"abc", start)


def test_an_empty_file_has_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert elf.mapped(tmp_path / "empty") == b""
