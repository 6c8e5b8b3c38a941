# SPDX-License-Identifier: GPL-2.0-only
"""Patches: which files, in which order, and the changes in a file that is a mail or a mailbox.

As with git-am(1): the mails of a mailbox apply one after another, each with its encoding undone
(quoted-printable, base64) and without carriage returns. A file that is no mail is taken as it is.
"""

from __future__ import annotations

import email
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import KernelUnavailable

#: A header of a mail (RFC 5322, 2.2), a line that continues one, and the first line of a mailbox.
_HEADER = re.compile(rb"[!-9;-~]+:.*")
_MAILBOX = b"From "
#: Headers one of which each mail has, and no diff.
_TELLING = re.compile(rb"^(?:From|Subject|Date):", re.M | re.I)


@dataclass(frozen=True)
class Mail:
    """The ``changes`` of a mail, for git apply, and its ``subject``, which is foreign."""

    subject: str
    changes: bytes


def files(sources: Sequence[Path]) -> list[Path]:
    """The patches in the order in which they are applied: of a directory, that of its names, or of
    its file ``series`` (quilt(1)).

    Raises KernelUnavailable.
    """
    found: list[Path] = []
    for path in sources:
        if not path.is_dir():
            found.append(path)
        elif (path / "series").is_file():
            lines = (path / "series").read_text().splitlines()
            names = [line.split("#")[0].strip() for line in lines]
            found += [path / name for name in names if name]
        else:
            found += sorted(path.glob("*.patch"))
    for path in found:
        if not path.is_file() or not os.access(path, os.R_OK):
            raise KernelUnavailable(f"the patch {path} cannot be read; correct the path")
    return found


def is_mail(path: Path) -> bool:
    """Whether git-am(1) would take ``path`` as a mail or a mailbox; raises OSError."""
    text = path.read_bytes()
    if text.startswith(_MAILBOX):
        return True
    head = text.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    lines = head.split(b"\n")
    folded = (line.startswith((b" ", b"\t")) or _HEADER.fullmatch(line) for line in lines)
    return bool(_HEADER.fullmatch(lines[0])) and all(folded) and bool(_TELLING.search(head))


def read(text: bytes) -> Mail:
    """One mail: its parts of type text, in their order."""
    mail = email.message_from_bytes(text)
    parts = [part for part in mail.walk() if part.get_content_maintype() == "text"]
    # A part with decode=True is bytes, unless it has parts of its own, which text has not.
    decoded = [part.get_payload(decode=True) for part in parts]
    changes = b"".join(part for part in decoded if isinstance(part, bytes))
    return Mail(str(mail.get("Subject", "")), changes.replace(b"\r\n", b"\n"))
