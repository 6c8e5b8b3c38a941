# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import lzma
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from harness.errors import KernelUnavailable
from harness.kernels import modules
from harness.kernels.modules import Module, ModuleSet
from tests.kernels import builders
from tests.kernels.builders import MODULES, RELEASE


class Shelf:
    """Modules by path, given out by name as a source does; ``passes`` is what was asked for."""

    def __init__(self, paths: Mapping[str, Sequence[str]]) -> None:
        self.paths = paths
        self.passes: list[frozenset[str]] = []

    def __call__(self, names: frozenset[str]) -> Iterator[Module]:
        self.passes.append(names)
        for path, depends in self.paths.items():
            if modules.module_name(path) in names:
                yield modules.load(path, builders.module(Path(path).stem, depends))


def names(found: Sequence[Module]) -> list[str]:
    return [module.name for module in found]


def test_the_modules_of_a_boot_come_with_all_they_depend_on_and_nothing_else() -> None:
    found = names(modules.collect(Shelf(MODULES)))
    assert set(found) == {Path(path).stem for path in MODULES} - {"e1000"}
    assert len(set(found)) == len(found)


def test_each_module_comes_after_all_that_it_depends_on() -> None:
    found = modules.collect(Shelf(MODULES))
    for number, module in enumerate(found):
        assert set(module.depends) <= set(names(found[:number]))


def test_the_same_modules_are_always_in_the_same_order() -> None:
    backwards = dict(reversed(MODULES.items()))
    assert names(modules.collect(Shelf(MODULES))) == names(modules.collect(Shelf(backwards)))


def test_one_pass_suffices_for_known_kernels() -> None:
    shelf = Shelf(MODULES)
    modules.collect(shelf)
    assert len(shelf.passes) == 1


def test_a_dependency_nobody_thought_of_costs_a_second_pass() -> None:
    shelf = Shelf({"kernel/virtio_pci.ko": ["new-helper"], "kernel/lib/new_helper.ko": []})
    assert names(modules.collect(shelf)) == ["new_helper", "virtio_pci"]
    assert shelf.passes[1:] == [frozenset({"new_helper"})]


def test_modules_for_sock_diag_come_along_where_they_are_modules() -> None:
    diag = {
        "kernel/net/mptcp/mptcp_diag.ko": ["inet_diag"],
        "kernel/net/ipv4/inet_diag.ko": [],
        "kernel/net/ipv4/tcp_diag.ko": ["inet_diag"],
        "kernel/net/ipv4/udp_diag.ko": ["inet_diag"],
    }
    found = names(modules.collect(Shelf({**MODULES, **diag})))
    assert {"inet_diag", "tcp_diag", "mptcp_diag"} <= set(found)
    assert found.index("inet_diag") < min(found.index("tcp_diag"), found.index("mptcp_diag"))
    assert "udp_diag" not in found


def test_a_module_for_sock_diag_without_its_dependency_is_left_out() -> None:
    shelf = Shelf({**MODULES, "kernel/net/mptcp/mptcp_diag.ko": ["inet_diag"]})
    assert "mptcp_diag" not in names(modules.collect(shelf))


def test_a_dependency_that_is_missing_is_an_error() -> None:
    with pytest.raises(KernelUnavailable, match=r"the module virtio, .* is missing"):
        modules.collect(Shelf({"kernel/virtio_pci.ko": ["virtio"]}))


@pytest.mark.parametrize(
    "paths",
    [
        {"virtio_pci.ko": ["virtio"], "virtio.ko": ["virtio_pci"]},
        {"virtio_pci.ko": ["virtio_pci"]},
        {"virtio_pci.ko": ["virtio"], "virtio.ko": ["virtio_ring"], "virtio_ring.ko": ["virtio"]},
    ],
)
def test_modules_that_depend_on_each_other_end_the_search(paths: dict[str, list[str]]) -> None:
    with pytest.raises(KernelUnavailable, match="depend on each other"):
        modules.collect(Shelf(paths))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/fs/9p/9p.ko", "9p"),
        ("kernel/drivers/virtio/virtio-pci.ko.xz", "virtio_pci"),
        ("a.ko.zst", "a"),
        ("a.ko.gz", "a"),
        ("modules.dep", None),
        ("a.ko.tmp", None),
        ("a/..ko", None),
        ("a/$(reboot).ko", None),
        ("/etc/../virtio.ko", "virtio"),
    ],
)
def test_a_module_is_known_by_its_file(path: str, name: str | None) -> None:
    assert modules.module_name(path) == name


def test_a_compressed_module_is_stored_plain() -> None:
    plain = builders.module("virtio")
    assert modules.load("kernel/virtio.ko.xz", lzma.compress(plain)) == Module("virtio", plain)


def test_what_has_no_name_for_a_module_is_not_loaded() -> None:
    with pytest.raises(KernelUnavailable, match="cannot be the path"):
        modules.load("kernel/..ko", builders.module("virtio"))


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:30], lambda _: b"", bytes.lower])
def test_a_damaged_module_is_an_error(damage: object) -> None:
    data = damage(builders.module("virtio"))  # type: ignore[operator]
    with pytest.raises(KernelUnavailable, match=r"the module kernel/virtio\.ko is damaged"):
        modules.load("kernel/virtio.ko", data)


def test_modules_are_installed_in_the_order_given(tmp_path: Path) -> None:
    found = modules.collect(Shelf(MODULES))
    paths = modules.install(found, tmp_path, RELEASE)
    assert paths == tuple(f"modules/{module.name}.ko" for module in found)
    assert [(tmp_path / path).read_bytes() for path in paths] == [module.data for module in found]


def test_a_kernel_without_modules_gets_no_directory_for_them(tmp_path: Path) -> None:
    assert modules.install((), tmp_path, RELEASE) == ()
    assert list(tmp_path.iterdir()) == []


def test_modules_of_another_build_are_refused(tmp_path: Path) -> None:
    found = modules.collect(Shelf(MODULES))
    with pytest.raises(
        KernelUnavailable, match=r"modules are for 6\.1\.0-50-amd64, but the image is 6\.1\.0-51"
    ):
        modules.install(found, tmp_path, "6.1.0-51-amd64")


PCI = "kernel/drivers/virtio/virtio_pci.ko"
CONSOLE = "kernel/drivers/char/virtio_console.ko"


def found_in(paths: Sequence[str], builtin: Sequence[str]) -> ModuleSet:
    listed = "".join(f"{path}\n" for path in builtin).encode()
    chosen = modules.collect(Shelf(dict.fromkeys(paths, ())))
    return ModuleSet(chosen, modules.builtin_names(listed))


@pytest.mark.parametrize(
    ("paths", "builtin"), [([], [PCI, CONSOLE]), ([PCI, CONSOLE], []), ([CONSOLE], [PCI])]
)
def test_the_event_channel_may_be_built_in_or_not(paths: list[str], builtin: list[str]) -> None:
    modules.check_event_channel(found_in(paths, builtin), "linux-image-x")


@pytest.mark.parametrize(
    ("paths", "builtin", "lacking"),
    [
        ([], ["kernel/fs/9p/9p.ko"], "no virtio_pci and no virtio_console, neither"),
        ([PCI], [], "no virtio_console, neither"),
        ([], [CONSOLE], "no virtio_pci, neither"),
    ],
)
def test_a_kernel_without_an_event_channel_is_refused(
    paths: list[str], builtin: list[str], lacking: str
) -> None:
    with pytest.raises(
        KernelUnavailable,
        match=f"linux-image-x has {lacking}.* CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_CONSOLE",
    ):
        modules.check_event_channel(found_in(paths, builtin), "linux-image-x")


def test_without_a_list_of_what_is_built_in_the_boot_decides() -> None:
    modules.check_event_channel(ModuleSet(), "x")
