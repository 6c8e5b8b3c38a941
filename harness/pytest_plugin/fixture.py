# SPDX-License-Identifier: GPL-2.0-only
"""The fixture `kernel`: a VM for a user's own test."""

from __future__ import annotations

import ast
import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import UsageError
from harness.kernels import Cache
from harness.manifest import cross_check
from harness.manifest.entries import Accel, KernelEntry
from harness.report.terminal import UNICODE
from harness.run import workspace
from harness.verdict.results import Incident
from harness.vm import initramfs
from harness.vm.boot import Deadlines
from harness.vm.commands import CommandPlan, Ended, Guest, GuestLost, booted

__all__ = ["CommandFailed", "Ended", "GuestLost", "Kernel"]

#: Where files are put in the guest if the user does not say.
PLACE = "/test"
#: Deadlines are so many times as long under emulation, as in harness.vm.boot.
SLOW = 4
_ENVIRONMENT = {
    "PATH": "/bin:/usr/bin",
    "HOME": "/",
    "LC_ALL": "C",
    "PYTHONPATH": "/opt",  # the checker's package, `guest`
    "PYTHONDONTWRITEBYTECODE": "1",
}


class CommandFailed(AssertionError):
    """A program did not exit with 0, and the test said that it must."""

    def __init__(self, ended: Ended) -> None:
        how = "ran into its timeout" if ended.timed_out else f"ended with {ended.status}"
        shown = "\n".join(UNICODE.safe(line, 400) for line in ended.output.splitlines()[-20:])
        super().__init__(f"{' '.join(ended.command)} {how}\n{shown}")
        self.ended = ended


class Kernel:
    """A kernel of the manifest in a VM of its own.

    A test that leaves a report on the console (a warning, an oops) fails, unless
    ``reports_allowed`` is set.
    """

    def __init__(
        self,
        entry: KernelEntry,
        cache: Cache,
        accel: Accel | None,
        near: Path,
        say: Callable[[str], None],
    ) -> None:
        self._entry = entry
        self._cache = cache
        self._accel = accel
        self._near = near
        self._say = say
        self._open = contextlib.ExitStack()
        self._guest: Guest | None = None
        self._slow = SLOW
        self._shown = ""  # the console of the last guest
        self._seen = 0
        self.reports_allowed = False

    def boot(self) -> Guest:
        """Its guest, booted if it is not. Raises HostError, GuestLost, Unsafe, OSError."""
        if self._guest is None:
            self._guest, self._slow = self._open.enter_context(
                _booted(self._entry, self._cache, self._accel, self._say)
            )
        return self._guest

    def close(self) -> None:
        """End the VM."""
        self._shown, self._guest = self.console, None
        self._open.close()

    def end_test(self) -> str:
        """A report of the kernel in this test, unless allowed; "" if there is none.

        A guest that is lost is replaced in the next test.
        """
        found, allowed = self.incidents, self.reports_allowed
        new, self._seen = found[self._seen :], len(found)
        self.reports_allowed = False
        if self.lost:
            self._seen = 0
            self.close()
            return ""
        if allowed or not new:
            return ""
        return f"{self.name} reported {new[0].kind}: {UNICODE.safe(new[0].title)}"

    @property
    def name(self) -> str:
        """Its name in the manifest."""
        return self._entry.name

    @property
    def release(self) -> str:
        """The output of `uname -r` in the guest."""
        return self.boot().release

    @property
    def console(self) -> str:
        """All of its console so far."""
        return self._guest.console if self._guest else self._shown

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """The reports on its console so far: a kind, a title and an excerpt each."""
        return self._guest.incidents if self._guest else ()

    @property
    def lost(self) -> str:
        """Why it does not answer any more; "" while it does."""
        return self._guest.lost if self._guest else ""

    def put(self, source: str | Path, target: str = "") -> str:
        """Copy the file ``source`` into the guest; returns its path there, PLACE by default.

        A relative path starts at the directory of the test. A program brings its shared libraries,
        a Python script the modules of the standard library that it imports.
        """
        path = self._near / source
        content = path.read_bytes()
        place = target or f"{PLACE}/{path.name}"
        files = {**_needs(path, content), place.lstrip("/"): content}
        __tracebackhide__ = True
        try:
            for name, data in files.items():
                self.boot().put(f"/{name}", data)
        except GuestLost as error:
            raise GuestLost(str(error)) from None
        return place

    def run(
        self,
        *command: str,
        timeout: float = 60.0,
        env: dict[str, str] | None = None,
        check: bool = False,
    ) -> Ended:
        """Run ``command`` in the guest, as root; returns status, output and log.

        ``timeout`` is in seconds, four times as long under emulation. With ``check``, any status
        but 0 raises CommandFailed. Raises OSError if there is no such program, and GuestLost if the
        kernel crashed or hung.
        """
        environment = {**_ENVIRONMENT, **(env or {})}
        __tracebackhide__ = True
        try:
            ended = self.boot().run(command, environment, timeout * self._slow)
        except GuestLost as error:
            raise GuestLost(str(error)) from None  # the test's own line is what there is to see
        except OSError as error:
            raise OSError(str(error)) from None
        if check and ended.status != 0:
            raise CommandFailed(ended)
        return ended


@contextlib.contextmanager
def _booted(
    entry: KernelEntry, cache: Cache, accel: Accel | None, say: Callable[[str], None]
) -> Iterator[tuple[Guest, int]]:
    """A guest of ``entry``, and how many times as long its timeouts are."""
    with (
        workspace.machinery(entry, cache, accel, say) as found,
        tempfile.TemporaryDirectory(prefix="mptcp-harness-kernel.") as directory,
    ):
        kvm = found.machine.kvm
        say(f"{entry.name}: booting: {'KVM' if kvm else 'TCG'}")
        deadlines = Deadlines.scaled(entry.timeout_s, kvm=kvm)
        plan = CommandPlan(
            found.kernel, found.base, found.qemu, found.machine, deadlines, Path(directory)
        )
        with booted(plan, cache.stop) as guest:
            yield guest, 1 if kvm else SLOW


def _needs(path: Path, content: bytes) -> dict[str, bytes]:
    """The other files that the guest needs for the program or script ``path``."""
    if content[:4] == b"\x7fELF":
        try:
            libraries = cross_check.libraries_of(path, content)
        except UsageError as error:
            raise ValueError(str(error).replace("--cross-check ", "")) from None
        return {str(library).lstrip("/"): library.read_bytes() for library in libraries}
    if path.suffix != ".py":
        return {}
    return initramfs.standard_modules(_imports(ast.parse(content, str(path))))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
