# SPDX-License-Identifier: GPL-2.0-only
"""The faults: data in data/*.toml, one file for each part of net/mptcp.

A fault has a name, a group, what a program sees of it, and edits of the kernel's source. An edit
stands in one function of one file and has one of these forms:

    skip = "statement;"         the statement does not run while the fault is on
    at = "text", with = "new"   the text is replaced
    at = "text", before = "new" or after = "new"

A fault that only 32-bit programs see says ``abi = "i386"``; its checks are run by such a Python.

``FAULT(name)`` in a new text is true while the fault is on. White space of an anchor matches any
white space of the source. ``nth`` picks one of several places; without it there must be just one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.manifest.entries import Abi

DATA = Path(__file__).resolve().parent / "data"
GROUPS = (
    *("option table", "states", "inheritance", "effects", "fast open", "fallback", "messages"),
    *("subflows", "counters", "diag", "sizes and pointers", "concurrency", "data path"),
    "32-bit programs",
)
_NAME = re.compile(r"[a-z][a-z0-9_]{1,40}")
_FAULT_KEYS = {
    *("name", "group", "sees", "edits", "commit", "title", "luck", "dropped", "missed", "abi"),
}
_EDIT_KEYS = {"file", "in", "at", "skip", "with", "before", "after", "nth"}


class BadCatalogue(Exception):
    """The data is wrong; a sentence that names the file and the fault."""


@dataclass(frozen=True)
class Edit:
    """One change of ``function`` in ``file``: at ``anchor`` comes ``text``, as ``how`` says."""

    file: str
    function: str
    anchor: str
    how: str  # "with", "before" or "after"
    text: str
    nth: int = 0  # from 1; 0 asks for a single place


@dataclass(frozen=True)
class Fault:
    """``luck``: it shows only with a race, a loss or an order of packets that is not certain.

    ``commit`` and ``title`` are those of the repair of the bug that it mimics; ``dropped`` says why
    it is not applied, ``missed`` why no check can be expected to catch it; ``abi`` is of the
    program that sees it.
    """

    name: str
    group: str
    sees: str
    edits: tuple[Edit, ...]
    commit: str = ""
    title: str = ""
    luck: bool = False
    dropped: str = ""
    missed: str = ""
    abi: Abi = Abi.NATIVE

    @property
    def real(self) -> bool:
        """Whether Linux had this bug."""
        return bool(self.commit or self.title)


def load(directory: Path = DATA) -> tuple[Fault, ...]:
    """All faults, those that are dropped among them. Raises BadCatalogue."""
    faults: list[Fault] = []
    for path in sorted(directory.glob("*.toml")):
        try:
            content = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as error:
            raise BadCatalogue(f"{path.name}: {error}") from error
        faults += [_fault(given, content, path.name) for given in content.get("fault", ())]
    names = [fault.name for fault in faults]
    for name in names:
        if names.count(name) > 1:
            raise BadCatalogue(f"two faults are named {name}")
    return tuple(faults)


def applied(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Those that are not dropped."""
    return tuple(fault for fault in faults if not fault.dropped)


def _fault(given: Mapping[str, Any], content: Mapping[str, Any], where: str) -> Fault:
    name = str(given.get("name", ""))
    place = f"{where}: fault {name or '?'}"
    if not _NAME.fullmatch(name) or name == "none":
        raise BadCatalogue(f"{place}: a name is lower-case letters, digits and _")
    if unknown := sorted(given.keys() - _FAULT_KEYS):
        raise BadCatalogue(f"{place}: unknown key {unknown[0]}")
    if given.get("group") not in GROUPS:
        raise BadCatalogue(f"{place}: group must be one of {', '.join(GROUPS)}")
    if not str(given.get("sees", "")).endswith("."):
        raise BadCatalogue(f"{place}: sees must be a sentence")
    if (abi := given.get("abi", Abi.NATIVE)) not in list(Abi):
        raise BadCatalogue(f"{place}: abi must be one of {', '.join(Abi)}")
    if not given.get("edits"):
        raise BadCatalogue(f"{place}: edits are missing")
    file = content.get("file", "")
    return Fault(
        name=name,
        group=given["group"],
        sees=given["sees"],
        edits=tuple(_edit(edit, file, name, place) for edit in given["edits"]),
        commit=given.get("commit", ""),
        title=given.get("title", ""),
        luck=given.get("luck", False),
        dropped=given.get("dropped", ""),
        missed=given.get("missed", ""),
        abi=Abi(abi),
    )


def _edit(given: Mapping[str, Any], file: str, name: str, place: str) -> Edit:
    if unknown := sorted(given.keys() - _EDIT_KEYS):
        raise BadCatalogue(f"{place}: unknown key {unknown[0]} of an edit")
    file = given.get("file", file)
    nth = given.get("nth", 0)
    if not given.get("in") or not file:
        raise BadCatalogue(f"{place}: an edit lacks its function or file")
    if "skip" in given:
        return Edit(file, given["in"], given["skip"], "before", f"if (!FAULT({name}))", nth)
    forms = [how for how in ("with", "before", "after") if how in given]
    if len(forms) != 1 or not given.get("at"):
        raise BadCatalogue(f"{place}: an edit has skip, or at and one of with, before and after")
    return Edit(file, given["in"], given["at"], forms[0], given[forms[0]], nth)
