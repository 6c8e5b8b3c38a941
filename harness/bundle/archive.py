# SPDX-License-Identifier: GPL-2.0-only
"""Files in a tar archive, compressed by zstd: written in one step, and read without any trust.

Plain ustar, everything root's and without a date, so that the same content makes the same bytes.
zstd's checksum over all of it tells a flipped byte; who means harm can make it anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

from harness.errors import Damaged, Malformed
from harness.kernels import compression

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Bytes of all members, which lie in memory; with an image and its debug information.
LIMIT = 256 << 20
#: A bundle has about thirty, and four more for each attempt.
MEMBERS = 4096
#: The longest name that ustar has without a prefix.
NAME_LENGTH = 100
#: Bytes of tar's own for each member, and at the end of the archive.
_OVERHEAD, _TRAILER = 1024, 10240
_CHECKSUM: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
_PART = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")


def write(path: Path, members: Mapping[str, bytes]) -> None:
    """Put ``members``, by name, into the archive ``path`` in one step. Raises OSError."""
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
        raise Damaged(f"{path} cannot be read: {error.strerror}; name a bundle's file") from error
    if not packed:
        raise Damaged(f"{path} is empty, no bundle; copy it again from where it was made")
    try:
        plain = compression.decompress(packed, most)
    except compression.Unknown:
        raise Damaged(
            f"{path} is no bundle, which is a .tar.zst as a failing kernel's directory in a run has"
        ) from None
    except Malformed as error:
        raise Damaged(f"{path} is damaged ({error}); copy it again") from error
    try:
        return _members(plain)
    # RecursionError: tarfile calls itself for each header that only names the next member.
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        raise Damaged(f"{path} is no sound bundle: {error or 'its headers are nested'}") from error


def _members(plain: bytes) -> dict[str, bytes]:
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
    """Raise ValueError for all but a plain file with a plain name."""
    if not all(map(_PART.fullmatch, member.name.split("/"))) or len(member.name) > NAME_LENGTH:
        raise ValueError(f"the name {member.name[:64]!r} is none that a bundle has")
    # A sparse file's size is what it claims, not what the archive holds.
    if member.type != tarfile.REGTYPE or member.issparse() or member.pax_headers:
        raise ValueError(f"{member.name!r} is no plain file")
