# SPDX-License-Identifier: GPL-2.0-only
"""What stands for QEMU and kernels, which checks are slow, and what grows."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from bench import growth, slowest, stand_in
from bench.growth import Point
from bench.lab import HostLab
from bench.slowest import Taken
from guest import checks, events
from harness.host import tools
from harness.kernels.kernel_image import recognise
from harness.vm import incidents


def ignore(_: str) -> None:
    pass


def test_the_events_are_those_of_a_kernel_that_passes_everything() -> None:
    said = [events.parse(line + b"\n") for line in stand_in.events_of().splitlines()]
    quick = {check.id for check in checks.all_checks(checks.QUICK)}
    planned = [name for event in said if event["e"] == "plan" for name, _, _ in event["entries"]]
    verdicts = [event["verdict"] for event in said if event["e"] == "result"]
    assert set(planned) <= quick
    assert verdicts == [events.PASS] * len(planned)
    assert (said[0]["e"], said[-1]["e"]) == ("hello", "end")
    assert said[-1]["results"] == len(planned)


def test_further_rounds_are_in_the_events() -> None:
    said = [events.parse(line + b"\n") for line in stand_in.events_of(3).splitlines()]
    assert [event["r"] for event in said if event["e"] == "outcome"] == [1, 2]
    assert said[-1]["rounds"] == 3


def test_nothing_on_the_console_is_an_incident() -> None:
    assert incidents.scan(stand_in.console(), []) == ()


def test_each_image_is_a_kernel_of_its_own() -> None:
    images = [stand_in.vmlinux(number) for number in range(2)]
    assert images[0] != images[1]
    assert [recognise(image, "it").release for image in images] == [stand_in.RELEASE] * 2


@pytest.mark.skipif(
    tools.find_static_busybox() is None or shutil.which("ldd") is None,
    reason="the guest's root cannot be made",
)
def test_the_harness_takes_the_program_for_qemu(tmp_path: Path) -> None:
    """Takes a second, because the whole harness runs; with a cache that is there, only once."""
    stage = HostLab(tmp_path, ignore).standing_in(1, life_s=0.01)
    (stage.place / "cache").mkdir()
    seen = stage.run()
    assert seen.run.qemus == 1
    assert 0 < seen.run.qemu_s < seen.run.seconds
    assert seen.run.host_s == pytest.approx(seen.run.seconds - seen.run.qemu_s)
    assert seen.phase_s("qemu", "kernel", "init", "probes") > 0


def test_the_slowest_checks_come_first_with_all_of_their_results() -> None:
    times = iter([0.0, 1.0, 1.0, 1.5, 4.5, 4.5, 5.0, 5.0, 9.0])
    said = io.BytesIO()
    emitter = events.Emitter(said.write, lambda: next(times))
    entries = [["a.b", "established", "client"], ["c.d", "closed", "server"]]
    entries.append(["a.b", "closed", "server"])
    emitter.emit("plan", family="ipv4", payload="byte", scenario=False, entries=entries)
    for index in range(3):
        emitter.emit("start", i=index)
        emitter.emit("result", i=index, verdict=events.PASS)
    emitter.emit("round", r=1, seed=8)
    emitter.emit("outcome", r=1, verdicts="ppp")
    emitter.hold(False)
    found = slowest.of_events(said.getvalue().splitlines(keepends=True))
    assert found == (Taken("c.d", 3.0, 1), Taken("a.b", 0.5, 2))


def test_a_check_that_was_lost_before_it_started_took_nothing() -> None:
    said = io.BytesIO()
    emitter = events.Emitter(said.write)
    entries = [["a.b", "established", "client"]]
    emitter.emit("plan", family="ipv4", payload="byte", scenario=False, entries=entries)
    emitter.emit("result", i=0, verdict=events.LOST, detail="x")
    emitter.hold(False)
    assert slowest.of_events(said.getvalue().splitlines(keepends=True)) == ()


def test_growth_says_what_one_of_many_costs() -> None:
    text = growth.render([Point("kernels", 4, 2.0, 1.0, 50.0), Point("runs", 365, 0.3, 0.2)])
    assert "| kernels | 4 | 2.00 s | 1.00 s | 250.0 ms | 50 MiB |" in text
    assert "| runs | 365 | 0.30 s | 0.20 s | 0.5 ms |  |" in text
