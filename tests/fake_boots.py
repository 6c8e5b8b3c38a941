# SPDX-License-Identifier: GPL-2.0-only
"""Sessions without tools, kernels and VMs: all else is the real thing.

As a program it is what gets killed: for each line on its standard input a process of its own goes
on with the run in the directory that is its argument, or begins one.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from guest import checks
from harness import kernels
from harness.errors import UsageError
from harness.host import tools
from harness.kernels import Cache, PreparedKernel
from harness.manifest.kernels_yaml import ImageSource, KernelEntry
from harness.manifest.plan import Plan
from harness.records import reuse
from harness.run import session, workspace
from harness.run.request import Listener, Progress, RunRequest, Stage
from harness.verdict.results import (
    Attempt,
    BootEnd,
    Capability,
    CheckKey,
    CheckResult,
    RunResult,
    Stream,
)
from harness.verdict.verdicts import CheckVerdict, Family
from harness.vm import accelerator, boot, initramfs

#: These read many files, and each run asks for them several times.
_version = functools.cache(tools.virtme_ng_version)
_processors = functools.cache(tools.processors)
#: In each bundle of a failure. The real one has a hundred files.
CHECKER = {"__main__.py": b"# The checker.\n"}
#: So many that all kills of a test come before the last.
MANY = 250
_KEY = CheckKey(Family.IPV4, "payload.arrives", "segment", "transferred", "server")
GOOD = Attempt(
    1,
    BootEnd.POWERED_OFF,
    kernel_spoke=True,
    stream=Stream(
        said_hello=True,
        closed=True,
        release="4.19.0",  # of which nothing is expected
        capabilities=(Capability("mptcp", Family.IPV4, True),),
        results=(CheckResult(_KEY, CheckVerdict.PASS),),
    ),
)


class Outcomes:
    """What comes of the boot of each kernel; ``booted`` are those that were."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.booted: list[str] = []
        self.of: dict[str, Attempt] = {}

    def prepare(self, entry: KernelEntry, *_: object) -> PreparedKernel:
        return PreparedKernel(
            name=entry.name,
            release="4.19.0",
            version="v",
            origin="here",
            image=self.directory,
            image_sha256="0" * 64,
            root=self.directory,
            boot_image=self.directory,
        )

    def boot(self, plan: boot.BootPlan, *_: object) -> Attempt:
        self.booted.append(plan.kernel.name)
        plan.directory.mkdir(parents=True)
        place = str(plan.directory / "console.log")
        attempt = self.of.get(plan.kernel.name, GOOD)
        return replace(attempt, number=plan.number, console=place, events=place, accel="tcg")

    def install(self, setattr: Callable[[object, str, object], None]) -> None:
        """Instead of what a session would do, by ``setattr`` or that of a MonkeyPatch."""
        true = Path("/bin/true")
        choice = accelerator.Choice(False, "for the tests")
        setattr(workspace, "find_tools", lambda: (true, true))
        setattr(workspace, "qemu_version", lambda *_: "7.2")
        setattr(initramfs, "prepare", lambda *_: self.directory / "base.cpio")
        setattr(initramfs, "checker", lambda: CHECKER)
        setattr(tools, "processors", _processors)
        setattr(tools, "virtme_ng_version", _version)
        setattr(kernels, "prepare", self.prepare)
        setattr(boot, "boot", self.boot)
        setattr(accelerator, "choose", lambda *_: choice)


def entries(count: int) -> list[KernelEntry]:
    source = ImageSource(Path("/src/bzImage"))
    return [KernelEntry(f"kernel-{number}", source, "the tests") for number in range(count)]


def asking(**settings: Any) -> RunRequest:
    """A request with ``settings``, whether they are the plan's or its own."""
    names = {name for name in settings if name in {field.name for field in fields(Plan)}}
    plan = Plan(**{name: settings.pop(name) for name in names})
    return RunRequest(plan, **settings)


def run(
    directory: Path,
    kernels: Sequence[KernelEntry],
    listener: Listener,
    request: RunRequest,
    stop: threading.Event,
) -> RunResult:
    plan = replace(request.plan, families=(Family.IPV4,))
    request = replace(request, plan=plan, manifest=directory / "kernels.yaml")
    return session.run(kernels, request, Cache(directory / "cache"), listener, stop)


def _say(line: str) -> None:
    os.write(sys.stdout.fileno(), f"{line}\n".encode())  # whole, from any thread


def _test_on(directory: Path) -> None:
    """Say each kernel that is done, as soon as the harness says so."""

    def listener(progress: Progress) -> None:
        if progress.stage is Stage.DONE and "interrupted run" not in progress.detail:
            _say(progress.kernel)

    request = RunRequest(jobs=2, resume=True)
    try:
        run(directory, entries(MANY), listener, request, threading.Event())
    except UsageError:
        run(directory, entries(MANY), listener, replace(request, resume=False), threading.Event())


def _main(directory: Path) -> None:
    Outcomes(directory).install(setattr)
    reuse.judging()  # read once, for the sources may be worked on meanwhile
    checks.all_checks()  # imported once
    for _ in sys.stdin:
        child = os.fork()  # importing takes longer than a run that is soon killed
        if not child:
            try:
                _test_on(directory)
            finally:
                os._exit(0)
        _say(f"process {child}")
        os.waitpid(child, 0)
        _say("end")


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
