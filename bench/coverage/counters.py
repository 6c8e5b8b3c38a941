# SPDX-License-Identifier: GPL-2.0-only
"""From a guest's console to lines and branches: the counters, read by gcov(1).

The guest writes them by dump.sh. A kernel that is built with CONFIG_GCOV_KERNEL has one file of
counters for each object file; gcov reads it beside the .gcno file that the compiler left.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "@@gcov "
DIRECTORY = "net/mptcp"
#: A branch: the line, the function that it is in, its number of those on the line.
Branch = tuple[int, str, int]


class NoCounters(Exception):
    """The counters cannot be had; a sentence."""


@dataclass(frozen=True)
class Function:
    """``start`` and ``end`` are lines; ``calls`` counts them."""

    name: str
    start: int
    end: int
    calls: int


@dataclass(frozen=True)
class SourceFile:
    """How often each line that is code ran, and each branch was taken."""

    lines: Mapping[int, int]
    branches: Mapping[Branch, int]
    functions: Sequence[Function]


def read_console(lines: Iterable[str]) -> dict[str, bytes]:
    """The counters that a guest wrote, by the name of the file. Raises NoCounters."""
    found: dict[str, bytes] = {}
    name, text, is_complete = "", [], False  # type: tuple[str, list[str], bool]
    for line in lines:
        _, mark, said = line.rstrip().partition(MARK)
        words = said.split()
        if mark and words[:1] == ["begin"]:
            name, text = Path(words[1]).name, []
        elif mark and words[:1] == ["end"]:
            whole = "".join(f"{part}\n" for part in text)
            if hashlib.md5(whole.encode(), usedforsecurity=False).hexdigest() != words[1]:
                raise NoCounters(f"the counters of {name} are damaged on the console")
            found[name], name = base64.b64decode(whole), ""
        elif mark and words[:1] == ["done"]:
            is_complete = True
        elif name:
            text.append(line.rstrip())
    if not is_complete or not found:
        raise NoCounters("the guest did not write all of its counters to the console")
    return found


def read(tree: Path, counters: Mapping[str, bytes], work: Path) -> dict[str, SourceFile]:
    """What was run of each file below net/mptcp, by its path in the built ``tree``."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name, content in counters.items():
        notes = (tree / DIRECTORY / name).with_suffix(".gcno")
        if not notes.exists():
            raise NoCounters(f"{notes} is missing; the kernel is another one than the tree's")
        shutil.copy(notes, work)
        (work / name).write_bytes(content)
    names = [str(work / name) for name in sorted(counters)]
    command = ["gcov", "--json-format", "--stdout", "--branch-probabilities", *names]
    run = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if run.returncode != 0:
        raise NoCounters(f"gcov ended with status {run.returncode}: {run.stderr.strip()[-300:]}")
    return merged([json.loads(line) for line in run.stdout.splitlines() if line])


def merged(reports: Iterable[Mapping[str, Any]]) -> dict[str, SourceFile]:
    """The sum of gcov's ``reports``: a header's lines stand in those of each file with it."""
    lines: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    branches: dict[str, dict[Branch, int]] = defaultdict(lambda: defaultdict(int))
    functions: dict[str, dict[str, Function]] = defaultdict(dict)
    for report in reports:
        for each in report["files"]:
            path = each["file"]
            if not path.startswith(f"{DIRECTORY}/"):
                continue
            for line in each["lines"]:
                number, function = line["line_number"], line.get("function_name", "")
                lines[path][number] += line["count"]
                for index, branch in enumerate(line["branches"]):
                    branches[path][number, function, index] += branch["count"]
            for given in each["functions"]:
                before = functions[path].get(given["name"])
                calls = given["execution_count"] + (before.calls if before else 0)
                functions[path][given["name"]] = Function(
                    given["name"], given["start_line"], given["end_line"], calls
                )
    return {
        path: SourceFile(
            dict(sorted(lines[path].items())),
            dict(sorted(branches[path].items())),
            sorted(functions[path].values(), key=lambda function: function.start),
        )
        for path in sorted(lines)
    }
