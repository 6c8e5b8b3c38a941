# SPDX-License-Identifier: GPL-2.0-only
"""Faults that nobody thought of: lines of net/mptcp, chosen by chance and broken in a simple way.

A condition is turned round, a statement is left out, or an error is returned as success. The
catalogue holds faults that somebody had in mind, perhaps along with a check; these estimate
without that bias how many of the next bugs are seen. Some change nothing that a program can see:
a person judges those that are missed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from bench.faults.catalogue import Edit, Fault

FILES = tuple(
    f"net/mptcp/{name}.c"
    for name in (
        *("bpf", "crypto", "ctrl", "diag", "fastopen", "mptcp_diag", "options", "pm"),
        *("pm_kernel", "pm_netlink", "pm_userspace", "protocol", "sched", "sockopt", "subflow"),
        *("syncookies", "token"),
    )
)
_FUNCTION = re.compile(r"^(?:[a-z_][^\n;=]*[\s*])?(\w+)\([^;{}]*\)[^;{}()]*\n\{\n", re.MULTILINE)
_CONDITION = re.compile(r"(?:\} else )?if \((.*)\)(?: \{)?")
_ERROR = re.compile(r"return (-E[A-Z]+);")
_STATEMENT = re.compile(
    r"(?:\w+\(.*\)|[a-z_]\w*(?:(?:->|\.)\w+(?:\[\w+\])?)* (?:[-+|&]?=) .*|\w[\w>.-]*(?:\+\+|--));"
)
#: What is left out of the choice: without it the kernel stops, or logs less; neither is a bug of
#: the kind that is looked for.
_NO_CHANGE = re.compile(
    r"lock|release|_put\(|_hold\(|free|pr_|trace_|WARN|BUILD_BUG|INIT_|rcu_|kref|unlikely\(!\w+\)|"
    r"mptcp_subflow_ctx\(|mptcp_sk\(|tcp_sk\(|inet_sk\(|_init\("
)


def choose(read: Callable[[str], str], number: int, seed: int) -> tuple[Fault, ...]:
    """``number`` faults, the same for the same ``seed``; ``read`` gives the text of a file.

    Their order is one of chance too: the first ones of a run that was stopped are a fair choice.
    """
    found = [fault for file in FILES for fault in _all(file, read)]
    return tuple(random.Random(seed).sample(found, min(number, len(found))))  # noqa: S311


def _all(file: str, read: Callable[[str], str]) -> Iterator[Fault]:
    try:
        text = read(file)
    except OSError:
        return  # a file that this version does not have
    stem = file.rpartition("/")[2].removesuffix(".c")
    heads = list(_FUNCTION.finditer(text))
    names = [head[1] for head in heads]
    for head in heads:
        if names.count(head[1]) > 1:
            continue  # one for each value of an option of the configuration
        body = text[head.end() : text.find("\n}", head.end())]
        flat = " ".join(body.split())
        lines = body.split("\n")
        first = text.count("\n", 0, head.end()) + 1
        for at, line in enumerate(lines):
            name = f"{stem}_{first + at}"
            edit = _broken(line.strip(), lines, at, name)
            if edit is None:
                continue
            anchor, how, new = edit
            if flat.count(" ".join(anchor.split())) != 1:
                continue  # a fault's place is found by its text, whatever the white space
            sees = f"{file}:{first + at}: {line.strip()} is broken."
            yield Fault(name, "data path", sees, (Edit(file, head[1], anchor, how, new),))


def _broken(line: str, lines: list[str], at: int, name: str) -> tuple[str, str, str] | None:
    """How ``line`` is broken: what is looked for, and what comes in its place or before it."""
    if _NO_CHANGE.search(line) or line.count("(") != line.count(")"):
        return None
    if match := _CONDITION.fullmatch(line):
        whole = f"if ({match[1]})"
        return whole, "with", f"if (FAULT({name}) ? !({match[1]}) : !!({match[1]}))"
    if match := _ERROR.fullmatch(line):
        return line, "with", f"return FAULT({name}) ? 0 : {match[1]};"
    after = lines[at + 1].strip() if at + 1 < len(lines) else ""
    before = lines[at - 1].strip() if at else ""
    # Not the end of a statement of several lines, nor what an `else` belongs to.
    whole_statement = before.endswith((";", "{", "}", "")) or _CONDITION.fullmatch(before)
    if _STATEMENT.fullmatch(line) and whole_statement and not after.startswith("else"):
        if before and not before.endswith((";", "{", "}", ")", ":", "*/")):
            return None
        return line, "before", f"if (!FAULT({name}))"
    return None
