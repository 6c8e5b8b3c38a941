# SPDX-License-Identifier: GPL-2.0-only
"""The faults in the source: each edit is looked for in the unmodified text.

The switch is the module parameter ``mptcp.fault``: its value is the name of the fault that is on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.faults.catalogue import Edit, Fault

DIRECTORY = "net/mptcp"
HEADER = f"{DIRECTORY}/fault.h"
SWITCH = f"{DIRECTORY}/fault.c"
MAKEFILE = f"{DIRECTORY}/Makefile"
PROTOCOL = f"{DIRECTORY}/protocol.h"
#: What the kernel logs when the fault is on, and where it can be read later.
LOGGED = "MPTCP: fault: {name} is on"
PARAMETER = "mptcp.fault"
#: Below the tree: the files that have faults, as they were.
_ORIGINAL = ".faults-original"

# A statement that is skipped stands behind its condition on the same line. Not so -Wdangling-else,
# which finds a condition that takes the else of another one.
_FLAGS = "\nccflags-y += -Wno-misleading-indentation\n"
_HEADER = """\
/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __MPTCP_FAULT_H
#define __MPTCP_FAULT_H
enum mptcp_fault {{
	MPTCP_FAULT_none,
{names}
}};
extern int mptcp_fault;
#define FAULT(name) unlikely(READ_ONCE(mptcp_fault) == MPTCP_FAULT_##name)
#endif
"""
_SWITCH = """\
// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) "MPTCP: " fmt
#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/string.h>
#include "fault.h"

static const char *const mptcp_fault_names[] = {{
	"none",
{names}
}};

int mptcp_fault;

static int mptcp_fault_set(const char *value, const struct kernel_param *param)
{{
	int i = __sysfs_match_string(mptcp_fault_names, ARRAY_SIZE(mptcp_fault_names), value);

	if (i < 0) {{
		pr_err("fault: there is no fault %s, and none is on\\n", value);
		WRITE_ONCE(mptcp_fault, 0);
		return -EINVAL;
	}}
	WRITE_ONCE(mptcp_fault, i);
	pr_info("fault: %s is on\\n", mptcp_fault_names[i]);
	return 0;
}}

static int mptcp_fault_get(char *buffer, const struct kernel_param *param)
{{
	return sysfs_emit(buffer, "%s\\n", mptcp_fault_names[READ_ONCE(mptcp_fault)]);
}}

static const struct kernel_param_ops mptcp_fault_ops = {{
	.set = mptcp_fault_set,
	.get = mptcp_fault_get,
}};
module_param_cb(fault, &mptcp_fault_ops, NULL, 0644);
"""


class NotApplied(Exception):
    """A fault does not fit the source; a sentence for each, naming fault, file and anchor."""


@dataclass(frozen=True)
class _Change:
    """``text`` in place of what is from ``start`` to ``end``."""

    start: int
    end: int
    text: str
    fault: str


def patched(faults: Sequence[Fault], read: Callable[[str], str]) -> dict[str, str]:
    """The files that change, by path, and their new text; ``read`` gives a file's own text.

    Raises NotApplied with all that does not fit.
    """
    changes: dict[str, list[_Change]] = {}
    texts: dict[str, str] = {}
    problems: list[str] = []
    for fault in faults:
        for edit in fault.edits:
            try:
                text = texts.setdefault(edit.file, read(edit.file))
                changes.setdefault(edit.file, []).append(_change(fault.name, edit, text))
            except (NotApplied, OSError) as problem:
                problems.append(f"{fault.name}: {edit.file}: {edit.function}(): {problem}")
    new = {}
    for file, wanted in changes.items():
        try:
            new[file] = _changed(texts[file], wanted)
        except NotApplied as problem:
            problems.append(f"{file}: {problem}")
    if problems:
        raise NotApplied("\n".join(problems))
    return {**new, **_switch(faults, new.get(PROTOCOL) or read(PROTOCOL), read(MAKEFILE))}


def apply(faults: Sequence[Fault], tree: Path) -> None:
    """Put ``faults`` into ``tree`` in place of earlier ones; only what differs is written."""
    original = tree / _ORIGINAL
    read = reader(tree)
    new = patched(faults, read)
    kept = {str(path.relative_to(original)) for path in original.rglob("*") if path.is_file()}
    for file in kept - new.keys():
        new[file] = read(file)
    for file, text in new.items():
        path = tree / file
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def reader(tree: Path) -> Callable[[str], str]:
    """Gives the text of a file of ``tree`` as it was before any fault was put into it."""

    def read(file: str) -> str:
        kept = tree / _ORIGINAL / file
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text((tree / file).read_text())
        return kept.read_text()

    return read


def _switch(faults: Sequence[Fault], protocol: str, makefile: str) -> dict[str, str]:
    names = [fault.name for fault in faults]
    guard = "#define __MPTCP_PROTOCOL_H\n"
    if protocol.count(guard) != 1 or makefile.count("mptcp-y := ") != 1:
        raise NotApplied(f"{PROTOCOL} or {MAKEFILE} does not begin as it should")
    return {
        PROTOCOL: protocol.replace(guard, guard + '\n#include "fault.h"\n'),
        MAKEFILE: makefile.replace("mptcp-y := ", "mptcp-y := fault.o ") + _FLAGS,
        HEADER: _HEADER.format(names="\n".join(f"\tMPTCP_FAULT_{name}," for name in names)),
        SWITCH: _SWITCH.format(names="\n".join(f'\t"{name}",' for name in names)),
    }


def _change(name: str, edit: Edit, text: str) -> _Change:
    start, end = _function(text, edit.function)
    pattern = re.compile(r"\s+".join(re.escape(word) for word in edit.anchor.split()))
    found = list(pattern.finditer(text, start, end))
    if not found:
        raise NotApplied(f"`{edit.anchor}` is missing")
    if (len(found) > 1 and not edit.nth) or edit.nth > len(found):
        raise NotApplied(f"`{edit.anchor}` is there {len(found)} times")
    place = found[max(edit.nth - 1, 0)]
    if edit.how == "with":
        return _Change(place.start(), place.end(), edit.text, name)
    at = place.start() if edit.how == "before" else place.end()
    return _Change(at, at, f"{edit.text} " if edit.how == "before" else f" {edit.text}", name)


def _function(text: str, name: str) -> tuple[int, int]:
    """Where the body of the function ``name`` is."""
    head = re.compile(
        rf"^(?:[a-z_][^\n;=]*[\s*])?{re.escape(name)}\([^;{{}}]*\)[^;{{}}()]*\n\{{", re.MULTILINE
    )
    found = list(head.finditer(text))
    if len(found) != 1:
        raise NotApplied(f"the function is there {len(found)} times")
    end = text.find("\n}", found[0].end())
    return found[0].end(), end


def _changed(text: str, changes: list[_Change]) -> str:
    """``text`` with ``changes``, which may touch but not overlap."""
    # At one place insertions come first: a statement that is replaced keeps what stands before it.
    ordered = sorted(changes, key=lambda change: (change.start, change.end))
    parts, at = [], 0
    for change in ordered:
        if change.start < at:
            raise NotApplied(f"{change.fault} overlaps with another fault: {change.text}")
        parts += [text[at : change.start], change.text]
        at = change.end
    return "".join([*parts, text[at:]])
