# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command lines as virtme-ng makes them, remembered from one run to the next.

virtme-ng takes two Pythons and a shell to make a command line that is the same for all kernels in
machines of the same shape. In each run it is asked once for each shape, with words in the place of
what differs between boots. A run that finds the answer of an earlier one starts QEMU at once, and
virtme-ng is asked while the kernel boots: a boot counts only if virtme-ng says the same as before.

Where virtme-ng cannot be asked, or what it says cannot be understood, it starts QEMU itself.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import Interrupted
from harness.host import files, programs
from harness.kernels.kernel_image import PreparedKernel
from harness.vm import commandline
from harness.vm.commandline import QEMU_COMMAND, Machine, Unsafe
from harness.vm.process import work_directory

#: In the cache.
MEMORY = "machines.json"
#: Command lines that are remembered; those of other versions and shapes give way.
MOST = 40
#: Seconds for virtme-ng's answer, on a host that is busy.
PATIENCE = 60.0
#: In the place of the work directory, and of the kernel arguments of a manifest.
_WORK, _APPEND = "@work@", "mptcp_harness.append"
#: The file into which virtme-ng puts its init's script where the command line is too long, as on
#: s390x; its name is another one each time.
_INIT_FILE = "/virtme-init-"
#: virtme-ng passes this limit of the host on to the guest.
_NR_OPEN = Path("/proc/sys/fs/nr_open")


@dataclass(frozen=True)
class Start:
    """The command that starts a VM. ``objection`` says after the boot why it does not count; "" if
    it does."""

    command: Sequence[str]
    objection: Callable[[], str] = lambda: ""


class Machines:
    """The command lines of a run; ``place`` is the file in which they are remembered.

    ``virtme_ng`` is the version of virtme-ng, ``qemu`` returns that of a QEMU. May be used from
    several threads.
    """

    def __init__(
        self, place: Path, virtme_ng: str, qemu: Callable[[Path], str], stop: threading.Event
    ) -> None:
        self._place = place
        self._virtme_ng = virtme_ng
        self._qemu = qemu
        self._stop = stop
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(1, "virtme-ng")
        self._answers: dict[str, Future[list[str]]] = {}

    def start(self, work: Path, kernel: PreparedKernel, qemu: Path, machine: Machine) -> Start:
        """The command for a VM in a ``work`` directory that commandline.lay_out() has made."""
        through_virtme_ng = Start(commandline.command(work, machine))
        # Beyond a length of the kernel's command line, virtme-ng puts a part of it into a file.
        if len(" ".join(machine.append)) > len(_APPEND):
            return through_virtme_ng
        shape = replace(machine, append=(_APPEND,))
        try:
            key = self._key(qemu, shape)
        except OSError:
            return through_virtme_ng  # which reports what is wrong with QEMU
        with self._lock:
            before = self._recall().get(key)
            if key not in self._answers:
                self._answers[key] = self._threads.submit(self._ask, key, kernel, qemu, shape)
            answer = self._answers[key]
        known = _answered(answer) if answer.done() else before
        if not known:
            return through_virtme_ng
        command = [str(work / "bin" / qemu.name), *_filled_in(known, work, machine.append)]
        return Start(command, lambda: self._objection(known, answer))

    def close(self) -> None:
        """Wait for virtme-ng."""
        self._threads.shutdown()

    def _key(self, qemu: Path, shape: Machine) -> str:
        """Identifies the question and who answers it."""
        question = commandline.command(Path(_WORK), shape)
        nr_open = _NR_OPEN.read_text()
        asked = [self._virtme_ng, str(qemu), files.stamp(qemu), nr_open, question]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def _recall(self) -> dict[str, list[str]]:
        found = files.recall(self._place)
        if not isinstance(found, dict):
            return {}
        return {key: words for key, words in found.items() if _is_command(words)}

    def _ask(self, key: str, kernel: PreparedKernel, qemu: Path, shape: Machine) -> list[str]:
        """virtme-ng's answer, which is remembered; empty if it is of no use."""
        try:
            found = ask(kernel, qemu, self._qemu(qemu), shape, self._stop)
        except (OSError, Unsafe, subprocess.TimeoutExpired):
            found = []
        with self._lock:
            kept = {known: words for known, words in self._recall().items() if known != key}
            if found:
                kept = {**dict(list(kept.items())[1 - MOST :]), key: found}
            files.remember(self._place, kept)
        return found

    def _objection(self, used: list[str], answer: Future[list[str]]) -> str:
        said = _answered(answer)
        if said == used:
            return ""
        now = "starts QEMU otherwise now" if said else "cannot be asked now"
        return f"virtme-ng {self._virtme_ng} {now}, so its remembered answer may be wrong"


def ask(
    kernel: PreparedKernel, qemu: Path, version: str, shape: Machine, stop: threading.Event
) -> list[str]:
    """The arguments of ``qemu``, which has this ``version``, for ``shape`` as virtme-ng makes them;
    empty if they cannot be filled in.

    Raises OSError, Unsafe, Interrupted, subprocess.TimeoutExpired.
    """
    with work_directory() as work:
        commandline.lay_out(work, kernel, qemu, asking=version)
        programs.run(
            commandline.command(work, shape),
            commandline.environment(work),
            stop=stop,
            timeout=PATIENCE,
            directory=work,
            removing=work,
        )
        words = (work / QEMU_COMMAND).read_text().split("\0")[1:-1]
    found = [word.replace(str(work), _WORK) for word in words]
    places = sum(word.split(" ").count(_APPEND) for word in found)
    of_this_boot = any(text in "\0".join(found) for text in (kernel.release, _INIT_FILE))
    return found if places == 1 and not of_this_boot else []


def _filled_in(words: Sequence[str], work: Path, append: Sequence[str]) -> list[str]:
    def fill(word: str) -> str:
        if _APPEND in word:
            parts = ((append if part == _APPEND else (part,)) for part in word.split(" "))
            return " ".join(part for group in parts for part in group)
        return word.replace(_WORK, str(work))

    return [fill(word) for word in words]


def _answered(answer: Future[list[str]]) -> list[str]:
    try:
        return answer.result()
    except Interrupted:
        return []


def _is_command(words: object) -> bool:
    return isinstance(words, list) and all(isinstance(word, str) for word in words)
