# SPDX-License-Identifier: GPL-2.0-only
"""Nights in a row, with stand-in boots: what is compared with what, and what is bisected."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import nightly
from harness.bisect.candidates import Candidate
from harness.bisect.commits import tag
from harness.bisect.predicate import Predicate
from harness.errors import HostError
from harness.kernels import Cache
from harness.manifest.kernels_yaml import (
    DebSource,
    GitSource,
    ImageSource,
    KernelEntry,
    ManifestError,
)
from harness.nightly import ends
from harness.nightly.ends import Ends, NotBisected
from harness.nightly.night import LastReported
from harness.nightly.results import Night
from harness.records.store import FILE, Store
from harness.report import nightly as report
from harness.report.terminal import ASCII
from harness.run import session
from harness.run.request import Listener
from harness.verdict import comparison
from harness.verdict.results import (
    Attempt,
    BootEnd,
    CheckKey,
    CheckResult,
    KernelResult,
    Stream,
)
from harness.verdict.verdicts import CheckVerdict, Family
from tests import factories, fake_boots
from tests.fake_boots import Outcomes

KERNEL = KernelEntry("stable", ImageSource(Path("/src/bzImage")), "the tests")
SERIES = KernelEntry("series", DebSource("trixie", "linux-image-*"), "the tests", is_series=True)


def with_results(*results: CheckResult) -> Stream:
    return replace(fake_boots.GOOD.stream, results=results)


KEYS = [
    CheckKey(Family.IPV4, name, "segment", "transferred", "server")
    for name in ("payload.arrives", "payload.ends_with_fin")
]
WRONG = [CheckResult(key, CheckVerdict.FAIL, "wrong") for key in KEYS]
RIGHT = [CheckResult(key, CheckVerdict.PASS) for key in KEYS]
GOOD = replace(fake_boots.GOOD, stream=with_results(*RIGHT))
FAILS = replace(GOOD, stream=with_results(WRONG[0], RIGHT[1]))
FAILS_MORE = replace(GOOD, stream=with_results(*WRONG))
FEWER_CHECKS = replace(GOOD, stream=with_results(RIGHT[0]))
NOT_STARTED = replace(GOOD, end=BootEnd.LAUNCH_FAILED, kernel_spoke=False, stream=Stream())


class Nights:
    """A manifest of one kernel and one series, and what is found night for night."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outcomes = Outcomes(directory)
        self.searched: list[tuple[Ends, str]] = []
        self.said: list[str] = []
        self.reports: list[Night] = []  # of the last night

    def night(self, outcome: Attempt = GOOD, **more: Any) -> Night:
        self.outcomes.of[KERNEL.name] = outcome
        request = nightly.NightRequest(
            manifest=self.directory / "kernels.yaml",
            entries=[KERNEL, SERIES],
            chosen=[KERNEL],
            jobs=1,
            store=self.directory / "state" / "mptcp-harness" / FILE,
            selftest=False,
            **more,
        )
        cache = Cache(self.directory / "cache")
        stop = threading.Event()
        self.reports.clear()
        return nightly.run(
            *(request, cache, self._listening, self.said.append, self._search),
            self.reports.append,
            stop,
        )

    @contextlib.contextmanager
    def _listening(self) -> Iterator[Listener]:
        yield lambda _: None

    def _search(self, ends: Ends, sought: Predicate) -> Sequence[str]:
        self.searched.append((ends, str(sought)))
        return ["the first bad kernel is 6.12.9"]


def member(release: str, version: str) -> Candidate:
    source = DebSource("trixie", f"linux-image-{release}")
    return Candidate(KernelEntry(f"series-{release}", source, "the tests"), release, version)


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("harness.run.attempts.BACK_OFF", (0.0,))
    made = Nights(tmp_path)
    made.outcomes.install(monkeypatch.setattr)
    members = [member("6.12.8", "6.12.8-1"), member("4.19.0", "v")]
    monkeypatch.setattr(ends, "everything", lambda *_: (members, ()))
    monkeypatch.setattr(ends, "age", members.index)
    return made


def text(night: Night) -> str:
    return report.render(night, ASCII)


def test_the_first_night_has_nothing_to_compare_with(nights: Nights) -> None:
    found = nights.night()
    assert ([k.name for k in found.first], found.compared) == (["stable"], ())


def test_a_good_kernel_that_fails_tonight_is_new(nights: Nights) -> None:
    nights.night()
    found = nights.night(FAILS)
    assert found.status == 1
    assert "NEW: stable" in text(found)
    assert "payload.arrives" in report.to_markdown(found)


def test_what_failed_last_night_as_well_is_not_new(nights: Nights) -> None:
    nights.night(FAILS)
    found = nights.night(FAILS)
    assert found.status == 0
    assert "still wrong" in text(found)


def test_another_check_that_fails_is_new(nights: Nights) -> None:
    nights.night(FAILS)
    assert nights.night(FAILS_MORE).status == 1


def test_a_check_that_was_not_made_before_and_fails_is_new(nights: Nights) -> None:
    nights.night(FEWER_CHECKS)
    assert nights.night(replace(GOOD, stream=with_results(RIGHT[0], WRONG[1]))).status == 1


def test_a_night_without_a_result_is_passed_over_in_the_comparison(nights: Nights) -> None:
    good = nights.night()
    nights.night(NOT_STARTED)
    found = nights.night(FAILS)
    assert [c.run for c in found.regressions] == [good.run.id]


def test_a_night_that_nobody_was_told_of_is_passed_over_in_the_comparison(
    nights: Nights,
) -> None:
    good = nights.night()
    nights.night(FAILS)
    found = nights.night(FAILS, last_reported=LastReported(good.run.id, unreported=True))
    assert [c.run for c in found.regressions] == [good.run.id]
    assert "the report of an earlier night was not delivered" in text(found)


def test_a_kernel_that_left_the_manifest_is_named(nights: Nights, tmp_path: Path) -> None:
    before = nights.night()
    with Store(tmp_path / "state" / "mptcp-harness" / FILE) as store:
        store.add(before.run.id, "debian-6.1", "pass", "{}")
    assert "no longer in the manifest: debian-6.1" in text(nights.night())


def test_a_damaged_result_is_said_and_passed_over(nights: Nights, tmp_path: Path) -> None:
    good = nights.night()
    with Store(tmp_path / "state" / "mptcp-harness" / FILE) as store:
        store.add(good.run.id, "stable", "pass", "{}")
    found = nights.night()
    assert found.compared == ()
    assert f"its result in run {good.run.id} cannot be read" in text(found)


def test_a_run_with_other_settings_is_no_baseline(nights: Nights) -> None:
    nights.night()
    nights.directory = nights.directory / "another"
    nights.directory.mkdir()
    assert nights.night(FAILS).compared == ()


@pytest.mark.parametrize(
    ("settings", "comparable"),
    [
        ({}, 1),
        ({"families": (Family.IPV4,)}, 0),
        ({"checks": ("payload.arrives",)}, 0),
        ({"payload": 9}, 0),
    ],
    ids=str,
)
def test_only_a_run_with_the_settings_of_the_night_is_a_baseline(
    nights: Nights, settings: dict[str, Any], comparable: int
) -> None:
    """Fails if runs are matched by their manifest alone."""
    request = fake_boots.asking(jobs=1, manifest=nights.directory / "kernels.yaml", **settings)
    nights.outcomes.of[KERNEL.name] = GOOD
    cache = Cache(nights.directory / "cache")
    session.run([KERNEL], request, cache, lambda _: None, threading.Event())
    assert len(nights.night(FAILS).compared) == comparable


def test_the_same_image_that_does_worse_is_not_bisected(nights: Nights) -> None:
    nights.night()
    found = nights.night(FAILS)
    assert nights.searched == []
    assert "the same kernel image was better before" in found.bisects[0].why_not


def rebuilt(nights: Nights, monkeypatch: pytest.MonkeyPatch, release: str, version: str) -> None:
    """Of another image was the night before."""
    prepare = nights.outcomes.prepare

    def other(entry: KernelEntry, *_: object) -> object:
        return replace(prepare(entry), image_sha256="1" * 64, version=version)

    older = replace(GOOD, stream=replace(GOOD.stream, release=release))
    with monkeypatch.context() as patched:
        patched.setattr("harness.kernels.prepare", other)
        nights.night(older)


def test_a_new_regression_is_bisected_in_its_series(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt(nights, monkeypatch, "6.12.8", "6.12.8-1")
    found = nights.night(FAILS)
    ends = Ends("series-6.12.8", "series-4.19.0", "series")
    assert nights.searched == [(ends, "--check payload.arrives")]
    assert found.bisects[0].answer == ("the first bad kernel is 6.12.9",)
    assert "the first bad kernel is 6.12.9" in report.to_markdown(found)


def test_who_went_back_to_an_older_kernel_has_it_bisected_the_other_way(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [member("4.19.0", "v"), member("6.12.8", "6.12.8-1")]
    monkeypatch.setattr(ends, "everything", lambda *_: (members, ()))
    monkeypatch.setattr(ends, "age", members.index)
    rebuilt(nights, monkeypatch, "6.12.8", "6.12.8-1")
    nights.night(FAILS)
    assert nights.searched[0][0] == Ends("series-6.12.8", "series-4.19.0", "series")


def test_where_the_good_kernel_is_gone_its_nearest_elder_is_taken(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt(nights, monkeypatch, "6.12.7", "6.12.7-1")
    order = {"6.12.8": 3, "6.12.7": 2, "4.19.0": 4}
    monkeypatch.setattr(ends, "age", lambda candidate: order[candidate.release])
    found = nights.night(FAILS)
    assert nights.searched[0][0].good == "series-6.12.8"
    assert "series no longer has 6.12.7, which was good; using 6.12.8" in text(found)


def test_a_user_who_wants_no_bisect_gets_none(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt(nights, monkeypatch, "6.12.8", "6.12.8-1")
    assert nights.night(FAILS, bisect=False).bisects == ()
    assert nights.searched == []


def test_a_kernel_of_no_series_is_not_bisected_and_the_report_says_what_to_add(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt(nights, monkeypatch, "6.12.8", "6.12.8-1")
    monkeypatch.setattr(ends, "everything", lambda *_: ([], ()))
    found = nights.night(FAILS)
    assert "no series of the manifest holds 4.19.0; to bisect it, add" in text(found)


CLONE = "/src/linux"
DEBIAN = DebSource("trixie", "linux-image-amd64")


def result(entry: KernelEntry, version: str, commit: str = "") -> KernelResult:
    origin = f"/src/linux origin/export {commit} debug" if commit else "here"
    image = f"{version}{commit}"
    return replace(factories.kernel(entry.name), version=version, origin=origin, image_sha256=image)


def ends_between(
    entry: KernelEntry, before: KernelResult, after: KernelResult, clone: str = CLONE
) -> Ends:
    difference = comparison.kernels(before, after)
    return ends.ends_of([entry], difference, Cache(Path("/none")), lambda _: None, clone)


def test_of_a_ref_the_commits_of_both_nights_are_the_ends() -> None:
    """Fails if a regression of a kernel from git is only one of a series."""
    source = GitSource(CLONE, "origin/export", ("debug",))
    entry = KernelEntry("export", source, "the tests")
    nights = result(entry, "v", "0123456789ab"), result(entry, "v", "ba9876543210")
    found = ends_between(entry, *nights, clone="")
    assert (found.good, found.bad) == ("0123456789ab", "ba9876543210")
    assert found.commits is not None
    assert [candidate.entry.source for candidate in found.commits] == [
        replace(source, ref="0123456789ab"),
        replace(source, ref="ba9876543210"),
    ]
    renamed = replace(entry, source=replace(source, ref="origin/net"))
    with pytest.raises(NotBisected, match="do not name the commits of origin/net"):
        ends_between(renamed, *nights)


def test_of_a_package_without_a_series_the_versions_are_the_ends_in_a_clone() -> None:
    entry = KernelEntry("stable", DEBIAN, "the tests")
    versions = result(entry, "6.12.115-1"), result(entry, "6.12.117-1")
    found = ends_between(entry, *versions)
    assert (found.good, found.bad, found.series) == ("6.12.115-1", "6.12.117-1", CLONE)
    assert found.commits is not None
    assert [tag(candidate) for candidate in found.commits] == ["v6.12.115", "v6.12.117"]
    assert "no series of the manifest holds" in found.note
    with pytest.raises(NotBisected, match="no series of the manifest holds"):
        ends_between(entry, *versions, clone="")


def test_a_bisect_that_fails_leaves_a_report(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Sequence[str]:
        raise NotBisected("the archive is gone")

    rebuilt(nights, monkeypatch, "6.12.8", "6.12.8-1")
    monkeypatch.setattr(nights, "_search", fail)
    assert "the archive is gone" in text(nights.night(FAILS))


def test_what_is_known_is_reported_before_the_bisects_and_again_after(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object) -> Sequence[str]:
        (early,) = nights.reports
        assert "NEW: stable" in text(early)
        assert "still being bisected" in text(early)
        return ["the first bad kernel is 6.12.9"]

    rebuilt(nights, monkeypatch, "6.12.8", "6.12.8-1")
    monkeypatch.setattr(nights, "_search", search)
    found = nights.night(FAILS)
    assert nights.reports[-1] is found
    assert "still being bisected" not in text(found)


@pytest.mark.parametrize(
    "error",
    [
        ManifestError(("known.yaml:1:1: no YAML",)),
        HostError("no home directory"),
        OSError(28, "No space left on device"),
        ZeroDivisionError("a fault of the harness"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_ends_a_bisect_the_night_is_reported(
    nights: Nights, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As when the file of known issues becomes invalid while the bisect goes on."""

    def search(*_: object) -> Sequence[str]:
        raise error

    rebuilt(nights, monkeypatch, "6.12.8", "6.12.8-1")
    monkeypatch.setattr(nights, "_search", search)
    found = nights.night(FAILS)
    assert str(error).splitlines()[0] in found.bisects[0].why_not
    assert nights.reports[-1] is found


def test_results_that_cannot_be_compared_are_reported_all_the_same(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> object:
        raise HostError("the store is damaged")

    monkeypatch.setattr("harness.nightly.night.baselines", fail)
    assert nights.night().status == 3
    assert nights.reports[-1].uncompared == "the store is damaged"
    found = nights.night(FAILS)
    assert found.status == 1
    assert "not compared with earlier nights: the store is damaged" in text(found)
