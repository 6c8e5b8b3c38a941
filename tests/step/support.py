# SPDX-License-Identifier: GPL-2.0-only
"""Small kernel trees in real git repositories; the compiler and the boots are stood in for.

As a program it is mptcp-harness with these stand-ins.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness import cli
from harness.host import programs, toolchain, tools
from harness.manifest.kernels_yaml import ImageSource, KernelEntry
from harness.manifest.plan import Plan
from harness.run import session, workspace
from harness.run.request import RunRequest
from harness.step import step
from harness.verdict.results import KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, KernelVerdict
from harness.vm import initramfs
from tests import factories
from tests.processes import unsupervised

CHECK = "mptcp_info.readable"
CODE = Path("net/mptcp/code.c")
#: What a commit's code is, by what becomes of it.
GOOD, BAD, BROKEN, PANIC = "good", "bad", "syntax error", "panic"

#: Stands in for virtme-ng.
VNG = """\
#!/bin/sh
echo "$*" >> "$DIARY/calls"
cat "$3" > .config
"""
#: Stands in for make: an "image" is the code.
MAKE = """\
#!/bin/sh
echo "$*" >> "$DIARY/calls"
git --no-optional-locks -C "$USERS_TREE" status --porcelain > "$DIARY/status"
[ ! -e "$DIARY/full" ] || { echo "ld: final link: No space left on device" >&2; exit 1; }
! grep -q 'syntax error' net/mptcp/code.c || {
    echo "net/mptcp/code.c:1:1: error: expected ';' before 'x'" >&2
    exit 1
}
mkdir -p arch/x86/boot
cp net/mptcp/code.c arch/x86/boot/bzImage
"""


_version = functools.cache(toolchain.version)


@dataclass
class Tree:
    """A kernel tree of the user's, and what was done to it; ``diary`` is where that is noted."""

    path: Path
    diary: Path

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", *who, *arguments]
        return subprocess.run(
            command, cwd=self.path, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, text: str, path: Path = CODE) -> None:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def commit(self, text: str) -> str:
        self.write(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", f"mptcp: {text}")
        return self.git("rev-parse", "HEAD")

    def patch(self, text: str, to: Path) -> Path:
        """A patch that makes the code ``text``; the tree is as it was."""
        self.write(text)
        to.write_text(self.git("diff") + "\n")
        self.git("checkout", "--quiet", "--", ".")
        return to

    @property
    def make(self) -> Path:
        """The program that builds here."""
        return Path(os.environ["PATH"].split(os.pathsep)[0]) / "make"

    @property
    def builds(self) -> int:
        return self._calls("bzImage")

    @property
    def configurations(self) -> int:
        return self._calls("--kconfig")

    @property
    def status_while_building(self) -> str:
        return (self.diary / "status").read_text()

    def _calls(self, what: str) -> int:
        diary = self.diary / "calls"
        lines = diary.read_text().splitlines() if diary.exists() else []
        return sum(line.startswith(what) for line in lines)


class Boots:
    """What comes of a boot, by the code in the image; ``seen`` is what was booted."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.plans: list[Plan] = []
        self.flaky: list[str] = []  # what each of the next boots makes of its code, instead

    def run(self, entries: list[KernelEntry], request: RunRequest, *_: object) -> RunResult:
        self.plans.append(request.plan)
        source = entries[0].source
        assert isinstance(source, ImageSource)
        code = source.image.read_text().strip()
        self.seen.append(code)
        return factories.run(_result(entries[0].name, self.flaky.pop(0) if self.flaky else code))

    def install(self, setattr: Callable[[object, str, object], None]) -> None:
        """Instead of what a step would do, by ``setattr`` or that of a MonkeyPatch."""
        true = Path("/bin/true")
        path = os.environ["PATH"]
        setattr(session, "run", self.run)
        setattr(workspace, "find_tools", lambda: (true, true))
        setattr(step, "qemu_version", lambda *_: "7.2")
        setattr(initramfs, "prepare", lambda *_: Path("base.cpio"))
        setattr(tools, "virtme_ng_path", lambda: path)
        setattr(toolchain, "check", lambda: None)
        setattr(toolchain, "version", _version)


def _result(name: str, code: str) -> KernelResult:
    kernel = factories.kernel(name)
    if code.startswith(BAD):
        failed = factories.everywhere(factories.check(CHECK, CheckVerdict.FAIL))
        return factories.failing(kernel, *failed)
    if code.startswith(PANIC):
        return replace(kernel, verdict=KernelVerdict.BOOT_FAILURE, reason="panic", families={})
    if code.startswith("no QEMU"):
        return KernelResult.infrastructure(name, "QEMU did not start")
    return kernel


if __name__ == "__main__":
    programs.run = unsupervised
    Boots().install(setattr)
    sys.exit(cli.main())
