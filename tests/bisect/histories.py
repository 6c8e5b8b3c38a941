# SPDX-License-Identifier: GPL-2.0-only
"""Small histories in real git repositories; what becomes of a commit is its only code.

As a program it is a search that is killed at the given steps, and gone on with.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.bisect import commit_search
from harness.bisect.candidates import Candidate
from harness.bisect.commit_search import Onward
from harness.bisect.results import CommitSearch
from harness.errors import KernelUnavailable, Unbuildable
from harness.host import programs, toolchain
from harness.kernels import Cache, PreparedKernel
from harness.manifest.kernels_yaml import DebSource, GitSource, KernelEntry
from harness.run.request import Listener
from harness.verdict.results import Attempt
from harness.verdict.verdicts import Family
from harness.vm.boot import BootPlan
from tests import fake_boots
from tests.bisect.simulated import WANTED, attempt_of, told
from tests.fake_boots import Outcomes
from tests.processes import unsupervised

GOOD, BAD, BROKEN, PANIC = "good", "bad", "broken", "panic"
#: The host fails, in a build or in a boot.
FULL_DISK, NO_QEMU = "full", "unstarted"
#: In a tree: its commits' codes by id, which git would need a process each to show.
CODES = Path(".git/codes")
#: Of a commit by its name: its code, and its parents; a name with a "v" is a tag.
History = Mapping[str, tuple[str, tuple[str, ...]]]
#: The commits of :func:`line` between its tags.
LINEAR = ("first", "second", "third", "culprit", "fifth", "sixth", "seventh")


def line(
    *codes: str, names: Sequence[str] = LINEAR, tags: tuple[str, str] = ("v6.18.15", "v6.19.6")
) -> History:
    """Commits in a row, from a good one with the first tag to one with the second."""
    all_names = (tags[0], *names[: len(codes) - 2], tags[1])
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    before: tuple[str, ...] = ()
    for name, code in zip(all_names, codes, strict=True):
        found[name] = (code, before)
        before = (name,)
    return found


def make(path: Path, history: History) -> dict[str, str]:
    """A kernel tree in ``path`` with ``history``; the ids of the commits by name."""
    marks = {name: number for number, name in enumerate(history, 1)}
    stream = []
    for name, (code, parents) in history.items():
        number = marks[name]
        subject = f"mptcp: {name}\n"
        kind = "tags" if name.startswith("v") else "heads"
        stream.append(
            f"commit refs/{kind}/{name}\nmark :{number}\n"
            f"committer A Developer <a@example.org> {1700000000 + number} +0000\n"
            f"data {len(subject)}\n{subject}"
        )
        stream += [
            f"{word} :{marks[parent]}\n"
            for word, parent in zip(("from", *["merge"] * 8), parents, strict=False)
        ]
        files = {"code": f"{code} {number}", "Kbuild": "", "Makefile": "", "arch/x86/Kconfig": ""}
        stream += [f"M 100644 inline {f}\ndata {len(t)}\n{t}\n" for f, t in files.items()]
    stream.append("reset refs/heads/main\nfrom :1\n\n")
    path.mkdir()
    git(path, "init", "--quiet", "--template=", "--initial-branch=main")
    exported = path / ".git" / "marks"
    git(path, "fast-import", "--quiet", f"--export-marks={exported}", stdin="".join(stream))
    marked = dict(each.split() for each in exported.read_text().splitlines())
    ids = {name: marked[f":{number}"] for name, number in marks.items()}
    codes = {id: history[name][0] for name, id in ids.items()}
    (path / CODES).write_text(json.dumps(codes))
    return ids


def git(path: Path, *arguments: str, stdin: str = "") -> str:
    run = subprocess.run(
        ["git", *arguments], cwd=path, check=True, capture_output=True, text=True, input=stdin
    )
    return run.stdout.strip()


def package(version: str) -> Candidate:
    """Debian's kernel of ``version``, such as 6.18.15-1."""
    release = f"{version.split('-')[0]}+deb13-amd64"
    of = DebSource("trixie-backports", f"linux-image-{release}")
    return Candidate(KernelEntry(f"backports-{release}", of, "the tests"), release, version)


class Laboratory(Outcomes):
    """Builds and boots the commits of ``clone``; ``built`` and ``booted`` have their names.

    ``on_step`` is called as soon as one is built or booted.
    """

    def __init__(self, directory: Path, clone: Path, ids: Mapping[str, str]) -> None:
        super().__init__(directory)
        self.clone = clone
        self._names = {id: name for name, id in ids.items()}
        self.built: list[str] = []
        self.booted_commits: list[str] = []
        self._of: dict[str, str] = {}
        kept = clone / CODES
        self._codes = json.loads(kept.read_text()) if kept.exists() else {}
        self.packages: dict[str, str] = {}  # what becomes of each, by name
        self.on_step: Callable[[str], None] = lambda _: None
        self.becomes: dict[str, str] = {}  # instead of what the code says
        self.stop = threading.Event()
        self.said: list[str] = []
        self._made = directory / "made"  # the cache of builds
        self._made.mkdir(exist_ok=True)

    def _code(self, id: str) -> str:
        name = self._names[id]
        if id not in self._codes:
            self._codes[id] = git(self.clone, "show", f"{id}:code").split()[0]
        return self.becomes.get(name) or self._codes[id]

    def prepare(self, entry: KernelEntry, *_: object) -> PreparedKernel:
        of = entry.source
        if isinstance(of, DebSource):
            image = f"{sum(entry.name.encode()):064x}"
            return replace(super().prepare(entry), image_sha256=image)
        assert isinstance(of, GitSource)
        known = of.ref in self._names
        id = of.ref if known else git(self.clone, "rev-parse", f"{of.ref}^{{commit}}")
        code = self._code(id)
        made = self._made / id
        if not made.exists():
            self.built.append(self._names[id])
            self.on_step(f"built {self._names[id]}")
            if code == BROKEN:
                raise Unbuildable("make ended with status 2\n    code.c:1: error")
            if code == FULL_DISK:
                raise KernelUnavailable("the disk is full")
            made.touch()
        self._of[entry.name] = id
        origin = " ".join([of.repository, of.ref, id[:12], *of.config])
        return replace(super().prepare(entry), image_sha256=id + "0" * 24, origin=origin)

    def boot(self, plan: BootPlan, *_: object) -> Attempt:
        id = self._of.get(plan.kernel.name, "")
        code = self._code(id) if id else self.packages[plan.kernel.name]
        name = self._names[id] if id else plan.kernel.name
        self.booted_commits.append(name)
        sent = {PANIC: None, NO_QEMU: b""}.get(code, told("6.18.15", fault=code == BAD))
        self.of[plan.kernel.name] = attempt_of(sent)
        attempt = super().boot(plan)
        self.on_step(f"booted {name}")
        return attempt

    def install(self, setattr: Callable[[object, str, object], None]) -> None:
        super().install(setattr)
        setattr(toolchain, "version", lambda *_: "gcc 12")
        setattr(programs, "run", unsupervised)

    @contextlib.contextmanager
    def listening(self, _: Sequence[str]) -> Iterator[Listener]:
        yield lambda *_: None

    def search(
        self,
        good: Candidate | None = None,
        bad: Candidate | None = None,
        *,
        onward: Onward | None = None,
        reverse: bool = False,
        fresh: bool = False,
        **request: object,
    ) -> CommitSearch:
        return commit_search.search(
            good or package("6.18.15-1"),
            bad or package("6.19.6-1"),
            WANTED,
            onward or Onward(str(self.clone)),
            fake_boots.asking(families=(Family.IPV4,), jobs=1, **request),
            Cache(self.directory / "cache"),
            self.listening,
            self.said.append,
            self.stop,
            reverse=reverse,
            fresh=fresh,
        )


def _search_until(directory: Path, ids: Mapping[str, str], last: str) -> None:
    """Say each step, and be killed by SIGKILL at the step ``last``."""
    laboratory = Laboratory(directory, directory / "linux", ids)
    laboratory.install(setattr)

    def on_step(what: str) -> None:
        _say(what)
        if what == last:
            os.kill(os.getpid(), signal.SIGKILL)

    laboratory.on_step = on_step
    found = laboratory.search()
    _say(f"found {found.first.subject if found.first else found.text}")


def _say(text: str) -> None:
    os.write(sys.stdout.fileno(), f"{text}\n".encode())


def _main(directory: Path, *lasts: str) -> None:
    """Begin a search and go on with it in one process after another, as importing takes long."""
    ids = json.loads((directory / "ids.json").read_text())
    for last in lasts:
        child = os.fork()
        if not child:
            try:
                _search_until(directory, ids, last)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        _say(f"status {status}")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), *sys.argv[2:])
