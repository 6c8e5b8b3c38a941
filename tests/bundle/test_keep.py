# SPDX-License-Identifier: GPL-2.0-only
"""What a kernel that fails leaves behind, and that it comes back as it was."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bundle import archive, load
from harness.bundle.contents import Asked
from harness.manifest.kernels_yaml import DebSource, ImageSource, Source, TreeSource, UpstreamSource
from harness.manifest.plan import Plan
from harness.verdict.results import EarlierRun, KernelResult
from harness.verdict.verdicts import Family
from tests import factories
from tests.bundle.support import CHECKER, CONSOLE, ENTRY, IMAGE, MODULE, NAME, Failing


def test_a_bundle_tells_what_was_booted_and_how(failing: Failing) -> None:
    failing.keep()
    found = load(failing.bundle)
    assert found.entry == replace(ENTRY, where="the bundle")
    assert found.asked == Asked(77, Plan((Family.IPV4,), ("mptcp_info.readable",), payload=9))
    assert found.modules == (("virtio_pci", MODULE),)
    assert found.image_sha256 == failing.plan().kernel.image_sha256
    assert (found.kvm, found.checker) == (False, CHECKER)


def test_a_bundle_has_the_result(failing: Failing) -> None:
    failing.keep()
    result = load(failing.bundle).result
    assert (result.verdict, result.families) == (failing.result.verdict, failing.result.families)


def test_a_bundle_has_what_each_attempt_left(failing: Failing) -> None:
    failing.keep()
    members = archive.read(failing.bundle)
    assert members["attempt-1/console.log"] == CONSOLE
    assert members["attempt-1/qemu.txt"] == b"qemu-system-x86_64 -m 768M\n"


def test_the_nonce_of_the_boot_and_the_environment_stay_at_home(
    failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "hunter2hunter2")
    failing.keep()
    everything = b"".join(archive.read(failing.bundle).values())
    assert b"5ec2e7" not in everything
    assert b"hunter2" not in everything


def test_the_image_is_put_in_only_when_asked(failing: Failing) -> None:
    failing.keep()
    assert load(failing.bundle).image is None


def test_the_image_is_put_in_when_asked(failing: Failing) -> None:
    failing.with_image = True
    failing.keep()
    assert load(failing.bundle).image == IMAGE


@pytest.mark.parametrize(
    "source",
    [
        DebSource("bookworm-backports", "linux-image-6.1.0-50-amd64"),
        UpstreamSource("v6.6"),
        ImageSource(Path("/src/linux/arch/x86/boot/bzImage")),
        TreeSource(Path("/src/linux")),
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_source_comes_back(failing: Failing, source: Source) -> None:
    failing.entry = replace(ENTRY, source=source)
    failing.keep()
    assert load(failing.bundle).entry.source == source


def test_known_issues_go_along(failing: Failing) -> None:
    known = failing.directory.parent / "known.yaml"
    known.write_text("known_issues: []\n")
    failing.entry = replace(ENTRY, known_issues=known)
    failing.keep()
    assert load(failing.bundle).known_issues == b"known_issues: []\n"


@pytest.mark.parametrize(
    "result",
    [
        factories.kernel(NAME),
        KernelResult.infrastructure(NAME, "QEMU died"),
        replace(factories.crashed(factories.kernel(NAME)), reused_from=EarlierRun("r", "", 1, "")),
    ],
    ids=["passes", "infrastructure", "reused"],
)
def test_only_a_kernel_that_failed_here_leaves_a_bundle(
    failing: Failing, result: KernelResult
) -> None:
    failing.result = result
    failing.keep()
    assert not failing.bundle.exists()


def test_what_there_is_no_room_for_is_named(
    failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LIMIT", (1 << 20) + 20_000)
    failing.with_image = True
    monkeypatch.setattr("tests.bundle.support.IMAGE", bytes(30_000))
    failing.keep()
    found = load(failing.bundle)
    assert found.left_out == ("image/vmlinuz",)
    assert found.image is None


def test_a_bundle_that_cannot_be_written_is_said_and_no_more(failing: Failing) -> None:
    failing.bundle.mkdir(parents=True)
    assert failing.keep().startswith(f"{NAME} failed, but its bundle could not be made: ")


def test_a_bundle_that_cannot_be_written_leaves_nothing_half(failing: Failing) -> None:
    failing.bundle.mkdir(parents=True)
    failing.keep()
    assert sorted(path.name for path in failing.bundle.parent.iterdir()) == [
        "attempt-1",
        failing.bundle.name,
    ]


def test_a_bundle_is_dated_in_utc(failing: Failing) -> None:
    failing.keep()
    age = datetime.datetime.now(datetime.UTC) - load(failing.bundle).created
    assert abs(age) < datetime.timedelta(minutes=1)
