# SPDX-License-Identifier: GPL-2.0-only
"""The netlink client: what it makes of messages, and that it agrees with the running kernel."""

from __future__ import annotations

import struct

import pytest

from guest import netlink


def message(kind: int, body: bytes, flags: int = 0, sequence: int = 1) -> bytes:
    size = netlink.HEADER.size + len(body)
    return netlink.HEADER.pack(size, kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


class Kernel:
    """Stands for the socket: answers each request with the next of ``answers``."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.sent: list[bytes] = []

    def sendto(self, data: bytes, address: object) -> None:
        self.sent.append(data)

    def recv(self, room: int) -> bytes:
        return self.answers.pop(0)


def client(*answers: bytes) -> tuple[netlink.Netlink, Kernel]:
    made = netlink.Netlink.__new__(netlink.Netlink)
    kernel = Kernel(*answers)
    made.socket = kernel  # type: ignore[assignment]
    made._sequence = 0
    made._room = netlink.ROOM
    return made, kernel


DONE = struct.pack("=i", 0)


def test_attributes_are_padded_and_read_back() -> None:
    data = netlink.attribute(1, b"abc") + netlink.attribute(2, netlink.u32(7))
    assert len(data) == 16
    assert netlink.attributes(data) == {1: b"abc", 2: netlink.u32(7)}


def test_a_nested_attribute_is_found_under_its_plain_type() -> None:
    data = netlink.nested(3, netlink.attribute(1, netlink.u8(9)))
    assert netlink.attributes(netlink.attributes(data)[3]) == {1: b"\x09"}


@pytest.mark.parametrize(
    "torn", [b"\1\0", struct.pack("=HH", 3, 1), struct.pack("=HH", 12, 1) + bytes(4)]
)
def test_a_torn_attribute_is_an_error(torn: bytes) -> None:
    with pytest.raises(ValueError, match="attribute"):
        netlink.attributes(torn)


def test_a_dump_over_several_reads_is_joined() -> None:
    made, _ = client(
        message(20, b"one!", netlink.MULTI) + message(20, b"two!", netlink.MULTI),
        message(20, b"last", netlink.MULTI) + message(netlink.NLMSG_DONE, DONE, netlink.MULTI),
    )
    assert [body for _, body in made.dump(20, b"")] == [b"one!", b"two!", b"last"]


def test_a_dump_that_changed_meanwhile_is_taken_again() -> None:
    made, kernel = client(
        message(20, b"torn", netlink.DUMP_INTR) + message(netlink.NLMSG_DONE, DONE),
        message(20, b"good", sequence=2) + message(netlink.NLMSG_DONE, DONE, sequence=2),
    )
    assert [body for _, body in made.dump(20, b"")] == [b"good"]
    assert len(kernel.sent) == 2


def test_what_answers_an_older_request_is_left() -> None:
    made, _ = client(message(20, b"old!", sequence=7) + message(20, b"new!"))
    assert made.query(20, b"") == b"new!"


def test_a_refusal_says_errno_and_reason() -> None:
    reason = netlink.attribute(netlink.EXT_ACK_MESSAGE, b"no such thing\0")
    body = struct.pack("=i", -22) + netlink.HEADER.pack(16, 20, 0, 1, 0) + reason
    flags = netlink.CAPPED | netlink.ACK_TLVS
    made, _ = client(message(netlink.NLMSG_ERROR, body, flags))
    with pytest.raises(netlink.Refused) as refused:
        made.request(20, b"")
    assert (refused.value.errno, refused.value.reason) == (22, "no such thing")


def test_a_dump_that_fails_at_its_end_is_refused() -> None:
    made, _ = client(message(netlink.NLMSG_DONE, struct.pack("=i", -13)))
    with pytest.raises(netlink.Refused) as refused:
        made.dump(20, b"")
    assert refused.value.errno == 13


def test_an_acknowledgement_ends_a_request() -> None:
    body = struct.pack("=i", 0) + netlink.HEADER.pack(16, 20, 0, 1, 0)
    made, _ = client(message(20, b"data") + message(netlink.NLMSG_ERROR, body))
    assert made.request(20, b"") == [(20, b"data")]


@pytest.mark.mptcp
def test_the_path_managers_family_and_groups_are_found() -> None:
    family = netlink.Generic("mptcp_pm")
    try:
        assert family.family > netlink.CONTROLLER
        assert set(family.groups) >= {"mptcp_pm_cmds", "mptcp_pm_events"}
    finally:
        family.close()


def test_a_family_that_is_not_there_is_refused_with_enoent() -> None:
    with pytest.raises(netlink.Refused) as refused:
        netlink.Generic("no such family")
    assert refused.value.errno == netlink.ENOENT
