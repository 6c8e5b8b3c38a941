# SPDX-License-Identifier: GPL-2.0-only
"""What buffers and low-water marks do: how much is taken, when poll(2) says so, when it goes on."""

from __future__ import annotations

import _socket

from guest import isolation
from guest.calls import (
    POLLIN,
    POLLOUT,
    SIOCINQ,
    SIOCOUTQ,
    SIOCOUTQNSD,
    Blocking,
    equal_events,
    errno_of,
    fails,
    ioctl,
    poll,
)
from guest.checks import equal, require, scenario_check
from guest.flow import (
    arrive,
    arrived_at_rest,
    content,
    drain,
    exchange,
    fill,
    queued,
    read,
    same,
    send_now,
    small_buffers,
)
from guest.lab import TCP, wait_until
from guest.multipath import info
from guest.scenarios import Scenario, declare
from guest.setting import get_int, put, putting
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Lab, Pair

SCENARIO = declare(Scenario("buffers", waits=True, one_family=True)).name
EISCONN = 106
PAGE_FRAGMENT = 65536  # that a send buffer may be exceeded by
SIDES = ("mptcp", "fallback")


def _pair(lab: Lab) -> Pair:
    """A connection with small buffers, that fell back where the lab's side says so."""
    if lab.side == "fallback":
        return lab.pair(server=TCP, before_connect=small_buffers, before_bind=small_buffers)
    return lab.pair(before_connect=small_buffers, before_bind=small_buffers)


@scenario_check("so_sndbuf.bounds_what_is_queued", scenario=SCENARIO, needs=("tcp_inq",))
def sndbuf_bounds(lab: Lab) -> None:
    """send(2) blocks once SO_SNDBUF is full; a larger buffer accepts more bytes."""
    taken = []
    for size in (16_000, 80_000):
        pair = lab.pair(before_bind=putting("SO_RCVBUF", 16_000))
        put(pair.client, "SO_SNDBUF", size)
        fill(pair.client)
        most = get_int(pair.client, "SO_SNDBUF") + PAGE_FRAGMENT
        got = ioctl(pair.client, SIOCOUTQ)
        require("SIOCOUTQ when full", size / 2 < got <= most, "up to %d" % most, got)
        taken.append(got)
    require(
        "what a larger buffer takes",
        taken[1] > 2 * taken[0],
        "twice as much",
        "%d, %d" % tuple(taken),
    )


@scenario_check("so_rcvbuf.bounds_what_arrives", scenario=SCENARIO, needs=("tcp_inq",))
def rcvbuf_bounds(lab: Lab) -> None:
    """A receiver that does not read queues as much as SO_RCVBUF allows, more if it is larger."""
    arrived = []
    for size in (16_000, 80_000):
        pair = lab.pair(before_bind=putting("SO_RCVBUF", size))
        put(pair.client, "SO_SNDBUF", 150_000)
        fill(pair.client)
        got = arrived_at_rest(pair.server)
        require("SIOCINQ when full", 2000 < got <= 2 * size, "up to %d" % (2 * size), got)
        arrived.append(got)
    require(
        "what a larger buffer gets",
        arrived[1] > 2 * arrived[0],
        "twice as much",
        "%d, %d" % tuple(arrived),
    )


@scenario_check("siocoutq.adds_up", scenario=SCENARIO, needs=("tcp_inq", "packet_stats"))
def outq_adds_up(lab: Lab) -> None:
    """SIOCOUTQ and SIOCOUTQNSD equal the unacked and unsent bytes that MPTCP_INFO reports."""
    pair = lab.pair(before_connect=small_buffers, before_bind=small_buffers)
    for end in (pair.client, pair.server):
        equal("SIOCOUTQ before data", ioctl(end, SIOCOUTQ), 0)
        equal("SIOCOUTQNSD before data", ioctl(end, SIOCOUTQNSD), 0)
    sent = fill(pair.client)

    def adds_up() -> bool:
        said = info(pair.client)
        unacked = said.mptcpi_write_seq - said.mptcpi_snd_una
        return (
            ioctl(pair.client, SIOCOUTQ) == unacked
            and unacked + said.mptcpi_bytes_acked == len(sent)
            and ioctl(pair.client, SIOCOUTQNSD) == len(sent) - said.mptcpi_bytes_sent
            and ioctl(pair.server, SIOCINQ) == said.mptcpi_bytes_acked
        )

    equal("SIOCOUTQ, SIOCOUTQNSD, SIOCINQ and MPTCP_INFO agree", wait_until(adds_up), True)
    require("SIOCOUTQNSD when full", ioctl(pair.client, SIOCOUTQNSD) > 0, "more than 0", 0)
    same("what was taken", drain(pair.server, len(sent)), sent)
    for name, request in (("SIOCOUTQ", SIOCOUTQ), ("SIOCOUTQNSD", SIOCOUTQNSD)):
        done = wait_until(lambda request=request: ioctl(pair.client, request) == 0)  # type: ignore[misc]
        equal(name + " is 0 once all was read", done, True)


@scenario_check("window.opens_again", scenario=SCENARIO)
@each(*SIDES)
def window_opens_again(lab: Lab) -> None:
    """A sender that was stopped by a full receiver continues once all data is read."""
    pair = _pair(lab)
    for source, sink in ((pair.client, pair.server), (pair.server, pair.client)):
        sent = fill(source)
        same("what was taken", drain(sink, len(sent)), sent)
        equal_events("after all was read", source, POLLOUT)
        exchange(source, sink, content(5000))


@scenario_check("poll.says_pollout_when_there_is_room", scenario=SCENARIO)
@each(*SIDES)
def pollout_with_room(lab: Lab) -> None:
    """poll(2) reports no POLLOUT while the send buffer is full, and POLLOUT once enough is free."""
    pair = _pair(lab)
    equal_events("at first", pair.client, POLLOUT)
    sent = fill(pair.client)
    equal("POLLIN when full", poll(pair.client) & POLLIN, 0)
    read(pair.server, 1000)
    same("the rest", drain(pair.server, len(sent) - 1000), sent[1000:])
    equal_events("when all was read", pair.client, POLLOUT)
    require("send with POLLOUT", send_now(pair.client, b"x" * 1000) == 1000, "1000", "less")


@scenario_check("so_rcvlowat.delays_pollin", scenario=SCENARIO)
@each(*SIDES)
def rcvlowat_delays(lab: Lab) -> None:
    """SO_RCVLOWAT delays POLLIN until that many bytes are queued."""
    pair = lab.pair(server=TCP) if lab.side == "fallback" else lab.pair()
    source, sink = pair.server, pair.client
    put(sink, "SO_RCVLOWAT", 1000)
    for size, expected in ((1, 0), (998, 0), (1, POLLIN), (500, POLLIN)):
        arrive(source, sink, content(size))
        equal_events("with SO_RCVLOWAT 1000", sink, POLLOUT | expected)
    read(sink, 501)
    equal_events("with 999 bytes left", sink, POLLOUT)
    put(sink, "SO_RCVLOWAT", 999)
    equal_events("with SO_RCVLOWAT 999", sink, POLLIN | POLLOUT)
    put(sink, "SO_RCVLOWAT", 1000)
    source.shutdown(_socket.SHUT_WR)
    got = wait_until(lambda: poll(sink) & POLLIN)
    equal("POLLIN at the end of the stream", got, POLLIN)
    equal("what is left", len(queued(sink)), 999)


@scenario_check("so_rcvlowat.makes_room", scenario=SCENARIO)
def rcvlowat_makes_room(lab: Lab) -> None:
    """SO_RCVLOWAT grows the receive buffer, so that as many bytes can arrive unread."""
    pair = lab.pair()
    want = 300_000
    before = get_int(pair.server, "SO_RCVBUF")
    put(pair.server, "SO_RCVLOWAT", want)
    require("SO_RCVBUF", get_int(pair.server, "SO_RCVBUF") > before, "more than %d" % before, "no")
    sent = 0
    data = content(want)

    def all_arrived() -> bool:
        nonlocal sent
        try:
            sent += send_now(pair.client, data[sent:])
        except BlockingIOError:
            pass
        return sent == want and bool(poll(pair.server) & POLLIN)

    equal("POLLIN with %d bytes" % want, wait_until(all_arrived, 8), True)
    same("the stream", drain(pair.server, want), data)


@scenario_check(
    "tcp_notsent_lowat.bounds_unsent_data",
    scenario=SCENARIO,
    needs=("tcp_notsent_lowat", "tcp_inq"),
)
def notsent_bounds(lab: Lab) -> None:
    """TCP_NOTSENT_LOWAT limits the data that send(2) accepts beyond the peer's window."""
    pair = lab.pair(before_bind=putting("SO_RCVBUF", 16_000))
    put(pair.client, "SO_SNDBUF", 1_000_000)
    put(pair.client, "TCP_NOTSENT_LOWAT", 8192)
    sent = fill(pair.client)
    unsent = ioctl(pair.client, SIOCOUTQNSD)
    require("SIOCOUTQNSD when full", unsent <= 8192 + PAGE_FRAGMENT, "about 8192", unsent)
    put(pair.client, "TCP_NOTSENT_LOWAT", 4 * (unsent + 8192))
    equal_events("with a higher mark", pair.client, POLLOUT)
    more = send_now(pair.client, content(5000))
    equal("send with a higher mark", more, 5000)
    same("what was taken", drain(pair.server, len(sent)), sent)


@scenario_check(
    "tcp_notsent_lowat.set_before_connect_bounds",
    scenario=SCENARIO,
    needs=("tcp_notsent_lowat", "tcp_inq"),
)
@each("client", "server")
def notsent_before(lab: Lab) -> None:
    """TCP_NOTSENT_LOWAT set before connect() or on a listener bounds unsent data."""

    def prepare(sock: _socket.socket) -> None:
        put(sock, "SO_SNDBUF", 1_000_000)
        put(sock, "SO_RCVBUF", 16_000)
        put(sock, "TCP_NOTSENT_LOWAT", 8192)

    pair = lab.pair(before_connect=prepare, before_bind=prepare)
    end = pair.server if lab.side == "server" else pair.client
    fill(end)
    unsent = ioctl(end, SIOCOUTQNSD)
    require("SIOCOUTQNSD when full", unsent <= 8192 + PAGE_FRAGMENT, "about 8192", unsent)


@scenario_check("so_rcvbuf.stays_as_it_was_set", scenario=SCENARIO)
@each("SO_RCVBUF", "SO_SNDBUF")
def stays_as_set(lab: Lab) -> None:
    """Large transfers do not change SO_RCVBUF and SO_SNDBUF that a program has set."""
    set_it = putting(lab.side, 60_000)
    for stage in ("before", "connected"):
        before = set_it if stage == "before" else None
        pair = lab.pair(before_connect=before, before_bind=before)
        if stage == "connected":
            set_it(pair.client)
            set_it(pair.server)
        exchange(pair.client, pair.server, content(150_000), content(150_000, 1))
        for sock in (pair.client, pair.server):
            equal(
                "%s after a transfer, set %s" % (lab.side, stage), get_int(sock, lab.side), 120_000
            )


@scenario_check("so_sndbuf.grows_where_it_was_not_set", scenario=SCENARIO)
def sndbuf_of_both_ends(lab: Lab) -> None:
    """SO_SNDBUF of both ends grows with the connection beyond its initial value."""
    pair = lab.pair()
    first = get_int(lab.socket(), "SO_SNDBUF")
    exchange(pair.client, pair.server, content(300_000), content(300_000, 1))
    for name, sock in (("client", pair.client), ("server", pair.server)):
        grown = wait_until(lambda sock=sock: get_int(sock, "SO_SNDBUF") > first)  # type: ignore[misc]
        equal("SO_SNDBUF of the %s is more than that of a new socket" % name, grown, True)


@scenario_check("transfer.survives_an_outage", scenario=SCENARIO)
@each(*SIDES)
def survives_an_outage(lab: Lab) -> None:
    """Data sent while the interface is down arrive once it is up again, in both directions."""
    pair = lab.pair(server=TCP) if lab.side == "fallback" else lab.pair()
    exchange(pair.client, pair.server, content(1000), content(1000))
    lab.afterwards(lambda: isolation.set_loopback(True))
    isolation.set_loopback(False)
    forth, back = content(20_000), content(15_000, 1)
    equal("send while the interface is down", send_now(pair.client, forth), len(forth))
    equal("send while the interface is down", send_now(pair.server, back), len(back))
    equal("what has arrived", len(queued(pair.server)), 0)
    isolation.set_loopback(True)
    same("what was sent in the outage", drain(pair.server, len(forth)), forth)
    same("what was sent in the outage", drain(pair.client, len(back)), back)
    exchange(pair.client, pair.server, content(30_000), content(30_000))


@scenario_check("connect.works_after_it_was_unreachable", scenario=SCENARIO)
def after_unreachable(lab: Lab) -> None:
    """After connect(2) failed without a route, it works on the same socket once there is one."""
    listener = lab.listener()
    sock = lab.socket()
    lab.afterwards(lambda: isolation.set_loopback(True))
    isolation.set_loopback(False)
    got = errno_of(sock.connect, listener.getsockname())
    require("connect() without a route", got != 0, "an error", "success")
    isolation.set_loopback(True)
    with Blocking(sock, what="connect() with a route"):
        errno_of(sock.connect, listener.getsockname())
    fails("connect() of a connection", EISCONN, sock.connect, listener.getsockname())
    exchange(sock, lab.accept(listener), content(3000), content(3000))


@scenario_check("siocoutq.counts_sent_bytes", scenario=SCENARIO, needs=("tcp_inq",))
@each(*SIDES)
def outq_counts_sent_bytes(lab: Lab) -> None:
    """SIOCOUTQ counts bytes that are sent and not acknowledged, SIOCOUTQNSD does not."""
    pair = lab.pair(server=TCP) if lab.side == "fallback" else lab.pair()
    exchange(pair.client, pair.server, content(1000), content(1000))
    settled = wait_until(lambda: ioctl(pair.client, SIOCOUTQ) == 0)
    equal("SIOCOUTQ falls to 0", settled, True)
    lab.afterwards(lambda: isolation.set_loopback(True))
    isolation.set_loopback(False)
    equal("send", send_now(pair.client, content(5000)), 5000)
    got = ioctl(pair.client, SIOCOUTQ)
    # After fallback bytes that TCP was given count twice until a packet comes in.
    counts = (5000, 10_000) if lab.side == "fallback" else (5000,)
    require("SIOCOUTQ of 5000 bytes", got in counts, "5000", got)
    if lab.side == "mptcp":
        equal("SIOCOUTQNSD of 5000 bytes that were sent", ioctl(pair.client, SIOCOUTQNSD), 0)
    isolation.set_loopback(True)
    same("what was sent", drain(pair.server, 5000), content(5000))
    settled = wait_until(lambda: ioctl(pair.client, SIOCOUTQ) == 0)
    equal("SIOCOUTQ falls to 0 again", settled, True)
