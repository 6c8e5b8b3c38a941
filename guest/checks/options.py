# SPDX-License-Identifier: GPL-2.0-only
"""Every option of :mod:`guest.options`, in every state: set, read, refused; beside plain TCP.

The checks are made from the table, and use the sockets of :mod:`guest.bench`.
"""

from __future__ import annotations

import _socket

from guest import options
from guest.bench import Bench, bench_of, expect, expect_errno, settable, told, where
from guest.checks import Failed, scenario_check
from guest.lab import TCP, Lab
from guest.option import (
    ANY,
    BYTE_ORDER,
    CLOSED,
    EINVAL,
    IPPROTO_IP,
    IPPROTO_IPV6,
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
    from typing import Callable, Iterable, Iterator, Sequence

    from guest.bench import Outcome

    Rule = Callable[[Bench, Option], None]
    #: A call, "setting %s" and what it is about, and its outcome.
    Step = tuple[str, object, Outcome]

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
#: Where wrong lengths and values are tried: with a subflow, before and after connect().
THOROUGH = ("bound", "client")
FALLBACK = "fallback"
#: In which families of sockets an option of one or all is looked at.
FAMILIES = {None: ("ipv4", "ipv6"), _socket.AF_INET: ("ipv4",), _socket.AF_INET6: ("ipv6",)}
#: Where options are refused and ignored: the kernel does not look at the state.
REFUSED_IN = ("fresh", "listening", "client", "closed-last")


def _shown(value: bytes) -> str:
    return value.hex() or "no bytes"


def set_get(bench: Bench, option: Option) -> None:
    """A value that was set is read back; in states where it cannot be set, it is refused."""
    for state in STATES:
        if _depends_on_kernel(option, state):
            continue
        fd = bench.fd(state)
        before = bench.get(fd, option)
        if before[0] and not option.write_only:
            raise Failed(where(option, state, "getting"), "success", told(before[0]))
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
    """Short values are refused; getsockopt(2) returns min(optlen, available) bytes."""
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
    for size in sorted({0, 1, option.least - 1, option.size - 1, option.size + 4, *option.exact}):
        if size < 0 or (option.least <= size < option.size and size not in option.exact):
            continue  # one byte of an int, or a part of a name: see like_tcp
        if size > len(value) + 8:
            continue  # two keys: there is but one
        good = size in option.exact if option.exact else size >= option.least
        errno = bench.set(fd, option, (value + bytes(8))[:size])
        call = "setting %d bytes" % size
        if good or option.short:
            expect_errno(option, state, call, errno, 0 if good else option.short)
        if good and (size >= option.size or option.exact):
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
    """A value out of range is refused, and the previous value stays."""
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


def _depends_on_kernel(option: Option, state: str) -> bool:
    """Up to 6.3 the first subflow can be set up until the connection stands, and keeps its port and
    its state when both sides have closed."""
    if option.when == ANY:
        return False
    if option.when in (CLOSED, UNBOUND) and state == "reset":
        return True
    return state in ("connecting", "closed-last")


def limits(bench: Bench, option: Option) -> None:
    """Wrong lengths and values are refused; getsockopt(2) returns min(optlen, available) bytes."""
    lengths(bench, option)
    if option.bad:
        out_of_range(bench, option)


def like_tcp(bench: Bench, option: Option) -> None:
    """Values, errors and lengths are those of plain TCP in the same state and after a fallback."""
    parts: Iterable[str] = option.unlike
    if option.treatment != KEPT:
        parts = {*option.unlike, *ONLY_READ}
    for state in _thorough(option):
        if option.treatment == KEPT and not settable(option, state):
            continue
        if option.treatment != REFUSED or not option.unreadable:
            _compare(bench, option, state, parts)
    if option.level != SOL_SOCKET:
        _as_tcp(bench, option)


def _as_tcp(bench: Bench, option: Option) -> None:
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
    for (call, what, got), (_, _, wanted) in zip(steps, others):
        if got != wanted and not (option.volatile and got[:2] == wanted[:2]):
            call %= what.hex() if isinstance(what, bytes) else what
            said, tcp = ("%s, %s" % (told(o[0]), _shown(o[2])) for o in (got, wanted))
            raise Failed(where(option, state, call), "as TCP: " + tcp, said, got[2])


def _steps(bench: Bench, option: Option, fd: int, unlike: Iterable[str]) -> Iterator[Step]:
    caller, level, via = bench.caller, option.level, option.via
    first = bench.get(fd, option)
    if "initial" not in unlike:
        yield "getting%s", "", first
    values = [packed(value) for value in option.values or (1,)]
    if "values" not in unlike:
        for value in (*values, *(packed(value) for value, _ in option.bad)):
            yield "setting %s", value, (bench.set(fd, option, value), 0, b"")
            yield "getting after setting %s", value, bench.get(fd, option)
    if "set lengths" not in unlike:
        name = len(values[0].rstrip(b"\0"))  # a string need not end in NUL
        for size in (0, 1, name, option.size - 1, option.size + 4):
            errno = bench.set(fd, option, (values[0] + bytes(8))[:size])
            yield "setting %d bytes", size, (errno, 0, b"")
            yield "getting after %d bytes", size, bench.get(fd, option)
    if "get lengths" not in unlike:
        for size in (0, 1, 3, option.size + 4):
            yield "getting %d bytes", size, caller.get(fd, level, via, size)
    if not first[0] and "values" not in unlike:
        bench.restore(fd, option, first[2])


def refused(bench: Bench, option: Option) -> None:
    """Setting, and reading if refused, fails with the same errno in every state."""
    value = packed(1)
    for state in REFUSED_IN:
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
    like_tcp(bench, option)


def ignored(bench: Bench, option: Option) -> None:
    """Setting succeeds with any length in every state, and changes nothing."""
    for state in REFUSED_IN:
        fd = bench.fd(state)
        before = bench.get(fd, option)
        for value in (packed(1), b""):
            call = "setting %d bytes" % len(value)
            expect_errno(option, state, call, bench.set(fd, option, value), 0)
        after = bench.get(fd, option)
        if after != before:
            raise Failed(where(option, state, "getting"), _shown(before[2]), _shown(after[2]))


#: The parts of a comparison with TCP, and those that only read.
PARTS = ("initial", "values", "set lengths", "get lengths")
ONLY_READ = ("values", "set lengths")


#: What is refused or ignored has a check of its own where programs try it; the rest has one for
#: each level.
NAMED = (
    "SO_OOBINLINE",
    "SO_PEEK_OFF",
    "SO_MAX_PACING_RATE",
    "SO_ZEROCOPY",
    "IP_OPTIONS",
    "IP_TTL",
    "IPV6_TCLASS",
    "IPV6_UNICAST_HOPS",
    "TCP_INFO",
    "TCP_IS_MPTCP",
    "TCP_MD5SIG",
    "TCP_QUICKACK",
    "TCP_REPAIR",
    "TCP_ULP",
    "TCP_USER_TIMEOUT",
)
LEVELS = {
    SOL_SOCKET: "sol_socket",
    IPPROTO_IP: "sol_ip",
    IPPROTO_IPV6: "sol_ipv6",
    IPPROTO_TCP: "sol_tcp",
}


def _safely(rule: Rule, bench: Bench, option: Option) -> None:
    try:
        rule(bench, option)
    except BaseException:
        bench.forget()
        raise


def _apply(rule: Rule, option: Option) -> Callable[[Lab], None]:
    def of_lab(lab: Lab) -> None:
        _safely(rule, bench_of(lab.family), option)

    of_lab.__doc__ = "%s: %s" % (option.name, rule.__doc__)
    return of_lab


def _apply_to_all(rule: Rule, several: Sequence[Option]) -> Callable[[Lab], None]:
    """One failure for all options that fail: that of the first, and the names of the others."""

    def of_lab(lab: Lab) -> None:
        failures: list[tuple[str, Failed]] = []
        for option in several:
            try:
                _safely(rule, bench_of(lab.family), option)
            except Failed as failed:
                failures.append((option.name, failed))
        if failures:
            first = failures[0][1]
            others = ", ".join(name for name, _ in failures[1:])
            what = first.what + ("; also " + others if others else "")
            raise Failed(what, first.expected, first.got, first.raw)

    names = ", ".join(option.name for option in several)
    of_lab.__doc__ = "%s\n\nOf %s." % (rule.__doc__, names)
    return of_lab


def _families(option: Option, rule: Rule) -> Sequence[str]:
    """Where ``rule`` tells something: no code but that of SOL_IPV6 and of states knows families."""
    if rule is set_get:
        return FAMILIES[option.family]
    return ("ipv6",) if option.level == IPPROTO_IPV6 else ("ipv4",)


def _add(name: str, option: Option, rule: Rule, function: Callable[[Lab], None]) -> None:
    scenario_check(
        "%s.%s" % (name, rule.__name__),
        scenario=SCENARIO,
        needs=(option.capability,) if option.capability else (),
        families=_families(option, rule),
    )(function)


def _register() -> None:
    others: dict[tuple[int, Rule], list[Option]] = {}
    for option in options.table():
        name = option.name.lower()
        if option.treatment == KEPT:
            for kept in (set_get, limits, like_tcp):
                _add(name, option, kept, _apply(kept, option))
            continue
        rule: Rule = refused if option.treatment == REFUSED else ignored
        if option.name in NAMED:
            _add(name, option, rule, _apply(rule, option))
        else:
            others.setdefault((option.level, rule), []).append(option)
    for (level, rule), several in others.items():
        _add(LEVELS[level], several[0], rule, _apply_to_all(rule, several))


_register()
