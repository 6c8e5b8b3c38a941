# SPDX-License-Identifier: GPL-2.0-only
"""Runs a command that must not outlive the harness: ``python -I -S keeper.py COMMAND…``.

virtme-ng is a Python program that starts a shell that starts a Python program that starts QEMU,
so a death signal set on the first would leave the last behind. This process leads the group of
all of them. Its standard input is a pipe whose other end only the harness holds: however the
harness dies, SIGKILL included, the pipe ends and the whole group goes.

Standard library, and imported by nobody.
"""

import os
import select
import signal
import sys


def main() -> int:
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    child = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN | select.POLLHUP)
    poll.register(child, select.POLLIN)
    ready = [descriptor for descriptor, _ in poll.poll()]
    if child not in ready:
        os.killpg(0, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code  # as a shell says it


if __name__ == "__main__":
    sys.exit(main())
