# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark's manifests, its peak of memory, its check and its record."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import check, figures, lab, manifests, peak, record
from bench.figures import Figure, Unit
from harness.manifest import kernels_yaml
from harness.verdict.results import Phase
from tests.conftest import REQUIREMENTS


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """An image for each kernel of the default manifest, as far as a manifest looks at it."""
    for entry in lab.entries():
        (tmp_path / entry.name).write_bytes(b"an image")
    return {entry.name: tmp_path / entry.name for entry in lab.entries()}


def load(text: str, tmp_path: Path) -> tuple[kernels_yaml.KernelEntry, ...]:
    path = tmp_path / "made.yaml"
    path.write_text(text)
    return kernels_yaml.load(path).entries


def test_sixty_kernels_differ_in_image_and_arguments(
    images: dict[str, Path], tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    found = load(manifests.many(lab.entries(), images, 60, links), tmp_path)
    assert len({(str(entry.source), entry.append) for entry in found}) == 60


def test_sixty_kernels_are_expected_to_be_as_the_four(
    images: dict[str, Path], tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    found = load(manifests.many(lab.entries(), images, 8, links), tmp_path)
    assert [dict(entry.expect) for entry in found] == [
        dict(entry.expect) for entry in (*lab.entries(), *lab.entries())
    ]


def test_small_vms_are_all_that_differs_in_the_small_manifest(tmp_path: Path) -> None:
    found = load(manifests.small(lab.entries(), "256M"), tmp_path)
    assert {entry.memory_mib for entry in found} == {256}
    assert [entry.source for entry in found] == [entry.source for entry in lab.entries()]


def test_the_peak_is_read_from_the_status_of_a_process() -> None:
    assert peak.peak_kib("VmPeak:\t  99 kB\nVmHWM:\t   61440 kB\nVmRSS:\t 5 kB\n") == 61440


def test_the_harness_runs_with_its_peak_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = peak.main(tmp_path / "peak", ["list", "capabilities"])
    assert status == 0
    assert int((tmp_path / "peak").read_text()) > 1024


def test_a_record_has_samples_and_standing() -> None:
    blank = Figure("loop", "the loop", Unit.RATIO, 0.38)
    found = [figures.against(blank, [1.0], [4.0])]
    written = json.loads(record.as_json(found, [Phase("kernel", 2.5)], ["better"], "a machine"))
    figure = written["figures"][0]
    assert (figure["standing"], figure["ours"], figure["theirs"]) == ("met", [1.0], [4.0])


def test_a_record_says_null_for_what_was_not_measured() -> None:
    found = [figures.unmeasured(Figure("kvm", "with KVM", Unit.SECONDS, 1.0), "no KVM")]
    assert json.loads(record.as_json(found, [], [], "a machine"))["figures"][0]["value"] is None


@pytest.fixture
def program(tmp_path: Path) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed, with which the check is compiled")
    return check.build(tmp_path)


def test_the_check_is_compiled_once(program: Path, tmp_path: Path) -> None:
    before = program.stat().st_mtime_ns
    assert check.build(tmp_path).stat().st_mtime_ns == before


@pytest.mark.mptcp
@pytest.mark.parametrize(("option", "said"), [("-4", check.IPV4), ("-6", check.IPV6)])
def test_the_check_passes_on_a_kernel_with_mptcp(program: Path, option: str, said: str) -> None:
    run = subprocess.run([str(program), option], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, f"{said}\n")


def test_the_check_says_that_a_kernel_has_no_mptcp(program: Path) -> None:
    if not REQUIREMENTS["mptcp"]():
        pytest.skip("this kernel has MPTCP")
    run = subprocess.run([str(program)], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout.startswith(lab.NO_MPTCP)


def test_what_nox_imports_needs_nothing_installed() -> None:
    run = subprocess.run(
        [sys.executable, "-S", "-c", "from bench import tools; tools.missing()"],
        cwd=lab.ROOT,
        capture_output=True,
        text=True,
    )
    assert run.stderr == ""
