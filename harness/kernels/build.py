# SPDX-License-Identifier: GPL-2.0-only
"""Builds a kernel in the copy of a tree, with virtme-ng's and the harness's configuration.

Only the image is built, because everything that a boot needs is built in (harness.kernels.kconfig).
The configuration depends only on the commit and the fragment, not on commits built before.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.errors import HostError, KernelUnavailable
from harness.host import programs, toolchain, tools
from harness.host.files import recall, remember
from harness.kernels import kconfig, kconfig_tree
from harness.kernels.cache import digest
from harness.kernels.kconfig_tree import Wanted
from harness.kernels.source import Commit, Copy, Untestable, without_git
from harness.text import plural

IMAGE = Path("arch/x86/boot/bzImage")
#: Seconds; a hundred times the usual duration.
_TIMEOUT = 24 * 3600
#: Lines of a log that are shown.
SHOWN = 8
#: Other variables that affect make(1) and the kernel's build: another configuration, a cross
#: compiler, the jobs of a parent make.
_LEADING = ("KBUILD_", "KCONFIG_", "KCFLAGS", "MAKE", "MFLAGS", "GNUMAKEFLAGS", "LLVM", "CROSS_")
_DROPPED = ("ARCH", "O", "M", "V", "W", "CC", "LD", "LOCALVERSION", "INSTALL_MOD_PATH")
#: The files of a tree on which its configuration depends (gitglossary(7), pathspec).
_CONFIGURING = (
    *("Makefile", ":(glob)**/*Kconfig*", "arch/x86/configs/", "kernel/configs/", "scripts/"),
    "arch/x86/Makefile",
)
#: A line that make prints for a file: "  CC      net/mptcp/ctrl.o".
_MADE = re.compile(r" +(?:\[[A-Z]\] )?[A-Z][A-Z0-9]+ +(?:\[M\] +)?\S+")
#: A shell adds this to the number of the signal that ended a program.
_KILLED = 128
_COMPLAINT = re.compile(r"\berror\b|\bError \d|\*\*\*|undefined reference|not found|FAILED", re.I)


class Compiler(StrEnum):
    GCC = toolchain.GCC
    CLANG = toolchain.CLANG


@dataclass(frozen=True)
class Recipe:
    """How kernels are built. ``fragments`` are configuration texts; later ones take precedence.

    The options ``wanted`` come after virtme-ng's own, and the build fails without one of them.
    """

    fragments: tuple[str, ...]
    jobs: int
    wanted: tuple[Wanted, ...] = ()
    compiler: Compiler = Compiler.GCC
    nice: bool = False  # whether others on the host go first

    def key(self, tree: str) -> str:
        """The key of the image of ``tree``; contains everything that affects the image."""
        return digest([tree, self.fragments, toolchain.version()])


class Build:
    """The build in ``copy``, which is checked out, below ``place``."""

    def __init__(
        self,
        place: Path,
        copy: Copy,
        recipe: Recipe,
        log: Path,
        say: Callable[[str], None],
        stop: threading.Event,
        lock: int,
    ) -> None:
        self._place = place
        self._copy = copy
        self._recipe = recipe
        self._log = log
        self._say = say
        self._stop = stop
        self._lock = lock  # a descriptor that the build inherits and keeps locked

    def run(self, commit: Commit, tree: str) -> Path:
        """The image of ``tree``, which is ``commit`` with patches.

        Raises Untestable, HostError, and Interrupted.
        """
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_text(f"# {commit}, tree {tree}\n")
        arguments, environment = self._environment(commit)
        llvm = ["LLVM=1"] if self._recipe.compiler is Compiler.CLANG else []
        arguments = [*arguments, *llvm]
        self._configure(environment, llvm)
        image = self._copy.directory / IMAGE
        image.unlink(missing_ok=True)  # a new image proves success
        self._say(f"building; log: {self._log}")
        # As `vng --build --skip-modules` does; vng itself takes half a second to start.
        build = ["make", "bzImage", "LOCALVERSION=-virtme", "-j", str(self._recipe.jobs)]
        build += arguments
        self._run(environment, *(["nice"] if self._recipe.nice else []), *build)
        if not image.is_file():
            raise self._failure("the build left no image")
        return image

    def _configure(self, environment: dict[str, str], llvm: Sequence[str]) -> None:
        """Make .config, unless nothing that it depends on has changed."""
        known = self._place / "configured.json"
        names = self._copy.names(_CONFIGURING)
        recipe = self._recipe
        more = [[each.line for each in recipe.wanted], recipe.compiler] if recipe.wanted else []
        version = toolchain.version(recipe.compiler)
        key = digest([names, recipe.fragments, version, *more])
        config = self._copy.directory / ".config"
        found = recall(known)
        text = config.read_bytes() if config.is_file() else b""
        stamp = {"key": key, "sha256": hashlib.sha256(text).hexdigest()}
        if text and found == stamp:
            return
        self._say("configuring it")
        fragment = self._place / "fragment"
        fragment.write_text("\n".join(recipe.fragments) + "\n")
        config.unlink(missing_ok=True)
        self._run(environment, "vng", "--kconfig", "--config", str(fragment), *llvm)
        if not config.is_file():
            raise self._failure("the configuration left no .config")
        if recipe.wanted:
            self._want(config, environment, llvm)
        text = config.read_bytes()
        lacking, _ = kconfig.missing(kconfig.parse(text.decode("utf-8", "replace")))
        if lacking:
            raise Untestable(f"it cannot be configured with {kconfig.in_words(lacking)}")
        remember(known, {"key": key, "sha256": hashlib.sha256(text).hexdigest()})

    def _want(self, config: Path, environment: dict[str, str], llvm: Sequence[str]) -> None:
        """Add the wanted options to ``config``; the last line of an option counts."""
        wanted = self._recipe.wanted
        with config.open("a") as file:
            file.write(kconfig_tree.text(wanted))
        self._run(environment, "make", "olddefconfig", *llvm)
        left = config.read_text(errors="replace")
        try:
            lacking = kconfig_tree.check(wanted, left, self._copy.directory)
        except KernelUnavailable:
            config.unlink()  # so that it is not taken for the configuration next time
            raise
        if lacking:
            self._say(f"this kernel cannot have {lacking}")

    def _environment(self, commit: Commit) -> tuple[list[str], dict[str, str]]:
        """Variables for make, and an environment that keeps the user's settings out of the
        image."""
        inherited = {
            name: value
            for name, value in without_git(os.environ).items()
            if name not in _DROPPED and not name.startswith(_LEADING)
        }
        home = self._place / "home"
        home.mkdir(exist_ok=True)  # a home without a virtme-ng configuration of the user
        compiler, cached = toolchain.ccache(os.environ, self._recipe.compiler)
        return compiler, {
            **inherited,
            **cached,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "PATH": tools.virtme_ng_path(),
            "LC_ALL": "C",
            # Makes builds reproducible.
            "KBUILD_BUILD_TIMESTAMP": f"@{commit.time}",
            "KBUILD_BUILD_USER": "mptcp-harness",
            "KBUILD_BUILD_HOST": "step",
            "KBUILD_BUILD_VERSION": "1",
        }

    def _run(self, environment: dict[str, str], *command: str) -> None:
        with self._log.open("ab") as log:
            try:
                with programs.Supervised(
                    command,
                    environment,
                    output=log,
                    errors=subprocess.STDOUT,
                    directory=self._copy.directory,
                    pass_fds=(self._lock,),
                ) as kept:
                    status = kept.wait(self._stop, _TIMEOUT, self._progress)
            except subprocess.TimeoutExpired as error:
                raise HostError(
                    f"the build takes longer than a day; its log is {self._log}"
                ) from error
        # For example out of memory: the same build may succeed later.
        if _KILLED < status <= _KILLED + signal.NSIG:
            raise HostError(f"the build was killed by signal {status - _KILLED}; log: {self._log}")
        if status != 0:
            what = " ".join([word for word in command if word != "nice"][:2])
            raise self._failure(f"{what} ended with status {status}")

    def _progress(self, seconds: float) -> None:
        """Report the progress of a build: the number of files, and the last one."""
        made = [
            line
            for line in self._log.read_text(errors="replace").splitlines()
            if _MADE.fullmatch(line)
        ]
        last = f", last {made[-1].split()[-1]}" if made else ""
        self._say(f"{seconds:.0f} s so far: {plural(len(made), 'file')} built{last}")

    def _failure(self, what: str) -> Untestable | HostError:
        """The exception for a failed build: Untestable for the source, HostError for the host."""
        lines = last_lines(self._log)
        why = toolchain.host_failure(lines, self._place)
        said = "".join(f"\n    {line}" for line in complaints(lines))
        if why is not None:
            return HostError(f"{why}; log: {self._log}{said}")
        return Untestable(f"{what}; log: {self._log}{said}")


def last_lines(log: Path, most: int = 1 << 17) -> list[str]:
    """The last lines of ``log``, at most ``most`` bytes."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        return file.read().decode("utf-8", "replace").splitlines()


def complaints(lines: Sequence[str]) -> list[str]:
    """The last error lines of a build; without any, its last lines."""
    found = [line for line in lines if _COMPLAINT.search(line)]
    return (found or list(lines))[-SHOWN:]
