# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of keys on their way to a guest's shell, and what the guest is told."""

from __future__ import annotations

import pytest

from harness.vm import shell
from harness.vm.shell import Keys, Terminal


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ([b"ls -l\r\x03"], b"ls -l\r\x03"),
        ([b"\x01\x01"], b"\x01"),
        ([b"\x01a"], b"\x01"),
        ([b"\x01", b"a"], b"\x01"),
        ([b"\x01c"], b"\x01c"),
        ([b"a\x01xb"], b"a"),
    ],
)
def test_keys_pass_but_for_those_behind_ctrl_a(typed: list[bytes], passed: bytes) -> None:
    keys = Keys()
    assert b"".join(keys.pass_on(piece) for piece in typed) == passed


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        ([b"\x01x"], True),
        ([b"\x01", b"X"], True),
        ([b"x"], False),
        ([b"\x01\x01x"], False),
        ([b"\x01ax"], False),
    ],
)
def test_ctrl_a_x_leaves(typed: list[bytes], left: bool) -> None:
    keys = Keys()
    for piece in typed:
        keys.pass_on(piece)
    assert keys.left is left


def test_the_terminals_name_is_no_command_of_the_guests() -> None:
    files = shell._files("hello", Terminal(0, 1, name="x; poweroff"))
    assert b"TERM=vt100\n" in files["opt/shell"]


def test_a_greeting_is_no_command_of_the_guests() -> None:
    files = shell._files('6.1"$(poweroff -f)`reboot`', Terminal(0, 1))
    assert b'"6.1??(poweroff -f)?reboot?"' in files["opt/profile"]
