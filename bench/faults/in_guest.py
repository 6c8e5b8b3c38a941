# SPDX-License-Identifier: GPL-2.0-only
"""Runs in a VM that several faults share: switches each on, runs checks, and tells the bad results.

Standard library only, as all that runs in a guest. /opt/faults has a fault a line, and the
families and checks that are run with it; none means all.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MARK = "@@"
BAD = ("fail", "error", "lost")
SWITCH = "/sys/module/mptcp/parameters/fault"
#: Checks that are known to fail with a fault before the rest is left out.
ENOUGH = 5
#: Seconds for one fault.
DEADLINE_S = 240.0


class Lines:
    """Takes the checker's events, and writes those that the host needs, one a line."""

    port = -1  # no process but this one prints

    def __init__(self) -> None:
        from guest import checks

        self._bug_of = checks.bug_of
        self._plan: list[str] = []
        self._bad: set[str] = set()

    def hold(self, on: bool) -> None:
        """Nothing waits here."""

    def emit(self, kind: str, **fields: Any) -> None:
        if kind == "plan":
            payload = fields["payload"] or "-"
            for name, phase, side in fields["entries"]:
                where = (fields["family"], name, phase or "-", side or "-", payload)
                self._plan.append(" ".join(where))
        elif kind == "capability" and not fields["present"]:
            write("fail", f"{fields['family']} capability.{fields['name']} - - -")
        elif kind == "start":
            write("start", self._plan[fields["i"]])
        elif kind == "result" and fields["verdict"] in BAD:
            check = self._plan[fields["i"]].split()[1]
            if fields["verdict"] == "fail" and self._bug_of(check):
                return  # as without a fault
            write(fields["verdict"], self._plan[fields["i"]])
            self._bad.add(check)
            if len(self._bad) >= ENOUGH:
                os._exit(0)  # what runs for it dies with it


def write(kind: str, text: str) -> None:
    # At once: a panic must not find the line in a buffer.
    os.write(1, f"{MARK} {kind} {text}\n".encode())


def switch(name: str) -> None:
    """Raises OSError where the kernel has no such fault."""
    descriptor = os.open(SWITCH, os.O_WRONLY)
    os.write(descriptor, name.partition("-")[0].encode())
    os.close(descriptor)
    if _read(SWITCH).strip() != name.partition("-")[0]:
        raise OSError(f"the fault {name} is not on")
    write("on", name)


def _read(name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 24).decode()
    finally:
        os.close(descriptor)


def check(names: set[str]) -> None:
    """Run the checks of these ``names``, or all, in this process, and end it."""
    from guest import runner

    families = [name for name in runner.FAMILIES if name in names] or list(runner.FAMILIES)
    wanted = names - set(families)
    options = runner.Options(families, seed=1, selected=wanted.__contains__ if wanted else None)
    runner.Runner(options, Lines()).run()  # type: ignore[arg-type]
    os._exit(0)


def main() -> None:
    sys.path[:0] = ["/opt"]  # where the guest package lies
    from guest import checks, isolation, runner  # noqa: F401  (loaded once, before the first fork)

    checks.all_checks()
    for line in _read("/opt/faults").splitlines():
        name, *names = line.split()
        switch(name)  # "none-i386": no fault, in that user space
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            os.setsid()
            check(set(names))
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() - started > DEADLINE_S:
                isolation.kill_session(child)
                write("late", name)
                os.waitpid(child, 0)
                break
            time.sleep(0.05)
        if ended[0] and ended[1]:
            write("broken", name)  # the checker itself failed: nothing was learned
        switch("none")
        write("end", "%s %.1f" % (name, time.monotonic() - started))  # noqa: UP031
    write("over", "")


if __name__ == "__main__":
    main()
