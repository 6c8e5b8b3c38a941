# SPDX-License-Identifier: GPL-2.0-only
"""A symbolic link in the cache, whoever put it there, leads nobody out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.kernels.cache import Built, Cache, Entry

CONTENT = b"an image"


def build(root: Path) -> Built:
    (root / "boot").mkdir()
    (root / "boot/vmlinuz").write_bytes(CONTENT)
    return Built("6.1", "v", "boot/vmlinuz", "boot/vmlinuz")


def entry(cache: Cache) -> Entry:
    return Cache(cache.root).entry("key", build, lambda _: None)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the user's, which nothing may change."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "letter").write_text("dear")
    return place


def assert_whole(found: Entry, outside: Path) -> None:
    assert found.image.read_bytes() == CONTENT
    assert not found.image.is_symlink()
    assert found.root.resolve() == found.root
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"letter": "dear"}


def test_a_file_that_became_a_link_is_made_again(cache: Cache, outside: Path) -> None:
    image = entry(cache).image
    image.unlink()
    image.symlink_to(outside / "letter")
    assert_whole(entry(cache), outside)


def test_a_directory_that_became_a_link_is_made_again(cache: Cache, outside: Path) -> None:
    boot = entry(cache).image.parent
    moved = boot.rename(outside.parent / "moved")
    boot.symlink_to(moved)
    assert_whole(entry(cache), outside)


def test_what_a_link_leads_to_stays_when_its_entry_is_made_again(
    cache: Cache, outside: Path
) -> None:
    found = entry(cache)
    (found.root / "boot" / "more").symlink_to(outside)
    found.image.write_bytes(b"damaged")
    assert_whole(entry(cache), outside)


def test_a_link_among_the_builds_under_way_is_not_followed(cache: Cache, outside: Path) -> None:
    entry(cache)
    (cache.root / "tmp" / "build-evil").symlink_to(outside)
    assert_whole(entry(cache), outside)
