# SPDX-License-Identifier: GPL-2.0-only
"""The data itself."""

from __future__ import annotations

from guest.checks import CLIENT, CLOSED, PAYLOADS, SERVER, TRANSFERRED, Failed, check, equal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from guest.connection import End

NEEDS = ("mptcp",)


@check(
    "payload.arrives",
    needs=NEEDS,
    phases=(TRANSFERRED,),
    sides=(SERVER,),
    payloads=PAYLOADS,
    covers="process_one_client",
)
def arrives(end: End) -> None:
    """The server reads what the client wrote, byte for byte."""
    _compare(end)


@check(
    "payload.survives_the_echo",
    needs=NEEDS,
    phases=(TRANSFERRED,),
    sides=(CLIENT,),
    payloads=PAYLOADS,
    covers="connect_one_server",
)
def survives_the_echo(end: End) -> None:
    """The client reads its own payload back from the server, byte for byte."""
    _compare(end)


@check(
    "payload.ends_with_fin",
    needs=NEEDS,
    phases=(CLOSED,),
    payloads=PAYLOADS,
    covers="process_one_client",
)
def ends_with_fin(end: End) -> None:
    """The stream ends after the payload once the peer has closed."""
    equal("end of the stream", end.peer_closed, True)
    equal("bytes read", end.received, len(end.expected))


def _compare(end: End) -> None:
    if end.content == end.expected:
        return
    length = min(len(end.content), len(end.expected))
    at = next((i for i in range(length) if end.content[i] != end.expected[i]), length)
    raise Failed(
        "payload",
        "%d bytes, at %d: %s" % (len(end.expected), at, end.expected[at : at + 16].hex()),
        "%d bytes, at %d: %s" % (len(end.content), at, end.content[at : at + 16].hex()),
        end.content[at : at + 64],
    )
