# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import contextlib
import lzma
import struct
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import KernelUnavailable
from harness.host.architectures import ARCHITECTURES, Arch
from harness.kernels import elf
from harness.kernels.kernel_image import Image, ImageKind, assemble, recognise
from harness.kernels.modules import ModuleSet
from tests.kernels import builders
from tests.kernels.builders import COMPRESSIONS, PVH_NOTE, RELEASE, bzimage, vmlinux
from tests.kernels.builders import elf as build_elf


def refusal(data: bytes) -> str:
    with pytest.raises(KernelUnavailable) as caught:
        recognise(data, "my/kernel")
    return str(caught.value)


def boot_image(image: Image) -> bytes | None:
    """The vmlinux that QEMU is to start; None where that is the image itself."""
    with tempfile.TemporaryDirectory() as directory:
        built = assemble(Path(directory), image, ModuleSet())
        files = {path.name for path in (Path(directory) / "boot").iterdir()}
        assert files == {Path(name).name for name in (built.image, built.boot_image)}
        kernel = (Path(directory) / built.boot_image).read_bytes()
        return kernel if built.boot_image != built.image else None


def test_a_bzimage_names_its_release_and_build() -> None:
    image = recognise(bzimage(), "x")
    assert (image.kind, image.release) == (ImageKind.BZIMAGE, RELEASE)
    assert image.version == "(builder@host) #1 SMP Tue"


def test_a_vmlinux_names_its_release_and_build() -> None:
    image = recognise(vmlinux("6.6.0-rc1+"), "x")
    assert (image.kind, image.release) == (ImageKind.VMLINUX, "6.6.0-rc1+")
    assert image.version == "(builder@host) (gcc 12) #1 SMP Tue"


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_the_kernel_within_a_bzimage_is_found(name: str) -> None:
    kernel = vmlinux()
    found = boot_image(recognise(bzimage(kernel, compress=COMPRESSIONS[name]), "x"))
    assert found == kernel


def test_a_kernel_is_never_in_memory_as_a_whole() -> None:
    """A run with two new kernels at a time took 300 MiB for them."""
    kernel = vmlinux() + bytes(32 << 20)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "vmlinuz"
        place.write_bytes(bzimage(kernel))
        tracemalloc.start()
        try:
            built = assemble(Path(directory), recognise(elf.mapped(place), "x"), ModuleSet())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (Path(directory) / built.boot_image).stat().st_size == len(kernel)
    assert peak < 8 << 20


def test_relocations_behind_the_kernel_within_are_no_obstacle() -> None:
    kernel = vmlinux() + bytes(range(200))
    assert boot_image(recognise(bzimage(kernel), "x")) == kernel


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(bzimage(compress=lambda data: b"\x89LZO\0" + data), id="lzo"),
        pytest.param(bzimage(vmlinux(pvh=False)), id="without PVH"),
        pytest.param(bzimage(b"not ELF " * 100), id="not ELF"),
        pytest.param(bzimage(vmlinux("6.1.0-other")), id="of another release"),
    ],
)
def test_what_qemu_could_not_start_stays_a_bzimage(image: bytes) -> None:
    assert boot_image(recognise(image, "x")) is None


def test_a_damaged_kernel_within_is_an_error() -> None:
    image = bytearray(bzimage())
    image[2400] ^= 1
    with pytest.raises(KernelUnavailable, match="my/kernel is damaged"):
        boot_image(recognise(bytes(image), "my/kernel"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "is empty", id="empty"),
        pytest.param("Größe: viel\n".encode() * 9, "is a text file", id="text"),
        pytest.param(b"\x1f\x8b\x08" + bytes(99), "is compressed with gzip", id="gzip"),
        pytest.param(b"MZ" + bytes(54) + b"ARM\x64" + bytes(9), "for arm64", id="arm64"),
        pytest.param(b"MZ\0\0zimg" + bytes(99), "for arm64", id="zboot"),
        pytest.param(bzimage()[:300], "truncated", id="within the boot sector"),
        pytest.param(bzimage()[:0x250], "within its setup header", id="within the header"),
        pytest.param(bzimage()[:-40], "it is truncated", id="within the kernel"),
        pytest.param(bzimage(xloadflags=0), "32-bit kernel", id="32 bits"),
        pytest.param(vmlinux(machine=183), "for arm64", id="arm64 ELF"),
        pytest.param(vmlinux(machine=4711), "number 4711", id="unheard-of machine"),
        pytest.param(vmlinux()[:-1], "it is truncated", id="within the section headers"),
        pytest.param(vmlinux()[:40], "within the ELF header", id="within the ELF header"),
        pytest.param(vmlinux(pvh=False), "CONFIG_PVH", id="without PVH"),
        pytest.param(build_elf({".text": b"x"}, [PVH_NOTE]), "no Linux version", id="program"),
        pytest.param(bytes(range(256)) * 9, "is not a kernel image", id="anything"),
        pytest.param(bzimage(release="../../etc"), "no usable release", id="hostile release"),
    ],
)
def test_a_misfit_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    said = refusal(data)
    assert said.startswith("my/kernel ")
    assert reason in said


def test_a_refusal_says_what_to_give_instead() -> None:
    assert "give an x86-64 bzImage" in refusal(b"text")


@given(st.binary(max_size=3000))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    with pytest.raises(KernelUnavailable):
        recognise(data, "x")


@given(
    st.sampled_from([bzimage(), vmlinux()]),
    st.lists(st.tuples(st.integers(min_value=0), st.integers(1, 255)), max_size=8),
    st.integers(min_value=0),
)
def test_no_mutation_of_a_kernel_raises_anything_but_a_refusal(
    data: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    mutated = bytearray(data)
    for place, change in changes:
        # Headers are where the parsers look: half of the changes go there.
        place %= len(mutated) if place % 2 else 0x268
        mutated[place] ^= change
    kept = len(mutated) - (length % len(mutated) if length % 3 == 0 else 0)
    with contextlib.suppress(KernelUnavailable):
        boot_image(recognise(bytes(mutated[:kept]), "x"))


def test_a_vmlinux_with_very_many_sections_is_read() -> None:
    data = bytearray(vmlinux())
    offset = struct.unpack_from("<Q", data, 40)[0]
    count = struct.unpack_from("<H", data, 60)[0]
    struct.pack_into("<H", data, 60, 0)
    struct.pack_into("<Q", data, offset + 32, count)
    assert elf.section(bytes(data), b".rodata").startswith(b"Linux version")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"!<arch>\ndebian-binary   1410122664  0     0     100644  4", r"deb: \{file: …\}"),
        (b"\xed\xab\xee\xdb\3\0" + bytes(100), r"rpm: \{file: …\}"),
        (lzma.compress(b"lib/modules/6.1/kernel/x.ko" * 50), "tar -xf FILE -C DIR"),
    ],
    ids=["deb", "rpm", "modules.tar.xz"],
)
def test_an_artefact_as_it_comes_is_refused_with_the_way_out(data: bytes, said: str) -> None:
    with pytest.raises(KernelUnavailable, match=said):
        recognise(data, "vmlinuz")


def test_the_kernel_in_a_uki_is_taken() -> None:
    found = recognise(builders.uki(bzimage()), "linux.efi")
    assert (found.release, bytes(found.data)) == (RELEASE, bzimage())


def test_a_uki_that_ends_within_its_kernel_is_refused() -> None:
    with pytest.raises(KernelUnavailable, match=r"linux\.efi cannot be booted: it is truncated"):
        recognise(builders.uki(bzimage())[:-1], "linux.efi")


def test_a_uki_in_a_uki_is_no_kernel() -> None:
    with pytest.raises(KernelUnavailable, match=r"linux\.efi starts like a kernel's EFI stub"):
        recognise(builders.uki(builders.uki(bzimage())), "linux.efi")


def raw(arch: Arch, banner: bytes = b"Linux version 6.12.1-x (builder@host) #1 SMP Tue\n") -> bytes:
    """An image such as a build for ``arch`` leaves."""
    at, magic = ARCHITECTURES[arch].magic or (0, b"")
    if arch is Arch.S390X:
        # The bytes before it are compressed code, and may be letters or digits.
        banner = b"976.12.1-x (builder@host) #1 SMP Tue"
        start = (bytes(at) + magic).ljust(0x10428, b"\0") + struct.pack(">Q", 0x10500 + 2)
        return start.ljust(0x10500, b"\0") + banner + b"\0"
    return bytes(at) + magic + bytes(64) + banner + b"\0"


@pytest.mark.parametrize("arch", [Arch.ARM64, Arch.S390X, Arch.RISCV64])
def test_a_raw_image_of_another_architecture_names_its_release(arch: Arch) -> None:
    image = recognise(raw(arch), "x", arch)
    assert (image.kind, image.release) == (ImageKind.RAW, "6.12.1-x")
    assert image.version == "(builder@host) #1 SMP Tue"
    assert boot_image(image) is None


def test_a_vmlinux_of_powerpc_needs_no_pvh() -> None:
    image = recognise(vmlinux("6.12.1-x", pvh=False, machine=21), "x", Arch.PPC64EL)
    assert (image.kind, image.release) == (ImageKind.VMLINUX, "6.12.1-x")


@pytest.mark.parametrize(
    ("data", "arch", "said"),
    [
        (raw(Arch.ARM64), Arch.S390X, "is an image for arm64, and this entry says arch: s390x"),
        (bzimage(), Arch.RISCV64, "is an image for x86-64, and this entry says arch: riscv64"),
        (vmlinux(), Arch.PPC64EL, "an ELF file for x86-64, not for ppc64el"),
        (vmlinux(), Arch.ARM64, "an ELF file, which QEMU does not start"),
        (b"\x1f\x8b" + bytes(99), Arch.ARM64, "is compressed with gzip"),
        (b"", Arch.S390X, "is empty"),
        (raw(Arch.ARM64, b""), Arch.ARM64, "truncated or no kernel"),
        (raw(Arch.S390X)[:0x10010], Arch.S390X, "truncated or no kernel"),
        (raw(Arch.S390X)[:0x10440], Arch.S390X, "truncated or no kernel"),
    ],
)
def test_an_image_of_another_architecture_is_refused(data: bytes, arch: Arch, said: str) -> None:
    with pytest.raises(KernelUnavailable) as caught:
        recognise(data, "my/kernel", arch)
    assert str(caught.value).startswith("my/kernel ")
    assert said in str(caught.value)
    assert str(ARCHITECTURES[arch].tree_image) in str(caught.value)
