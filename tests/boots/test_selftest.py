# SPDX-License-Identifier: GPL-2.0-only
"""The selftest itself, as a nightly run starts it: real faults in real kernels."""

from __future__ import annotations

import functools
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.kernels.cache import Cache
from harness.selftest import FAULTS
from tests.boots.conftest import command, manifest

ROOT = Path(__file__).parents[2]
#: Seconds of processor time that the whole selftest may take under TCG, once kernels are fetched:
#: on two idle processors it takes two minutes, and on busy ones any time.
LIMIT = 240
NONE = "none"

Selftest = Callable[..., subprocess.CompletedProcess[str]]


def selftest(
    directory: Path, cache: Cache, file: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(directory, cache, ["selftest", str(file), *arguments]),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture
def run_selftest(cache: Cache, tmp_path: Path) -> Selftest:
    return functools.partial(selftest, tmp_path / "run", cache)


def rows(output: str) -> dict[str, str]:
    """By fault: "ok" or "NOT OK"."""
    known = {NONE, *(fault.name for fault in FAULTS)}
    found = (line.split(maxsplit=1) for line in output.splitlines() if line[:1].strip())
    return {
        name: "NOT OK" if rest[0].endswith("NOT OK") else rest[0].split()[-1]
        for name, *rest in found
        if name in known
    }


def test_every_fault_is_seen_in_time(run_selftest: Selftest) -> None:
    before = processor_s()
    done = run_selftest(ROOT / "kernels.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    expected = dict.fromkeys([NONE, *(fault.name for fault in FAULTS)], "ok")
    # What finds these faults is in kernels for debugging only.
    assert rows(done.stdout) == expected | dict.fromkeys(UNSEEN, "possible")
    assert done.stdout.splitlines()[-1].startswith("selftest ok: 14 faults")
    assert "use-after-free (it is built without CONFIG_KASAN)" in done.stdout
    assert processor_s() - before < LIMIT


def processor_s() -> float:
    """What programs that ended took, those that they had started among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


#: Faults that no kernel of Debian reports.
UNSEEN = ("use-after-free", "lock-order", "leak")
#: One for each piece of code that is put into the kernel.
CODED = ("oops", "warning", "busy-hang")


@pytest.fixture(scope="module")
def of_two(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a selftest says of a kernel that does not pass and an older one that does."""
    directory = tmp_path_factory.mktemp("of-two")
    file = manifest(
        directory,
        "  - name: new\n"
        "    deb: {suite: trixie, package: linux-image-amd64}\n"
        "    expect: {full_info: false}\n"
        "  - name: old\n"
        "    deb: {suite: bookworm, package: linux-image-amd64}\n",
    )
    done = selftest(directory / "run", cache, file, "--only", ",".join(CODED))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_kernel_that_does_not_pass_gives_way_to_an_older_one(of_two: str) -> None:
    assert "new: fail, so the next older kernel is tried" in of_two
    assert "old: 6.1" in of_two


def test_code_runs_in_a_kernel_with_other_structures(of_two: str) -> None:
    """Debian's 6.1 lays out its modules otherwise, and checks the versions of what they use."""
    assert rows(of_two) == dict.fromkeys([NONE, *CODED], "ok")


def test_a_named_kernel_that_does_not_pass_proves_nothing(run_selftest: Selftest) -> None:
    done = run_selftest(ROOT / "kernels.yaml", "--kernel", "debian-5.10", "--only", "panic")
    assert done.returncode == 1
    assert rows(done.stdout) == {NONE: "NOT OK"}


def test_an_unknown_fault_is_a_wrong_argument(run_selftest: Selftest) -> None:
    done = run_selftest(ROOT / "kernels.yaml", "--only", "panick")
    assert done.returncode == 2
    assert "'panick' is not a fault of the selftest" in done.stderr
