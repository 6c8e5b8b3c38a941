# SPDX-License-Identifier: GPL-2.0-only
"""What is known of a kernel's configuration before it boots, by each kind of evidence."""

from __future__ import annotations

import gzip
import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from harness import kernels
from harness.errors import KernelUnavailable
from harness.kernels import image
from harness.kernels.cache import Cache
from harness.kernels.kconfig import OPTIONS, REMEDY, fragment
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.kernels_yaml import ImageSource, KernelEntry, TreeSource
from harness.run.request import RunRequest
from tests import fake_boots
from tests.kernels import builders
from tests.kernels.builders import RELEASE
from tests.kernels.conftest import Said

COMPLETE = {"CONFIG_X86_64": "y", **{option.name: "y" for option in OPTIONS}}


def config(**changed: str) -> bytes:
    """A .config; of ``changed`` what is "n" is not set."""
    values = COMPLETE | {f"CONFIG_{name}": value for name, value in changed.items()}
    lines = [f"# {k} is not set" if v == "n" else f"{k}={v}" for k, v in values.items()]
    return ("\n".join(lines) + "\n").encode()


def kernel(sections: Mapping[str, bytes] | None = None, drivers: bytes = builders.DRIVERS) -> bytes:
    banner = f"Linux version {RELEASE} (builder@host) #1 SMP Tue\n\0".encode()
    return builders.elf({".rodata": banner + drivers, **(sections or {})}, [builders.PVH_NOTE])


def telling(text: bytes, drivers: bytes = builders.DRIVERS) -> bytes:
    """A kernel with IKCONFIG."""
    return kernel({".config": b"IKCFG_ST" + gzip.compress(text) + b"IKCFG_ED"}, drivers)


def btf(*structures: str) -> bytes:
    """BTF (docs.kernel.org/bpf/btf.html) of empty structures with these names."""
    names, types = b"\0", b""
    for name in structures:
        types += struct.pack("<III", len(names), 4 << 24, 0)
        names += name.encode() + b"\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
    return header + types + names


def prepared(cache: Cache, say: Said, path: Path, data: bytes) -> PreparedKernel:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return image.prepare("mine", ImageSource(path), cache, say)


@pytest.mark.parametrize("pack", [builders.bzimage, bytes], ids=["bzImage", "vmlinux"])
def test_an_image_tells_all_that_it_lacks_to_boot(
    cache: Cache, say: Said, tmp_path: Path, pack: type[bytes]
) -> None:
    data = pack(telling(config(VIRTIO_CONSOLE="n", BLK_DEV_INITRD="n", MPTCP="n")))
    with pytest.raises(KernelUnavailable) as raised:
        prepared(cache, say, tmp_path / "image", data)
    said = str(raised.value)
    assert "according to its own IKCONFIG, it was built without CONFIG_VIRTIO_CONSOLE (" in said
    assert "CONFIG_BLK_DEV_INITRD (" in said
    assert "and CONFIG_MPTCP (what is tested)" in said
    assert said.endswith(f"configure and build it with: {REMEDY}")


def test_a_kernel_that_has_all_gets_no_note(cache: Cache, say: Said, tmp_path: Path) -> None:
    assert prepared(cache, say, tmp_path / "bzImage", telling(config())).notes == ()


def test_a_kernel_without_mptcp_is_booted_and_that_is_said(
    cache: Cache, say: Said, tmp_path: Path
) -> None:
    data = builders.bzimage(telling(config(MPTCP="n")))
    (note,) = prepared(cache, say, tmp_path / "bzImage", data).notes
    assert note.startswith(
        "according to its own IKCONFIG, this kernel was built without CONFIG_MPTCP ("
    )


def test_a_kernel_from_the_cache_keeps_its_note(cache: Cache, say: Said, tmp_path: Path) -> None:
    data = telling(config(MPTCP_IPV6="n"))
    notes = [prepared(cache, say, tmp_path / "bzImage", data).notes for _ in range(2)]
    assert notes[0] == notes[1] != ()


def test_the_configuration_of_the_tree_tells_for_an_image_without_one(
    cache: Cache, say: Said, tmp_path: Path
) -> None:
    source = builders.write(tmp_path / "linux", {".config": config(DEVTMPFS="n")})
    with pytest.raises(
        KernelUnavailable, match=r"according to .*/linux/\.config, .* CONFIG_DEVTMPFS"
    ):
        prepared(cache, say, source / "arch/x86/boot/bzImage", builders.bzimage())


def test_a_tree_is_looked_at_like_an_image(cache: Cache, say: Said, tmp_path: Path) -> None:
    source = builders.write(
        tmp_path / "linux",
        {".config": config(PCI="n"), "arch/x86/boot/bzImage": builders.bzimage()},
    )
    with pytest.raises(KernelUnavailable, match="CONFIG_PCI"):
        image.prepare_tree("mine", TreeSource(source), cache, say)


def test_the_image_is_believed_over_the_tree(cache: Cache, say: Said, tmp_path: Path) -> None:
    source = builders.write(tmp_path / "linux", {".config": config(DEVTMPFS="n")})
    data = builders.bzimage(telling(config()))
    assert prepared(cache, say, source / "arch/x86/boot/bzImage", data).notes == ()


def test_a_configuration_that_was_changed_after_the_build_tells_nothing(
    cache: Cache, say: Said, tmp_path: Path
) -> None:
    source = builders.write(tmp_path / "linux", {".config": config(DEVTMPFS="n")})
    os.utime(source / ".config", (4e9, 4e9))
    assert prepared(cache, say, source / "vmlinux", builders.vmlinux()).notes == ()


def test_a_tree_that_lists_what_is_built_in_names_all_that_is_missing(
    cache: Cache, say: Said, tmp_path: Path
) -> None:
    source = builders.write(
        tmp_path / "linux",
        {".config": config(VIRTIO_PCI="n", PROC_FS="n"), "modules.builtin": b"kernel/x/y.ko\n"},
    )
    with pytest.raises(KernelUnavailable, match=r"CONFIG_VIRTIO_PCI .* and CONFIG_PROC_FS"):
        prepared(cache, say, source / "arch/x86/boot/bzImage", builders.bzimage())


def test_btf_tells_whether_there_is_mptcp(cache: Cache, say: Said, tmp_path: Path) -> None:
    without = kernel({".BTF": btf("sock", "inet_sock")})
    (note,) = prepared(cache, say, tmp_path / "vmlinux", without).notes
    assert note.startswith(
        "according to its BTF, this kernel was built without CONFIG_MPTCP (what is tested)"
    )
    has = kernel({".BTF": btf("sock", "mptcp_sock")})
    assert prepared(cache, say, tmp_path / "other", has).notes == ()


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {".BTF": btf("list_head")},
        {".BTF": b"damaged"},
        {".config": b"IKCFG_ST" + gzip.compress(config(PCI="n"))[:-9] + b"IKCFG_ED"},
        {".config": b"IKCFG_ST" + gzip.compress(config(PCI="n"))},
        {".config": b"IKCFG_ST" + gzip.compress(b"CONFIG_ARM64=y\n") + b"IKCFG_ED"},
    ],
    ids=["nothing", "BTF of something else", "damaged BTF", "torn", "no end", "another machine"],
)
def test_without_evidence_nothing_is_said(
    cache: Cache, say: Said, tmp_path: Path, sections: dict[str, bytes]
) -> None:
    assert prepared(cache, say, tmp_path / "vmlinux", kernel(sections)).notes == ()


def test_what_was_known_before_the_boot_stands_in_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    outcomes = fake_boots.Outcomes(tmp_path)
    outcomes.install(monkeypatch.setattr)

    def prepare(entry: KernelEntry, *_: object) -> PreparedKernel:
        return replace(outcomes.prepare(entry), notes=("it was built without CONFIG_MPTCP",))

    monkeypatch.setattr(kernels, "prepare", prepare)
    run = fake_boots.run(
        tmp_path, fake_boots.entries(1), lambda _: None, RunRequest(), threading.Event()
    )
    assert run.kernels[0].notes[0] == "it was built without CONFIG_MPTCP"


@pytest.mark.parametrize("tells", [True, False], ids=["IKCONFIG", "no configuration"])
def test_an_image_without_its_modules_says_which_and_where_they_were_looked_for(
    cache: Cache, say: Said, tmp_path: Path, tells: bool
) -> None:
    """Debian's vmlinuz of 6.1, copied alone: the guest would stay silent."""
    modular = config(VIRTIO_PCI="m", VIRTIO_CONSOLE="m")
    data = telling(modular, b"\0") if tells else kernel(drivers=b"\0")
    with pytest.raises(KernelUnavailable) as raised:
        prepared(cache, say, tmp_path / "vmlinuz", builders.bzimage(data))
    said = str(raised.value)
    assert "needs its 2 modules virtio_pci and virtio_console" in said
    assert f"searched: {tmp_path / 'lib/modules' / RELEASE} and " in said
    assert f"lib/modules/{RELEASE} as --modules DIR" in said


def test_a_driver_that_is_not_even_a_module_is_an_option_that_is_missing(
    cache: Cache, say: Said, tmp_path: Path
) -> None:
    data = telling(config(VIRTIO_CONSOLE="n"), b"\0virtio-pci\0")
    with pytest.raises(KernelUnavailable, match="built without CONFIG_VIRTIO_CONSOLE"):
        prepared(cache, say, tmp_path / "vmlinuz", data)


def test_modules_beside_the_image_are_found(cache: Cache, say: Said, tmp_path: Path) -> None:
    installed = tmp_path / "lib/modules" / RELEASE
    builders.write(
        installed,
        {f"{name}.ko": builders.module(name) for name in ("virtio_pci", "virtio_console")},
    )
    found = prepared(cache, say, tmp_path / "vmlinuz", kernel(drivers=b"\0"))
    assert {path.name for path in found.modules} == {"virtio_console.ko", "virtio_pci.ko"}


def test_a_command_line_that_is_replaced_is_said_before_a_boot(
    cache: Cache, say: Said, tmp_path: Path
) -> None:
    """Its console would end with nothing at all."""
    data = telling(config(CMDLINE_OVERRIDE="y"))
    with pytest.raises(KernelUnavailable, match=r"built with CONFIG_CMDLINE_OVERRIDE \(the com"):
        prepared(cache, say, tmp_path / "image", data)
    assert prepared(cache, say, tmp_path / "image", telling(config(CMDLINE_OVERRIDE="n")))


def test_the_configuration_that_is_asked_for_replaces_no_command_line() -> None:
    assert "# CONFIG_CMDLINE_OVERRIDE is not set\n" in fragment()
