# SPDX-License-Identifier: GPL-2.0-only
"""What was set reaches the TCP subflow: before connect(), on a listener, and on a connection.

Each option is set at each of its :data:`STAGES`, read back on the socket where it must hold, and
looked for on the subflow, through inet_diag.
"""

from __future__ import annotations

import _socket
import struct

from guest import diag, sockopt
from guest.checks import equal, require, scenario_check
from guest.flow import exchange
from guest.setting import get, get_int, named, put
from guest.variants import each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence

    from guest.diag import Record
    from guest.lab import Lab

    Effect = Callable[[Record], None]

SCENARIO = "inherit"
BEFORE_CONNECT = "before_connect"
BOUND = "bound"  # before connect() as well, when there is a TCP socket already
ON_THE_LISTENER = "on_the_listener"
WHILE_LISTENING = "while_listening"
CONNECTED = "connected"
UNCONNECTED = (BEFORE_CONNECT, ON_THE_LISTENER)
#: For what can be set after bind(), too.
UNTIL_CONNECT = (*UNCONNECTED, BOUND, WHILE_LISTENING)
STAGES = (*UNTIL_CONNECT, CONNECTED)

#: Bits of the two bytes of struct inet_diag_sockopt.
DIAG_FREEBIND, DIAG_TRANSPARENT = 1 << 2, 1 << 5
DIAG_NO_PORT = 1 << 0


def _int(value: int) -> bytes:
    return struct.pack("=i", value)


class Row:
    """An option: what is set, what must be read back (None: what was set), where it shows."""

    def __init__(
        self,
        name: str,
        value: bytes,
        effect: Optional[Effect] = None,
        back: Optional[bytes] = None,
        stages: Sequence[str] = STAGES,
        needs: Sequence[str] = (),
        families: Sequence[str] = ("ipv4", "ipv6"),
        interface: int = 0,
    ) -> None:
        self.name = name
        self.value = value
        self.effect = effect
        self.back = value if back is None else back
        self.stages = stages
        self.needs = (*needs, "inet_diag") if effect else tuple(needs)
        self.families = families
        self.interface = interface  # that diag has to be asked for

    def set(self, sock: _socket.socket) -> None:
        put(sock, self.name, self.value)

    def reads_back(self, sock: _socket.socket) -> None:
        # SO_SNDBUFFORCE and its like are read through another option.
        equal(self.name, get(sock, self.name.replace("FORCE", ""), _ROOM), self.back)


def _shows(what: str, read: Callable[[Record], object], expected: object) -> Effect:
    """The effect that ``read`` of the subflow's diag is ``expected``."""

    def effect(record: Record) -> None:
        equal(what + " of the subflow", read(record), expected, record.raw)

    return effect


def _skmem(field: str, value: int) -> Effect:
    return _shows("skmem " + field, lambda record: getattr(record.skmem, field), value)


def _bit(what: str, byte: int, bit: int) -> Effect:
    def effect(record: Record) -> None:
        flags = record.sockopt
        if flags is not None:  # since 5.10
            equal(what + " of the subflow", bool(flags[byte] & bit), True, record.raw)

    return effect


def _keepalive(least_ms: int, most_ms: int) -> Effect:
    """The keepalive timer runs, and expires in a time within the bounds."""

    def effect(record: Record) -> None:
        equal("the subflow's timer", record.timer, diag.TIMER_KEEPALIVE, record.raw)
        require(
            "milliseconds until the keepalive timer expires",
            least_ms <= record.expires <= most_ms,
            "from %d to %d" % (least_ms, most_ms),
            record.expires,
        )

    return effect


def _most_mss(most: int) -> Effect:
    def effect(record: Record) -> None:
        require(
            "tcpi_snd_mss of the subflow",
            0 < record.info.tcpi_snd_mss <= most,
            "at most %d" % most,
            record.info.tcpi_snd_mss,
        )

    return effect


#: Bytes given to read an option into; SO_BINDTODEVICE wants as many.
_ROOM = 16
#: Half of what is read back; below net.core.wmem_max and rmem_max everywhere.
_BUFFER = 50_000
_FORCED = 90_000
_ONE = _int(1)
_PORTS = (40_000 << 16) | 39_000
_TIME = struct.pack("@ll", 5, 0)
V4, V6 = ("ipv4",), ("ipv6",)
ROWS = (
    Row("SO_DEBUG", _ONE),
    Row("SO_KEEPALIVE", _ONE, _keepalive(7_100_000, 7_300_000)),
    Row(
        "SO_PRIORITY", _int(5), _shows("priority", lambda r: r.priority, 5),
        stages=(BEFORE_CONNECT, BOUND, CONNECTED),  # a new socket's priority is 0, in TCP as well
    ),
    Row("SO_MARK", _int(0x4D2), _shows("mark", lambda r: r.mark, 0x4D2)),
    Row(
        "SO_SNDBUF", _int(_BUFFER), _skmem("sndbuf", 2 * _BUFFER),
        _int(2 * _BUFFER),
    ),
    Row(
        "SO_RCVBUF", _int(_BUFFER), _skmem("rcvbuf", 2 * _BUFFER),
        _int(2 * _BUFFER),
    ),
    # The same without the bound of net.core: MPTCP tells them apart in several places.
    Row(
        "SO_SNDBUFFORCE", _int(_FORCED), _skmem("sndbuf", 2 * _FORCED),
        _int(2 * _FORCED), stages=(CONNECTED,),
    ),
    Row(
        "SO_RCVBUFFORCE", _int(_FORCED), _skmem("rcvbuf", 2 * _FORCED),
        _int(2 * _FORCED), stages=(CONNECTED,),
    ),
    Row("SO_INCOMING_CPU", _int(0), stages=(CONNECTED,)),
    Row("SO_LINGER", struct.pack("@ii", 1, 7)),
    Row("SO_RCVLOWAT", _int(100)),
    Row("SO_RCVTIMEO", _TIME),
    Row("SO_SNDTIMEO", _TIME),
    Row("SO_REUSEADDR", _ONE, stages=UNCONNECTED),
    Row("SO_REUSEPORT", _ONE, stages=UNCONNECTED),
    Row(
        "SO_BINDTODEVICE", b"lo\0",
        _shows("interface", lambda r: r.interface, 1), stages=UNCONNECTED, interface=1,
    ),
    Row(
        "SO_BINDTOIFINDEX", _ONE,
        _shows("interface", lambda r: r.interface, 1), stages=UNCONNECTED, interface=1,
    ),
    Row(
        "IP_TOS", _int(0x48), _shows("TOS", lambda r: r.tos, 0x48),
        needs=("ip_tos",), families=V4,
    ),
    Row(
        "IP_FREEBIND", _ONE, _bit("freebind", 0, DIAG_FREEBIND),
        stages=UNCONNECTED, needs=("transparent_get",), families=V4,
    ),
    Row(
        "IP_TRANSPARENT", _ONE,
        _bit("transparent", 0, DIAG_TRANSPARENT), stages=UNCONNECTED,
        needs=("transparent_get",), families=V4,
    ),
    Row(
        "IPV6_FREEBIND", _ONE, _bit("freebind", 0, DIAG_FREEBIND),
        stages=UNCONNECTED, needs=("transparent_get",), families=V6,
    ),
    Row(
        "IPV6_TRANSPARENT", _ONE,
        _bit("transparent", 0, DIAG_TRANSPARENT), stages=UNCONNECTED,
        needs=("transparent_get",), families=V6,
    ),
    Row(
        "IPV6_V6ONLY", _ONE, stages=UNCONNECTED,
        needs=("transparent_get",), families=V6,
    ),
    Row(
        "IP_BIND_ADDRESS_NO_PORT", _ONE,
        _bit("bind_address_no_port", 1, DIAG_NO_PORT), stages=UNCONNECTED,
        needs=("local_port_range",),
    ),
    Row(
        "IP_LOCAL_PORT_RANGE", struct.pack("=I", _PORTS),
        stages=UNCONNECTED, needs=("local_port_range",),
    ),
    Row("TCP_NODELAY", _ONE, needs=("tcp_cork_nodelay",)),
    Row("TCP_CORK", _ONE, needs=("tcp_cork_nodelay",)),
    Row(
        "TCP_NOTSENT_LOWAT", _int(4321),
        needs=("tcp_notsent_lowat",),
    ),
    Row("TCP_KEEPINTVL", _int(33), needs=("tcp_keepalive",)),
    Row("TCP_KEEPCNT", _int(11), needs=("tcp_keepalive",)),
    Row(
        "TCP_CONGESTION", b"reno",
        _shows("congestion control", lambda r: r.congestion, "reno"), b"reno".ljust(16, b"\0"),
    ),
    Row(
        "TCP_MAXSEG", _int(700), _most_mss(700), back=b"",
        # As in TCP, it does not change the size of a connection that there is.
        stages=UNTIL_CONNECT, needs=("tcp_maxseg",),
    ),
)  # fmt: skip


def _run(row: Row) -> Callable[[Lab], None]:
    def run(lab: Lab) -> None:
        stage = lab.side
        before_connect = row.set if stage == BEFORE_CONNECT else None
        before_bind = row.set if stage == ON_THE_LISTENER else None
        listener = lab.listener(before=before_bind)
        if stage == WHILE_LISTENING:
            row.set(listener)
        client = lab.socket()
        if stage == BOUND:
            client.bind((lab.address, 0))
            row.set(client)
        if before_connect:
            before_connect(client)
        client.connect(listener.getsockname())
        server = lab.accept(listener)
        if stage == CONNECTED:
            row.set(client)
            row.set(server)
        for sock in _holders(stage, client, server):
            if row.back:
                row.reads_back(sock)
            if row.effect is not None:
                look = diag.Diag()
                lab.afterwards(look.close)
                names = sock.getsockname(), sock.getpeername()
                row.effect(look.tcp(*names, interface=row.interface))

    run.__doc__ = (
        "Set before connect(2) or on a listener, the option applies to the connection and subflow."
    )
    return run


def _holders(
    stage: str, client: _socket.socket, server: _socket.socket
) -> Sequence[_socket.socket]:
    """The ends that the option must hold on."""
    if stage == CONNECTED:
        return client, server
    return (client,) if stage in (BEFORE_CONNECT, BOUND) else (server,)


for _row in ROWS:
    scenario_check(
        "%s.reaches_the_subflow" % _row.name.lower(),
        scenario=SCENARIO,
        needs=_row.needs,
        families=_row.families,
    )(each(*_row.stages)(_run(_row)))


@scenario_check(
    "tcp_keepidle.sets_the_timer",
    scenario=SCENARIO,
    needs=("tcp_keepalive", "inet_diag"),
)
@each(*STAGES)
def sets_the_timer(lab: Lab) -> None:
    """TCP_KEEPIDLE with SO_KEEPALIVE starts the subflow's keepalive timer with that time."""

    def turn_on(sock: _socket.socket) -> None:
        put(sock, "TCP_KEEPIDLE", 900)
        put(sock, "SO_KEEPALIVE", 1)
        equal("TCP_KEEPIDLE", get_int(sock, "TCP_KEEPIDLE"), 900)

    listener = lab.listener(before=turn_on if lab.side == ON_THE_LISTENER else None)
    if lab.side == WHILE_LISTENING:
        turn_on(listener)
    client = lab.socket()
    if lab.side == BOUND:
        client.bind((lab.address, 0))
    if lab.side in (BEFORE_CONNECT, BOUND):
        turn_on(client)
    client.connect(listener.getsockname())
    server = lab.accept(listener)
    if lab.side == CONNECTED:
        turn_on(client)
        turn_on(server)
    look = diag.Diag()
    lab.afterwards(look.close)
    for sock in _holders(lab.side, client, server):
        equal("TCP_KEEPIDLE", get_int(sock, "TCP_KEEPIDLE"), 900)
        _keepalive(840_000, 901_000)(look.subflow(sock))


@scenario_check("so_keepalive.off_stops_the_timer", scenario=SCENARIO, needs=("inet_diag",))
def off_stops_the_timer(lab: Lab) -> None:
    """SO_KEEPALIVE 0 stops the keepalive timer of the subflow."""
    pair = lab.pair()
    look = diag.Diag()
    lab.afterwards(look.close)
    for sock in (pair.client, pair.server):
        put(sock, "SO_KEEPALIVE", 1)
        equal("the timer with SO_KEEPALIVE", look.subflow(sock).timer, diag.TIMER_KEEPALIVE)
        put(sock, "SO_KEEPALIVE", 0)
        record = look.subflow(sock)
        require(
            "the timer without SO_KEEPALIVE",
            record.timer != diag.TIMER_KEEPALIVE,
            "no keepalive timer",
            record.timer,
            record.raw,
        )


@scenario_check("inherit.all_options_together_carry_data", scenario=SCENARIO)
def all_together(lab: Lab) -> None:
    """A connection whose ends had every option set beforehand carries data both ways."""
    left_out = (
        "SO_LINGER",
        "SO_RCVLOWAT",
        "SO_RCVTIMEO",
        "SO_SNDTIMEO",
        "TCP_CORK",
        "IP_LOCAL_PORT_RANGE",
    )
    family = "ipv6" if lab.family == _socket.AF_INET6 else "ipv4"

    def set_all(sock: _socket.socket) -> None:
        for row in ROWS:
            if family in row.families and row.name not in left_out:
                known = named(row.name)
                # Kernels that lack one are not asked for it here.
                sockopt.setsockopt(sock.fileno(), known.level, known.number, row.value)

    pair = lab.pair(before_connect=set_all, before_bind=set_all)
    data = bytes(range(256)) * 200
    exchange(pair.client, pair.server, data, data)
