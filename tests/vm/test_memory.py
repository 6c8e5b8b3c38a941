# SPDX-License-Identifier: GPL-2.0-only
"""A VM that is too small is refused with the number, before anything boots."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import pytest

from harness.kernels.kernel_image import PreparedKernel
from harness.vm import boot, commandline
from harness.vm.boot import BootPlan, Deadlines
from harness.vm.commandline import Machine, Request, Unsafe
from tests.kernels import builders

MIB = 1 << 20


def kernel(directory: Path, image: bytes, *, modules: int = 0) -> PreparedKernel:
    (directory / "image").write_bytes(image)
    (directory / "module.ko").write_bytes(bytes(modules))
    place = directory / "image"
    return PreparedKernel(
        *("k", "6.12.1", "v", "o", place, "0" * 64, directory, place, (directory / "module.ko",))
    )


def vmlinux(loaded: int) -> bytes:
    """As much of an ELF file as tells how large it is in memory, in two segments."""
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0
    )
    sizes = [(1, loaded - MIB), (1, MIB), (4, 1 << 40)]  # the last, a note, is not loaded
    segments = [struct.pack("<IIQQQQQQ", kind, 0, 0, 0, 0, 0, size, 0) for kind, size in sizes]
    return header + b"".join(segments)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    with path.open("wb") as file:
        file.truncate(30 * MIB)
    return path


def test_the_kernel_and_twice_the_root_must_fit(tmp_path: Path, base: Path) -> None:
    small = commandline.needed_mib(kernel(tmp_path, vmlinux(40 * MIB)), base)
    assert 40 + 2 * 30 + commandline.REST_MIB <= small <= 40 + 2 * 30 + commandline.REST_MIB + 32
    assert small % commandline.STEP_MIB == 0
    larger = commandline.needed_mib(kernel(tmp_path, vmlinux(80 * MIB)), base)
    assert larger in (small + 32, small + 48)
    modules = commandline.needed_mib(kernel(tmp_path, vmlinux(40 * MIB), modules=32 * MIB), base)
    assert modules in (small + 64, small + 80)


def test_a_bzimage_says_how_much_it_takes(tmp_path: Path, base: Path) -> None:
    image = bytearray(builders.bzimage())
    image[0x206:0x208] = (0x20F).to_bytes(2, "little")
    image[0x260:0x264] = (64 * MIB).to_bytes(4, "little")
    assert commandline.needed_mib(kernel(tmp_path, bytes(image)), base) >= 64 + 2 * 30


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (Machine(memory_mib=128), "memory: 128M leaves 128 MiB"),
        (Machine(memory_mib=512, append=("quiet", "mem=64M")), "mem=64M leaves 64 MiB"),
        (Machine(memory_mib=512, append=("mem=131072K",)), "mem=131072K leaves 128 MiB"),
    ],
)
def test_too_little_is_refused_with_the_amount(
    tmp_path: Path, base: Path, machine: Machine, said: str
) -> None:
    found = kernel(tmp_path, vmlinux(40 * MIB))
    with pytest.raises(Unsafe, match=said) as refused:
        commandline.check_memory(found, base, machine)
    assert f"memory: {commandline.needed_mib(found, base)}M" in str(refused.value)


def test_what_is_needed_is_enough(tmp_path: Path, base: Path) -> None:
    found = kernel(tmp_path, vmlinux(40 * MIB))
    commandline.check_memory(found, base, Machine(memory_mib=commandline.needed_mib(found, base)))
    commandline.check_memory(
        found, base, Machine(memory_mib=512, append=("mem=1G", "memmap=1M", "mem=junk"))
    )


def test_a_boot_is_refused_before_virtme_ng_starts(tmp_path: Path, base: Path) -> None:
    plan = BootPlan(
        *(kernel(tmp_path, vmlinux(40 * MIB)), base, Path("/nonexistent"), Machine(memory_mib=128)),
        *(Request("0" * 16, 1), Deadlines.scaled(1, kvm=False)),
        tmp_path / "attempt",
    )
    with pytest.raises(Unsafe, match="needs at least 176 MiB"):
        boot.boot(plan, threading.Event(), lambda _: None)
    assert not (tmp_path / "attempt").exists()
