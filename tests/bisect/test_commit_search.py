# SPDX-License-Identifier: GPL-2.0-only
"""From two packages to the commit: real histories, stand-in builds and boots."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.bisect import bisection, history
from harness.bisect.candidates import Candidate, Series
from harness.bisect.commit_search import Onward
from harness.bisect.predicate import Predicate
from harness.bisect.results import Bisection, CommitEnding, CommitSearch, Ending
from harness.host.architectures import Arch
from harness.kernels import Cache
from harness.manifest.kernels_yaml import GitSource, ImageSource, KernelEntry
from harness.report.bisect import render, render_commits, to_json
from harness.verdict.verdicts import Family
from tests import fake_boots
from tests.bisect import histories
from tests.bisect.histories import BAD, BROKEN, GOOD, PANIC, Laboratory, git, line, make, package
from tests.bisect.simulated import WANTED

ROOT = Path(__file__).resolve().parents[2]
SEVEN = line(*[GOOD] * 4, *[BAD] * 5)
#: A side branch that is merged, and a commit after it.
MERGED: histories.History = {
    "v6.18.15": (GOOD, ()),
    "main-1": (GOOD, ("v6.18.15",)),
    "side-1": (GOOD, ("v6.18.15",)),
    "side-2": (BAD, ("side-1",)),
    "main-2": (GOOD, ("main-1",)),
    "merge": (BAD, ("main-2", "side-2")),
    "v6.19.6": (BAD, ("merge",)),
}
Made = Callable[[histories.History], Laboratory]


@pytest.fixture
def laboratory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def of(commits: histories.History) -> Laboratory:
        made = Laboratory(tmp_path, tmp_path / "linux", make(tmp_path / "linux", commits))
        made.install(monkeypatch.setattr)
        return made

    return of


def first(found: CommitSearch) -> str:
    assert found.first, found.text
    return found.first.subject.removeprefix("mptcp: ")


def test_the_commit_between_two_packages_is_found(laboratory: Made) -> None:
    """Fails if the search stops at the tags, or counts a commit wrongly."""
    lab = laboratory(SEVEN)
    found = lab.search()
    assert first(found) == "culprit"
    assert (found.good, found.bad, found.commits) == ("v6.18.15", "v6.19.6", 8)
    assert lab.built == lab.booted_commits == ["v6.18.15", "v6.19.6", "culprit", "second", "third"]
    assert found.exit_status == 0


@pytest.mark.parametrize("place", [1, 5, 8])
def test_it_is_found_wherever_it_is(laboratory: Made, place: int) -> None:
    lab = laboratory(line(*[GOOD] * place, *[BAD] * (9 - place)))
    assert first(lab.search()) == [*histories.LINEAR, "v6.19.6"][place - 1]
    assert len(lab.built) <= 2 + 3


def test_nothing_in_the_clone_changes(laboratory: Made) -> None:
    """Fails if git bisect, a checkout or a fetch runs in the user's clone."""
    lab = laboratory(SEVEN)

    def state() -> list[tuple[str, bytes]]:
        files = (path for path in sorted(lab.clone.rglob("*")) if path.is_file())
        return [(str(path), path.read_bytes()) for path in files]

    before = state()
    lab.search()
    assert state() == before


def test_the_fault_may_be_on_a_side_branch(laboratory: Made) -> None:
    """Fails if the history is taken for a line: main-2 is newer than the culprit, and good."""
    lab = laboratory(MERGED)
    assert first(lab.search()) == "side-2"


def test_a_merge_may_be_the_first_bad_commit(laboratory: Made) -> None:
    lab = laboratory({**MERGED, "side-2": (GOOD, ("side-1",))})
    assert first(lab.search()) == "merge"


def test_a_commit_that_does_not_build_is_skipped(laboratory: Made) -> None:
    lab = laboratory(line(GOOD, GOOD, GOOD, BROKEN, BROKEN, GOOD, BAD, BAD, BAD))
    found = lab.search()
    assert first(found) == "sixth"
    assert found.others == ()
    broken = [tested for tested in found.evidence if not tested.builds]
    assert broken
    assert broken[0].why.startswith("the build failed: make ended with status 2")
    assert "does not build: code.c:1: error" in render_commits(found)
    assert found.boots == len(lab.booted_commits)


def test_where_skipped_commits_hide_it_all_that_remain_are_named(laboratory: Made) -> None:
    lab = laboratory(line(GOOD, GOOD, GOOD, BROKEN, PANIC, BAD, BAD, BAD, BAD))
    found = lab.search()
    assert first(found) == "fifth"
    assert {commit.subject for commit in found.others} == {"mptcp: third", "mptcp: culprit"}
    text = render_commits(found)
    assert "or one of the 2 below it" in text
    assert "  or " in text
    assert found.exit_status == 0


def test_a_good_end_that_is_bad_in_git_is_of_debian(laboratory: Made) -> None:
    lab = laboratory(line(BAD, BAD, BAD))
    found = lab.search()
    assert found.ending is CommitEnding.NOT_IN_GIT
    assert "v6.18.15, built with the harness's configuration, is bad, but backports-6.18.15" in (
        found.text
    )
    assert "Debian's patches or configuration make the difference" in found.text
    assert lab.built == ["v6.18.15"]
    assert found.exit_status == 1


def test_a_bad_end_that_is_good_in_git_is_of_debian(laboratory: Made) -> None:
    lab = laboratory(line(GOOD, GOOD, GOOD))
    found = lab.search()
    assert found.ending is CommitEnding.NOT_IN_GIT
    assert "v6.19.6, built with the harness's configuration, is good, but" in found.text


def test_an_end_that_does_not_build_ends_it(laboratory: Made) -> None:
    lab = laboratory(line(GOOD, GOOD, BROKEN))
    found = lab.search()
    assert (found.ending, found.exit_status) == (CommitEnding.UNTESTABLE, 3)
    assert "v6.19.6 cannot be tested: the build failed" in found.text


def test_a_missing_tag_is_a_sentence_with_the_command_that_fetches_it(laboratory: Made) -> None:
    lab = laboratory(SEVEN)
    found = lab.search(bad=package("6.19.8-1"))
    assert (found.ending, found.exit_status) == (CommitEnding.UNTESTABLE, 3)
    assert "has no tag v6.19.8, from which backports-6.19.8+deb13-amd64 is built" in found.text
    assert f"git -C {lab.clone} fetch https://git.kernel.org/" in found.text
    assert found.text.endswith("stable/linux.git tag v6.19.8")
    assert lab.built == []


def test_the_tag_of_a_candidate_comes_from_mainline(laboratory: Made) -> None:
    found = laboratory(SEVEN).search(bad=package("7.3~rc7-1~exp1"))
    assert found.text.endswith("torvalds/linux.git tag v7.3-rc7")


def test_a_missing_tag_is_fetched_into_a_clone_of_our_own(laboratory: Made) -> None:
    lab = laboratory(SEVEN)
    git(lab.clone, "update-ref", "-d", "refs/tags/v6.19.6")
    onward = Onward(lab.clone.as_uri())
    assert "has no tag v6.19.6" in lab.search(onward=onward).text
    git(lab.clone, "tag", "v6.19.6", "seventh")
    lab.becomes["seventh"] = BAD
    assert first(lab.search(onward=onward)) == "culprit"


def test_two_revisions_of_one_version_have_nothing_between_them(laboratory: Made) -> None:
    lab = laboratory(SEVEN)
    found = lab.search(bad=package("6.18.15-2"))
    assert (found.ending, found.exit_status) == (CommitEnding.SAME_SOURCE, 0)
    assert "both kernels are built from v6.18.15: they differ in Debian's patches" in found.text


def test_kernels_without_a_version_or_for_another_architecture_are_a_sentence(
    laboratory: Made,
) -> None:
    lab = laboratory(SEVEN)
    mine = Candidate(KernelEntry("mine", ImageSource(Path("/x")), "the tests"), "custom", "")
    assert "the upstream version of mine is unknown" in lab.search(good=mine).text
    arm = package("6.19.6-1")
    arm = replace(arm, entry=replace(arm.entry, arch=Arch.ARM64))
    assert "commits are built for amd64" in lab.search(bad=arm).text
    assert "there is no clone of Linux; name one with --repo" in lab.search(onward=Onward()).text


def test_a_clone_that_is_none_leaves_the_answer_in_packages(
    laboratory: Made, tmp_path: Path
) -> None:
    found = laboratory(SEVEN).search(onward=Onward(str(tmp_path)))
    assert (found.ending, found.exit_status) == (CommitEnding.UNTESTABLE, 3)
    assert "is not in a git repository" in found.text


def test_an_unrelated_history_is_a_sentence(laboratory: Made) -> None:
    lab = laboratory({"v6.18.15": (GOOD, ()), "v6.19.6": (BAD, ())})
    assert "have no common ancestor" in lab.search().text


#: Two stable branches; ``v6.18`` is what they have in common.
BRANCHES: histories.History = {
    "v6.18": (GOOD, ()),
    "v6.18.15": (GOOD, ("v6.18",)),
    "main-1": (GOOD, ("v6.18",)),
    "main-2": (BAD, ("main-1",)),
    "v6.19.6": (BAD, ("main-2",)),
}


def test_of_two_stable_branches_the_common_ancestor_is_tested(laboratory: Made) -> None:
    lab = laboratory(BRANCHES)
    assert first(lab.search()) == "main-2"
    assert lab.built[2] == "v6.18"


def test_a_fix_that_only_the_good_branch_has_is_found(laboratory: Made) -> None:
    """Fails if the newer branch is searched although the common ancestor is bad as well."""
    lab = laboratory(
        {
            "v6.18": (BAD, ()),
            "backport-1": (BAD, ("v6.18",)),
            "backport-2": (GOOD, ("backport-1",)),
            "v6.18.15": (GOOD, ("backport-2",)),
            "v6.19.6": (BAD, ("v6.18",)),
        }
    )
    found = lab.search()
    assert first(found) == "backport-2"
    assert found.fixed
    assert "the change is on the branch of v6.18.15, and that of v6.19.6 lacks it" in found.notes[0]
    assert "the fault was fixed by commit" in render_commits(found)


def test_where_the_good_kernel_is_newer_the_fix_is_found(laboratory: Made) -> None:
    lab = laboratory(line(BAD, BAD, BAD, GOOD, GOOD))
    found = lab.search(package("6.19.6-1"), package("6.18.15-1"), reverse=True)
    assert first(found) == "third"
    assert found.fixed


def test_the_progress_counts_the_commits(laboratory: Made) -> None:
    lab = laboratory(SEVEN)
    lab.search()
    counted = [text for text in lab.said if text.startswith("commit ")]
    assert [text.split(":")[0] for text in counted] == [
        "commit 1 of about 6",
        "commit 2 of about 6",
        "commit 3 of about 5",
        "commit 4 of about 5",
        "commit 5 of about 5",
    ]
    assert "building" in counted[2]
    assert counted[2].endswith("(mptcp: culprit)")


def test_known_results_are_not_made_again(laboratory: Made) -> None:
    lab = laboratory(SEVEN)
    lab.search()
    lab.built.clear()
    lab.booted_commits.clear()
    again = lab.search()
    assert first(again) == "culprit"
    assert (lab.built, lab.booted_commits) == ([], [])
    assert again.earlier == again.boots == 5


def test_a_commit_that_did_not_build_is_not_built_again(laboratory: Made) -> None:
    lab = laboratory(line(GOOD, GOOD, BROKEN, BAD, BAD))
    lab.search()
    lab.built.clear()
    lab.search()
    assert lab.built == []
    lab.search(fresh=True)
    assert "second" in lab.built


def test_interrupted_it_says_how_to_go_on(laboratory: Made) -> None:
    lab = laboratory(SEVEN)
    lab.on_step = lambda what: lab.stop.set() if what == "built culprit" else None
    found = lab.search()
    assert (found.ending, found.exit_status) == (CommitEnding.INTERRUPTED, 130)
    assert "2 commits known, and the same command continues" in found.text
    lab.stop.clear()
    lab.booted_commits.clear()
    assert first(lab.search()) == "culprit"
    assert lab.booted_commits == ["culprit", "second", "third"]


@pytest.mark.parametrize(
    ("becomes", "said"),
    [
        (histories.FULL_DISK, "could not be built: the disk is full; 2 commits known"),
        (histories.NO_QEMU, "could not be booted: "),
    ],
)
def test_a_failure_of_the_host_is_no_skip(
    laboratory: Made, monkeypatch: pytest.MonkeyPatch, becomes: str, said: str
) -> None:
    """Fails if a full disk makes one commit after another untestable."""
    monkeypatch.setattr("harness.run.attempts.BACK_OFF", (0.0,))
    lab = laboratory(SEVEN)
    lab.becomes["culprit"] = becomes
    found = lab.search()
    assert (found.ending, found.exit_status) == (CommitEnding.UNTESTABLE, 3)
    assert said in found.text
    lab.becomes.clear()
    again = lab.search()
    assert first(again) == "culprit"
    assert all(tested.untestable == 0 for tested in again.evidence)


def test_when_it_is_late_no_commit_is_begun(laboratory: Made) -> None:
    lab = laboratory(SEVEN)
    onward = Onward(str(lab.clone), lambda: len(lab.built) >= 3)
    found = lab.search(onward=onward)
    assert found.ending is CommitEnding.OUT_OF_TIME
    assert lab.built == ["v6.18.15", "v6.19.6", "culprit"]
    assert first(lab.search()) == "culprit"


def test_kernels_from_git_are_searched_in_their_own_clone(laboratory: Made) -> None:
    """As two nights have them: the ref is the commit, and there is no other clone."""
    lab = laboratory(SEVEN)
    ids = [git(lab.clone, "rev-parse", ref)[:12] for ref in ("v6.18.15", "v6.19.6")]
    entry = KernelEntry("export", GitSource(str(lab.clone), "x", ("kasan",)), "the tests")
    ends = [
        Candidate(replace(entry, source=GitSource(str(lab.clone), id, ("kasan",))), "6.19", "")
        for id in ids
    ]
    found = lab.search(*ends, onward=Onward())
    assert first(found) == "culprit"
    same = lab.search(ends[0], ends[0], onward=Onward())
    assert same.ending is CommitEnding.SAME_SOURCE


def test_more_boots_are_made_of_good_commits_only(laboratory: Made) -> None:
    lab = laboratory(SEVEN)
    lab.search(confirm=1)
    assert lab.booted_commits.count("v6.18.15") == 2
    assert lab.booted_commits.count("v6.19.6") == 1


def test_the_json_has_the_commit(laboratory: Made) -> None:
    found = json.loads(json.dumps(asdict(laboratory(SEVEN).search())))
    assert found["first"]["subject"] == "mptcp: culprit"
    assert found["first"]["author"] == "A Developer"
    assert found["first"]["date"] == "2023-11-14"
    assert len(found["first"]["id"]) == 40
    assert found["ending"] == "found"


def test_each_skipped_commit_moves_the_choice_further_away() -> None:
    suspects = list("abcdefghij")
    assert history.choose(suspects, "j", ()) == "a"
    assert history.choose(suspects, "j", "a") == "c"
    assert history.choose(suspects, "j", "ac") == "f"
    assert history.choose(suspects, "j", "abcdefgh") == "i"
    assert history.choose(suspects, "j", "abcdefghi") is None


VERSIONS = ("6.18.12-1", "6.18.15-1", "6.19.6-1", "6.19.8-1")


def bisect(lab: Laboratory, wanted: Predicate | None = WANTED, **more: bool) -> Bisection:
    """A whole bisect over packages, the last two of which are bad."""
    series = Series(tuple(package(version) for version in VERSIONS))
    names = [candidate.entry.name for candidate in series.candidates]
    lab.packages.update(zip(names, (GOOD, GOOD, BAD, BAD), strict=True))
    return bisection.bisect(
        series,
        wanted,
        fake_boots.asking(families=(Family.IPV4,), jobs=1),
        Cache(lab.directory / "cache"),
        lab.listening,
        lab.said.append,
        lambda *_: ((), ("a note on the log",)),
        lab.stop,
        onward=Onward(str(lab.clone)),
        **more,
    )


def in_git(found: Bisection) -> CommitSearch:
    assert found.commits is not None, found.text
    return found.commits


@pytest.mark.parametrize("wanted", [WANTED, None], ids=["check", "difference"])
def test_one_command_goes_from_packages_to_the_commit(
    laboratory: Made, wanted: Predicate | None
) -> None:
    """Fails if the search ends at the neighbours, or looks for something else in git."""
    lab = laboratory(SEVEN)
    found = bisect(lab, wanted)
    assert found.last_good and found.last_good.version == "6.18.15-1"  # noqa: PT018
    assert first(in_git(found)) == "culprit"
    assert found.exit_status == 0
    text = render(found)
    assert "the change came with backports-6.19.6+deb13-amd64" in text
    assert "in git: the fault came with commit" in text
    assert "git bisect start" not in text
    assert found.notes == ("a note on the log",)  # and none on a git bisect by hand
    assert to_json(found)["commits"]["first"]["subject"] == "mptcp: culprit"


def test_interrupted_in_git_the_same_command_repeats_nothing(laboratory: Made) -> None:
    lab = laboratory(SEVEN)
    lab.on_step = lambda what: lab.stop.set() if what == "built culprit" else None
    found = bisect(lab)
    assert (found.ending, found.exit_status) == (Ending.FOUND, 130)
    assert "git bisect start" in render(found)
    lab.stop.clear()
    lab.booted_commits.clear()
    again = bisect(lab)
    assert first(in_git(again)) == "culprit"
    assert lab.booted_commits == ["culprit", "second", "third"]


def test_killed_in_the_middle_it_repeats_no_finished_build_and_no_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL during a build, and during a boot: only what was under way is repeated."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "ids.json").write_text(json.dumps(make(tmp_path / "linux", SEVEN)))
    run = subprocess.run(
        [
            *(sys.executable, "-m", histories.__name__, str(tmp_path)),
            *("built culprit", "booted culprit", "never"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines() == [
        *("built v6.18.15", "booted v6.18.15", "built v6.19.6", "booted v6.19.6"),
        *("built culprit", f"status {signal.SIGKILL.value}"),
        *("built culprit", "booted culprit", f"status {signal.SIGKILL.value}"),
        *("booted culprit", "built second", "booted second", "built third", "booted third"),
        *("found mptcp: culprit", "status 0"),
    ]
