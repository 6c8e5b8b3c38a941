# SPDX-License-Identifier: GPL-2.0-only
"""``mptcp-harness nightly``: what is refused before a night, and what is said during it."""

from __future__ import annotations

import email
import threading
from collections.abc import Callable
from email import policy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cli, nightly, selftest
from harness.bisect import bisection, candidates, commit_search
from harness.bisect.candidates import Candidate
from harness.bisect.commit_search import Onward
from harness.bisect.predicate import Checks
from harness.bisect.results import Bisection, CommitEnding, CommitSearch, Ending
from harness.cli.nightly import _search
from harness.kernels import Cache
from harness.manifest import kernels_yaml
from harness.nightly import night
from harness.nightly.ends import Ends
from harness.nightly.results import Night
from harness.records.store import FILE
from harness.selftest.faults import FaultRow
from harness.verdict.verdicts import KernelVerdict
from tests.bisect.histories import Laboratory, git, line, make
from tests.bisect.simulated import SERIES
from tests.fake_boots import Outcomes
from tests.replacing import replaced

MANIFEST = """
kernels:
  - {name: stable, deb: {suite: trixie, package: linux-image-amd64}}
"""
SEEN = FaultRow("panic", "crash", "crash", KernelVerdict.CRASH, 3.0)


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest, and a home in which no night ever begins."""

    def run(*_: object) -> Night:
        raise AssertionError("a night has begun")

    monkeypatch.setattr(nightly, "run", run)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "kernels.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.mark.parametrize("option", ["--json", "--output"])
def test_a_bad_place_for_the_results_is_refused_before_the_night(
    manifest: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["nightly", str(manifest), option, str(manifest.parent)]) == 2
    assert capsys.readouterr().err.startswith(f"{option} {manifest.parent}: ")


def test_each_fault_of_the_selftest_is_said_as_it_is_seen(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def run(*given: object) -> tuple[FaultRow, ...]:
        given[4](SEEN)  # type: ignore[operator]
        assert any("panic" in text for text in said)
        return (SEEN,)

    monkeypatch.setattr(selftest, "run", run)
    request = nightly.NightRequest(manifest, [], [], manifest.parent / "results.sqlite")
    night._selftest(request, Cache(manifest.parent / "cache"), said.append, threading.Event())


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of a user without HOME, whose kernels boot well."""

    def unknown(_: str) -> Path:
        raise RuntimeError("no home")

    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("platformdirs.user_state_path", unknown)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Outcomes(tmp_path).install(monkeypatch.setattr)
    path = tmp_path / "kernels.yaml"
    path.write_text(MANIFEST)
    return path


def test_a_night_without_a_state_directory_keeps_all_in_its_output(
    homeless: Path, tmp_path: Path
) -> None:
    """Fails if the session, or the comparison after it, takes another store than the night's."""
    output = tmp_path / "out"
    arguments = ["nightly", str(homeless), "--no-selftest", "--output", str(output)]
    assert cli.main(arguments) == 0
    assert "nothing is newly wrong" in (output / "nightly.txt").read_text()
    page = (output / "nightly.html").read_text()
    assert "not compared" in page  # the first night
    assert [path.parent for path in tmp_path.rglob(FILE)] == [output]
    assert not (output / "nightly.unreported").exists()


def test_a_wrong_file_of_known_issues_is_refused_before_the_selftest(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.write_text(replaced(MANIFEST, "}}", "}, known_issues: known.yaml}"))
    (manifest.parent / "known.yaml").write_text("- no mapping")
    assert cli.main(["nightly", str(manifest)]) == 2
    assert "known.yaml:1:" in capsys.readouterr().err


def test_in_github_actions_a_night_has_a_summary_and_only_what_is_new_is_an_error(
    homeless: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    arguments = ["nightly", str(homeless), "--no-selftest", "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    assert (tmp_path / "summary").read_text().startswith("### mptcp-harness nightly: nothing is")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"::{lines[0].removeprefix('::stop-commands::')}::"


#: Keeps what it is given.
PROGRAM = """\
#!/bin/sh
printf '%s\\n' "$@" >{directory}/arguments
env >{directory}/environment
cat >{directory}/input
exit {status}
"""


def program(directory: Path, name: str, status: int = 0) -> Path:
    directory.mkdir()
    path = directory / name
    path.write_text(PROGRAM.format(directory=directory, status=status))
    path.chmod(0o755)
    return path


def test_a_notification_gets_the_report_the_status_and_the_other_reports(
    homeless: Path, tmp_path: Path
) -> None:
    told = program(tmp_path / "told", "tell-us")
    output = tmp_path / "out"
    arguments = ["nightly", str(homeless), "--no-selftest", "--output", str(output)]
    assert cli.main([*arguments, "--notify", f"{told} me"]) == 0
    given = (tmp_path / "told" / "arguments").read_text().splitlines()
    assert given == ["me", str(output / "nightly.md"), "0"]
    lines = (tmp_path / "told" / "environment").read_text().splitlines()
    reports = dict(line.split("=", 1) for line in lines if line.startswith("MPTCP_HARNESS_"))
    assert Path(reports["MPTCP_HARNESS_TEXT"]).read_text().startswith("nightly of ")
    assert Path(reports["MPTCP_HARNESS_MARKDOWN"]).read_text().startswith("### ")
    assert Path(reports["MPTCP_HARNESS_HTML"]).read_text().startswith("<!DOCTYPE html>")
    assert reports["MPTCP_HARNESS_SUMMARY"].startswith("nothing is newly wrong")


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (75, 3)])
def test_a_night_is_mailed_with_its_page(
    homeless: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    expected: int,
) -> None:
    sendmail = program(tmp_path / "bin", "sendmail", status)
    monkeypatch.setenv("PATH", f"{sendmail.parent}:/usr/bin:/bin")
    output = tmp_path / "out"
    arguments = ["nightly", str(homeless), "--no-selftest", "--output", str(output)]
    sender = ("--mail-from", "ci@example.org")
    assert cli.main([*arguments, "--mail", "me@example.org", *sender]) == expected
    content = (sendmail.parent / "input").read_bytes()
    mail = email.message_from_bytes(content, policy=policy.default)
    assert mail["Subject"].startswith("mptcp-harness nightly: nothing is newly wrong")
    assert (mail["From"], mail["To"]) == ("ci@example.org", "me@example.org")
    text, page = mail.iter_parts()
    assert text.get_content().startswith("nightly of ")
    assert page.get_filename() == "nightly.html"
    assert page.get_content() == (output / "nightly.html").read_text()
    assert ("the mail is in" in capsys.readouterr().err) == (status != 0)
    assert (output / "nightly.unreported").exists() == (status != 0), "else it counts as reported"


def test_a_wrong_address_is_refused_before_the_night(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["nightly", str(manifest), "--mail=-x", "--smtp", "localhost"]) == 2
    assert "--mail '-x': give an address" in capsys.readouterr().err


@pytest.fixture
def search(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[nightly.Search, list[Any]]]:
    """What a night bisects with, and how the stand-ins of the two searches were called."""
    monkeypatch.setattr(candidates, "between", lambda *_: SERIES)

    def of(*words: str) -> tuple[nightly.Search, list[Any]]:
        calls: list[Any] = []

        def packages(*_: object, onward: Onward | None) -> Bisection:
            calls.append(onward)
            return Bisection(Ending.NO_DIFFERENCE, "--any", False, 2, (), 0, 2, 0, 9.0, "no")

        def commits(good: Candidate, bad: Candidate, *given: Any) -> CommitSearch:
            calls.append((good, bad, given[1]))
            return CommitSearch(CommitEnding.UNTESTABLE, CLONE, "v1", "v2", "no such tag")

        monkeypatch.setattr(bisection, "bisect", packages)
        monkeypatch.setattr(commit_search, "search", commits)
        given = cli.parser(["nightly"]).parse_args(["nightly", str(manifest), *words])
        loaded = kernels_yaml.load(manifest)
        cache = Cache(tmp_path / "cache")
        store = tmp_path / "state" / FILE
        return _search(loaded, given, cache, threading.Event(), store), calls

    return of


CLONE = "https://example.org/linux.git"
WANTED = Checks(("payload.arrives",))


def test_where_the_manifest_names_a_clone_a_night_goes_on_to_the_commit(
    manifest: Path, search: Callable[..., tuple[nightly.Search, list[Any]]]
) -> None:
    """Fails if the night stops at the packages although there is a clone."""
    bisect, calls = search()
    bisect(Ends("a", "b", "series"), WANTED)
    assert calls == [None]
    manifest.write_text(f"defaults: {{git: {CLONE}}}\n{MANIFEST}")
    bisect, calls = search()
    bisect(Ends("a", "b", "series"), WANTED)
    assert calls[0].clone == CLONE


def test_commits_are_searched_without_packages_until_it_is_late(
    manifest: Path,
    search: Callable[..., tuple[nightly.Search, list[Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest.write_text(f"defaults: {{git: {CLONE}}}\n{MANIFEST}")
    bisect, calls = search("--bisect-time", "2h")
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("harness.cli.nightly.time", clock)
    ends = SERIES.candidates[0], SERIES.candidates[1]
    lines = bisect(Ends("a", "b", CLONE, commits=ends), WANTED)
    assert lines[:2] == [
        "in git: no commit (untestable): no such tag",
        f"  from v1 to v2 in {CLONE}",
    ]
    ((good, bad, onward),) = calls
    assert (good, bad) == ends
    assert not onward.is_late()
    now[0] = 7201
    assert onward.is_late()
    bisect(Ends("a", "b", CLONE, commits=ends), WANTED)
    assert calls[1][2].is_late()  # the time is for all bisects of the night


def test_a_search_that_ran_out_of_time_says_how_to_go_on(
    manifest: Path,
    search: Callable[..., tuple[nightly.Search, list[Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bisect, _ = search()
    late = CommitSearch(CommitEnding.OUT_OF_TIME, CLONE, "v1", "v2")
    found = Bisection(Ending.FOUND, "--any", False, 2, (), 0, 2, 0, 9.0, "", commits=late)
    monkeypatch.setattr(bisection, "bisect", lambda *_, **__: found)
    monkeypatch.setattr(commit_search, "search", lambda *_, **__: late)
    assert bisect(Ends("a", "b", "series"), WANTED)[-1] == (
        f"to continue: mptcp-harness bisect {manifest} --good a --bad b --check payload.arrives "
        f"--profile full --repo {CLONE}"
    )
    ends = SERIES.candidates[0], SERIES.candidates[1]
    assert bisect(Ends("a", "b", "series", commits=ends), WANTED)[-1] == (
        f"to continue, in {CLONE}: git bisect start v2 v1 && git bisect run mptcp-harness step "
        "--check payload.arrives --profile full"
    )


def test_a_regression_of_a_ref_ends_with_the_commit_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nights with all that they have except builds and boots; between them the branch moves."""
    clone = tmp_path / "linux"
    ids = make(clone, line("good", "good", "good", "bad", "bad", "bad"))
    lab = Laboratory(tmp_path, clone, ids)
    lab.install(monkeypatch.setattr)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = tmp_path / "kernels.yaml"
    manifest.write_text(
        f"defaults: {{git: {clone}}}\nkernels:\n  - {{name: export, git: {{ref: export}}}}\n"
    )
    status = []
    for number, tag in enumerate(("v6.18.15", "v6.19.6")):
        git(clone, "branch", "--force", "export", tag)
        arguments = [
            "nightly",
            str(manifest),
            "--no-selftest",
            "--output",
            str(tmp_path / str(number)),
        ]
        status.append(cli.main(arguments))
    report = (tmp_path / "1/nightly.txt").read_text()
    assert status == [0, 1]
    assert f"the fault came with commit {ids['third']}" in report
    assert "mptcp: third (A Developer, 2023-11-14)" in report
    assert lab.booted_commits.count("v6.19.6") == 1  # the night's own result counts
    assert ids["third"] in (tmp_path / "1/nightly.md").read_text()
