# SPDX-License-Identifier: GPL-2.0-only
"""What reaches a terminal, and what happens when it is gone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from harness.report.terminal import ASCII, UNICODE, Glyphs, Writer, glyphs_for, style_of
from harness.text import plural, printable
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from tests.report.support import UNHURRIED, Encoded, FullOnce, Gone

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text – with é", "plain text – with é"),  # noqa: RUF001
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udc80", r"\udc80"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_a_terminal_acts_upon_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_ascii_terminal_gets_ascii() -> None:
    assert printable("é✓", unicode=False) == r"\xe9\u2713"


@UNHURRIED
@given(ANY_TEXT, st.booleans())
def test_any_text_becomes_printable(text: str, unicode: bool) -> None:
    assert printable(text, unicode=unicode).isprintable()


@UNHURRIED
@given(ANY_TEXT, st.integers(0, 20), st.sampled_from([ASCII, UNICODE]))
def test_fitted_text_is_never_wider_than_asked(text: str, width: int, glyphs: Glyphs) -> None:
    assert cell_len(glyphs.fit(glyphs.safe(text), width)) <= width


def test_long_text_is_cut_with_a_mark() -> None:
    assert (UNICODE.safe("abcdef", 3), ASCII.safe("abcdef", 3)) == ("abc…", "abc...")


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-16"])
def test_unicode_encoding_gets_unicode_marks(encoding: str) -> None:
    assert glyphs_for(Encoded(encoding)) is UNICODE


@pytest.mark.parametrize("encoding", ["ascii", "ANSI_X3.4-1968", "latin-1"])
def test_other_encoding_gets_ascii_marks(encoding: str) -> None:
    assert glyphs_for(Encoded(encoding)) is ASCII


def test_every_verdict_has_a_style() -> None:
    assert all(style_of(verdict) for verdict in (*KernelVerdict, *CheckVerdict))


def test_plural() -> None:
    assert [plural(n, "kernel") for n in range(3)] == ["0 kernels", "1 kernel", "2 kernels"]


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "EIO"), ValueError("closed")])
def test_writer_survives_a_stream_that_is_gone(error: Exception) -> None:
    stream = Gone(error)
    writer = Writer(stream)
    writer.write("one")
    writer.write("two")
    assert stream.writes == 1


def test_writer_survives_a_closed_stream() -> None:
    stream = Encoded("utf-8")
    stream.close()
    Writer(stream).write("one")


def test_writer_goes_on_after_a_stream_was_full() -> None:
    stream = FullOnce()
    writer = Writer(stream)
    writer.write("one")
    writer.write("two")
    assert stream.getvalue() == "two"


def test_writer_escapes_what_the_encoding_lacks() -> None:
    stream = Encoded("ascii")
    Writer(stream).write("✓")
    assert stream.written() == rb"\u2713"
