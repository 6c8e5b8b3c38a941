# SPDX-License-Identifier: GPL-2.0-only
"""Bundles of kernels that are none, and replays of them: only the boots are made up."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from harness import replay
from harness.bundle import Bundle, Bundles, load, place
from harness.kernels import Cache
from harness.kernels.image import from_file
from harness.kernels.modules import Module, ModuleSet
from harness.manifest.entries import UserSpace
from harness.manifest.kernels_yaml import ImageSource, KernelEntry
from harness.manifest.plan import Plan
from harness.replay import ReplayRequest
from harness.replay.replay import ReplayRow
from harness.run import workspace
from harness.verdict.failures import Tried
from harness.verdict.results import Attempt, BootEnd, KernelResult
from harness.verdict.verdicts import CheckVerdict
from harness.vm import accelerator, boot, initramfs
from harness.vm.boot import BootPlan, Deadlines
from harness.vm.commandline import Machine, Request
from tests import factories
from tests.fake_boots import GOOD
from tests.kernels import builders

NAME = "mine"
BAD = replace(
    GOOD,
    stream=replace(
        GOOD.stream,
        results=tuple(
            replace(r, verdict=CheckVerdict.FAIL, detail="it broke") for r in GOOD.stream.results
        ),
    ),
)
NO_KVM = accelerator.Choice(False, "TCG, because KVM is missing here")
BROKEN_QEMU = Attempt(1, BootEnd.LAUNCH_FAILED, "QEMU ended with status 1")


@dataclass
class Bench:
    """Where a kernel failed, and may be booted again."""

    directory: Path
    with_image: bool = False
    entry: KernelEntry = field(init=False)
    image: Path = field(init=False)
    plans: list[BootPlan] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    rows: list[ReplayRow] = field(default_factory=list)
    #: What comes of each boot; the last of all further ones.
    outcomes: list[Attempt] = field(default_factory=lambda: [BAD])
    checker: dict[str, bytes] = field(default_factory=initramfs.checker)
    choice: accelerator.Choice = NO_KVM

    def __post_init__(self) -> None:
        self.image = self.directory / "bzImage"
        self.image.write_bytes(builders.bzimage())
        source = ImageSource(self.image)
        self.entry = KernelEntry(NAME, source, "here", append=("slub_debug=FZ",), memory_mib=768)
        self.cache = Cache(self.directory / "cache")

    def failed(self) -> KernelResult:
        check = replace(BAD.stream.results[0], detail="it broke")
        result = replace(factories.failing(factories.kernel(NAME), check), release="4.19.0")
        return replace(result, attempts=())

    def bundle(self) -> Bundle:
        """What the kernel left when it failed, with a cache of its own that is gone since."""
        module = Module("virtio_pci", builders.module("virtio_pci"))
        kernel = from_file(
            *(NAME, self.image, lambda _: ModuleSet((module,))),
            *(Cache(self.directory / "cache-then"), lambda _: None),
        )
        families = tuple(r.key.family for r in BAD.stream.results)
        plan = BootPlan(
            kernel=kernel,
            base=Path("base.cpio"),
            qemu=Path("/bin/true"),
            machine=Machine(),
            request=Request("ab" * 16, 77, Plan(families, ("payload.arrives",), payload=9)),
            deadlines=Deadlines.scaled(10, kvm=False),
            directory=self.directory,
        )
        run = self.directory / "run-then"
        place(run, NAME).parent.mkdir(parents=True, exist_ok=True)
        bundles = Bundles(run, [self.entry], {"guest": "base"}, self.with_image, self.checker)
        bundles.booting(plan)
        assert bundles.keep(self.failed()) == ""
        return load(place(run, NAME))

    def replay(self, bundle: Bundle | None = None, **request: object) -> tuple[Tried, ...]:
        directory = self.directory / "run-now"
        directory.mkdir(exist_ok=True)
        qemu = self.directory / "qemu-system-x86_64"
        qemu.touch()
        place = workspace.Workspace(directory, {UserSpace(): Path("base.cpio")}, qemu, "7.2")
        return replay.run(
            *(bundle or self.bundle(), ReplayRequest(**request), place, self.cache),  # type: ignore[arg-type]
            *(self.said.append, self.rows.append, threading.Event()),
        )

    def boot(self, plan: BootPlan, *_: object) -> Attempt:
        outcome = self.outcomes[min(len(self.plans), len(self.outcomes) - 1)]
        self.plans.append(plan)
        plan.directory.mkdir(parents=True)
        files = str(plan.directory / "console.log")
        accel = "kvm" if plan.machine.kvm else "tcg"
        return replace(outcome, number=plan.number, console=files, events=files, accel=accel)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(boot, "boot", made.boot)
    monkeypatch.setattr(accelerator, "choose", lambda *_: made.choice)
    monkeypatch.setattr("harness.run.attempts.BACK_OFF", (0.0, 0.0))
    monkeypatch.setattr("harness.replay.replay.PLACES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    return made
