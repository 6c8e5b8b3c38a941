# SPDX-License-Identifier: GPL-2.0-only
"""A fleet of workers in this process, with stand-ins for boots; everything else is Dask's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HostError, UsageError
from harness.kernels.cache import Cache
from harness.manifest.kernels_yaml import DebSource, ImageSource
from harness.run import fleet, fleet_worker, fleet_workers
from harness.run.fleet_worker import About
from harness.run.request import Fleet, Progress, RunRequest, Stage
from harness.verdict.results import BootEnd, RunResult
from harness.verdict.verdicts import Family, KernelVerdict
from tests import fake_boots
from tests.fake_boots import GOOD, Outcomes

distributed = pytest.importorskip("distributed")

VERSIONS = {"harness": "0.1 ab", "guest": "g", "QEMU": "7.2", "virtme-ng": "1.42"}


class Lab:
    """A scheduler with two workers of one VM each, in this process."""

    def __init__(self, directory: Path, cluster: Any) -> None:
        self.directory = directory
        self.cluster = cluster
        self.outcomes = Outcomes(directory)
        self.heard: list[Progress] = []
        self.stop = threading.Event()
        self.package: DebSource | ImageSource = DebSource("trixie", "linux-image-amd64")

    def run(self, count: int = 4, **settings: Any) -> RunResult:
        wanted = Fleet(self.cluster.scheduler_address, **settings)
        request = fake_boots.asking(seed=7, fleet=wanted)
        entries = [replace(e, source=self.package) for e in fake_boots.entries(count)]
        return fake_boots.run(self.directory, entries, self.heard.append, request, self.stop)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address="127.0.0.1:0",
        resources={fleet_worker.VM: 1},
    ) as made:
        yield made


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any) -> Lab:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fleet_worker._cache.cache_clear()
    made = Lab(tmp_path, cluster)
    made.outcomes.install(monkeypatch.setattr)
    return made


def test_a_fleet_gives_the_results_of_this_host(lab: Lab) -> None:
    run = lab.run()
    assert [(k.name, k.verdict) for k in run.kernels] == [
        (f"kernel-{number}", KernelVerdict.PASS) for number in range(4)
    ]
    assert not run.interrupted
    assert all(kernel.host for kernel in run.kernels), "the report says where each was tested"


def test_equal_checks_of_all_kernels_are_one_object(lab: Lab) -> None:
    first, second = lab.run(2).kernels
    checks = [kernel.families[Family.IPV4].checks for kernel in (first, second)]
    assert checks[0]
    assert all(one is other for one, other in zip(*checks, strict=True))


def test_progress_names_the_worker(lab: Lab) -> None:
    lab.run(1)
    said = [progress for progress in lab.heard if progress.stage is Stage.BOOTING]
    assert [progress.kernel for progress in said] == ["kernel-0"]
    assert "(" in said[0].detail


def test_files_of_a_bad_kernel_come_back_and_of_good_ones_on_request(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boot(plan: Any, *_: object) -> Any:
        attempt = Outcomes.boot(lab.outcomes, plan)
        Path(attempt.console).write_text("said")
        return attempt

    lab.outcomes.of["kernel-1"] = replace(GOOD, end=BootEnd.SILENCE_DEADLINE)
    monkeypatch.setattr("harness.vm.boot.boot", boot)
    run = lab.run(2)
    consoles = [Path(run.directory, f"kernels/kernel-{i}/attempt-1/console.log") for i in (0, 1)]
    assert [console.exists() for console in consoles] == [False, True]
    run = lab.run(1, all_files=True)
    assert Path(run.directory, "kernels/kernel-0/attempt-1/console.log").read_text() == "said"


def test_the_files_of_a_boot_are_where_a_later_run_removes_what_a_killed_one_left(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path] = []

    def boot(plan: Any, *_: object) -> Any:
        attempt = Outcomes.boot(lab.outcomes, plan)
        places.append(Path(attempt.console))
        return attempt

    monkeypatch.setattr("harness.vm.boot.boot", boot)
    lab.run(1)
    assert [place.is_relative_to(Cache().root / "tmp") for place in places] == [True]


def test_an_image_is_moved_to_its_worker(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    image = lab.directory / "bzImage"
    image.write_bytes(b"an image")

    def prepare(*arguments: Any) -> Any:
        return replace(Outcomes.prepare(lab.outcomes, *arguments), image=image, boot_image=image)

    booted: list[Path] = []

    def boot(plan: Any, *_: object) -> Any:
        booted.append(plan.kernel.boot_image)
        return Outcomes.boot(lab.outcomes, plan)

    monkeypatch.setattr("harness.kernels.prepare", prepare)
    monkeypatch.setattr("harness.vm.boot.boot", boot)
    lab.package = ImageSource(image)
    assert [kernel.verdict for kernel in lab.run(2).kernels] == [KernelVerdict.PASS] * 2
    digest = fleet_worker.sha256(image)
    assert booted == [lab.directory / "cache/mptcp-harness/fleet" / digest / "bzImage"] * 2
    assert booted[0].read_bytes() == b"an image"


def test_a_fault_of_the_harness_is_the_result_of_one_kernel(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boot(plan: Any, *_: object) -> Any:
        if plan.kernel.name == "kernel-0":
            raise RuntimeError("a fault")
        return Outcomes.boot(lab.outcomes, plan)

    monkeypatch.setattr("harness.vm.boot.boot", boot)
    first, second = lab.run(2).kernels
    assert (first.verdict, second.verdict) == (KernelVerdict.INFRASTRUCTURE, KernelVerdict.PASS)
    assert "RuntimeError: a fault" in first.reason


def test_without_workers_the_wait_ends_with_a_sentence(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "ALONE_S", 0.0)
    monkeypatch.setattr(fleet, "PAUSE_S", 0.01)
    monkeypatch.setattr(fleet_workers.Workers, "usable", lambda _: {})
    with pytest.raises(HostError, match=r"no worker that may test .* continue with --resume"):
        lab.run(1)


def test_nobody_else_reaches_the_http_server_of_the_asking_side(cluster: Any) -> None:
    with (
        fleet_workers.connected(Fleet(cluster.scheduler_address)) as client,
        fleet._store(client, Fleet(cluster.scheduler_address)) as address,
    ):
        (worker,) = [w for w in distributed.Worker._instances if w.address == address]
        sockets = worker.http_server._sockets.values()
        assert {sock.getsockname()[0] for sock in sockets} == {"127.0.0.1"}


def test_workers_are_seen_whenever_one_looks(cluster: Any) -> None:
    with distributed.Client(cluster, set_as_default=False) as client:
        workers = fleet_workers.Workers(client, VERSIONS, lambda _: None, kvm=False, store="")
        client._scheduler_identity["workers"] = {}  # as the client itself leaves it
        workers.look()
        assert len(workers.all()) == 2


def test_a_file_is_moved_in_pieces_and_verified(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(bytes(range(256)) * 40)
    digest = fleet_worker.sha256(image)
    monkeypatch.setattr(fleet_worker, "PIECE", 1000)
    monkeypatch.setitem(fleet_worker.OFFERED, digest, image)
    target, store = tmp_path / "there" / "bzImage", next(iter(cluster.workers.values())).address
    with distributed.Client(cluster, set_as_default=False) as client:
        fleet_worker._file(digest, 256 * 40, target, store, client)
        assert target.read_bytes() == image.read_bytes()
        image.write_bytes(b"another")
        fleet_worker._file(digest, 256 * 40, target, store, client)  # it is there already
        target.write_bytes(b"damaged")
        with pytest.raises(HostError, match="arrived damaged"):
            fleet_worker._file(digest, 256 * 40, target, store, client)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {**VERSIONS, "harness": "0.2"}}, "it has harness 0.2, and this host 0.1 ab"),
        ({"versions": {**VERSIONS, "QEMU": "9.0"}}, "it has QEMU 9.0, and this host 7.2"),
        ({"trouble": "qemu-system-x86_64 was not found"}, "qemu-system-x86_64 was not found"),
        ({"kvm": False}, "it has no usable /dev/kvm"),
        ({"vms": 0}, "--resources vm=N"),
    ],
    ids=["version", "QEMU", "no QEMU", "KVM", "resources"],
)
def test_a_worker_that_is_unlike_this_host_is_refused(change: dict[str, Any], said: str) -> None:
    good = About("host", VERSIONS, vms=2, kvm=True)
    assert fleet_workers.refusal(good, VERSIONS, kvm=True) == ""
    assert said in fleet_workers.refusal(replace(good, **change), VERSIONS, kvm=True)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://192.0.2.1:8786", "without TLS"),
        ("tcp://lab:8786", "without TLS"),
        ("lab:8786", "give tls://HOST:PORT"),
        ("ssh://lab:8786", "give tls://HOST:PORT"),
        ("tls://lab:8786", "must name a directory with ca.pem"),
    ],
)
def test_an_address_needs_tls_unless_it_is_loopback(address: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fleet_workers.security(Fleet(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_loopback_needs_no_tls(host: str) -> None:
    assert fleet_workers.security(Fleet(f"tcp://{host}:8786")) is None


def test_the_longest_kernel_comes_first() -> None:
    executor = fleet.FleetExecutor.__new__(fleet.FleetExecutor)
    executor._durations = {"kernel-0": 1.0, "kernel-2": 9.0}
    names = [entry.name for entry in executor.in_order(fake_boots.entries(3))]
    assert names == ["kernel-1", "kernel-2", "kernel-0"]


def test_where_a_kernel_is_tested_is_no_part_of_the_question() -> None:
    request = RunRequest(fleet=Fleet("tls://lab:8786"))
    assert request.settings() == RunRequest().settings()
