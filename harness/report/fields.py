# SPDX-License-Identifier: GPL-2.0-only
"""The bytes of a failed check, field by field: structure, field, offset and value.

A result says which check failed and which bytes came, but not which structure they are. That
follows from the check's option and from the field that its text names.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from guest import abi
from harness.host.architectures import Arch

#: The largest answer that is decoded: two subflows of MPTCP_FULL_INFO have about 1200 bytes.
MAX_BYTES = 4096
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
#: mptcp_subflow_info of a 32-bit program, whose addresses are aligned to 4 bytes.
_SUBFLOW_INFO_32 = abi.Layout("mptcp_subflow_info", [("id", "I"), ("addrs", "256s:4")])
#: Without the embedded mptcp_info, which is decoded on its own.
_FULL_INFO_HEAD = abi.Layout(
    "mptcp_full_info",
    [
        (name, "Q" if name in ("subflow_info", "tcp_info") else "I")
        for name in list(abi.FULL_INFO_LAYOUT.offsets)[:-1]
    ],
)


@dataclass(frozen=True)
class Field:
    """One field; ``offset`` counts from the start of its structure, both are in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Structure:
    """One structure at ``offset`` in the bytes. ``values`` are those of its first ``fields``.

    A structure that the kernel filled in part has fewer values than fields.
    """

    name: str
    offset: int
    fields: tuple[Field, ...]
    values: tuple[str, ...]

    @property
    def rows(self) -> Iterator[tuple[Field, str]]:
        yield from zip(self.fields, self.values, strict=False)

    @property
    def missing(self) -> int:
        """The number of fields beyond the received bytes."""
        return len(self.fields) - len(self.values)


def decode(check: str, detail: str, raw: str, arch: str = "") -> tuple[Structure, ...]:
    """The structures in the hexadecimal ``raw`` of a failed ``check``; none if unknown.

    ``detail`` is what the check says it looked at, such as ``mptcpi_token``, and ``arch`` the
    kernel's architecture.
    """
    if len(raw) > 2 * MAX_BYTES or not _HEX.fullmatch(raw):
        return ()
    data = bytes.fromhex(raw)
    order = ">" if arch == Arch.S390X else "<"
    return tuple(_structures(check.partition(".")[0], detail, data, order))


def _structures(option: str, detail: str, data: bytes, order: str) -> Iterator[Structure]:
    if re.search(r"\bmptcpi_|\bmptcp_info\b|\bMPTCP_INFO\b", detail) or option == "mptcp_info":
        yield from _read(abi.MPTCP_INFO_LAYOUT, data, order)
    elif option in ("tcpinfo", "subflow_addrs") and _has_header(data, order):
        element = abi.TCP_INFO_LAYOUT if option == "tcpinfo" else abi.SUBFLOW_ADDRS_LAYOUT
        yield from _array(element, data, order)
    elif re.search(r"\btcpi_", detail) or option == "tcpinfo":
        yield from _read(abi.TCP_INFO_LAYOUT, data, order)
    elif option == "full_info" and detail in ("id", "addrs"):
        short = len(data) == _SUBFLOW_INFO_32.size
        yield from _read(_SUBFLOW_INFO_32 if short else abi.SUBFLOW_INFO_LAYOUT, data, order)
    elif option == "full_info":
        start = abi.FULL_INFO_LAYOUT.offsets["mptcp_info"]
        yield from _read(_FULL_INFO_HEAD, data[:start], order)
        yield from _read(abi.MPTCP_INFO_LAYOUT, data[start:], order, start)


def _has_header(data: bytes, order: str) -> bool:
    """Whether ``data`` begins with mptcp_subflow_data: no state of TCP is its size."""
    header = abi.SUBFLOW_DATA_LAYOUT
    return header.read(data, "size_subflow_data", order) == header.size


def _array(element: abi.Layout, data: bytes, order: str) -> Iterator[Structure]:
    """The header, and as many elements as it says and ``data`` has."""
    header = abi.SUBFLOW_DATA_LAYOUT
    yield from _read(header, data, order)
    size, count = (header.read(data, name, order) for name in ("size_user", "num_subflows"))
    if not isinstance(size, int) or not isinstance(count, int) or not size:
        return
    for number in range(min(count, (len(data) - header.size) // size)):
        start = header.size + number * size
        yield from _read(element, data[start : start + size], order, start)


def _read(layout: abi.Layout, data: bytes, order: str, offset: int = 0) -> Iterator[Structure]:
    """``data`` as one structure; nothing if there is not a single field."""
    fields = tuple(
        Field(name, start, layout.end_of(name) - start) for name, start in layout.offsets.items()
    )
    values = []
    for field in fields:
        value = layout.read(data, field.name, order)
        if value is None:
            break
        values.append(_shown(value, order))
    if values:
        yield Structure(layout.name, offset, fields, tuple(values))


def _shown(value: object, order: str) -> str:
    """A number in decimal, as expected and got are; addresses as people write them."""
    if not isinstance(value, bytes):
        return str(value)
    half = abi.SOCKADDR_STORAGE_SIZE
    if len(value) == 2 * half:
        return f"{_address(value[:half], order)}, {_address(value[half:], order)}"
    return _address(value, order) if len(value) == half else value.hex()


def _address(storage: bytes, order: str) -> str:
    """A sockaddr_storage, such as ``AF_INET 127.0.0.1 port 40000``."""
    family = abi.family_of(storage, order)
    port = int.from_bytes(storage[2:4], "big")
    if family == socket.AF_INET:
        return f"AF_INET {socket.inet_ntop(family, storage[4:8])} port {port}"
    if family == socket.AF_INET6:
        return f"AF_INET6 {socket.inet_ntop(family, storage[8:24])} port {port}"
    used = storage.rstrip(b"\0")
    return f"family {family}, {used.hex()}" if used else "all zero"
