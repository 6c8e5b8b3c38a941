# SPDX-License-Identifier: GPL-2.0-only
"""Completion scripts, made from the parsers."""

from __future__ import annotations

import subprocess

import pytest

from harness import cli
from harness.cli import COMMANDS


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--print-completion", shell])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert [name for name in COMMANDS if name not in text] == []


def test_bash_completes_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = script("bash", capsys)
    asked = (
        "\nCOMP_WORDS=(mptcp-harness mat); COMP_CWORD=1; _shtab_mptcp_harness mptcp-harness mat "
        "mptcp-harness; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    run = subprocess.run(
        ["bash", "--norc", "-c", text + asked], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["matrix"]
