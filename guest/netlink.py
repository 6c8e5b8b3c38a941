# SPDX-License-Identifier: GPL-2.0-only
"""Netlink and generic netlink (RFC 3549, linux/netlink.h, linux/genetlink.h) without a library.

A :class:`Netlink` sends one request at a time and returns the answers. If the kernel refuses one,
it raises :class:`Refused` with the errno and the reason, if the kernel gives one. :class:`Generic`
finds a generic netlink family by name and sends commands to it.
"""

from __future__ import annotations

import _socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, Sequence

    Message = tuple[int, bytes]  # nlmsg_type, what follows the header

AF_NETLINK = 16
ROUTE, SOCK_DIAG, GENERIC = 0, 4, 16

NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, MULTI, ACK, DUMP_INTR, DUMP = 0x1, 0x2, 0x4, 0x10, 0x300
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
CAPPED, ACK_TLVS = 0x100, 0x200
NESTED = 0x8000
ATTRIBUTE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 1, 10, 11, 12
EXT_ACK_MESSAGE = 1

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")
GENERIC_HEADER = struct.Struct("=BBH")

CONTROLLER = 16
CTRL_CMD_GETFAMILY = 3
CTRL_FAMILY_ID, CTRL_FAMILY_NAME, CTRL_MCAST_GROUPS = 1, 2, 7
CTRL_GROUP_NAME, CTRL_GROUP_ID = 1, 2

EINTR, ENOENT = 4, 2
#: Seconds; only a broken kernel needs that long.
DEADLINE = 10.0
#: Bytes; the kernel sends dumps in pieces of at most 32 KiB to a reader with this buffer.
ROOM = 1 << 16
#: The number of times that an inconsistent dump is repeated.
MOST_DUMPS = 10


class Refused(OSError):
    """The kernel answered a request with an error; ``reason`` is its extended ack, or ""."""

    def __init__(self, errno: int, reason: str = "") -> None:
        super().__init__(errno, reason)
        self.reason = reason


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(attributes))


def each_attribute(data: bytes) -> Sequence[tuple[int, bytes]]:
    """Type and payload of each attribute in ``data``. Raises ValueError on a torn one."""
    found = []
    at = 0
    end = len(data)
    unpack = ATTRIBUTE.unpack_from  # there are fifteen thousand in a run
    while at < end:
        if at + 4 > end:
            raise ValueError("netlink attribute torn at byte %d of %s" % (at, data.hex()))
        length, kind = unpack(data, at)
        if length < 4 or at + length > end:
            raise ValueError("netlink attribute of length %d in %s" % (length, data.hex()))
        found.append((kind & ATTRIBUTE_MASK, data[at + 4 : at + length]))
        at += length + 3 & ~3
    return found


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in ``data`` by type; the last one of each type."""
    return dict(each_attribute(data))


def u8(value: int) -> bytes:
    return struct.pack("=B", value)


def u16(value: int) -> bytes:
    return struct.pack("=H", value)


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def number(data: bytes) -> int:
    """The native unsigned number that fills ``data``: 1, 2, 4 or 8 bytes."""
    return int(struct.unpack({1: "=B", 2: "=H", 4: "=I", 8: "=Q"}[len(data)], data)[0])


class Netlink:
    """A netlink socket of one protocol: :data:`ROUTE`, :data:`SOCK_DIAG` or :data:`GENERIC`."""

    def __init__(self, protocol: int, room: int = ROOM) -> None:
        self._room = room
        self.socket = _socket.socket(AF_NETLINK, _socket.SOCK_RAW, protocol)
        self.socket.settimeout(DEADLINE)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self.socket.setsockopt(SOL_NETLINK, option, 1)
        self.socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self.socket.close()

    def request(self, kind: int, payload: bytes, flags: int = 0) -> Sequence[Message]:
        """Send one request and return the messages that answer it, an acknowledgement aside.

        Raises :class:`Refused` when the kernel refuses it.
        """
        return list(self._answers(self._send(kind, REQUEST | ACK | flags, payload)))

    def query(self, kind: int, payload: bytes) -> bytes:
        """Send a request that has exactly one answer, without asking for an acknowledgement."""
        sequence = self._send(kind, REQUEST, payload)
        for _, _, body in self._messages(sequence):
            return body
        raise AssertionError("a generator that ends only with the socket's deadline")

    def dump(self, kind: int, payload: bytes) -> Sequence[Message]:
        """Every object of a dump. One that the kernel marks as inconsistent is taken again."""
        found: Sequence[Message] = ()
        for _ in range(MOST_DUMPS):
            try:
                found = list(self._answers(self._send(kind, REQUEST | DUMP, payload)))
                break
            except InterruptedError:
                continue
        return found

    def _send(self, kind: int, flags: int, payload: bytes) -> int:
        self._sequence += 1
        length = HEADER.size + len(payload)
        self.socket.sendto(HEADER.pack(length, kind, flags, self._sequence, 0) + payload, (0, 0))
        return self._sequence

    def _answers(self, sequence: int) -> Iterator[Message]:
        torn = False
        for kind, flags, body in self._messages(sequence):
            torn = torn or bool(flags & DUMP_INTR)
            if kind == NLMSG_DONE:
                break
            if kind == NLMSG_ERROR:
                return  # an acknowledgement: _messages raises what is none
            yield kind, body
        if torn:
            raise InterruptedError(EINTR, "a dump that changed while it was made")

    def _messages(self, sequence: int) -> Iterator[tuple[int, int, bytes]]:
        """The answers to request ``sequence``; answers to older requests are skipped."""
        while True:
            data = self.socket.recv(self._room)
            for kind, flags, number_, body in each_message(data):
                if number_ != sequence:
                    continue
                if kind == NLMSG_ERROR:
                    _raise_refusal(flags, body)
                if kind == NLMSG_DONE and len(body) >= 4:
                    (status,) = struct.unpack_from("=i", body)
                    if status < 0:
                        raise Refused(-status)
                yield kind, flags, body


def each_message(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and payload of each message in ``data``."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        if length < HEADER.size or at + length > len(data):
            raise ValueError("netlink message of length %d in %d bytes" % (length, len(data)))
        yield kind, flags, sequence, data[at + HEADER.size : at + length]
        at += length + -length % 4


def _raise_refusal(flags: int, body: bytes) -> None:
    (status,) = struct.unpack_from("=i", body)
    if status == 0:
        return
    reason = b""
    if flags & ACK_TLVS:
        start = 4 + HEADER.size
        if not flags & CAPPED:
            start += HEADER.unpack_from(body, 4)[0] - HEADER.size
        reason = attributes(body[start:]).get(EXT_ACK_MESSAGE, b"")
    raise Refused(-status, reason.rstrip(b"\0").decode("utf-8", "replace"))


class Generic:
    """A family of generic netlink. Raises :class:`Refused` (ENOENT) if there is none."""

    def __init__(self, name: str, version: int = 1) -> None:
        self._netlink = Netlink(GENERIC)
        self._version = version
        request = GENERIC_HEADER.pack(CTRL_CMD_GETFAMILY, 2, 0)
        request += attribute(CTRL_FAMILY_NAME, name.encode() + b"\0")
        try:
            answer = self._netlink.query(CONTROLLER, request)
        except OSError:
            self.close()
            raise
        found = attributes(answer[GENERIC_HEADER.size :])
        self.family = number(found[CTRL_FAMILY_ID])
        self.groups: dict[str, int] = {}
        for _, group in each_attribute(found.get(CTRL_MCAST_GROUPS, b"")):
            members = attributes(group)
            label = members[CTRL_GROUP_NAME].rstrip(b"\0").decode()
            self.groups[label] = number(members[CTRL_GROUP_ID])

    def close(self) -> None:
        self._netlink.close()

    def call(self, command: int, *parts: bytes) -> Sequence[Message]:
        """Send ``command`` with attributes; its answers as (command, attributes in bytes)."""
        return _without_header(self._netlink.request(self.family, self._payload(command, parts)))

    def dump(self, command: int, *parts: bytes) -> Sequence[Message]:
        return _without_header(self._netlink.dump(self.family, self._payload(command, parts)))

    def _payload(self, command: int, parts: Sequence[bytes]) -> bytes:
        return GENERIC_HEADER.pack(command, self._version, 0) + b"".join(parts)


def _without_header(messages: Sequence[Message]) -> Sequence[Message]:
    return [(body[0], body[GENERIC_HEADER.size :]) for _, body in messages]


class Events:
    """The multicasts of a generic netlink family to ``group``, from now on."""

    def __init__(self, family: Generic, group: str) -> None:
        self.socket = _socket.socket(AF_NETLINK, _socket.SOCK_RAW, GENERIC)
        self.socket.bind((0, 0))
        self.socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, family.groups[group])
        self.socket.setblocking(False)
        self._family = family.family

    def close(self) -> None:
        self.socket.close()

    def discard(self) -> None:
        """Drop the messages that have arrived."""
        try:
            while True:
                self.socket.recv(1)  # the rest of the datagram is dropped with it
        except BlockingIOError:
            pass

    def pending(self) -> Sequence[Message]:
        """(command, attributes in bytes) of each event that has come; never waits."""
        found: list[Message] = []
        while True:
            try:
                data = self.socket.recv(ROOM)
            except BlockingIOError:
                return found
            for kind, _, _, body in each_message(data):
                if kind == self._family:
                    found.append((body[0], body[GENERIC_HEADER.size :]))
