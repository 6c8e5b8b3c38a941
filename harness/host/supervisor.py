# SPDX-License-Identifier: GPL-2.0-only
"""Runs a command that must not outlive the harness: ``supervisor.py STATUS DIRECTORY COMMAND…``.

virtme-ng is a Python program that starts a shell that starts a Python program that starts QEMU,
so a death signal set on the first would leave the last behind. This process leads the group of
all of them. Its standard input is a pipe whose other end only the harness holds: however the
harness dies, SIGKILL included, and in whatever namespace of process ids, the pipe ends and the
whole group goes, and after it the directory DIRECTORY ("" for none) in which it worked.

The command's exit status goes, as one byte, to the descriptor STATUS. This process stays until
the harness kills the group: so nothing of it is left in between without a supervisor, and its
number is nobody else's.

Standard library, and imported by nobody.
"""

import os
import select
import signal
import sys

NOT_RUN = 127  # as a shell says it


def main() -> int:
    # Some daemons leave it ignored, and then no child has an exit status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status, directory, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    os.set_inheritable(status, False)
    lifeline = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    code = _run(command, lifeline)
    # Whoever reads the command's output waits for its end, which nothing here may hold open.
    os.dup2(0, 1)
    os.dup2(0, 2)
    if code is not None:
        _tell(status, code)
        _wait_for(lifeline)
    if not directory or not _is_successor():
        os.killpg(0, signal.SIGKILL)
    _remove(directory)
    return 0


def _run(command: list[str], lifeline: int) -> int | None:
    """The exit status of ``command``; None when the harness is gone before it ends."""
    try:
        # Python ignores it, and what is ignored stays so in a child.
        pid = os.posix_spawnp(command[0], command, os.environ, setsigdef=[signal.SIGPIPE])
    except OSError as error:
        os.write(2, f"{command[0]} cannot be run: {error.strerror}\n".encode())
        return NOT_RUN
    child = os.pidfd_open(pid)
    if child not in _wait_for(lifeline, child):
        return None
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code  # as a shell says it


def _wait_for(*descriptors: int) -> list[int]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll()]


def _tell(status: int, code: int) -> None:
    try:
        os.write(status, bytes([code]))
    except BrokenPipeError:
        return  # the harness is gone, as the lifeline will say


def _is_successor() -> bool:
    """Whether this is now another process, outside of the group, which has been killed."""
    supervisor = os.pidfd_open(os.getpid())
    successor = os.fork()
    if successor:
        os.setpgid(successor, successor)
        return False
    _wait_for(supervisor)
    return True


def _remove(directory: str) -> None:
    # Only now, once the harness is dead, are the 10 ms spent that these take to load.
    import shutil
    import time

    for _ in range(100):  # who was killed may still be finishing a system call
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.lexists(directory):
            break
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
