# SPDX-License-Identifier: GPL-2.0-only
"""Bugs of MPTCP that mainline has not repaired: where a program sees something else than with TCP.

Each check says what must hold, and its ``bug`` what kernels do instead. It fails on them, which
does not count (docs/findings.md). Once a kernel passes, its ``bug`` can go, and the check with it
to the others of its subject.
"""

from __future__ import annotations

import _socket
import errno
import struct
import time

from guest import mib, setting, sockopt, states
from guest.calls import (
    POLLERR,
    POLLIN,
    POLLRDHUP,
    SIOCINQ,
    SIOCOUTQ,
    SIOCOUTQNSD,
    Blocking,
    events_text,
    fails,
    ioctl,
    poll,
)
from guest.checks import closing, equal, errno_name, fastopen, require, scenario_check
from guest.checks.fallback_options import own_peer
from guest.flow import exchange, fill, queued, same, small_buffers, wait_queued
from guest.lab import TCP, Lab, wait_until, write_sysctl
from guest.scenarios import Scenario, declare

# One waits for a call that does not return.
SCENARIO = declare(Scenario("unrepaired", waits=True)).name
MSG_MORE = 0x8000


@scenario_check(
    "accept.ends_with_so_rcvtimeo",
    scenario=SCENARIO,
    bug="accept() blocks forever: mptcp_stream_accept() uses the timeout of the TCP listener, "
    "which SO_RCVTIMEO never sets",
)
def accept_ends(lab: Lab) -> None:
    """accept(2) of a listener fails with EAGAIN after SO_RCVTIMEO."""
    listener = lab.listener()
    setting.put(listener, "SO_RCVTIMEO", struct.pack("@ll", 0, 50_000))
    with Blocking(listener, 2.0, "accept() with SO_RCVTIMEO of 50 ms"):
        fails("accept()", errno.EAGAIN, listener._accept)  # type: ignore[attr-defined]


@scenario_check(
    "siocinq.counts_data_of_the_syn",
    scenario=SCENARIO,
    needs=("tcp_inq", "tcp_fastopen"),
    bug="SIOCINQ is 2147483647: the map_seq of data from the SYN is negative",
)
def counts_data_of_the_syn(lab: Lab) -> None:
    """SIOCINQ is the number of unread bytes, even if they arrived in the SYN (TCP Fast Open)."""
    write_sysctl("net.ipv4.tcp_fastopen", fastopen.WITHOUT_COOKIES)
    _, server = fastopen.opened(lab, bytes(700))
    wait_queued(server, 700)
    equal("SIOCINQ", ioctl(server, SIOCINQ), 700)


@scenario_check(
    "siocinq.leaves_out_the_end",
    scenario=SCENARIO,
    needs=("tcp_inq",),
    bug="SIOCINQ counts the end of the stream as a byte: mptcp_ioctl() returns the value that "
    "mptcp_inq_hint() computes for TCP_CM_INQ",
)
def leaves_out_the_end(lab: Lab) -> None:
    """SIOCINQ counts bytes that can be read, not the end of the stream; 0 on a new socket."""
    pair = lab.pair()
    equal("SIOCINQ of a new socket", ioctl(lab.socket(), SIOCINQ), 0)
    pair.client.sendall(b"abc")
    pair.client.shutdown(_socket.SHUT_WR)
    wait_until(lambda: poll(pair.server) & POLLRDHUP)
    equal("SIOCINQ of 3 bytes and the end", ioctl(pair.server, SIOCINQ), 3)
    pair.server.recv(3)
    equal("SIOCINQ at the end", ioctl(pair.server, SIOCINQ), 0)


@scenario_check(
    "siocoutq.of_a_listener_fails",
    scenario=SCENARIO,
    needs=("tcp_inq",),
    bug="the call succeeds and stores -22: mptcp_ioctl() does not return the error of "
    "mptcp_ioctl_outq()",
)
def of_a_listener_fails(lab: Lab) -> None:
    """SIOCOUTQ and SIOCOUTQNSD of a listener fail with EINVAL."""
    listener = lab.listener()
    fails("SIOCOUTQ of a listener", errno.EINVAL, ioctl, listener, SIOCOUTQ)
    fails("SIOCOUTQNSD of a listener", errno.EINVAL, ioctl, listener, SIOCOUTQNSD)


@scenario_check(
    "siocoutq.counts_once_after_fallback",
    scenario=SCENARIO,
    needs=("tcp_inq",),
    bug="bytes queued in TCP since the last packet arrived count twice: mptcp_ioctl_outq() adds "
    "TCP's unacknowledged bytes to write_seq - snd_una",
)
def counts_once_after_fallback(lab: Lab) -> None:
    """After fallback to TCP SIOCOUTQ is at most the number of bytes that were sent."""
    pair = lab.pair(server=TCP, before_connect=small_buffers, before_bind=small_buffers)
    sent = len(fill(pair.client))
    got = ioctl(pair.client, SIOCOUTQ)
    require("SIOCOUTQ", got <= sent, "at most %d" % sent, got)


@scenario_check(
    "poll.tells_a_reset_after_fallback",
    scenario=SCENARIO,
    bug="poll() reports neither: __mptcp_subflow_error_report() does not set sk_shutdown",
)
def tells_a_reset_after_fallback(lab: Lab) -> None:
    """After a reset of a connection that fell back poll(2) reports POLLIN and POLLRDHUP."""
    pair = lab.pair(server=TCP)
    exchange(pair.client, pair.server, b"forth", b"back")
    closing.linger(0)(pair.server)
    pair.server.close()
    wait_until(lambda: poll(pair.client) & POLLERR)
    _says_end("poll after a reset", pair.client)


def _says_end(what: str, sock: _socket.socket) -> None:
    wanted = POLLIN | POLLRDHUP
    equal(what, events_text(poll(sock) & wanted), events_text(wanted))


@scenario_check(
    "recv.ends_after_a_refusal",
    scenario=SCENARIO,
    bug="recv() fails with ENOTCONN, poll() reports neither: see poll.tells_a_reset_after_fallback",
)
def ends_after_a_refusal(lab: Lab) -> None:
    """Once the error of a refused connect(2) was read, recv(2) returns 0."""
    sock = states.place(lab, "refused").sock
    fails("the first recv()", errno.ECONNREFUSED, sock.recv, 1)
    _says_end("poll afterwards", sock)
    equal("the second recv()", len(sock.recv(1)), 0)


@scenario_check(
    "tcp_inq.reaches_tcp_clients",
    scenario=SCENARIO,
    needs=("tcp_inq", "tcp_notsent_lowat"),
    bug="accepted sockets read 0 and -1: the values stay on the MPTCP listener",
)
def reaches_tcp_clients(lab: Lab) -> None:
    """Sockets accepted from plain TCP clients inherit TCP_INQ and TCP_NOTSENT_LOWAT."""
    for name, value in (("TCP_INQ", 1), ("TCP_NOTSENT_LOWAT", 4321)):
        server = lab.pair(client=TCP, before_bind=setting.putting(name, value)).server
        equal(name, setting.get_int(server, name), value)


@scenario_check(
    "tcp_keepidle.checked_before_connect",
    scenario=SCENARIO,
    needs=("tcp_keepalive",),
    bug="any value is accepted: __mptcp_setsockopt_set_val() does not use its argument max, and "
    "there is no subflow yet that could refuse it",
)
def checked_before_connect(lab: Lab) -> None:
    """On a new socket TCP_KEEPIDLE, _KEEPINTVL and _KEEPCNT that are out of range fail: EINVAL."""
    wrong = (("TCP_KEEPIDLE", -5), ("TCP_KEEPINTVL", 40_000), ("TCP_KEEPCNT", 1000))
    for name, value in wrong:
        got = _set(lab.socket(), name, struct.pack("=i", value))
        equal("%s %d" % (name, value), got, "EINVAL")


@scenario_check(
    "tcp_congestion.checked_before_connect",
    scenario=SCENARIO,
    bug="any name is accepted: mptcp_setsockopt_sol_tcp_congestion() leaves the check to the "
    "subflows, and there are no subflows yet",
)
def congestion_checked_before_connect(lab: Lab) -> None:
    """On a new socket TCP_CONGESTION of a name that does not exist fails with ENOENT."""
    equal("TCP_CONGESTION nosuch", _set(lab.socket(), "TCP_CONGESTION", b"nosuch"), "ENOENT")


def _set(sock: _socket.socket, name: str, value: bytes) -> str:
    known = setting.named(name)
    number = sockopt.setsockopt(sock.fileno(), known.level, known.number, value)
    return errno_name(number) if number else "success"


@scenario_check(
    "ip_bind_address_no_port.refused_is_not_kept",
    scenario=SCENARIO,
    needs=("local_port_range",),
    bug="it fails but then reads 1: mptcp_setsockopt_sol_ip_set() calls ip_setsockopt() before it "
    "checks the state; the same for IP_FREEBIND, IP_TRANSPARENT, IP_LOCAL_PORT_RANGE",
    families=("ipv4",),
)
def refused_is_not_kept(lab: Lab) -> None:
    """A refused IP_BIND_ADDRESS_NO_PORT on a connected socket does not change the value read."""
    sock = lab.pair().client
    got = _set(sock, "IP_BIND_ADDRESS_NO_PORT", struct.pack("=i", 1))
    if got != "success":
        equal("after " + got, setting.get_int(sock, "IP_BIND_ADDRESS_NO_PORT"), 0)


@scenario_check(
    "getsockname.unspecified_after_disconnect",
    scenario=SCENARIO,
    bug="it returns the address of the last connection: mptcp_disconnect() does not clear what "
    "mptcp_copy_inaddrs() copied",
)
def unspecified_after_disconnect(lab: Lab) -> None:
    """After connect(AF_UNSPEC) getsockname(2) returns the unspecified address."""
    sock = lab.pair().client
    states.disconnect(sock)
    unspecified = lab.socket()
    unspecified.bind(("", 0))
    equal("getsockname()", sock.getsockname()[0], unspecified.getsockname()[0])


@scenario_check(
    "msg_more.delays_a_segment",
    scenario=SCENARIO,
    bug="the segment is sent at once: mptcp_push_release() calls tcp_push() without the flags of "
    "sendmsg()",
)
def delays_a_segment(lab: Lab) -> None:
    """MSG_MORE holds a partial segment back, as TCP_CORK does."""
    pair = lab.pair()
    exchange(pair.client, pair.server, b"forth", b"back")
    # Corked data leave after 200 ms, so a slow reader has to try again; over loopback, data that
    # do not wait are there when send() returns.
    for _ in range(10):
        began = time.monotonic()
        pair.client.send(b"x", MSG_MORE)
        came = len(queued(pair.server))
        if not came or time.monotonic() - began < 0.1:
            break
        wait_until(lambda: queued(pair.server))
        pair.server.recv(1)
    equal("bytes that have come", came, 0)


@scenario_check(
    "fallback.carries_data_to_itself",
    scenario=SCENARIO,
    bug="the first byte or all are lost: if two SYNs cross, the mapping of the fallback does "
    "not begin at the first byte",
)
def carries_data_to_itself(lab: Lab) -> None:
    """A socket that is connected to itself receives all that it sends."""
    sock = own_peer(lab)
    sock.sendall(b"hello")
    wait_until(lambda: len(queued(sock)) == 5, 1.0)
    same("what came", queued(sock), b"hello")


@scenario_check(
    "fallback.ends_to_itself",
    scenario=SCENARIO,
    bug="recv() fails with ENOTCONN: the subflow is closed before the MPTCP socket gets its FIN",
)
def ends_to_itself(lab: Lab) -> None:
    """A socket that is connected to itself reads its own end of the stream, every time."""
    sock = own_peer(lab)
    sock.shutdown(_socket.SHUT_WR)
    for _ in range(2):
        equal("recv() after its own shutdown()", sock.recv(1), b"")


# The last: it leaves a wrong count behind.
@scenario_check(
    "proc_net_protocols.counts_a_listener_once",
    scenario=SCENARIO,
    bug="each listen() adds one: mptcp_listen() counts a socket that is already listening, and "
    "mptcp_check_listen_stop() subtracts only one",
)
def counts_a_listener_once(lab: Lab) -> None:
    """/proc/net/protocols counts a listener once, even after listen(2) changed its backlog."""
    name = "MPTCPv6" if lab.family == _socket.AF_INET6 else "MPTCP"
    listener = lab.listener()
    once = mib.sockets(name)
    listener.listen(20)
    equal("MPTCP sockets after a second listen()", mib.sockets(name), once)
