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
start=$(date +%s.%N)
{program} "$@"
status=$?
end=$(date +%s.%N)
{{ times; echo "$start $end"; }} > {log}/$$
exit $status
"""
_INTERVAL = """\
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
    qemu_s: float = 0.0  # in which a QEMU ran
    making_s: float = 0.0  # in which a make ran

    @property
    def host_s(self) -> float:
        """The time in which neither QEMU nor make ran."""
        return self.seconds - self.qemu_s - self.making_s


class Runner:
    """Runs commands with its wrappers first in PATH; ``directory`` is its own."""

    def __init__(
        self, directory: Path, qemu: Path, apt_get: Path | None, make: Path | None = None
    ) -> None:
        self._bin = directory / "bin"
        self._qemu_log = directory / "qemu"
        self._apt_log = directory / "apt"
        self._make_log = directory / "make"
        for place in (self._bin, self._qemu_log, self._apt_log, self._make_log):
            place.mkdir()
        self._wrap(qemu, _QEMU, self._qemu_log)
        for program, log in ((apt_get, self._apt_log), (make, self._make_log)):
            if program is not None:
                self._wrap(program, _INTERVAL, log)

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
                # Bytecode is kept, as it is where the harness is installed.
                env={
                    **os.environ,
                    "PYTHONDONTWRITEBYTECODE": "",
                    **(environment or {}),
                    "PATH": path,
                },
                start_new_session=True,
            )
            status, usage = _wait(process, command)
            seconds = time.monotonic() - started
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
        boots = _take(self._qemu_log)
        qemus = [_processor_time(text) for text in boots]
        fetching = [words for words in _take(self._apt_log) if _is_fetching(words)]
        return Run(
            seconds=seconds,
            processor_s=usage - sum(qemus),
            status=status,
            output=said,
            qemus=len(qemus),
            downloading_s=_covered(fetching),
            qemu_s=_covered([text.splitlines()[-1] for text in boots]),
            making_s=_covered(_take(self._make_log)),
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


def _is_fetching(interval: str) -> bool:
    """Whether a line of an apt-get's log is about packages or their lists."""
    return bool({"download", "update"} & set(interval.split()[2:]))


def _covered(intervals: Sequence[str]) -> float:
    """Seconds in at least one of ``intervals``, which begin with their start and end."""
    spans = sorted((float(start), float(end)) for start, end, *_ in map(str.split, intervals))
    total, reached = 0.0, 0.0
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
