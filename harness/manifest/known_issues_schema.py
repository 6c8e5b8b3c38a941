# SPDX-License-Identifier: GPL-2.0-only
"""The schema of a file of known issues: the type of each key.

As in :mod:`harness.manifest.schema`, every scalar is text until its type parses it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator, ValidationError

from harness.manifest.entries import Abi
from harness.manifest.positions import Data, DataPath, Document, Problem, kind, show_path
from harness.manifest.schema import flag, nearest
from harness.text import quoted
from harness.verdict.verdicts import Family

KEY = "known_issues"


def _text(wanted: str) -> PlainValidator:
    """Text on one line; text folded over several lines in YAML is joined."""

    def read(value: object) -> str:
        text = " ".join(value.split()) if isinstance(value, str) else ""
        if not text:
            shown = "nothing" if isinstance(value, str) else kind(value)
            raise ValueError(f"expected {wanted}, found {shown}")
        if not text.isprintable():
            raise ValueError(f"expected {wanted}, found {quoted(text)} with unprintable characters")
        return text

    return PlainValidator(read)


def _one_of(kinds: type[StrEnum]) -> PlainValidator:
    def read(value: object) -> StrEnum:
        if isinstance(value, str) and value in tuple(kinds):
            return kinds(value)
        raise ValueError(f"expected {' or '.join(kinds)}, found {kind(value)}; omit it for both")

    return PlainValidator(read)


def _link(value: object) -> str:
    wanted = "a link such as https://example.org/issue/1"
    if isinstance(value, str) and re.fullmatch(r"[!-~]+", value):
        try:
            parts = urlsplit(value)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme in ("http", "https") and parts.netloc:
            return value
    raise ValueError(f"expected {wanted}, found {kind(value)}")


def _date(value: object) -> datetime.date:
    wanted = "the last day on which the issue is known, such as 2027-01-31"
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        try:
            return datetime.date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"{quoted(value)} is not a date: {error}; expected {wanted}") from None
    raise ValueError(f"expected {wanted}, found {kind(value)}")


def _patterns(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if value == []:
        raise ValueError("an empty list; give a kernel, or omit the key for all")
    return value


class IssueModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: Annotated[str, _text("the fingerprint of a report, or a pattern of one")] = ""
    check: Annotated[str, _text("a check such as mptcp_info.readable, or a pattern")] = ""
    family: Annotated[Family, _one_of(Family)] | None = None
    abi: Annotated[Abi, _one_of(Abi)] | None = None
    kernels: Annotated[
        tuple[Annotated[str, _text("a kernel's name or release, or a pattern")], ...],
        BeforeValidator(_patterns),
    ] = ("*",)
    intermittent: Annotated[bool, PlainValidator(flag)] = False
    reason: Annotated[str, _text("why this is accepted for now")]
    link: Annotated[str, PlainValidator(_link)] = ""
    owner: Annotated[str, _text("who answers for it")]
    expires: Annotated[datetime.date, PlainValidator(_date)]


class IssuesFileModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    known_issues: tuple[IssueModel, ...]


_ENTRY_SHAPE = "a mapping with 'check' or 'fingerprint', and 'reason', 'owner' and 'expires'"
_SHAPES = {
    "": "a mapping with a list under 'known_issues'",
    KEY: "a list, each item such as '- check: mptcp_info.readable' with 'reason' under it",
    "kernels": "a pattern such as debian-6.* or a list of patterns",
    "reason": "why this is accepted for now",
    "owner": "who answers for it",
    "expires": "the last day on which the issue is known, such as 2027-01-31",
}


def validate(document: Document) -> tuple[IssuesFileModel | None, list[Problem]]:
    """The typed file and all of its errors, in no order; None for a file that is invalid.

    Errors between keys are found in the untyped data, so that all errors are reported together.
    """
    problems = [*document.problems, *_cross_check(document)]
    try:
        return IssuesFileModel.model_validate(document.data), problems
    except ValidationError as error:
        found = error.errors(include_url=False)
        return None, problems + [_problem(document, one) for one in found]


def _problem(document: Document, found: Any) -> Problem:
    """pydantic's error dict ``found`` as a problem at its place in the file."""
    path: DataPath = found["loc"]
    last = str(path[-1]) if path else ""
    if found["type"] == "extra_forbidden":
        model = IssuesFileModel if len(path) == 1 else IssueModel
        return _at_key(document, path, "unknown key" + nearest(last, model.model_fields))
    if found["type"] == "missing":
        text = f"the key {last!r} is missing; expected {_SHAPES[last]}"
        return _at(document, path[:-1], text)
    if found["type"] == "value_error":
        text = str(found["ctx"]["error"])
    else:
        text = f"expected {_SHAPES.get(last, _ENTRY_SHAPE)}, found {kind(found['input'])}"
    while path not in document.values:  # a pattern given as a plain string has no list index
        path = path[:-1]
    return _at(document, path, text)


def _cross_check(document: Document) -> Iterator[Problem]:
    """Errors between the keys of an entry."""
    data = document.data if isinstance(document.data, dict) else {}
    entries = data.get(KEY)
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            yield from _check_subject(document, (KEY, index), entry)


def _check_subject(document: Document, path: DataPath, entry: dict[str, Data]) -> Iterator[Problem]:
    if "check" not in entry and "fingerprint" not in entry:
        yield _at(document, path, "neither 'check' nor 'fingerprint'; give one of them")
    if "check" in entry and "fingerprint" in entry:
        text = "both a fingerprint and a check; write two entries"
        yield _at_key(document, (*path, "fingerprint"), text)
    elif "fingerprint" in entry and "family" in entry:
        text = "a report of the kernel belongs to no family; remove it"
        yield _at_key(document, (*path, "family"), text)


def _at(document: Document, path: DataPath, text: str) -> Problem:
    return Problem(document.values[path], show_path(path), text)


def _at_key(document: Document, path: DataPath, text: str) -> Problem:
    return Problem(document.keys[path], show_path(path), text)
