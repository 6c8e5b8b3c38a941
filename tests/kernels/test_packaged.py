# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that a developer built: .deb, .rpm, tar, and what an address leads to."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import kernels
from harness.errors import KernelUnavailable, UsageError
from harness.host import fetcher
from harness.host.architectures import Arch
from harness.kernels import archive, packaged
from harness.kernels.archive import Format
from harness.kernels.cache import Cache
from harness.manifest.kernels_yaml import FileSource, ImageSource, TreeSource, UrlSource
from tests.kernels import builders
from tests.kernels.builders import COMPRESSIONS, RELEASE
from tests.kernels.conftest import Said, needs

MODULES = {"virtio_pci.ko", "virtio_console.ko"}
IMAGE = builders.bzimage()


def prepare(cache: Cache, format: str, *files: Path) -> kernels.PreparedKernel:
    return packaged.prepare("mine", FileSource(format, files), cache, lambda _: None)


def refusal(cache: Cache, format: str, *files: Path) -> str:
    with pytest.raises(KernelUnavailable) as caught:
        prepare(cache, format, *files)
    return str(caught.value)


def an_rpm(directory: Path, compress: Callable[[bytes], bytes] = COMPRESSIONS["zstd"]) -> Path:
    return builders.rpm(directory / "k.rpm", compress(builders.cpio(builders.kernel_members())))


@needs("dpkg-deb")
def test_a_package_by_make_bindeb_pkg_is_a_kernel(tmp_path: Path, cache: Cache) -> None:
    found = prepare(cache, "deb", builders.kernel_deb(tmp_path / "x.deb"))
    assert found.release == RELEASE
    assert {path.name for path in found.modules} > MODULES


@pytest.mark.parametrize("name", ["gzip", "xz", "lzma", "bzip2", "zstd"])
def test_an_rpm_is_a_kernel_however_it_is_compressed(
    tmp_path: Path, cache: Cache, name: str
) -> None:
    found = prepare(cache, "rpm", an_rpm(tmp_path, COMPRESSIONS[name]))
    assert (found.release, found.image.read_bytes()) == (RELEASE, IMAGE)
    assert {path.name for path in found.modules} > MODULES


def test_fedoras_two_packages_are_one_kernel(tmp_path: Path, cache: Cache) -> None:
    image, *rest = builders.kernel_members()
    core = builders.rpm(tmp_path / "core.rpm", builders.cpio([image]))
    more = builders.rpm(tmp_path / "modules.rpm", builders.cpio(rest))
    assert {path.name for path in prepare(cache, "rpm", core, more).modules} > MODULES


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_an_archive_by_make_targz_pkg_is_a_kernel(tmp_path: Path, cache: Cache, mode: str) -> None:
    members = [(f"boot/vmlinuz-{RELEASE}", IMAGE), (f"boot/vmlinux-{RELEASE}", b"x")]
    found = prepare(cache, "tar", builders.tar(tmp_path / "x.tar", members, mode))
    assert (found.release, found.modules) == (RELEASE, ())


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
@pytest.mark.parametrize("at", [20, -30])
def test_a_damaged_archive_is_refused_whatever_its_compression(
    tmp_path: Path, cache: Cache, mode: str, at: int
) -> None:
    noise = random.Random(1).randbytes(1 << 20)  # more than one block of bzip2
    path = builders.tar(
        tmp_path / "x.tar", [("noise", noise), (f"boot/vmlinuz-{RELEASE}", IMAGE)], mode
    )
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)
    said = refusal(cache, "tar", path)
    assert "x.tar cannot be unpacked: " in said or "is no archive of that kind" in said


def test_an_uncompressed_image_counts_where_an_architecture_has_no_other(
    tmp_path: Path, cache: Cache
) -> None:
    image = builders.vmlinux(RELEASE, pvh=False, machine=21)
    path = builders.tar(tmp_path / "x.tar", [(f"boot/vmlinux-{RELEASE}", image)], "w")
    source = FileSource("tar", (path,))
    found = packaged.prepare("k", source, cache, lambda _: None, Arch.PPC64EL)
    assert (found.release, found.boot_image.name) == (RELEASE, f"vmlinux-{RELEASE}")


def test_an_unchanged_file_is_not_unpacked_again(
    tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = an_rpm(tmp_path)
    first = prepare(cache, "rpm", path)
    monkeypatch.delattr(archive, "unpack")
    assert prepare(cache, "rpm", path) == first


def test_another_file_under_the_same_name_is_another_kernel(tmp_path: Path, cache: Cache) -> None:
    first = prepare(cache, "rpm", an_rpm(tmp_path))
    members = builders.kernel_members("6.9.0-new")
    builders.rpm(tmp_path / "k.rpm", builders.cpio(members))
    assert prepare(cache, "rpm", tmp_path / "k.rpm").release == "6.9.0-new" != first.release


@pytest.mark.parametrize("kept", [50, 100, 150, -1, -400])
def test_a_truncated_rpm_is_refused(tmp_path: Path, cache: Cache, kept: int) -> None:
    path = an_rpm(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "k.rpm cannot be unpacked: " in refusal(cache, "rpm", path)


def test_a_package_without_a_kernel_is_refused(tmp_path: Path, cache: Cache) -> None:
    path = builders.rpm(tmp_path / "x.rpm", builders.cpio([("./usr/bin/x", b"x")]))
    assert "x.rpm holds no kernel images; give a package" in refusal(cache, "rpm", path)


def test_a_file_under_the_wrong_key_is_refused_with_the_right_one(
    tmp_path: Path, cache: Cache
) -> None:
    assert refusal(cache, "deb", an_rpm(tmp_path)).endswith("k.rpm is a rpm archive: use rpm:")
    text = tmp_path / "text"
    text.write_text("x")
    assert "is no archive of that kind; give a .tar file" in refusal(cache, "tar", text)


def test_an_image_for_another_machine_is_refused(tmp_path: Path, cache: Cache) -> None:
    arm64 = b"MZ" + bytes(54) + b"ARM\x64" + bytes(99)
    path = builders.tar(tmp_path / "x.tar", [(f"boot/vmlinuz-{RELEASE}", arm64)])
    assert "is an image for arm64" in refusal(cache, "tar", path)


def test_the_modules_of_another_build_are_refused(tmp_path: Path, cache: Cache) -> None:
    image, *_ = builders.kernel_members("6.9.0-new")
    members = [image, *builders.kernel_members()[1:]]
    path = builders.rpm(tmp_path / "x.rpm", builders.cpio(members))
    assert f"the modules are for {RELEASE}" in refusal(cache, "rpm", path)


# Archives that were made to do harm; those of tar and .deb are in test_deb_hostile.py.


def names(path: Path) -> list[str]:
    return [name for name, _ in archive.members(path, lambda _: True, threading.Event())]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFDIR])
def test_only_files_are_taken_from_an_rpm(tmp_path: Path, kind: int) -> None:
    members: list[builders.Member] = [
        ("./boot/vmlinuz-6", kind | 0o777, b"/etc/passwd"),
        ("x", b"y"),
    ]
    assert names(builders.rpm(tmp_path / "x.rpm", builders.cpio(members))) == ["x"]


@pytest.mark.parametrize("name", ["./boot/../../outside/vmlinuz-6.1.0", "/etc/boot/vmlinuz-6.1.0"])
def test_nothing_of_an_rpm_is_written_under_its_own_path(
    tmp_path: Path, cache: Cache, name: str
) -> None:
    path = builders.rpm(tmp_path / "x.rpm", builders.cpio([(name, IMAGE)]))
    assert "holds no kernel images" in refusal(cache, "rpm", path)


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, b"07070X", "the form of RPM 6"),
        (0, b"123456", "not a cpio archive"),
        (54, b"ffffffff", "is not a kernel package: it has "),
        (54, b"-0000001", "not a cpio archive"),
        (94, b"ffffffff", "a name of 4294967295 bytes"),
        (94, b"00000000", "a name of 0 bytes"),
    ],
)
def test_a_forged_header_is_refused(tmp_path: Path, at: int, value: bytes, said: str) -> None:
    payload = bytearray(builders.cpio([("x", b"y")]))
    payload[at : at + len(value)] = value
    with pytest.raises(KernelUnavailable, match=said):
        names(builders.rpm(tmp_path / "x.rpm", bytes(payload)))


def test_an_rpm_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_PACKAGE_LIMIT", 1 << 20)
    bomb = COMPRESSIONS["zstd"](builders.cpio([("x", bytes(8 << 20))]))
    with pytest.raises(KernelUnavailable, match=r"x\.rpm is not a kernel package: it has more"):
        names(builders.rpm(tmp_path / "x.rpm", bomb))


def test_a_header_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    path = an_rpm(tmp_path)
    data = bytearray(path.read_bytes())
    data[96 + 8 : 96 + 16] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(KernelUnavailable, match="a header of 4294967295 entries"):
        names(path)


# The command line.


@needs("dpkg-deb")
def test_check_takes_archives_trees_and_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builders.kernel_deb(tmp_path / "x.deb")
    builders.tar(tmp_path / "x.tar.gz", [("x", b"y")])
    an_rpm(tmp_path)
    (tmp_path / "bzImage").write_bytes(IMAGE)
    monkeypatch.chdir(tmp_path)
    sources = [kernels.for_path(Path(n)).source for n in ("x.deb", "x.tar.gz", "k.rpm", "bzImage")]
    assert sources == [
        FileSource("deb", (tmp_path / "x.deb",)),
        FileSource("tar", (tmp_path / "x.tar.gz",)),
        FileSource("rpm", (tmp_path / "k.rpm",)),
        ImageSource(tmp_path / "bzImage"),
    ]
    with pytest.raises(UsageError, match="it has neither Kbuild nor"):
        kernels.for_path(Path())
    (tmp_path / "Kbuild").touch()
    here = kernels.for_path(Path())
    assert (here.name, here.source) == (tmp_path.name[:80], TreeSource(tmp_path))


def test_modules_beside_an_archive_have_no_effect(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has its own modules, so --modules has no effect"):
        kernels.for_path(an_rpm(tmp_path), tmp_path)


def test_a_compressed_file_that_is_no_tar_archive_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(COMPRESSIONS["gzip"](b"hello"))
    (tmp_path / "y").write_bytes(b"\x1f\x8b\x08damaged")
    assert archive.format_of(tmp_path / "x") is None
    assert archive.format_of(tmp_path / "y") is None
    assert archive.format_of(an_rpm(tmp_path)) is Format.RPM


# Addresses. A download is a process of its own; here it is a call.


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []

    def download(address: str, target: Path, *_: object) -> Path:
        done.append(address)
        assert fetcher.main(address, str(target)) == 0
        return target

    monkeypatch.setattr(packaged, "_download", download)
    return done


def url(cache: Cache, source: UrlSource) -> kernels.PreparedKernel:
    return packaged.prepare_url("remote", source, cache, lambda _: None)


def test_an_image_and_its_modules_are_downloaded(
    tmp_path: Path, cache: Cache, downloads: list[str]
) -> None:
    image, *rest = builders.kernel_members()
    (tmp_path / "bzImage").write_bytes(image[1])
    more = builders.tar(tmp_path / "modules.tar.xz", rest, "w:xz")
    source = UrlSource((tmp_path / "bzImage").as_uri(), more.as_uri())
    found = url(cache, source)
    assert (found.release, found.origin) == (RELEASE, source.image)
    assert {path.name for path in found.modules} > MODULES
    assert downloads == [source.image, source.modules]


def test_with_its_sum_a_kernel_is_downloaded_once(
    tmp_path: Path, cache: Cache, downloads: list[str]
) -> None:
    source = UrlSource(an_rpm(tmp_path).as_uri(), None, sha256_of(tmp_path / "k.rpm"))
    assert url(cache, source) == url(cache, source)
    assert len(downloads) == 1
    other = replace(source, file_sha256="0" * 64)
    with pytest.raises(KernelUnavailable, match="but the manifest says 0000"):
        url(cache, other)


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_address_that_leads_nowhere_is_a_sentence(
    tmp_path: Path, cache: Cache, say: Said
) -> None:
    address = (tmp_path / "none").as_uri()
    with pytest.raises(KernelUnavailable, match=r"cannot be downloaded: .*No such file") as caught:
        packaged.prepare_url("remote", UrlSource(address), cache, say)
    assert not caught.value.transient
    assert "downloading none" in say


def test_a_download_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetcher, "LIMIT", 100)
    (tmp_path / "x").write_bytes(bytes(101))
    assert fetcher.main((tmp_path / "x").as_uri(), os.devnull) == 1
    assert "it has more than" in capsys.readouterr().err
