# SPDX-License-Identifier: GPL-2.0-only
"""A run's workspace on the host: tools, the guest's root, a directory, KVM or TCG, memory for the
next VM; and where runs are kept."""

from __future__ import annotations

import contextlib
import datetime
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness import kernels
from harness.errors import Busy, HostError, UsageError
from harness.host import tools
from harness.host.architectures import HOST, Arch
from harness.kernels import Cache, PreparedKernel
from harness.manifest.entries import Accel, KernelEntry, UserSpace
from harness.records import prune, store, stored_runs
from harness.run.request import Listener, Progress, Stage
from harness.vm import accelerator, foreign_root
from harness.vm.accelerator import Choice, qemu_version
from harness.vm.commandline import Machine
from harness.vm.machines import MEMORY, Machines


@dataclass(frozen=True)
class Workspace:
    """The tools, roots and directory that all boots of a run use."""

    directory: Path  # of the run
    roots: Mapping[UserSpace, Path]  # archives of the guest's root; always has the host's own
    qemu: Path  # of the host's architecture
    qemu_version: str
    machines: Machines | None = None  # as in a BootPlan
    qemus: Mapping[Arch, Path] = field(default_factory=dict)  # of other architectures
    #: Why the kernels of a user space cannot be booted here.
    obstacles: Mapping[UserSpace, str] = field(default_factory=dict)
    #: What other user spaces bring with them, for reuse.Setting.
    identities: Mapping[UserSpace, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """The root of the native user space."""
        return self.roots[UserSpace()]

    def check(self, user_space: UserSpace) -> None:
        """Raise HostError unless the kernels of ``user_space`` can be booted."""
        if user_space in self.obstacles:
            raise HostError(self.obstacles[user_space])


@contextlib.contextmanager
def opened(
    output: Path | None,
    cache: Cache,
    identity: str = "",
    resumed: Path | None = None,
    user_spaces: Iterable[UserSpace] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Workspace]:
    """Find the tools, build the guest's root and make a directory; while open, nothing is pruned.

    ``resumed`` is the directory of a resumed run; ``user_spaces`` are those of its kernels. What
    one of them lacks is an obstacle to its kernels alone. Raises HostError, and UsageError for
    ``output``.
    """
    qemu, busybox = find_tools()
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(cache.scratch())  # keeps `prune` from removing what is in use
            native = UserSpace()
            roots = {native: foreign_root.prepare(native, cache, busybox, say)}
            others = _others({*user_spaces} - {native}, cache, busybox, say)
            directory = resumed or new_directory(output, identity or identity_of_now())
            held.enter_context(prune.in_use(directory))
            machines = Machines(
                cache.root / MEMORY,
                tools.virtme_ng_version(),
                lambda program: qemu_version(program, cache),
                cache.stop,
            )
            held.callback(machines.close)
        except Busy as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            raise HostError(
                f"{error.filename or 'the disk'} cannot be used ({error.strerror or error}); make "
                f"it and its directory writable, free some space on the disk, or use another "
                f"directory (--output, --cache, XDG_STATE_HOME)"
            ) from error
        yield Workspace(
            directory,
            {**roots, **others.roots},
            qemu,
            qemu_version(qemu, cache),
            machines,
            others.qemus,
            others.obstacles,
            others.identities,
        )


@dataclass(frozen=True)
class _Others:
    """The roots and tools for user spaces other than the host's: see Workspace."""

    roots: dict[UserSpace, Path] = field(default_factory=dict)
    qemus: dict[Arch, Path] = field(default_factory=dict)
    obstacles: dict[UserSpace, str] = field(default_factory=dict)
    identities: dict[UserSpace, str] = field(default_factory=dict)


def _others(
    user_spaces: Iterable[UserSpace], cache: Cache, busybox: Path, say: Callable[[str], None]
) -> _Others:
    found = _Others()
    for user_space in user_spaces:
        version = ""
        try:
            if user_space.arch is not HOST:
                qemu = find_qemu(user_space.arch)
                found.qemus[user_space.arch] = qemu
                version = qemu_version(qemu, cache)
            root = foreign_root.prepare(user_space, cache, busybox, say)
        except HostError as error:
            found.obstacles[user_space] = str(error)
            continue
        found.roots[user_space] = root
        found.identities[user_space] = f"{root.stem} {version}"
    return found


def find_qemu(arch: Arch) -> Path:
    """The host's QEMU for ``arch``. Raises HostError, with the remedy."""
    qemu = tools.locate(tools.qemu_of(arch))
    if qemu is None:
        raise tools.ToolsMissing([tools.qemu_of(arch)], f"for kernels with arch: {arch}")
    return qemu


def find_tools() -> tuple[Path, Path]:
    """The host's QEMU and busybox. Raises HostError, which names everything that is missing."""
    missing = tools.missing()
    if missing:
        raise tools.ToolsMissing(missing)
    if tools.find_virtme_ng() is None:
        raise HostError(f"virtme-ng was not found; {tools.VIRTME_NG_REMEDY}")
    qemu, busybox = tools.locate(tools.qemu_of(HOST)), tools.find_static_busybox()
    assert qemu is not None, "host.missing() looked for it"
    assert busybox is not None, "host.missing() looked for it"
    return qemu, busybox


@dataclass(frozen=True)
class Machinery:
    """The parts of a VM that runs no checks: the kernel, the guest's root, QEMU and the machine."""

    kernel: PreparedKernel
    base: Path
    qemu: Path
    machine: Machine


@contextlib.contextmanager
def machinery(
    entry: KernelEntry,
    cache: Cache,
    accel: Accel | None,
    say: Callable[[str], None],
) -> Iterator[Machinery]:
    """Prepare the kernel of ``entry``; while open, nothing of it is pruned. Raises HostError."""
    qemu, busybox = find_tools()
    with cache.scratch():  # keeps `prune` from removing what is in use
        if entry.arch is not HOST:
            qemu = find_qemu(entry.arch)
        base = foreign_root.prepare(entry.user_space, cache, busybox, say)
        kernel = kernels.prepare(entry, cache, say)
        remembered = cache.root / "kvm.json"
        choice = accelerator.choose(accel or entry.accel, kernel, qemu, remembered, say, cache.stop)
        machine = Machine(entry.cpus, entry.memory_mib, entry.append, choice.kvm, entry.arch)
        yield Machinery(kernel, base, qemu, machine)


def runs_directory() -> Path:
    """The default directory of runs. Raises HostError."""
    return stored_runs.state_directory() / "runs"


def store_file() -> Path:
    """The file with the results of all runs. Raises HostError."""
    return stored_runs.store_file()


def store_place(output: Path | None) -> Path:
    """:func:`store_file`; for a user without a home, a file in ``output``, if given."""
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
    """A unique id for a run that begins now."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


_INSTEAD = "give --output a new or empty directory for this run"


def new_directory(wanted: Path | None, identity: str) -> Path:
    """The directory of a new run: the user's, or one in :func:`runs_directory`."""
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
    """The user's directory, created if necessary. Raises :class:`UsageError`."""
    directory = wanted.absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(f"--output {wanted}: the directory is not empty; {_INSTEAD}")
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"--output {wanted}: this is a file; {_INSTEAD}") from None
    except OSError as error:
        raise UsageError(f"--output {wanted}: {error.strerror}; {_INSTEAD}") from error
    return directory


class Accelerators:
    """Chooses KVM or TCG for the kernels of a run. ``remembered`` is the file with earlier
    trials."""

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
        """Whether to boot ``kernel`` under KVM. Raises HostError.

        A trial with one kernel, which may be broken, counts for that image only.
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


#: Seconds until a VM has taken its memory: its kernel has booted and Python runs.
SETTLING = 5.0
#: Seconds between two looks at the host's memory; other programs do not announce their end.
PAUSE = 0.25


class MemoryGate:
    """Delays VMs until the host has enough memory; one VM may always run.

    ``available`` returns the free MiB. A VM takes its memory gradually: for SETTLING seconds its
    full amount counts as used, afterwards only ``available`` counts.
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
        """Wait until ``needed_mib`` are free for a VM, which runs while the context lasts.

        ``say`` is called once if it has to wait. Returns at once when ``stop`` is set.
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
        """None if ``vm`` may run; otherwise the MiB that are free."""
        with self._lock:
            now = self._clock()
            promised = sum(mib for since, mib in self._running.values() if now - since < SETTLING)
            left = self._available() - promised
            if self._running and left < needed_mib:
                return left
            self._running[vm] = (now, needed_mib)
            return None
