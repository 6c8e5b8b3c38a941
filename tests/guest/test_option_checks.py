# SPDX-License-Identifier: GPL-2.0-only
"""The checks made from the table of options: sound kernels pass, and each can fail."""

from __future__ import annotations

import _socket
import ctypes
import os
from collections.abc import Callable, Iterator

import pytest

from guest import checks, options, sockopt
from guest.abi import IPPROTO_MPTCP
from guest.checks import Check
from guest.checks import options as rules
from guest.lab import Lab
from guest.option import KEPT
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
def benches() -> Iterator[None]:
    yield
    for bench in rules._benches.values():
        bench.forget()
    rules._benches.clear()


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
    found = {c.id for c in checks.all_checks()}
    for option in options.TABLE:
        name = option.name.lower()
        assert {f"{name}.set_get", f"{name}.refused", f"{name}.ignored"} & found, name


def test_names_and_numbers_are_unique() -> None:
    names = [option.name for option in options.TABLE]
    assert len(set(names)) == len(names)
    numbers = [(o.level, o.number) for o in options.TABLE]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sound_kernel_passes(family: str) -> None:
    wanted = checks_of(family)
    assert len(wanted) > 400
    assert failures(family, wanted) == {}


def missed(family: str, rule: str) -> set[str]:
    wanted = checks_of(family, rule)
    assert wanted
    return {c.id for c in wanted} - failures(family, wanted).keys()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["set_get", "reaches_subflow"])
def test_a_value_that_is_not_kept_is_seen(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockopt, "_setsockopt", always(0))
    # These do not read as they were set: another check compares them with TCP's.
    assert missed(family, rule) <= {"tcp_maxseg.set_get", "so_busy_poll_budget.set_get"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["out_of_range", "refused", "lengths"])
def test_what_must_be_refused_and_is_not_is_seen(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockopt, "_setsockopt", always(0))
    assert missed(family, rule) == set()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["set_get", "refused", "ignored", "out_of_range"])
def test_another_error_of_setting_is_seen(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockopt, "_setsockopt", always(EIO))
    assert missed(family, rule) == set()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", ["set_get", "lengths", "like_tcp", "as_tcp", "reaches_subflow"])
def test_an_option_that_cannot_be_read_is_seen(
    family: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(call: Call) -> None:
        call.error = EIO

    monkeypatch.setattr(sockopt, "_getsockopt", OnlyMptcp(fault).getsockopt)
    # The first says nothing of its value, the other two have nothing in common with TCP's.
    unread = {"so_busy_poll_budget.set_get", "so_busy_poll_budget.lengths"}
    unlike = {f"{name}.like_tcp" for name in ("so_protocol", "so_peek_off", "so_txrehash")}
    unlike |= {"tcp_is_mptcp.like_tcp", "tcp_ulp.like_tcp", "tcp_ulp.as_tcp"}
    assert missed(family, rule) <= unread | unlike


@pytest.mark.parametrize("family", FAMILIES)
def test_a_length_that_comes_back_wrong_is_seen(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(call: Call) -> None:
        if call.asked == 1 and not call.error:
            call.length = 0

    monkeypatch.setattr(sockopt, "_getsockopt", OnlyMptcp(fault).getsockopt)
    wanted = {"so_busy_poll_budget.lengths", "so_bindtodevice.lengths"}
    assert missed(family, "lengths") <= wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_a_negative_length_that_is_taken_is_seen(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(call: Call) -> None:
        if call.asked < 0:
            call.error = 0

    monkeypatch.setattr(sockopt, "_getsockopt", OnlyMptcp(fault).getsockopt)
    assert missed(family, "lengths") <= {"so_busy_poll_budget.lengths"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_default_that_is_not_tcps_is_seen(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(call: Call) -> None:
        if call.length:
            call.data[0] ^= 1

    monkeypatch.setattr(sockopt, "_getsockopt", OnlyMptcp(fault).getsockopt)
    wanted = [
        option.name.lower() + ".like_tcp"
        for option in options.TABLE
        if option.treatment == KEPT and "initial" not in option.unlike
    ]
    found = failures(family, checks_of(family, "like_tcp"))
    assert {c.id for c in checks_of(family, "like_tcp")} & set(wanted) <= found.keys()
