# SPDX-License-Identifier: GPL-2.0-only
"""Makes one run out of several that tested parts of a list of kernels.

The merged run is stored as any other: `compare`, `history` and the reports find it. Only `--reuse`
does not, because a record does not have all circumstances of a result.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.errors import HostError, UsageError
from harness.host.files import write_atomically
from harness.manifest import fingerprint
from harness.manifest.entries import ImageSource, KernelEntry
from harness.manifest.known_issues import KnownIssues
from harness.manifest.plan import Profile
from harness.records import prune, stored_runs, summaries, to_json
from harness.records.store import Run, Store
from harness.run import workspace
from harness.verdict.results import KernelResult, RunResult
from harness.verdict.verdicts import Family, KernelVerdict

#: Members of a question that are compared by themselves.
_NO_SETTINGS = ("kernels", "manifest", "seed", "shard")
#: Of a kernel: a file has this name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:-]{0,250}")
#: Notes of an interrupted run say how that run is continued.
_CONTINUE = "`matrix --resume`"


class Flaw(StrEnum):
    """Why runs may not belong together; each can be allowed."""

    MISSING = "missing"
    DOUBLED = "doubled"
    HARNESS = "harness"
    SEED = "seed"
    MANIFEST = "manifest"
    SETTINGS = "settings"


@dataclass(frozen=True)
class Part:
    """One of the runs: its record, and the directory with its consoles and events, if given."""

    name: str  # as the user gave it
    run: RunResult
    directory: Path | None = None


def read(path: Path) -> Part:
    """The run in a file of ``--json``, or in a run's directory. Raises UsageError."""
    run = stored_runs.read(path)
    for name in (kernel.name for kernel in run.kernels):
        if not _NAME.fullmatch(name):
            raise UsageError(f"{path}: {name!r} is not the name of a kernel; give another file")
    return Part(str(path), run, path if path.is_dir() else None)


def merge(
    parts: Sequence[Part], allowed: Collection[Flaw], output: Path | None, place: Path
) -> RunResult:
    """The run that ``parts`` are together, stored in ``place`` and in a directory of its own.

    Raises UsageError if something is wrong with it that is not ``allowed``, or if it was merged
    before; HostError.
    """
    found = flaws(parts)
    wrong = [(flaw, text) for flaw, text in found if flaw not in allowed]
    if wrong:
        names = ",".join(dict.fromkeys(str(flaw) for flaw, _ in wrong))
        lines = [text for _, text in wrong]
        raise UsageError("\n".join([*lines, f"merge what belongs together, or --allow {names}"]))
    merged = _joined(parts, tuple(text for _, text in found))
    with ExitStack() as held:
        store = held.enter_context(Store(place))
        _check_new(store, merged)
        directory = workspace.new_directory(output, merged.id)
        held.enter_context(prune.in_use(directory))
        merged = replace(merged, directory=str(directory))
        _keep(merged, parts, store)
    return merged


# What is wrong.


def flaws(parts: Sequence[Part]) -> list[tuple[Flaw, str]]:
    """Why these runs cannot be merged: each reason, with a sentence."""
    return [
        *_differing(Flaw.HARNESS, "harness versions", parts, _version),
        *_differing(Flaw.SEED, "seeds", parts, lambda part: str(part.run.seed)),
        *_manifests(parts),
        *_settings(parts),
        *_doubled(parts),
        *_missing(parts),
    ]


def _version(part: Part) -> str:
    return " ".join(filter(None, (part.run.harness_version, part.run.code)))


def _differing(
    flaw: Flaw, what: str, parts: Sequence[Part], of: Callable[[Part], str]
) -> Iterator[tuple[Flaw, str]]:
    found: dict[str, str] = {}
    for part in parts:
        found.setdefault(of(part), part.name)
    if len(found) > 1:
        listed = ", ".join(f"{value or 'unknown'} ({name})" for value, name in found.items())
        yield flaw, f"the runs have different {what}: {listed}"


def _manifests(parts: Sequence[Part]) -> Iterator[tuple[Flaw, str]]:
    """Shards name their whole list; of other runs only the manifest's path is known."""
    shards = [part for part in parts if part.run.shard is not None]
    others = [part for part in parts if part.run.shard is None]
    yield from _differing(Flaw.MANIFEST, "lists of kernels", shards, _list)
    yield from _differing(Flaw.MANIFEST, "manifests", others, _manifest)


def _list(part: Part) -> str:
    shard = part.run.shard
    if shard is None:
        return ""
    return f"{len(shard.kernels)} kernels in {shard.of} shards, hash {shard.manifest[:12]}"


def _manifest(part: Part) -> str:
    return str(_asked(part.run).get("manifest") or "")


def _settings(parts: Sequence[Part]) -> Iterator[tuple[Flaw, str]]:
    first, *rest = parts
    settings = _settings_of(first.run)
    for part in rest:
        other = _settings_of(part.run)
        names = [n for n in {**settings, **other} if settings.get(n) != other.get(n)]
        if names:
            listed = ", ".join(sorted(names))
            yield Flaw.SETTINGS, f"{part.name} has other settings than {first.name}: {listed}"


def _doubled(parts: Sequence[Part]) -> Iterator[tuple[Flaw, str]]:
    where: dict[str, list[str]] = {}
    for part in parts:
        for kernel in part.run.kernels:
            where.setdefault(kernel.name, []).append(part.name)
    for name, files in where.items():
        if len(files) > 1:
            yield Flaw.DOUBLED, f"{name} has a result in {' and in '.join(files)}"


def _missing(parts: Sequence[Part]) -> Iterator[tuple[Flaw, str]]:
    lacking = _absent(parts)
    if lacking:
        shown = ", ".join(lacking[:20]) + (f" and {len(lacking) - 20} more" * (len(lacking) > 20))
        yield Flaw.MISSING, f"no run has a result of {shown}"


def _absent(parts: Sequence[Part]) -> list[str]:
    found = {kernel.name for part in parts for kernel in part.run.kernels}
    return [name for name in _order(parts) if name not in found]


def _order(parts: Sequence[Part]) -> list[str]:
    """The names of all kernels, in the order of the list that the shards are of."""
    listed = [name for part in parts if part.run.shard for name in part.run.shard.kernels]
    tested = [
        name
        for part in parts
        for name in (*(kernel.name for kernel in part.run.kernels), *part.run.missing)
    ]
    return list(dict.fromkeys([*listed, *tested]))


# One run of all.


def _joined(parts: Sequence[Part], said: Sequence[str]) -> RunResult:
    runs = [part.run for part in parts]
    hosts = list(dict.fromkeys(run.host for run in runs))
    found: dict[str, KernelResult] = {}
    for run in runs:
        for kernel in run.kernels:
            if len(hosts) > 1 and not kernel.host:
                kernel = replace(kernel, host=run.host)
            found[kernel.name] = _worse(found.get(kernel.name), kernel)
    order = _order(parts)
    kernels = tuple(found[name] for name in order if name in found)
    missing = tuple(_absent(parts))
    asked = _question(runs, order)
    notes = dict.fromkeys(
        note for run in runs for note in run.notes if not note.startswith(_CONTINUE)
    )
    idle = () if missing else _idle(asked, kernels)
    return RunResult(
        id=_identity(runs),
        started=min(run.started for run in runs),
        finished=max(run.finished for run in runs),
        harness_version=runs[0].harness_version,
        host=_all(hosts),
        qemu=_all(run.qemu for run in runs),
        virtme_ng=_all(run.virtme_ng for run in runs),
        accel=", ".join(sorted({kernel.accel for kernel in kernels if kernel.accel})),
        seed=runs[0].seed,
        kernels=kernels,
        interrupted=bool(missing) or any(kernel.is_unfinished for kernel in kernels),
        missing=missing,
        startup_s=max(run.startup_s for run in runs),
        notes=(*notes, *said, *idle),
        asked=fingerprint.text(asked),
        code=runs[0].code,
    )


def _worse(one: KernelResult | None, other: KernelResult) -> KernelResult:
    """The worse of two results of a kernel; one that says nothing about it counts least."""
    if one is None:
        return other
    order = list(KernelVerdict)

    def rank(result: KernelResult) -> tuple[bool, int]:
        return result.verdict is KernelVerdict.INFRASTRUCTURE, order.index(result.verdict)

    return min(one, other, key=rank)


def _all(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(value for value in values if value))


def _identity(runs: Sequence[RunResult]) -> str:
    """The same for the same runs, so that they are not merged twice; in the form of other ids."""
    last = max(runs, key=lambda run: run.finished or run.started)
    digits = "".join(c for c in (last.finished or last.started) if c.isdigit())[:14]
    ids = hashlib.sha256(" ".join(sorted(run.id for run in runs)).encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:]}-{ids[:6]}"


def _asked(run: RunResult) -> dict[str, Any]:
    return dict(json.loads(run.asked)) if run.asked else {}


def _settings_of(run: RunResult) -> dict[str, Any]:
    return {name: value for name, value in _asked(run).items() if name not in _NO_SETTINGS}


def _question(runs: Sequence[RunResult], order: Sequence[str]) -> dict[str, Any]:
    """The question of a run that tests all kernels."""
    entries = {
        entry["name"]: entry
        for run in runs
        for entry in _asked(run).get("kernels", ())
        if isinstance(entry, dict) and "name" in entry
    }
    asked = _asked(runs[0])
    asked.pop("shard", None)
    return {**asked, "kernels": [entries.get(name, {"name": name}) for name in order]}


def _idle(asked: dict[str, Any], kernels: Sequence[KernelResult]) -> tuple[str, ...]:
    """The notes on known issues that occur in no part: what a run says that is no shard."""
    if asked.get("payload") is not None:
        return ()
    nowhere = ImageSource(Path())
    issues = {
        entry["name"]: Path(entry["known_issues"])
        for entry in asked["kernels"]
        if isinstance(entry.get("known_issues"), str)
    }
    absent = {path for path in issues.values() if not path.is_file()}
    present = [
        KernelEntry(name, nowhere, "", known_issues=path)
        for name, path in issues.items()
        if path not in absent
    ]
    narrowed = (
        bool(asked.get("checks"))
        or asked.get("profile") != Profile.FULL
        or set(asked.get("families", ())) < set(Family)
    )
    said = tuple(
        f"{path} does not exist here, so known issues that no longer occur are not listed"
        for path in sorted(absent)
    )
    return (*said, *KnownIssues.read(present).idle(present, kernels, narrowed=narrowed))


# What is kept of it.


def _check_new(store: Store, merged: RunResult) -> None:
    before = store.run(merged.id)
    if before is not None and before.finished and Path(before.directory).is_dir():
        raise UsageError(
            f"these runs are already merged, as run {merged.id} in {before.directory}; "
            f"`mptcp-harness report {merged.id}` shows it"
        )
    if before is not None:  # it was cut off
        store.prune([merged.id])


def _keep(merged: RunResult, parts: Sequence[Part], store: Store) -> None:
    """Write ``merged`` to its directory and to the store."""
    about = {
        "harness": f"{merged.harness_version} {merged.code}".strip(),
        "QEMU": merged.qemu,
        "virtme-ng": merged.virtme_ng,
        "host": merged.host,
    }
    head = Run(
        *(merged.id, merged.started, merged.asked, merged.seed, merged.directory),
        about=json.dumps(about),
    )
    store.begin(head)
    directory = Path(merged.directory)
    for kernel in merged.kernels:
        text = to_json.kernel_text(kernel)
        digest = summaries.digest(kernel, text)
        store.add(merged.id, kernel.name, kernel.verdict, text, digest=digest)
        _copy(kernel, parts, directory / "kernels" / kernel.name)
        write_atomically(directory / "kernels" / kernel.name / "result.json", text)
    if not merged.interrupted:
        store.finish(merged.id, merged.finished)
    write_atomically(directory / stored_runs.RECORD, to_json.to_json(merged))


def _copy(kernel: KernelResult, parts: Sequence[Part], target: Path) -> None:
    """Copy consoles, events and bundle of ``kernel`` from the run that its result is of."""
    bare = replace(kernel, host="")
    for part in parts:
        own = (replace(result, host="") for result in part.run.kernels)
        source = part.directory and part.directory / "kernels" / kernel.name
        if source is None or not source.is_dir() or bare not in own:
            continue
        try:
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise HostError(
                f"{source} cannot be copied to {target} ({error}); free some space on the disk, or "
                "give the file run.json in it instead of the directory"
            ) from error
    target.mkdir(parents=True, exist_ok=True)
