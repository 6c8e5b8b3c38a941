# SPDX-License-Identifier: GPL-2.0-only
"""``deb: {mirror, suite, package, signed_by}``: another archive, verified with its own keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kernels
from harness.errors import KernelUnavailable
from harness.kernels import Cache, PreparedKernel
from harness.manifest.kernels_yaml import DebSource, KernelEntry
from tests.kernels import builders, signed_archive
from tests.kernels.builders import RELEASE
from tests.kernels.conftest import Said
from tests.kernels.signed_archive import KEYRING
from tests.replacing import replaced

pytestmark = pytest.mark.apt
NAME = f"linux-image-{RELEASE}"


@pytest.fixture
def mirror(tmp_path: Path) -> str:
    """An archive with a kernel in two packages, as Ubuntu has them, and a metapackage."""
    modules = f"linux-modules-{RELEASE}"
    files = builders.module_files()
    debs = {
        "linux-image-generic": builders.deb(tmp_path / "meta.deb", []),
        NAME: builders.kernel_deb(tmp_path / "image.deb", files={}),
        modules: builders.deb(
            tmp_path / "modules.deb",
            [(f"./lib/modules/{RELEASE}/{name}", data) for name, data in files.items()],
        ),
    }
    return signed_archive.make(tmp_path / "archive", "noble", debs, f"kmod, {NAME}, {modules}")


def prepare(mirror: str, keyring: Path, cache: Cache) -> PreparedKernel:
    source = DebSource("noble", "linux-image-generic", None, mirror, keyring)
    return kernels.prepare(KernelEntry("ubuntu", source, "here"), cache, Said())


def test_a_kernel_of_another_archive_is_verified_with_its_keys(mirror: str, cache: Cache) -> None:
    found = prepare(mirror, KEYRING, cache)
    assert (found.release, found.version) == (RELEASE, "1")
    assert {path.stem for path in found.modules} > {"virtio_pci", "virtio_console"}
    assert prepare(mirror, KEYRING, cache) == found


def test_an_archive_with_another_key_is_refused(mirror: str, cache: Cache) -> None:
    debians = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    with pytest.raises(KernelUnavailable, match="signature does not verify"):
        prepare(mirror, debians.with_suffix(".pgp") if not debians.exists() else debians, cache)


def test_a_changed_archive_is_refused(mirror: str, tmp_path: Path, cache: Cache) -> None:
    release = tmp_path / "archive/dists/noble/Release"
    release.write_text(replaced(release.read_text(), "noble", "NOBLE"))
    with pytest.raises(KernelUnavailable, match="signature does not verify"):
        prepare(mirror, KEYRING, cache)
