# SPDX-License-Identifier: GPL-2.0-only
"""A cache that this user cannot write to serves with what it holds. See tests/boots/test_cache.py.

That directories cannot be written to is said of them here, for root can write to all.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness import kernels
from harness.errors import KernelUnavailable
from harness.kernels import Cache, apt
from harness.manifest.kernels_yaml import ImageSource, KernelEntry
from tests.kernels import builders
from tests.kernels.conftest import FakeApt, Said

WRITES = os.access


@pytest.fixture
def image(tmp_path: Path) -> KernelEntry:
    builders.write(tmp_path, {"bzImage": builders.bzimage()})
    return KernelEntry("mine", ImageSource(tmp_path / "bzImage"), "kernels.yaml:1:1")


def close(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> Cache:
    """From now on, ``cache`` as another user's; any change of what is in it fails the test."""

    def access(path: Path, mode: int) -> bool:
        return not (mode & os.W_OK and Path(path).is_relative_to(cache.root)) and WRITES(path, mode)

    monkeypatch.setattr(os, "access", access)
    return Cache(cache.root)


def content(cache: Cache) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.root.rglob("*") if path.is_dir()}


def test_a_prepared_kernel_is_found(
    cache: Cache, say: Said, image: KernelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = kernels.prepare(image, cache, say)
    before = content(cache)
    assert kernels.prepare(image, close(cache, monkeypatch), say) == prepared
    assert content(cache) == before


def test_a_kernel_that_is_not_there_is_not_even_unpacked(
    cache: Cache, say: Said, image: KernelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.directory()
    with pytest.raises(KernelUnavailable, match="cannot be written to; make it writable"):
        kernels.prepare(image, close(cache, monkeypatch), say)
    assert say.lines == []


def test_who_uses_it_needs_no_place_in_it(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.directory()
    with close(cache, monkeypatch).scratch() as scratch:
        assert not scratch.is_relative_to(cache.root)
        assert scratch.is_dir()
    assert not scratch.exists()


def test_what_others_left_is_left_to_them(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned = cache.directory("tmp") / "build-old"
    abandoned.mkdir()
    close(cache, monkeypatch).directory()
    assert abandoned.exists()


def test_an_old_index_is_used_and_that_is_said(
    fake_apt: FakeApt, cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = apt.index("bookworm", cache, say)
    old = time.time() - 30 * 86400
    os.utime(cache.root / "apt/bookworm/kernels.json", (old, old))
    closed = close(cache, monkeypatch)
    assert apt.index("bookworm", closed, say, refresh=True) == found
    assert say.lines[-1].endswith("the cache cannot be written to")
    assert len(fake_apt.calls("update")) == 1
