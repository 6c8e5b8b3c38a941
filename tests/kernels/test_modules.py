# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import lzma
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from harness import host
from harness.kernels import modules
from harness.kernels.modules import Module, ModuleSet
from harness.kernels.prepared import KernelUnavailable
from tests.kernels import builders
from tests.kernels.builders import MODULES, RELEASE
from tests.kernels.conftest import needs

pytestmark = needs("depmod")


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


def names(found: ModuleSet) -> set[str]:
    return {module.name for module in found.modules}


def test_the_modules_of_a_boot_come_with_all_they_depend_on_and_nothing_else() -> None:
    found = modules.collect(Shelf(MODULES), {})
    assert names(found) == {modules.module_name(path) for path in MODULES} - {"e1000"}


def test_one_pass_suffices_for_known_kernels() -> None:
    shelf = Shelf(MODULES)
    modules.collect(shelf, {})
    assert len(shelf.passes) == 1


def test_a_dependency_nobody_thought_of_costs_a_second_pass() -> None:
    shelf = Shelf({"kernel/fs/9p/9p.ko": ["new-helper"], "kernel/lib/new_helper.ko": []})
    assert names(modules.collect(shelf, {})) == {"9p", "new_helper"}
    assert shelf.passes[1:] == [frozenset({"new_helper"})]


def test_a_dependency_that_is_missing_is_an_error() -> None:
    with pytest.raises(KernelUnavailable, match=r"the module netfs, .* is missing"):
        modules.collect(Shelf({"kernel/fs/9p/9p.ko": ["netfs"]}), {})


def test_modules_that_depend_on_each_other_end_the_search() -> None:
    shelf = Shelf({"kernel/9p.ko": ["netfs"], "kernel/netfs.ko": ["9p"]})
    assert names(modules.collect(shelf, {})) == {"9p", "netfs"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/fs/9p/9p.ko", "9p"),
        ("kernel/drivers/virtio/virtio-pci.ko.xz", "virtio_pci"),
        ("a.ko.zst", "a"),
        ("a.ko.gz", "a"),
        ("modules.dep", None),
        ("a.ko.tmp", None),
    ],
)
def test_a_module_is_known_by_its_file(path: str, name: str | None) -> None:
    assert modules.module_name(path) == name


def test_a_compressed_module_is_stored_plain() -> None:
    plain = builders.module("9p")
    loaded = modules.load("kernel/9p.ko.xz", lzma.compress(plain))
    assert (loaded.path, loaded.data) == ("kernel/9p.ko", plain)


@pytest.mark.parametrize("path", ["/etc/9p.ko", "../9p.ko", "kernel/../../9p.ko", "a//9p.ko"])
def test_no_path_leads_out_of_the_modules(path: str) -> None:
    with pytest.raises(KernelUnavailable, match="cannot be the path"):
        modules.load(path, builders.module("9p"))


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:30], lambda _: b"", bytes.lower])
def test_a_damaged_module_is_an_error(damage: object) -> None:
    data = damage(builders.module("9p"))  # type: ignore[operator]
    with pytest.raises(KernelUnavailable, match=r"the module kernel/9p\.ko is damaged"):
        modules.load("kernel/9p.ko", data)


def test_installed_modules_are_found_by_modprobe(tmp_path: Path) -> None:
    modules.install(modules.collect(Shelf(MODULES), {}), tmp_path, RELEASE)
    assert "kernel/fs/9p/9p.ko:" in (tmp_path / "lib/modules" / RELEASE / "modules.dep").read_text()


def test_installing_leaves_nothing_beside_lib(tmp_path: Path) -> None:
    modules.install(modules.collect(Shelf(MODULES), {}), tmp_path, RELEASE)
    assert [path.name for path in tmp_path.iterdir()] == ["lib"]


def test_a_kernel_without_modules_gets_no_directory_for_them(tmp_path: Path) -> None:
    modules.install(ModuleSet((), {"modules.builtin": b"kernel/fs/9p/9p.ko\n"}), tmp_path, RELEASE)
    assert list(tmp_path.iterdir()) == []


def test_modules_of_another_build_are_refused(tmp_path: Path) -> None:
    found = modules.collect(Shelf(MODULES), {})
    with pytest.raises(
        KernelUnavailable, match=r"modules are of 6\.1\.0-50-amd64, the image is of 6\.1\.0-51"
    ):
        modules.install(found, tmp_path, "6.1.0-51-amd64")


def test_a_missing_depmod_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "find", lambda _: None)
    with pytest.raises(KernelUnavailable, match="apt-get install kmod"):
        modules.install(modules.collect(Shelf(MODULES), {}), tmp_path, RELEASE)


@pytest.mark.parametrize(
    ("builtin", "paths"),
    [
        (b"kernel/fs/9p/9p.ko\nkernel/net/9p/9pnet_virtio.ko\n", []),
        (b"", ["kernel/fs/9p/9p.ko", "kernel/net/9p/9pnet_virtio.ko"]),
        (b"kernel/net/9p/9pnet_virtio.ko\n", ["kernel/fs/9p/9p.ko"]),
    ],
)
def test_a_root_can_be_mounted_by_9p_built_in_or_not(builtin: bytes, paths: list[str]) -> None:
    found = modules.collect(Shelf(dict.fromkeys(paths, ())), {"modules.builtin": builtin})
    modules.check_root_filesystem(found, "linux-image-x")


@pytest.mark.parametrize("builtin", [b"", b"kernel/fs/9p/9p.ko\n", b"kernel/fs/fuse/virtiofs.ko\n"])
def test_a_kernel_that_can_mount_no_root_is_refused(builtin: bytes) -> None:
    with pytest.raises(KernelUnavailable, match="linux-image-x has no 9p over virtio"):
        modules.check_root_filesystem(ModuleSet((), {"modules.builtin": builtin}), "linux-image-x")


def test_without_a_list_of_what_is_built_in_the_boot_decides() -> None:
    modules.check_root_filesystem(ModuleSet(), "x")
