# SPDX-License-Identifier: GPL-2.0-only
"""Text for people: escaped, and in the right number. Used by every room."""

from __future__ import annotations


def printable(text: str, *, unicode: bool = True) -> str:
    r"""``text`` on one line, with nothing in it that a terminal acts upon.

    Control characters, separators, bidirectional overrides, lone surrogates and unassigned
    code points become ``\x1b``, ``\u202e`` and so on; without ``unicode`` all beyond ASCII does.
    """
    if unicode and text.isprintable():
        return text
    return "".join(
        char if char.isprintable() and (unicode or char.isascii()) else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    # As in Python's own literals, \n and \t among them.
    return char.encode("unicode_escape").decode("ascii")


def plural(count: int, noun: str) -> str:
    """``1 kernel``, ``2 kernels``, ``2 fixes``."""
    if count == 1:
        return f"{count} {noun}"
    return f"{count} {noun}{'es' if noun.endswith(('x', 's', 'ch', 'sh')) else 's'}"
