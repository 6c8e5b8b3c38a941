# SPDX-License-Identifier: GPL-2.0-only
"""The path managers' generic netlink family, ``mptcp_pm`` (linux/mptcp_pm.h).

:class:`PathManager` sends commands to the in-kernel path manager of this network namespace
(endpoints and limits) and to the user-space one, whose commands name a connection by its token.
:class:`Events` reads the multicasts of the kernel; while one exists, the user-space path manager
counts as active, and the kernel accepts joins and ADD_ADDRs for it.
"""

from __future__ import annotations

import _socket
import struct

from guest import netlink
from guest.topology import family_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence

NAME = "mptcp_pm"
ADD_ADDR, DEL_ADDR, GET_ADDR, FLUSH_ADDRS, SET_LIMITS, GET_LIMITS, SET_FLAGS = range(1, 8)
ANNOUNCE, REMOVE, SUBFLOW_CREATE, SUBFLOW_DESTROY = range(8, 12)
ATTR_ADDR, ATTR_RCV_ADD_ADDRS, ATTR_SUBFLOWS, ATTR_TOKEN, ATTR_LOC_ID, ATTR_REMOTE = range(1, 7)
ADDR_FAMILY, ADDR_ID, ADDR_4, ADDR_6, ADDR_PORT, ADDR_FLAGS, ADDR_IF_IDX = range(1, 8)

#: MPTCP_PM_ADDR_FLAG_*
SIGNAL, SUBFLOW, BACKUP, FULLMESH, IMPLICIT, LAMINAR = 1, 2, 4, 8, 16, 32

#: MPTCP_EVENT_*
CREATED, ESTABLISHED, CLOSED, ANNOUNCED, REMOVED = 1, 2, 3, 6, 7
SUB_ESTABLISHED, SUB_CLOSED, SUB_PRIORITY = 10, 11, 13
LISTENER_CREATED, LISTENER_CLOSED = 15, 16
EVENT_GROUP = "mptcp_pm_events"
#: Bits of an event's flags.
DENY_JOIN_ID0, SERVER_SIDE = 1, 2

#: net.mptcp.pm_type
IN_KERNEL, IN_USER_SPACE = 0, 1


class Endpoint:
    """One endpoint, or one address of a connection in user space's list."""

    __slots__ = ("address", "flags", "id", "interface", "port")

    def __init__(self, data: bytes) -> None:
        found = netlink.attributes(data)
        packed = found.get(ADDR_4) or found.get(ADDR_6) or b""
        self.address = _text(packed) if packed else ""
        self.id = _number(found, ADDR_ID)
        self.port = _number(found, ADDR_PORT)
        self.flags = _number(found, ADDR_FLAGS)
        self.interface = _number(found, ADDR_IF_IDX)

    def __repr__(self) -> str:
        return "%d: %s port %d flags %d dev %d" % (
            self.id,
            self.address,
            self.port,
            self.flags,
            self.interface,
        )


class PathManager:
    """Commands to the path managers. Raises ``netlink.Refused`` if the kernel refuses one."""

    def __init__(self) -> None:
        self.family = netlink.Generic(NAME)

    def close(self) -> None:
        self.family.close()

    # The in-kernel path manager.

    def add(self, address: str, flags: int, id: int = 0, port: int = 0, interface: int = 0) -> None:
        """A new endpoint; the kernel chooses its id unless one is given."""
        entry = _entry(address, id, flags, port, interface)
        self.family.call(ADD_ADDR, netlink.nested(ATTR_ADDR, *entry))

    def delete(self, id: int, address: str = "") -> None:
        """Remove an endpoint by its id; id 0 is the first address of each connection."""
        self.family.call(DEL_ADDR, netlink.nested(ATTR_ADDR, *_entry(address, id)))

    def get(self, id: int) -> Endpoint:
        answers = self.family.call(GET_ADDR, netlink.nested(ATTR_ADDR, *_entry("", id)))
        return Endpoint(netlink.attributes(answers[0][1])[ATTR_ADDR])

    def endpoints(self) -> Sequence[Endpoint]:
        return _endpoints(self.family.dump(GET_ADDR))

    def flush(self) -> None:
        self.family.call(FLUSH_ADDRS)

    def set_limits(self, add_addrs: Optional[int] = None, subflows: Optional[int] = None) -> None:
        """Set the number of accepted ADD_ADDRs, and of subflows besides the first."""
        parts = []
        if add_addrs is not None:
            parts.append(netlink.attribute(ATTR_RCV_ADD_ADDRS, netlink.u32(add_addrs)))
        if subflows is not None:
            parts.append(netlink.attribute(ATTR_SUBFLOWS, netlink.u32(subflows)))
        self.family.call(SET_LIMITS, *parts)

    def limits(self) -> tuple[int, int]:
        """(ADD_ADDRs accepted, subflows)"""
        found = netlink.attributes(self.family.call(GET_LIMITS)[0][1])
        return netlink.number(found[ATTR_RCV_ADD_ADDRS]), netlink.number(found[ATTR_SUBFLOWS])

    def set_flags(self, flags: int, id: int = 0, address: str = "", port: int = 0) -> None:
        """Change BACKUP and FULLMESH of an endpoint, found by its id or its address."""
        entry = _entry(address, id, flags, port)
        self.family.call(SET_FLAGS, netlink.nested(ATTR_ADDR, *entry))

    # The user-space path manager.

    def announce(
        self, token: int, address: str, id: int, flags: int = SIGNAL, port: int = 0
    ) -> None:
        """Send ADD_ADDR."""
        entry = netlink.nested(ATTR_ADDR, *_entry(address, id, flags, port))
        self.family.call(ANNOUNCE, _token(token), entry)

    def remove(self, token: int, id: int) -> None:
        """Send RM_ADDR for an address that was announced or has a subflow."""
        local = netlink.attribute(ATTR_LOC_ID, netlink.u8(id))
        self.family.call(REMOVE, _token(token), local)

    def create(
        self,
        token: int,
        local: str,
        id: int,
        remote: tuple[str, int],
        flags: int = 0,
        remote_id: int = 0,
        interface: int = 0,
    ) -> None:
        """Connect a subflow from ``local``, which becomes address ``id``, to ``remote``."""
        self.family.call(
            SUBFLOW_CREATE,
            _token(token),
            netlink.nested(ATTR_ADDR, *_entry(local, id, flags, interface=interface)),
            netlink.nested(ATTR_REMOTE, *_entry(remote[0], remote_id, port=remote[1])),
        )

    def destroy(self, token: int, local: tuple[str, int], remote: tuple[str, int]) -> None:
        """Close the subflow between two addresses with their ports."""
        self.family.call(
            SUBFLOW_DESTROY,
            _token(token),
            netlink.nested(ATTR_ADDR, *_entry(local[0], port=local[1])),
            netlink.nested(ATTR_REMOTE, *_entry(remote[0], port=remote[1])),
        )

    def set_priority(
        self, token: int, local: tuple[str, int], remote: tuple[str, int], flags: int
    ) -> None:
        """Send MP_PRIO on a subflow: ``flags`` is BACKUP or 0."""
        self.family.call(
            SET_FLAGS,
            _token(token),
            netlink.nested(ATTR_ADDR, *_entry(local[0], flags=flags, port=local[1])),
            netlink.nested(ATTR_REMOTE, *_entry(remote[0], port=remote[1])),
        )

    def addresses(self, token: int) -> Sequence[Endpoint]:
        """The addresses that a connection of the user-space path manager knows as its own."""
        return _endpoints(self.family.dump(GET_ADDR, _token(token)))

    def address(self, token: int, id: int) -> Endpoint:
        entry = netlink.nested(ATTR_ADDR, *_entry("", id))
        answers = self.family.call(GET_ADDR, _token(token), entry)
        return Endpoint(netlink.attributes(answers[0][1])[ATTR_ADDR])


class Event:
    """An event of the kernel about one connection; absent attributes are None."""

    __slots__ = ("_attributes", "_data", "kind")
    #: MPTCP_ATTR_*
    NUMBERS = {
        "token": 1,
        "family": 2,
        "loc_id": 3,
        "rem_id": 4,
        "backup": 11,
        "error": 12,
        "flags": 13,
        "if_idx": 15,
        "reset_reason": 16,
        "reset_flags": 17,
        "server_side": 18,
    }
    PORTS = {"sport": 9, "dport": 10}
    ADDRESSES = {"saddr": (5, 6), "daddr": (7, 8)}

    def __init__(self, kind: int, data: bytes) -> None:
        self.kind = kind
        self._data = data
        self._attributes: Optional[dict[int, bytes]] = None

    @property
    def attributes(self) -> dict[int, bytes]:
        # Parsed on demand: there are thousands, and most are never read.
        if self._attributes is None:
            self._attributes = netlink.attributes(self._data)
        return self._attributes

    def number(self, name: str) -> Optional[int]:
        data = self.attributes.get(self.NUMBERS[name])
        return None if data is None else netlink.number(data)

    def port(self, name: str) -> Optional[int]:
        data = self.attributes.get(self.PORTS[name])
        return None if data is None else int(struct.unpack("!H", data)[0])

    def address(self, name: str) -> Optional[str]:
        four, six = self.ADDRESSES[name]
        data = self.attributes.get(four) or self.attributes.get(six)
        return None if data is None else _text(data)

    @property
    def token(self) -> Optional[int]:
        return self.number("token")

    def __repr__(self) -> str:
        return "%d %s" % (self.kind, {kind: data.hex() for kind, data in self.attributes.items()})


class Events:
    """The events of this network namespace from now on, in order."""

    def __init__(self, manager: PathManager) -> None:
        self._source = netlink.Events(manager.family, EVENT_GROUP)
        self.seen: list[Event] = []

    def close(self) -> None:
        self._source.close()

    def read(self) -> Sequence[Event]:
        """All events so far; new ones are at the end."""
        self.seen += [Event(kind, data) for kind, data in self._source.pending()]
        return self.seen

    def forget(self) -> None:
        self._source.discard()
        self.seen = []

    def of(self, kind: int, token: int = 0) -> Sequence[Event]:
        """Those of one kind, and of one connection if a token is given."""
        return [one for one in self.read() if one.kind == kind and token in (0, one.token)]

    def first(self, kind: int, matches: Callable[[Event], bool]) -> Optional[Event]:
        return next((one for one in self.of(kind) if matches(one)), None)


def _entry(
    address: str, id: int = 0, flags: int = 0, port: int = 0, interface: int = 0
) -> Sequence[bytes]:
    """The attributes of one address, without those that are empty or 0."""
    parts = []
    if address:
        family = family_of(address)
        kind = ADDR_6 if family == _socket.AF_INET6 else ADDR_4
        parts.append(netlink.attribute(ADDR_FAMILY, netlink.u16(family)))
        parts.append(netlink.attribute(kind, _socket.inet_pton(family, address)))
    if id or not address:
        parts.append(netlink.attribute(ADDR_ID, netlink.u8(id)))
    if flags:
        parts.append(netlink.attribute(ADDR_FLAGS, netlink.u32(flags)))
    if port:
        parts.append(netlink.attribute(ADDR_PORT, netlink.u16(port)))
    if interface:
        parts.append(netlink.attribute(ADDR_IF_IDX, netlink.u32(interface)))
    return parts


def _token(token: int) -> bytes:
    return netlink.attribute(ATTR_TOKEN, netlink.u32(token))


def _endpoints(messages: Sequence[netlink.Message]) -> Sequence[Endpoint]:
    return [Endpoint(netlink.attributes(data)[ATTR_ADDR]) for _, data in messages]


def _number(found: dict[int, bytes], kind: int) -> int:
    return netlink.number(found[kind]) if kind in found else 0


def _text(packed: bytes) -> str:
    family = _socket.AF_INET6 if len(packed) == 16 else _socket.AF_INET
    return _socket.inet_ntop(family, packed)
