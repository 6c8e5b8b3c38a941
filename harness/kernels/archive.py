# SPDX-License-Identifier: GPL-2.0-only
"""Packages and archives with kernels: .deb, .rpm and tar. Extracts only the files for a boot.

A package unpacks to up to 780 MB; it is streamed and never written to the disk. Archives are not
trusted: only regular files with known names are taken, their number and size are
limited, and nothing is ever written under a path of the archive's.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import struct
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO, Self

from harness.errors import Interrupted, KernelUnavailable, Malformed
from harness.host import tools
from harness.host.architectures import Arch
from harness.host.programs import Supervised
from harness.kernels import compression, modules
from harness.kernels.cache import Built
from harness.kernels.kernel_image import RELEASE, Check, assemble, no_check, recognise
from harness.kernels.modules import Module, ModuleSet
from harness.text import plural


class Format(StrEnum):
    """The formats of archives, as the manifest calls them."""

    DEB = "deb"
    RPM = "rpm"
    TAR = "tar"


_MODULES = rf"(?:\./|/)?(?:usr/)?lib/modules/{RELEASE}"
_IMAGE = re.compile(rf"(?:\./|/)?boot/vmlinuz-{RELEASE}|{_MODULES}/vmlinuz")
#: riscv64's and ppc64el's are not compressed, and so called vmlinux. An archive by make targz-pkg
#: has both for x86-64, and the vmlinux is large.
_PLAIN_IMAGE = re.compile(rf"(?:\./|/)?boot/vmlinu[xz]-{RELEASE}|{_MODULES}/vmlinu[xz]")
_PLAIN = (Arch.RISCV64, Arch.PPC64EL)
_MODULE = re.compile(rf"{_MODULES}/.+")
_BUILTIN = re.compile(rf"{_MODULES}/{re.escape(modules.BUILTIN)}")
# Bytes; every vmlinuz and every module that a boot needs is much smaller.
_MEMBER_LIMIT = 256 << 20
# Limits of a package: unpacked bytes and members; real ones have 780 MB and 5000. The whole package
# is decompressed, and tarfile keeps every header.
_PACKAGE_LIMIT = 8 << 30
_MEMBERS_LIMIT = 200_000
# The wanted files of a package are kept in memory; real packages have 20 MB of them.
_WANTED_LIMIT = 512 << 20
#: Seconds until dpkg-deb ends after its output is closed.
_PATIENCE = 60
# The limit of a name or attributes of the next member, which are read completely.
_HEADER_LIMIT = 1 << 20
_EXTENSIONS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_BUFFER = 1 << 20

#: Says whether the file of this path is wanted.
Wanted = Callable[[str], bool]
Members = Iterator[tuple[str, bytes]]


def format_of(path: Path) -> Format | None:
    """The format of the archive in the file ``path``; None if it is none. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(_TAR_MAGIC.stop)
        if start.startswith(b"!<arch>\n"):
            return Format.DEB
        if start.startswith(_LEAD_MAGIC):
            return Format.RPM
        file.seek(0)
        with contextlib.suppress(*_DAMAGE):
            start = _decompressed(file).read(_TAR_MAGIC.stop)
    return Format.TAR if start[_TAR_MAGIC] == b"ustar" else None


def unpack(
    archives: Iterable[Path],
    root: Path,
    what: str,
    stop: threading.Event,
    check: Check = no_check,
    arch: Arch = Arch.AMD64,
) -> Built:
    """Fill ``root`` from the ``archives`` of one kernel, called ``what`` in messages.

    ``check`` is as for :func:`assemble`. Raises KernelUnavailable, also once ``stop`` is set.
    """
    images, found = _read(archives, stop, arch)
    if len(images) != 1:
        has = plural(len(images), "kernel image") if images else "no kernel images"
        raise KernelUnavailable(
            f"{what} holds {has}; give a package with one kernel, such as linux-image-amd64"
        )
    image = recognise(images[0], f"the image in {what}", arch)
    modules.check_event_channel(found, what)
    return assemble(root, image, found, check)


def module_set(archives: Iterable[Path], stop: threading.Event) -> ModuleSet:
    """The modules for a boot in the ``archives`` of one kernel. Raises KernelUnavailable."""
    return _read(archives, stop)[1]


def _read(
    archives: Iterable[Path], stop: threading.Event, arch: Arch = Arch.AMD64
) -> tuple[list[bytes], ModuleSet]:
    """The images in ``archives``, and the modules for a boot."""
    archives = list(archives)
    images: dict[bytes, None] = {}  # some packages have the same image in two places
    builtin: list[bytes] = []
    image = _PLAIN_IMAGE if arch in _PLAIN else _IMAGE

    def fetch(names: frozenset[str]) -> Iterator[Module]:
        for path in archives:
            for name, data in members(path, lambda name: _is_wanted(name, names, image), stop):
                if image.fullmatch(name):
                    images[data] = None
                elif _BUILTIN.fullmatch(name):
                    builtin.append(data)
                else:
                    yield modules.load(name, data)

    chosen = modules.collect(fetch)
    names = modules.builtin_names(builtin[0]) if builtin else None
    return list(images), ModuleSet(chosen, names)


def _is_wanted(path: str, names: frozenset[str], image: re.Pattern[str]) -> bool:
    if image.fullmatch(path) or _BUILTIN.fullmatch(path):
        return True
    return _MODULE.fullmatch(path) is not None and modules.module_name(path) in names


def members(archive: Path, is_wanted: Wanted, stop: threading.Event) -> Members:
    """The regular files in ``archive`` whose paths are wanted, in one pass: (path, contents).

    Raises KernelUnavailable, also if the archive exceeds a limit.
    """
    try:
        kind = format_of(archive)
    except OSError as error:
        raise KernelUnavailable(
            f"{archive} cannot be read ({error.strerror}); make it readable for this user"
        ) from error
    if kind is None:
        raise KernelUnavailable(
            f"{archive} is neither a .deb, nor a .rpm, nor a tar archive; give the file as it was "
            "built or downloaded"
        )
    read = {Format.DEB: _in_deb, Format.RPM: _in_rpm, Format.TAR: _in_tar}[kind]
    try:
        yield from read(archive, is_wanted, stop)
    # RecursionError: tarfile calls itself for each header that only names the next member.
    except (*_DAMAGE, RecursionError) as error:
        raise KernelUnavailable(f"{archive.name} cannot be unpacked: {error}") from error
    except _Excess as excess:
        raise KernelUnavailable(
            f"{archive.name} is not a kernel package: it has {excess}"
        ) from None


class _Excess(Exception):
    """An archive exceeds a limit; the text says which."""


#: What readers of damaged archives raise.
_DAMAGE = (Malformed, tarfile.TarError, struct.error, EOFError)


class _Budget:
    """Counts the content of an archive, and raises _Excess if it exceeds a limit."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._members = self._bytes = self._wanted = 0

    def member(self, size: int) -> None:
        if self._stop.is_set():
            raise KernelUnavailable("interrupted")
        self._members += 1
        self._bytes += size
        if self._members > _MEMBERS_LIMIT:
            raise _Excess(f"more than {_MEMBERS_LIMIT} members")
        if self._bytes > _PACKAGE_LIMIT:
            raise _Excess(f"more than {_PACKAGE_LIMIT >> 20} MiB")

    def wanted(self, name: str, size: int) -> None:
        self._wanted += size
        if size > _MEMBER_LIMIT:
            raise _Excess(f"{name} of {size} bytes")
        if self._wanted > _WANTED_LIMIT:
            raise _Excess(f"more than {_WANTED_LIMIT >> 20} MiB of images and modules")


def _in_deb(deb: Path, is_wanted: Wanted, stop: threading.Event) -> Members:
    if tools.find("dpkg-deb") is None:
        raise KernelUnavailable(
            f"{deb.name} cannot be unpacked, because this host lacks dpkg-deb; install the package "
            "dpkg"
        )
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile())
        read, write = os.pipe()
        source = stack.enter_context(os.fdopen(read, "rb", buffering=0))
        with os.fdopen(write, "wb") as output:
            program = stack.enter_context(
                Supervised(command, os.environ, output=output, errors=errors)
            )
        yield from _tar(source, is_wanted, stop)
        source.close()
        try:
            status = program.wait(stop, _PATIENCE)
        except (Interrupted, subprocess.TimeoutExpired) as error:
            raise KernelUnavailable(f"{deb.name}: {error}") from error
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip()
    # dpkg-deb may die of SIGPIPE after its reader closed the pipe behind the last member.
    if 0 < status < 128 and said:
        raise Malformed(said)


def _in_tar(path: Path, is_wanted: Wanted, stop: threading.Event) -> Members:
    with path.open("rb") as file:
        yield from _tar(_decompressed(file), is_wanted, stop)


class _Header(tarfile.TarInfo):
    """A member's header of limited size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENSIONS and header.size > _HEADER_LIMIT:
            # tarfile treats some of its own errors as the end of the archive.
            raise _Excess(f"a header of {header.size} bytes")
        return header


def _tar(source: IO[bytes], is_wanted: Wanted, stop: threading.Event) -> Members:
    with tarfile.open(fileobj=source, mode="r|", bufsize=_BUFFER, tarinfo=_Header) as archive:
        budget = _Budget(stop)
        for member in archive:
            budget.member(member.size)
            if not member.isreg() or not is_wanted(member.name):
                continue
            budget.wanted(member.name, member.size)
            file = archive.extractfile(member)
            assert file is not None
            yield member.name, file.read()


# An rpm (rpm.org, "RPM V4 package format"): a lead that only says what it is, two headers, and the
# payload, a compressed cpio archive (cpio(5), "new ASCII format").
_LEAD_MAGIC = b"\xed\xab\xee\xdb"
_LEAD_SIZE = 96
_RPM_HEADER = struct.Struct(">4s4xII")  # magic, entries of the index, bytes of data
_RPM_HEADER_MAGIC = b"\x8e\xad\xe8\x01"
_RPM_ENTRY_SIZE = 16
#: Bytes; a kernel with 5000 modules has 2 MB of names and hashes of files.
_RPM_HEADER_LIMIT = 256 << 20
_CPIO_HEADER = 110
_CPIO_MAGIC = (b"070701", b"070702")
_CPIO_STRIPPED = b"07070X"  # names and sizes are in the rpm's header
_CPIO_NAME_LIMIT = 4096
_CPIO_END = b"TRAILER!!!"


def _in_rpm(path: Path, is_wanted: Wanted, stop: threading.Event) -> Members:
    with path.open("rb") as file:
        file.seek(_LEAD_SIZE)
        signature = _skip_rpm_header(file)
        file.seek(-signature % 8, os.SEEK_CUR)  # only the first header is padded
        _skip_rpm_header(file)
        yield from _cpio(_decompressed(file), is_wanted, _Budget(stop))


def _skip_rpm_header(file: IO[bytes]) -> int:
    """Go behind the header at the position of ``file``; returns the bytes of its data."""
    magic, entries, size = _RPM_HEADER.unpack(_exactly(file, _RPM_HEADER.size))
    if magic != _RPM_HEADER_MAGIC:
        raise Malformed("it is not an rpm, or it is damaged: a header lacks its magic number")
    if entries * _RPM_ENTRY_SIZE + size > _RPM_HEADER_LIMIT:
        raise _Excess(f"a header of {entries} entries and {size} bytes")
    file.seek(entries * _RPM_ENTRY_SIZE + size, os.SEEK_CUR)
    return int(size)


def _cpio(source: IO[bytes], is_wanted: Wanted, budget: _Budget) -> Members:
    while True:
        header = _exactly(source, _CPIO_HEADER)
        if header.startswith(_CPIO_STRIPPED):
            raise Malformed("its files are stored in the form of RPM 6, which is not supported")
        if not header.startswith(_CPIO_MAGIC) or not re.fullmatch(rb"[0-9A-Fa-f]+", header):
            raise Malformed("its payload is not a cpio archive")
        fields = [int(header[at : at + 8], 16) for at in range(6, _CPIO_HEADER, 8)]
        mode, size, length = fields[1], fields[6], fields[11]
        if not 0 < length <= _CPIO_NAME_LIMIT:
            raise _Excess(f"a name of {length} bytes")
        raw = _exactly(source, length).rstrip(b"\0")
        _skip(source, -(_CPIO_HEADER + length) % 4)
        if raw == _CPIO_END:
            return
        name = raw.decode("utf-8", "replace")
        budget.member(size)
        if stat.S_ISREG(mode) and size and is_wanted(name):
            budget.wanted(name, size)
            yield name, _exactly(source, size)
        else:
            _skip(source, size)
        _skip(source, -size % 4)


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = source.read(min(size - len(data), _BUFFER))
        if not more:
            raise Malformed("it is truncated")
        data += more
    return bytes(data)


def _skip(source: IO[bytes], size: int) -> None:
    while size > 0:
        size -= len(_exactly(source, min(size, _BUFFER)))


#: A tar archive's magic, in its first header.
_TAR_MAGIC = slice(257, 262)
_ZSTD_WINDOW = 27  # log2 of its bytes, as zstd's own limit


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    """The content of ``file`` from here on, decompressed by the format of its magic number."""
    start = file.read(6)
    file.seek(-len(start), os.SEEK_CUR)
    make = compression.decoder(start, _WANTED_LIMIT, _ZSTD_WINDOW)
    return file if make is None else io.BufferedReader(_Decompressed(file, make), _BUFFER)


class _Decompressed(io.RawIOBase):
    """The decompressed content of ``file``, which may consist of several streams."""

    def __init__(self, file: IO[bytes], make: Callable[[], compression.Decoder]) -> None:
        self._file = file
        self._make = make
        self._stream = make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        while True:
            more = b""
            if self._stream.eof:
                more = self._stream.unused_data or self._file.read(_BUFFER)
                if not more.lstrip(b"\0"):  # padding
                    return 0
                self._stream = self._make()
            elif self._stream.needs_input:
                more = self._file.read(_BUFFER)
                if not more:
                    raise EOFError("it is truncated")
            data = compression.decode(self._stream, more, len(view))
            if data:
                view[: len(data)] = data
                return len(data)
