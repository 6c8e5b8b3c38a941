# SPDX-License-Identifier: GPL-2.0-only
"""The source that is built: a copy of the user's tree as it is, with patches, kept by the harness.

The user's tree is only read. What it holds, local changes included, is written down as one tree
object in a repository of our own, which borrows all others from the user's (alternates); patches
are applied to that object, in an index. Only what comes of it is checked out, beside that
repository: so nothing of the user's is ever changed, and nothing has to be put back, however a
step ends. A file that is the same in one commit and the next is not touched, so make(1) builds
only what differs.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.host import programs

#: Seconds; checking out a whole kernel from a slow disk takes minutes.
_TIMEOUT = 3600
#: What a hook, an alias or a user may have set; it would lead git to another repository.
_LEADING = "GIT_"
_KEPT = ("GIT_CONFIG", "GIT_EXEC_PATH", "GIT_SSL")
# Nothing of a user's settings may start a daemon, or ask.
_PLAIN = ("-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false", "-c", "gc.auto=0")


class Stop(Exception):
    """No commit can be judged here: a sentence with the remedy. It ends a git bisect."""


class GitFailed(Exception):
    """git's own first words about why it failed."""


class PatchRefused(Exception):
    """A patch of the user's does not apply to this commit; a sentence."""


class _Git(Protocol):
    def __call__(self, directory: Path, environment: Mapping[str, str], *arguments: str) -> str: ...


@dataclass(frozen=True)
class Commit:
    """What is checked out in a tree: ``tree`` is git's name for all that tracked files hold.

    ``is_modified`` says that this is not just the commit. ``time`` is the commit's, in seconds
    since the epoch.
    """

    id: str
    subject: str
    time: int
    tree: str
    is_modified: bool

    def __str__(self) -> str:
        changed = " with local changes" if self.is_modified else ""
        return f"{self.id[:12]}{changed} ({self.subject})"


class Source:
    """The kernel tree of the user's that ``directory`` is in, and the copy of it in ``place``.

    Raises Stop where there is none.
    """

    def __init__(self, directory: Path, stop: threading.Event) -> None:
        self._stop = stop
        self.top = directory.absolute()
        try:
            said = self._users("rev-parse", "--show-toplevel")
        except GitFailed as error:
            raise Stop(f"{directory} is in no git repository of a kernel ({error})") from error
        self.top = Path(said)
        wanted = ("Kbuild", "Makefile", "arch/x86/Kconfig")
        if not all((self.top / name).is_file() for name in wanted):
            raise Stop(f"{self.top} is no kernel tree: it has not all of {', '.join(wanted)}")

    @property
    def key(self) -> str:
        """A name for the tree, by where it lies."""
        return hashlib.sha256(str(self.top).encode()).hexdigest()[:16]

    def open(self, place: Path) -> Copy:
        """The copy in the directory ``place``, made if need be; its contents are not yet there."""
        objects = (self.top / self._users("rev-parse", "--git-path", "objects")).resolve()
        repository = place / "git"
        if not (repository / "HEAD").is_file():
            self._git(place, {}, "init", "--quiet", "--bare", str(repository))
        (place / "source").mkdir(exist_ok=True)
        # Of a step that was killed; this one holds the lock of the place.
        for left in repository.glob("*.lock"):
            left.unlink()
        (repository / "objects/info/alternates").write_text(f"{objects}\n")
        return Copy(place, objects, self._git)

    def commit(self, copy: Copy) -> Commit:
        """What is checked out, with changes to tracked files, staged or not.

        New files count once they are added to the index. Raises Stop in the middle of a merge.
        """
        try:
            head = self._users("log", "-1", "--format=%H %ct %T %s", "HEAD")
            # With the changes it makes a commit that no branch names, in our repository.
            changed = self._users("stash", "create", **copy.objects())
            names = f"{changed}^{{tree}}"
            tree = self._users("rev-parse", names, **copy.objects()) if changed else ""
        except GitFailed as error:
            raise Stop(
                f"git does not say what is in {self.top} ({error}); finish what is under way "
                "there, and `git add` new files instead of only announcing them"
            ) from error
        id, time, own, subject = head.split(" ", 3)
        return Commit(id, subject, int(time), tree or own, tree not in ("", own))

    def _users(self, *arguments: str, **environment: str) -> str:
        return self._git(self.top, environment, *arguments)

    def _git(self, directory: Path, environment: Mapping[str, str], *arguments: str) -> str:
        try:
            run = programs.run(
                ["git", *_PLAIN, *arguments],
                {**without_git(os.environ), "LC_ALL": "C", **environment},
                stop=self._stop,
                timeout=_TIMEOUT,
                directory=directory,
            )
        except OSError as error:
            raise Stop(f"git cannot be run in {directory}: {error.strerror or error}") from error
        if run.returncode != 0:
            lines = [*run.stderr.strip().splitlines(), f"exit status {run.returncode}"]
            raise GitFailed(lines[0])
        return run.stdout.removesuffix("\n")


class Copy:
    """A copy of a kernel tree below ``place``, in the directory ``source``; made by Source."""

    def __init__(self, place: Path, users: Path, git: _Git) -> None:
        self.directory = place / "source"
        self._place = place
        self._repository = place / "git"
        self._users = users
        self._git = git

    def objects(self) -> dict[str, str]:
        """The environment by which git puts new objects into the copy's repository."""
        return {
            "GIT_OBJECT_DIRECTORY": str(self._repository / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(self._users),
        }

    def patched(self, tree: str, patches: Sequence[Path]) -> str:
        """The tree that comes of ``tree`` with ``patches``, in their order.

        Raises PatchRefused.
        """
        if not patches:
            return tree
        index = {"GIT_INDEX_FILE": str(self._repository / "patched")}
        self._own(index, "read-tree", tree)
        for patch in patches:
            try:
                self._own(index, "apply", "--cached", "--whitespace=nowarn", str(patch))
            except GitFailed as error:
                raise PatchRefused(f"the patch {patch} does not apply ({error})") from error
        return self._own(index, "write-tree")

    def check_out(self, tree: str) -> None:
        """Make the files of the copy those of ``tree``; what was built from others stays.

        Raises Stop.
        """
        # Files that an interrupted check-out made are in no index, and so in no other's way.
        under_way = self._place / "unsettled"
        try:
            was_interrupted = under_way.exists()
            under_way.touch()
            self._own({}, "read-tree", "--reset", "-u", tree)
            if was_interrupted:
                self._own({}, "clean", "-q", "-d", "--force")
            under_way.unlink()
        except GitFailed as error:
            raise Stop(
                f"the copy of the tree in {self._place} cannot be brought to this commit "
                f"({error}); look at the disk, or remove {self._place} to have it made again"
            ) from error

    def names(self, tree: str) -> list[str]:
        """Each file of ``tree`` as ``MODE TYPE OBJECT<tab>PATH``."""
        return self._own({}, "ls-tree", "-r", "-z", tree).split("\0")

    def _own(self, environment: Mapping[str, str], *arguments: str) -> str:
        own = {
            "GIT_DIR": str(self._repository),
            "GIT_WORK_TREE": str(self.directory),
            **environment,
        }
        return self._git(self.directory, own, *arguments)


def without_git(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what would lead git to a repository or an index of its choice."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_LEADING) or name.startswith(_KEPT)
    }
