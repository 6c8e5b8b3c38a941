# SPDX-License-Identifier: GPL-2.0-only
"""A package that was made to do harm; signatures keep it away, and this if they do not."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import KernelUnavailable
from harness.kernels import archive, modules
from tests.kernels import builders
from tests.kernels.builders import RELEASE
from tests.kernels.conftest import needs

pytestmark = needs("dpkg-deb")
MODULES = f"./lib/modules/{RELEASE}"
IMAGE = (f"./boot/vmlinuz-{RELEASE}", builders.bzimage())


def unpack(package: Path) -> Path:
    root = package.parent / "root"
    root.mkdir(exist_ok=True)
    archive.unpack([package], root, "linux-image-x", threading.Event())
    return root


def member(
    name: str, kind: bytes, target: str = "", device: tuple[int, int] = (0, 0)
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    info.devmajor, info.devminor = device
    info.mode = 0o6777
    return info


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
        b"?",
    ],
)
@pytest.mark.parametrize("name", [f"{MODULES}/kernel/virtio_pci.ko", IMAGE[0]])
def test_only_files_are_taken_from_a_package(tmp_path: Path, kind: bytes, name: str) -> None:
    """What a device or a link is called does not make it an image or a module."""
    evil = member(name, kind, "/etc/passwd", (1, 5))
    other = [IMAGE] if name != IMAGE[0] else []
    package = builders.deb(tmp_path / "x.deb", [evil, *other])
    with contextlib.suppress(KernelUnavailable):
        unpack(package)
    made = [path for path in tmp_path.rglob("*") if path != package]
    assert all(path.is_dir() or path.is_file() for path in made)
    assert not any(path.is_symlink() or path.stat().st_mode & 0o6000 for path in made)
    assert not list(tmp_path.rglob("virtio_pci*"))


@pytest.mark.parametrize(
    "name",
    [
        "{tmp}/outside/virtio_pci.ko",
        "{tmp}/outside/boot/vmlinuz-6.1.0-50-amd64",
        "./boot/vmlinuz-../../outside",
        "./boot/../../outside/vmlinuz-6.1.0-50-amd64",
        f"{MODULES}/../../../../outside/virtio_pci.ko",
        "./lib/modules/../../outside/kernel/virtio_pci.ko",
    ],
)
def test_nothing_is_written_outside_of_the_root(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    evil = (name.format(tmp=tmp_path), builders.module("virtio_pci"))
    package = builders.deb(tmp_path / "x.deb", [evil, IMAGE])
    with contextlib.suppress(KernelUnavailable):
        unpack(package)
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "x.deb", "root"}
    assert not list((tmp_path / "outside").iterdir())


def test_a_name_with_a_line_break_stays_one_name(tmp_path: Path) -> None:
    evil = (f"{MODULES}/virtio_pci.ko\n../../x.ko", builders.module("virtio_pci"))
    unpack(builders.deb(tmp_path / "x.deb", [evil, IMAGE]))
    assert not list(tmp_path.rglob("*.ko*"))


# Bombs: kilobytes of a package that are gigabytes when unpacked.


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def gzipped(parts: Iterable[bytes]) -> bytes:
    stream = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    return b"".join([*(stream.compress(part) for part in parts), stream.flush()])


def zeros(size: int) -> Iterator[bytes]:
    chunk = bytes(1 << 20)
    return (chunk for _ in range(size >> 20))


def a_huge_image() -> Iterator[bytes]:
    yield header(IMAGE[0], 8 << 30)
    yield from zeros(8 << 20)


def images_without_end() -> Iterator[bytes]:
    for number in range(4):
        yield header(f"{IMAGE[0]}-{number}", 32 << 20)
        yield from zeros(32 << 20)


def a_huge_file_that_nobody_wants() -> Iterator[bytes]:
    yield header("./usr/share/doc/x", 1 << 50)
    yield from zeros(8 << 20)


def files_without_end() -> Iterator[bytes]:
    return (header(f"./{number}", 0) for number in range(3000))


def a_name_that_fills_the_memory() -> Iterator[bytes]:
    yield header("././@LongLink", 4 << 30, tarfile.GNUTYPE_LONGNAME)
    yield from zeros(8 << 20)


def attributes_that_fill_the_memory() -> Iterator[bytes]:
    yield header("./x", 4 << 30, tarfile.XHDTYPE)
    yield from zeros(8 << 20)


def names_of_names_without_end() -> Iterator[bytes]:
    for _ in range(5000):
        yield header("././@LongLink", 2, tarfile.GNUTYPE_LONGNAME)
        yield b"x\0" + bytes(510)


BOMBS: list[Callable[[], Iterator[bytes]]] = [
    a_huge_image,
    images_without_end,
    a_huge_file_that_nobody_wants,
    files_without_end,
    a_name_that_fills_the_memory,
    attributes_that_fill_the_memory,
    names_of_names_without_end,
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_goes_off(
    bomb: Callable[[], Iterator[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_MEMBERS_LIMIT", 2000)
    monkeypatch.setattr(archive, "_WANTED_LIMIT", 64 << 20)
    package = builders.package(tmp_path / "x.deb", gzipped(bomb()))
    started = time.process_time()
    with pytest.raises(KernelUnavailable, match=r"x\.deb (is not a kernel|cannot be unpacked)"):
        unpack(package)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(("suffix", "compress"), [(".xz", builders.xz), (".gz", gzip.compress)])
def test_a_module_that_grows_without_end_is_refused(
    suffix: str, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "MODULE_LIMIT", 1 << 20)
    bomb = compress(builders.module("virtio_pci") + bytes(4 << 20))
    with pytest.raises(KernelUnavailable, match="too large"):
        modules.load(f"kernel/virtio_pci.ko{suffix}", bomb)


def test_a_chain_of_made_up_dependencies_ends(tmp_path: Path) -> None:
    """Each pass over a package costs seconds; a chain must not ask for one after another."""
    chain = {f"kernel/m{i}.ko": (f"m{i + 1}",) for i in range(200)}
    files = builders.module_files(modules={"kernel/virtio_pci.ko": ("m0",), **chain})
    package = builders.kernel_deb(tmp_path / "x.deb", files=files)
    with pytest.raises(KernelUnavailable, match="deep, down to m"):
        unpack(package)


def sound() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in [IMAGE, (f"{MODULES}/virtio_pci.ko", builders.module("virtio_pci"))]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


SOUND = sound()


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(st.tuples(st.integers(0, 511), st.integers(1, 255)), min_size=1, max_size=6))
def test_a_damaged_header_raises_nothing_but_a_refusal(
    changes: list[tuple[int, int]],
) -> None:
    data = bytearray(SOUND)
    for place, change in changes:
        data[place] ^= change
    # A sum that is right again, so that more than the sum is tried.
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.suppress(KernelUnavailable),
    ):
        unpack(builders.package(Path(directory, "x.deb"), gzip.compress(bytes(data), 1)))
