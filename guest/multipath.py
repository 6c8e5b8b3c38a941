# SPDX-License-Identifier: GPL-2.0-only
"""MPTCP connections with several subflows, in one network namespace.

Both ends share a namespace, and so endpoints, limits and sysctls. To distinguish them, client and
server of a connection have different path managers: each socket uses the one in net.mptcp.pm_type
when the socket is created, and an accepted socket is created when the client connects. The end with
the user-space path manager then does only what commands with its token say.
"""

from __future__ import annotations

import _socket
import os

from guest import abi, diag, mib, pm, sockopt, topology
from guest.checks import Failed
from guest.lab import MPTCP, Lab, wait_until, write_sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence, TypeVar

    T = TypeVar("T")
    Address = tuple[str, int]
    Setup = Callable[[_socket.socket], object]

PM_TYPE = "net.mptcp.pm_type"
SETTLE_S = 10.0
#: Counters that depend on the arrival order of segments.
IN_FLIGHT = (
    "MPTCPRetrans", "OFOQueueTail", "OFOQueue", "OFOMerge", "DuplicateData", "NoDSSInWindow",
    "SndWndShared", "RcvWndShared", "RcvWndConflictUpdate", "RcvWndConflict", "WinProbe",
    "BacklogDrop", "SubflowStale", "SubflowRecover",
)  # fmt: skip
#: More elements than any connection here has subflows.
ELEMENTS = 8


def info(sock: _socket.socket) -> abi.View:
    """MPTCP_INFO. Raises Failed when it cannot be read."""
    answer = sockopt.getsockopt(
        sock.fileno(), abi.SOL_MPTCP, abi.MPTCP_INFO, bytes(abi.MPTCP_INFO_LAYOUT.size)
    )
    if answer.errno:
        raise Failed("getsockopt(SOL_MPTCP, MPTCP_INFO)", "success", "errno %d" % answer.errno)
    return abi.MPTCP_INFO_LAYOUT.view(answer.filled)


class Array:
    """An answer of MPTCP_TCPINFO or MPTCP_SUBFLOW_ADDRS: its header, and one view per element."""

    def __init__(
        self,
        sock: _socket.socket,
        option: int,
        element: abi.Layout,
        room: int = ELEMENTS,
        size: Optional[int] = None,
    ) -> None:
        header = abi.SUBFLOW_DATA_LAYOUT
        size = element.size if size is None else size
        request = bytes(header.pack(size_subflow_data=header.size, size_user=size))
        self.answer = sockopt.getsockopt(
            sock.fileno(), abi.SOL_MPTCP, option, request + sockopt.unused(room * size)
        )
        self.header = header.view(self.answer.data)
        body = self.answer.filled[header.size :]
        step = self.header.size_user or 1
        self.elements = [element.view(body[at : at + step]) for at in range(0, len(body), step)]
        self.behind = self.answer.data[max(self.answer.length, header.size) :]


def tcp_infos(sock: _socket.socket) -> Sequence[abi.View]:
    return Array(sock, abi.MPTCP_TCPINFO, abi.TCP_INFO_LAYOUT).elements


def addresses(sock: _socket.socket) -> Sequence[tuple[Address, Address]]:
    """(local, remote) of each subflow, each (address in text, port)."""
    found = Array(sock, abi.MPTCP_SUBFLOW_ADDRS, abi.SUBFLOW_ADDRS_LAYOUT).elements
    return [
        (_address(one.bytes_of("ss_local")), _address(one.bytes_of("ss_remote"))) for one in found
    ]


def _address(data: bytes) -> Address:
    family = abi.family_of(data)
    if family not in (_socket.AF_INET, _socket.AF_INET6):
        what = "the family of a subflow's address"
        raise Failed(what, "AF_INET or AF_INET6", str(family), data)
    port = int.from_bytes(data[2:4], "big")
    packed = data[8:24] if family == _socket.AF_INET6 else data[4:8]
    return _socket.inet_ntop(family, packed), port


class Full:
    """MPTCP_FULL_INFO: header, and per subflow an id, its addresses and a struct tcp_info."""

    def __init__(self, sock: _socket.socket, room: int = ELEMENTS, **fields: int) -> None:
        layout = abi.FULL_INFO_LAYOUT
        self.subflows = sockopt.Buffer(sockopt.unused(ELEMENTS * abi.SUBFLOW_INFO_LAYOUT.size))
        self.tcp = sockopt.Buffer(sockopt.unused(ELEMENTS * abi.TCP_INFO_LAYOUT.size))
        request = {
            "size_tcpinfo_user": abi.TCP_INFO_LAYOUT.size,
            "size_sfinfo_user": abi.SUBFLOW_INFO_LAYOUT.size,
            "size_arrays_user": room,
            "subflow_info": self.subflows.address,
            "tcp_info": self.tcp.address,
        }
        request.update(fields)
        self.answer = sockopt.getsockopt(
            sock.fileno(), abi.SOL_MPTCP, abi.MPTCP_FULL_INFO, layout.pack(**request)
        )
        self.header = layout.view(self.answer.data)
        self.room = room

    @property
    def filled(self) -> int:
        return min(self.room, self.header.num_subflows)

    def _views(self, buffer: sockopt.Buffer, size: int, layout: abi.Layout) -> Sequence[abi.View]:
        data = buffer.content(used=self.filled * size)
        return [layout.view(data[n * size : (n + 1) * size]) for n in range(self.filled)]

    @property
    def ids(self) -> Sequence[int]:
        size = self.header.size_sfinfo_user
        return [one.id for one in self._views(self.subflows, size, abi.SUBFLOW_INFO_LAYOUT)]

    @property
    def addresses(self) -> Sequence[tuple[Address, Address]]:
        views = self._views(self.subflows, self.header.size_sfinfo_user, abi.SUBFLOW_INFO_LAYOUT)
        size = abi.SOCKADDR_STORAGE_SIZE
        both = [one.bytes_of("addrs") for one in views]
        return [(_address(data), _address(data[size:])) for data in both]

    @property
    def tcp_infos(self) -> Sequence[abi.View]:
        return self._views(self.tcp, self.header.size_tcpinfo_user, abi.TCP_INFO_LAYOUT)


class Ends:
    """A connection: both sockets, their tokens, and the port that the server listens on."""

    def __init__(
        self, client: _socket.socket, server: _socket.socket, listener: _socket.socket
    ) -> None:
        self.client = client
        self.server = server
        self.listener = listener
        self.port = int(listener.getsockname()[1])
        self.token = info(client).mptcpi_token
        self.server_token = info(server).mptcpi_token

    def close(self) -> None:
        for sock in (self.client, self.server, self.listener):
            sock.close()


class Bench:
    """The shared state of the checks of a scenario: addresses, netlink sockets, and finished
    stories."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.lab = Lab(family)
        #: The limits that the checks start from.
        self.limits = (2, 6)
        self.loopback = topology.Loopback()
        self.loopback.add_paths(family)
        self.pm = pm.PathManager()
        self.events = pm.Events(self.pm)
        self.diag = diag.Diag()
        self._told: dict[str, object] = {}
        #: MPTCP sockets that stay established between checks.
        self._standing = 0

    def client_address(self, path: int) -> str:
        return topology.client_address(self.family, path)

    def server_address(self, path: int) -> str:
        return topology.server_address(self.family, path)

    def clean(self) -> None:
        """No endpoints, and the limits that the checks start from."""
        self.pm.flush()
        self.pm.set_limits(*self.limits)
        self.events.forget()

    def quiet(self) -> None:
        """Wait until the kernel has freed the sockets that earlier checks closed, so that they do
        not change a counter later."""

        def established() -> int:
            return mib.counters().get("MPCurrEstab", self._standing)

        wait_until(lambda: established() == self._standing)

    def story(self, name: str, tell: Callable[[], T]) -> T:
        """The result of ``tell()``, which is called once for all checks that use it.

        If it fails, each of them fails with the same reason.
        """
        if name not in self._told:
            try:
                self._told[name] = tell()
            except (Failed, OSError) as reason:
                self._told[name] = reason
        told = self._told[name]
        if isinstance(told, Exception):
            raise told
        return told  # type: ignore[return-value]

    def finish(self, ends: Ends) -> None:
        """Close a connection that was made without a lab of its own."""
        ends.close()
        self._standing -= 2

    def connect(
        self,
        lab: Optional[Lab] = None,
        client_pm: int = pm.IN_KERNEL,
        server_pm: int = pm.IN_USER_SPACE,
        before_connect: Optional[Setup] = None,
        before_bind: Optional[Setup] = None,
        family: Optional[int] = None,
        server_address: Optional[str] = None,
        client_address: Optional[str] = None,
        greet: bool = True,
    ) -> Ends:
        """A connection from the client's first address to the server's, fully established.

        The listener is bound to every address, so that subflows can reach all of the server's. The
        sockets are closed after the check of ``lab``, or at the end of the scenario without one.
        """
        if lab is None:
            lab = self.lab
            self._standing += 2
        family = self.family if family is None else family
        listener = lab.adopt(_socket.socket(family, _socket.SOCK_STREAM, MPTCP))
        if before_bind is not None:
            before_bind(listener)
        listener.bind(("::" if family == _socket.AF_INET6 else "", 0))
        listener.listen(8)
        write_sysctl(PM_TYPE, str(client_pm))
        client = lab.adopt(_socket.socket(family, _socket.SOCK_STREAM, MPTCP))
        if before_connect is not None:
            before_connect(client)
        client.bind((client_address or self.client_address(1), 0))
        write_sysctl(PM_TYPE, str(server_pm))
        client.connect((server_address or self.server_address(1), listener.getsockname()[1]))
        ends = Ends(client, lab.accept(listener), listener)
        if greet:
            exchange(ends, b"?")
            exchange(ends, b"!")
        return ends


_benches: dict[tuple[int, int], Bench] = {}


def bench(lab: Lab) -> Bench:
    """The bench of this scenario's process and family."""
    key = (os.getpid(), lab.family)
    if key not in _benches:
        _benches[key] = Bench(lab.family)
    return _benches[key]


def exchange(ends: Ends, data: bytes) -> None:
    """Send ``data`` from the client to the server and back. Raises Failed unless they arrive
    intact."""
    transfer(ends.client, ends.server, data)
    transfer(ends.server, ends.client, data)


def transfer(source: _socket.socket, sink: _socket.socket, data: bytes) -> None:
    """Send ``data`` from ``source`` to ``sink``, in pieces that fit into the buffers."""
    window = 1 << 15
    left, came = memoryview(data), []
    count = 0
    while count < len(data):
        if left:
            sent = source.send(left[:window])
            left = left[sent:]
        target = len(data) - len(left)
        while count < target:
            chunk = sink.recv(1 << 16)
            if not chunk:
                raise Failed("bytes received", str(len(data)), "the end after %d" % count)
            came.append(chunk)
            count += len(chunk)
    if b"".join(came) != data:
        raise Failed("bytes received", "the %d that were sent" % len(data), "others")


def wait_for(what: str, sample: Callable[[], T], wanted: T, seconds: Optional[float] = None) -> T:
    """Wait until ``sample()`` is ``wanted``, and return it. Raises Failed at the deadline."""
    got: list[T] = []

    def same() -> bool:
        got[:] = [sample()]
        return got[0] == wanted

    if not wait_until(same, SETTLE_S if seconds is None else seconds):
        raise Failed(what, str(wanted), str(got[0]))
    return got[0]


def agree(what: str, sample: Callable[[], tuple[object, object]]) -> None:
    """Raise Failed unless both values of ``sample()`` become equal.

    For values that are read one after the other, with a delayed ACK possibly in between.
    """
    seen: list[tuple[object, object]] = []

    def same() -> bool:
        seen[:] = [sample()]
        return seen[0][0] == seen[0][1]

    if not wait_until(same):
        raise Failed(what, str(seen[0][1]), str(seen[0][0]))


def moved(since: mib.Since, expected: dict[str, int], ignore: Sequence[str] = ()) -> None:
    """Wait until the counters changed as ``expected``; raises Failed if they do not.

    An expected counter that this kernel lacks is ignored.
    """
    wanted = {
        name: value for name, value in expected.items() if name in since.start or not since.start
    }

    def now() -> dict[str, int]:
        return {name: value for name, value in since.moved().items() if name not in ignore}

    wait_for("MPTcpExt counters that moved", now, wanted)


def field(sock: _socket.socket, name: str) -> Callable[[], int]:
    """Reads one field of MPTCP_INFO of ``sock``, which a kernel may lack: then it is None."""

    def read() -> int:
        found = info(sock)
        return getattr(found, name) if found.has(name) else None  # type: ignore[return-value]

    return read


def subflows(sock: _socket.socket, count: int) -> None:
    """Wait until ``sock`` has ``count`` subflows beside the initial one."""
    wait_for("mptcpi_subflows", field(sock, "mptcpi_subflows"), count)


def fully_established(bench: Bench, sock: _socket.socket) -> None:
    """Wait until the subflows of ``sock`` are fully established: they count before, and while they
    are not, the path manager does not send on them."""

    def all_are() -> bool:
        records = [bench.diag.tcp(*pair).ulp for pair in addresses(sock)]
        return all(ulp and ulp.flags & diag.FULLY_ESTABLISHED for ulp in records)

    wait_until(all_are, SETTLE_S)


def both_have(ends: Ends, count: int) -> None:
    subflows(ends.client, count)
    subflows(ends.server, count)
