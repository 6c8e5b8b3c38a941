# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.kernels import Cache
from harness.records import prune
from harness.step import step
from harness.step.step import Memory
from tests import factories


@pytest.fixture
def kept(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "cache", tmp_path / "state")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "bzImage"
    path.write_bytes(b"an image")
    return path


def test_only_the_last_images_are_kept(
    kept: Memory, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "MAX_IMAGES", 3)
    for number in range(5):
        place = kept.keep_image(f"key{number}", image)
        os.utime(place, (number, number))
    assert [kept.image(f"key{number}") is not None for number in range(5)] == [0, 0, 1, 1, 1]


def test_results_come_back_as_they_were(kept: Memory) -> None:
    results = (factories.kernel("one"), factories.debian_6_1())
    for result in results:
        kept.keep_result("key", result)
    assert [result.families for result in kept.results("key")] == [r.families for r in results]


def test_a_damaged_result_is_none(kept: Memory, tmp_path: Path) -> None:
    kept.keep_result("key", factories.kernel())
    file = next((tmp_path / "state/results").iterdir())
    file.write_text(file.read_text()[:-40])
    assert kept.results("key") == ()


@pytest.mark.parametrize("text", ["", "[]", '{"why": 3}'])
def test_a_damaged_failure_is_none(kept: Memory, tmp_path: Path, text: str) -> None:
    kept.keep_failure("key", "it fails")
    (tmp_path / "state/failures/key.json").write_text(text)
    assert kept.failure("key") is None


def test_what_was_not_used_for_long_is_pruned(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    old, new = (cache.directory(step.BUILDS, name) for name in ("0123", "4567"))
    os.utime(old, (1e9, 1e9))
    removed = prune.prune(cache, tmp_path / "runs", 3600, dry_run=False)
    assert [item.paths[0] for item in removed] == [old]
    assert (old.exists(), new.exists()) == (False, True)
