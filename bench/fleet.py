# SPDX-License-Identifier: GPL-2.0-only
"""What a fleet costs: many kernels on many workers, whose boots are read from recorded streams.

    python -m bench.fleet RUN/kernels/NAME/attempt-1 [--kernels 1000] [--workers 40]

Scheduler, workers, TLS, the moving of images, results and store are real; only a boot is replaced
by reading the events of one, and a short wait. Workers share processes, of which the table shows
the memory. Needs the extra ``fleet``. A network namespace of its own counts the bytes:

    unshare -n sh -c 'ip link set lo up; python -m bench.fleet …'
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import kernels
from harness.host import certificates
from harness.kernels import Cache, PreparedKernel
from harness.manifest.kernels_yaml import Accel, ImageSource, KernelEntry
from harness.manifest.plan import Plan
from harness.run import fleet_worker, session
from harness.run.request import Fleet, RunRequest
from harness.verdict.results import Attempt, BootEnd
from harness.verdict.verdicts import Family, KernelVerdict
from harness.vm import boot
from harness.vm.stream import StreamReader

PORT = 18786
IMAGES = 4
IMAGE_BYTES = 12 << 20


class Replayed:
    """Boots that are read from the ``events`` of one."""

    def __init__(self, attempt: Path, wait_s: float) -> None:
        self._events = (attempt / "events.jsonl").read_bytes()
        self._console = (attempt / "console.log").read_bytes()
        self._hello = json.loads(self._events.splitlines()[0])
        self._wait_s = wait_s

    def boot(self, plan: boot.BootPlan, stop: threading.Event, *_: object) -> Attempt:
        stop.wait(self._wait_s)
        reader = StreamReader(self._hello["nonce"], tuple(Family))
        reader.feed(self._events)
        plan.directory.mkdir(parents=True)
        (plan.directory / "console.log").write_bytes(self._console)
        (plan.directory / "events.jsonl").write_bytes(self._events)
        return Attempt(
            plan.number,
            BootEnd.POWERED_OFF,
            kernel_spoke=True,
            accel="tcg",
            stream=reader.finish(),
            console=str(plan.directory / "console.log"),
            events=str(plan.directory / "events.jsonl"),
            total_s=self._wait_s,
        )


def prepared(entry: KernelEntry, *_: object) -> PreparedKernel:
    assert isinstance(entry.source, ImageSource)
    image = entry.source.image
    return PreparedKernel(
        entry.name, "", "", str(image), image, fleet_worker.sha256(image), image.parent, image
    )


def tls(directory: Path, role: str) -> list[str]:
    files = {"ca-file": "ca", "cert": role, "key": f"{role}-key"}
    return [
        word
        for name, file in files.items()
        for word in (f"--tls-{name}", f"{directory / file}.pem")
    ]


async def work(address: str, count: int, certs: Path) -> None:
    """``count`` workers in this process, until it is ended."""
    from distributed import Worker
    from distributed.security import Security

    ca, cert, key = (str(certs / f"{name}.pem") for name in ("ca", "worker", "worker-key"))
    security = Security(
        require_encryption=True,
        tls_ca_file=ca,
        tls_worker_cert=cert,
        tls_worker_key=key,
        tls_client_cert=cert,
        tls_client_key=key,
    )
    made: list[Any] = [
        await Worker(
            address,
            nthreads=1,
            name=f"{os.getpid()}-{number}",
            resources={fleet_worker.VM: 1},
            security=security,
            memory_limit=0,
        )
        for number in range(count)
    ]
    await asyncio.gather(*(worker.finished() for worker in made))


def rss_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def moved_bytes() -> int:
    """The bytes that lo has received since it was created."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            return int(counters.split()[0])
    return 0


def simulate(given: argparse.Namespace, place: Path) -> None:
    certs, address = place / "certs", f"tls://127.0.0.1:{PORT}"
    certificates.make(certs, 1)
    images = []
    for number in range(IMAGES):
        images.append(place / f"bzImage-{number}")
        images[-1].write_bytes(os.urandom(IMAGE_BYTES))
    command = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1"]
    command += ["--port", str(PORT), "--protocol", "tls", "--no-dashboard"]
    command += tls(certs, "scheduler")
    scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    each = given.workers // given.processes
    processes = []
    for number in range(given.processes):
        command = [sys.executable, "-m", "bench.fleet", str(given.attempt), "--wait"]
        command += [
            str(given.wait),
            "--serve",
            address,
            "--workers",
            str(each),
            "--certs",
            str(certs),
        ]
        environment = {**os.environ, "XDG_CACHE_HOME": str(place / f"cache-{number}")}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
    try:
        time.sleep(given.settle)
        run(given, place, Fleet(address, certs), images)
        for name, pids in (
            ("client", [os.getpid()]),
            ("scheduler", [scheduler.pid]),
            (f"{each} workers", [process.pid for process in processes]),
        ):
            print(f"most memory, {name}: {', '.join(f'{rss_mib(pid)} MiB' for pid in pids)}")
    finally:
        for process in (*processes, scheduler):
            process.kill()
            process.wait()


def run(given: argparse.Namespace, place: Path, fleet: Fleet, images: Sequence[Path]) -> None:
    entries = [
        KernelEntry(f"k{number:05}", ImageSource(images[number % IMAGES]), "bench", accel=Accel.TCG)
        for number in range(given.kernels)
    ]
    setattr(kernels, "prepare", prepared)  # noqa: B010  (mypy refuses the assignment)
    begun, cpu, received = time.monotonic(), time.process_time(), moved_bytes()
    request = RunRequest(Plan(seed=given_seed(given)), fleet=fleet, output=place / "run")
    request = replace(request, store=place / "results.sqlite")
    result = session.run(entries, request, Cache(), lambda _: None, threading.Event())
    took, used = time.monotonic() - begun, time.process_time() - cpu
    good = sum(kernel.verdict is KernelVerdict.PASS for kernel in result.kernels)
    ideal = given.kernels * given.wait / given.workers
    count = given.kernels
    print(f"{count} kernels on {given.workers} workers: {took:.1f} s, {good} pass")
    print(f"boots alone take {ideal:.1f} s; {1000 * (took - ideal) / count:.1f} ms more a kernel")
    print(f"the client uses {1000 * used / count:.1f} ms of a processor for each")
    megabytes = (moved_bytes() - received) / 1e6
    print(f"moved: {megabytes:.1f} MB on lo, {IMAGES} images of {IMAGE_BYTES / 1e6:.1f} MB")


def given_seed(given: argparse.Namespace) -> int:
    """The seed of the recorded boot."""
    first = (given.attempt / "events.jsonl").read_bytes().splitlines()[0]
    return int(json.loads(first)["seed"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("attempt", type=Path, help="the directory of a recorded boot")
    parser.add_argument("--certs", type=Path)
    parser.add_argument("--kernels", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=40)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--wait", type=float, default=2.0, help="seconds of a boot")
    parser.add_argument("--settle", type=float, default=20.0, help="seconds for the workers' start")
    parser.add_argument("--serve", metavar="ADDRESS")
    given = parser.parse_args()
    if given.serve:
        replayed = Replayed(given.attempt, given.wait)
        setattr(boot, "boot", replayed.boot)  # noqa: B010
        asyncio.run(work(given.serve, given.workers, given.certs))
        return
    with tempfile.TemporaryDirectory() as place:
        simulate(given, Path(place))


if __name__ == "__main__":
    main()
