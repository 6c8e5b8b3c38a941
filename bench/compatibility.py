# SPDX-License-Identifier: GPL-2.0-only
"""docs/compatibility.md from the record of ``bisect --boundaries --json FILE``.

    python -m bench.compatibility MAP.json [NOTE] >docs/compatibility.md

NOTE says, in a paragraph, how the map was made. The page says which option came with which kernel,
and in which build each fix is first seen, beside the version that the change logs name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.manifest.expectations import CAPABILITIES
from harness.manifest.fixes import Fix, kernel_version
from harness.manifest.fixes_table import FIXES

Boundary = Mapping[str, Any]

HEAD = """\
<!-- SPDX-License-Identifier: GPL-2.0-only -->
# Compatibility

Which of Debian's kernels has which option, and from which build on it has a fix. The tables are
made from one run of `mptcp-harness bisect --boundaries`:

    {kernels} kernels from {oldest} to {newest}; {booted} booted

It boots kernels wherever two tested neighbours differ. Where two tested kernels agree in
everything, the kernels between them are taken to agree too.
"""


def page(record: Mapping[str, Any], note: str = "") -> str:
    """The page for ``record``, the JSON of a compatibility map; ``note`` is a paragraph of it."""
    boundaries = record["boundaries"]
    parts = [
        HEAD.format(
            kernels=record["kernels"],
            oldest=_name(record["oldest"]),
            newest=_name(record["newest"]),
            booted=record["booted"] + record["reused"],
        ),
        *([note, ""] if note else []),
        "## Options\n",
        *_table(("capability", "mainline", "last without", "first with"), _options(boundaries)),
        "\n## Sizes of structures\n",
        *_table(("structure", "until", "size", "from", "size"), _sizes(boundaries)),
        "\n## Fixes\n",
        "A fix is seen where a check that needs it fails in one build and passes in the next. It\n"
        "is not listed where the change logs that were read name no release of that series.\n",
        *_table(
            ("commit", "title", "change log", "last without", "first with", "agrees"),
            _fixes(boundaries),
        ),
        "\n## Builds that could not be tested\n",
        *(_untestable(record["untestable"]) or ["none"]),
    ]
    return "\n".join(parts) + "\n"


def _name(kernel: Mapping[str, str]) -> str:
    version = f" ({kernel['version']})" if kernel["version"] else ""
    return f"{kernel['release'] or kernel['name']}{version}"


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ["nothing changed"]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines]


def _changes(boundaries: Sequence[Boundary], kind: str) -> Iterator[tuple[Boundary, Any]]:
    """Each change of ``kind`` with its boundary, once for both families."""
    for boundary in boundaries:
        seen = set()
        for change in boundary["changes"]:
            key = (change["name"], change["old"], change["new"])
            if change["kind"] == kind and key not in seen:
                seen.add(key)
                yield boundary, change


def _options(boundaries: Sequence[Boundary]) -> Iterator[Sequence[str]]:
    for boundary, change in _changes(boundaries, "capability"):
        if change["new"] == "present":
            spec = CAPABILITIES.get(change["name"])
            since = f"{spec.since[0]}.{spec.since[1]}" if spec and spec.since else ""
            yield (
                f"`{change['name']}`",
                since,
                _name(boundary["last"]),
                _name(boundary["first"]),
            )


def _sizes(boundaries: Sequence[Boundary]) -> Iterator[Sequence[str]]:
    for boundary, change in _changes(boundaries, "size"):
        last, first = _name(boundary["last"]), _name(boundary["first"])
        yield f"`{change['name']}`", last, change["old"], first, change["new"]


def _fixes(boundaries: Sequence[Boundary]) -> Iterator[Sequence[str]]:
    for fix in FIXES:
        for boundary in boundaries:
            if any(_repairs(fix, change) for change in boundary["changes"]):
                versions = ", ".join((fix.fixed, *fix.backports))
                last, first = boundary["last"], boundary["first"]
                agrees = _agrees(fix, last, first)
                yield f"`{fix.commit}`", fix.title, versions, _name(last), _name(first), agrees


def _repairs(fix: Fix, change: Mapping[str, str]) -> bool:
    if change["kind"] == "check":
        return (change["old"], change["new"]) == ("fail", "pass") and fix.is_about(change["name"])
    name = f"capability.{change['name']}"
    return change["new"] == "present" and change["kind"] == "capability" and fix.is_about(name)


def _agrees(fix: Fix, last: Mapping[str, str], first: Mapping[str, str]) -> str:
    """Whether a version that the change logs name lies between ``last`` and ``first``."""
    before, after = _version(last), _version(first)
    named = [tuple(map(int, text.split("."))) for text in (fix.fixed, *fix.backports)]
    if any(before < (*version, 0, 0)[:3] <= after for version in named):
        return "yes"
    return "no" if after[:2] in {version[:2] for version in named} else "not listed"


def _version(kernel: Mapping[str, str]) -> tuple[int, int, int]:
    found = kernel_version(kernel["release"], f"Debian {kernel['version']}")
    assert found is not None, f"{kernel['release']} names no version"
    return found[0], found[1], found[2] or 0


def _untestable(untestable: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"- {_name(one['kernel'])}: {one['reason']}" for one in untestable]


if __name__ == "__main__":
    sys.stdout.write(page(json.loads(Path(sys.argv[1]).read_text()), *sys.argv[2:3]))
