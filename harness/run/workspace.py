# SPDX-License-Identifier: GPL-2.0-only
"""What a run needs of the host: tools, the guest's root, a directory, KVM or TCG, memory for the
next VM; and where runs are kept."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from harness.errors import Busy, HostError, UsageError
from harness.host import tools
from harness.host.files import user_directory
from harness.kernels import Cache, PreparedKernel
from harness.manifest.kernels_yaml import Accel
from harness.manifest.schema import Abi
from harness.records import prune, store
from harness.run.request import Listener, Progress, Stage
from harness.vm import accelerator, foreign_root
from harness.vm.accelerator import Choice, qemu_version


@dataclass(frozen=True)
class Workspace:
    """What every boot of a run stands on."""

    directory: Path  # of the run
    roots: Mapping[Abi, Path]  # archives of the guest's root; one for Abi.NATIVE is always there
    qemu: Path
    qemu_version: str

    @property
    def base(self) -> Path:
        """The root of the native user space."""
        return self.roots[Abi.NATIVE]


@contextlib.contextmanager
def opened(
    output: Path | None,
    cache: Cache,
    identity: str = "",
    resumed: Path | None = None,
    abis: Iterable[Abi] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Workspace]:
    """Tools found, the guest's root built, a directory made: nothing is pruned that is used.

    ``resumed`` is the directory of a run that is resumed, ``abis`` are those of its kernels.
    Raises HostError, and UsageError for ``output``.
    """
    qemu, busybox = find_tools()
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(cache.scratch())  # from now on nothing is pruned that is used
            roots = {
                abi: foreign_root.prepare(abi, cache, busybox, say) for abi in {Abi.NATIVE, *abis}
            }
            directory = resumed or _new_directory(output, identity or identity_of_now())
            held.enter_context(prune.in_use(directory))
        except Busy as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            raise HostError(
                f"{error.filename or 'the disk'} cannot be used ({error.strerror or error}): make "
                "it and its directory writable, and room on the disk, or give another place "
                "(--output, --cache, XDG_STATE_HOME)"
            ) from error
        yield Workspace(directory, roots, qemu, qemu_version(qemu, cache))


def find_tools() -> tuple[Path, Path]:
    """The host's QEMU and busybox; HostError names all that is missing."""
    missing = tools.missing()
    if missing:
        raise tools.ToolsMissing(missing)
    if tools.find_virtme_ng() is None:
        raise HostError(f"virtme-ng was not found; {tools.VIRTME_NG_REMEDY}")
    qemu, busybox = tools.find("qemu-system-x86_64"), tools.find_static_busybox()
    assert qemu is not None, "host.missing() looked for it"
    assert busybox is not None, "host.missing() looked for it"
    return qemu, busybox


def runs_directory() -> Path:
    """Where runs are kept unless the user says otherwise. Raises HostError."""
    return _state() / "runs"


def store_file() -> Path:
    """Where results of all runs are kept. Raises HostError."""
    return _state() / store.FILE


def _state() -> Path:
    return user_directory(
        lambda: platformdirs.user_state_path("mptcp-harness"),
        "XDG_STATE_HOME, or give --output DIR",
    )


def store_place(output: Path | None) -> Path:
    """:func:`store_file`; for a user without a home the run's directory, if one is given."""
    try:
        place = store_file()
        if output is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
    except (HostError, OSError):
        if output is None:
            raise
        return output.absolute() / store.FILE
    return place


def identity_of_now() -> str:
    """A name for a run that begins now, like no other."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


_INSTEAD = "give --output a new or empty directory of this run's own"


def _new_directory(wanted: Path | None, identity: str) -> Path:
    if wanted is None:
        directory = runs_directory() / identity
        directory.mkdir(parents=True)
        return directory
    directory = new_or_empty(wanted)
    try:
        (directory / "kernels").mkdir()
    except OSError as error:
        raise UsageError(f"--output {wanted}: {error.strerror}; {_INSTEAD}") from error
    return directory


def new_or_empty(wanted: Path) -> Path:
    """The user's directory, made if need be. Raises :class:`UsageError`."""
    directory = wanted.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(f"--output {wanted}: it is not empty; {_INSTEAD}")
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--output {wanted}: that is a file; {_INSTEAD}") from None
    except OSError as error:
        raise UsageError(f"--output {wanted}: {error.strerror}; {_INSTEAD}") from error
    return directory


class Accelerators:
    """The choices of one run. ``remembered`` is the file with what was found out before."""

    def __init__(
        self, qemu: Path, remembered: Path, listener: Listener, stop: threading.Event
    ) -> None:
        self._qemu = qemu
        self._remembered = remembered
        self._listener = listener
        self._stop = stop
        self._lock = threading.Lock()
        self._made: dict[tuple[Accel, str], Choice | HostError] = {}

    def is_kvm(self, wanted: Accel, kernel: PreparedKernel) -> bool:
        """Whether ``kernel`` is to be booted under KVM. Raises HostError.

        What was found out by one kernel alone, which may be broken, counts for that image only.
        """
        of_all, of_image = (wanted, ""), (wanted, kernel.image_sha256)
        with self._lock:
            choice = self._made.get(of_all) or self._made.get(of_image)
            if choice is None:
                choice = self._choose(wanted, kernel)
                settled = isinstance(choice, HostError) or choice.settled
                self._made[of_all if settled else of_image] = choice
        if isinstance(choice, HostError):
            raise choice
        return choice.kvm

    def _choose(self, wanted: Accel, kernel: PreparedKernel) -> Choice | HostError:
        try:
            choice = accelerator.choose(
                wanted, kernel, self._qemu, self._remembered, self._say, self._stop
            )
        except HostError as error:
            return error
        self._say(f"accelerator: {'KVM' if choice.kvm else 'TCG'} ({choice.why})")
        return choice

    def _say(self, text: str) -> None:
        self._listener(Progress("", Stage.BOOTING, text))


#: Seconds in which a VM takes the memory that it will: its kernel is up, its guest's Python runs.
SETTLING = 5.0
#: Seconds between two looks at the host's memory; other programs do not say when they end.
PAUSE = 0.25


class MemoryGate:
    """Lets VMs in as the host's memory allows, and one in any case if no other runs.

    ``available`` says how many MiB can be had. A VM takes what it needs by and by: for SETTLING
    seconds what was promised to it counts as gone, afterwards what ``available`` says holds.
    """

    def __init__(
        self, available: Callable[[], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._available = available
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[object, tuple[float, int]] = {}  # since when, and MiB

    @contextmanager
    def wait(
        self, needed_mib: int, stop: threading.Event, say: Callable[[str], None]
    ) -> Iterator[None]:
        """Wait until there are ``needed_mib`` for a VM, which runs while the context lasts.

        ``say`` is told once if that has to be waited for. Goes on at once when ``stop`` is set.
        """
        vm = object()
        said = False
        while (left := self._let_in(vm, needed_mib)) is not None and not stop.is_set():
            if not said:
                say(
                    f"waiting for memory: a VM needs {needed_mib} MiB, {max(0, left)} MiB are "
                    "left; end other programs, or use -j 1"
                )
                said = True
            stop.wait(PAUSE)
        try:
            yield
        finally:
            with self._lock:
                self._running.pop(vm, None)

    def _let_in(self, vm: object, needed_mib: int) -> int | None:
        """None once ``vm`` may run; else the MiB that are left."""
        with self._lock:
            now = self._clock()
            promised = sum(mib for since, mib in self._running.values() if now - since < SETTLING)
            left = self._available() - promised
            if self._running and left < needed_mib:
                return left
            self._running[vm] = (now, needed_mib)
            return None
