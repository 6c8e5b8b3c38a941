# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of keys on their way to a guest's shell, and what the guest is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.host.architectures import Arch
from harness.kernels import PreparedKernel
from harness.vm import shell
from harness.vm.commandline import Machine
from harness.vm.shell import Keys, ShellPlan, Terminal


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


def _plan(greeting: str, arch: Arch = Arch.AMD64) -> ShellPlan:
    here = Path("x")
    kernel = PreparedKernel("x", "6.12", "", "", here, "", here, here)
    return ShellPlan(kernel, here, here, Machine(arch=arch), greeting)


def test_the_shell_is_on_the_console_of_the_architecture() -> None:
    files = shell._files(_plan("hello", Arch.S390X), Terminal(0, 1))
    assert b"< /dev/ttysclp0 > /dev/ttysclp0" in files["opt/shell"]


def test_the_terminals_name_is_no_command_of_the_guests() -> None:
    files = shell._files(_plan("hello"), Terminal(0, 1, name="x; poweroff"))
    assert b"TERM=vt100\n" in files["opt/shell"]


def test_a_greeting_is_no_command_of_the_guests() -> None:
    files = shell._files(_plan('6.1"$(poweroff -f)`reboot`'), Terminal(0, 1))
    assert b'"6.1??(poweroff -f)?reboot?"' in files["opt/profile"]
