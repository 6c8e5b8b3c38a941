# SPDX-License-Identifier: GPL-2.0-only
"""The default kernels, 5.10 to the newest: booted, checked in both families, judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boots.conftest import Harness, Run
from tests.factories import ALL_CAPABILITIES, DEBIAN_6_1_LACKS

ROOT = Path(__file__).parents[2]
#: What is asked before the first check. The other capabilities are asked for where scenarios run.
EVERYTHING = ALL_CAPABILITIES | {"mptcp_ipv6": True}
#: Those of a connection on loopback; of a scenario's checks each has its own.
PHASES = ("established", "transferred", "closed")
ROWS = {
    "debian-6.1": EVERYTHING | dict.fromkeys(DEBIAN_6_1_LACKS, False),
    "debian-6.12": EVERYTHING | {"tcp_maxseg": False},
    "debian-newest": EVERYTHING,
}


@pytest.fixture(scope="module")
def run(harness: Harness) -> Run:
    """All checks: those of the quick profile are among them."""
    return harness("matrix", str(ROOT / "kernels.yaml"), "--seed", "20260101")


def test_all_is_as_expected(run: Run) -> None:
    assert run.status == 0, run.stdout + run.stderr
    assert "4 kernels: 3 pass, 1 unsupported" in run.stdout


@pytest.mark.parametrize("name", ROWS)
def test_a_kernel_passes_with_its_whole_row_of_capabilities(run: Run, name: str) -> None:
    kernel = run.kernel(name)
    assert kernel["verdict"] == "pass"
    assert {name: kernel["capabilities"][name] for name in EVERYTHING} == ROWS[name]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_every_check_has_a_verdict_in_both_families(run: Run, name: str, family: str) -> None:
    judged = run.kernel(name)["families"][family]
    assert judged["verdict"] == "pass"
    on_loopback = [check for check in judged["checks"] if check["phase"] in PHASES]
    verdicts = {check["verdict"] for check in on_loopback}
    assert verdicts == ({"pass"} if ROWS[name] == EVERYTHING else {"pass", "unsupported"})
    places = {(check["phase"], check["side"]) for check in on_loopback}
    assert places == {(phase, side) for phase in PHASES for side in ("client", "server")}


def test_a_kernel_without_mptcp_is_unsupported(run: Run) -> None:
    kernel = run.kernel("debian-5.10")
    assert kernel["verdict"] == "unsupported"
    assert kernel["capabilities"]["mptcp"] is False
    assert kernel["capabilities"]["ipv6"] is True


def test_the_seed_is_recorded(run: Run) -> None:
    assert run.record["run"]["seed"] == 20260101


def test_the_console_is_kept_from_the_first_byte_to_the_last(run: Run) -> None:
    console = run.console("debian-6.1")
    assert "Linux version 6.1" in console
    assert "reboot: Power down" in console


def test_the_run_directory_holds_the_record(run: Run) -> None:
    assert (run.directory / "run.json").exists()
    for name in ROWS:
        place = run.directory / "kernels" / name
        assert (place / "result.json").exists()
        assert (place / "attempt-1" / "events.jsonl").stat().st_size > 10_000
        assert "vng" in (place / "attempt-1" / "command.txt").read_text()


def test_the_accelerator_is_said(run: Run) -> None:
    assert "accelerator: " in run.stdout
    assert run.record["run"]["accel"] in ("kvm", "tcg")
