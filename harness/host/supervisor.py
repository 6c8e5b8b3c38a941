# SPDX-License-Identifier: GPL-2.0-only
"""Runs a command that must not outlive the harness: ``supervisor.py STATUS DIRECTORY COMMAND…``.

virtme-ng is a Python program that starts a shell that starts a Python program that starts QEMU, so
a death signal for the first would leave the last behind. This process leads the group of all of
them. Its standard input is a pipe whose other end only the harness holds. However the harness dies,
also by SIGKILL and in any PID namespace, the pipe is closed; then the supervisor kills the whole
group and removes the work directory DIRECTORY ("" for none).

The command's exit status is written as one byte to the descriptor STATUS. This process stays until
the harness kills the group, so that the group always has a supervisor and its id cannot be reused.

Standard library only; not imported by any module. There is one for each boot, so it starts without
os and signal (and enum), whose import takes as long as Python's own start.
"""

import _signal as signal  # type: ignore[import-not-found]
import posix
import select
import sys

NOT_RUN = 127  # as in a shell


def main() -> int:
    # Some daemons leave SIGCHLD ignored; then no child has an exit status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status, directory, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    posix.set_inheritable(status, False)
    lifeline = posix.dup(0)
    posix.dup2(posix.open("/dev/null", posix.O_RDWR), 0)
    code = _run(command, lifeline)
    # A reader of the command's output waits for its end, so this process must not keep it open.
    posix.dup2(0, 1)
    posix.dup2(0, 2)
    if code is not None:
        _tell(status, code)
        _wait_for(lifeline)
    if not directory or not _is_successor():
        posix.killpg(0, signal.SIGKILL)
    _remove(directory)
    return 0


def _run(command: list[str], lifeline: int) -> int | None:
    """The exit status of ``command``; None if the harness dies first."""
    try:
        # Python ignores SIGPIPE, and a child would inherit that.
        pid = posix.posix_spawnp(command[0], command, posix.environ, setsigdef=[signal.SIGPIPE])
    except OSError as error:
        posix.write(2, f"{command[0]} cannot be run: {error.strerror}\n".encode())
        return NOT_RUN
    child = posix.pidfd_open(pid)
    if child not in _wait_for(lifeline, child):
        return None
    code = posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code  # as in a shell


def _wait_for(*descriptors: int) -> list[int]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll()]


def _tell(status: int, code: int) -> None:
    try:
        posix.write(status, bytes([code]))
    except BrokenPipeError:
        return  # the harness is gone; the lifeline will show it


def _is_successor() -> bool:
    """Fork a process outside the group. Returns True in it once the group was killed, False
    here."""
    supervisor = posix.pidfd_open(posix.getpid())
    successor = posix.fork()
    if successor:
        posix.setpgid(successor, successor)
        return False
    _wait_for(supervisor)
    return True


def _remove(directory: str) -> None:
    # Imported only after the death of the harness, because it takes 10 ms.
    import os
    import shutil
    import time

    for _ in range(100):  # a killed process may still be finishing a system call
        shutil.rmtree(directory, ignore_errors=True)
        if not os.path.lexists(directory):
            break
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
