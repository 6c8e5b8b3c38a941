# SPDX-License-Identifier: GPL-2.0-only
"""What a person reads of a replay."""

from __future__ import annotations

from harness.replay.replay import ReplayRow
from harness.report.replay import line, summary, table
from harness.verdict.failures import (
    Again,
    Comparison,
    Conclusion,
    Follows,
    MachineUsed,
    Symptom,
    Tried,
)
from harness.verdict.verdicts import KernelVerdict

MACHINE = MachineUsed("tcg", 1, "7.2")
SAME = Symptom("check ipv4 a.b", "ipv4 a.b")
NEW = Symptom("incident f00d", "WARNING at \x1b[2Jnet/x.c [f00d]")


def row(again: Again, **found: tuple[Symptom, ...]) -> ReplayRow:
    comparison = Comparison(again, **found)
    return ReplayRow(
        MACHINE, 2, KernelVerdict.FAIL, "a.b: it \x1bbroke", comparison, 6.25, "/run/console"
    )


def test_the_same_failure_is_named() -> None:
    said = "TCG, 1 processor, QEMU 7.2, boot 2: fail: the same: fails in ipv4 a.b (6.2 s)"
    assert line(row(Again.SAME, same=(SAME,))) == said


def test_a_report_of_the_kernels_is_nothing_it_fails_in() -> None:
    assert ": the same: WARNING at " in line(row(Again.SAME, same=(NEW,)))


def test_what_is_new_and_what_is_gone_stands_below() -> None:
    text = line(row(Again.PARTLY, same=(SAME,), new=(NEW,), gone=(SAME,)))
    assert text.splitlines()[1:] == [
        "    not this time: ipv4 a.b",
        r"    new: WARNING at \x1b[2Jnet/x.c [f00d]",
        "    console: /run/console",
    ]


def test_another_failure_has_its_reason_and_nothing_a_terminal_would_obey() -> None:
    text = line(row(Again.OTHER, new=(NEW,), gone=(SAME,)))
    assert text.splitlines()[0].endswith(r"another failure: a.b: it \x1bbroke (6.2 s)")
    assert "\x1b" not in text


def test_many_symptoms_are_counted() -> None:
    many = tuple(Symptom(str(number), f"s{number}") for number in range(9))
    assert "s5; and 3 more (" in line(row(Again.SAME, same=many))


def test_how_often_it_came_again_is_said() -> None:
    tried = [Tried(MACHINE, (Again.SAME, Again.GONE, Again.OTHER, Again.UNTESTED))]
    assert summary(tried) == "the failure was reproduced in 1 of 3 boots, another one in 1"


def test_boots_that_told_nothing_are_no_all_clear() -> None:
    assert summary([Tried(MACHINE, (Again.UNTESTED,))]) == "nothing was learned about the kernel"


def test_what_was_not_tried_stands_in_the_table() -> None:
    tried = [
        Tried(MACHINE, (Again.SAME, Again.OTHER)),
        Tried(MachineUsed("kvm", 1, "7.2"), (), "KVM was not tried, for it is missing"),
    ]
    conclusion = Conclusion(Follows.KERNEL, "it was reproduced", ("KVM was not tried",))
    assert table(tried, conclusion).splitlines() == [
        "variation                   boots  same failure  other failure",
        "TCG, 1 processor, QEMU 7.2  2      1 of 2        1",
        "KVM, 1 processor, QEMU 7.2  0      not tried",
        "",
        "the failure depends on the kernel: it was reproduced",
        "  KVM was not tried",
    ]
