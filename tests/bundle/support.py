# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that failed, and the bundle that it left."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.bundle import Bundles
from harness.bundle.archive import place
from harness.kernels import PreparedKernel
from harness.manifest.kernels_yaml import DebSource, KernelEntry
from harness.manifest.plan import Plan
from harness.verdict.results import KernelResult
from harness.verdict.verdicts import CheckVerdict, Family
from harness.vm.boot import BootPlan, Deadlines
from harness.vm.commandline import Machine, Request
from tests import factories

NAME = "debian-6.12"
IMAGE = b"\0MZ an image"
MODULE = b"\x7fELF a module"
CONSOLE = b"Linux version 6.12\n"
CHECKER = {"__main__.py": b"# runs\n", "checks/info.py": b"# checks\n"}
ENTRY = KernelEntry(
    NAME,
    DebSource("trixie", "linux-image-amd64"),
    "kernels.yaml:2:5",
    cpus=2,
    memory_mib=768,
    append=("slub_debug=FZ", "page_poison=1"),
    expect={"full_info": True},
    timeout_s=90,
)


def failed() -> KernelResult:
    check = factories.check(verdict=CheckVerdict.FAIL)
    result = factories.failing(factories.kernel(NAME), check)
    attempt = replace(
        result.attempts[0],
        console=f"kernels/{NAME}/attempt-1/console.log",
        events=f"kernels/{NAME}/attempt-1/events.jsonl",
    )
    return replace(result, attempts=(attempt,))


@dataclass
class Failing:
    """A run in ``directory`` in which a kernel fails; ``entry`` and ``result`` may be bent."""

    directory: Path
    entry: KernelEntry = ENTRY
    result: KernelResult = field(default_factory=failed)
    with_image: bool = False

    @property
    def bundle(self) -> Path:
        return place(self.directory, NAME)

    def plan(self) -> BootPlan:
        root = self.directory / "cache"
        (root / "modules").mkdir(parents=True, exist_ok=True)
        image, module = root / "vmlinuz-6.12", root / "modules" / "virtio_pci.ko"
        image.write_bytes(IMAGE)
        module.write_bytes(MODULE)
        kernel = PreparedKernel(
            name=NAME,
            release="6.12.107+deb13-amd64",
            version="6.12.107-1",
            origin="trixie linux-image-6.12.107+deb13-amd64 6.12.107-1",
            image=image,
            image_sha256=hashlib.sha256(IMAGE).hexdigest(),
            root=root,
            boot_image=image,
            modules=(module,),
            modules_sha256=(hashlib.sha256(MODULE).hexdigest(),),
        )
        return BootPlan(
            kernel=kernel,
            base=root / "base.cpio",
            qemu=Path("/bin/true"),
            machine=Machine(),
            request=Request(
                "5ec2e7" * 4, 77, Plan((Family.IPV4,), ("mptcp_info.readable",), payload=9)
            ),
            deadlines=Deadlines.scaled(10, kvm=False),
            directory=self.directory / "kernels" / NAME / "attempt-1",
        )

    def keep(self) -> str:
        """Make the bundle; what is said of it."""
        plan = self.plan()
        plan.directory.mkdir(parents=True, exist_ok=True)
        (plan.directory / "console.log").write_bytes(CONSOLE)
        (plan.directory / "qemu.txt").write_text("qemu-system-x86_64 -m 768M\n")
        versions = {"harness": "0.1.0", "QEMU": "7.2"}
        bundles = Bundles(self.directory, [self.entry], versions, self.with_image, CHECKER)
        bundles.booting(plan)
        return bundles.keep(self.result)
