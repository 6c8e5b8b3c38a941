# SPDX-License-Identifier: GPL-2.0-only
"""The bytes of a failed check, decoded."""

from __future__ import annotations

import socket
import struct

from guest import abi
from harness.report import fields

HEADER = abi.SUBFLOW_DATA_LAYOUT


def values(
    check: str, detail: str, data: bytes | bytearray
) -> list[tuple[str, int, dict[str, str]]]:
    return [
        (part.name, part.offset, {field.name: value for field, value in part.rows})
        for part in fields.decode(check, detail, bytes(data).hex())
    ]


def storage(family: int, address: str, port: int) -> bytes:
    start = struct.pack("=H", family) + port.to_bytes(2, "big")
    start += bytes(4 if family == socket.AF_INET6 else 0) + socket.inet_pton(family, address)
    return start.ljust(abi.SOCKADDR_STORAGE_SIZE, b"\0")


def test_a_shorter_structure_of_an_older_kernel_ends_where_its_bytes_end() -> None:
    data = abi.MPTCP_INFO_LAYOUT.pack(mptcpi_token=7, mptcpi_rcv_nxt=9)[: abi.MPTCP_INFO_MIN_SIZE]
    (part,) = fields.decode("mptcp_info.token", "mptcpi_token", bytes(data).hex())
    shown = {field.name: value for field, value in part.rows}
    assert (shown["mptcpi_token"], shown["mptcpi_rcv_nxt"]) == ("7", "9")
    assert "mptcpi_bytes_sent" not in shown
    assert part.missing


def test_an_array_is_decoded_element_by_element() -> None:
    size = 20
    data = HEADER.pack(size_subflow_data=16, num_subflows=2, size_kernel=280, size_user=size)
    data += bytes(abi.TCP_INFO_LAYOUT.pack(tcpi_state=1)[:size])
    data += bytes(abi.TCP_INFO_LAYOUT.pack(tcpi_state=8)[:size])
    found = values("tcpinfo.one_subflow", "num_subflows", data + bytes(size))
    assert [(name, start) for name, start, _ in found] == [
        ("mptcp_subflow_data", 0),
        ("tcp_info", 16),
        ("tcp_info", 36),
    ]
    assert [one["tcpi_state"] for _, _, one in found[1:]] == ["1", "8"]


def test_a_bare_tcp_info_is_told_from_an_array() -> None:
    ((name, _, shown),) = values(
        "tcpinfo.bytes_sent_exact", "tcpi_bytes_sent", abi.TCP_INFO_LAYOUT.pack(tcpi_bytes_sent=5)
    )
    assert (name, shown["tcpi_bytes_sent"]) == ("tcp_info", "5")


def test_addresses_are_shown_as_people_write_them() -> None:
    data = HEADER.pack(size_subflow_data=16, num_subflows=1, size_kernel=256, size_user=256)
    data += storage(socket.AF_INET, "127.0.0.1", 40000) + storage(socket.AF_INET6, "::1", 443)
    _, (_, _, shown) = values("subflow_addrs.local", "local address", data)
    assert shown == {
        "ss_local": "AF_INET 127.0.0.1 port 40000",
        "ss_remote": "AF_INET6 ::1 port 443",
    }


def test_full_info_is_decoded_with_the_mptcp_info_in_it() -> None:
    data = abi.FULL_INFO_LAYOUT.pack(
        num_subflows=1, mptcp_info=bytes(abi.MPTCP_INFO_LAYOUT.pack(mptcpi_token=3))
    )
    (_, _, head), (name, start, inner) = values("full_info.one_subflow", "num_subflows", data)
    assert (head["num_subflows"], name, start) == ("1", "mptcp_info", 40)
    assert inner["mptcpi_token"] == "3"


def test_the_addresses_of_a_32_bit_program_are_found() -> None:
    data = struct.pack("=I", 1) + storage(socket.AF_INET, "127.0.0.1", 1) * 2
    ((_, _, shown),) = values("full_info.subflow_id_is_one", "id", data)
    assert shown["addrs"] == "AF_INET 127.0.0.1 port 1, AF_INET 127.0.0.1 port 1"


def test_bytes_of_a_big_endian_kernel_are_read_as_such() -> None:
    """On a host that is not: mptcpi_token and an address of s390x."""
    data = bytearray(abi.MPTCP_INFO_LAYOUT.size)
    struct.pack_into(">I", data, abi.MPTCP_INFO_LAYOUT.offsets["mptcpi_token"], 7)
    (part,) = fields.decode("mptcp_info.token", "mptcpi_token", data.hex(), "s390x")
    assert {field.name: value for field, value in part.rows}["mptcpi_token"] == "7"
    peer = storage(socket.AF_INET, "127.0.0.1", 443)
    swapped = peer[1::-1] + peer[2:]
    array = struct.pack(">4I", 16, 1, 256, 256) + 2 * swapped
    _, addresses = fields.decode("subflow_addrs.local", "local", array.hex(), "s390x")
    assert addresses.values[0] == "AF_INET 127.0.0.1 port 443"


def test_bytes_of_an_unknown_structure_stay_as_they_are() -> None:
    assert fields.decode("inherit.mark", "SO_MARK of the subflow", "00" * 60) == ()


def test_what_is_not_hexadecimal_is_not_decoded() -> None:
    for raw in ("", "0", "zz", "00 11", "00" * (fields.MAX_BYTES + 1)):
        assert fields.decode("mptcp_info.token", "mptcpi_token", raw) == ()
