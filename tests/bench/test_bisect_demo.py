# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import bisect_demo
from bench.bisect_demo import FILES, SOUND, DemoFailed, History, make_history


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = tmp_path / "linux"
    (directory / "net/mptcp").mkdir(parents=True)
    for name in FILES:
        text = f"\t{SOUND}\n" if name == bisect_demo.FAULTY_FILE else "\n"
        (directory / "net/mptcp" / name).write_text(text)
    git(directory, "init", "--quiet")
    git(directory, "add", "--all")
    git(directory, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "base")
    git(directory, "tag", "base")
    return directory


def git(tree: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=tree, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def faulty(tree: Path, commits: Sequence[str]) -> set[str]:
    """Those of ``commits`` whose code has the fault."""
    where = ("--", "net/mptcp/sockopt.c")
    found = git(tree, "grep", "-l", "-F", "-e", bisect_demo.FAULTY, *commits, *where)
    return {line.split(":")[0] for line in found.splitlines()}


@pytest.mark.parametrize("seed", range(4))
def test_from_one_commit_on_the_option_is_broken(tree: Path, seed: int) -> None:
    history = make_history(tree, 16, seed)
    first = history.commits.index(history.faulty)
    assert 0 < first < 15
    assert faulty(tree, history.commits) == set(history.commits[first:])


def test_every_commit_touches_only_mptcp(tree: Path) -> None:
    history = make_history(tree, 16, 1)
    for commit in history.commits:
        names = git(tree, "show", "--format=", "--name-only", commit).splitlines()
        assert len(names) == 1
        assert names[0].startswith("net/mptcp/")


def test_a_history_is_made_again_as_it_was(tree: Path) -> None:
    histories: list[History] = [make_history(tree, 16, 7) for _ in range(2)]
    assert histories[0] == histories[1]


def test_a_source_without_the_line_to_break_is_refused(tree: Path) -> None:
    (tree / "net/mptcp/sockopt.c").write_text("\n")
    git(tree, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qam", "another")
    git(tree, "tag", "--force", "base")
    with pytest.raises(DemoFailed, match="take another --package"):
        make_history(tree, 16, 1)
