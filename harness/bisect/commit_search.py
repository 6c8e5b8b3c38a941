# SPDX-License-Identifier: GPL-2.0-only
"""The second half of a bisect: from two neighbouring kernels, through git, to the commit.

Both ends are built and tested first, with the harness's configuration: if they do not differ there,
the change is none of git. If neither commit is an ancestor of the other, as on two stable branches,
their common ancestor says on which of the branches the change is.

Everything follows from the outcomes of the commits, each of which is on the disk as soon as it is
known. So an interrupted search begins again: it chooses the same commits, and known outcomes take
no time.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from harness import kernels
from harness.bisect import history, testing
from harness.bisect.candidates import Candidate
from harness.bisect.history import End, History, NoSearch
from harness.bisect.predicate import Outcome, Predicate
from harness.bisect.results import CommitEnding, CommitEvidence, CommitSearch, GitCommit
from harness.bisect.state import Evidence, Journal, Made
from harness.bisect.testing import Listening, Tester
from harness.errors import HostError, Interrupted, KernelUnavailable, Unbuildable
from harness.kernels import Cache, gitref
from harness.manifest.entries import GitSource, KernelEntry
from harness.run.request import RunRequest
from harness.run.workspace import store_place
from harness.text import plural
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import KernelVerdict

#: Digits of a commit in messages, and in the names of its boots.
SHORT = 12
Say = Callable[[str], None]


@dataclass(frozen=True)
class Onward:
    """How a bisect continues in git: in ``clone``, a path or an address; "" if none, so that
    only kernels from git can be traced, in their own.

    No commit is begun once ``is_late`` says so.
    """

    clone: str = ""
    is_late: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class _Span:
    """The commits between two kernels; ``ids`` are all that may be tested, oldest first.

    ``template`` is the entry whose settings they are tested with.
    """

    good: End
    bad: End
    template: KernelEntry
    bases: Sequence[str]
    ids: Sequence[str]
    recipe: str

    def entry(self, id: str) -> KernelEntry:
        source = replace(self.bad.source, ref=id)
        return replace(self.template, name=id[:SHORT], source=source, is_series=False)


def search(
    good: Candidate,
    bad: Candidate,
    wanted: Predicate,
    onward: Onward,
    request: RunRequest,
    cache: Cache,
    listening: Listening,
    say: Say,
    stop: threading.Event,
    *,
    reverse: bool = False,
    fresh: bool = False,
) -> CommitSearch:
    """Find the commit that made ``good`` ``bad``; with ``reverse`` the good one is newer, and the
    commit made it good.

    Settings are those of :func:`harness.bisect.bisection.bisect`, and an interrupted search is
    continued likewise. Raises what that raises.
    """
    started = time.monotonic()
    blank = CommitSearch(CommitEnding.UNTESTABLE, onward.clone, "", "")
    try:
        named = history.sources(good, bad, onward.clone)
        blank = replace(blank, repository=named[0].repository, good=named[0].ref, bad=named[1].ref)
        past = History(named[0], cache, say)
        span = _span(good, bad, named, past)
    except NoSearch as error:
        ending = CommitEnding.SAME_SOURCE if error.same else CommitEnding.UNTESTABLE
        return replace(blank, ending=ending, text=str(error))
    except HostError as error:
        return replace(blank, text=str(error))
    except Interrupted:
        return replace(blank, ending=CommitEnding.INTERRUPTED, text="interrupted")
    with _prepared(span, wanted, request, cache, listening, say, stop, fresh=fresh) as (
        journal,
        booting,
    ):
        run = _Search(span, past, wanted, booting, journal, cache, say, stop, onward.is_late)
        run.wanted_boots += request.confirm
        found = run.run(reverse=reverse)
        seconds = time.monotonic() - started
        return replace(found, seconds=seconds, directory=str(booting.directory))


def _span(
    good: Candidate, bad: Candidate, named: tuple[GitSource, GitSource], past: History
) -> _Span:
    """Raises NoSearch and KernelUnavailable."""
    ends = past.end(good, named[0]), past.end(bad, named[1])
    ids = [end.id for end in ends]
    if ids[0] == ids[1]:
        raise NoSearch(f"both kernels are built from {ids[0][:SHORT]}", same=True)
    bases = past.merge_bases(*ids)
    if not bases:
        raise NoSearch(
            f"{ends[0].ref} and {ends[1].ref} have no common ancestor in {named[0].repository}; if "
            f"it is a shallow clone, run `git fetch --unshallow` there"
        )
    from_git = [c.entry for c in (bad, good) if isinstance(c.entry.source, GitSource)]
    return _Span(
        *ends,
        template=(from_git or [bad.entry])[0],
        bases=bases,
        ids=list(dict.fromkeys([*bases, *past.around(*ids)])),
        recipe=gitref.recipe(named[1]),
    )


@contextlib.contextmanager
def _prepared(
    span: _Span,
    wanted: Predicate,
    request: RunRequest,
    cache: Cache,
    listening: Listening,
    say: Say,
    stop: threading.Event,
    *,
    fresh: bool,
) -> Iterator[tuple[Journal, testing.Booting]]:
    """The journal of the search, and the workspace in which its commits are booted."""
    output = request.output and request.output / "commits"
    request = replace(request, output=output, store=request.store or store_place(request.output))
    what = {"commits": str(wanted), "recipe": span.recipe}
    ends = [Candidate(span.entry(end.id), end.id, "") for end in (span.good, span.bad)]
    entries = [end.entry for end in ends]
    with (
        testing.remembered("bisects", ends, request, what, cache, say, fresh=fresh) as (
            asked,
            journal,
        ),
        testing.in_workspace(
            entries, request, asked, journal.seed, cache, listening, stop
        ) as booting,
    ):
        yield journal, booting


class _Stopped(Exception):
    """The search ends without an answer."""

    def __init__(self, ending: CommitEnding, text: str) -> None:
        super().__init__(text)
        self.ending = ending


@dataclass
class _Search:
    """A search over ``span``; the ``tester`` boots what was built."""

    span: _Span
    past: History
    wanted: Predicate
    tester: Tester
    journal: Journal
    cache: Cache
    say: Say
    stop: threading.Event
    is_late: Callable[[], bool]
    wanted_boots: int = 1
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._evidence = Evidence(self.journal, self.span.ids)
        self._earlier = self._evidence.booted
        self._place = {id: place for place, id in enumerate(self.span.ids)}
        self._left = len(self.span.ids)  # commits among which the change is
        self._trouble = ""  # of the host, in the last boot
        if self._evidence.all:
            self.say(f"continuing in git: {self._count()} known (--fresh starts again)")

    def run(self, *, reverse: bool) -> CommitSearch:
        """Run the search; the journal keeps all evidence, however it ends."""
        span = self.span
        self.say(
            f"from {span.good.ref} to {span.bad.ref} in {span.bad.source.repository}: "
            f"{plural(len(span.ids) - len(span.bases), 'commit')}"
        )
        old, new = (span.bad, span.good) if reverse else (span.good, span.bad)
        try:
            self._check_ends()
            return self._between(old, new)
        except Interrupted:
            stopped = _Stopped(CommitEnding.INTERRUPTED, f"interrupted; {self._kept()}")
        except _Stopped as error:
            stopped = error
        return replace(self._so_far(stopped.ending), text=str(stopped))

    def _check_ends(self) -> None:
        """Raise _Stopped unless both ends, built from git, are as the kernels."""
        for end, expected in ((self.span.good, Outcome.GOOD), (self.span.bad, Outcome.BAD)):
            found = self._test(end.id)
            why = self._evidence.why(self._place[end.id])
            if found is Outcome.UNTESTABLE:
                raise _Stopped(CommitEnding.UNTESTABLE, f"{end.ref} cannot be tested: {why}")
            if found is not expected:
                cause = (
                    "Debian's patches or configuration make the difference, which are not in git"
                    if end.is_debian
                    else "the configuration makes the difference, or the failure comes and goes "
                    "(--confirm N)"
                )
                raise _Stopped(
                    CommitEnding.NOT_IN_GIT,
                    f"{end.ref}, built with the harness's configuration, is {found}, but "
                    f"{end.kernel} is {expected}: {cause} ({why})",
                )

    def _between(self, old: End, new: End) -> CommitSearch:
        """The answer on the branch of ``new``, or of ``old`` if the common ancestor is as new."""
        outcome_of_new = self._known(new.id)
        for base in self.span.bases:
            found = self._test(base)
            if found is outcome_of_new:
                self.notes.append(
                    f"{base[:SHORT]}, the common ancestor of {old.ref} and {new.ref}, is {found}: "
                    f"the change is on the branch of {old.ref}, and that of {new.ref} lacks it"
                )
                return self._narrow(old.id, [base])
            if found is Outcome.UNTESTABLE:
                self.notes.append(f"the common ancestor {base[:SHORT]} cannot be tested")
        return self._narrow(new.id, [old.id, *self.span.bases])

    def _narrow(self, top: str, below: list[str]) -> CommitSearch:
        """The first commit that is as ``top`` and not in ``below``."""
        sought = self._known(top)
        untestable: set[str] = set()
        while True:
            suspects = self.past.suspects(top, below)
            self._left = len(suspects)
            chosen = history.choose(suspects, top, untestable)
            if chosen is None:
                break
            found = self._test(chosen)
            if found is sought:
                top = chosen
            elif found is Outcome.UNTESTABLE:
                untestable.add(chosen)
            else:
                below.append(chosen)
        others = [id for id in suspects if id != top]
        described = self.past.describe([top, *others])
        return replace(
            self._so_far(CommitEnding.FOUND),
            first=described[top],
            others=tuple(described[id] for id in others),
            fixed=sought is Outcome.GOOD,
        )

    # One commit.

    def _known(self, id: str) -> Outcome | None:
        """The outcome of a commit; None if more boots are needed. One bad boot is enough."""
        boots = self._evidence.boots(self._place[id])
        if boots.bad:
            return Outcome.BAD
        if id not in self._evidence.unbuildable and boots.made < self.wanted_boots:
            return None
        return Outcome.GOOD if boots.good else Outcome.UNTESTABLE

    def _test(self, id: str) -> Outcome:
        """The outcome of a commit, built and booted as often as necessary. Raises _Stopped."""
        known = self._known(id)
        if known is not None:
            return known
        self._announce(id)
        while (found := self._known(id)) is None:
            if self.is_late():
                text = f"out of time, with {self._count()} known"
                raise _Stopped(CommitEnding.OUT_OF_TIME, text)
            entry = self.span.entry(id)
            if self._build(entry, id):
                self._boot(entry, id)
        for text in f"{found}: {self._evidence.why(self._place[id])}".splitlines():
            self.say(f"{id[:SHORT]}: {text.rstrip()}")
        return found

    def _announce(self, id: str) -> None:
        """``commit 3 of about 9: building 0123456789ab (subject)``"""
        done = {made.kernel for made in self._evidence.all} - {id}
        ends = {self.span.good.id, self.span.bad.id} - done
        about = len(done) + len(ends) + max(1, math.ceil(math.log2(max(self._left, 1))))
        described = self.past.describe([id])[id]
        self.say(
            f"commit {len(done) + 1} of about {about}: building {id[:SHORT]} ({described.subject})"
        )

    def _build(self, entry: KernelEntry, id: str) -> bool:
        """Whether the commit can be built. Raises _Stopped."""
        try:
            kernels.prepare(entry, self.cache, lambda text: self.say(f"{id[:SHORT]}: {text}"))
        except Unbuildable as error:
            self._evidence.add_unbuildable(id, f"the build failed: {error}")
            return False
        except KernelUnavailable as error:
            self._check_interrupted()
            why = f"{id[:SHORT]} could not be built: {error}; {self._kept()}"
            raise _Stopped(CommitEnding.UNTESTABLE, why) from error
        self._check_interrupted()
        return True

    def _boot(self, entry: KernelEntry, id: str) -> None:
        """Boot the commit once, and keep its outcome. Raises _Stopped."""
        self._trouble = ""
        known = len(self._evidence.all)
        self.tester.test(
            [entry], lambda result: self._keep(id, result), stored=self.wanted_boots == 1
        )
        self._check_interrupted()
        if self._trouble:
            why = f"{id[:SHORT]} could not be booted: {self._trouble}; {self._kept()}"
            raise _Stopped(CommitEnding.UNTESTABLE, why)
        if len(self._evidence.all) == known:
            raise AssertionError("a commit that was not interrupted has a result")

    def _keep(self, id: str, result: KernelResult) -> None:
        if result.verdict is KernelVerdict.INFRASTRUCTURE:
            # Not "untestable": with a full disk every commit would be.
            self._trouble = result.reason
            return
        judged = self.wanted.judge(result)
        reused = result.reused_from
        self._evidence.add(
            Made(
                kernel=id,
                outcome=judged.outcome,
                why=judged.why,
                verdict=result.verdict,
                round=0,
                seconds=reused.total_s if reused else result.timing.total_s,
                reused_from=reused.run if reused else "",
            )
        )

    def _check_interrupted(self) -> None:
        if self.stop.is_set():
            raise _Stopped(CommitEnding.INTERRUPTED, f"interrupted; {self._kept()}")

    def _kept(self) -> str:
        return f"{self._count()} known, and the same command continues"

    def _count(self) -> str:
        return plural(len({made.kernel for made in self._evidence.all}), "commit")

    def _so_far(self, ending: CommitEnding) -> CommitSearch:
        span, evidence = self.span, self._evidence
        tested = [id for place, id in enumerate(span.ids) if evidence.boots(place).made]
        described = self.past.describe(tested)
        return CommitSearch(
            ending=ending,
            repository=span.bad.source.repository,
            good=span.good.ref,
            bad=span.bad.ref,
            evidence=tuple(self._tested(described[id]) for id in tested),
            commits=len(span.ids) - len(span.bases),
            boots=evidence.booted,
            earlier=self._earlier,
            notes=tuple(self.notes),
        )

    def _tested(self, commit: GitCommit) -> CommitEvidence:
        place = self._place[commit.id]
        boots = self._evidence.boots(place)
        return CommitEvidence(
            commit=commit,
            good=boots.good,
            bad=boots.bad,
            untestable=boots.silent,
            why=self._evidence.why(place),
            builds=commit.id not in self._evidence.unbuildable,
            reused_from=self._evidence.reused_from(place),
        )
