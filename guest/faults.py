# SPDX-License-Identifier: GPL-2.0-only
"""A checker that misbehaves on purpose, for ``mptcp-harness selftest``.

In those boots it replaces ``guest/__main__.py`` in the initramfs; no other boot has it. It runs the
real checker, whose events pass through :class:`Misbehaving`, and misbehaves at one of them.
"""

import os
import sys
import time

if not __package__:
    # Run as a file: sys.path starts with guest/ itself; its parent is where the package is found.
    sys.path[0] = __file__.rpartition("/")[0].rpartition("/")[0]

from guest import events, vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, NoReturn

    from guest.events import Value

    Fields = dict[str, Value]
    Strike = Callable[["Misbehaving", Fields], object]

#: The name of the fault, and a module for this kernel with the code of a fault in the kernel.
NAME = "/opt/fault"
MODULE = "/opt/fault.ko"
#: Faults of a check happen in this one, so that earlier results exist.
CHECK = 3
SIGSTOP = 19  # signal.py imports enum, which costs a VM 0.1 s


class Misbehaving(events.Emitter):
    """Misbehaves at one event: before it is written, except for a ``start``, which is written
    first."""

    when = ""
    strike: "Strike"

    def emit(self, kind: str, **fields: "Value") -> None:
        due = kind == self.when and fields.get("i", CHECK) == CHECK
        if due and kind != "start":
            type(self).strike(self, fields)
        super().emit(kind, **fields)
        if due and kind == "start":
            type(self).strike(self, fields)

    def line(self, offset: int, kind: str, **fields: "Value") -> bytes:
        """The next event, or the one ``offset`` behind it, as bytes."""
        now = int(time.monotonic() * 1000)
        return events.encode({"e": kind, "n": self._number + offset, "t": now, **fields})

    def write(self, data: bytes) -> None:
        self._write(data)


def panic(_: Misbehaving, __: "Fields") -> None:
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")


def load_module(_: Misbehaving, __: "Fields") -> None:
    """Load the module in a separate process, because the kernel may kill it."""
    os.waitpid(os.posix_spawn("/bin/insmod", ["insmod", MODULE], {}), 0)


def stop(_: Misbehaving, __: "Fields") -> None:
    os.kill(os.getpid(), SIGSTOP)


def exit_with(status: int) -> "Strike":
    return lambda _, __: os._exit(status)


def truncate(emitter: Misbehaving, _: "Fields") -> "NoReturn":
    line = emitter.line(0, "result", i=CHECK, verdict=events.PASS)
    emitter.write(line[: len(line) // 2])
    os._exit(0)


def forge_passes(emitter: Misbehaving, fields: "Fields") -> None:
    """Make the check fail, while another process reports a pass for it and for later ones."""
    fields.update(verdict=events.FAIL, detail="made to fail")
    process = os.fork()
    if process == 0:
        for ahead in range(3):
            i = CHECK + ahead
            emitter.write(emitter.line(2 * ahead, "result", i=i, verdict=events.PASS))
            emitter.write(emitter.line(2 * ahead + 1, "start", i=i + 1))
        os._exit(0)
    os.waitpid(process, 0)


def forge_end(_: Misbehaving, fields: "Fields") -> None:
    fields["nonce"] = "0" * len(str(fields["nonce"]))


def flood_events(emitter: Misbehaving, _: "Fields") -> "NoReturn":
    """Write without a newline; the host must not wait for the end of a line."""
    while True:
        emitter.write(b" " * 65536)


def flood_console(_: Misbehaving, __: "Fields") -> "NoReturn":
    while True:
        os.write(1, b"endless output, line after line, of a guest that has lost its mind\n" * 64)


def hog_memory(_: Misbehaving, __: "Fields") -> "NoReturn":
    hoard = []
    while True:
        hoard.append(b"x" * (1 << 20))


#: By name: the kind of event at which the fault happens, and its function.
FAULTS: "dict[str, tuple[str, Strike]]" = {
    "panic": ("start", panic),
    "oops": ("start", load_module),
    "warning": ("start", load_module),
    "use-after-free": ("start", load_module),
    "lock-order": ("start", load_module),
    "leak": ("start", load_module),
    "out-of-bounds": ("start", load_module),
    "hang": ("start", stop),
    "busy-hang": ("start", load_module),
    "exit-255": ("hello", exit_with(255)),
    "early-end": ("start", exit_with(0)),
    "truncated-stream": ("start", truncate),
    "forged-pass": ("result", forge_passes),
    "forged-end": ("end", forge_end),
    "endless-events": ("start", flood_events),
    "endless-console": ("start", flood_console),
    "out-of-memory": ("start", hog_memory),
}


def main() -> int:
    with open(NAME) as file:
        Misbehaving.when, Misbehaving.strike = FAULTS[file.read().strip()]
    events.Emitter = Misbehaving  # type: ignore[misc]
    return vm.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
