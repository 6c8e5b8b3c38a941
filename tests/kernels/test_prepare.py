# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import errno
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from harness import kernels
from harness.errors import KernelUnavailable
from harness.kernels import Cache, apt, archive, image, upstream
from harness.kernels.cache import Built
from harness.manifest.kernels_yaml import (
    DebSource,
    ImageSource,
    KernelEntry,
    Source,
    TreeSource,
    UpstreamSource,
)
from tests.kernels import builders
from tests.kernels.conftest import DATA, FakeApt, Said


def entry(source: Source, *, is_series: bool = False) -> KernelEntry:
    return KernelEntry("mine", source, "kernels.yaml:1:1", is_series=is_series, memory_mib=300)


def test_an_entry_is_prepared_by_its_source(cache: Cache, say: Said, tmp_path: Path) -> None:
    path = tmp_path / "bzImage"
    path.write_bytes(builders.bzimage())
    assert kernels.prepare(entry(ImageSource(path)), cache, say).name == "mine"


@pytest.mark.parametrize(
    "source",
    [
        DebSource("no suite", "linux-image-amd64"),
        ImageSource(Path("/nonexistent/bzImage")),
        TreeSource(Path("/nonexistent")),
        UpstreamSource("no tag"),
    ],
)
def test_bad_input_of_every_source_is_unavailable(cache: Cache, say: Said, source: Source) -> None:
    with pytest.raises(KernelUnavailable):
        kernels.prepare(entry(source), cache, say)


SHA256 = "0" * 64


def with_sha256(source: Source, sha256: str) -> KernelEntry:
    return entry(replace(source, sha256=sha256))


@pytest.fixture
def sources(
    tmp_path: Path, fake_apt: FakeApt, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Source]:
    """One of each kind, all with the same image."""
    tree_files = {".config": b"", "arch/x86/boot/bzImage": builders.bzimage()}
    builders.write(tmp_path / "tree", tree_files)
    builders.write(tmp_path, {"bzImage": builders.bzimage()})

    def download(tag: str, home: Path, stop: object, say: object = None) -> Path:
        modules = builders.module_files(builders.RELEASE)
        files = {f"lib/modules/{builders.RELEASE}/{name}": data for name, data in modules.items()}
        return builders.write(home / tag, {"boot/vmlinuz-x": builders.bzimage(), **files})

    def unpack(debs: object, root: Path, what: str, stop: object, arch: object) -> Built:
        name = what.removeprefix("the package ")
        return upstream.unpack(download(name, root.parent, stop), root, name)

    monkeypatch.setattr(upstream, "download", download)
    monkeypatch.setattr(archive, "unpack", unpack)
    monkeypatch.setattr(apt, "download", lambda *_, **__: {})
    return {
        "deb": DebSource("bookworm", "linux-image-amd64"),
        "image": ImageSource(tmp_path / "bzImage"),
        "tree": TreeSource(tmp_path / "tree"),
        "upstream": UpstreamSource("v6.6"),
    }


each_source = pytest.mark.parametrize("kind", ["deb", "image", "tree", "upstream"])


@each_source
def test_the_image_that_the_manifest_means_is_taken(
    cache: Cache, say: Said, sources: dict[str, Source], kind: str
) -> None:
    sha256 = hashlib.sha256(builders.bzimage()).hexdigest()
    found = kernels.prepare(with_sha256(sources[kind], sha256), cache, say)
    assert found.image_sha256 == sha256


@each_source
def test_another_image_than_the_manifest_means_is_refused_with_both_hashes(
    cache: Cache, say: Said, sources: dict[str, Source], kind: str
) -> None:
    kernels.prepare(entry(sources[kind]), cache, say)
    for seen in (cache, cache.trusting()):
        with pytest.raises(KernelUnavailable) as caught:
            kernels.prepare(with_sha256(sources[kind], SHA256), seen, say)
        assert SHA256 in str(caught.value)
        assert hashlib.sha256(builders.bzimage()).hexdigest() in str(caught.value)
        assert not caught.value.transient


def test_a_cache_that_cannot_be_made_is_said(say: Said, tmp_path: Path) -> None:
    builders.write(tmp_path, {"bzImage": builders.bzimage(), "file": b""})
    blocked = Cache(tmp_path / "file" / "cache")
    with pytest.raises(KernelUnavailable, match=r"cannot be used: Not a dir.*use another one"):
        kernels.prepare(entry(ImageSource(tmp_path / "bzImage")), blocked, say)


def test_a_full_disk_is_said_with_what_is_needed(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image, "prepare", fail)
    with pytest.raises(
        KernelUnavailable, match="No space left on device; free some space on the disk"
    ):
        kernels.prepare(entry(ImageSource(Path("x"))), cache, say)


def test_an_entry_that_is_no_series_is_itself(cache: Cache) -> None:
    single = entry(DebSource("bookworm", "linux-image-amd64"))
    assert kernels.expand(single, cache) == (single,)


def test_a_series_becomes_its_kernels_oldest_first(fake_apt: FakeApt, cache: Cache) -> None:
    fake_apt.serves((DATA / "trixie-backports.deb822").read_text())
    series = entry(
        DebSource("trixie-backports", "linux-image-6.1[67].*+deb13-amd64"), is_series=True
    )
    found = kernels.expand(series, cache)
    assert [kernel.name for kernel in found] == [
        "mine-6.16.3+deb13-amd64",
        "mine-6.16.12+deb13-amd64",
        "mine-6.17.8+deb13-amd64",
        "mine-6.17.13+deb13-amd64",
    ]
    assert found[0].source == DebSource("trixie-backports", "linux-image-6.16.3+deb13-amd64")


def test_the_kernels_of_a_series_keep_what_the_entry_says(fake_apt: FakeApt, cache: Cache) -> None:
    series = entry(DebSource("bookworm", "linux-image-*-amd64"), is_series=True)
    kernel = kernels.expand(series, cache)[0]
    assert (kernel.memory_mib, kernel.where, kernel.is_series) == (300, "kernels.yaml:1:1", False)


def test_a_series_without_kernels_is_unavailable(fake_apt: FakeApt, cache: Cache) -> None:
    series = entry(DebSource("bookworm", "linux-image-9*"), is_series=True)
    with pytest.raises(KernelUnavailable, match="no kernel package of bookworm matches"):
        kernels.expand(series, cache)
