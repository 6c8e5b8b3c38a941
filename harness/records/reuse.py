# SPDX-License-Identifier: GPL-2.0-only
"""Finds results of earlier runs by their circumstances, and resumes interrupted runs.

A kernel need not be booted again if nothing changed on which its result depends: image and modules,
the guest and its request, the machine, the expectations, and the judging code. All of that is in
the key by which the store finds a result. A result that says nothing about the kernel has no key,
and only good results replace a boot.

An interrupted run may be resumed if the question is the same; its results count without a key.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import harness
from harness import __version__
from harness.errors import Malformed, UsageError
from harness.host import files
from harness.kernels import PreparedKernel
from harness.manifest import fingerprint
from harness.manifest.entries import FileSource, ImageSource, KernelEntry, TreeSource, UserSpace
from harness.manifest.known_issues import LOOK_AGAIN, KnownIssues, digest
from harness.manifest.plan import Plan
from harness.records.from_json import kernel_from_text
from harness.records.store import Run, Store, StoredResult
from harness.verdict.results import EarlierRun, KernelResult, Timing
from harness.verdict.verdicts import KernelVerdict

#: Version of the keys, so that results of other versions are not found.
FORMAT = 3
#: Fields of an entry that are not in the key, and what is in it instead.
FOUND = {
    "name": "known issues may go by it, and are in the key with it",
    "source": "the image, and the modules, that were found there",
    "accel": "the accelerator that was chosen",
    "known_issues": "what the file says of this kernel",
}
#: The number of equal good results in the same circumstances that allow reuse after a bad one.
STEADY = 3


@dataclass(frozen=True)
class Setting:
    """The settings that the kernels of a run share."""

    plan: Plan
    base: str  # the key of the guest's root, see harness.vm.initramfs
    qemu: str
    virtme_ng: str
    known: KnownIssues = field(default_factory=KnownIssues)
    others: Mapping[UserSpace, str] = field(default_factory=dict)  # roots and QEMUs of others


@dataclass(frozen=True)
class Answer:
    """``result`` replaces a boot; if it is None, ``why`` is a message, possibly empty."""

    result: KernelResult | None = None
    why: str = ""


class Results:
    """The results in ``store``, for a run in ``setting``.

    Without a store, there is nothing to find. For a bisect, bad results are ``evidence`` too and
    also replace a boot.
    """

    def __init__(self, store: Store | None, setting: Setting, *, evidence: bool = False) -> None:
        self._store = store
        self._setting = setting
        self._evidence = evidence

    def find(self, entry: KernelEntry, kernel: PreparedKernel, *, kvm: bool) -> Answer:
        """The last result of ``entry`` in these circumstances, under the current name of
        ``kernel``.

        Raises HostError.
        """
        if self._store is None:
            return Answer()
        found = self._store.in_circumstances(self._key(entry, kernel, kvm=kvm), STEADY)
        if not found:
            return Answer()
        last, verdicts = found[0], [kept.verdict for kept in found]
        try:
            result = kernel_from_text(last.record())
            if result.verdict != last.verdict:
                raise Malformed("it is damaged: two verdicts")
        except ValueError as error:
            return Answer(
                None,
                f"the stored result of run {last.run.id} cannot be read ({error}); testing again",
            )
        if not result.verdict.as_expected and not (self._evidence and _tells(result)):
            flaky = f" ({result.confirmed})" if result.confirmed else ""
            return Answer(None, f"the last result was {last.verdict}{flaky}: testing again")
        if self._evidence and len(set(map(_shown, found))) > 1:
            return Answer(None, "the last results differ: testing again")
        if len(set(verdicts)) > 1:
            several = ", ".join(verdicts)
            return Answer(None, f"the last results were {several}: testing again")
        return Answer(_renewed(result, last, entry, kernel))

    def key(self, entry: KernelEntry, kernel: PreparedKernel, result: KernelResult) -> str:
        """The key for ``result``, which boots of ``kernel`` gave.

        Empty if nothing was learned from it.
        """
        if result.verdict is KernelVerdict.INFRASTRUCTURE:
            return ""
        return self._key(entry, kernel, kvm=result.accel == "kvm")

    def _key(self, entry: KernelEntry, kernel: PreparedKernel, *, kvm: bool) -> str:
        return fingerprint.digest(circumstances_of(entry, kernel, self._setting, kvm=kvm))


def circumstances_of(
    entry: KernelEntry, kernel: PreparedKernel, setting: Setting, *, kvm: bool
) -> dict[str, Any]:
    """Everything that a result depends on, as JSON data.

    The path of a kernel is not included, and its name only if known issues may depend on it.
    """
    known = setting.known.listed(entry)
    named = "" if entry.known_issues is None else entry.name
    expected = entry.expected(kernel.release)
    settings = fingerprint.members(entry)
    return {
        "format": FORMAT,
        "harness": [__version__, judging()],
        "image": kernel.image_sha256,
        # An image boots as it is or unpacked, see harness.kernels.kernel_image.
        "unpacked": kernel.boot_image.name != kernel.image.name,
        "modules": list(kernel.modules_sha256),
        "base": setting.base,
        "qemu": setting.qemu,
        "other": setting.others.get(entry.user_space, ""),
        "virtme_ng": setting.virtme_ng,
        "kernel": {name: settings[name] for name in settings.keys() - FOUND.keys()},
        "plan": fingerprint.members(setting.plan),
        "accel": "kvm" if kvm else "tcg",
        "expect": {name: [e.present, e.strict] for name, e in expected.items()},
        "known_issues": digest(known, named, setting.known.today) if known else None,
        # The bugs themselves are in the base's checks.
        "bugs_count": setting.known.today > LOOK_AGAIN,
    }


#: Rooms above the boots and verdicts of one kernel: nothing in them changes its result. Every other
#: file of the package counts, also a new one.
CANNOT_JUDGE = frozenset(
    {"bisect", "bundle", "cli", "nightly", "records", "replay", "report", "selftest", "step"}
)


@functools.cache
def judging() -> str:
    """SHA-256 of the code that boots and judges, so that a change of it counts."""
    package = Path(harness.__file__).parent
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        name = source.relative_to(package)
        if name.parts[0] not in CANNOT_JUDGE:
            content = hashlib.sha256(source.read_bytes()).hexdigest()
            digest.update(f"{name.as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _shown(kept: StoredResult) -> frozenset[tuple[str, str]] | None:
    """The outcome of each check, and the incidents, because two bad results may differ."""
    try:
        result = kernel_from_text(kept.record())
    except ValueError:
        return None
    checks = {
        (str(check.key), str(check.verdict))
        for family in result.families.values()
        for check in family.checks
    }
    return frozenset({*checks, *((i.fingerprint, i.kind) for i in result.incidents)})


def _tells(result: KernelResult) -> bool:
    """Whether another boot would probably give the bad ``result`` again."""
    flaky = result.confirmed is not None and result.confirmed.bad < result.confirmed.boots
    return result.verdict is not KernelVerdict.BOOT_FAILURE and not flaky


def _renewed(
    result: KernelResult, kept: StoredResult, entry: KernelEntry, kernel: PreparedKernel
) -> KernelResult:
    """``result`` as one of this run, without the boots and times of the earlier one."""
    run = kept.run
    return replace(
        result,
        name=entry.name,
        version=kernel.version,
        origin=kernel.origin,
        attempts=(),
        timing=Timing(),
        reused_from=EarlierRun(
            run.id, kept.finished, run.seed, run.directory, result.timing.total_s
        ),
    )


#: What a run records about itself that may differ when it is resumed.
PASSING = ("host",)


def asked(entries: Sequence[KernelEntry], plan: Plan, settings: Mapping[str, Any]) -> str:
    """The question of the user as canonical JSON: equal questions give equal text."""
    kernels = [
        {
            **fingerprint.members(entry),
            "touched": [_stamp(image) for image in _users_images(entry)],
        }
        for entry in entries
    ]
    return fingerprint.text({**settings, **fingerprint.members(plan), "kernels": kernels})


def _users_images(entry: KernelEntry) -> tuple[Path, ...]:
    """The images that the user builds; a new build is another kernel."""
    match entry.source:
        case ImageSource(image=image):
            return (image,)
        case TreeSource(tree=built):
            return (built / "arch" / "x86" / "boot" / "bzImage", built / "vmlinux")
        case FileSource(files=files_of_it):
            return files_of_it
    return ()


def _stamp(path: Path) -> files.Stamp | None:
    try:
        return files.stamp(path)
    except OSError:
        return None


def interrupted(place: Path, asked: str) -> Run:
    """The interrupted run in the store ``place``. Raises UsageError and HostError."""
    last = None
    if place.exists():
        with Store(place) as store:
            last = store.last(asked)
            if store.damage is not None:
                raise UsageError(
                    f"nothing to resume yet: {store.damage}; the same command looks among them"
                )
    if last is None:
        raise UsageError(
            "nothing to resume: no run has the same kernels, as they are now, and the same "
            "settings; omit --resume to start one"
        )
    check_unfinished(last)
    if not Path(last.directory).is_dir():
        raise UsageError(
            f"nothing to resume: run {last.id} was interrupted, but its directory "
            f"{last.directory} no longer exists; omit --resume to start again"
        )
    return last


def check_unfinished(run: Run) -> None:
    """Raises UsageError if ``run`` finished."""
    if run.finished:
        raise UsageError(
            f"nothing to resume: the last run with the same kernels and settings, {run.id}, began "
            f"at {run.started} and finished at {run.finished}; omit --resume to start again"
        )


def check_alike(run: Run, about: Mapping[str, str]) -> None:
    """Raises UsageError if ``run`` began with other versions than the current ones.

    Its results and the new ones would not be comparable.
    """
    then: dict[str, str] = json.loads(run.about)
    names = [name for name in {**then, **about} if name not in PASSING]
    changed = [name for name in names if then.get(name) != about.get(name)]
    if changed:
        raise UsageError(
            f"run {run.id} cannot be resumed; since it began, these have changed: "
            f"{', '.join(changed)}; omit --resume to start again"
        )


def finished(store: Store, run: Run, say: Callable[[str], None]) -> dict[str, KernelResult]:
    """The results that ``run`` has, by name; ``say`` gets a message for each unreadable one."""
    found = {}
    for kept in store.results(run.id):
        try:
            found[kept.kernel] = kernel_from_text(kept.record())
        except ValueError as error:
            say(f"the stored result of {kept.kernel} cannot be read ({error}); testing again")
    return found
