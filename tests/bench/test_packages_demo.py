# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import bisect_demo
from bench import packages_demo as demo
from bench.bisect_demo import FILES, DemoFailed, Record
from tests.bench.test_bisect_demo import git

USED = {*FILES, "fastopen.c", "crypto.c", "token.c", demo.FILE}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "linux"
    (directory / "net/mptcp").mkdir(parents=True)
    for name in USED:
        text = f"{{\n{demo.FAULTY}ssk);\n" if name == demo.FILE else "\n"
        (directory / "net/mptcp" / name).write_text(text)
    for key, value in (("NAME", "x"), ("EMAIL", "x@example.org")):
        monkeypatch.setenv(f"GIT_AUTHOR_{key}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{key}", value)
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "-qm", "x"], ["tag", "base"]):
        git(directory, *words)
    return directory


def test_between_the_tags_one_commit_breaks_what_the_first_repairs(tree: Path) -> None:
    faulty = demo.make_history(tree)
    between = git(tree, "rev-list", "--reverse", "--topo-order", "..".join(demo.TAGS)).splitlines()
    states = [demo.SOUND in git(tree, "show", f"{id}:net/mptcp/{demo.FILE}") for id in between]
    first = between.index(faulty)
    assert states == [True] * first + [False] * (len(between) - first)
    assert 7 <= len(between) <= 14
    broken = [id for id in between if "undeclared" in git(tree, "show", f"{id}:net/mptcp/token.c")]
    assert len(broken) == 2
    assert git(tree, "rev-list", "--merges", "--count", demo.TAGS[1]) == "1"
    assert demo.make_history(tree) == faulty


def test_a_source_without_the_place_of_the_fault_is_refused(tree: Path) -> None:
    (tree / "net/mptcp" / demo.FILE).write_text("\n")
    git(tree, "commit", "-qam", "another")
    git(tree, "tag", "--force", "base")
    with pytest.raises(DemoFailed, match="take another --package"):
        demo.make_history(tree)


#: In place of the harness: it builds until it is killed, and then it finds the commit ``FAULTY``.
_HARNESS = """\
import json, os, sys, time
if "--resume" in sys.argv:
    found = {"commits": {"first": {"id": os.environ["FAULTY"], "subject": "the fault"}}}
    open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps(found))
    sys.exit(0)
print("commit 3 of about 6: building x")
print("[  1.0s] x: booting")
print("x: building; log: l", flush=True)
time.sleep(60)
"""


def test_the_bisect_is_killed_in_a_build_and_resumed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a bisect that was not killed, or a wrong answer, counts as a demonstration."""
    monkeypatch.setattr(bisect_demo, "_program", lambda: [sys.executable, "-c", _HARNESS])
    monkeypatch.setattr(bisect_demo, "_version", lambda _: "7.3")
    monkeypatch.setattr(demo, "KILLED_AFTER_S", 0)
    monkeypatch.setenv("FAULTY", demo.make_history(tree))
    record = Record()
    demo.demonstrate(tmp_path, "linux-source-7.3", [], record)
    text = "\n".join(record.lines)
    assert "* killed after " in text
    assert "* status 0 after " in text
    assert "--repo DIR/linux" in text
    assert "booting" not in text
    assert text.endswith("* the answer is right: `the fault`")
    monkeypatch.setenv("FAULTY", "0" * 40)
    with pytest.raises(DemoFailed, match="the bisect found"):
        demo.demonstrate(tmp_path, "linux-source-7.3", [], Record())
