# SPDX-License-Identifier: GPL-2.0-only
"""The isolation of a scenario: its process, session and namespace, and its end."""

from __future__ import annotations

import ctypes
import os
import struct
from _socket import AF_INET, SOCK_DGRAM, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

_libc = ctypes.CDLL(None, use_errno=True)
SIGKILL = 9
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX of malloc.h.
_MALLOC = ((-3, 32 << 20), (-1, 1 << 30), (-2, 1 << 20), (-8, 1))
_SCHED_OTHER, _SCHED_BATCH = 0, 3
_SLICE_NS = 20_000_000
#: struct sched_attr: size, policy, flags, nice, priority, runtime (the slice), deadline, period.
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
#: sched_setattr(2) by machine; glibc has no function for it.
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "s390x": 345, "ppc64le": 355}
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_IFREQ = struct.Struct("16sh22x")  # struct ifreq, 40 bytes


def unavailable() -> str:
    """Why this process cannot make a network namespace, or ""."""
    if os.geteuid() != 0:
        return "needs root for a network namespace"
    if not os.path.exists("/proc/self/ns/net"):
        return "the kernel has no network namespaces (CONFIG_NET_NS)"
    return ""


def adopt_orphans(on: bool) -> None:
    """Make orphans of a child become children of this process, or stop doing so."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0)


def keep_memory() -> None:
    """Make malloc(3) keep freed memory, in this process and its children.

    Otherwise each buffer of 64 KiB or more is returned to the kernel and allocated again. Faulting
    in and clearing its pages costs an emulated processor more than the call that fills them.
    """
    try:
        mallopt = _libc.mallopt
    except AttributeError:  # musl has none
        return
    for parameter, value in _MALLOC:
        mallopt(parameter, value)


def long_slices(on: bool) -> None:
    """Give this process and its later children time slices of 20 ms, or the usual ones again.

    Linux 7.3 lets a process run 0.7 ms before another one. On an emulated processor a switch costs
    0.1 ms, because it empties the emulator's caches of translations. Threads of the kernel preempt
    as before. Before Linux 6.12, only wake-ups of other such processes no longer preempt.
    """
    policy, slice_ns = (_SCHED_BATCH, _SLICE_NS) if on else (_SCHED_OTHER, 0)
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, policy, 0, 0, 0, slice_ns, 0, 0)
    machine = os.uname().machine if ctypes.sizeof(ctypes.c_void_p) == 8 else ""
    number = _SCHED_SETATTR.get(machine)
    if number is not None:  # what it brings is speed alone
        _libc.syscall(number, 0, attributes, 0)


def enter(parent: int) -> None:
    """Leave the session of ``parent``, and die with it."""
    os.setsid()
    _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


#: The number of namespaces that :func:`isolate` made for this process.
made = 0


def isolate() -> None:
    """Move this process into a new network namespace whose loopback interface is up."""
    global made
    _succeeded("unshare(CLONE_NEWNET)", _libc.unshare(_CLONE_NEWNET))
    made += 1
    set_loopback(True)


def set_loopback(up: bool) -> None:
    """Turn the loopback interface of this network namespace on or off."""
    sock = socket(AF_INET, SOCK_DGRAM)
    try:
        request = ctypes.create_string_buffer(_IFREQ.pack(b"lo", 0))
        _succeeded("SIOCGIFFLAGS of lo", _libc.ioctl(sock.fileno(), _SIOCGIFFLAGS, request))
        _, flags = _IFREQ.unpack_from(request.raw)
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        request = ctypes.create_string_buffer(_IFREQ.pack(b"lo", flags))
        _succeeded("SIOCSIFFLAGS of lo", _libc.ioctl(sock.fileno(), _SIOCSIFFLAGS, request))
    finally:
        sock.close()


def _succeeded(what: str, returned: int) -> None:
    if returned != 0:
        number = ctypes.get_errno()
        raise OSError(number, "%s: %s" % (what, os.strerror(number)))


#: Processes that were killed but have not ended; one blocked in the kernel may never end.
_killed: set[int] = set()


def kill_session(leader: int) -> None:
    """Kill the process ``leader``, its group, and other children of this process in its session."""
    _kill(os.killpg, leader)
    kill(leader)
    for pid in children():
        try:
            of_session = os.getsid(pid) == leader
        except OSError:
            continue
        if of_session:
            kill(pid)


def kill(pid: int) -> None:
    """Kill the child ``pid``, without waiting for its end."""
    _kill(os.kill, pid)
    _killed.add(pid)


def _kill(how: Callable[[int, int], None], pid: int) -> None:
    try:
        how(pid, SIGKILL)
    except OSError:
        pass  # it is gone


def reap_killed() -> None:
    """Reap killed processes that have ended."""
    for pid in list(_killed):
        if reap(pid) is not None:
            _killed.discard(pid)


def reap(pid: int) -> Optional[int]:
    """The wait status of the child ``pid``, once it has ended; None before."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except OSError:
        return 0  # its status was taken before
    return status if ended else None


def children() -> list[int]:
    """The children of this thread, if the kernel shows them (CONFIG_PROC_CHILDREN)."""
    try:
        with open("/proc/thread-self/children", "rb", buffering=0) as file:
            return [int(word) for word in file.read(1 << 16).split()]
    except OSError:
        return []
