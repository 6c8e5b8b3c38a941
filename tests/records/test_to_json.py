# SPDX-License-Identifier: GPL-2.0-only
"""The contract of ``--json``, as outside scripts rely on it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records.to_json import boot_end_word, kernel_text, kernel_to_json, to_json
from harness.verdict.results import (
    Attempt,
    BootEnd,
    CheckKey,
    CheckResult,
    Confirmed,
    CrossCheck,
    CutRound,
    EarlierRun,
    FamilyResult,
    Incident,
    IncidentKind,
    KernelResult,
    MissingFix,
    Phase,
    ProgramEnd,
    ProgramRun,
    RoundFailures,
    Rounds,
    RunResult,
    Stream,
    Timing,
)
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests import factories
from tests.report.support import UNHURRIED

RUN_KEYS = {
    "id": str,
    "started": str,
    "finished": str,
    "harness_version": str,
    "host": str,
    "qemu": str,
    "virtme_ng": str,
    "accel": str,
    "seed": int,
    "interrupted": bool,
    "missing": list,
    "timing": dict,
    "directory": str,
    "notes": list,
    "code": str,
    "asked": (dict, type(None)),
}
KERNEL_KEYS = {
    "name": str,
    "release": str,
    "version": str,
    "origin": str,
    "image_sha256": str,
    "verdict": str,
    "reason": str,
    "accel": str,
    "capabilities": dict,
    "families": dict,
    "incidents": list,
    "attempts": list,
    "notes": list,
    "timing": dict,
    "reused_from": (dict, type(None)),
    "confirmed": (dict, type(None)),
    "rounds": (dict, type(None)),
    "missing_fixes": list,
    "cross_checks": list,
    "abi": str,
    "host": str,
    "arch": str,
}
CHECK_KEYS = {"id": str, "phase": str, "side": str, "verdict": str, "detail": str}
CHECK_KEYS_WHEN_PRESENT = {"payload", "expected", "got", "raw", "known"}
INCIDENT_KEYS = {
    "kind": str,
    "title": str,
    "fingerprint": str,
    "check": (str, type(None)),
    "excerpt": str,
    "known": str,
}
ATTEMPT_KEYS = {
    "number": int,
    "end": str,
    "verdict": (str, type(None)),
    "detail": str,
    "accel": str,
    "console": str,
    "events": str,
    "command": list,
    "boot_s": float,
    "checks_s": float,
    "total_s": float,
    "phases": list,
    "errors": list,
}
TIMING_KEYS = {
    "prepare_s": float,
    "boot_s": float,
    "checks_s": float,
    "total_s": float,
    "phases": list,
}

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
SECONDS = st.floats(0, 1e6, allow_nan=False)
PHASES = st.lists(st.builds(Phase, TEXT, SECONDS), max_size=2).map(tuple)
CHECKS = st.builds(
    CheckResult,
    key=st.builds(CheckKey, st.sampled_from(Family), TEXT, TEXT, TEXT, TEXT),
    verdict=st.sampled_from(CheckVerdict),
    detail=TEXT,
    expected=TEXT,
    got=TEXT,
    raw=TEXT,
    known=TEXT,
)
FAMILIES = st.dictionaries(
    st.sampled_from(Family),
    st.builds(
        FamilyResult,
        st.sampled_from(CheckVerdict),
        st.lists(CHECKS, max_size=2).map(tuple),
    ),
)
INCIDENTS = st.builds(
    Incident,
    kind=st.sampled_from(IncidentKind),
    title=TEXT,
    fingerprint=TEXT,
    excerpt=TEXT,
    check=st.none() | TEXT,
    known=TEXT,
)
ATTEMPTS = st.builds(
    Attempt,
    number=st.integers(1, 9),
    end=st.sampled_from(BootEnd),
    detail=TEXT,
    accel=TEXT,
    console=TEXT,
    events=TEXT,
    stream=st.builds(Stream, errors=st.lists(TEXT, max_size=2).map(tuple)),
    command=st.lists(TEXT, max_size=2).map(tuple),
    boot_s=SECONDS,
    checks_s=SECONDS,
    total_s=SECONDS,
    phases=PHASES,
    verdict=st.none() | st.sampled_from(KernelVerdict),
)
FIXES = st.builds(MissingFix, TEXT, TEXT, TEXT, st.lists(TEXT, max_size=2).map(tuple))
CROSS_CHECKS = st.builds(
    CrossCheck,
    TEXT,
    st.sampled_from(Family),
    st.builds(ProgramRun, st.sampled_from(ProgramEnd), st.integers(0, 255), SECONDS, TEXT),
    st.none() | st.booleans(),
    TEXT,
)
ROUNDS = st.builds(
    Rounds,
    asked=st.integers(2, 10**6),
    done=st.integers(0, 10**6),
    failed=st.integers(0, 10**6),
    by_check=st.dictionaries(TEXT, st.integers(1, 9), max_size=2),
    failures=st.lists(
        st.builds(
            RoundFailures,
            st.builds(CheckKey, st.sampled_from(Family), TEXT, TEXT, TEXT, TEXT),
            st.integers(1, 9),
            st.integers(0, 9),
            st.integers(0, 2**63),
            st.integers(0, 9),
        ),
        max_size=1,
    ).map(tuple),
    cut=st.none() | st.builds(CutRound, st.integers(1, 9), st.integers(0, 2**63), TEXT),
)
KERNELS = st.builds(
    KernelResult,
    name=TEXT,
    verdict=st.sampled_from(KernelVerdict),
    reason=TEXT,
    release=TEXT,
    version=TEXT,
    origin=TEXT,
    image_sha256=TEXT,
    accel=TEXT,
    capabilities=st.dictionaries(TEXT, st.booleans(), max_size=2),
    families=FAMILIES,
    incidents=st.lists(INCIDENTS, max_size=1).map(tuple),
    attempts=st.lists(ATTEMPTS, max_size=1).map(tuple),
    notes=st.lists(TEXT, max_size=1).map(tuple),
    timing=st.builds(Timing, SECONDS, SECONDS, SECONDS, SECONDS, PHASES),
    reused_from=st.none() | st.builds(EarlierRun, TEXT, TEXT, st.integers(0, 2**64), TEXT),
    confirmed=st.none() | st.builds(Confirmed, st.integers(1, 9), st.integers(1, 9)),
    rounds=st.none() | ROUNDS,
    abi=TEXT,
    arch=TEXT,
    missing_fixes=st.lists(FIXES, max_size=2).map(tuple),
    cross_checks=st.lists(CROSS_CHECKS, max_size=2).map(tuple),
)
RUNS = st.builds(
    RunResult,
    id=TEXT,
    started=TEXT,
    finished=TEXT,
    harness_version=TEXT,
    host=TEXT,
    qemu=TEXT,
    virtme_ng=TEXT,
    accel=TEXT,
    seed=st.integers(0, 2**64),
    kernels=st.lists(KERNELS, max_size=2).map(tuple),
    directory=TEXT,
    interrupted=st.booleans(),
    missing=st.lists(TEXT, max_size=2).map(tuple),
)


def assert_shape(value: dict[str, Any], keys: dict[str, Any]) -> None:
    assert set(value) == set(keys)
    for name, kind in keys.items():
        assert isinstance(value[name], kind), name


def assert_kernel(kernel: dict[str, Any]) -> None:
    assert_shape(kernel, KERNEL_KEYS)
    assert_shape(kernel["timing"], TIMING_KEYS)
    assert kernel["verdict"] in set(KernelVerdict)
    assert all(type(present) is bool for present in kernel["capabilities"].values())
    assert set(kernel["families"]) <= {"ipv4", "ipv6"}
    for family in kernel["families"].values():
        assert set(family) == {"verdict", "checks"}
        for check in family["checks"]:
            always = {k: v for k, v in check.items() if k not in CHECK_KEYS_WHEN_PRESENT}
            assert_shape(always, CHECK_KEYS)
            assert check["verdict"] in set(CheckVerdict)
    for incident in kernel["incidents"]:
        assert_shape(incident, INCIDENT_KEYS)
    for attempt in kernel["attempts"]:
        assert_shape(attempt, ATTEMPT_KEYS)


@UNHURRIED
@given(RUNS)
def test_every_run_has_exactly_the_documented_keys(run: RunResult) -> None:
    whole = json.loads(to_json(run))
    assert set(whole) == {"schema", "run", "kernels"}
    assert whole["schema"] == 1
    assert_shape(whole["run"], RUN_KEYS)
    assert len(whole["kernels"]) == len(run.kernels)
    for kernel in whole["kernels"]:
        assert_kernel(kernel)


@UNHURRIED
@given(KERNELS)
def test_kernel_survives_any_json_writer(kernel: KernelResult) -> None:
    plain = kernel_to_json(kernel)
    assert json.loads(json.dumps(plain, ensure_ascii=False).encode("utf-8")) == plain


@UNHURRIED
@given(KERNELS)
def test_text_of_a_kernel_says_what_its_object_says(kernel: KernelResult) -> None:
    assert json.loads(kernel_text(kernel)) == kernel_to_json(kernel)


@UNHURRIED
@given(TEXT)
def test_text_of_a_guest_comes_back_as_it_was(text: str) -> None:
    run = factories.run(replace(factories.kernel(), reason=text, families={}))
    (kernel,) = json.loads(to_json(run))["kernels"]
    assert kernel["reason"] == text.encode("utf-8", "backslashreplace").decode("utf-8")


def test_lone_surrogate_becomes_text_that_every_parser_accepts() -> None:
    run = factories.run(replace(factories.kernel(), reason="bad \udc80 byte"))
    assert r'"reason": "bad \\udc80 byte"' in to_json(run)


def test_file_shown_on_a_terminal_does_nothing_to_it() -> None:
    run = factories.run(replace(factories.kernel(), reason="\x1b[2J\x7f\x9b\u202e"))
    assert to_json(run).replace("\n", "").isprintable()


def test_kernel_of_a_run_is_the_same_as_alone() -> None:
    run = factories.run(*factories.four_kernels())
    alone = [json.loads(json.dumps(kernel_to_json(kernel))) for kernel in run.kernels]
    assert json.loads(to_json(run))["kernels"] == alone


def test_kernels_keep_their_order() -> None:
    run = factories.run(*factories.four_kernels())
    names = [kernel["name"] for kernel in json.loads(to_json(run))["kernels"]]
    assert names == ["debian-5.10", "debian-6.1", "debian-6.12", "debian-newest"]


def test_failed_check_holds_what_was_expected_and_came() -> None:
    failed = factories.check(
        verdict=CheckVerdict.FAIL, detail="optlen", expected="96", got="80", raw="50000000"
    )
    kernel = kernel_to_json(factories.failing(factories.kernel(), failed))
    assert kernel["families"]["ipv4"]["checks"] == [
        {
            "id": "mptcp_info.readable",
            "payload": "segment",
            "phase": "established",
            "side": "client",
            "verdict": "fail",
            "detail": "optlen",
            "expected": "96",
            "got": "80",
            "raw": "50000000",
        }
    ]


def test_passed_check_is_short() -> None:
    passed = factories.capability("mptcp", Family.IPV6)
    kernel = kernel_to_json(factories.failing(factories.kernel(), passed))
    assert kernel["families"]["ipv6"]["checks"] == [
        {"id": "capability.mptcp", "phase": "", "side": "", "verdict": "pass", "detail": ""}
    ]


def test_stream_errors_stand_in_their_attempt() -> None:
    attempt = replace(factories.attempt("k"), stream=Stream(errors=("line 3: not JSON",)))
    kernel = kernel_to_json(replace(factories.kernel(), attempts=(attempt,)))
    assert kernel["attempts"][0]["errors"] == ["line 3: not JSON"]


@pytest.mark.parametrize(
    ("end", "word"),
    [(BootEnd.POWERED_OFF, "powered-off"), (BootEnd.SILENCE_DEADLINE, "silence-deadline")],
)
def test_end_of_an_attempt_is_a_word(end: BootEnd, word: str) -> None:
    assert boot_end_word(end) == word
