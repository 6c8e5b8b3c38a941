# SPDX-License-Identifier: GPL-2.0-only
"""What every boot of a run stands on: tools, the guest's root, a directory; where runs are kept."""

from __future__ import annotations

import contextlib
import datetime
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from harness.errors import Busy, HostError, UsageError
from harness.host import tools
from harness.host.files import user_directory
from harness.kernels import Cache
from harness.manifest.schema import Abi
from harness.records import prune, store
from harness.vm import foreign_root
from harness.vm.accelerator import qemu_version


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
