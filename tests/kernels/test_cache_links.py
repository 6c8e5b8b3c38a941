# SPDX-License-Identifier: GPL-2.0-only
"""A symbolic link in the cache, whoever put it there, leads nobody out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import KernelUnavailable
from harness.kernels.cache import Built, Cache, CacheEntry

CONTENT = b"an image"


def build(root: Path) -> Built:
    (root / "boot").mkdir()
    (root / "boot/vmlinuz").write_bytes(CONTENT)
    return Built("6.1", "v", "boot/vmlinuz", "boot/vmlinuz")


def entry(cache: Cache) -> CacheEntry:
    return Cache(cache.root).entry("key", build, lambda _: None)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the user's, which nothing may change."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "letter").write_text("dear")
    return place


def assert_whole(found: CacheEntry, outside: Path) -> None:
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


def linked(path: Path, target: Path) -> None:
    """Let ``path`` be a link to the same bytes, which now lie at ``target``."""
    path.rename(target)
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["root/boot/vmlinuz", "root/boot", "root", "entry.json", "."])
def test_a_link_to_the_same_bytes_elsewhere_is_made_again(
    cache: Cache, tmp_path: Path, name: str
) -> None:
    place = entry(cache).root.parent
    linked(place if name == "." else place / name, tmp_path / "elsewhere")
    assert cache.existing("key") is None
    again = entry(cache).root.parent
    assert not again.is_symlink()
    assert not [path for path in again.rglob("*") if path.is_symlink()]
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("target", ["letter", ".", "nowhere"])
def test_one_link_more_is_damage(cache: Cache, outside: Path, target: str) -> None:
    (entry(cache).root / "more").symlink_to(outside / target)
    assert cache.existing("key") is None
    assert_whole(entry(cache), outside)


def test_an_entry_that_became_a_link_to_nowhere_is_made_again(cache: Cache, tmp_path: Path) -> None:
    place = entry(cache).root.parent
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "nowhere")
    assert entry(cache).image.read_bytes() == CONTENT


def test_that_there_is_a_link_is_said(cache: Cache, outside: Path) -> None:
    said: list[str] = []
    (entry(cache).root / "boot/more").symlink_to(outside)
    Cache(cache.root).entry("key", build, said.append)
    (line,) = said
    assert "(root/boot/more of key is a symbolic link): making it again" in line


def test_a_build_that_makes_a_link_is_refused(cache: Cache, outside: Path) -> None:
    def link(root: Path) -> Built:
        built = build(root)
        (root / "boot/more").symlink_to(outside / "letter")
        return built

    with pytest.raises(KernelUnavailable, match="is a symbolic link"):
        cache.entry("key", link, lambda _: None)


def test_the_whole_cache_may_lie_behind_a_link(tmp_path: Path) -> None:
    """The user's own, to a larger disk."""
    (tmp_path / "large").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "large")
    first = entry(Cache(tmp_path / "cache"))
    assert Cache(tmp_path / "cache").existing("key") == first
