# SPDX-License-Identifier: GPL-2.0-only
"""Output for a terminal: escaped text, marks that it can show, and a stream that may be closed."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len, set_cell_size

from harness.text import printable
from harness.verdict.verdicts import KernelVerdict


@dataclass(frozen=True)
class Glyphs:
    """The marks of a report, and how foreign text is escaped in it."""

    unicode: bool
    yes: str
    no: str
    unknown: str
    leader: str
    ellipsis: str

    def safe(self, text: str, limit: int = 512) -> str:
        """``text`` escaped, and cut to ``limit`` characters."""
        shown = printable(text[: limit + 1], unicode=self.unicode)
        return shown if len(shown) <= limit else shown[:limit] + self.ellipsis

    def fit(self, text: str, width: int) -> str:
        """``text``, already escaped, in at most ``width`` cells."""
        if cell_len(text) <= width:
            return text
        room = width - cell_len(self.ellipsis)
        return set_cell_size(text, room) + self.ellipsis if room > 0 else set_cell_size(text, width)


UNICODE = Glyphs(True, yes="✓", no="✗", unknown="–", leader="│", ellipsis="…")  # noqa: RUF001
ASCII = Glyphs(False, yes="y", no="n", unknown="-", leader="|", ellipsis="...")


def glyphs_for(stream: TextIO) -> Glyphs:
    """The marks that ``stream``'s encoding can represent."""
    try:
        name = codecs.lookup(stream.encoding or "utf-8").name
    except LookupError:
        return ASCII
    return UNICODE if name.startswith("utf") else ASCII


_STYLES: dict[str, str] = {
    KernelVerdict.PASS: "green",
    KernelVerdict.UNSUPPORTED: "dim",
    KernelVerdict.WARNING: "yellow",
    KernelVerdict.INFRASTRUCTURE: "magenta",
}


def style_of(verdict: str) -> str:
    """The colour of a kernel's or a check's verdict."""
    return _STYLES.get(verdict, "bold red")


class Writer:
    """Writes to ``stream`` and never raises.

    A run must survive the reader of its output: a pager that quits, a terminal that hangs up.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = stream.encoding or "utf-8"
        self._gone = False

    def write(self, text: str) -> None:
        if self._gone:
            return
        try:
            self._stream.write(
                text.encode(self._encoding, "backslashreplace").decode(self._encoding)
            )
            self._stream.flush()
        except BlockingIOError:
            # QEMU makes a terminal that it shares with us non-blocking: this frame is lost, not the
            # next.
            pass
        except (OSError, ValueError, LookupError):
            self._gone = True
