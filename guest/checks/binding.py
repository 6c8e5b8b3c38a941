# SPDX-License-Identifier: GPL-2.0-only
"""bind(2), listen(2) and what options do to them; names of sockets; devices and port ranges."""

from __future__ import annotations

import _socket
import ctypes
import errno
import struct

from guest import mib
from guest.calls import POLLIN, POLLOUT, errno_of, fails, has_events, poll
from guest.checks import equal, require, scenario_check
from guest.checks.reconnect import is_mptcp
from guest.flow import at_end, content, exchange, read, same
from guest.lab import MPTCP, TCP, wait_until, write_sysctl
from guest.setting import get, get_int, put, putting
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab

SCENARIO = "binding"
SYNCOOKIES = "net.ipv4.tcp_syncookies"
ANY_IPV4 = "0.0.0.0"  # noqa: S104
ANY = {_socket.AF_INET: ANY_IPV4, _socket.AF_INET6: "::"}
#: Of nobody: TEST-NET-1 (RFC 5737), and the documentation prefix (RFC 3849).
FOREIGN = {_socket.AF_INET: "192.0.2.1", _socket.AF_INET6: "2001:db8::1"}


def bound(lab: Lab, port: int, option: str = "", protocol: int = MPTCP) -> _socket.socket:
    sock = lab.socket(protocol)
    if option:
        put(sock, option, 1)
    sock.bind((lab.address, port))
    return sock


@scenario_check("bind.of_a_used_port_fails", scenario=SCENARIO)
@each("mptcp", "tcp")
def used_port(lab: Lab) -> None:
    """bind(2) to a port that another socket listens on fails with EADDRINUSE."""
    listener = lab.listener(MPTCP if lab.side == "mptcp" else TCP)
    fails("bind() to a used port", errno.EADDRINUSE, lab.socket().bind, listener.getsockname())


@scenario_check("bind.twice_fails", scenario=SCENARIO)
def bind_twice(lab: Lab) -> None:
    """bind(2) of a socket that has a port fails with EINVAL, and changes nothing."""
    sock = bound(lab, 0)
    name = sock.getsockname()
    fails("a second bind()", errno.EINVAL, sock.bind, (lab.address, 0))
    equal("getsockname()", sock.getsockname(), name)


@scenario_check("bind.to_a_foreign_address_fails", scenario=SCENARIO)
def foreign_address(lab: Lab) -> None:
    """bind(2) to an address that is not local fails with EADDRNOTAVAIL; the socket stays usable."""
    sock = lab.socket()
    fails("bind()", errno.EADDRNOTAVAIL, sock.bind, (FOREIGN[lab.family], 0))
    fails("bind() once more", 0, sock.bind, (lab.address, 0))


@scenario_check(
    "freebind.binds_to_a_foreign_address",
    scenario=SCENARIO,
    needs=("transparent_get",),
)
@each("FREEBIND", "TRANSPARENT")
def freebind(lab: Lab) -> None:
    """IP(V6)_FREEBIND and IP(V6)_TRANSPARENT allow bind(2) to an address that is not local."""
    sock = lab.socket()
    prefix = "IPV6_" if lab.family == _socket.AF_INET6 else "IP_"
    put(sock, prefix + lab.side, 1)
    fails("bind()", 0, sock.bind, (FOREIGN[lab.family], 0))
    equal("the address", sock.getsockname()[0], FOREIGN[lab.family])
    put(sock, prefix + lab.side, 0)
    equal("the option once it is off", get_int(sock, prefix + lab.side), 0)


@scenario_check("so_reuseaddr.shares_a_port_until_listen", scenario=SCENARIO)
def reuseaddr_shares(lab: Lab) -> None:
    """With SO_REUSEADDR two sockets can bind one port, and one of them can listen."""
    one = bound(lab, 0, "SO_REUSEADDR")
    port = one.getsockname()[1]
    fails("bind() without it", errno.EADDRINUSE, bound, lab, port)
    other = bound(lab, port, "SO_REUSEADDR")
    other.listen(1)
    fails("a second listen()", errno.EADDRINUSE, one.listen, 1)
    fails("bind() beside a listener", errno.EADDRINUSE, bound, lab, port, "SO_REUSEADDR")


@scenario_check("so_reuseaddr.takes_a_port_in_time_wait", scenario=SCENARIO)
def reuseaddr_time_wait(lab: Lab) -> None:
    """With SO_REUSEADDR a listener can bind a port that has connections in TIME_WAIT."""
    pair = lab.pair(before_bind=putting("SO_REUSEADDR", 1))
    address = pair.listener.getsockname()
    exchange(pair.client, pair.server, b"forth", b"back")
    pair.server.shutdown(_socket.SHUT_WR)
    at_end("the server's end", pair.client)
    pair.client.shutdown(_socket.SHUT_WR)
    at_end("the client's end", pair.server)
    for sock in (pair.server, pair.client, pair.listener):
        sock.close()
    sock = lab.socket()
    put(sock, "SO_REUSEADDR", 1)
    fails("bind()", 0, sock.bind, address)
    # The last of the old sockets may be closed a moment later, by a work queue.
    equal("listen() succeeds", wait_until(lambda: errno_of(sock.listen, 1) == 0), True)


@scenario_check("so_reuseport.shares_a_listening_port", scenario=SCENARIO)
def reuseport(lab: Lab) -> None:
    """With SO_REUSEPORT two sockets listen on one port; without it a third does not."""
    one = bound(lab, 0, "SO_REUSEPORT")
    port = one.getsockname()[1]
    one.listen(4)
    fails("bind() without it", errno.EADDRINUSE, bound, lab, port)
    other = bound(lab, port, "SO_REUSEPORT")
    fails("a second listen()", 0, other.listen, 4)
    one.close()
    client = lab.socket()
    client.connect((lab.address, port))
    exchange(client, lab.accept(other), content(1000), content(1000))


@scenario_check("ipv6_v6only.leaves_ipv4_alone", scenario=SCENARIO, families=("ipv6",))
@each("on", "off")
def v6only(lab: Lab) -> None:
    """An IPv4 socket can bind the port of an IPv6 one only if that has IPV6_V6ONLY."""
    on = lab.side == "on"
    sock = lab.socket()
    put(sock, "IPV6_V6ONLY", int(on))
    sock.bind(("::", 0))
    sock.listen(4)
    port = sock.getsockname()[1]
    other = lab.adopt(_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, MPTCP))
    fails("bind() of IPv4", 0 if on else errno.EADDRINUSE, other.bind, (ANY_IPV4, port))


@scenario_check(
    "ipv6_v6only.decides_who_may_connect",
    scenario=SCENARIO,
    families=("ipv6",),
)
@each("on", "off")
def v6only_connect(lab: Lab) -> None:
    """IPv4 clients reach a listener on :: unless IPV6_V6ONLY is set, and are MPTCP there."""
    sock = lab.socket()
    put(sock, "IPV6_V6ONLY", int(lab.side == "on"))
    sock.bind(("::", 0))
    sock.listen(4)
    client = lab.adopt(_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, MPTCP))
    address = ("127.0.0.1", sock.getsockname()[1])
    if lab.side == "on":
        fails("connect() of IPv4", errno.ECONNREFUSED, client.connect, address)
        return
    fails("connect() of IPv4", 0, client.connect, address)
    server = lab.accept(sock)
    equal("getpeername()", server.getpeername()[:2], ("::ffff:127.0.0.1", client.getsockname()[1]))
    equal("getsockname()", server.getsockname()[:2], ("::ffff:127.0.0.1", address[1]))
    exchange(client, server, content(20_000), content(20_000))
    for end in (client, server):
        equal("TCP_IS_MPTCP", is_mptcp(end), True)


@scenario_check("accept.of_plain_tcp_over_ipv4", scenario=SCENARIO, families=("ipv6",))
def tcp_over_ipv4(lab: Lab) -> None:
    """A plain TCP client over IPv4 is accepted by a listener on ::, with mapped addresses."""
    sock = lab.socket()
    put(sock, "IPV6_V6ONLY", 0)
    sock.bind(("::", 0))
    sock.listen(4)
    client = lab.adopt(_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, TCP))
    port = sock.getsockname()[1]
    client.connect(("127.0.0.1", port))
    server = lab.accept(sock)
    equal("getpeername()", server.getpeername()[:2], ("::ffff:127.0.0.1", client.getsockname()[1]))
    equal("getsockname()", server.getsockname()[:2], ("::ffff:127.0.0.1", port))
    exchange(client, server, content(20_000), content(20_000))
    equal("MPTCP at the server", is_mptcp(server), False)


@scenario_check("connect.to_a_mapped_address", scenario=SCENARIO, families=("ipv6",))
def mapped(lab: Lab) -> None:
    """An IPv6 socket connects to ::ffff:127.0.0.1, as MPTCP over IPv4."""
    listener = lab.adopt(_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, MPTCP))
    listener.bind(("127.0.0.1", 0))
    listener.listen(4)
    client = lab.socket()
    port = listener.getsockname()[1]
    fails("connect()", 0, client.connect, ("::ffff:127.0.0.1", port))
    fd, _ = listener._accept()  # type: ignore[attr-defined]
    server = lab.adopt(_socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, MPTCP, fd))
    equal("getpeername()", client.getpeername()[:2], ("::ffff:127.0.0.1", port))
    equal("getpeername() of the server", server.getpeername()[1], client.getsockname()[1])
    exchange(client, server, content(20_000), content(20_000))
    equal("MPTCP at the client", is_mptcp(client), True)


@scenario_check(
    "ip_local_port_range.bounds_the_port",
    scenario=SCENARIO,
    needs=("local_port_range",),
)
@each("bind", "connect", "listen")
def port_range(lab: Lab) -> None:
    """IP_LOCAL_PORT_RANGE bounds the ports that bind(2), connect(2) and listen(2) choose."""
    low, high = 51_000, 51_003
    sock = lab.socket()
    put(sock, "IP_LOCAL_PORT_RANGE", struct.pack("=I", high << 16 | low))
    if lab.side == "bind":
        sock.bind((lab.address, 0))
    elif lab.side == "listen":
        sock.listen(1)
    else:
        sock.connect(lab.listener().getsockname())
    port = sock.getsockname()[1]
    require("the port", low <= port <= high, "from %d to %d" % (low, high), port)


@scenario_check(
    "ip_bind_address_no_port.leaves_the_port_to_connect",
    scenario=SCENARIO,
    needs=("local_port_range",),
)
def no_port(lab: Lab) -> None:
    """With IP_BIND_ADDRESS_NO_PORT bind(2) fixes the address, and connect(2) the port."""
    sock = lab.socket()
    put(sock, "IP_BIND_ADDRESS_NO_PORT", 1)
    sock.bind((lab.address, 0))
    equal("getsockname() after bind()", sock.getsockname()[:2], (lab.address, 0))
    listener = lab.listener()
    sock.connect(listener.getsockname())
    require("the port after connect()", sock.getsockname()[1] > 0, "more than 0", 0)
    exchange(sock, lab.accept(listener), content(1000), content(1000))


@scenario_check("listen.without_bind_takes_a_port", scenario=SCENARIO)
def listen_without_bind(lab: Lab) -> None:
    """listen(2) on an unbound socket binds it to a free port on all addresses."""
    sock = lab.socket()
    equal("getsockname() at first", sock.getsockname()[:2], (ANY[lab.family], 0))
    sock.listen(2)
    name = sock.getsockname()
    equal("the address", name[0], ANY[lab.family])
    client = lab.socket()
    client.connect((lab.address, name[1]))
    server = lab.accept(sock)
    equal("getsockname() of the accepted", server.getsockname(), client.getpeername())
    equal("getpeername() of the accepted", server.getpeername(), client.getsockname())
    equal("getsockname() of the listener", sock.getsockname(), name)
    fails("getpeername() of the listener", errno.ENOTCONN, sock.getpeername)


@scenario_check("listen.backlog_bounds_what_waits", scenario=SCENARIO)
def backlog(lab: Lab) -> None:
    """A backlog of 1 queues two connections; another listen(2) can raise it."""
    listener = lab.listener(backlog=1)
    clients = [lab.socket() for _ in range(4)]
    for client in clients[:2]:
        client.connect(listener.getsockname())
    before = mib.dropped_syns()
    clients[2].settimeout(0)
    fails("a third connect()", errno.EINPROGRESS, clients[2].connect, listener.getsockname())
    equal("ListenOverflows moves", wait_until(lambda: mib.dropped_syns() > before), True)
    equal("events of the third", poll(clients[2]), 0)
    clients[2].close()  # it would send its SYN again, on a slow machine before the next client's
    fails("listen() with a larger backlog", 0, listener.listen, 8)
    clients[3].connect(listener.getsockname())
    for client in (clients[0], clients[1], clients[3]):
        server = lab.accept(listener)
        equal("getpeername() in the order of connect()", server.getpeername(), client.getsockname())


@scenario_check("accept.of_an_empty_queue", scenario=SCENARIO)
def accept_of_nothing(lab: Lab) -> None:
    """A nonblocking accept(2) fails with EAGAIN on an empty queue, EINVAL without listen(2)."""
    listener = lab.listener()
    equal("events of an idle listener", poll(listener), 0)
    listener.settimeout(0)
    fails("accept()", errno.EAGAIN, listener._accept)  # type: ignore[attr-defined]
    client = lab.socket()
    client.connect(listener.getsockname())
    has_events("of a listener with a client", listener, POLLIN)
    server = lab.accept(listener)
    equal("events once it was accepted", poll(listener), 0)
    for sock in (lab.socket(), bound(lab, 0), client, server):
        sock.settimeout(0)
        fails("accept() of no listener", errno.EINVAL, sock._accept)  # type: ignore[attr-defined]


@scenario_check("tcp_defer_accept.waits_for_data", scenario=SCENARIO)
def defer_accept(lab: Lab) -> None:
    """With TCP_DEFER_ACCEPT a listener is readable once data have come, not before."""
    listener = lab.listener(before=putting("TCP_DEFER_ACCEPT", 5))
    require("TCP_DEFER_ACCEPT", get_int(listener, "TCP_DEFER_ACCEPT") > 0, "more than 0", 0)
    client = lab.socket()
    client.connect(listener.getsockname())
    equal("events before data", poll(listener, 0.02, POLLIN), 0)
    data = content(500)
    client.sendall(data)
    has_events("with data", listener, POLLIN)
    server = lab.accept(listener)
    same("the data", read(server, len(data)), data)
    exchange(client, server, content(5000), content(5000))


@scenario_check("so_bindtodevice.of_no_device_fails", scenario=SCENARIO)
def no_device(lab: Lab) -> None:
    """SO_BINDTODEVICE and SO_BINDTOIFINDEX of no device fail with ENODEV and bind nothing."""
    sock = lab.socket()
    level = _socket.SOL_SOCKET
    fails("SO_BINDTODEVICE", errno.ENODEV, sock.setsockopt, level, 25, b"nosuch\0")
    put(sock, "SO_BINDTODEVICE", b"lo\0")
    equal("SO_BINDTODEVICE", get(sock, "SO_BINDTODEVICE", 16), b"lo\0")
    equal("SO_BINDTOIFINDEX", get_int(sock, "SO_BINDTOIFINDEX"), 1)
    put(sock, "SO_BINDTODEVICE", b"\0")
    equal("SO_BINDTOIFINDEX once it is off", get_int(sock, "SO_BINDTOIFINDEX"), 0)


@scenario_check("so_bindtodevice.shares_no_port_with_all_devices", scenario=SCENARIO)
def device_listens(lab: Lab) -> None:
    """A socket bound to a device cannot bind a port that a socket without a device has bound."""
    general = lab.socket()
    general.bind((ANY[lab.family], 0))
    address = (ANY[lab.family], general.getsockname()[1])
    special = lab.socket()
    put(special, "SO_BINDTODEVICE", b"lo\0")
    fails("bind() beside a socket of all devices", errno.EADDRINUSE, special.bind, address)
    put(special, "SO_BINDTODEVICE", b"\0")
    fails("bind() without a device", errno.EADDRINUSE, special.bind, address)


@scenario_check("connect.again_says_eisconn", scenario=SCENARIO)
def connect_again(lab: Lab) -> None:
    """connect(2) on a connected or listening socket fails with EISCONN and changes nothing."""
    pair = lab.pair()
    # The first call after a nonblocking connect() says that it has worked.
    errno_of(pair.client.connect, pair.listener.getsockname())
    for sock in (pair.client, pair.server, pair.listener):
        fails("connect()", errno.EISCONN, sock.connect, pair.listener.getsockname())
    equal("POLLOUT", poll(pair.client) & POLLOUT, POLLOUT)
    exchange(pair.client, pair.server, content(1000), content(1000))
    fails("listen() of a connection", errno.EINVAL, pair.client.listen, 1)
    fails("bind() of a connection", errno.EINVAL, pair.client.bind, (lab.address, 0))


@scenario_check("connect.to_a_wrong_family_fails", scenario=SCENARIO)
def wrong_family(lab: Lab) -> None:
    """connect(2) to an address of an unknown family fails, and the socket stays usable."""
    libc = ctypes.CDLL(None, use_errno=True)
    sock = lab.socket()
    address = struct.pack("=H26x", 99)
    equal("connect()", libc.connect(sock.fileno(), address, len(address)), -1)
    equal("its errno", ctypes.get_errno(), errno.EAFNOSUPPORT)
    listener = lab.listener()
    sock.connect(listener.getsockname())
    exchange(sock, lab.accept(listener), content(1000), content(1000))


@scenario_check("syncookies.keep_mptcp", scenario=SCENARIO)
@each("mptcp", "tcp")
def syncookies(lab: Lab) -> None:
    """With SYN cookies for every connection, MPTCP clients get MPTCP and TCP clients TCP."""
    lab.afterwards(lambda: write_sysctl(SYNCOOKIES, "1"))
    write_sysctl(SYNCOOKIES, "2")
    listener = lab.listener()
    mptcp = lab.side == "mptcp"
    client = lab.socket(MPTCP if mptcp else TCP)
    client.connect(listener.getsockname())
    client.sendall(b"first")  # a cookie's connection is made by the third segment, or by data
    server = lab.accept(listener)
    same("what is read first", read(server, 5), b"first")
    for name, sock in (("client", client), ("server", server)):
        equal("MPTCP at the " + name, is_mptcp(sock), mptcp)
    exchange(client, server, content(50_000), content(50_000, 1))
    client.shutdown(_socket.SHUT_WR)
    at_end("the end of the stream", server)
