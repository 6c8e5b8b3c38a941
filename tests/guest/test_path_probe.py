# SPDX-License-Identifier: GPL-2.0-only
"""What the guest says of path managers and sock_diag, and that the host has no column for it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from guest import netlink, path_probe, pm, vm
from harness.manifest.expectations import CAPABILITIES, OF_SCENARIOS

pytestmark = [
    pytest.mark.mptcp,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace"),
]


def test_the_host_knows_each_name_and_expects_none() -> None:
    found = path_probe.capabilities()
    assert found.keys() == OF_SCENARIOS
    assert not OF_SCENARIOS & CAPABILITIES.keys()


def test_a_kernel_without_the_path_manager_has_none_of_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str, version: int = 1) -> netlink.Generic:
        raise netlink.Refused(netlink.ENOENT)

    monkeypatch.setattr(netlink, "Generic", absent)
    found = path_probe.capabilities()
    for name in ("pm_netlink", "pm_get_token", "laminar", "endp_fullmesh_max", "listener_events"):
        assert not found[name].present, name
    assert found["pm_netlink"].detail == "the netlink family mptcp_pm: ENOENT"


def test_a_flag_that_is_not_kept_is_no_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pm, "LAMINAR", 64)
    assert not path_probe.capabilities()["laminar"].present


def test_probing_leaves_no_endpoint_behind() -> None:
    manager = pm.PathManager()
    before = [repr(one) for one in manager.endpoints()]
    path_probe.capabilities()
    assert [repr(one) for one in manager.endpoints()] == before
    manager.close()


def test_a_module_that_does_not_load_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "00-broken.ko").write_bytes(b"no module")
    vm.load_modules(str(tmp_path))
    vm.load_modules(str(tmp_path / "absent"))


class _Libc:
    """Mounts nothing, and keeps what it is asked for."""

    def __init__(self, mounts: int) -> None:
        self.calls: list[str] = []
        self._mounts = mounts

    def mount(self, *arguments: object) -> int:
        self.calls.append("mount")
        return self._mounts

    def umount2(self, *arguments: object) -> int:
        self.calls.append("umount2")
        return 0


@pytest.mark.parametrize("exists", [True, False])
def test_slices_end_at_ticks(exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = tmp_path / "sched/features"
    if exists:
        features.parent.mkdir()
        features.write_text("HRTICK")
    libc = _Libc(0)
    monkeypatch.setattr(vm, "DEBUGFS", str(tmp_path))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: libc)
    vm.fewer_timer_interrupts()
    assert libc.calls == ["mount", "umount2"]
    assert not exists or features.read_text().startswith("NO_HRTICK")


def test_a_kernel_without_debugfs_keeps_its_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = _Libc(-1)
    monkeypatch.setattr(vm, "DEBUGFS", str(tmp_path))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: libc)
    vm.fewer_timer_interrupts()
    assert libc.calls == ["mount"]
