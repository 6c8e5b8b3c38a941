# SPDX-License-Identifier: GPL-2.0-only
"""Describes what a process that must be killed is doing. Imported only in that case."""

from __future__ import annotations

import os

#: The most threads that are described.
MAX_THREADS = 4
#: The most lines of a kernel stack that are kept.
MAX_FRAMES = 16

_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
    24: "SIGXCPU",
    31: "SIGSYS",
}


def doing(pid: int) -> str:
    """State, wait channel, system call and kernel stack of the threads of ``pid``."""
    try:
        threads = sorted(map(int, os.listdir("/proc/%d/task" % pid)))
    except OSError as error:
        return "nothing is known of the process: %s" % error
    said = [_thread("/proc/%d/task/%d/" % (pid, tid)) for tid in threads[:MAX_THREADS]]
    if len(threads) > MAX_THREADS:
        said.append("%d more threads" % (len(threads) - MAX_THREADS))
    return "; ".join(said)


def _thread(place: str) -> str:
    parts = [_state(_read(place + "status"))]
    wchan = _read(place + "wchan")
    if wchan not in ("", "0"):
        parts.append("waits in " + wchan)
    call = _read(place + "syscall").split()[:-2]  # without stack and instruction pointer
    if call:
        parts.append("system call " + " ".join(call))
    frames = [_frame(line) for line in _read(place + "stack").splitlines()[:MAX_FRAMES]]
    if frames:
        parts.append("stack " + " < ".join(frames))
    return ", ".join(parts)


def _state(status: str) -> str:
    for line in status.splitlines():
        if line.startswith("State:"):
            return "state " + " ".join(line.split()[1:])
    return "state unknown"


def _frame(line: str) -> str:
    """``[<0>] inet_csk_accept+0x1f/0x2a0`` without its address."""
    return line.split("] ", 1)[-1].strip()


def _read(path: str) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(1 << 14).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def ending(status: int) -> str:
    """How a process with the wait status ``status`` ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "was killed by %s" % _SIGNALS.get(number, "signal %d" % number)
    return "ended with status %d" % os.WEXITSTATUS(status)


def place(traceback: str) -> str:
    """The frames of the check in faulthandler's output, innermost first, on one line."""
    said: list[str] = []
    inside = False
    for line in traceback.splitlines():
        words = line.strip()
        if words.startswith(("Thread", "Current thread")):
            said.append("; thread" if said else "thread")
            inside = True
        elif words.startswith("File ") and inside:
            inside = not words.endswith(" in _outcome")  # what called the check
            if inside:
                said.append(words[len("File ") :])
    return " < ".join(said).replace(" < ; thread < ", "; thread ").replace("thread < ", "", 1)
