# SPDX-License-Identifier: GPL-2.0-only
"""Runs checks in a process and a network namespace of their own, as scenarios do."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import TypeVar

from guest import checks, scenarios
from guest.checks import Check
from guest.lab import Lab, wait_until

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
#: How often a wait looks that is to end in vain, and the seconds in between.
LOOKS, PAUSE_S = 40, 0.01
#: What went wrong: check, phase, side, and what of it.
Failure = tuple[str, str, str, str]


def available() -> bool:
    """Whether this user may make network namespaces."""
    return os.geteuid() == 0


def failures(
    family: str, items: Iterable[Check], first: Callable[[], object] = lambda: None
) -> list[Failure]:
    """The failures of ``items``, all in one namespace; ``first`` is called before, in it."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        status = 1
        try:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as guest.child does
            _enter()
            first()
            with os.fdopen(sink, "w") as file:
                json.dump(list(_run(family, items)), file)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(sink)
    with os.fdopen(source) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, "the child that runs the checks failed, see its traceback"
    return [tuple(each) for each in json.loads(said)]


def wait_in_vain(condition: Callable[[], T], seconds: float = 5.0) -> T:
    """In place of ``lab.wait_until`` where a fault withholds what is waited for.

    It counts looks, not seconds: on a busy machine the kernel gets as many turns in between.
    """
    for _ in range(LOOKS):
        if value := condition():
            return value
        time.sleep(PAUSE_S)
    return condition()


def shorten_waits() -> None:
    """Let every module of the guest wait as :func:`wait_in_vain` does; for a child process."""
    real = wait_until
    for module in list(sys.modules.values()):
        if getattr(module, "wait_until", None) is real:
            module.wait_until = wait_in_vain  # type: ignore[attr-defined]


def _enter() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare failed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def _run(family: str, items: Iterable[Check]) -> Iterable[Failure]:
    prepared: dict[str, Lab] = {}
    for item in items:
        if family not in item.families:
            continue
        if item.scenario not in prepared:
            prepared[item.scenario] = Lab(FAMILIES[family])
            setup = scenarios.named(item.scenario).setup
            if setup is not None:
                setup(prepared[item.scenario])
        for phase in item.phases:
            for side in item.sides:
                what = _one(item, Lab(FAMILIES[family], phase, side))
                if what:
                    yield item.id, phase, side, what


def _one(item: Check, lab: Lab) -> str:
    try:
        item.function(lab)  # type: ignore[arg-type]
    except checks.Failed as failed:
        return f"{failed.what}: expected {failed.expected}, got {failed.got}"
    except Exception:
        return traceback.format_exc()
    finally:
        lab.close()
    return ""
