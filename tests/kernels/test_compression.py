# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import Malformed
from harness.kernels import compression
from tests.kernels.builders import COMPRESSIONS

CONTENT = b"a kernel, " * 5000


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_each_compression_is_undone_whatever_follows_the_stream(name: str) -> None:
    assert compression.decompress(COMPRESSIONS[name](CONTENT) + b"\x12\x34\0\0") == CONTENT


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_truncated_stream_is_an_error(name: str) -> None:
    with pytest.raises(Malformed):
        compression.decompress(COMPRESSIONS[name](CONTENT)[:-20])


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_data_that_grow_beyond_the_limit_are_an_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "LIMIT", 10_000)
    with pytest.raises(Malformed):
        compression.decompress(COMPRESSIONS[name](CONTENT + bytes(1_000_000)))


def test_an_unknown_magic_is_told_from_damage() -> None:
    with pytest.raises(compression.Unknown):
        compression.decompress(b"\x89LZO\0 lzo, as some kernels use it")


@given(st.sampled_from(sorted(COMPRESSIONS)), st.integers(min_value=0), st.integers(min_value=1))
def test_a_damaged_stream_never_raises_anything_else(name: str, place: int, change: int) -> None:
    data = bytearray(COMPRESSIONS[name](CONTENT))
    data[place % len(data)] ^= change % 256
    with contextlib.suppress(Malformed, compression.Unknown):
        compression.decompress(bytes(data))


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_pieces_are_small_whatever_the_data(name: str) -> None:
    content = bytes(2 << 20) + CONTENT
    sizes = [len(piece) for piece in compression.pieces(COMPRESSIONS[name](content))]
    assert sum(sizes) == len(content)
    assert max(sizes) <= 8 << 20  # a block of LZ4's
    assert name == "lz4" or max(sizes) <= compression.PIECE


@pytest.mark.parametrize("length", [0, 1, 4095, 4097])
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_data_longer_than_a_piece_are_read_to_their_end(
    name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "PIECE", 4096)
    content = random.Random(length).randbytes(length)
    assert compression.decompress(COMPRESSIONS[name](content) + b"\x12\x34\0\0") == content
