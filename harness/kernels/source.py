# SPDX-License-Identifier: GPL-2.0-only
"""The source of a build: a copy of the user's tree in its current state, with patches.

The user's tree is only read; its index is copied, not used. Its content, including local changes,
becomes a tree object in a separate repository, which borrows all other objects from the user's
(alternates). Patches are applied to that object in an index, and only the result is checked out,
beside that repository. So nothing of the user's is ever changed, and nothing has to be restored,
however a step ends. Files that two commits share are not touched, so make(1) builds only what
differs. All worktrees of a repository share one copy.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from harness.errors import HarnessError, HostError
from harness.host import programs
from harness.kernels import patch_files

#: Seconds; checking out a whole kernel from a slow disk takes minutes.
_TIMEOUT = 3600
#: Variables that a hook, an alias or a user may have set, and that lead git to another repository.
_LEADING = "GIT_"
_KEPT = ("GIT_CONFIG", "GIT_EXEC_PATH", "GIT_SSL")
#: No setting of the user may start a program or write beside the index.
_PLAIN = tuple(
    argument
    for setting in (
        *("core.fsmonitor=false", "core.untrackedCache=false", "core.splitIndex=false"),
        *("core.hooksPath=/dev/null", "gc.auto=0", "advice.addEmbeddedRepo=false"),
        "core.ignoreStat=false",  # which would hide changes of the copy
    )
    for argument in ("-c", setting)
)
#: Messages of git about a failing disk, which is not the fault of the commit.
_DISK = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|Input/output error"
)


class Untestable(HarnessError):
    """This commit cannot be built, or not with the patches; others may be."""


class GitFailed(Exception):
    """git failed: its first message, and its exit status."""

    def __init__(self, said: str, status: int) -> None:
        super().__init__(said)
        self.status = status


class _Git(Protocol):
    def __call__(self, directory: Path, environment: Mapping[str, str], *arguments: str) -> str: ...


@dataclass(frozen=True)
class Commit:
    """The commit checked out in a tree. ``tree`` is the id of the content of all tracked files.

    ``is_modified`` is set if it differs from the commit. ``time`` is the commit's, in seconds since
    the epoch.
    """

    id: str
    subject: str
    time: int
    tree: str
    is_modified: bool

    def __str__(self) -> str:
        changed = " with local changes" if self.is_modified else ""
        return f"{self.id[:12]}{changed} ({self.subject})"


class Repository:
    """The git repository in ``top``, with or without a work tree; ``say`` gets a message for slow
    steps.

    Raises HostError if there is none.
    """

    #: What git rev-parse is asked for, all at once: each call costs a process.
    _ASKED: tuple[str, ...] = (
        *("--git-common-dir", "--git-path", "objects", "--git-path", "index"),
    )

    def __init__(self, top: Path, say: Callable[[str], None], stop: threading.Event) -> None:
        self._say = say
        self._stop = stop
        self.top = top.absolute()
        try:
            said = self.git("rev-parse", *self._ASKED)
        except GitFailed as error:
            raise HostError(f"{top} is not in a git repository of a kernel ({error})") from error
        common, objects, index, *top_level = said.split("\n", 3)
        self._common, self._objects = ((self.top / path).resolve() for path in (common, objects))
        self._index = self.top / index
        if top_level:
            self.top = Path(top_level[0])

    @property
    def key(self) -> str:
        """A name for the repository, from its path; the same for all its worktrees."""
        return hashlib.sha256(os.fsencode(self._common)).hexdigest()[:16]

    def open(self, place: Path) -> Copy:
        """The copy in the directory ``place``, created if necessary, but not yet checked out."""
        repository = place / "git"
        if not (repository / "HEAD").is_file():
            self._git(place, {}, "init", "--quiet", "--bare", str(repository))
        (place / "source").mkdir(exist_ok=True)
        # Left by a killed build; this one holds the lock of the place.
        for left in repository.glob("*.lock"):
            left.unlink()
        (repository / "objects/info/alternates").write_text(f"{self._objects}\n")
        self._promise(repository)
        return Copy(place, self._objects, self._git)

    def _promise(self, repository: Path) -> None:
        """Let ``repository`` fetch the objects that a clone without contents of files lacks."""
        if not self._may_lack_objects():
            return
        try:
            promisor = self.git("config", "--get-regexp", r"^remote\..*\.promisor$", "true")
        except GitFailed:
            return
        remote = promisor.splitlines()[0].split(".", 1)[1].rsplit(".", 1)[0]
        settings = {
            "core.repositoryFormatVersion": "1",
            "extensions.partialClone": remote,
            f"remote.{remote}.url": self.git("config", f"remote.{remote}.url"),
            f"remote.{remote}.promisor": "true",
            f"remote.{remote}.partialCloneFilter": "blob:none",
        }
        for name, value in settings.items():
            self._git(repository, {"GIT_DIR": str(repository)}, "config", name, value)

    def _may_lack_objects(self) -> bool:
        """Whether git's configuration may name a promisor; asking git takes longer than a look."""
        try:
            config = (self._common / "config").read_text(errors="replace").lower()
        except OSError:
            return True
        return "promisor" in config or "include" in config

    def git(self, *arguments: str, **environment: str) -> str:
        """The output of git in the repository. Raises GitFailed and HostError."""
        return self._git(self.top, environment, *arguments)

    def _git(self, directory: Path, environment: Mapping[str, str], *arguments: str) -> str:
        return self.run_git(directory, arguments, self._say, self._stop, environment)

    @staticmethod
    def run_git(
        directory: Path,
        arguments: Sequence[str],
        say: Callable[[str], None],
        stop: threading.Event,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """The output of git in ``directory``. Raises GitFailed, HostError and Interrupted."""
        try:
            run = programs.run(
                ["git", *_PLAIN, *arguments],
                {
                    **without_git(os.environ),
                    "GIT_OPTIONAL_LOCKS": "0",
                    "LC_ALL": "C",
                    **environment,
                },
                stop=stop,
                timeout=_TIMEOUT,
                directory=directory,
                waiting=lambda seconds: say(f"git {arguments[0]}: {seconds:.0f} s so far"),
            )
        except OSError as error:
            raise HostError(
                f"git cannot be run in {directory}: {error.strerror or error}"
            ) from error
        if run.returncode != 0:
            if _DISK.search(run.stderr):
                raise HostError(
                    f"git failed: {run.stderr.strip()[-300:]}; free some space on the disk"
                )
            lines = [*run.stderr.strip().splitlines(), f"exit status {run.returncode}"]
            raise GitFailed(lines[0], run.returncode)
        return run.stdout.removesuffix("\n")


class Source(Repository):
    """The user's kernel tree that contains ``directory``; ``say`` gets a message for slow steps.

    Raises HostError if there is none.
    """

    _ASKED = (*Repository._ASKED, "--show-toplevel")

    def __init__(self, directory: Path, say: Callable[[str], None], stop: threading.Event) -> None:
        super().__init__(directory, say, stop)
        wanted = ("Kbuild", "Makefile", "arch/x86/Kconfig")
        if not all((self.top / name).is_file() for name in wanted):
            raise HostError(
                f"{self.top} is not a kernel tree: it lacks some of {', '.join(wanted)}"
            )

    def commit(self, copy: Copy) -> Commit:
        """The checked-out state, including changes to tracked files, staged or not.

        New files count once they are added to the index. Raises HostError in the middle of a merge.
        """
        try:
            head = self.git("log", "-1", "--format=%H %ct %T %s", "HEAD")
            tree = self._tree(copy)
        except (GitFailed, OSError) as error:
            raise HostError(f"git cannot read {self.top} ({error})") from error
        id, time, own, subject = head.split(" ", 3)
        return Commit(id, subject, int(time), tree, tree != own)

    def _tree(self, copy: Copy) -> str:
        """A tree object of all tracked files in their current state, in the copy's repository.

        Uses a copy of the user's index, because an editor or another git may have locked it.
        """
        with tempfile.TemporaryDirectory(prefix="index-", dir=copy.place) as directory:
            ours = Path(directory, "index")
            # With its times, by which git knows which files may have changed since it was written.
            shutil.copy2(self._index, ours)
            environment = {**copy.objects(), "GIT_INDEX_FILE": str(ours)}
            if self.git("ls-files", "--unmerged", **environment):
                raise HostError(f"a merge is in progress in {self.top}; finish or abort it")
            self.git("add", "--update", "--", ":/", **environment)
            return self.git("write-tree", **environment)


class Copy:
    """A copy of a kernel tree below ``place``, in the directory ``source``; made by Source."""

    def __init__(self, place: Path, users: Path, git: _Git) -> None:
        self.directory = place / "source"
        self.place = place
        self._repository = place / "git"
        self._users = users
        self._git = git

    def objects(self) -> dict[str, str]:
        """The environment that makes git write new objects to the copy's repository."""
        return {
            "GIT_OBJECT_DIRECTORY": str(self._repository / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(self._users),
        }

    def patched(self, tree: str, patches: Sequence[Path]) -> str:
        """The tree of ``tree`` with ``patches`` applied in order.

        Raises Untestable if one does not apply.
        """
        if not patches:
            return tree
        index = {"GIT_INDEX_FILE": str(self._repository / "patched")}
        self._own(index, "read-tree", tree)
        with tempfile.TemporaryDirectory(prefix="patch-", dir=self.place) as directory:
            for number, patch in enumerate(patches):
                for what, file in self._changes(patch, Path(directory, str(number))):
                    self._apply(index, what, file)
        return self._own(index, "write-tree")

    def _changes(self, patch: Path, place: Path) -> Iterator[tuple[str, Path]]:
        """The changes of ``patch``: files for git apply, in order, each with a name for messages.

        ``place`` is a directory for those of a mailbox. Raises HostError.
        """
        try:
            if not patch_files.is_mail(patch):
                yield str(patch), patch
                return
            place.mkdir()
            self._own({}, "mailsplit", f"-o{place}", str(patch))
            for file in sorted(place.iterdir()):
                mail = patch_files.read(file.read_bytes())
                file.write_bytes(mail.changes)
                yield f"{patch} ({mail.subject})" if mail.subject else str(patch), file
        except (OSError, GitFailed) as error:
            raise HostError(f"the patch {patch} cannot be read: {error}") from error

    def _apply(self, index: Mapping[str, str], what: str, file: Path) -> None:
        """Apply ``file`` in ``index``. Raises Untestable if it does not apply."""
        try:
            self._own(index, "apply", "--cached", "--whitespace=nowarn", str(file))
        except GitFailed as error:
            # git apply returns 1 for patches that do not apply, and 128 for what is no patch.
            if error.status != 1:
                raise HostError(f"the patch {what} cannot be read: {error}") from error
            raise Untestable(f"the patch {what} does not apply ({error})") from error

    def check_out(self, tree: str) -> None:
        """Check out the files of ``tree`` in the copy; build results stay.

        Raises HostError.
        """
        # Files of an interrupted checkout are in no index, so they do not disturb.
        under_way = self.place / "unsettled"
        try:
            was_interrupted = under_way.exists()
            under_way.touch()
            if was_interrupted or not self._move(tree):
                self._own({}, "read-tree", "--reset", "-u", tree)
            if was_interrupted:
                self._own({}, "clean", "-q", "-d", "--force")
            under_way.unlink()
        except GitFailed as error:
            raise HostError(
                f"the copy of the tree in {self.place} cannot be brought to this commit ({error}); "
                f"check the disk, or remove {self.place}, which the next step makes again"
            ) from error

    def _move(self, tree: str) -> bool:
        """Check out the differences between the copy and ``tree``; False if it is not intact.

        This takes a third of the time of ``read-tree --reset``, which reads all directories of
        ``tree`` and looks at one file after another; diff-files looks at several at a time.
        """
        try:
            # Not a note of ours: only the index tells what is checked out, whoever did it.
            before = self._own({}, "write-tree")
            self._own({}, "diff-files", "--quiet")
            if before != tree:
                self._own({}, "read-tree", "-m", "-u", before, tree)
        except GitFailed:  # no index, a file that was changed, or an untracked one in the way
            return False
        return True

    def names(self, patterns: Sequence[str]) -> list[str]:
        """The files that are checked out and match ``patterns`` (gitglossary(7), pathspec), each as
        ``MODE OBJECT STAGE<tab>PATH``."""
        return self._own({}, "ls-files", "--stage", "-z", "--", *patterns).split("\0")

    def _own(self, environment: Mapping[str, str], *arguments: str) -> str:
        own = {
            "GIT_DIR": str(self._repository),
            "GIT_WORK_TREE": str(self.directory),
            **environment,
        }
        return self._git(self.directory, own, *arguments)


def without_git(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without variables that lead git to another repository or index."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_LEADING) or name.startswith(_KEPT)
    }
