# SPDX-License-Identifier: GPL-2.0-only
"""The commits between two kernels, and which to test next: the arithmetic of ``git bisect``.

``git rev-list`` counts, so merges count as they do for git. Nothing is written to the clone: what
is good, bad or cannot be tested is in the state of the bisect (harness.bisect.state).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from harness.bisect.candidates import Candidate
from harness.bisect.commits import tag
from harness.bisect.results import GitCommit
from harness.errors import KernelUnavailable
from harness.host.architectures import Arch
from harness.kernels import gitref
from harness.kernels.cache import Cache
from harness.kernels.source import GitFailed, Repository
from harness.manifest.entries import DebSource, GitSource

#: Where the tags of stable kernels, and those of release candidates, are fetched from.
_STABLE = "https://git.kernel.org/pub/scm/linux/kernel/git/stable/linux.git"
_MAINLINE = "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git"


class NoSearch(Exception):
    """The two kernels cannot be looked for in git; ``same``: because they are of one commit."""

    def __init__(self, text: str, *, same: bool = False) -> None:
        super().__init__(text)
        self.same = same


@dataclass(frozen=True)
class End:
    """A kernel's commit ``id`` in git; ``source`` names it, as the tag of its version does."""

    kernel: str
    source: GitSource
    id: str
    is_debian: bool = False

    @property
    def ref(self) -> str:
        return self.source.ref


def sources(good: Candidate, bad: Candidate, clone: str) -> tuple[GitSource, GitSource]:
    """What ``good`` and ``bad`` are built from. Those that are not from git are looked for in
    ``clone`` by the tags of their versions, with the settings of the other one if that is.

    Raises NoSearch.
    """
    own = [c.entry.source for c in (bad, good) if isinstance(c.entry.source, GitSource)]
    base = own[0] if own else GitSource(clone, "")
    if not base.repository:
        raise NoSearch("there is no clone of Linux; name one with --repo or `defaults: git:`")
    found = []
    for candidate in (good, bad):
        if candidate.entry.arch is not Arch.AMD64:
            raise NoSearch(
                f"commits are built for amd64, and {candidate.entry.name} is for "
                f"{candidate.entry.arch}; see `git bisect` with a cross compiler"
            )
        source = candidate.entry.source
        ref = source.ref if isinstance(source, GitSource) else tag(candidate)
        if not ref:
            raise NoSearch(f"the upstream version of {candidate.entry.name} is unknown")
        found.append(replace(base, ref=ref, fetch=False, sha256=None))
    if not own and found[0].ref == found[1].ref:
        debian = any(isinstance(c.entry.source, DebSource) for c in (good, bad))
        whose = "Debian's" if debian else "their"
        raise NoSearch(
            f"both kernels are built from {found[0].ref}: they differ in {whose} patches or "
            f"configuration, which are not in git",
            same=True,
        )
    return found[0], found[1]


class History:
    """The history in the clone of ``source``. Raises KernelUnavailable."""

    def __init__(self, source: GitSource, cache: Cache, say: gitref.Say) -> None:
        self._say = say
        self._cache = cache
        self._repository: Repository = gitref.opened(source, cache, say)

    def end(self, candidate: Candidate, source: GitSource) -> End:
        """The commit of ``candidate``. A missing tag is fetched into a clone of our own."""
        try:
            commit = gitref.resolve(self._repository, source)
        except KernelUnavailable:
            if isinstance(candidate.entry.source, GitSource) or self._has(source.ref):
                raise
            if "://" not in source.repository or source.repository in self._cache.fetched:
                raise KernelUnavailable(_without_tag(candidate, source)) from None
            gitref.opened(replace(source, fetch=True), self._cache, self._say)
            return self.end(candidate, source)
        is_debian = isinstance(candidate.entry.source, DebSource)
        return End(candidate.entry.name, source, commit.id, is_debian)

    def merge_bases(self, one: str, other: str) -> list[str]:
        """The best common ancestors, as ``git merge-base --all`` has them."""
        return self._lines("merge-base", "--all", one, other)

    def around(self, one: str, other: str) -> list[str]:
        """The commits on either side that the other one lacks, oldest first."""
        return self._lines("rev-list", "--topo-order", "--reverse", f"{one}...{other}")

    def suspects(self, top: str, below: Iterable[str]) -> list[str]:
        """The commits up to ``top`` that are not in ``below``; those that divide them best come
        first."""
        return [
            line.split(" ")[0]
            for line in self._lines("rev-list", "--bisect-all", top, *(f"^{id}" for id in below))
        ]

    def describe(self, ids: Sequence[str]) -> dict[str, GitCommit]:
        lines = self._lines(
            "log", "--no-walk=unsorted", "--date=short", "--format=%H%x00%s%x00%an%x00%ad", *ids
        )
        return {line.split("\0")[0]: GitCommit(*line.split("\0")) for line in lines} if ids else {}

    def _has(self, ref: str) -> bool:
        try:
            self._repository.git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        except GitFailed:
            return False
        return True

    def _lines(self, *arguments: str) -> list[str]:
        try:
            return self._repository.git(*arguments).splitlines()
        except GitFailed as error:
            if arguments[0] == "merge-base" and error.status == 1:
                return []
            raise KernelUnavailable(
                f"git {arguments[0]} failed in {self._repository.top}: {error}"
            ) from error


def choose(suspects: Sequence[str], top: str, untestable: Collection[str]) -> str | None:
    """The commit of ``suspects`` to test next; None if none but ``top`` is left.

    Commits that cannot be tested often have neighbours that cannot either. So each one moves the
    choice twice as far from the middle, as ``git bisect skip`` moves it by chance.
    """
    left = [id for id in suspects if id != top and id not in untestable]
    away = (1 << sum(1 for id in suspects if id in untestable)) - 1
    return (left[away] if away < len(left) else left[0]) if left else None


def _without_tag(candidate: Candidate, source: GitSource) -> str:
    address = _MAINLINE if "-rc" in source.ref else _STABLE
    where = "" if "://" in source.repository else f"git -C {source.repository} "
    return (
        f"{source.repository} has no tag {source.ref}, from which {candidate.entry.name} is built; "
        f"fetch it: {where or 'git '}fetch {address} tag {source.ref}"
    )
