# SPDX-License-Identifier: GPL-2.0-only
"""The table as it is printed. UPDATE_GOLDEN=1 writes the files anew, for a person to review."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from harness.report.table import MIN_WIDTH, _capability_names, render
from harness.verdict.results import (
    BootEnd,
    CheckResult,
    Confirmed,
    EarlierRun,
    Incident,
    IncidentKind,
    KernelResult,
    RunResult,
    Timing,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests import factories
from tests.report.support import UNHURRIED

GOLDEN = Path(__file__).with_name("golden")
FAIL = CheckVerdict.FAIL
HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]markup[/red]\r\n\u202eevil\udc80\x9b31m\u2028 :warning: \\"


def plain(run: RunResult, width: int = 100, *, unicode: bool = True) -> str:
    return render(run, width=width, colour=False, unicode=unicode)


def assert_golden(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def broken_option() -> list[CheckResult]:
    """One option that is wrong at every place, one at a few, one that broke, one missing."""
    results: list[CheckResult] = []
    for family in Family:
        missing = "getsockopt(SOL_MPTCP, MPTCP_FULL_INFO)"
        results.append(
            factories.capability(
                "full_info",
                family,
                FAIL,
                detail=missing,
                expected="present, as kernels.yaml:12:5 says",
                got="EOPNOTSUPP",
            )
        )
        wrong = factories.check(
            "mptcp_info.write_seq_counts_sent_bytes",
            FAIL,
            family=family,
            detail="mptcpi_write_seq",
            expected="4660001000",
            got="4660000000",
            raw="0100000000080000" * 12,
        )
        results += factories.everywhere(wrong)
        results += factories.everywhere(factories.check(family=family))
    for side, phase, tos in (
        ("client", "established", "4"),
        ("client", "closed", "8"),
        ("server", "established", "12"),
        ("server", "closed", "16"),
    ):
        results.append(
            factories.check(
                "ip_tos.read_back", FAIL, phase=phase, side=side, expected=tos, got="0", raw="00"
            )
        )
    results.append(factories.check("ip_tos.read_back", phase="transferred"))
    results.append(
        factories.check(
            "tcpinfo.size_user", CheckVerdict.ERROR, detail="struct.error: unpack requires 4 bytes"
        )
    )
    return results


def crashed_run() -> RunResult:
    return factories.run(factories.crashed(factories.kernel()), factories.debian_6_1())


def infrastructure_run() -> RunResult:
    died = tuple(
        replace(
            factories.attempt("debian-6.12", number, BootEnd.VMM_DIED),
            detail="failed to set MSR 0x10a to 0x0",
            accel="kvm",
        )
        for number in (1, 2)
    )
    booted = replace(
        factories.kernel(),
        verdict=KernelVerdict.INFRASTRUCTURE,
        reason="QEMU died before the kernel said a word, twice: failed to set MSR 0x10a to 0x0",
        release="",
        capabilities={},
        families={},
        attempts=died,
        notes=("KVM opens, but a kernel does not boot with it",),
    )
    unfetched = KernelResult.infrastructure(
        "patched",
        "/src/linux/arch/x86/boot/bzImage is no kernel image: it is a directory.\n"
        "Name the bzImage or vmlinux itself.",
    )
    return factories.run(booted, unfetched, factories.kernel("debian-newest", "7.3.4+deb14-amd64"))


def hostile_run() -> RunResult:
    result = factories.check(
        HOSTILE, FAIL, phase=HOSTILE, detail=HOSTILE, expected=HOSTILE, got=HOSTILE, raw=HOSTILE
    )
    incident = Incident(IncidentKind.OOPS, HOSTILE, HOSTILE, f"{HOSTILE}\n{HOSTILE}", HOSTILE)
    attempt = replace(
        factories.attempt("k"), console=HOSTILE, events=HOSTILE, detail=HOSTILE, number=1
    )
    attempt = replace(attempt, stream=replace(attempt.stream, errors=(HOSTILE,)))
    kernel = replace(
        factories.failing(factories.kernel(HOSTILE, HOSTILE), result),
        reason=HOSTILE,
        capabilities={HOSTILE: True},
        incidents=(incident,),
        attempts=(attempt, replace(attempt, number=2)),
        notes=(HOSTILE,),
    )
    return replace(factories.run(kernel), qemu=HOSTILE, directory=HOSTILE)


RUNS = {
    "four-kernels": factories.run(*factories.four_kernels()),
    "failing": factories.run(
        factories.debian_6_1(), factories.failing(factories.kernel(), *broken_option())
    ),
    "crash": crashed_run(),
    "infrastructure": infrastructure_run(),
    "hostile": hostile_run(),
    "empty": factories.run(),
}


@pytest.mark.parametrize("name", RUNS)
def test_report_at_100_columns(name: str) -> None:
    assert_golden(name, plain(RUNS[name]))


def test_report_in_ascii() -> None:
    assert_golden("four-kernels-ascii", plain(RUNS["four-kernels"], unicode=False))


def test_report_at_80_columns_keeps_each_kernel_on_one_line() -> None:
    assert_golden("four-kernels-80", plain(RUNS["four-kernels"], 80))


def test_report_in_colour_says_the_same_as_without() -> None:
    coloured = render(RUNS["failing"], width=100, colour=True, unicode=True)
    lines = [line.rstrip() for line in Text.from_ansi(coloured).plain.splitlines()]
    assert "\x1b[" in coloured
    assert lines == plain(RUNS["failing"]).splitlines()


@pytest.mark.parametrize("unicode", [True, False])
def test_nothing_foreign_acts_upon_the_terminal(unicode: bool) -> None:
    text = plain(RUNS["hostile"], unicode=unicode).replace("\n", "")
    unsafe = {char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl")}
    assert unsafe == set()


def test_markup_of_others_is_shown_not_interpreted() -> None:
    assert "[red]markup[/red]" in plain(RUNS["hostile"])


def test_ascii_report_is_ascii() -> None:
    assert all(plain(run, unicode=False).isascii() for run in RUNS.values())


@pytest.mark.parametrize("name", ["four-kernels", "failing", "crash", "infrastructure"])
@pytest.mark.parametrize("width", [0, 1, 40, MIN_WIDTH, 80, 250])
def test_any_width_keeps_the_verdicts_whole(name: str, width: int) -> None:
    text = plain(RUNS[name], width)
    for kernel in RUNS[name].kernels:
        assert f" {kernel.verdict} " in text


def test_environment_does_not_change_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    before = render(RUNS["four-kernels"], width=100, colour=True, unicode=True)
    for name, value in {
        "TERM": "dumb",
        "COLUMNS": "40",
        "NO_COLOR": "1",
        "FORCE_COLOR": "1",
        "TTY_INTERACTIVE": "1",
        "JUPYTER_COLUMNS": "30",
    }.items():
        monkeypatch.setenv(name, value)
    assert render(RUNS["four-kernels"], width=100, colour=True, unicode=True) == before


def test_failures_beyond_the_cap_are_counted_and_located() -> None:
    results = [factories.check(f"option.property_{n}", FAIL) for n in range(25)]
    text = plain(factories.run(factories.failing(factories.kernel(), *results)))
    assert "… and 15 more checks, see results/20260804T101502-3f9a/debian-6.12/" in text


def test_long_excerpt_is_cut_and_located() -> None:
    crashed = factories.crashed(factories.kernel())
    excerpt = "".join(f"line {n}\n" for n in range(50))
    incident = replace(crashed.incidents[0], excerpt=excerpt)
    text = plain(factories.run(replace(crashed, incidents=(incident,))))
    assert "line 19\n    … and 30 more lines, see results/" in text


def test_long_raw_bytes_are_cut_with_their_number() -> None:
    result = factories.check(verdict=FAIL, raw="ab" * 300)
    text = plain(factories.run(factories.failing(factories.kernel(), result)))
    assert "… (300 bytes)" in " ".join(text.split())


def test_note_of_a_passing_kernel_is_shown() -> None:
    noted = replace(factories.kernel(), notes=("net.mptcp.enabled was 0, turned on",))
    assert "debian-6.12: pass\n  note      net.mptcp.enabled was 0, turned on\n" in plain(
        factories.run(noted)
    )


def reused(name: str, run: str) -> KernelResult:
    earlier = EarlierRun(run, f"2026-01-01T00:00:{len(name):02}+00:00", 7, f"/runs/{run}")
    return replace(factories.kernel(name), reused_from=earlier, attempts=(), timing=Timing())


def test_a_reused_result_is_marked_in_its_row() -> None:
    report = plain(factories.run(reused("old", "20260101-000000-abcdef"), factories.kernel("new")))
    last = {line.split()[0]: line.split()[-1] for line in report.splitlines() if line}
    assert (last["old"], last["new"]) == ("reused", "7.1")


def test_the_run_that_results_are_reused_from_is_named() -> None:
    run = "20260101-000000-abcdef"
    report = plain(factories.run(reused("old", run), reused("older", run)))
    assert f"reused from run {run}: 2 kernels; its seed was 7, kept in /runs/{run}\n" in report


def test_of_several_earlier_runs_it_is_said_what_came_from_which() -> None:
    first, second = "20260101-000000-abcdef", "20260102-000000-abcdef"
    report = plain(factories.run(reused("a", first), reused("b", second), reused("c", first)))
    assert f"reused from run {first}: a, c; " in report
    assert f"reused from run {second}: b; " in report


def test_a_run_that_reused_nothing_says_nothing_of_it() -> None:
    assert "reused" not in plain(RUNS["four-kernels"])


def test_a_directory_of_an_earlier_run_does_nothing_to_a_terminal() -> None:
    hostile = reused("k", HOSTILE)
    assert "\x1b" not in plain(factories.run(hostile))


def test_protocol_errors_of_a_lost_kernel_are_shown() -> None:
    stream = replace(factories.attempt("k").stream, errors=("event 3: unknown kind 'hi'",))
    lost = replace(
        factories.kernel(),
        verdict=KernelVerdict.LOST,
        reason="the guest broke the protocol",
        attempts=(replace(factories.attempt("k"), stream=stream),),
    )
    assert "  stream    event 3: unknown kind 'hi'\n" in plain(factories.run(lost))


def test_family_that_was_not_asked_for_is_a_dash() -> None:
    kernel = factories.kernel()
    only = {Family.IPV4: kernel.families[Family.IPV4]}
    row = plain(factories.run(replace(kernel, families=only))).splitlines()[9]
    assert row.split()[-4:] == ["pass", "–", "pass", "7.1"]  # noqa: RUF001


def test_capability_that_is_not_known_here_gets_a_column() -> None:
    kernel = replace(
        factories.kernel(), capabilities=factories.ALL_CAPABILITIES | {"teleport": False}
    )
    assert plain(factories.run(kernel)).splitlines()[8].split()[-1] == "teleport"


def test_capability_that_only_scenarios_ask_for_gets_no_column() -> None:
    kernel = replace(
        factories.kernel(), capabilities=factories.ALL_CAPABILITIES | {"mptcp_diag": False}
    )
    assert "mptcp_diag" not in plain(factories.run(kernel))


def test_guest_cannot_flood_the_columns() -> None:
    kernel = replace(factories.kernel(), capabilities={f"c{n}": True for n in range(1000)})
    assert max(cell_len(line) for line in plain(factories.run(kernel)).splitlines()) <= 100


@pytest.mark.parametrize(
    ("verdicts", "summary"),
    [
        (["pass"], "1 kernel: 1 pass; as expected"),
        (["pass", "unsupported"], "2 kernels: 1 pass, 1 unsupported; all as expected"),
        (["hang", "pass"], "2 kernels: 1 hang, 1 pass; not as expected: k0"),
        (["pass", "infrastructure"], "2 kernels: 1 pass, 1 infrastructure; not tested: k1"),
    ],
)
def test_summary(verdicts: list[str], summary: str) -> None:
    kernels = [
        replace(factories.kernel(f"k{n}"), verdict=KernelVerdict(verdict))
        for n, verdict in enumerate(verdicts)
    ]
    assert plain(factories.run(*kernels)).splitlines()[-2] == summary


def test_kernels_that_an_interrupted_run_did_not_get_to_are_shown() -> None:
    run = replace(
        factories.run(factories.kernel("first")), interrupted=True, missing=("second", "third")
    )
    text = plain(run).splitlines()
    rows = [line.split() for line in text if line.startswith(("first", "second", "third"))]
    assert [(row[0], row[-2]) for row in rows] == [
        ("first", "pass"),
        ("second", "missing"),
        ("third", "missing"),
    ]
    assert text[-2] == "1 kernel: 1 pass; interrupted; missing: second, third"


def test_a_run_that_got_to_no_kernel_names_them() -> None:
    run = replace(factories.run(), interrupted=True, missing=("only",))
    assert plain(run).splitlines()[-2] == "interrupted before any kernel; missing: only"


def test_every_boot_of_a_kernel_that_was_confirmed_is_shown() -> None:
    passed = replace(factories.attempt("k", 2), verdict=KernelVerdict.PASS)
    failed = replace(factories.attempt("k", 1), verdict=KernelVerdict.FAIL)
    bad = factories.failing(factories.kernel("k"), factories.check(verdict=FAIL))
    text = plain(factories.run(replace(bad, attempts=(failed, passed), confirmed=Confirmed(2, 1))))
    assert "attempt 1: fail, the VM powered off" in text
    assert "attempt 2: pass, the VM powered off" in text
    assert "k/attempt-2/console.log" in text


def test_the_boots_that_a_pass_took_are_shown() -> None:
    died = factories.attempt("k", 1, BootEnd.VMM_DIED)
    kernel = replace(factories.kernel("k"), attempts=(died, factories.attempt("k", 2)))
    assert "attempt 1: QEMU died" in plain(factories.run(kernel))


def test_summary_of_an_interrupted_run_does_not_end_in_all_as_expected() -> None:
    run = replace(factories.run(factories.kernel()), interrupted=True)
    assert plain(run).splitlines()[-2] == "1 kernel: 1 pass; interrupted"


def test_kernel_without_a_time_shows_a_dash() -> None:
    kernel = replace(factories.kernel(), timing=Timing())
    assert plain(factories.run(kernel)).splitlines()[9].split()[-1] == "–"  # noqa: RUF001


@UNHURRIED
@given(st.text(st.characters(exclude_categories=()), max_size=80), st.booleans())
def test_any_text_in_any_place_is_rendered(text: str, unicode: bool) -> None:
    result = factories.check(text, FAIL, payload=text, detail=text, expected=text, raw=text)
    kernel = replace(
        factories.failing(factories.kernel(text, text), result), reason=text, notes=(text,)
    )
    shown = plain(factories.run(kernel), unicode=unicode).replace("\n", "")
    assert shown.isprintable()


def test_mptcp_over_ipv6_has_a_column_where_a_kernel_lacks_it() -> None:
    whole = replace(factories.kernel("whole"), capabilities={"mptcp": True, "mptcp_ipv6": True})
    part = replace(factories.kernel("part"), capabilities={"mptcp": True, "mptcp_ipv6": False})
    assert "mptcp_ipv6" not in _capability_names([whole])
    assert "mptcp_ipv6" in _capability_names([whole, part])
