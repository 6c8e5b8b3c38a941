# SPDX-License-Identifier: GPL-2.0-only
"""The checks made from the table of options: sound kernels pass, and each can fail."""

from __future__ import annotations

import _socket
import ctypes
import os
from collections.abc import Callable, Iterator

import pytest

from guest import bench, checks, options, sockopt
from guest.abi import IPPROTO_MPTCP
from guest.checks import Check
from guest.checks import options as rules
from guest.lab import Lab
from guest.option import KEPT, SOL_SOCKET, packed
from tests.guest.faults import EIO, Call, FaultyKernel

pytestmark = [
    pytest.mark.mptcp,
    pytest.mark.skipif(os.geteuid() != 0, reason="some options are root's to set"),
]

FAMILIES = {"ipv4": _socket.AF_INET, "ipv6": _socket.AF_INET6}
SetSockopt = Callable[[int, int, int, int, int], int]


def checks_of(family: str, rule: str = "") -> list[Check]:
    """The checks made from the table, all or those of one rule."""
    found = [c for c in checks.all_checks() if c.payloads == (rules.SCENARIO,)]
    return [c for c in found if family in c.families and (not rule or c.id.endswith("." + rule))]


def failures(family: str, wanted: list[Check]) -> dict[str, str]:
    """What failed, by check; what another kernel lacks is left out."""
    found: dict[str, str] = {}
    for item in wanted:
        try:
            item.function(Lab(FAMILIES[family]))  # type: ignore[arg-type]
        except checks.Failed as failed:
            found[item.id] = failed.what
        except sockopt.Overrun as overrun:
            found[item.id] = str(overrun)
    return found


@pytest.fixture(autouse=True)
def fresh_benches() -> Iterator[None]:
    yield
    for one in bench._benches.values():
        one.forget()
    bench._benches.clear()


def is_mptcp(fd: int) -> bool:
    sock = _socket.socket(fileno=fd)
    try:
        return sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PROTOCOL) == IPPROTO_MPTCP
    finally:
        sock.detach()


def always(errno: int) -> SetSockopt:
    """setsockopt does nothing and gives ``errno`` on MPTCP sockets."""
    real = sockopt._setsockopt

    def setsockopt(fd: int, level: int, option: int, value: int, size: int) -> int:
        if not is_mptcp(fd):
            return int(real(fd, level, option, value, size))
        ctypes.set_errno(errno)
        return -1 if errno else 0

    return setsockopt


class OnlyMptcp(FaultyKernel):
    def getsockopt(self, fd: int, level: int, option: int, buffer: int, optlen: int) -> int:
        if is_mptcp(fd):
            return super().getsockopt(fd, level, option, buffer, optlen)
        return int(self._get(fd, level, option, buffer, optlen))


def test_every_option_has_its_checks() -> None:
    found = {c.id: c for c in checks.all_checks()}
    for option in options.table():
        name = option.name.lower()
        if option.treatment == KEPT:
            for rule in ("set_get", "limits", "like_tcp"):
                assert f"{name}.{rule}" in found
        elif f"{name}.{option.treatment}" not in found:
            group = found[f"{rules.LEVELS[option.level]}.{option.treatment}"]
            assert option.name in str(group.function.__doc__)


def test_names_and_numbers_are_unique() -> None:
    names = [option.name for option in options.table()]
    assert len(set(names)) == len(names)
    numbers = [(o.level, o.number) for o in options.table()]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_kernel_passes(family: str) -> None:
    assert failures(family, checks_of(family)) == {}


def missed(family: str, rule: str) -> set[str]:
    """The checks of ``rule`` that do not fail; of those that look at several options, the options
    that they do not name."""
    wanted = checks_of(family, rule)
    assert wanted
    found = failures(family, wanted)
    left = {c.id for c in wanted} - found.keys()
    for level, name in rules.LEVELS.items():
        what = found.get(f"{name}.{rule}")
        if what is not None:
            left |= {
                o.name
                for o in options.table()
                if o.level == level
                and o.treatment == rule
                and o.name not in rules.NAMED
                and o.name not in what.replace(",", "").replace(";", "").split()
            }
    return left


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_that_is_not_kept_is_seen(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockopt, "_setsockopt", always(0))
    # These do not read as they were set: another check compares them with TCP's.
    assert missed(family, "set_get") <= {"tcp_maxseg.set_get", "so_busy_poll_budget.set_get"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["refused", "limits"])
def test_what_must_be_refused_and_is_not_is_seen(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockopt, "_setsockopt", always(0))
    assert missed(family, rule) == set()


def test_a_value_out_of_range_that_is_taken_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [o for o in options.table() if o.bad]
    for option in bad:
        one = bench.bench_of(_socket.AF_INET)
        raw = {packed(value) for value, _ in option.bad}
        real = sockopt._setsockopt

        def setsockopt(fd: int, level: int, number: int, value: int, size: int) -> int:
            if ctypes.string_at(value, size) in raw:  # noqa: B023
                return 0
            return int(real(fd, level, number, value, size))  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(sockopt, "_setsockopt", setsockopt)
            with pytest.raises(checks.Failed):
                rules.out_of_range(one, option)
        one.forget()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["set_get", "refused", "ignored", "limits"])
def test_another_error_of_setting_is_seen(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (family, rule) == ("ipv6", "ignored"):
        return  # all of SOL_SOCKET
    monkeypatch.setattr(sockopt, "_setsockopt", always(EIO))
    assert missed(family, rule) == set()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["set_get", "limits", "like_tcp"])
def test_an_option_that_cannot_be_read_is_seen(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(call: Call) -> None:
        call.error = EIO

    monkeypatch.setattr(sockopt, "_getsockopt", OnlyMptcp(fault).getsockopt)
    # Older kernels cannot read it at all.
    assert missed(family, rule) <= {"so_busy_poll_budget.set_get", "so_busy_poll_budget.limits"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_refused_option_that_can_be_read_is_seen(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(call: Call) -> None:
        call.error = 0

    monkeypatch.setattr(sockopt, "_getsockopt", OnlyMptcp(fault).getsockopt)
    readable = {o.name for o in options.table() if not o.unreadable}
    readable |= {f"{name.lower()}.refused" for name in readable}
    assert missed(family, "refused") - readable <= {"sol_socket.refused"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrong", [1, -1])
def test_a_length_that_is_taken_or_comes_back_wrong_is_seen(
    family: str, wrong: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(call: Call) -> None:
        if call.asked == wrong:
            call.error = 0
            call.length = 0

    monkeypatch.setattr(sockopt, "_getsockopt", OnlyMptcp(fault).getsockopt)
    allowed = {"so_busy_poll_budget.limits"}
    if wrong == 1:
        allowed.add("so_bindtodevice.limits")  # wants room for the longest name
    assert missed(family, "limits") <= allowed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_default_that_is_not_tcps_is_seen(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(call: Call) -> None:
        if call.length and call.data:
            call.data[0] ^= 1

    monkeypatch.setattr(sockopt, "_getsockopt", OnlyMptcp(fault).getsockopt)
    wanted = [
        option.name.lower() + ".like_tcp"
        for option in options.table()
        if option.treatment == KEPT and "initial" not in option.unlike
    ]
    ids = {c.id for c in checks_of(family, "like_tcp")}
    assert ids & set(wanted) <= failures(family, checks_of(family, "like_tcp")).keys()


def test_a_socket_that_connects_for_long_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    one = bench.bench_of(_socket.AF_INET)
    now = 1000.0
    monkeypatch.setattr("guest.bench.time.monotonic", lambda: now)
    first = one.fd("connecting")
    client = one.fd("client")
    assert one.fd("connecting") == first
    now += bench.FRESH_S + 0.1
    assert one.fd("connecting") != first
    assert one.fd("client") == client


def test_a_name_without_nul_that_is_cut_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sockopt._setsockopt

    def setsockopt(fd: int, level: int, number: int, value: int, size: int) -> int:
        if is_mptcp(fd) and size and ctypes.string_at(value + size - 1, 1) != b"\0":
            size -= 1
        return int(real(fd, level, number, value, size))

    monkeypatch.setattr(sockopt, "_setsockopt", setsockopt)
    found = failures("ipv4", checks_of("ipv4", "like_tcp"))
    assert {"tcp_congestion.like_tcp", "so_bindtodevice.like_tcp"} <= found.keys()


def test_timestamping_without_its_second_half_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sockopt._setsockopt
    numbers = {o.number for o in options.table() if o.name.startswith("SO_TIMESTAMPING")}

    def setsockopt(fd: int, level: int, number: int, value: int, size: int) -> int:
        if level == SOL_SOCKET and number in numbers and size == 4:
            ctypes.set_errno(22)
            return -1
        return int(real(fd, level, number, value, size))

    monkeypatch.setattr(sockopt, "_setsockopt", setsockopt)
    found = failures("ipv4", checks_of("ipv4", "limits"))
    assert found.keys() == {"so_timestamping.limits", "so_timestamping_new.limits"}
