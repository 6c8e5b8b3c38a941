# SPDX-License-Identifier: GPL-2.0-only
"""Data of all sizes in both directions, byte by byte what was sent, and counted as such."""

from __future__ import annotations

import _socket
import struct

from guest import netlink
from guest.calls import SIOCINQ, SIOCOUTQ, ioctl
from guest.checks import equal, scenario_check
from guest.flow import MSG_PEEK, at_end, content, exchange, read, same, small_buffers
from guest.lab import Lab, wait_until, write_sysctl
from guest.multipath import info
from guest.scenarios import Scenario, declare
from guest.setting import put
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.lab import Pair

SCENARIO = declare(Scenario("transfers", waits=True, one_family=True)).name
#: rtnetlink: RTM_NEWLINK, IFLA_GSO_MAX_SIZE and IFLA_GSO_IPV4_MAX_SIZE.
NEW_LINK, GSO_MAX, GSO_IPV4_MAX = 16, 41, 63
LARGE_GSO = 180_000
CHECKSUM = "net.mptcp.checksum_enabled"


def _counted(pair: Pair, forth: int, back: int) -> None:
    """Fail unless MPTCP_INFO of both ends counts what went each way, once it has settled."""
    for name, sock, sent, received in (
        ("client", pair.client, forth, back),
        ("server", pair.server, back, forth),
    ):
        acked = wait_until(lambda sock=sock, sent=sent: info(sock).mptcpi_bytes_acked == sent)  # type: ignore[misc]
        equal("mptcpi_bytes_acked of the %s is what it sent" % name, acked, True)
        said = info(sock)
        equal("mptcpi_bytes_sent of the " + name, said.mptcpi_bytes_sent, sent, said.raw)
        equal("mptcpi_bytes_received of the " + name, said.mptcpi_bytes_received, received)
        equal("mptcpi_snd_una of the " + name, said.mptcpi_snd_una, said.mptcpi_write_seq)


@scenario_check("transfer.large_both_ways", scenario=SCENARIO, needs=("packet_stats",))
def large(lab: Lab) -> None:
    """400 kB go each way at once, intact, and are counted exactly at both ends."""
    pair = lab.pair()
    exchange(pair.client, pair.server, content(400_000), content(400_000, 1))
    _counted(pair, 400_000, 400_000)


@scenario_check("transfer.over_a_device_of_large_gso", scenario=SCENARIO, needs=("packet_stats",))
def large_gso(lab: Lab) -> None:
    """Over a device that takes packets of more than 64 KiB, if it can, data arrive as sent."""
    if not _max_gso(LARGE_GSO):
        return  # such a device there cannot be
    lab.afterwards(lambda: _max_gso(1 << 16))
    pair = lab.pair()
    exchange(pair.client, pair.server, content(3_000_000), content(3_000_000, 1))
    _counted(pair, 3_000_000, 3_000_000)


def _max_gso(size: int) -> bool:
    """Set the largest packets that lo takes, of either family; whether the kernel allows it."""
    route = netlink.Netlink(netlink.ROUTE)
    sizes = [netlink.attribute(kind, netlink.u32(size)) for kind in (GSO_MAX, GSO_IPV4_MAX)]
    try:
        route.request(NEW_LINK, struct.pack("=BxHiII", 0, 0, 1, 0, 0) + b"".join(sizes))
    except netlink.Refused:
        return False
    finally:
        route.close()
    return True


@scenario_check("transfer.through_small_buffers", scenario=SCENARIO, needs=("packet_stats",))
def through_small_buffers(lab: Lab) -> None:
    """Data go both ways through the smallest buffers that can be set."""

    def least(sock: _socket.socket) -> None:
        put(sock, "SO_SNDBUF", 1)
        put(sock, "SO_RCVBUF", 1)

    pair = lab.pair(before_connect=least, before_bind=least)
    exchange(pair.client, pair.server, content(20_000), content(20_000, 1))
    _counted(pair, 20_000, 20_000)


@scenario_check("transfer.of_odd_sizes", scenario=SCENARIO, needs=("packet_stats",))
def odd_sizes(lab: Lab) -> None:
    """Sends of 1, 2, 3, ... bytes, and of a segment plus or minus one, arrive as one stream."""
    pair = lab.pair()
    sizes = [*range(1, 60), 1427, 1428, 1429, 4095, 4096, 4097, 32767, 32768, 32769, 65535, 65536]
    data = content(sum(sizes))
    at = 0
    for size in sizes:
        pair.client.sendall(data[at : at + size])
        same("a send of %d bytes" % size, read(pair.server, size), data[at : at + size])
        at += size
    _counted(pair, len(data), 0)


@scenario_check("transfer.byte_by_byte", scenario=SCENARIO, needs=("packet_stats",))
def byte_by_byte(lab: Lab) -> None:
    """Bytes sent one by one are read one by one, in order."""
    pair = lab.pair()
    data = content(300)
    for at in range(len(data)):
        pair.client.sendall(data[at : at + 1])
    got = b"".join(pair.server.recv(1) for _ in data)
    same("300 bytes", got, data)
    _counted(pair, len(data), 0)


@scenario_check("transfer.with_checksums", scenario=SCENARIO, needs=("packet_stats",))
def with_checksums(lab: Lab) -> None:
    """With net.mptcp.checksum_enabled data pass both ways, and mptcpi_csum_enabled is set."""
    write_sysctl(CHECKSUM, "1")
    lab.afterwards(lambda: write_sysctl(CHECKSUM, "0"))
    pair = lab.pair()
    exchange(pair.client, pair.server, content(200_000), content(200_000, 1))
    exchange(pair.client, pair.server, content(777))
    for sock in (pair.client, pair.server):
        equal("mptcpi_csum_enabled", info(sock).mptcpi_csum_enabled, 1)
    _counted(pair, 200_777, 200_000)


@scenario_check("transfer.checksums_of_one_end_suffice", scenario=SCENARIO)
@each("client", "server")
def checksums_of_one_end(lab: Lab) -> None:
    """Checksums are used if one end wants them; the sysctl is read when a socket is made."""
    lab.afterwards(lambda: write_sysctl(CHECKSUM, "0"))
    write_sysctl(CHECKSUM, "1" if lab.side == "client" else "0")
    client = lab.socket()
    write_sysctl(CHECKSUM, "1" if lab.side == "server" else "0")
    listener = lab.listener()
    client.connect(listener.getsockname())
    server = lab.accept(listener)
    exchange(client, server, content(20_000), content(20_000, 1))
    for sock in (client, server):
        equal("mptcpi_csum_enabled", info(sock).mptcpi_csum_enabled, 1)


@scenario_check("transfer.peeked_before_each_read", scenario=SCENARIO)
def peeked(lab: Lab) -> None:
    """A reader that peeks before each read, and reads in odd sizes, gets the stream."""
    pair = lab.pair(before_connect=small_buffers, before_bind=small_buffers)
    data = content(40_000)
    pair.client.settimeout(0)
    sent = got = 0
    size = 1
    while got < len(data):
        try:
            sent += pair.client.send(data[sent : sent + 5000])
        except BlockingIOError:
            pass
        seen = pair.server.recv(size, MSG_PEEK)
        part = pair.server.recv(len(seen))
        same("a read of what was peeked at byte %d" % got, part, seen)
        same("a read at byte %d" % got, part, data[got : got + len(part)])
        got += len(part)
        size = size * 3 % 4999 + 1
    pair.client.settimeout(5)
    pair.client.shutdown(_socket.SHUT_WR)
    at_end("the end", pair.server)


@scenario_check("transfer.of_many_connections", scenario=SCENARIO)
def many_connections(lab: Lab) -> None:
    """Twenty connections of one listener at once keep their streams apart."""
    listener = lab.listener(backlog=32)
    clients = [lab.socket() for _ in range(20)]
    for number, client in enumerate(clients):
        client.connect(listener.getsockname())
        client.sendall(content(1000 + number, number % 3))
    by_name = {client.getsockname(): number for number, client in enumerate(clients)}
    for _ in clients:
        server = lab.accept(listener)
        number = by_name.pop(server.getpeername())
        size = 1000 + number
        same("connection %d" % number, read(server, size), content(size, number % 3))
        server.sendall(content(500, number % 3))
        same("its answer", read(clients[number], 500), content(500, number % 3))


@scenario_check("transfer.queues_are_empty_afterwards", scenario=SCENARIO, needs=("tcp_inq",))
def queues_are_empty(lab: Lab) -> None:
    """After a transfer SIOCINQ is 0, SIOCOUTQ falls to 0, and memory is released."""
    pair = lab.pair()
    exchange(pair.client, pair.server, content(300_000), content(300_000, 1))
    for sock in (pair.client, pair.server):
        equal("SIOCINQ", ioctl(sock, SIOCINQ), 0)
        done = wait_until(lambda sock=sock: ioctl(sock, SIOCOUTQ) == 0)  # type: ignore[misc]
        equal("SIOCOUTQ falls to 0", done, True)
