# SPDX-License-Identifier: GPL-2.0-only
"""Interrupted runs: what was asked for, and which run may be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.host import files
from harness.manifest import fingerprint
from harness.manifest.kernels_yaml import ImageSource, KernelEntry, TreeSource
from harness.manifest.plan import Plan
from harness.records.from_json import kernel_from_text
from harness.records.store import Run, Store
from harness.verdict.results import KernelResult

#: Of what a run notes about itself, what may have changed when it is resumed.
PASSING = ("host",)


def asked(entries: Sequence[KernelEntry], plan: Plan, settings: Mapping[str, Any]) -> str:
    """What the user asked for as canonical JSON: the same again makes the same text."""
    kernels = [
        {
            **fingerprint.members(entry),
            "touched": [_stamp(image) for image in _users_images(entry)],
        }
        for entry in entries
    ]
    return fingerprint.text({**settings, **fingerprint.members(plan), "kernels": kernels})


def _users_images(entry: KernelEntry) -> tuple[Path, ...]:
    """Of a kernel that the user builds: after the next build, results are another kernel's."""
    match entry.source:
        case ImageSource(image=image):
            return (image,)
        case TreeSource(tree=built):
            return (built / "arch" / "x86" / "boot" / "bzImage", built / "vmlinux")
    return ()


def _stamp(path: Path) -> files.Stamp | None:
    try:
        return files.stamp(path)
    except OSError:
        return None


def interrupted(place: Path, asked: str) -> Run:
    """The run in the store ``place`` to go on with. Raises UsageError and HostError."""
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
            "nothing to resume: no run was asked for the same kernels, as they are now, with the "
            "same settings; leave --resume away to begin one"
        )
    check_unfinished(last)
    if not Path(last.directory).is_dir():
        raise UsageError(
            f"nothing to resume: run {last.id} was interrupted, but its directory "
            f"{last.directory} is gone; leave --resume away to begin anew"
        )
    return last


def check_unfinished(run: Run) -> None:
    """Raises UsageError where ``run`` came to its end."""
    if run.finished:
        raise UsageError(
            f"nothing to resume: the last run that was asked for the same, {run.id}, began at "
            f"{run.started} and finished at {run.finished}; leave --resume away to begin anew"
        )


def check_alike(run: Run, about: Mapping[str, str]) -> None:
    """Raises UsageError where ``run`` was begun with something else than what is here now.

    Its results and those to come would not be of one kind.
    """
    then: dict[str, str] = json.loads(run.about)
    names = [name for name in {**then, **about} if name not in PASSING]
    changed = [name for name in names if then.get(name) != about.get(name)]
    if changed:
        raise UsageError(
            f"run {run.id} cannot be resumed; since it began, these have changed: "
            f"{', '.join(changed)}; leave --resume away to begin anew"
        )


def finished(store: Store, run: Run, say: Callable[[str], None]) -> dict[str, KernelResult]:
    """By name the results that ``run`` has; ``say`` is told of those that are of no use."""
    found = {}
    for kept in store.results(run.id):
        try:
            found[kept.kernel] = kernel_from_text(kept.record())
        except ValueError as error:
            say(f"the kept result of {kept.kernel} cannot be read ({error}): testing again")
    return found
