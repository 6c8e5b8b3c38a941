# SPDX-License-Identifier: GPL-2.0-only
"""Which profile a command runs: what was asked for, or the smallest in which the checks are."""

from __future__ import annotations

import pytest

from guest import checks
from harness import cli
from harness.cli import common
from harness.errors import UsageError
from harness.manifest.plan import Plan, Profile
from harness.verdict.verdicts import Family

QUICK = checks.all_checks(checks.QUICK)[0].id
SCENARIO = next(check.id for check in checks.all_checks() if check.scenario)
COMMANDS = {
    "matrix": ["matrix"],
    "check": ["check", "bzImage"],
    "bisect": ["bisect", "--good", "a", "--bad", "b"],
    "step": ["step"],
}


def profile(command: str, *arguments: str) -> Profile:
    given = cli.parser().parse_args([*COMMANDS[command], *arguments])
    return common.profile_of(given)


@pytest.mark.parametrize("command", ["matrix", "check", "bisect"])
def test_all_checks_run_unless_something_else_is_asked_for(command: str) -> None:
    assert profile(command) is Profile.FULL


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (QUICK, Profile.QUICK),
        (SCENARIO, Profile.FULL),
        (f"{QUICK},{SCENARIO}", Profile.FULL),
        ("*", Profile.FULL),
        ("capability.mptcp", Profile.QUICK),  # every boot asks for it
        ("no.such", Profile.FULL),  # refused elsewhere
    ],
)
def test_a_check_is_looked_for_where_it_is(command: str, pattern: str, expected: Profile) -> None:
    assert profile(command, "--check", pattern) is expected


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_asked_for_holds(command: str) -> None:
    assert profile(command, "--check", QUICK, "--profile", "full") is Profile.FULL


@pytest.mark.parametrize("arguments", [["--any"], ["--incident", "abc"]])
def test_a_step_that_looks_for_anything_runs_all(arguments: list[str]) -> None:
    assert profile("step", *arguments) is Profile.FULL


def test_a_check_that_is_not_in_the_profile_is_refused() -> None:
    with pytest.raises(UsageError, match="matches no check of the profile quick"):
        common.matching_checks(SCENARIO, Profile.QUICK, tuple(Family))


def test_a_bisect_for_a_check_that_is_not_in_the_profile_is_refused() -> None:
    common.check_pattern(SCENARIO, Profile.FULL)
    with pytest.raises(UsageError, match="matches no check of the profile quick"):
        common.check_pattern(SCENARIO, Profile.QUICK)


def test_the_quick_checks_are_all_of_their_profile() -> None:
    assert common.matching_checks("*", Profile.QUICK, tuple(Family)) == ()


OF_IPV4 = next(item.id for item in checks.all_checks() if item.families == ("ipv4",))


def test_a_family_without_any_of_the_checks_is_not_run() -> None:
    """The guest has nothing to say of it, and silence would be a loss."""
    assert Plan(checks=(OF_IPV4,)).families == (Family.IPV4,)
    assert Plan(checks=(OF_IPV4, QUICK)).families == tuple(Family)
    assert Plan().families == tuple(Family)


def test_checks_that_do_not_run_in_the_family_are_refused() -> None:
    with pytest.raises(UsageError, match=r"matches no check of ipv6; omit --family"):
        common.matching_checks(OF_IPV4, Profile.FULL, (Family.IPV6,))
    assert common.matching_checks(OF_IPV4, Profile.FULL, (Family.IPV4,)) == (OF_IPV4,)
