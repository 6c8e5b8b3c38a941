# SPDX-License-Identifier: GPL-2.0-only
"""Archives that the kernel unpacks as an initramfs: cpio's "newc" format.

https://docs.kernel.org/driver-api/early-userspace/buffer-format.html; several archives may
stand in one file, one behind the other, and are unpacked over each other.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

_ALIGNMENT = 4


class Writer:
    """Writes one archive to ``file``; everything belongs to root and has no date."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inode = 0

    def directory(self, name: str, mode: int = 0o755) -> None:
        self._entry(name, stat.S_IFDIR | mode, links=2)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | mode, content)

    def symlink(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, os.fsencode(target))

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._entry(name, stat.S_IFCHR | mode, device=(major, minor))

    def tree(self, root: Path) -> None:
        """All that is below ``root``, in a fixed order: directories, files and symbolic links."""
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_symlink():
                self.symlink(name, str(path.readlink()))
            elif path.is_dir():
                self.directory(name, stat.S_IMODE(path.stat().st_mode))
            else:
                self.file(name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))

    def close(self) -> None:
        """End the archive; the file stays open."""
        self._entry("TRAILER!!!", 0)

    def _entry(
        self,
        name: str,
        mode: int,
        content: bytes = b"",
        links: int = 1,
        device: tuple[int, int] = (0, 0),
    ) -> None:
        encoded = os.fsencode(name) + b"\0"
        self._inode += 1
        fields = (
            *(self._inode, mode, 0, 0, links, 0, len(content)),  # uid, gid and mtime are 0
            *(0, 0, *device, len(encoded), 0),
        )
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        for part in (header + encoded, content):
            self._file.write(part + bytes(-len(part) % _ALIGNMENT))
