# SPDX-License-Identifier: GPL-2.0-only
"""The scheduler of a fleet, and its workers: which of them are like the client, and may test.

Packages of the extra ``fleet`` are imported where they are needed: they may be absent.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import HostError, UsageError
from harness.run import fleet_worker
from harness.run.executor import Say
from harness.run.fleet_worker import About
from harness.run.request import Fleet
from harness.text import plural

#: Seconds.
CONNECT_S = 15
ANSWER_S = 20.0
PAUSE_S = 0.5
INSTALL = "pip install 'mptcp-harness[fleet]'"


def security(fleet: Fleet) -> Any:
    """The certificates for ``fleet``; None for an address on this host. Raises UsageError."""
    scheme, _, place = fleet.address.rpartition("://")
    if scheme not in ("tcp", "tls") or ":" not in place:
        raise UsageError(
            f"--fleet {fleet.address}: not an address; give tls://HOST:PORT, as `dask scheduler` "
            "prints it"
        )
    if scheme == "tcp":
        if not _is_loopback(place.rpartition(":")[0].strip("[]")):
            raise UsageError(
                f"--fleet {fleet.address}: without TLS, whoever reaches a port of the fleet runs "
                "programs on its hosts; make certificates (`mptcp-harness fleet certificates DIR`) "
                "and give tls://…"
            )
        return None
    directory = fleet.certificates
    names = ("ca.pem", "client.pem", "client-key.pem")
    if directory is None or not all((directory / name).is_file() for name in names):
        raise UsageError(
            f"--fleet {fleet.address}: --fleet-certificates must name a directory with "
            f"{', '.join(names)}; `mptcp-harness fleet certificates DIR` makes one"
        )
    from distributed.security import Security

    ca, cert, key = (str(directory / name) for name in names)
    # The client is also a worker, which has the kernels' files.
    return Security(
        require_encryption=True,
        tls_ca_file=ca,
        tls_client_cert=cert,
        tls_client_key=key,
        tls_worker_cert=cert,
        tls_worker_key=key,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextlib.contextmanager
def connected(fleet: Fleet) -> Iterator[Any]:
    """A client of the fleet's scheduler. Raises UsageError, HostError."""
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise UsageError(f"--fleet needs Dask ({error}): {INSTALL}") from error
    wanted = security(fleet)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it would write into the table
    quiet = {"distributed.worker.daemon": False, "distributed.comm.timeouts.connect": CONNECT_S}
    with dask.config.set(quiet):
        try:
            client = Client(fleet.address, security=wanted, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, RuntimeError) as error:  # TimeoutError is an OSError
            raise HostError(
                f"--fleet {fleet.address}: no scheduler answers ({error}); start `dask scheduler` "
                "there, with certificates of the same CA, or correct the address"
            ) from error
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=5)


@dataclass
class _Worker:
    """A worker as the client knows it; ``about`` is None until it has answered."""

    about: About | None = None
    refused: str = ""

    @property
    def vms(self) -> int:
        return self.about.vms if self.about is not None and not self.refused else 0


def refusal(about: About, versions: Mapping[str, str], *, kvm: bool) -> str:
    """Why a worker may not test anything for a run with these ``versions``; "" if it may."""
    if about.trouble:
        return about.trouble
    for name in ("harness", "guest", "QEMU", "virtme-ng"):
        if about.versions.get(name) != versions[name]:
            found = about.versions.get(name, "none")
            return (
                f"it has {name} {found}, and this host {versions[name]}; results would not be "
                "comparable: install the same"
            )
    if kvm and not about.kvm:
        return "it has no usable /dev/kvm, and KVM is asked for; give it one, or omit --accel kvm"
    if about.vms < 1:
        return "it may run no VM; start `dask worker` with --resources vm=N"
    return ""


class Workers:
    """The workers of ``client``, which are asked what they are as soon as they appear."""

    def __init__(
        self, client: Any, versions: Mapping[str, str], say: Say, *, kvm: bool, store: str
    ) -> None:
        self._client = client
        self._versions = versions
        self._say = say
        self._kvm = kvm
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[str, _Worker] = {}
        self._hosts: dict[str, str] = {}  # of all that ever answered
        self._alone_since = time.monotonic()

    def look(self) -> None:
        """Notice workers that came or went."""
        # Not Client.scheduler_info(): the client itself replaces what that returns by the totals.
        identity = self._client.sync(self._client.scheduler.identity, n_workers=-1)
        present = {address for address in identity["workers"] if address != self._store}
        with self._lock:
            new = present - self._known.keys()
            gone = self._known.keys() - present
            for address in new:
                self._known[address] = _Worker()
            lost = {address: self._known.pop(address) for address in gone}
        for worker in lost.values():
            if worker.vms and worker.about is not None:
                self._say(f"worker {worker.about.host} was lost")
        for address in new:
            self._ask(address)
        if self.usable():
            self._alone_since = time.monotonic()

    def _ask(self, address: str) -> None:
        future = self._client.submit(
            fleet_worker.about, workers=[address], pure=False, priority=1000
        )
        # The callback holds the future, which is otherwise cancelled.
        future.add_done_callback(lambda done: self._answered(address, done))

    def _answered(self, address: str, future: Any) -> None:
        try:
            about = future.result(timeout=CONNECT_S)
        except Exception as error:
            about = About(address, {}, trouble=f"it cannot run this harness ({error})")
        why = refusal(about, self._versions, kvm=self._kvm)
        with self._lock:
            if address not in self._known:
                return
            self._known[address] = _Worker(about, why)
            self._hosts[address] = about.host
        vms = plural(about.vms, "VM")
        self._say(f"worker {about.host}: {f'refused: {why}' if why else vms}")

    def usable(self) -> dict[str, int]:
        """The VMs of each worker that may test, by address."""
        with self._lock:
            return {address: worker.vms for address, worker in self._known.items() if worker.vms}

    def all(self) -> dict[str, _Worker]:
        with self._lock:
            return dict(self._known)

    def host(self, address: str) -> str:
        with self._lock:
            return self._hosts.get(address, address)

    def alone_s(self) -> float:
        """Seconds since the last moment at which a worker could test."""
        return time.monotonic() - self._alone_since


def survey(
    fleet: Fleet, versions: Mapping[str, str], stop: threading.Event
) -> list[tuple[About | None, str]]:
    """Each worker of ``fleet``, if it answers, and why it may not test; "" if it may.

    Raises UsageError, HostError.
    """
    with connected(fleet) as client:
        workers = Workers(client, versions, lambda _: None, kvm=False, store="")
        until = time.monotonic() + ANSWER_S
        while not stop.wait(PAUSE_S) and time.monotonic() < until:
            workers.look()
            known = workers.all()
            if known and all(worker.about is not None for worker in known.values()):
                break
        silent = f"it has not answered for {ANSWER_S:.0f} s; is it busy, or stopped?"
        return [
            (worker.about, worker.refused if worker.about is not None else f"{address}: {silent}")
            for address, worker in workers.all().items()
        ]
