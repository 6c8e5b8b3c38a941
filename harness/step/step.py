# SPDX-License-Identifier: GPL-2.0-only
"""One step: a commit that is checked out, patched, built, booted and judged, or known already.

Images, results, failed builds and logs are kept, a bounded number of each. All but the logs are
found by content (Recipe.key): by the tree that was built, whatever its commit and repository. A
damaged file counts as absent."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import __version__
from harness.bisect.predicate import Judged, Outcome, Predicate
from harness.errors import HostError, Interrupted, Malformed
from harness.host import toolchain, tools
from harness.host.files import recall, remember, touch, write_atomically
from harness.kernels import Cache
from harness.kernels.build import Build, Recipe
from harness.kernels.cache import digest, file_sha256
from harness.kernels.source import Commit, Copy, Source, Untestable
from harness.manifest import entries, fingerprint
from harness.manifest.plan import Profile
from harness.records import prune, reuse, to_json
from harness.records.from_json import kernel_from_text
from harness.run import session, workspace
from harness.run.request import Listener, RunRequest
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import KernelVerdict
from harness.vm import initramfs
from harness.vm.accelerator import qemu_version

#: How many are kept, the most recently used: images of 10 MB, results and logs of some 100 KB.
MAX_IMAGES = 32
MAX_RESULTS = 512
MAX_FAILURES = 512
MAX_LOGS = 256


class Memory:
    """The stored images in ``images``, which may be deleted at any time, and the rest below
    ``state``.

    Safe for several steps at once.
    """

    def __init__(self, images: Path, state: Path) -> None:
        self._images = images
        self._results = state / "results"
        self._failures = state / "failures"
        self._logs = state / "logs"
        for place in (self._images, self._results, self._failures, self._logs):
            place.mkdir(parents=True, exist_ok=True)
        touch(state)
        touch(images)

    def log(self, name: str) -> Path:
        """The path for the log of the build ``name``."""
        _limit(self._logs, MAX_LOGS - 1)
        return self._logs / f"{name}.log"

    def image(self, key: str) -> Path | None:
        """The image stored under ``key``, if it is intact."""
        for path in self._images.glob(f"{key}-*"):
            if path.name == f"{key}-{file_sha256(path)}":
                touch(path)
                return path
            path.unlink(missing_ok=True)
        return None

    def keep_image(self, key: str, image: Path) -> Path:
        """Store a copy of ``image`` under ``key``."""
        _limit(self._images, MAX_IMAGES - 1)
        new = self._images / f".{key}-{os.getpid()}"
        shutil.copyfile(image, new)
        return new.rename(self._images / f"{key}-{file_sha256(new)}")

    def results(self, key: str) -> tuple[KernelResult, ...]:
        """The results stored under ``key``, oldest first."""
        return tuple(self._read(key))

    def keep_result(self, key: str, result: KernelResult) -> None:
        _limit(self._results, MAX_RESULTS - 1)
        number = len(self._of(key))
        path = self._results / f"{key}-{number:03}.json"
        write_atomically(path, to_json.kernel_text(result))

    def failure(self, key: str) -> str | None:
        """Why the build with this ``key`` failed, if it did."""
        known = recall(self._failures / f"{key}.json")
        why = known.get("why") if isinstance(known, dict) else None
        return why if isinstance(why, str) else None

    def keep_failure(self, key: str, why: str) -> None:
        _limit(self._failures, MAX_FAILURES - 1)
        remember(self._failures / f"{key}.json", {"why": why})

    def forget(self, key: str, results: str) -> None:
        """Remove everything stored under ``key``, and the results under the key ``results``."""
        kept = (*self._images.glob(f"{key}-*"), *self._of(results), self._failures / f"{key}.json")
        for path in kept:
            path.unlink(missing_ok=True)

    def _of(self, key: str) -> list[Path]:
        return sorted(self._results.glob(f"{key}-*.json"))

    def _read(self, key: str) -> Iterator[KernelResult]:
        for path in self._of(key):
            with contextlib.suppress(Malformed, OSError, UnicodeDecodeError):
                yield kernel_from_text(path.read_text(encoding="utf-8"))


def _limit(place: Path, most: int) -> None:
    """Remove the least recently used files from ``place``, down to ``most`` files."""
    used = []
    for path in place.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another step removed it
            used.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(used, reverse=True)[most:]:
        path.unlink(missing_ok=True)


#: Below the cache: a directory for each repository, with its copy,
BUILDS = "builds"
#: and one for all images.
IMAGES = "images"


@dataclass(frozen=True)
class StepRequest:
    """The request of the user. A good commit must be good in ``confirm`` more boots.

    With ``fresh``, earlier results of the commit do not count. ``boots`` says how it is tested. The
    image is copied to ``save``.
    """

    predicate: Predicate
    recipe: Recipe
    boots: RunRequest
    patches: tuple[Path, ...] = ()
    confirm: int = 0
    fresh: bool = False
    save: Path | None = None


@dataclass(frozen=True)
class StepAnswer:
    """The verdict on a commit. ``why`` is for people and may contain text of a guest or a
    compiler."""

    outcome: Outcome
    commit: Commit
    why: str


class Step:
    """A step in the tree that contains ``directory``.

    ``say`` gets a line for each slow step, ``listener`` the progress of the boots.
    """

    def __init__(
        self,
        directory: Path,
        request: StepRequest,
        cache: Cache,
        say: Callable[[str], None],
        listener: Listener,
        stop: threading.Event,
    ) -> None:
        self._directory = directory
        self._request = request
        self._cache = cache
        self._say = say
        self._listener = listener
        self._stop = stop

    def run(self) -> StepAnswer:
        """Judge the checked-out state.

        Raises Interrupted, and HostError if no commit could be judged.
        """
        toolchain.check()
        workspace.find_tools()
        source = Source(self._directory, self._say, self._stop)
        waiting_for = "another step in this repository"
        with (
            self._cache.scratch(),
            self._cache.lock(f"build-{source.key}", self._say, waiting_for) as lock,
        ):
            place = self._cache.directory(BUILDS, source.key)
            touch(place)
            copy = source.open(place)
            commit = source.commit(copy)
            self._say(f"{commit}")
            try:
                tree = copy.patched(commit.tree, self._request.patches)
            except Untestable as refused:
                return StepAnswer(Outcome.UNTESTABLE, commit, str(refused))
            images = self._cache.directory(BUILDS, IMAGES)
            state = workspace.runs_directory().with_name(prune.STEPS_IN) / prune.COMMITS
            judged = self._judge(_Subject(place, copy, commit, tree, lock), Memory(images, state))
        return StepAnswer(judged.outcome, commit, judged.why)

    def _judge(self, subject: _Subject, memory: Memory) -> Judged:
        key = self._request.recipe.key(subject.tree)
        results_key = digest([key, self._circumstances(self._request.boots)])
        if self._request.fresh:
            memory.forget(key, results_key)
        results = list(memory.results(results_key)) or self._of_more_checks(memory, key)
        known = self._decide(results)
        if known is not None and self._request.save is None:
            self._say("the commit was already tested; --fresh builds and boots it again")
            return known
        try:
            image = self._image(subject, key, memory)
        except Untestable as error:
            return Judged(Outcome.UNTESTABLE, f"the build failed: {error}")
        if self._request.save is not None:
            shutil.copyfile(image, self._request.save)
        while (judged := self._decide(results)) is None:
            results.append(self._boot(subject.commit, image))
            if results[-1].verdict is KernelVerdict.INFRASTRUCTURE:
                # Not "untestable": with a full disk, git would skip every commit.
                raise HostError(f"{subject.commit} could not be booted: {results[-1].reason}")
            memory.keep_result(results_key, results[-1])
        return judged

    def _of_more_checks(self, memory: Memory, key: str) -> list[KernelResult]:
        """Results of the full profile, which also answer a question about quick checks."""
        boots = self._request.boots
        if boots.plan.profile is Profile.FULL or self._request.fresh:
            return []
        full = replace(boots, plan=replace(boots.plan, profile=Profile.FULL))
        return list(memory.results(digest([key, self._circumstances(full)])))

    def _decide(self, results: Sequence[KernelResult]) -> Judged | None:
        """Judge the commit by its ``results``, one for each boot; None if more boots are needed.

        One bad boot is enough; a commit is good if all conclusive boots were good.
        """
        judged = [self._request.predicate.judge(result) for result in results]
        bad = [each for each in judged if each.outcome is Outcome.BAD]
        if bad:
            return bad[0]
        if len(judged) <= self._request.confirm:
            return None
        return next((each for each in judged if each.outcome is Outcome.GOOD), judged[0])

    def _image(self, subject: _Subject, key: str, memory: Memory) -> Path:
        """The image of the tree, built unless it is stored. Raises Untestable.

        A concurrent step in another repository that needs the same image waits for it.
        """
        with self._cache.lock(f"image-{key}", self._say, "the same build"):
            kept = memory.image(key)
            if kept is not None:
                self._say("using the stored image")
                return kept
            failure = memory.failure(key)
            if failure is not None:
                raise Untestable(f"{failure}\n    (known; --fresh builds it again)")
            try:
                return memory.keep_image(key, self._built(subject, key, memory))
            except Untestable as error:
                memory.keep_failure(key, str(error))
                raise

    def _built(self, subject: _Subject, key: str, memory: Memory) -> Path:
        started = time.monotonic()
        self._say("checking out the commit in the copy of the tree")
        subject.copy.check_out(subject.tree)
        log = memory.log(f"{subject.commit.id[:12]}-{key}")
        recipe, lock = self._request.recipe, subject.lock
        build = Build(subject.place, subject.copy, recipe, log, self._say, self._stop, lock)
        image = build.run(subject.commit, subject.tree)
        self._say(f"built in {time.monotonic() - started:.0f} s")
        return image

    def _boot(self, commit: Commit, image: Path) -> KernelResult:
        entry = replace(entries.for_image(image), name=commit.id[:12])
        run = session.run([entry], self._request.boots, self._cache, self._listener, self._stop)
        if run.interrupted or not run.kernels:
            raise Interrupted("the boot was interrupted")
        return run.kernels[0]

    def _circumstances(self, boots: RunRequest) -> list[object]:
        """Everything that a result depends on besides the image."""
        qemu, busybox = workspace.find_tools()
        return [
            __version__,
            reuse.judging(),
            tools.virtme_ng_version(),
            initramfs.prepare(self._cache.root, busybox).stem,
            qemu_version(qemu, self._cache),
            fingerprint.canonical(boots),
        ]


@dataclass(frozen=True)
class _Subject:
    """A commit with patches (``tree``), and where it is built while ``lock`` is held."""

    place: Path
    copy: Copy
    commit: Commit
    tree: str
    lock: int
