# SPDX-License-Identifier: GPL-2.0-only
"""Structures: their offsets against real kernels, and how they are read."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import abi
from harness.kernels import Cache, elf, prepare
from harness.manifest.kernels_yaml import DebSource, KernelEntry

#: Suites, and what their kernels have: sizes of mptcp_info (None: not built in) and tcp_info.
GENERATIONS = {
    "bullseye": (None, 232),
    "bookworm": (48, 232),
    "trixie": (96, 248),
    "trixie-backports": (96, 280),
}
NAMES = {layout.name for layout in abi.LAYOUTS}
#: Inside unions without names.
ANONYMOUS = {"ss_local", "ss_remote"}
#: They fill what was padding or reserved before: no length tells whether a kernel has them.
FORMER_PADDING = {
    "mptcpi_retransmits",
    "mptcpi_endp_laminar_max",
    "mptcpi_endp_fullmesh_max",
    "mptcpi_last_data_sent",
}


def compare(layout: abi.Layout, kernel: elf.Structure) -> None:
    """Every field that the kernel has stands where our one definition says."""
    ours = {name: at for name, at in layout.offsets.items() if not name.startswith("_")}
    shared = ours.keys() & kernel.offsets.keys()
    assert {name: ours[name] for name in shared} == {name: kernel.offsets[name] for name in shared}
    ends = {name: layout.end_of(name) for name in ours.keys() - kernel.offsets.keys()}
    beyond = {name for name, end in ends.items() if end <= kernel.size} - ANONYMOUS - FORMER_PADDING
    assert not beyond, f"{layout.name}: the kernel's {kernel.size} bytes lack {beyond}"


@pytest.mark.boots  # boots nothing, but needs the same packages
@pytest.mark.parametrize("suite", GENERATIONS)
def test_offsets_are_those_of_a_real_kernel(suite: str, cache: Cache) -> None:
    source = DebSource(suite, "linux-image-amd64")
    kernel = prepare(KernelEntry("btf", source, "here"), cache, lambda _: None)
    found = elf.btf_structures(elf.section(kernel.boot_image.read_bytes(), elf.BTF_SECTION), NAMES)
    info_size, tcp_size = GENERATIONS[suite]
    assert found["tcp_info"].size == tcp_size
    assert found["mptcp_info"].size == info_size if info_size else "mptcp_info" not in found
    for layout in abi.LAYOUTS:
        if layout.name in found:
            compare(layout, found[layout.name])


@pytest.mark.mptcp
def test_offsets_are_those_of_the_running_kernel() -> None:
    own = Path("/sys/kernel/btf/vmlinux")
    if not own.exists():
        pytest.skip(f"the running kernel has no {own}")
    found = elf.btf_structures(own.read_bytes(), NAMES)
    assert "mptcp_info" in found
    for layout in abi.LAYOUTS:
        if layout.name in found:
            compare(layout, found[layout.name])


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (abi.MPTCP_INFO_LAYOUT, 96),
        (abi.TCP_INFO_LAYOUT, 280),
        (abi.SUBFLOW_DATA_LAYOUT, 16),
        (abi.SUBFLOW_ADDRS_LAYOUT, 256),
        (abi.SUBFLOW_INFO_LAYOUT, 264),
        (abi.FULL_INFO_LAYOUT, 40 + 96),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_sizes_are_those_of_linux_7_3(layout: abi.Layout, size: int) -> None:
    assert layout.size == size


def test_packet_stats_are_the_structure_of_6_5() -> None:
    assert abi.PACKET_STATS_SIZE == 80


@given(st.sampled_from(abi.LAYOUTS), st.data())
def test_what_is_packed_is_read_back(layout: abi.Layout, data: st.DataObject) -> None:
    fields = [name for name in layout.offsets if layout._codes[name][1:] in "BHIQ"]
    values = {
        name: data.draw(st.integers(0, 256 ** struct.calcsize(layout._codes[name]) - 1), name)
        for name in fields
    }
    view = layout.view(layout.pack(**values))
    assert {name: getattr(view, name) for name in fields} == values


@given(st.sampled_from(abi.LAYOUTS), st.binary(max_size=300))
def test_a_field_beyond_what_was_returned_is_never_zero(layout: abi.Layout, data: bytes) -> None:
    view = layout.view(data)
    for name in layout.offsets:
        if view.has(name):
            assert getattr(view, name) is not None
        else:
            with pytest.raises(abi.Truncated):
                getattr(view, name)


def test_counters_wrap_at_2_to_the_64() -> None:
    assert abi.advance(3, 2**64 - 2) == 5
