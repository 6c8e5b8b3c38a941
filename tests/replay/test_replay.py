# SPDX-License-Identifier: GPL-2.0-only
"""The boots of a replay: as the failing one was, and in variations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.replay import exit_status
from harness.verdict.failures import Again
from harness.verdict.verdicts import EXIT_FAILED, EXIT_INFRASTRUCTURE, EXIT_OK
from harness.vm import accelerator, initramfs
from tests.fake_boots import GOOD
from tests.replay.conftest import BAD, BROKEN_QEMU, Bench

KVM = accelerator.Choice(True, "KVM boots kernels here")


def test_the_boot_is_the_same_again(bench: Bench) -> None:
    bench.replay()
    (plan,) = bench.plans
    request, machine = plan.request, plan.machine
    assert (request.seed, request.plan.checks, request.plan.payload) == (
        77,
        ("payload.arrives",),
        9,
    )
    assert (machine.cpus, machine.memory_mib, machine.append) == (1, 768, ("slub_debug=FZ",))
    assert (machine.kvm, plan.extra) == (False, {})


def test_a_boot_has_a_nonce_of_its_own(bench: Bench) -> None:
    bench.replay()
    assert bench.plans[0].request.nonce != "ab" * 16


def test_a_failure_that_comes_again_is_the_same(bench: Bench) -> None:
    tried = bench.replay()
    assert [row.comparison.again for row in bench.rows] == [Again.SAME]
    assert exit_status(tried) == EXIT_FAILED


def test_a_failure_that_stays_away_is_good(bench: Bench) -> None:
    bench.outcomes = [GOOD]
    assert exit_status(bench.replay()) == EXIT_OK
    assert [row.comparison.again for row in bench.rows] == [Again.GONE]


def test_one_failure_among_many_boots_counts(bench: Bench) -> None:
    bench.outcomes = [GOOD, GOOD, BAD]
    assert exit_status(bench.replay(times=3)) == EXIT_FAILED


def test_a_boot_that_tells_nothing_is_infrastructure(bench: Bench) -> None:
    bench.outcomes = [BROKEN_QEMU]
    assert exit_status(bench.replay()) == EXIT_INFRASTRUCTURE


def test_no_boot_at_all_is_infrastructure() -> None:
    assert exit_status(()) == EXIT_INFRASTRUCTURE


def test_each_boot_leaves_its_files(bench: Bench) -> None:
    bench.replay(times=2)
    assert len({row.console for row in bench.rows}) == 2


# The checker.


def test_the_checker_of_the_bundle_takes_the_place_of_another(bench: Bench) -> None:
    bench.checker["abi.py"] = b"# another\n"
    bench.replay()
    extra = bench.plans[0].extra
    assert extra["opt/guest/abi.py"] == b"# another\n"
    assert "abi.py: the bundle's is used" in bench.said[-1]


def test_a_checker_of_another_protocol_is_not_used(bench: Bench) -> None:
    bench.checker["abi.py"] = b"# another\n"
    bench.replay(replace(bench.bundle(), protocol=1))
    assert bench.plans[0].extra == {}
    assert bench.said[-1].endswith("the installed one is used")


def test_the_checker_of_a_bundle_is_not_run_on_the_host(bench: Bench, tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    code = f"open({str(trap)!r}, 'w')\n".encode()
    bench.checker = dict.fromkeys(initramfs.checker(), code)
    bench.replay()
    assert not trap.exists()


def test_no_bytecode_of_the_installed_checker_is_left() -> None:
    """It is not compared with its source."""
    extra = initramfs.instead_of_checker({"__main__.py": b"", "new/one.py": b"x"})
    assert {name for name in extra if name.endswith(".pyc")} >= {
        *(_compiled(name) for name in initramfs.checker()),
        _compiled("new/one.py"),
    }
    assert not any(content for name, content in extra.items() if not name.endswith("new/one.py"))


def _compiled(name: str) -> str:
    import importlib.util

    return importlib.util.cache_from_source(f"opt/guest/{name}")


# The machine.


def test_where_kvm_is_not_usable_that_is_said(bench: Bench) -> None:
    bench.replay(replace(bench.bundle(), kvm=True))
    assert bench.plans[0].machine.kvm is False
    said = "it failed under KVM but is booted under TCG: KVM is missing here"
    assert said in bench.said


def test_where_kvm_is_usable_it_is_used(bench: Bench) -> None:
    bench.choice = KVM
    bench.replay(replace(bench.bundle(), kvm=True))
    assert bench.plans[0].machine.kvm is True


def test_what_varies_are_accelerator_and_processors(bench: Bench) -> None:
    bench.choice = KVM
    bench.replay(vary=True)
    machines = [(plan.machine.kvm, plan.machine.cpus) for plan in bench.plans]
    assert machines == [(False, 1), (False, 2), (True, 1), (True, 2)]


def test_the_failing_number_of_processors_is_among_them(bench: Bench) -> None:
    bench.entry = replace(bench.entry, cpus=4)
    bench.replay(vary=True)
    assert [plan.machine.cpus for plan in bench.plans] == [4, 1, 2]


def test_kvm_that_cannot_be_varied_is_not_left_out_in_silence(bench: Bench) -> None:
    tried = bench.replay(vary=True)
    assert [one.obstacle for one in tried if not one.again] == [
        "KVM was not tried: KVM is missing here",
        "KVM was not tried: KVM is missing here",
    ]


def test_a_kernel_that_did_not_boot_under_kvm_is_tried_there(bench: Bench) -> None:
    """That is perhaps what the failure is."""
    bench.choice = accelerator.Choice(False, "it did not get to its root", settled=False)
    bench.replay(vary=True)
    assert [plan.machine.kvm for plan in bench.plans] == [False, False, True, True]


def other_qemu(directory: Path, name: str = "qemu-system-x86_64") -> Path:
    place = directory / "other" / name
    place.parent.mkdir()
    place.write_text("#!/bin/sh\necho QEMU emulator version 9.9\n")
    place.chmod(0o755)
    return place


def test_another_qemu_in_the_path_is_tried(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_qemu(tmp_path)
    monkeypatch.setenv("PATH", str(other.parent))
    bench.replay(vary=True)
    assert [plan.qemu for plan in bench.plans][-1] == other
    assert bench.rows[-1].machine.qemu == f"9.9 ({other})"


def test_the_same_qemu_by_another_name_is_not_another(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "qemu-system-x86_64").symlink_to(tmp_path / "qemu-system-x86_64")
    monkeypatch.setenv("PATH", str(tmp_path / "links"))
    bench.replay(vary=True)
    assert len({plan.qemu for plan in bench.plans}) == 1


def test_a_qemu_that_is_named_takes_the_place_of_the_usual_one(
    bench: Bench, tmp_path: Path
) -> None:
    other = other_qemu(tmp_path)
    bench.replay(qemu=other)
    assert [plan.qemu for plan in bench.plans] == [other]


def test_a_qemu_of_another_name_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="or a symbolic link to it"):
        bench.replay(qemu=other_qemu(tmp_path, "qemu-kvm"))


# What was expected, and known.


def test_what_was_known_then_is_known_in_the_replay(bench: Bench, tmp_path: Path) -> None:
    known = tmp_path / "known.yaml"
    known.write_text(
        "known_issues:\n  - check: payload.arrives\n    reason: it is known\n"
        "    owner: me@example.org\n    expires: 2099-01-01\n"
    )
    bench.entry = replace(bench.entry, known_issues=known)
    bundle = bench.bundle()
    known.unlink()
    assert [one.again for one in bench.replay(bundle)] == [(Again.GONE,)]


def test_other_expectations_are_said(bench: Bench) -> None:
    bundle = bench.bundle()
    bench.replay(replace(bundle, expected={**bundle.expected, "mptcp": True}))
    assert bench.said[-1] == "this harness has different expectations of this kernel: mptcp"
