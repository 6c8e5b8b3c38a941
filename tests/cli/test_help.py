# SPDX-License-Identifier: GPL-2.0-only
"""What --help teaches."""

from __future__ import annotations

import argparse
import shlex

import pytest

from harness import cli
from harness.cli import COMMANDS, arguments


def test_every_command_has_examples() -> None:
    assert set(arguments.EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_ends_with_its_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.parser([name]).parse_args([name, "--help"])
    assert f"examples:\n  mptcp-harness {name}" in capsys.readouterr().out


def test_an_example_is_a_command_line_that_parses(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (line for lines in arguments.EXAMPLES.values() for line, _ in lines):
        words = shlex.split(line.partition("|")[0])
        try:
            assert isinstance(cli.parser(words[:1]).parse_args(words), argparse.Namespace)
        except SystemExit:
            pytest.fail(f"{line}: {capsys.readouterr().err}")
