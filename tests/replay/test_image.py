# SPDX-License-Identifier: GPL-2.0-only
"""Where the kernel of a bundle is found, and that it is the one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import KernelUnavailable, UsageError
from harness.kernels import Cache, PreparedKernel
from harness.manifest.kernels_yaml import DebSource
from harness.replay import image
from tests.kernels import builders
from tests.replay.conftest import Bench


def find(bench: Bench, given: Path | None = None) -> PreparedKernel:
    return image.find(bench.bundle(), given, bench.cache, bench.said.append)


def test_an_image_in_the_bundle_needs_nothing_else(bench: Bench) -> None:
    bench.with_image = True
    bundle = bench.bundle()
    bench.image.unlink()
    found = image.find(bundle, None, bench.cache, bench.said.append)
    assert found.image.read_bytes() == builders.bzimage()


def test_the_modules_are_those_of_the_bundle(bench: Bench) -> None:
    found = find(bench)
    assert [path.read_bytes() for path in found.modules] == [builders.module("virtio_pci")]


def test_the_kernel_goes_by_the_names_it_had(bench: Bench) -> None:
    bundle = bench.bundle()
    found = find(bench)
    assert (found.name, found.version, found.origin) == ("mine", bundle.version, bundle.origin)


def test_an_image_is_found_where_it_was(bench: Bench) -> None:
    find(bench)
    assert bench.said == [f"the image is {bench.image}", f"unpacking {bench.image}"]


def test_an_image_is_found_in_the_cache(bench: Bench) -> None:
    bundle = bench.bundle()
    find(bench)
    bench.image.unlink()
    assert image.find(bundle, None, bench.cache, bench.said.append).image.exists()


def test_an_image_is_found_in_the_cache_with_other_modules(bench: Bench) -> None:
    bundle = bench.bundle()
    find(bench)
    bench.image.unlink()
    other = replace(bundle, modules=(("virtio_pci", builders.module("virtio_pci", release="")),))
    found = image.find(other, None, bench.cache, bench.said.append)
    assert found.modules[0].read_bytes() == other.modules[0][1]


def test_an_image_that_was_built_again_is_not_taken(bench: Bench) -> None:
    bundle = bench.bundle()
    bench.image.write_bytes(builders.bzimage(release="6.6.6"))
    with pytest.raises(KernelUnavailable) as refused:
        image.find(bundle, None, bench.cache, bench.said.append)
    assert f"SHA-256 {bundle.image_sha256}" in str(refused.value)
    assert "give it with --image FILE" in str(refused.value)


def test_an_image_that_is_named_is_taken(bench: Bench, tmp_path: Path) -> None:
    bundle = bench.bundle()
    moved = bench.image.rename(tmp_path / "moved")
    assert image.find(bundle, moved, bench.cache, bench.said.append).image.exists()


def test_another_image_that_is_named_is_refused(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"another")
    with pytest.raises(UsageError, match=r"but the bundle needs .* SHA-256 "):
        find(bench, other)


def test_an_image_in_a_bundle_that_is_not_the_one_is_refused(bench: Bench) -> None:
    bundle = replace(bench.bundle(), image=builders.bzimage(release="6.6.6"))
    with pytest.raises(KernelUnavailable, match="but the manifest says"):
        image.find(bundle, None, bench.cache, bench.said.append)


def test_a_package_is_fetched_by_its_own_name_not_by_that_of_the_newest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = replace(bench.entry, source=DebSource("bookworm", "linux-image-amd64"))
    bundle = replace(bench.bundle(), entry=entry)
    asked = []

    def prepare(entry: object, cache: Cache, say: object) -> PreparedKernel:
        asked.append(entry.source.package)  # type: ignore[attr-defined]
        raise KernelUnavailable("it is gone")

    monkeypatch.setattr("harness.kernels.prepare", prepare)
    with pytest.raises(KernelUnavailable, match="it is gone; give it with --image"):
        image.find(bundle, None, bench.cache, bench.said.append)
    assert asked == [f"linux-image-{builders.RELEASE}", "linux-image-amd64"]
