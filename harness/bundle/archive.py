# SPDX-License-Identifier: GPL-2.0-only
"""Bundles as files: one is made for each kernel that fails, after its result is stored, and read
again without trust.

A bundle is a tar archive compressed by zstd, written atomically. It is plain ustar; all members are
owned by root and have no date, so that the same content gives the same bytes. zstd's checksum over
the whole file detects a flipped byte, but an attacker can compute it again."""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guest import events
from harness.bundle import contents
from harness.bundle.contents import (
    CHECKER,
    CONFIG,
    IMAGE,
    KNOWN_ISSUES,
    MANIFEST,
    MODULES,
    RESULT,
    Asked,
    Bundle,
)
from harness.errors import Damaged, KernelUnavailable, Malformed
from harness.kernels import PreparedKernel, compression
from harness.kernels.elf import mapped
from harness.kernels.image import configuration_of
from harness.kernels.kernel_image import recognise, unpack
from harness.manifest.entries import ImageSource, KernelEntry, TreeSource
from harness.records import to_json
from harness.verdict.results import Attempt, KernelResult
from harness.verdict.verdicts import KernelVerdict
from harness.vm import initramfs
from harness.vm.boot import BootPlan

#: Beside a kernel's result.json.
SUFFIX = ".bundle.tar.zst"
#: The files of an attempt's directory that are included.
ATTEMPT_FILES = ("console.log", "events.jsonl", "command.txt", "qemu.txt")


def place(directory: Path, kernel: str) -> Path:
    """The path of the bundle of ``kernel`` in a run's ``directory``."""
    return directory / "kernels" / kernel / f"{kernel}{SUFFIX}"


@dataclass
class Bundles:
    """The bundles of a run in ``directory``; ``versions`` are for people.

    ``with_image`` includes the kernel's image.
    """

    directory: Path
    entries: Sequence[KernelEntry]
    versions: Mapping[str, str]
    with_image: bool = False
    # Read now, because its sources may be edited during the run.
    checker: Mapping[str, bytes] = field(default_factory=lambda: initramfs.checker())
    _plans: dict[str, BootPlan] = field(default_factory=dict)

    def booting(self, plan: BootPlan) -> None:
        """Remember a boot before it begins. May be called from several threads."""
        self._plans[plan.kernel.name] = plan

    def keep(self, result: KernelResult) -> str:
        """Write the bundle of a kernel that failed; returns a message if that does not work."""
        plan = self._plans.pop(result.name, None)
        if not failed(result) or plan is None:
            return ""
        entry = next(entry for entry in self.entries if entry.name == result.name)
        try:
            target = place(self.directory, result.name)
            write(target, self._members(entry, plan, result))
        except (OSError, ValueError) as error:  # ValueError: content that the archive cannot hold
            return f"{result.name} failed, but its bundle could not be made: {error}"
        return ""

    def _members(
        self, entry: KernelEntry, plan: BootPlan, result: KernelResult
    ) -> dict[str, bytes]:
        room = _Room()
        room.add(RESULT, to_json.kernel_text(result).encode())
        for name, content in self.checker.items():
            room.add(f"{CHECKER}/{name}", content)
        for number, module in enumerate(plan.kernel.modules):
            room.add(f"{MODULES}/{number:02}-{module.name}", module.read_bytes())
        if entry.known_issues is not None:
            room.add(KNOWN_ISSUES, entry.known_issues.read_bytes())
        config = _config(entry, plan.kernel)
        if config:
            room.add(CONFIG, config.encode())
        if self.with_image:
            room.add(f"{IMAGE}/vmlinuz", plan.kernel.image.read_bytes())
        for attempt in result.attempts:
            for name, content in self._of_attempt(attempt):
                room.add(name, content)
        described = _describe(entry, plan, result, self.versions, room.left_out)
        return {**room.members, MANIFEST: contents.to_json(described, room.members)}

    def _of_attempt(self, attempt: Attempt) -> Iterator[tuple[str, bytes]]:
        files = (self.directory / attempt.console).parent
        for name in ATTEMPT_FILES:
            if (files / name).is_file():
                yield f"attempt-{attempt.number}/{name}", (files / name).read_bytes()


def failed(result: KernelResult) -> bool:
    """Whether ``result`` is of a kernel that failed in this run."""
    here = result.verdict is not KernelVerdict.INFRASTRUCTURE and result.reused_from is None
    return here and not result.verdict.as_expected


class _Room:
    """Collects members up to the limits of a readable bundle."""

    def __init__(self) -> None:
        self.members: dict[str, bytes] = {}
        self.left_out: list[str] = []
        self._left = LIMIT - (1 << 20)  # for bundle.json

    def add(self, name: str, content: bytes) -> None:
        if len(content) > self._left or len(self.members) >= MEMBERS - 1:
            self.left_out.append(name)
            return
        self._left -= len(content)
        self.members[name] = content


def _config(entry: KernelEntry, kernel: PreparedKernel) -> str:
    """The kernel's configuration as a .config, if completely known."""
    match entry.source:
        case ImageSource(image=image):
            place = image
        case TreeSource(tree=tree):
            place = tree / "arch" / "x86" / "boot" / "bzImage"
        case _:
            place = kernel.image
    try:
        booted = recognise(mapped(kernel.boot_image), str(kernel.boot_image), kernel.arch)
        with tempfile.TemporaryDirectory() as directory:
            found = configuration_of(place, unpack(booted, Path(directory) / "vmlinux"))
    except (KernelUnavailable, OSError):
        return ""
    if found is None or found.known is not None:
        return ""
    lines = [f"{name}={value}\n" for name, value in found.values.items()]
    return f"# from {found.source}\n{''.join(lines)}"


def _asked(plan: BootPlan) -> Asked:
    return Asked(plan.request.seed, plan.request.plan)


def _describe(
    entry: KernelEntry,
    plan: BootPlan,
    result: KernelResult,
    versions: Mapping[str, str],
    left_out: Sequence[str],
) -> Bundle:
    kernel = plan.kernel
    release = result.release or kernel.release
    expected = entry.expected(release)
    return Bundle(
        entry=entry,
        created=datetime.datetime.now(datetime.UTC),
        versions=versions,
        image_sha256=kernel.image_sha256,
        image=None,
        release=kernel.release,
        version=kernel.version,
        origin=kernel.origin,
        modules=(),
        kvm=result.accel == "kvm",
        asked=_asked(plan),
        expected={name: expectation.present for name, expectation in expected.items()},
        checker={},
        protocol=events.PROTOCOL,
        known_issues=None,
        left_out=tuple(left_out),
        result=result,
    )


if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Bytes of all members together, which are in memory; enough for an image with debug information.
LIMIT = 256 << 20
#: A bundle has about thirty, plus four for each attempt.
MEMBERS = 4096
#: The longest name that ustar has without a prefix.
NAME_LENGTH = 100
#: Bytes that tar adds for each member, and at the end of the archive.
_OVERHEAD, _TRAILER = 1024, 10240
_CHECKSUM: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
_PART = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")


def write(path: Path, members: Mapping[str, bytes]) -> None:
    """Write ``members``, by name, to the archive ``path`` atomically. Raises OSError."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with (
            new.open("wb") as file,
            zstd.ZstdFile(file, "wb", options=_CHECKSUM) as stream,
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for name, content in members.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise


def read(path: Path) -> dict[str, bytes]:
    """The members of the archive ``path``, by name. Raises :class:`Damaged`."""
    most = LIMIT + MEMBERS * _OVERHEAD + _TRAILER
    try:
        with path.open("rb") as file:
            packed = file.read(most + 1)
    except OSError as error:
        raise Damaged(
            f"{path} cannot be read: {error.strerror}; give the file of a bundle"
        ) from error
    if not packed:
        raise Damaged(f"{path} is empty, not a bundle; copy it again from its origin")
    try:
        plain = compression.decompress(packed, most)
    except compression.Unknown:
        raise Damaged(
            f"{path} is not a bundle, which is a .tar.zst in the directory of a failed kernel of a "
            f"run"
        ) from None
    except Malformed as error:
        raise Damaged(f"{path} is damaged ({error}); copy it again") from error
    try:
        return _plain_members(plain)
    # RecursionError: tarfile calls itself for each header that only names the next member.
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        raise Damaged(
            f"{path} is not a valid bundle: {error or 'its headers are nested'}"
        ) from error


def load(path: Path) -> Bundle:
    """The bundle in the file ``path``. Raises :class:`Damaged`, a sentence for the user."""
    members = read(path)
    try:
        return contents.parse(members)
    except Malformed as error:
        raise Damaged(
            f"{path} is not a valid bundle: {error}; copy it again from its origin, or use the "
            f"version of the harness that made it"
        ) from error


def _plain_members(plain: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as archive:
        for member in archive:
            if len(found) >= MEMBERS:
                raise ValueError(f"it has more than {MEMBERS} members")
            _check(member)
            if member.name in found:
                raise ValueError(f"it has {member.name!r} twice")
            file = archive.extractfile(member)
            assert file is not None, "it is a regular file"
            found[member.name] = file.read()
            if len(found[member.name]) != member.size:
                raise ValueError(f"{member.name!r} is cut off")
    return found


def _check(member: tarfile.TarInfo) -> None:
    """Raise ValueError unless the member is a plain file with a plain name."""
    if not all(map(_PART.fullmatch, member.name.split("/"))) or len(member.name) > NAME_LENGTH:
        raise ValueError(f"the name {member.name[:64]!r} is not valid in a bundle")
    # A sparse file's size is a claim, not the size in the archive.
    if member.type != tarfile.REGTYPE or member.issparse() or member.pax_headers:
        raise ValueError(f"{member.name!r} is not a plain file")
