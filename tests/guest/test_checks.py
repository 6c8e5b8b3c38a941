# SPDX-License-Identifier: GPL-2.0-only
"""The checks on the running kernel: they pass on a sound one, and each notices its faults.

A fault alters the real kernel's answers (tests/guest/faults.py); what must notice it is named.
"""

from __future__ import annotations

import _socket
import ctypes
import functools
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from guest import abi, connection, events, options, probe, runner, sockopt
from guest import checks as guest_checks
from guest.checks import EARLY, SEGMENT
from tests.guest.faults import (
    Call,
    Fault,
    FaultyKernel,
    accepts,
    bump,
    bump_full,
    bump_header,
    bump_info,
    fails,
    reads,
    refuses_with,
    returned_length,
    writes_beyond,
)

pytestmark = pytest.mark.mptcp

INFO, TCP, ADDRS, FULL = 1, 2, 3, 4
TOS = _socket.IP_TOS
TOS_LEVEL = _socket.IPPROTO_IP
ADDRESS = abi.SUBFLOW_DATA_LAYOUT.size + 4  # within the first address
FULL_INFO_AT = abi.FULL_INFO_LAYOUT.offsets["mptcp_info"]


def tcp_counter(field: str) -> Fault:
    return bump(abi.TCP_INFO_LAYOUT, field, TCP, at=abi.SUBFLOW_DATA_LAYOUT.size)


def embedded_info(field: str) -> Fault:
    return bump(abi.MPTCP_INFO_LAYOUT, field, FULL, at=FULL_INFO_AT)


def address_byte(at: int) -> Fault:
    def fault(call: Call) -> None:
        if call.of(ADDRS):
            call.add(at, "=B", 1)

    return fault


def short_info(call: Call) -> None:
    if call.of(INFO):
        call.length = min(call.length, 40)


def length_of_refused(option: int) -> Fault:
    def fault(call: Call) -> None:
        if call.of(option) and call.error:
            call.length += 1

    return fault


def keeps_length(option: int) -> Fault:
    """The length of a larger header is not cut to what was filled."""

    def fault(call: Call) -> None:
        if call.of(option) and not call.error:
            call.length = call.asked

    return fault


def second_subflow_id(call: Call) -> None:
    """The id stands in an array of its own, which the request points to."""
    if call.of(FULL) and not call.error:
        address = abi.FULL_INFO_LAYOUT.view(call.request).subflow_info
        ctypes.memmove(address, struct.pack("=I", 2), 4)


def tos_is_wide(call: Call) -> None:
    if (call.level, call.option) == (TOS_LEVEL, TOS) and not call.error:
        call.length = 4


def tos_negative_accepted(call: Call) -> None:
    if (call.level, call.option) == (TOS_LEVEL, TOS) and call.asked < 0:
        call.error = 0


def tos_stuck(call: Call) -> None:
    if (call.level, call.option) == (TOS_LEVEL, TOS) and not call.error and call.data:
        call.data[0] = 0x10


def last_data_of_another_time(call: Call) -> None:
    if call.of(INFO):
        call.add(abi.MPTCP_INFO_LAYOUT.offsets["mptcpi_last_data_recv"], "=I", 3_600_000)


#: A kernel's fault, and checks that must notice it.
FAULTS: dict[str, tuple[Fault, set[str]]] = {
    "MPTCP_INFO fails": (fails(INFO), {"mptcp_info.readable"}),
    "MPTCP_INFO too short": (short_info, {"mptcp_info.readable"}),
    "MPTCP_INFO says more than there is": (
        returned_length(INFO, 1),
        {"mptcp_info.length_is_the_smaller"},
    ),
    "MPTCP_INFO writes beyond": (writes_beyond(INFO), {"mptcp_info.readable"}),
    "write_seq runs": (
        bump_info("mptcpi_write_seq", growing=True),
        {"mptcp_info.write_seq_counts_sent_bytes", "mptcp_info.snd_una_follows_write_seq"},
    ),
    "rcv_nxt runs": (
        bump_info("mptcpi_rcv_nxt", growing=True),
        {
            "mptcp_info.rcv_nxt_counts_received_bytes",
            "mptcp_info.rcv_nxt_counts_data_fin",
            "mptcp_info.rcv_nxt_follows_peer_write_seq",
        },
    ),
    "rcv_nxt off by one": (
        bump_info("mptcpi_rcv_nxt"),
        {"mptcp_info.rcv_nxt_follows_peer_write_seq", "mptcp_info.early_bytes_counted"},
    ),
    "snd_una lags": (bump_info("mptcpi_snd_una"), {"mptcp_info.snd_una_follows_write_seq"}),
    "bytes_sent": (bump_info("mptcpi_bytes_sent"), {"mptcp_info.bytes_sent_exact"}),
    "bytes_received": (bump_info("mptcpi_bytes_received"), {"mptcp_info.bytes_received_exact"}),
    "bytes_acked": (bump_info("mptcpi_bytes_acked"), {"mptcp_info.bytes_acked_exact"}),
    "token changes": (bump_info("mptcpi_token", growing=True), {"mptcp_info.token_is_kept"}),
    "tcpi_bytes_sent": (tcp_counter("tcpi_bytes_sent"), {"tcpinfo.bytes_sent_exact"}),
    "tcpi_bytes_received": (
        tcp_counter("tcpi_bytes_received"),
        {"tcpinfo.bytes_received_exact", "tcpinfo.early_bytes_counted"},
    ),
    "local address": (
        address_byte(ADDRESS),
        {"subflow_addrs.local_is_getsockname", "full_info.agrees_with_subflow_addrs"},
    ),
    "remote address": (
        address_byte(ADDRESS + abi.SOCKADDR_STORAGE_SIZE),
        {"subflow_addrs.remote_is_getpeername"},
    ),
    "end of the local sockaddr_storage": (
        address_byte(abi.SUBFLOW_DATA_LAYOUT.size + abi.SOCKADDR_STORAGE_SIZE - 1),
        {"subflow_addrs.local_is_getsockname"},
    ),
    "family": (
        address_byte(abi.SUBFLOW_DATA_LAYOUT.size),
        {"subflow_addrs.family_is_the_sockets", "subflow_addrs.family_alone_fits"},
    ),
    "MPTCP_FULL_INFO fails": (fails(FULL), {"full_info.readable"}),
    "full: id": (second_subflow_id, {"full_info.subflow_id_is_one"}),
    "full: num_subflows": (
        bump_full("num_subflows"),
        {"full_info.one_subflow", "full_info.arrays_of_none_are_left_alone"},
    ),
    "full: tcpinfo size": (bump_full("size_tcpinfo_user"), {"full_info.tcpinfo_sizes"}),
    "full: sfinfo size": (bump_full("size_sfinfo_user"), {"full_info.sfinfo_sizes"}),
    "full: extra subflows": (embedded_info("mptcpi_subflows"), {"full_info.one_subflow"}),
    "full: bytes_sent": (
        embedded_info("mptcpi_bytes_sent"),
        {"full_info.agrees_with_mptcp_info"},
    ),
    "full: token of a short one": (
        embedded_info("mptcpi_token"),
        {"full_info.agrees_with_mptcp_info"},
    ),
    "full: length": (
        returned_length(FULL, -1),
        {"full_info.shorter_mptcp_info_accepted", "full_info.longer_mptcp_info_accepted"},
    ),
    "full: accepts anything": (
        accepts(FULL),
        {"full_info.short_lengths_refused", "full_info.nonzero_kernel_fields_refused"},
    ),
    "full: EPERM for EINVAL": (
        refuses_with(FULL, 1),
        {"full_info.short_lengths_refused", "full_info.nonzero_kernel_fields_refused"},
    ),
    "tcpinfo disagrees": (
        tcp_counter("tcpi_bytes_sent"),
        {"full_info.agrees_with_tcpinfo"},
    ),
    "TOS stuck": (tos_stuck, {"ip_tos.set_is_read_back"}),
    "TOS wide": (tos_is_wide, {"ip_tos.is_one_byte", "ip_tos.length_zero_stays_zero"}),
    "TOS accepts -1": (tos_negative_accepted, {"ip_tos.negative_length_refused"}),
    "TOS writes beyond": (writes_beyond(TOS, TOS_LEVEL), {"ip_tos.is_one_byte"}),
    "subflows_total": (
        bump_info("mptcpi_subflows_total"),
        {"mptcp_info.subflows_total_is_one"},
    ),
    "last data of another time": (
        last_data_of_another_time,
        {"mptcp_info.last_times_are_the_connections"},
    ),
}
#: An option of TCP's or IP's, what it says whatever was set, and the check that must notice it.
for _name, _value, _check in (
    ("TCP_CORK", 0, "tcp_cork_nodelay.set_is_read_back"),
    ("TCP_NODELAY", 1, "tcp_cork_nodelay.set_is_read_back"),
    ("TCP_INQ", 0, "tcp_inq.set_is_read_back"),
    ("TCP_NOTSENT_LOWAT", 0, "tcp_notsent_lowat.set_is_read_back"),
    ("TCP_KEEPIDLE", 7200, "tcp_keepalive.set_is_read_back"),
    ("TCP_KEEPINTVL", 75, "tcp_keepalive.set_is_read_back"),
    ("TCP_KEEPCNT", 9, "tcp_keepalive.set_is_read_back"),
    ("TCP_FASTOPEN_CONNECT", 1, "tcp_fastopen_connect.readable"),
    ("TCP_FASTOPEN_NO_COOKIE", 1, "tcp_fastopen.readable"),
    ("IP_LOCAL_PORT_RANGE", 1, "local_port_range.readable"),
    ("IP_BIND_ADDRESS_NO_PORT", 1, "local_port_range.readable"),
    ("IP_TRANSPARENT", 1, "transparent_get.readable"),
    ("IP_FREEBIND", 1, "transparent_get.readable"),
    ("TCP_IS_MPTCP", 0, "tcp_is_mptcp.true_of_a_connection"),
    ("TCP_MAXSEG", 0, "tcp_maxseg.can_be_set"),
):
    _found = next(o for group in options.OPTIONS.values() for o in group if o.name == _name)
    FAULTS |= {
        f"{_name} stuck": (reads(_found, _value), {_check}),
        f"{_name} fails": (fails(_found.number, _found.level), {_check}),
        f"{_name} too long": (returned_length(_found.number, 4, _found.level), {_check}),
    }
for _name, _option in (("tcpinfo", TCP), ("subflow_addrs", ADDRS)):
    FAULTS |= {
        f"{_name} fails": (fails(_option), {f"{_name}.size_kernel_positive"}),
        f"{_name}: num_subflows": (
            bump_header("num_subflows", _option),
            {f"{_name}.one_subflow", f"{_name}.bare_header_accepted"},
        ),
        f"{_name}: size_user": (
            bump_header("size_user", _option),
            {f"{_name}.size_user_is_the_smaller", f"{_name}.bare_header_accepted"},
        ),
        f"{_name}: size_subflow_data": (
            bump_header("size_subflow_data", _option),
            {f"{_name}.larger_header_accepted", f"{_name}.byte_after_odd_header"},
        ),
        f"{_name}: length": (
            returned_length(_option, -1),
            {f"{_name}.length_is_header_and_one_element", f"{_name}.byte_after_odd_header"},
        ),
        f"{_name}: accepts anything": (
            accepts(_option),
            {
                f"{_name}.header_size_zero_refused",
                f"{_name}.short_lengths_refused",
                f"{_name}.nonzero_size_kernel_refused",
                f"{_name}.nonzero_num_subflows_refused",
            },
        ),
        f"{_name}: EPERM for EINVAL": (
            refuses_with(_option, 1),
            {
                f"{_name}.header_size_zero_refused",
                f"{_name}.short_lengths_refused",
                f"{_name}.nonzero_size_kernel_refused",
                f"{_name}.nonzero_num_subflows_refused",
            },
        ),
        f"{_name}: length of what is refused": (
            length_of_refused(_option),
            {f"{_name}.header_size_zero_refused", f"{_name}.short_lengths_refused"},
        ),
        f"{_name}: length not cut": (
            keeps_length(_option),
            {f"{_name}.larger_header_accepted", f"{_name}.length_is_header_and_one_element"},
        ),
        f"{_name}: writes beyond": (
            writes_beyond(_option),
            {f"{_name}.bare_header_accepted", f"{_name}.byte_after_odd_header"},
        ),
    }

#: Faults that no socket option shows; their checks have tests of their own below.
ELSEWHERE = {
    "payload.arrives",
    "payload.survives_the_echo",
    "payload.ends_with_fin",
    "subflow_addrs.socket_names_agree",
}


@pytest.fixture(autouse=True)
def _few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [planned for planned in runner.CONNECTIONS if planned[0] in (SEGMENT, EARLY)]
    monkeypatch.setattr(runner, "CONNECTIONS", few)


def run(
    family: str = "ipv4", seed: int = 1, parse: Callable[[bytes], Any] = events.parse
) -> dict[str, set[str]]:
    """Check ids by verdict."""
    written: list[bytes] = []
    runner.Runner(
        runner.Options(families=(family,), seed=seed, profile=guest_checks.QUICK),
        events.Emitter(written.append),
    ).run()
    names: list[str] = []
    found: dict[str, set[str]] = {verdict: set() for verdict in events.VERDICTS}
    for line in b"".join(written).splitlines(True):
        if line.startswith(b'{"e":"start",'):
            continue
        event = parse(line)
        if event["e"] == "plan":
            names += [entry[0] for entry in event["entries"]]
        elif event["e"] == "result":
            found[event["verdict"]].add(names[event["i"]])
    return found


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_sound_kernel_passes(family: str) -> None:
    found = run(family)
    assert found["fail"] == found["error"] == set()
    assert found["pass"]


@functools.cache
def capabilities() -> dict[str, probe.Finding]:
    return probe.capabilities(_socket.AF_INET)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, noticing = FAULTS[name]
    probed = capabilities()
    for check in guest_checks.all_checks(guest_checks.QUICK):
        lacking = [need for need in check.needs if not probed[need].present]
        if check.id in noticing and lacking:
            pytest.skip(f"the running kernel has no {', '.join(lacking)}")
    # What the kernel has is asked before it breaks: a fault must not pass for an absence.
    monkeypatch.setattr(probe, "capabilities", lambda family: probed)
    monkeypatch.setattr(sockopt, "_getsockopt", FaultyKernel(fault).getsockopt)
    # A counter that stays wrong is not waited for as long as one on its way.
    for deadline in ("SETTLE_DEADLINE", "RETRY_DEADLINE"):
        monkeypatch.setattr(connection, deadline, 0.01)
    found = run(parse=json.loads)  # the vocabulary is that of a sound kernel, and parse() is slow
    assert noticing - found["fail"] == set()
    assert found["error"] == set()


def test_every_check_notices_some_fault() -> None:
    noticed = set().union(*(noticing for _, noticing in FAULTS.values()))
    assert {
        check.id for check in guest_checks.all_checks(guest_checks.QUICK)
    } == noticed | ELSEWHERE


def test_the_same_seed_gives_the_same_payload() -> None:
    contents = [runner.Random(7).bytes(64) for _ in range(2)]
    assert contents[0] == contents[1]
    assert contents[0] != runner.Random(8).bytes(64)


@pytest.fixture
def transferred() -> Iterator[connection.Connection]:
    """A connection that has carried its payload both ways."""
    made = connection.Connection(_socket.AF_INET, b"payload" * 20)
    made.transfer()
    yield made
    made.close()


def fails_at(check: str, end: connection.End) -> None:
    function = next(
        c.function for c in guest_checks.all_checks(guest_checks.QUICK) if c.id == check
    )
    with pytest.raises(guest_checks.Failed):
        function(end)


def test_a_changed_byte_is_noticed_at_the_server(transferred: connection.Connection) -> None:
    transferred.server.content = b"P" + transferred.server.content[1:]
    fails_at("payload.arrives", transferred.server)


def test_a_missing_byte_is_noticed_at_the_client(transferred: connection.Connection) -> None:
    transferred.client.content = transferred.client.content[:-1]
    fails_at("payload.survives_the_echo", transferred.client)


def test_a_stream_without_an_end_is_noticed(transferred: connection.Connection) -> None:
    fails_at("payload.ends_with_fin", transferred.server)


def test_names_of_different_families_are_noticed(
    transferred: connection.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, length = sockopt.peername(transferred.client.fd)
    other = struct.pack("=H", _socket.AF_INET6) + name[2:]
    monkeypatch.setattr(sockopt, "peername", lambda fd: (other, length))
    fails_at("subflow_addrs.socket_names_agree", transferred.client)


def test_a_connection_that_breaks_fails_every_check_that_was_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: connection.Connection) -> None:
        raise connection.TransferFailed("nothing arrived")

    monkeypatch.setattr(connection.Connection, "transfer", broken)
    found = run()
    assert "payload.arrives" in found["fail"]
    assert "tcpinfo.one_subflow" in found["pass"]  # before the transfer


def test_a_check_that_breaks_is_an_error_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(end: connection.End) -> None:
        raise ZeroDivisionError("of its own making")

    first = guest_checks.all_checks(guest_checks.QUICK)[0]
    monkeypatch.setattr(first, "function", broken)
    found = run()
    assert found["error"] == {first.id}
    assert found["pass"]


def test_plain_tcp_has_no_mptcp_option() -> None:
    """What a kernel without SOL_MPTCP answers, and an MPTCP socket after fallback to TCP."""
    for family in (_socket.AF_INET, _socket.AF_INET6):
        plain = connection.Connection(family, b"?", protocol=_socket.IPPROTO_TCP)
        found = probe.answers(plain.client)
        plain.close()
        absent = {name for name, finding in found.items() if not finding.present}
        assert absent - options.OPTIONS.keys() == {
            "mptcp_info",
            "tcpinfo",
            "subflow_addrs",
            "packet_stats",
            "full_info",
            "subflows_total",
            "last_data",
        }
