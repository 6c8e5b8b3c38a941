# SPDX-License-Identifier: GPL-2.0-only
"""A socket option, as data."""

from __future__ import annotations

import _socket
import struct
import sys

from guest import sockopt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping, Optional, Sequence, Union

    Value = Union[int, bytes]

_INT = struct.Struct("=i")
BYTE_ORDER = sys.byteorder
SOL_SOCKET = _socket.SOL_SOCKET
#: Not in the headers of every Python that is in use.
IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6 = 6, 0, 41
AF_INET, AF_INET6 = _socket.AF_INET, _socket.AF_INET6
ENOENT, EINVAL, ENODEV, EDOM, ENOPROTOOPT, EOPNOTSUPP = 2, 22, 19, 33, 92, 95

#: What MPTCP does when the option is set.
KEPT = "kept"  # takes the value
IGNORED = "ignored"  # answers 0 and does nothing
REFUSED = "refused"  # fails, always in the same way

#: Where an option that is KEPT can be set.
ANY = "any"  # in every state
UNCONNECTED = "unconnected"  # before connect() and on a listener, EINVAL elsewhere
CLOSED = "closed"  # the same without a listener
UNBOUND = "unbound"  # while it has no port


class Option:
    """An option, by default one ``int``.

    ``values`` may be set; each reads as itself, or as ``reads`` says. ``bad`` are values that are
    refused, with their errno. ``unset`` is what a socket says that nobody set it on, None where a
    sysctl or the connection decides. ``family`` is that of the sockets that have it, None for all.
    ``size`` is that of its value, ``least`` the fewest bytes that it can be set with, or ``exact``
    the only ones; fewer give ``short`` (0: what, depends on the kernel). Where it cannot be set,
    trying gives ``elsewhere``. A value from 0 to 255 is read as one byte into a buffer smaller than
    an int, where ``bytewise``. ``via`` is the option that it is read through. ``unlike`` says what
    differs from plain TCP, and why. What is ``volatile`` has another value at each socket.
    ``capability`` is the name that :mod:`guest.probe` gives it; ``probed`` options are set to what
    they are by the probe.

    What is refused fails with ``refusal`` when set, and with ``unreadable`` when read (0: it can
    be read); what is ``passed`` on goes to TCP after a fallback.
    """

    __slots__ = (
        "bad",
        "bytewise",
        "capability",
        "echo",
        "elsewhere",
        "exact",
        "family",
        "least",
        "level",
        "name",
        "number",
        "passed",
        "probed",
        "reads",
        "refusal",
        "short",
        "size",
        "treatment",
        "undo",
        "unlike",
        "unreadable",
        "unset",
        "values",
        "via",
        "volatile",
        "when",
        "write_only",
    )

    def __init__(
        self,
        name: str,
        level: int,
        number: int,
        unset: Optional[int] = None,
        values: Sequence[Value] = (),
        family: Optional[int] = None,
        *,
        bad: Sequence[tuple[Value, int]] = (),
        reads: Optional[Mapping[Value, Value]] = None,
        when: str = ANY,
        elsewhere: int = EINVAL,
        size: int = 4,
        least: int = 4,
        exact: Sequence[int] = (),
        short: int = EINVAL,
        echo: bool = True,
        via: Optional[int] = None,
        bytewise: bool = False,
        undo: Sequence[Value] = (),
        write_only: bool = False,
        unlike: Optional[Mapping[str, str]] = None,
        volatile: bool = False,
        capability: str = "",
        treatment: str = KEPT,
        refusal: int = 0,
        unreadable: int = 0,
        passed: bool = True,
        probed: bool = False,
    ) -> None:
        self.name = name
        self.level = level
        # Some machines number SOL_SOCKET in their own way; Python knows.
        self.number = getattr(_socket, name, number) if level == SOL_SOCKET else number
        self.unset = unset
        self.values = values
        self.family = family
        self.bad = bad
        self.reads = reads or {}
        self.when = when
        self.elsewhere = elsewhere
        self.size = size
        self.least = least
        self.exact = exact
        self.short = short
        self.echo = echo
        self.unlike = unlike or {}
        self.volatile = volatile
        self.bytewise = bytewise or level in (IPPROTO_IP, IPPROTO_IPV6)
        self.undo = undo
        self.write_only = write_only
        self.via = self.number if via is None else via
        self.capability = capability
        self.treatment = treatment
        self.refusal = refusal
        self.unreadable = unreadable
        self.passed = passed
        self.probed = probed

    def get(self, fd: int) -> sockopt.Answer:
        return sockopt.getsockopt(fd, self.level, self.number, bytes(_INT.size))

    def set(self, fd: int, value: int) -> int:
        """0 or errno."""
        return sockopt.setsockopt(fd, self.level, self.number, _INT.pack(value))

    def reading(self, value: Value) -> bytes:
        """What is read after ``value`` was set."""
        return packed(self.reads.get(value, value))

    def of(self, family: int) -> bool:
        """Whether a socket of ``family`` has it."""
        return self.family in (None, family)


def number_in(answer: sockopt.Answer) -> int:
    """The int that ``answer`` holds."""
    return int(_INT.unpack(answer.data)[0])


def packed(value: Value) -> bytes:
    """``value`` as setsockopt(2) takes it."""
    return value if isinstance(value, bytes) else _INT.pack(value)
