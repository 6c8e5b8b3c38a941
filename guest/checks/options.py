# SPDX-License-Identifier: GPL-2.0-only
"""Every option of :mod:`guest.options`, in every state: set, read, refused; beside plain TCP.

The checks are made from the table. Sockets are brought into their states once for each family and
used by all of them; only a fresh one is made anew, since the first call may create its subflow.
"""

from __future__ import annotations

import _socket

from guest import options, sockopt, states
from guest.checks import Failed, errno_name, scenario_check
from guest.lab import MPTCP, TCP, Lab
from guest.option import (
    ANY,
    BYTE_ORDER,
    CLOSED,
    EINVAL,
    IPPROTO_IP,
    IPPROTO_TCP,
    KEPT,
    REFUSED,
    SOL_SOCKET,
    UNBOUND,
    Option,
    packed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Iterator, Optional, Sequence

    from guest.states import Placed

    Rule = Callable[["Bench", Option], None]
    #: What came of a call: errno, optlen, bytes.
    Outcome = tuple[int, int, bytes]
    #: What was compared with TCP, the call in words, its outcome.
    Step = tuple[str, str, Outcome]

SCENARIO = "options"
#: Where each option is set and read: all the ways that the kernel tells apart.
STATES = (
    "fresh",
    "bound",
    "listening",
    "connecting",
    "refused",
    "client",
    "server",
    "peer-shut",
    "closed-last",
    "reset",
    "disconnected",
    "reconnected",
)
#: Where sk_state is CLOSE or LISTEN, so that the first subflow can be set up.
OPEN = ("fresh", "bound", "listening", "refused", "closed-last", "reset", "disconnected")
#: Where wrong lengths and values are tried: with a subflow, before and after connect().
THOROUGH = ("bound", "client")
FALLBACK = "fallback"
#: In which families of sockets an option of one or all is looked at.
FAMILIES = {None: ("ipv4", "ipv6"), _socket.AF_INET: ("ipv4",), _socket.AF_INET6: ("ipv6",)}
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
        self._fresh: Optional[_socket.socket] = None

    def fd(self, state: str, protocol: int = MPTCP) -> int:
        """A socket in ``state``; a fresh one is a new one each time."""
        if state == "fresh":
            if self._fresh is not None:
                self._fresh.close()
            self._fresh = _socket.socket(self.family, _socket.SOCK_STREAM, protocol)
            return self._fresh.fileno()
        placed = self._placed.get((state, protocol))
        if placed is None:
            try:
                placed = states.place(self.lab, state, protocol)
            except OSError as error:
                raise Failed("a socket in the state %r" % state, "success", str(error)) from None
            self._placed[state, protocol] = placed
        return placed.fd

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
        """Set ``option`` to what ``data`` was read."""
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
    """The one of this process: a scenario has a process of its own for each family."""
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
        raise Failed(_where(option, state, call), _errno(errno), _errno(got[0]), got[2])
    if not errno and (got[2] != data or got[1] != len(data)):
        told = "%s with optlen %d" % (got[2].hex() or "no bytes", got[1])
        wanted = "%s with optlen %d" % (data.hex() or "no bytes", len(data))
        raise Failed(_where(option, state, call), wanted, told, got[2])


def expect_errno(option: Option, state: str, call: str, got: int, errno: int) -> None:
    if got != errno:
        raise Failed(_where(option, state, call), _errno(errno), _errno(got))


def _where(option: Option, state: str, call: str) -> str:
    return "%s of %s, state %s" % (call, option.name, state)


def _errno(number: int) -> str:
    return errno_name(number) if number else "success"


def _shown(value: bytes) -> str:
    return value.hex() or "no bytes"


def set_get(bench: Bench, option: Option) -> None:
    """What was set is read, in every state where it can be set; elsewhere setting it is refused."""
    for state in STATES:
        fd = bench.fd(state)
        before = bench.get(fd, option)
        if before[0] and not option.write_only:
            raise Failed(_where(option, state, "getting"), "success", _errno(before[0]))
        if state == "fresh" and option.unset is not None:
            expect(option, state, "getting", before, 0, packed(option.unset))
        allowed = settable(option, state)
        for value in option.values if state in ("fresh", "client") else option.values[:1]:
            raw = packed(value)
            errno = bench.set(fd, option, raw)
            call = "setting %s" % raw.hex()
            expect_errno(option, state, call, errno, 0 if allowed else option.elsewhere)
            if not _echoes(option) or (not allowed and option.level == IPPROTO_IP):
                continue  # of IP_FREEBIND and its like, the kernel keeps the value it refuses
            wanted = option.reading(value) if allowed else before[2]
            expect(option, state, "getting after " + call, bench.get(fd, option), 0, wanted)
        bench.restore(fd, option, before[2])


def _thorough(option: Option) -> Sequence[str]:
    return ("fresh",) if option.when == UNBOUND else THOROUGH


def _echoes(option: Option) -> bool:
    return option.echo and not option.write_only


def lengths(bench: Bench, option: Option) -> None:
    """Values that are too short are refused; reading gives min(optlen, what there is) bytes."""
    for state in _thorough(option):
        if not settable(option, state):
            continue
        fd = bench.fd(state)
        before = bench.get(fd, option)
        value = packed(option.values[0])
        _set_lengths(bench, option, state, fd, value)
        bench.set(fd, option, value)
        if not option.write_only:
            _get_lengths(bench, option, state, fd)
        bench.restore(fd, option, before[2])


def _set_lengths(bench: Bench, option: Option, state: str, fd: int, value: bytes) -> None:
    bench.set(fd, option, packed(option.values[-1]))
    kept = bench.get(fd, option)[2]
    for size in sorted({0, 1, option.least - 1, option.size - 1, option.size + 4}):
        if size < 0 or option.least <= size < option.size:
            continue  # one byte of an int, or a part of a name: see like_tcp
        good = size in option.exact if option.exact else size >= option.least
        errno = bench.set(fd, option, (value + bytes(8))[:size])
        call = "setting %d bytes" % size
        expect_errno(option, state, call, errno, 0 if good else option.short)
        if good and size >= option.size:
            kept = option.reading(option.values[0])
        if _echoes(option) and size:
            expect(option, state, "getting after " + call, bench.get(fd, option), 0, kept)


def _get_lengths(bench: Bench, option: Option, state: str, fd: int) -> None:
    caller, level, via = bench.caller, option.level, option.via
    whole = bench.get(fd, option)[2]
    if option.size == 4 and len(whole) == 4:
        number = int.from_bytes(whole, BYTE_ORDER, signed=True)
        narrow = option.bytewise and 0 <= number <= 255
        for size in (0, 1, 2, 3):
            wanted = bytes([number]) if narrow and size else whole[:size]
            got = caller.get(fd, level, via, size)
            expect(option, state, "getting %d bytes" % size, got, 0, wanted)
    elif option.name != "SO_BINDTODEVICE":
        for size in (0, 1, len(whole) - 1):
            got = caller.get(fd, level, via, size)
            expect(option, state, "getting %d bytes" % size, got, 0, whole[:size])
    if option.name != "SO_BINDTODEVICE":
        got = caller.get(fd, level, via, 256)
        expect(option, state, "getting 256 bytes", got, 0, whole)
    got = caller.get(fd, level, via, 4, -1)
    expect(option, state, "getting with optlen -1", got, EINVAL, b"")


def out_of_range(bench: Bench, option: Option) -> None:
    """A value out of range is refused, and the one before stays."""
    for state in _thorough(option):
        if not settable(option, state):
            continue
        fd = bench.fd(state)
        before = bench.get(fd, option)
        bench.set(fd, option, packed(option.values[0]))
        kept = bench.get(fd, option)[2]
        for value, errno in option.bad:
            raw = packed(value)
            call = "setting %s" % raw.hex()
            expect_errno(option, state, call, bench.set(fd, option, raw), errno)
            if not option.write_only:
                expect(option, state, "getting after " + call, bench.get(fd, option), 0, kept)
        bench.restore(fd, option, before[2])


def like_tcp(bench: Bench, option: Option) -> None:
    """Values, errors and lengths are those of a plain TCP socket in the same state."""
    for state in _thorough(option):
        if option.treatment == KEPT and not settable(option, state):
            continue
        parts = option.unlike if option.treatment == KEPT else {*option.unlike, *ONLY_READ}
        _compare(bench, option, state, parts)


def as_tcp(bench: Bench, option: Option) -> None:
    """After a fallback the option is TCP's own: values, errors and lengths."""
    passed = option.treatment == KEPT or option.passed
    unlike = {part for part in PARTS if part + " fallback" in option.unlike}
    _compare(bench, option, FALLBACK, unlike if passed else {*unlike, *ONLY_READ}, "client")
    if not passed:
        errno = bench.set(bench.fd(FALLBACK), option, packed(1))
        expect_errno(option, FALLBACK, "setting 1", errno, option.refusal)


def _compare(
    bench: Bench, option: Option, state: str, unlike: Iterable[str], beside: str = ""
) -> None:
    steps = list(_steps(bench, option, bench.fd(state), unlike))
    others = list(_steps(bench, option, bench.fd(beside or state, TCP), unlike))
    for (_, call, got), (_, _, wanted) in zip(steps, others):
        if got != wanted and not (option.volatile and got[:2] == wanted[:2]):
            told, tcp = ("%s, %s" % (_errno(o[0]), _shown(o[2])) for o in (got, wanted))
            raise Failed(_where(option, state, call), "as TCP: " + tcp, told, got[2])


def _steps(bench: Bench, option: Option, fd: int, unlike: Iterable[str]) -> Iterator[Step]:
    caller, level, via = bench.caller, option.level, option.via
    first = bench.get(fd, option)
    if "initial" not in unlike:
        yield "initial", "getting", first
    values = [packed(value) for value in option.values or (1,)]
    if "values" not in unlike:
        for value in (*values, *(packed(value) for value, _ in option.bad)):
            yield "values", "setting %s" % value.hex(), (bench.set(fd, option, value), 0, b"")
            yield "values", "getting after setting %s" % value.hex(), bench.get(fd, option)
    if "set lengths" not in unlike:
        for size in (0, 1, option.size - 1, option.size + 4):
            errno = bench.set(fd, option, (values[0] + bytes(8))[:size])
            yield "set lengths", "setting %d bytes" % size, (errno, 0, b"")
            yield "set lengths", "getting after %d bytes" % size, bench.get(fd, option)
    if "get lengths" not in unlike:
        for size in (0, 1, 3, option.size + 4):
            yield "get lengths", "getting %d bytes" % size, caller.get(fd, level, via, size)
    if not first[0] and "values" not in unlike:
        bench.restore(fd, option, first[2])


def refused(bench: Bench, option: Option) -> None:
    """Setting fails with the same error in every state, and so does reading where it is refused."""
    value = packed(1)
    for state in STATES:
        fd = bench.fd(state)
        expect_errno(option, state, "setting", bench.set(fd, option, value), option.refusal)
        if option.unreadable:
            got = bench.get(fd, option)
            expect(option, state, "getting", got, option.unreadable, b"")
    short = option.refusal
    if option.level == IPPROTO_TCP and option.passed:
        short = EINVAL
    errno = bench.set(bench.fd("client"), option, b"")
    expect_errno(option, "client", "setting 0 bytes", errno, short)


def ignored(bench: Bench, option: Option) -> None:
    """Setting succeeds with any length in every state, and changes nothing."""
    for state in STATES:
        fd = bench.fd(state)
        before = bench.get(fd, option)
        for value in (packed(1), b""):
            call = "setting %d bytes" % len(value)
            expect_errno(option, state, call, bench.set(fd, option, value), 0)
        after = bench.get(fd, option)
        if after != before:
            raise Failed(_where(option, state, "getting"), _shown(before[2]), _shown(after[2]))


#: The parts of a comparison with TCP, and those that only read.
PARTS = ("initial", "values", "set lengths", "get lengths")
ONLY_READ = ("values", "set lengths")

#: Read from the TCP subflow after a fallback what was set before connect().
SYNCED = (
    "IP_TOS",
    "IP_FREEBIND",
    "IP_TRANSPARENT",
    "IP_BIND_ADDRESS_NO_PORT",
    "IP_LOCAL_PORT_RANGE",
    "IPV6_FREEBIND",
    "IPV6_TRANSPARENT",
    "TCP_CORK",
    "TCP_NODELAY",
    "TCP_KEEPIDLE",
    "TCP_KEEPINTVL",
    "TCP_KEEPCNT",
    "TCP_CONGESTION",
)


def reaches_subflow(bench: Bench, option: Option) -> None:
    """What was set before connect(), with and without a subflow, is set on the TCP subflow."""
    for prepare in ("fresh", "bound"):
        sock = bench.lab.socket()
        if prepare == "bound":
            sock.bind((bench.lab.address, 0))
        fd = sock.fileno()
        value = option.values[0]
        errno = bench.set(fd, option, packed(value))
        expect_errno(option, prepare, "setting", errno, 0)
        listener = bench.lab.listener(TCP)
        sock.connect(listener.getsockname())
        call = "getting from the subflow"
        expect(option, prepare, call, bench.get(fd, option), 0, option.reading(value))
        listener.close()
        sock.close()


def _rules(option: Option) -> Iterator[Rule]:
    if option.treatment == KEPT:
        yield set_get
        yield lengths
        if option.bad:
            yield out_of_range
    else:
        yield refused if option.treatment == REFUSED else ignored
    if option.treatment == KEPT or (not option.unreadable and option.treatment == REFUSED):
        yield like_tcp
    if option.level != SOL_SOCKET:
        yield as_tcp
    if option.name in SYNCED:
        yield reaches_subflow


def _apply(rule: Rule, option: Option) -> Callable[[Lab], None]:
    def of_lab(lab: Lab) -> None:
        bench = bench_of(lab.family)
        try:
            rule(bench, option)
        except BaseException:
            bench.forget()
            raise

    of_lab.__doc__ = "%s: %s" % (option.name, rule.__doc__)
    return of_lab


def _register() -> None:
    for option in options.TABLE:
        for rule in _rules(option):
            scenario_check(
                "%s.%s" % (option.name.lower(), rule.__name__),
                scenario=SCENARIO,
                needs=(option.capability,) if option.capability else (),
                families=FAMILIES[option.family],
            )(_apply(rule, option))


_register()
