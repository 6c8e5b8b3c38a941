# SPDX-License-Identifier: GPL-2.0-only
"""Which mirror of Debian's archive the host's own apt uses (sources.list(5))."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_RELEASES = re.compile(
    r"(?:buster|bullseye|bookworm|trixie|forky|duke|(?:old){0,2}stable|testing|unstable|sid)"
    r"(?:-updates|-proposed-updates|-backports(?:-sloppy)?|(?P<security>-security|/updates))?"
    r"|experimental|rc-buggy"
)
_ONE_LINE = re.compile(r"\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<rest>[^\s\[]+\s.*)")


@dataclass(frozen=True)
class AptSource:
    """One source of packages. ``signed_by`` is as it stands there, empty where it does not."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of deb822(5) text, each as a dict; names of fields in small letters."""
    fields: dict[str, str] = {}
    last = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line.strip()
        else:
            name, _, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()


def parse_sources(text: str) -> Iterator[AptSource]:
    """The binary sources that are enabled in a ``.sources`` file."""
    for fields in stanzas(text):
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "without", "off", "0")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield AptSource(uri, suite, components, fields.get("signed-by", ""))


def parse_list(text: str) -> Iterator[AptSource]:
    """The binary sources in a ``.list`` file."""
    for line in text.splitlines():
        found = _ONE_LINE.fullmatch(line.split("#")[0])
        if found is None:
            continue
        uri, *rest = found["rest"].split()
        options = [option.partition("=") for option in (found["options"] or "").split()]
        signed_by = " ".join(value for name, _, value in options if name.lower() == "signed-by")
        if rest:
            yield AptSource(uri, rest[0], tuple(rest[1:]), signed_by)


def configured(config: str) -> list[AptSource]:
    """The host's sources. ``config`` is what ``apt-config shell`` prints for LIST and PARTS."""
    settings = dict(
        part.split("=", 1) for part in shlex.split(config, comments=True) if "=" in part
    )
    found: list[AptSource] = []
    files = [Path(settings["LIST"])] if "LIST" in settings else []
    if "PARTS" in settings and Path(settings["PARTS"]).is_dir():
        files += sorted(Path(settings["PARTS"]).iterdir())
    for file in files:
        parse = {".list": parse_list, ".sources": parse_sources}.get(file.suffix)
        if parse is None or not file.is_file():
            continue
        with contextlib.suppress(PermissionError):  # some hold passwords, and are root's
            found += parse(file.read_text(errors="replace"))
    return found


def choose(sources: Iterable[AptSource], suite: str) -> str | None:
    """The URI from which ``suite`` can be had: Debian's archive, or its security archive.

    Others serve suites of the same names: an entry that names Debian's key counts most, then
    one whose address ends as Debian's does. A wrong choice is no danger, only useless: apt
    verifies what comes against Debian's keys.
    """
    wanted = _RELEASES.fullmatch(suite)
    security = bool(wanted and wanted["security"])
    best: tuple[int, str] | None = None
    for source in sources:
        match = _RELEASES.fullmatch(source.suite)
        if match is None or bool(match["security"]) != security:
            continue
        if "main" not in source.components or source.uri.startswith("cdrom:"):
            continue
        ends = r"/debian-security(\.list)?/?" if security else r"/debian(\.list)?/?"
        rank = 2 * ("debian-archive" in source.signed_by) + bool(re.search(ends + "$", source.uri))
        if best is None or rank > best[0]:
            best = (rank, source.uri)
    return best[1] if best else None
