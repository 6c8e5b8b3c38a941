# SPDX-License-Identifier: GPL-2.0-only
"""Kernels that misbehave: the running kernel's answers, altered on their way to the checker."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass

from guest import abi, sockopt
from guest.options import Option

EIO = errno.EIO


@dataclass
class Call:
    """One getsockopt or setsockopt: what was asked, and the kernel's answer, to be altered."""

    level: int
    option: int
    asked: int  # optlen on the way in
    request: bytes
    error: int
    length: int
    data: bytearray
    sample: int  # how many calls for this option came before
    beyond: bytes = b""  # written behind the buffer

    @property
    def is_mptcp(self) -> bool:
        return self.level == abi.SOL_MPTCP

    def of(self, option: int) -> bool:
        return self.is_mptcp and self.option == option

    def add(self, at: int, code: str, amount: int) -> None:
        size = struct.calcsize(code)
        if self.error == 0 and at + size <= self.length:
            (value,) = struct.unpack_from(code, self.data, at)
            struct.pack_into(code, self.data, at, (value + amount) % 256**size)


Fault = Callable[[Call], None]


class FaultyKernel:
    """Stands where libc's functions stand in :mod:`guest.sockopt`."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._get, self._set = sockopt._getsockopt, sockopt._setsockopt
        self._samples: dict[int, int] = {}

    def getsockopt(self, fd: int, level: int, option: int, buffer: int, optlen: int) -> int:
        told = ctypes.c_int.from_address(optlen)
        asked = told.value
        size = max(0, asked)
        before = ctypes.string_at(buffer, size)
        failed = self._get(fd, level, option, buffer, optlen)
        error = ctypes.get_errno() if failed else 0
        sample = self._samples.get(option, 0)
        self._samples[option] = sample + 1
        data = ctypes.string_at(buffer, size)
        call = Call(level, option, asked, before, error, told.value, bytearray(data), sample)
        self._fault(call)
        if call.data != data:
            ctypes.memmove(buffer, bytes(call.data), size)
        if call.beyond:
            ctypes.memmove(buffer + size, call.beyond, len(call.beyond))
        told.value = call.length
        ctypes.set_errno(call.error)
        return -1 if call.error else 0


def bump(layout: abi.Layout, field: str, option: int, at: int = 0, growing: bool = False) -> Fault:
    """``field`` is off by one in every answer, or by one more each time."""
    code = layout._codes[field]

    def fault(call: Call) -> None:
        if call.of(option) and call.length > at:
            call.add(at + layout.offsets[field], code, call.sample if growing else 1)

    return fault


def bump_info(field: str, growing: bool = False) -> Fault:
    return bump(abi.MPTCP_INFO_LAYOUT, field, abi.MPTCP_INFO, growing=growing)


def bump_header(field: str, option: int) -> Fault:
    return bump(abi.SUBFLOW_DATA_LAYOUT, field, option)


def bump_full(field: str) -> Fault:
    return bump(abi.FULL_INFO_LAYOUT, field, abi.MPTCP_FULL_INFO)


def accepts(option: int) -> Fault:
    """What must be refused is accepted."""

    def fault(call: Call) -> None:
        if call.of(option) and call.error == errno.EINVAL:
            call.error = 0

    return fault


def refuses_with(option: int, wrong: int) -> Fault:
    """What must be refused is refused with another error."""

    def fault(call: Call) -> None:
        if call.of(option) and call.error == errno.EINVAL:
            call.error = wrong

    return fault


def fails(option: int, level: int = abi.SOL_MPTCP) -> Fault:
    """The option has stopped working."""

    def fault(call: Call) -> None:
        if (call.level, call.option) == (level, option):
            call.error = EIO

    return fault


def reads(option: Option, value: int) -> Fault:
    """The option says ``value``, whatever was set."""

    def fault(call: Call) -> None:
        if (call.level, call.option) == (option.level, option.number) and call.error == 0:
            struct.pack_into("=i", call.data, 0, value)

    return fault


def writes_beyond(option: int, level: int = abi.SOL_MPTCP) -> Fault:
    """One byte behind the buffer is overwritten."""

    def fault(call: Call) -> None:
        if (call.level, call.option) == (level, option) and call.error == 0:
            call.beyond = b"\0"

    return fault


def returned_length(option: int, amount: int, level: int = abi.SOL_MPTCP) -> Fault:
    """optlen comes back wrong."""

    def fault(call: Call) -> None:
        if (call.level, call.option) == (level, option) and call.error == 0:
            call.length += amount

    return fault
