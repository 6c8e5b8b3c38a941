# SPDX-License-Identifier: GPL-2.0-only
"""Runs what is measured, one command at a time, and counts what it took.

Processor time is the kernel's own count for the command and all that it waited for, without
QEMU's. A wrapper in front of QEMU writes down the latter, whoever starts it.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Seconds after which a command is taken for hung; sixty kernels need five minutes and more.
DEADLINE = 1800.0

# `times` prints the shell's own user and system time, and then its children's. A version that is
# asked for is not emulation.
_QEMU = """\
#!/bin/sh
[ "$1" = --version ] && exec {program} "$@"
{program} "$@"
status=$?
times > {log}/$$
exit $status
"""
_APT_GET = """\
#!/bin/sh
start=$(date +%s.%N)
{program} "$@"
status=$?
echo "$start $(date +%s.%N) $*" > {log}/$$
exit $status
"""
_TIME = re.compile(r"(\d+)m([\d.]+)s")


class Failed(Exception):
    """A command that is measured did not do what it is measured for; says which and how."""


@dataclass(frozen=True)
class Run:
    """A finished command. ``qemus`` counts the QEMUs that it ran."""

    seconds: float
    processor_s: float  # without QEMU
    status: int
    output: str
    qemus: int
    downloading_s: float  # in which an apt-get was fetching packages or their lists


class Runner:
    """Runs commands with its wrappers first in PATH; ``directory`` is its own."""

    def __init__(self, directory: Path, qemu: Path, apt_get: Path | None) -> None:
        self._bin = directory / "bin"
        self._qemu_log = directory / "qemu"
        self._apt_log = directory / "apt"
        for place in (self._bin, self._qemu_log, self._apt_log):
            place.mkdir()
        self._wrap(qemu, _QEMU, self._qemu_log)
        if apt_get is not None:
            self._wrap(apt_get, _APT_GET, self._apt_log)

    def run(
        self,
        command: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        """Run ``command`` to its end. Raises :class:`Failed` where it hangs."""
        # vng looks for virtme-run there, and the environment of this Python may not be activated.
        scripts = sysconfig.get_path("scripts")
        path = f"{self._bin}:{scripts}:{os.environ.get('PATH', os.defpath)}"
        with tempfile.TemporaryFile() as output:
            started = time.monotonic()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(environment or {}), "PATH": path},
                start_new_session=True,
            )
            status, usage = _wait(process, command)
            seconds = time.monotonic() - started
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
        qemus = [_processor_time(text) for text in _take(self._qemu_log)]
        intervals = [line.split(" ", 2) for line in _take(self._apt_log)]
        return Run(
            seconds=seconds,
            processor_s=usage - sum(qemus),
            status=status,
            output=said,
            qemus=len(qemus),
            downloading_s=_downloading(intervals),
        )

    def _wrap(self, program: Path, script: str, log: Path) -> None:
        wrapper = self._bin / program.name
        text = script.format(program=shlex.quote(str(program)), log=shlex.quote(str(log)))
        wrapper.write_text(text)
        wrapper.chmod(0o700)


def _wait(process: subprocess.Popen[bytes], command: Sequence[str]) -> tuple[int, float]:
    """The exit status of ``process``, and the processor time of it and its children."""
    descriptor = os.pidfd_open(process.pid)
    try:
        ended, _, _ = select.select([descriptor], [], [], DEADLINE)
    except BaseException:
        _kill(process)
        raise
    finally:
        os.close(descriptor)
    if not ended:
        _kill(process)
        raise Failed(f"{shlex.join(command)} did not end within {DEADLINE:.0f} s")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _take(directory: Path) -> list[str]:
    """What the wrappers wrote since the last time."""
    texts = []
    for path in sorted(directory.iterdir()):
        texts.append(path.read_text())
        path.unlink()
    return texts


def _processor_time(times: str) -> float:
    """Seconds of the children in the output of the shell's `times`."""
    found = _TIME.findall(times.splitlines()[1])
    return sum(60 * int(minutes) + float(seconds) for minutes, seconds in found)


def _downloading(intervals: Sequence[Sequence[str]]) -> float:
    """Seconds in which at least one apt-get was fetching; several may be at it at a time."""
    spans = sorted(
        (float(start), float(end))
        for start, end, words in intervals
        if {"download", "update"} & set(words.split())
    )
    total, reached = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
