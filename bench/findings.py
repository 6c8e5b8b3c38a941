# SPDX-License-Identifier: GPL-2.0-only
"""Shows a finding of docs/findings.md on the running kernel: what TCP answers, and what MPTCP.

python3 -m bench.findings                 all of them; needs root, for a network namespace
python3 -m bench.findings accept_timeout  one
"""

from __future__ import annotations

import _socket
import os
import struct
import sys
import time
from collections.abc import Callable

from bench import path_findings
from guest import calls, flow, isolation, options, setting, sockopt, states
from guest.checks import Failed, closing, errno_name, fastopen
from guest.lab import MPTCP, TCP, Lab, wait_until, write_sysctl

MSG_MORE = 0x8000
FAMILIES = {"IPv4": _socket.AF_INET, "IPv6": _socket.AF_INET6}


def _asked(sock: _socket.socket, request: int) -> str:
    try:
        return str(calls.ioctl(sock, request))
    except OSError as error:
        return str(error)


def siocoutq_of_a_listener(lab: Lab, protocol: int) -> str:
    return _asked(lab.listener(protocol), calls.SIOCOUTQ)


def siocinq_at_the_end(lab: Lab, protocol: int) -> str:
    pair = lab.pair(protocol, protocol)
    pair.client.sendall(b"abc")
    pair.client.shutdown(_socket.SHUT_WR)
    wait_until(lambda: calls.poll(pair.server) & calls.POLLRDHUP)
    before = _asked(pair.server, calls.SIOCINQ)
    pair.server.recv(3)
    after = _asked(pair.server, calls.SIOCINQ)
    fresh = _asked(lab.socket(protocol), calls.SIOCINQ)
    return f"{before} with 3 bytes before the end, {after} at the end, {fresh} of a new socket"


def siocinq_of_syn_data(lab: Lab, protocol: int) -> str:
    write_sysctl("net.ipv4.tcp_fastopen", fastopen.WITHOUT_COOKIES)
    _, server = fastopen.opened(lab, bytes(700), protocol, protocol)
    flow.wait_queued(server, 700)
    return _asked(server, calls.SIOCINQ) + " of 700 bytes"


def accept_timeout(lab: Lab, protocol: int) -> str:
    listener = lab.listener(protocol)
    setting.put(listener, "SO_RCVTIMEO", struct.pack("@ll", 0, 50_000))
    began = time.monotonic()
    try:
        with calls.Blocking(listener, 2.0, "accept() with SO_RCVTIMEO of 50 ms"):
            listener._accept()  # type: ignore[attr-defined]
    except Failed as failed:
        return failed.what
    except OSError as error:
        return f"{error} after {time.monotonic() - began:.2f} s"
    return "accepted"


def msg_more(lab: Lab, protocol: int) -> str:
    pair = lab.pair(protocol, protocol)
    flow.exchange(pair.client, pair.server, b"forth", b"back")
    pair.client.send(b"x", MSG_MORE)
    time.sleep(0.02)
    return f"{len(flow.queued(pair.server))} of 1 byte sent at once"


def peek_waitall(lab: Lab, protocol: int) -> str:
    pair = lab.pair(protocol, protocol)
    flow.arrive(pair.client, pair.server, bytes(3000))
    pair.server.settimeout(None)
    flags = flow.MSG_PEEK | 0x100  # MSG_WAITALL
    worker = calls.Worker(lambda: len(pair.server.recv(6000, flags)))
    worker.wait_blocked()
    pair.client.sendall(bytes(3000))
    before = os.times()
    try:
        said = f"{worker.result(2.0)} of 6000 bytes"
    except Failed as failed:
        used = sum(os.times()[:2]) - sum(before[:2])
        said = f"{failed.what}, having used {used:.1f} s of processor time"
    pair.client.close()  # ends it
    return said


def reset_after_fallback(lab: Lab, protocol: int) -> str:
    pair = lab.pair(protocol, TCP)
    flow.exchange(pair.client, pair.server, b"forth", b"back")
    closing.linger(0)(pair.server)
    pair.server.close()
    wait_until(lambda: calls.poll(pair.client) & calls.POLLERR)
    return calls.events_text(calls.poll(pair.client))


def siocoutq_after_fallback(lab: Lab, protocol: int) -> str:
    pair = lab.pair(protocol, TCP, flow.small_buffers, flow.small_buffers)
    sent = len(flow.fill(pair.client))
    return f"{_asked(pair.client, calls.SIOCOUTQ)} of {sent} bytes that were sent in all"


def listener_options_of_tcp_clients(lab: Lab, protocol: int) -> str:
    said = []
    for name, value in (("TCP_INQ", 1), ("TCP_NOTSENT_LOWAT", 4321)):
        server = lab.pair(TCP, protocol, before_bind=setting.putting(name, value)).server
        said.append(f"{name} {value} reads {setting.get_int(server, name)}")
    return ", ".join(said)


def _set(sock: _socket.socket, name: str, value: bytes) -> str:
    option = options.BY_NAME[name]
    errno = sockopt.setsockopt(sock.fileno(), option.level, option.number, value)
    return errno_name(errno) if errno else "taken"


def _read(sock: _socket.socket, name: str, size: int = 4) -> str:
    option = options.BY_NAME[name]
    answer = sockopt.getsockopt(sock.fileno(), option.level, option.number, bytes(size))
    if size > 4:
        return answer.filled.rstrip(b"\0").decode()
    return errno_name(answer.errno) if answer.errno else str(options.number_in(answer))


def unchecked_before_connect(lab: Lab, protocol: int) -> str:
    said = []
    for name, value in (
        ("TCP_KEEPIDLE", -5),
        ("TCP_KEEPINTVL", 40000),
        ("TCP_KEEPCNT", 1000),
        ("TCP_MAXSEG", 1),
    ):
        sock = lab.socket(protocol)
        taken = _set(sock, name, struct.pack("=i", value))
        said.append(f"{name} {value}: {taken}, reads {_read(sock, name)}")
    sock = lab.socket(protocol)
    taken = _set(sock, "TCP_CONGESTION", b"nosuch")
    said.append(f"TCP_CONGESTION nosuch: {taken}, reads {_read(sock, 'TCP_CONGESTION', 16)}")
    return "; ".join(said)


def refused_and_kept(lab: Lab, protocol: int) -> str:
    sock = lab.pair(protocol, protocol).client
    said = []
    for name in ("IP_FREEBIND", "IP_TRANSPARENT", "IP_BIND_ADDRESS_NO_PORT"):
        answer = _set(sock, name, struct.pack("=i", 1))
        said.append(f"{name} 1: {answer}, reads {_read(sock, name)}")
    return "; ".join(said)


def address_after_disconnect(lab: Lab, protocol: int) -> str:
    sock = lab.pair(protocol, protocol).client
    states.disconnect(sock)
    return f"getsockname() says {sock.getsockname()[0]}"


def end_after_refusal(lab: Lab, protocol: int) -> str:
    sock = states.place(lab, "refused", protocol).sock
    said = []
    for _ in range(2):
        try:
            said.append(repr(sock.recv(1)))
        except OSError as error:
            said.append(errno_name(error.errno or 0))
    return "recv() says " + ", then ".join(said)


FINDINGS: dict[str, Callable[[Lab, int], str]] = {
    function.__name__: function
    for function in (
        accept_timeout,
        address_after_disconnect,
        end_after_refusal,
        listener_options_of_tcp_clients,
        msg_more,
        peek_waitall,
        refused_and_kept,
        reset_after_fallback,
        siocinq_at_the_end,
        siocinq_of_syn_data,
        siocoutq_after_fallback,
        siocoutq_of_a_listener,
        unchecked_before_connect,
    )
}


def main(names: list[str]) -> int:
    isolation.isolate()
    sys.stdout.write(f"kernel {os.uname().release}\n")
    for name in names or (*FINDINGS, *path_findings.FINDINGS):
        for family, number in FAMILIES.items():
            if name in path_findings.FINDINGS:
                lab = Lab(number)
                said = path_findings.FINDINGS[name](lab)
                lab.close()
                sys.stdout.write(f"{name}, {family}, MPTCP: {said}\n")
                continue
            for protocol, called in ((TCP, "TCP"), (MPTCP, "MPTCP")):
                lab = Lab(number)
                try:
                    said = FINDINGS[name](lab, protocol)
                finally:
                    lab.close()
                sys.stdout.write(f"{name}, {family}, {called}: {said}\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
