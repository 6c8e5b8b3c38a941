# SPDX-License-Identifier: GPL-2.0-only
"""Text for people: escaping and plurals. Used by every room."""

from __future__ import annotations


def printable(text: str, *, unicode: bool = True) -> str:
    r"""``text`` on one line, escaped for a terminal.

    Control characters, separators, bidirectional overrides, lone surrogates and unassigned code
    points become ``\x1b``, ``\u202e`` and so on; without ``unicode``, so does everything beyond
    ASCII.
    """
    if unicode and text.isprintable():
        return text
    return "".join(
        char if char.isprintable() and (unicode or char.isascii()) else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    # As in Python literals, including \n and \t.
    return char.encode("unicode_escape").decode("ascii")


def plural(count: int, noun: str) -> str:
    """``1 kernel``, ``2 kernels``, ``2 fixes``."""
    if count == 1:
        return f"{count} {noun}"
    return f"{count} {noun}{'es' if noun.endswith(('x', 's', 'ch', 'sh')) else 's'}"


def quoted(text: str) -> str:
    """``text`` in quotes on one line, cut if long, and escaped for a terminal."""
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}…"
