# SPDX-License-Identifier: GPL-2.0-only
"""A step as git sees it: its exit status, and a tree that is as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.cli import step as command
from harness.errors import HostError
from harness.host import programs, toolchain
from harness.kernels import kconfig
from harness.kernels.build import Build
from harness.manifest.plan import Profile
from harness.records import reuse
from harness.run import session, workspace
from harness.step import step as step_module
from harness.vm import initramfs
from tests.replacing import replaced
from tests.step.support import BAD, BROKEN, CODE, GOOD, PANIC, Boots, Tree

ROOT = Path(__file__).resolve().parents[2]
Step = Callable[..., int]


@pytest.mark.parametrize(
    ("code", "status"), [(GOOD, 0), (BAD, 1), (BROKEN, 125), (PANIC, 125), ("no QEMU", 128)]
)
def test_git_is_told_what_a_commit_is(tree: Tree, step: Step, code: str, status: int) -> None:
    tree.commit(code)
    assert step() == status


@pytest.mark.parametrize(("code", "word"), [(GOOD, "good"), (BAD, "bad"), (BROKEN, "skip")])
def test_the_answer_begins_with_its_word(
    tree: Tree, step: Step, capsys: pytest.CaptureFixture[str], code: str, word: str
) -> None:
    commit = tree.commit(f"{code} here")
    step()
    assert f"\n{word}: {commit[:12]} (mptcp: {code} here): " in capsys.readouterr().out


def test_a_build_that_fails_shows_its_last_errors_and_its_log(
    tree: Tree, step: Step, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    commit = tree.commit(BROKEN)
    step()
    said = capsys.readouterr().out
    assert "net/mptcp/code.c:1:1: error: expected ';' before 'x'" in said
    log = next((tmp_path / "state").rglob(f"{commit[:12]}-*.log"))
    assert f"log: {log}" in said


def test_a_full_disk_stops_the_bisect(
    tree: Tree, step: Step, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.diary / "full").touch()
    assert step() == 128
    assert "the disk is full; free some space" in capsys.readouterr().err


def test_without_a_compiler_the_bisect_stops(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        raise HostError("this host lacks gcc")

    monkeypatch.setattr(toolchain, "check", check)
    assert step() == 128


def test_without_qemu_the_bisect_stops(step: Step, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_tools() -> tuple[Path, Path]:
        raise HostError("this host lacks qemu-system-x86_64")

    monkeypatch.setattr(workspace, "find_tools", find_tools)
    assert step() == 128


def test_outside_of_a_kernel_tree_the_bisect_stops(
    step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert step() == 128


@pytest.mark.parametrize(
    "arguments",
    [[], ["--any", "--nonsense"], ["--check", "no.such"], ["--check"], ["--incident", ""]],
    ids=str,
)
def test_wrong_arguments_are_not_taken_for_a_bad_commit(
    tree: Tree, boots: Boots, arguments: list[str]
) -> None:
    assert cli.main(["step", *arguments]) == 128


def test_a_fault_of_the_harness_is_not_taken_for_a_bad_commit(
    step: Step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "run", lambda *_: 1 / 0)
    assert step() == 128
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_an_interruption_stops_the_bisect(
    tree: Tree, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A terminal's Ctrl-C reaches the harness, not the build, which has a group of its own.
    interrupt = f"kill -INT {os.getpid()}\nexec tail -f /dev/null\n"
    tree.make.write_text(f"#!/bin/sh\n{interrupt}")
    assert step() == 130


def test_the_tree_is_untouched_while_a_patch_is_built(
    tree: Tree, step: Step, boots: Boots, tmp_path: Path
) -> None:
    patch = tree.patch(f"{BAD} by a patch", tmp_path / "x.patch")
    assert step("--patch", str(patch)) == 1
    assert boots.seen == [f"{BAD} by a patch"]
    assert tree.status_while_building == ""


def test_a_step_that_was_killed_while_it_built_leaves_the_tree_and_is_done_again(
    tree: Tree, step: Step, tmp_path: Path
) -> None:
    patch = tree.patch(f"{BAD} by a patch", tmp_path / "x.patch")
    sound = tree.make.read_text()
    os.mkfifo(tree.diary / "begun")
    hang = 'echo > "$DIARY/begun"; exec tail -f /dev/null\n'
    tree.make.write_text(replaced(sound, "#!/bin/sh\n", f"#!/bin/sh\n{hang}", 1))
    command = [sys.executable, "-m", "tests.step.support", "step", "--any", "--patch", str(patch)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        (tree.diary / "begun").read_text()
        process.kill()
    tree.make.write_text(sound)
    assert tree.git("status", "--porcelain") == ""
    assert step("--patch", str(patch)) == 1


def test_a_patch_that_does_not_apply_makes_a_commit_untestable(
    tree: Tree, step: Step, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patch = tree.patch(BAD, tmp_path / "x.patch")
    tree.commit("another code")
    assert step("--patch", str(patch)) == 125
    assert "does not apply (error: patch failed: net/mptcp/code.c" in capsys.readouterr().out


def test_local_changes_are_built_and_kept(tree: Tree, step: Step) -> None:
    tree.write(BAD)
    before = tree.git("status", "--porcelain")
    assert step() == 1
    assert tree.git("status", "--porcelain") == before
    assert (tree.path / CODE).read_text() == f"{BAD}\n"


def test_the_trees_own_configuration_is_kept(tree: Tree, step: Step) -> None:
    tree.write("CONFIG_MINE=y", Path(".config"))
    step()
    assert (tree.path / ".config").read_text() == "CONFIG_MINE=y\n"


def test_an_interrupted_check_out_is_repaired(
    tree: Tree, step: Step, boots: Boots, tmp_path: Path
) -> None:
    step()
    place = next((tmp_path / "cache").rglob("source")).parent
    (place / "unsettled").touch()
    (place / "git/index.lock").touch()
    (place / "source" / CODE).write_text("half of")
    left = place / "source/net/mptcp/left.c"
    left.touch()
    tree.commit("good again")
    assert (step(), boots.seen[-1], left.exists()) == (0, "good again", False)


@pytest.mark.parametrize("damage", ["changed", "removed", "in the way"])
def test_a_damaged_copy_is_repaired(
    tree: Tree, step: Step, boots: Boots, tmp_path: Path, damage: str
) -> None:
    """Also where the commits do not differ in the file, and by a file where the next has one."""
    other = Path("net/mptcp/other.c")
    tree.commit("first")
    step()
    source = next((tmp_path / "cache").rglob("source"))
    if damage == "changed":
        (source / CODE).write_text(BAD)
    elif damage == "removed":
        (source / CODE).unlink()
    else:
        (source / other).write_text("of a build")
    tree.write("more", other)
    tree.git("add", str(other))
    tree.git("commit", "-q", "-m", "with another file")
    assert (step(), boots.seen) == (0, ["first", "first"])
    assert (source / other).read_text() == "more\n"


def test_what_another_harness_checked_out_is_not_taken_for_the_commit(
    tree: Tree, step: Step, boots: Boots, tmp_path: Path
) -> None:
    """An older version in the same cache leaves no trace but the files and their index."""
    step()
    source = next((tmp_path / "cache").rglob("source"))
    (source / CODE).write_text(f"{BAD}\n")
    where = ["--git-dir", str(source.parent / "git"), "--work-tree", str(source)]
    subprocess.run(["git", *where, "add", "--all"], cwd=source, check=True)
    step("--fresh")
    assert len(set(boots.seen)) == 1


def test_what_two_commits_share_is_not_written_again(
    tree: Tree, step: Step, tmp_path: Path
) -> None:
    step()
    shared, changed = (
        next((tmp_path / "cache").rglob("source")) / name for name in ("Kbuild", CODE)
    )
    before = [path.stat().st_mtime_ns for path in (shared, changed)]
    tree.commit("another code")
    step()
    after = [path.stat().st_mtime_ns for path in (shared, changed)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def test_a_commit_that_was_judged_is_neither_built_nor_booted_again(
    tree: Tree, step: Step, boots: Boots
) -> None:
    assert [step(), step()] == [0, 0]
    assert (tree.builds, len(boots.seen)) == (1, 1)


def test_a_commit_that_did_not_build_is_not_built_again(tree: Tree, step: Step) -> None:
    tree.commit(BROKEN)
    assert [step(), step()] == [125, 125]
    assert tree.builds == 1


def test_a_full_disk_is_no_property_of_the_commit(tree: Tree, step: Step) -> None:
    (tree.diary / "full").touch()
    step()
    (tree.diary / "full").unlink()
    assert step() == 0


def test_another_question_is_answered_from_the_same_boot(
    tree: Tree, step: Step, boots: Boots
) -> None:
    tree.commit(BAD)
    step()
    assert cli.main(["step", "--check", "capability.mptcp"]) == 125  # which BAD does not tell
    assert (tree.builds, len(boots.seen)) == (1, 1)


def test_a_boot_with_all_checks_answers_for_the_quick_ones(
    tree: Tree, step: Step, boots: Boots
) -> None:
    tree.commit(BAD)
    assert cli.main(["step", "--any"]) == 1
    assert step() == 1
    assert [plan.profile for plan in boots.plans] == [Profile.FULL]


def test_a_boot_with_the_quick_checks_does_not_answer_for_all(
    tree: Tree, step: Step, boots: Boots
) -> None:
    tree.commit(BAD)
    step()
    assert cli.main(["step", "--any"]) == 1
    assert [plan.profile for plan in boots.plans] == [Profile.QUICK, Profile.FULL]
    assert tree.builds == 1


def test_other_boots_are_made_of_the_image_that_was_built(
    tree: Tree, step: Step, boots: Boots
) -> None:
    step()
    step("--seed", "7")
    assert (tree.builds, len(boots.seen)) == (1, 2)


@pytest.mark.parametrize(
    ("place", "name", "other"),
    [
        (reuse, "judging", "another"),
        (step_module, "qemu_version", "10.0"),
        (initramfs, "prepare", Path("another.cpio")),
    ],
)
def test_a_result_of_another_harness_or_host_does_not_count(
    step: Step,
    boots: Boots,
    monkeypatch: pytest.MonkeyPatch,
    place: object,
    name: str,
    other: object,
) -> None:
    step()
    monkeypatch.setattr(place, name, lambda *_: other)
    step()
    assert len(boots.seen) == 2


def test_fresh_builds_and_boots_again(tree: Tree, step: Step, boots: Boots) -> None:
    step()
    step("--fresh")
    assert (tree.builds, len(boots.seen)) == (2, 2)


def test_a_damaged_image_is_built_again(tree: Tree, step: Step, tmp_path: Path) -> None:
    step()
    image = next(path for path in (tmp_path / "cache").rglob("images/*") if path.is_file())
    image.write_text(BAD)
    assert step("--seed", "7") == 0
    assert tree.builds == 2


def test_infrastructure_is_tried_anew(tree: Tree, step: Step, boots: Boots) -> None:
    boots.flaky = ["no QEMU"]
    assert [step(), step()] == [128, 0]


def test_what_fails_now_and_then_is_bad(tree: Tree, step: Step, boots: Boots) -> None:
    boots.flaky = [GOOD, GOOD, BAD, GOOD]
    assert step("--confirm", "3") == 1


def test_good_is_what_was_good_in_every_boot(tree: Tree, step: Step, boots: Boots) -> None:
    assert step("--confirm", "3") == 0
    assert len(boots.seen) == 4


def test_confirming_goes_on_from_the_boots_that_were_made(
    tree: Tree, step: Step, boots: Boots
) -> None:
    step()
    step("--confirm", "3")
    assert len(boots.seen) == 4


def test_a_configuration_is_made_once(tree: Tree, step: Step) -> None:
    step()
    tree.commit("good again")
    step()
    assert (tree.configurations, tree.builds) == (1, 2)


def test_a_change_of_kconfig_configures_again(tree: Tree, step: Step) -> None:
    step()
    tree.write("config NEW", Path("net/mptcp/Kconfig"))
    step()
    assert tree.configurations == 2


def test_the_users_options_count_over_the_fragment(tree: Tree, step: Step, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("CONFIG_KASAN=y\n")
    step("--config", str(mine))
    config = next((tmp_path / "cache").rglob("source/.config")).read_text()
    assert config.startswith(kconfig.fragment())
    assert config.strip().endswith("CONFIG_KASAN=y")


def test_what_cannot_be_configured_to_boot_is_untestable(
    tree: Tree, step: Step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kconfig, "fragment", lambda: "CONFIG_PCI=y\n")
    assert step() == 125
    assert "it cannot be configured with CONFIG_VIRTIO_PCI (" in capsys.readouterr().out


def test_the_image_can_be_saved(tree: Tree, step: Step, tmp_path: Path) -> None:
    step("--save", str(tmp_path / "bzImage"))
    step("--save", str(tmp_path / "again"))
    assert (tmp_path / "again").read_text() == (tmp_path / "bzImage").read_text() == f"{GOOD}\n"


def test_of_the_environment_nothing_leads_git_or_make_astray(
    tree: Tree, step: Step, boots: Boots, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "KBUILD_OUTPUT", "ARCH"):
        monkeypatch.setenv(name, "/elsewhere")
    lines = replaced(tree.make.read_text(), "#!/bin/sh", f"#!/bin/sh\nenv > {tree.diary}/env", 1)
    tree.make.write_text(lines)
    assert step() == 0
    assert "/elsewhere" not in (tree.diary / "env").read_text()


@pytest.mark.parametrize("status", [2, 3, 124, 126, 127])
def test_no_other_status_of_the_harness_means_bad(status: int) -> None:
    assert command.for_git(lambda: status) == 128


def test_git_bisect_finds_the_commit(tree: Tree, boots: Boots) -> None:
    first = tree.git("rev-parse", "HEAD")
    for code in (GOOD, BROKEN, GOOD):
        tree.commit(f"{code} again")
    bad = [tree.commit(f"{BAD} {number}") for number in range(2)]
    tree.git("bisect", "start", bad[-1], first)
    run = subprocess.run(
        ["git", "bisect", "run", sys.executable, "-m", "tests.step.support", "step", "--any"],
        cwd=tree.path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert f"{bad[0]} is the first bad commit" in run.stdout
    assert "\nskip: " in run.stdout


# The user's tree.


def test_the_users_index_is_neither_written_nor_locked(tree: Tree, step: Step) -> None:
    """Fails for `git stash create`, which refreshes the index and needs its lock."""
    tree.write(BAD)
    index = tree.path / ".git/index"
    before = (index.read_bytes(), index.stat().st_mtime_ns, index.stat().st_ino)
    (tree.path / ".git/index.lock").touch()
    assert step() == 1
    assert (index.read_bytes(), index.stat().st_mtime_ns, index.stat().st_ino) == before


def test_nothing_of_the_repository_changes(tree: Tree, step: Step) -> None:
    def files() -> dict[Path, tuple[bytes, int]]:
        return {
            # Git sets the time of an object that it would have written, wherever it is.
            path: (path.read_bytes(), 0 if "objects" in path.parts else path.stat().st_mtime_ns)
            for path in tree.path.rglob("*")
            if path.is_file()
        }

    tree.write(BAD)
    tree.git("config", "core.splitIndex", "true")
    before = files()
    assert step() == 1
    assert files() == before


def test_a_change_in_the_same_second_and_of_the_same_size_is_built(tree: Tree, step: Step) -> None:
    """Git knows such a change by the time of its index, which the copy must keep."""
    tree.commit("bad1")
    code, index = tree.path / CODE, tree.path / ".git/index"
    at = code.stat().st_mtime_ns
    os.utime(index, ns=(at, at))
    code.write_text("good\n")
    os.utime(code, ns=(at, at))
    assert step() == 0


def test_what_is_staged_counts_too(tree: Tree, step: Step, boots: Boots) -> None:
    tree.write("new", Path("net/mptcp/new.c"))
    tree.write(f"{BAD} staged")
    tree.git("add", "--all")
    (tree.path / "arch/x86/Kconfig").touch()
    assert step() == 1
    assert boots.seen == [f"{BAD} staged"]


def test_a_merge_under_way_stops_the_bisect(
    tree: Tree, step: Step, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tree.git("rev-parse", "HEAD")
    tree.commit("one")
    tree.git("checkout", "--quiet", "-b", "other", first)
    tree.commit("two")
    with pytest.raises(subprocess.CalledProcessError):
        tree.git("merge", "-")
    assert step() == 128
    assert "a merge is in progress" in capsys.readouterr().err


# What is known already, wherever it was found out.


@pytest.mark.parametrize("command", [("worktree", "add", "--quiet", "--detach"), ("clone", ".")])
def test_the_same_commit_in_another_place_is_not_built_again(
    tree: Tree,
    step: Step,
    boots: Boots,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    assert step() == 0
    tree.git(*command, str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path / "other")
    assert step() == 0
    assert (tree.builds, len(boots.seen)) == (1, 1)


def test_worktrees_share_the_copy_that_is_built(
    tree: Tree, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that only what differs is compiled."""
    step()
    tree.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path / "other")
    (tmp_path / "other" / CODE).write_text(f"{BAD}\n")
    assert step() == 1
    assert tree.builds == 2
    assert len(list((tmp_path / "cache").rglob("source"))) == 1


# What is no fault of the commit.


def test_a_build_that_is_killed_stops_the_bisect(tree: Tree, step: Step) -> None:
    sound = tree.make.read_text()
    tree.make.write_text(replaced(sound, "mkdir -p", "exit 137; mkdir -p", 1))
    assert step() == 128
    tree.make.write_text(sound)
    assert step() == 0


def test_a_full_disk_while_a_patch_is_applied_stops_the_bisect(
    tree: Tree, step: Step, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    patch = tree.patch(BAD, tmp_path / "x.patch")
    run = programs.run

    def full(command: Sequence[str], *given: Any, **more: Any) -> object:
        if "apply" in command:
            said = "error: unable to write file: No space left on device"
            return subprocess.CompletedProcess(command, 1, "", said)
        return run(command, *given, **more)

    monkeypatch.setattr(programs, "run", full)
    assert step("--patch", str(patch)) == 128


def test_git_is_asked_once_where_the_repository_is(
    tree: Tree, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = programs.run
    asked: list[Sequence[str]] = []

    def counted(command: Sequence[str], *given: Any, **more: Any) -> object:
        if "rev-parse" in command:
            asked.append(command)
        return run(command, *given, **more)

    monkeypatch.setattr(programs, "run", counted)
    assert step() == 0
    assert len(asked) == 1


def test_a_patch_that_is_none_stops_the_bisect(tree: Tree, step: Step, tmp_path: Path) -> None:
    (tmp_path / "x.patch").write_text("no patch\n")
    assert step("--patch", str(tmp_path / "x.patch")) == 128


# What is said meanwhile.


def test_a_long_build_says_how_far_it_is(
    tree: Tree, step: Step, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go_on = tree.diary / "go-on"
    os.mkfifo(go_on)
    wait = f"echo '  CC      net/mptcp/code.o'; read line < {go_on}"
    tree.make.write_text(replaced(tree.make.read_text(), "#!/bin/sh", f"#!/bin/sh\n{wait}", 1))
    progress = Build._progress

    def told(build: Build, seconds: float) -> None:
        progress(build, seconds)
        if "code.o" in build._log.read_text() and not released:
            released.append(True)
            go_on.write_text("\n")

    released: list[bool] = []
    monkeypatch.setattr(Build, "_progress", told)
    monkeypatch.setattr(programs, "SAY_EVERY", 0.0)
    assert step() == 0
    assert "1 file built, last net/mptcp/code.o" in capsys.readouterr().out
