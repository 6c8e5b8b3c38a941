# SPDX-License-Identifier: GPL-2.0-only
"""The sockets that option checks share: one in each state, set up once."""

from __future__ import annotations

import _socket
import time

from guest import options, sockopt, states
from guest.checks import Failed, errno_name
from guest.lab import MPTCP, Lab
from guest.option import ANY, BYTE_ORDER, CLOSED, SOL_SOCKET, UNBOUND, Option, packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

    from guest.states import Placed

    #: What came of a call: errno, optlen, bytes.
    Outcome = tuple[int, int, bytes]

#: Where sk_state is CLOSE or LISTEN, so that the first subflow can be set up.
OPEN = ("fresh", "bound", "listening", "refused", "closed-last", "reset", "disconnected")
#: Seconds for which a socket is connecting: the second SYN goes out after one.
FRESH_S = 0.9
#: Options that read as twice of what is set, and the one that sets them without a limit.
DOUBLED = {
    options.BY_NAME["SO_" + name].number: options.BY_NAME["SO_%sFORCE" % name].number
    for name in ("SNDBUF", "RCVBUF")
}


class Bench:
    """The sockets of one family, in all states, MPTCP and TCP."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.lab = Lab(family)
        self.caller = sockopt.Caller()
        self._placed: dict[tuple[str, int], Placed] = {}
        self._made: dict[tuple[str, int], float] = {}
        self._fresh: Optional[_socket.socket] = None

    def fd(self, state: str, protocol: int = MPTCP) -> int:
        """A socket in ``state``; a fresh one is a new one each time."""
        if state == "fresh":
            if self._fresh is not None:
                self._fresh.close()
            self._fresh = _socket.socket(self.family, _socket.SOCK_STREAM, protocol)
            return self._fresh.fileno()
        placed = self._placed.get((state, protocol))
        if placed is None or self._is_stale(state, protocol):
            try:
                placed = states.place(self.lab, state, protocol)
            except OSError as error:
                raise Failed("a socket in the state %r" % state, "success", str(error)) from None
            self._placed[state, protocol] = placed
            self._made[state, protocol] = time.monotonic()
        return placed.fd

    def _is_stale(self, state: str, protocol: int) -> bool:
        """A SYN that was retransmitted often enough is sent without MPTCP: a fallback."""
        return state == "connecting" and time.monotonic() > self._made[state, protocol] + FRESH_S

    def ends(self, state: str) -> tuple[_socket.socket, _socket.socket]:
        """The socket in ``state``, and its peer."""
        self.fd(state)
        placed = self._placed[state, MPTCP]
        assert placed.peer is not None
        return placed.sock, placed.peer

    def get(self, fd: int, option: Option) -> Outcome:
        return self.caller.get(fd, option.level, option.via, option.size)

    def set(self, fd: int, option: Option, value: bytes) -> int:
        return self.caller.set(fd, option.level, option.number, value)

    def restore(self, fd: int, option: Option, data: bytes) -> None:
        """Set ``option`` back to ``data``, as it was read."""
        for value in option.undo:
            self.set(fd, option, packed(value))
        if option.via in DOUBLED and option.level == SOL_SOCKET:
            half = int.from_bytes(data, BYTE_ORDER) // 2
            self.caller.set(fd, SOL_SOCKET, DOUBLED[option.via], packed(half))
        else:
            self.set(fd, option, data)

    def forget(self) -> None:
        """Use new sockets from now on: a check that failed may have left its value behind."""
        self._placed.clear()
        self.lab.close()


_benches: dict[int, Bench] = {}


def bench_of(family: int) -> Bench:
    """The bench of this process: each scenario has its own process in each family."""
    if family not in _benches:
        _benches[family] = Bench(family)
    return _benches[family]


def settable(option: Option, state: str) -> bool:
    """Whether ``option`` can be set on a socket in ``state``."""
    if option.when == ANY:
        return True
    if option.when == UNBOUND:
        return state in OPEN and state not in ("bound", "listening")
    return state in OPEN and not (option.when == CLOSED and state == "listening")


def expect(option: Option, state: str, call: str, got: Outcome, errno: int, data: bytes) -> None:
    """Fail unless a read gave ``errno``, or ``data`` with its length."""
    if got[0] != errno:
        raise Failed(where(option, state, call), told(errno), told(got[0]), got[2])
    if not errno and (got[2] != data or got[1] != len(data)):
        said = "%s with optlen %d" % (got[2].hex() or "no bytes", got[1])
        wanted = "%s with optlen %d" % (data.hex() or "no bytes", len(data))
        raise Failed(where(option, state, call), wanted, said, got[2])


def expect_errno(option: Option, state: str, call: str, got: int, errno: int) -> None:
    if got != errno:
        raise Failed(where(option, state, call), told(errno), told(got))


def where(option: Option, state: str, call: str) -> str:
    return "%s of %s, state %s" % (call, option.name, state)


def told(number: int) -> str:
    return errno_name(number) if number else "success"


def _shown(value: bytes) -> str:
    return value.hex() or "no bytes"
