# SPDX-License-Identifier: GPL-2.0-only
"""Known issues: failures and reports that do not count until a given day, each with a reason.

A known issue is marked and shown, never hidden. It only changes how a failing check or a report in
the kernel's log counts: after a crash, a hang or a loss, the rest was not tested (docs/verdicts.md,
"Known issues").
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Self

from harness.manifest.entries import Abi, KernelEntry, ManifestError
from harness.manifest.fixes import kernel_version
from harness.verdict import judge
from harness.verdict.results import MAX_INCIDENTS, CheckResult, FamilyResult, Incident, KernelResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict

if TYPE_CHECKING:
    from harness.manifest.positions import Problem

#: The newest kernel in which the bugs of all kernels were seen. They do not all have the same age.
SEEN_IN = (7, 3, 4)
#: The last day on which the bugs of all kernels do not count. Then somebody must review them.
LOOK_AGAIN = datetime.date(2027, 6, 30)
#: Verdicts of complete boots. In other boots, an issue may not have had its chance to occur.
_WHOLE = (
    *(KernelVerdict.FAIL, KernelVerdict.WARNING),
    *(KernelVerdict.PASS, KernelVerdict.UNSUPPORTED),
)


@dataclass(frozen=True)
class KnownIssue:
    """One entry, with either ``fingerprint`` or ``check``, each a pattern of :mod:`fnmatch`.

    ``kernels`` are patterns of a kernel's name or release. ``expires`` is the last day, in UTC, on
    which the issue does not count. ``where`` is ``file:line``, for messages.
    """

    reason: str
    owner: str
    expires: datetime.date
    where: str
    fingerprint: str = ""
    check: str = ""
    family: Family | None = None  # both if None
    abi: Abi | None = None  # both if None
    kernels: tuple[str, ...] = ("*",)
    link: str = ""
    intermittent: bool = False  # a run in which it does not occur says nothing

    def __str__(self) -> str:
        beside = ", ".join(text for text in (self.link, self.owner) if text)
        return f"known until {self.expires}: {self.reason} ({beside})"

    @property
    def subject(self) -> str:
        """The subject of the issue: ``ipv6 mptcp_info.*``."""
        return " ".join(text for text in (self.family, self.check or self.fingerprint) if text)

    def expired(self, today: datetime.date) -> bool:
        return today > self.expires

    def covers(self, name: str, release: str, abi: str) -> bool:
        """Whether the issue applies to programs of this ``abi`` on the kernel ``name`` with this
        ``release``."""
        return self.abi in (None, abi) and any(
            fnmatchcase(text, pattern) for pattern in self.kernels for text in (name, release)
        )

    def is_about(self, found: CheckResult | Incident) -> bool:
        """Whether ``found``, on a kernel that the issue covers, is this issue.

        Only a failure of a check can be known: an error or a lost result says nothing.
        """
        if isinstance(found, Incident):
            same = found.fingerprint == self.fingerprint
            return bool(self.fingerprint) and (
                same or fnmatchcase(found.fingerprint, self.fingerprint)
            )
        return _failed(found) and self.names(found)

    def names(self, result: CheckResult) -> bool:
        """Whether the issue is about the check and the family of ``result``."""
        of_family = self.family in (None, result.key.family)
        return bool(self.check) and of_family and fnmatchcase(result.key.id, self.check)


@dataclass(frozen=True)
class Applied:
    """The input of :func:`apply` with known issues marked; ``notes`` name expired ones."""

    families: Mapping[Family, FamilyResult]
    incidents: tuple[Incident, ...]
    notes: tuple[str, ...]


def may_apply(families: Mapping[Family, FamilyResult], incidents: Sequence[Incident]) -> bool:
    """Whether anything could be known: otherwise the issues need not be found out."""
    failed = any(_failed(check) for result in families.values() for check in result.checks)
    return failed or bool(incidents)


def _failed(check: CheckResult) -> bool:
    return check.verdict is CheckVerdict.FAIL


def apply(
    families: Mapping[Family, FamilyResult],
    incidents: Sequence[Incident],
    issues: Sequence[KnownIssue],
    name: str,
    release: str,
    today: datetime.date,
    abi: Abi,
) -> Applied:
    """Mark the known ``issues`` of programs of this ``abi`` on the kernel ``name``, and update the
    families' verdicts.

    If the console had so many reports that some were dropped, none is marked: the dropped ones may
    not be known.
    """
    covering = [issue for issue in issues if issue.covers(name, release, abi)]
    valid = [issue for issue in covering if not issue.expired(today)]
    notes: dict[str, None] = {}

    def known(found: CheckResult | Incident) -> str:
        for issue in valid:
            if issue.is_about(found):
                return str(issue)
        what = found.fingerprint if isinstance(found, Incident) else found.key.id
        for issue in covering:
            if issue.is_about(found):
                notes[f"{what} was {issue}"] = None
        return ""

    def marked(result: FamilyResult) -> FamilyResult:
        # Only a failure can be known, and there are thousands of results.
        texts = [known(check) if _failed(check) else "" for check in result.checks]
        if not any(texts):
            return result
        pairs = zip(result.checks, texts, strict=True)
        return judge.family_result([replace(check, known=text) for check, text in pairs])

    judged = {family: marked(result) for family, result in families.items()}
    if len(incidents) < MAX_INCIDENTS:
        seen = tuple(replace(incident, known=known(incident)) for incident in incidents)
    else:
        seen = tuple(incidents)
        if any(map(known, incidents)):
            text = f"{len(incidents)} reports, and perhaps more: none counts as known"
            notes[text] = None
    return Applied(judged, seen, tuple(notes))


def idle(
    issues: Iterable[KnownIssue], kernels: Sequence[KernelResult], today: datetime.date
) -> tuple[str, ...]:
    """A note for each of ``issues`` that could have occurred on one of ``kernels`` but did not.

    An intermittent one gets a note only once it has expired. An issue could have occurred if a boot
    completed and, for a check, the check ran in every family that the issue names. A report could
    have occurred in any completed boot.
    """
    notes = []
    for issue in issues:
        if issue.intermittent and not issue.expired(today):
            continue
        covered = [
            kernel for kernel in kernels if issue.covers(kernel.name, kernel.release, kernel.abi)
        ]
        tried = [kernel.name for kernel in covered if _tries(kernel, issue)]
        if tried and not any(_occurs(kernel, issue) for kernel in covered):
            expired = f" (it expired on {issue.expires})" if issue.expired(today) else ""
            notes.append(
                f"known issue for {issue.subject} on {', '.join(issue.kernels)} no longer occurs, "
                f"tried on {_listed(tried)}: remove the entry {issue.where}{expired}"
            )
    return tuple(notes)


def _tries(kernel: KernelResult, issue: KnownIssue) -> bool:
    if kernel.verdict not in _WHOLE:
        return False
    if issue.fingerprint:
        return True
    decided = {
        check.key.family
        for result in kernel.families.values()
        for check in result.checks
        if check.verdict is CheckVerdict.PASS and issue.names(check)
    }
    return decided >= ({issue.family} if issue.family else set(Family))


def _occurs(kernel: KernelResult, issue: KnownIssue) -> bool:
    checks = (check for result in kernel.families.values() for check in result.checks)
    return any(map(issue.is_about, kernel.incidents)) or any(map(issue.is_about, checks))


def _is_new(kernel: KernelResult) -> bool:
    """Whether the absence of a bug of all kernels means that it is fixed, not that it is yet to
    come."""
    version = kernel_version(kernel.release, f"Debian {kernel.version}")
    return version is not None and (version[0], version[1], version[2] or 0) > SEEN_IN


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def digest(issues: Iterable[KnownIssue], name: str, today: datetime.date) -> str:
    """SHA-256 of everything in ``issues`` that affects the result of the kernel ``name`` on this
    day."""
    entries = [asdict(issue) | {"where": "", "expired": issue.expired(today)} for issue in issues]
    return hashlib.sha256(json.dumps([name, entries], default=str).encode()).hexdigest()


@cache
def of_all_kernels() -> tuple[KnownIssue, ...]:
    """The bugs that every kernel so far has, one for each check that fails because of them."""
    from guest import checks as guest_checks

    return tuple(
        KnownIssue(
            reason=check.bug,
            owner="docs/findings.md",
            expires=LOOK_AGAIN,
            where=f"`bug` of {check.id} in guest/checks",
            check=check.id,
        )
        for check in guest_checks.all_checks()
        if check.bug
    )


# The file.


@dataclass(frozen=True)
class KnownIssues:
    """The known issues of the kernels of a run on the day ``today``, by file."""

    today: datetime.date = datetime.date.max
    files: Mapping[Path, tuple[KnownIssue, ...]] = field(default_factory=dict)

    @classmethod
    def read(cls, entries: Iterable[KernelEntry]) -> Self:
        """Read each file that ``entries`` name, as of today in UTC.

        Raises :class:`ManifestError` with the errors of all of them.
        """
        files: dict[Path, tuple[KnownIssue, ...]] = {}
        errors: list[str] = []
        for path in dict.fromkeys(entry.known_issues for entry in entries):
            if path is not None:
                try:
                    files[path] = load(path)
                except ManifestError as error:
                    errors += error.errors
        if errors:
            raise ManifestError(tuple(errors))
        return cls(datetime.datetime.now(datetime.UTC).date(), files)

    def of(self, entry: KernelEntry) -> tuple[KnownIssue, ...]:
        """The issues in the file of ``entry``, which was read, and the bugs that all kernels
        have."""
        return (*self.listed(entry), *of_all_kernels())

    def listed(self, entry: KernelEntry) -> tuple[KnownIssue, ...]:
        """The issues in the file of ``entry``, which was read."""
        return () if entry.known_issues is None else self.files[entry.known_issues]

    def idle(
        self, entries: Iterable[KernelEntry], kernels: Iterable[KernelResult], *, narrowed: bool
    ) -> tuple[str, ...]:
        """:func:`idle` for each file, with the results of the ``entries`` that name it.

        In a run that was ``narrowed`` to some checks, the absence of a report means nothing.
        """
        named: dict[Path, set[str]] = {path: set() for path in self.files}
        for entry in entries:
            if entry.known_issues is not None:
                named[entry.known_issues].add(entry.name)
        results = tuple(kernels)
        listed = (
            note
            for path, names in named.items()
            for note in idle(
                [issue for issue in self.files[path] if issue.check or not narrowed],
                [kernel for kernel in results if kernel.name in names],
                self.today,
            )
        )
        newest = [kernel for kernel in results if _is_new(kernel)]
        # The bugs are only asked for if they can be missed: all checks take 0.1 s to import.
        return (*listed, *(idle(of_all_kernels(), newest, self.today) if newest else ()))


def load(path: Path) -> tuple[KnownIssue, ...]:
    """The known issues in the file ``path``, in its order.

    Raises :class:`ManifestError` with every error of the file, each
    ``file:line:column: path: what is wrong, what would be right``.
    """
    # Most kernels of the command line name no file, and YAML and pydantic take 0.1 s.
    from harness.manifest import known_issues_schema, positions
    from harness.manifest.known_issues_schema import KEY

    try:
        document = positions.parse(_read(path, positions.MAX_BYTES), KEY)
    except positions.DocumentError as error:
        raise _error(path, [error.problem]) from None
    model, problems = known_issues_schema.validate(document)
    if model is None or problems:
        raise _error(path, problems)
    return tuple(
        KnownIssue(**dict(entry), where=f"{path}:{document.values[KEY, index].line}")
        for index, entry in enumerate(model.known_issues)
    )


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        text = f"{path}: the known issues cannot be read: {error.strerror}; check 'known_issues'"
        raise ManifestError((f"{text} in the manifest",)) from None
    if len(content) > most:
        text = f"{path}: larger than {most} bytes, so not a list of known issues"
        raise ManifestError((f"{text}; give another file in the manifest",))
    return content


def _error(path: Path, problems: Iterable[Problem]) -> ManifestError:
    from harness.manifest.positions import show_path

    whole = show_path(())
    return ManifestError(
        tuple(
            f"{path}:{p.position.line}:{p.position.column}: "
            f"{'the file' if p.path == whole else p.path}: {p.text}"
            for p in sorted(set(problems))
        )
    )
