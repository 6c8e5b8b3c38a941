# SPDX-License-Identifier: GPL-2.0-only
"""Addresses for several subflows, on the loopback interface, and second network namespaces.

Addresses on ``lo`` need no module and no second interface: a subflow from 10.0.2.1 to 10.0.1.2 is
another path than one from 10.0.1.1. To break such a path, remove its address: packets are then
dropped until the address is back.
"""

from __future__ import annotations

import _socket
import ctypes
import errno
import os
import struct

from guest import netlink
from guest.lab import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

NEW_ADDRESS, DELETE_ADDRESS, GET_ROUTE = 20, 21, 26
RTA_DST = 1
RTN_LOCAL = 2
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
#: Without duplicate address detection an address can be used at once.
IFA_F_NODAD = 0x02
LOOPBACK_INDEX = 1
CLONE_NEWNET = 0x40000000
PATHS = 4

_HEADER = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix, flags, scope, index
_ROUTE = struct.Struct("=8BI")  # struct rtmsg: family, dst_len, ..., type, flags
_ROUTE_TYPE = 7


def client_address(family: int, path: int) -> str:
    """The client's address on ``path``, which counts from 1."""
    return "fd00:%d::1" % path if family == _socket.AF_INET6 else "10.0.%d.1" % path


def server_address(family: int, path: int) -> str:
    return "fd00:%d::2" % path if family == _socket.AF_INET6 else "10.0.%d.2" % path


def family_of(address: str) -> int:
    return _socket.AF_INET6 if ":" in address else _socket.AF_INET


def mapped(address: str) -> str:
    """``address`` as an AF_INET6 socket writes it."""
    return address if ":" in address else "::ffff:" + address


class Loopback:
    """Adds addresses to ``lo`` of this network namespace, and takes them away."""

    def __init__(self) -> None:
        self._netlink = netlink.Netlink(netlink.ROUTE)

    def close(self) -> None:
        self._netlink.close()

    def add(self, address: str) -> None:
        """Add ``address``, and wait until packets to it are delivered."""
        self._add(address)
        self._wait_for_route(address)

    def _add(self, address: str) -> None:
        self._netlink.request(NEW_ADDRESS, _address(address), netlink.CREATE | netlink.REPLACE)

    def _wait_for_route(self, address: str) -> None:
        # IPv6 makes the local route in a workqueue (addrconf_dad_work), even without DAD.
        if not wait_until(lambda: self._is_local(address)):
            raise OSError(errno.EADDRNOTAVAIL, "no local route to " + address)

    def _is_local(self, address: str) -> bool:
        family = family_of(address)
        packed = _socket.inet_pton(family, address)
        request = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0)
        try:
            body = self._netlink.query(GET_ROUTE, request + netlink.attribute(RTA_DST, packed))
        except netlink.Refused:
            return False
        return body[_ROUTE_TYPE] == RTN_LOCAL

    def remove(self, address: str) -> None:
        self._netlink.request(DELETE_ADDRESS, _address(address))

    def add_paths(self, family: int, paths: int = PATHS) -> None:
        """The addresses of both ends on paths 1 to ``paths``."""
        added = [
            make(family, path)
            for path in range(1, paths + 1)
            for make in (client_address, server_address)
        ]
        for address in added:
            self._add(address)
        for address in added:
            self._wait_for_route(address)


def _address(address: str) -> bytes:
    family = family_of(address)
    packed = _socket.inet_pton(family, address)
    flags = IFA_F_NODAD if family == _socket.AF_INET6 else 0
    body = _HEADER.pack(family, 8 * len(packed), flags, 0, LOOPBACK_INDEX)
    return body + netlink.attribute(IFA_LOCAL, packed) + netlink.attribute(IFA_ADDRESS, packed)


class Namespace:
    """A further network namespace; as a context manager it is this thread's.

    Sockets that are made in it stay there.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._home = _open_current()
        self._other: Optional[int] = None
        if self._libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            os.close(self._home)
            raise OSError(number, "unshare(CLONE_NEWNET)")
        self._other = _open_current()
        self._enter(self._home)

    def __enter__(self) -> Namespace:
        assert self._other is not None
        self._enter(self._other)
        return self

    def __exit__(self, *exception: object) -> None:
        self._enter(self._home)

    def close(self) -> None:
        if self._other is not None:
            os.close(self._other)
            os.close(self._home)
            self._other = None

    def _enter(self, descriptor: int) -> None:
        if self._libc.setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _open_current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
