# SPDX-License-Identifier: GPL-2.0-only
"""What a failure depends on, by the boots that reproduced it."""

from __future__ import annotations

import pytest

from harness.verdict.failures import Again, Follows, MachineUsed, Tried, conclude

#: A boot by a letter.
LETTERS = {
    "s": Again.SAME,
    "p": Again.PARTLY,
    "o": Again.OTHER,
    ".": Again.GONE,
    "?": Again.UNTESTED,
}


def tried(where: str, boots: str) -> Tried:
    """``tcg 2 q`` with boots by their letters; ``-`` is an obstacle."""
    accel, cpus, qemu = where.split()
    machine = MachineUsed(accel, int(cpus), qemu)
    if boots == "-":
        return Tried(machine, (), "KVM was not tried, for it is missing")
    return Tried(machine, tuple(LETTERS[letter] for letter in boots))


TABLE = [
    # Every boot, on several machines.
    ({"tcg 1 q": "sss", "tcg 2 q": "sss"}, Follows.KERNEL),
    ({"tcg 1 q": "s", "tcg 2 q": "s"}, Follows.KERNEL),
    ({"tcg 1 q": "sps", "kvm 1 q": "ss?"}, Follows.KERNEL),
    ({"tcg 1 q": "sss", "tcg 2 q": "sss", "kvm 1 q": "-"}, Follows.KERNEL),
    # Every boot, on one.
    ({"tcg 1 q": "sss"}, Follows.UNCLEAR),
    ({"tcg 1 q": "sss", "kvm 1 q": "-"}, Follows.UNCLEAR),
    ({"tcg 1 q": "sss", "kvm 1 q": "???"}, Follows.UNCLEAR),
    # No boot.
    ({"tcg 1 q": "...", "tcg 2 q": "..."}, Follows.UNCLEAR),
    ({"tcg 1 q": "ooo", "tcg 2 q": "..."}, Follows.UNCLEAR),
    ({"tcg 1 q": "???"}, Follows.UNCLEAR),
    ({"kvm 1 q": "-"}, Follows.UNCLEAR),
    ({}, Follows.UNCLEAR),
    # By the accelerator.
    ({"tcg 1 q": "...", "kvm 1 q": "sss"}, Follows.ENVIRONMENT),
    ({"tcg 1 q": "..", "tcg 2 q": "..", "kvm 1 q": "ss", "kvm 2 q": "ss"}, Follows.ENVIRONMENT),
    ({"tcg 1 q": "ooo", "kvm 1 q": "sss"}, Follows.ENVIRONMENT),
    # By the QEMU.
    ({"tcg 1 q": "sss", "tcg 2 q": "sss", "tcg 1 r": "..."}, Follows.ENVIRONMENT),
    # By the number of processors.
    ({"tcg 1 q": "...", "tcg 2 q": "sss"}, Follows.TIMING),
    ({"tcg 1 q": "sss", "tcg 2 q": "...", "kvm 1 q": "sss", "kvm 2 q": "..."}, Follows.TIMING),
    # By chance.
    ({"tcg 1 q": "s.s", "tcg 2 q": "s.s"}, Follows.TIMING),
    ({"tcg 1 q": "s.."}, Follows.TIMING),
    ({"tcg 1 q": "sss", "tcg 2 q": "s.s"}, Follows.TIMING),
    # By something, but with too few boots to know.
    ({"tcg 1 q": "ss", "tcg 2 q": ".."}, Follows.UNCLEAR),
    ({"tcg 1 q": "sss", "kvm 1 q": "..?"}, Follows.UNCLEAR),
    ({"tcg 1 q": "sss", "tcg 1 r": "."}, Follows.UNCLEAR),
    # By two things at once.
    ({"tcg 1 q": "sss", "kvm 2 q": "..."}, Follows.UNCLEAR),
]


@pytest.mark.parametrize(("boots", "follows"), TABLE, ids=str)
def test_a_failure_follows(boots: dict[str, str], follows: Follows) -> None:
    assert conclude([tried(*item) for item in boots.items()]).follows is follows


def test_what_was_not_varied_is_said() -> None:
    one_qemu = {"tcg 1 q": "sss", "tcg 2 q": "sss", "kvm 1 q": "-", "kvm 2 q": "-"}
    assert conclude([tried(*item) for item in one_qemu.items()]).unknown == (
        "it is not known whether it depends on the accelerator",
        "it is not known whether it depends on the QEMU",
        "KVM was not tried, for it is missing",
    )


def test_the_boots_on_each_side_are_counted() -> None:
    sides = [tried("tcg 1 q", "..."), tried("tcg 2 q", "spps")]
    assert conclude(sides).why == "it depends on the number of processors (1: 0 of 3, 2: 4 of 4)"


def test_where_nothing_came_again_more_boots_are_asked_for() -> None:
    said = conclude([tried("tcg 1 q", "..o")]).why
    assert said == (
        "it was not reproduced in 3 boots, although other failures were; use a larger --times"
    )
