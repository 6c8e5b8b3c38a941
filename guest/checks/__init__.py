# SPDX-License-Identifier: GPL-2.0-only
"""What a check is, how it fails, and the registry of all of them.

A check is a function of one :class:`~guest.connection.End` named ``option.property``. It
returns when the kernel behaves and raises :class:`Failed` when not. What it declares (the
capabilities it needs, the phases, sides and payloads it runs at) makes the plan.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional, Sequence

    from guest.connection import End
    from guest.lab import Lab
    from guest.sockopt import Answer

    Function = Callable[[End], None]
    LabFunction = Callable[[Lab], None]

ESTABLISHED = "established"  # no data yet
TRANSFERRED = "transferred"  # data went both ways
CLOSED = "closed"  # the peer's FIN was read
PHASES = (ESTABLISHED, TRANSFERRED, CLOSED)

CLIENT = "client"
SERVER = "server"
SIDES = (CLIENT, SERVER)

BYTE = "byte"
SEGMENT = "segment"
STREAM = "stream"
PAYLOADS = (BYTE, SEGMENT, STREAM)
#: The payload arrives before the server has looked at its socket: for checks about just that.
EARLY = "early"


QUICK = "quick"
FULL = "full"
#: What to run: the checks that look at both ends of a loopback connection, or all.
PROFILES = (QUICK, FULL)

#: The modules of checks, in the order in which they run. Those of connections (`check`):
QUICK_MODULES = (
    "full_info",
    "ip_tos",
    "mptcp_info",
    "payload",
    "subflow_addrs",
    "subflow_data",
    "tcp_options",
    "tcpinfo",
)
#: Those of scenarios (`scenario_check`), loaded only where they are wanted. Sorted, one a line.
FULL_MODULES: Sequence[str] = (
    "binding",
    "blackhole",
    "closing",
    "concurrency",
    "control",
    "counters",
    "diag_sockets",
    "diag_unprivileged",
    "fallback",
    "fallback_options",
    "fastopen",
    "inherit",
    "interrupted",
    "last_times",
    "limits",
    "listening",
    "mixed_families",
    "on_the_wire",
    "options",
    "peer_data",
    "peer_joins",
    "peer_owned",
    "peer_refused",
    "peer_sends",
    "peer_serves",
    "peer_signals",
    "pm_announces",
    "pm_changes",
    "pm_endpoints",
    "pm_events",
    "pm_kinds",
    "pm_returns",
    "pm_special",
    "pointers",
    "protocol",
    "receive",
    "reconnect",
    "send",
    "sizes",
    "states",
    "subflow_failures",
    "subflow_joins",
    "subflow_options",
    "sysctls",
    "transfers",
    "unrepaired",
    "unrepaired_paths",
    "userspace_pm",
    "waits",
    "wakeups",
)


class Failed(Exception):
    """The kernel did not behave: what was expected, what came, and the bytes it came in."""

    def __init__(self, what: str, expected: str, got: str, raw: bytes = b"") -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.got = got
        self.raw = raw


class Check:
    """A named property of the kernel. ``covers`` names functions of the kernel's selftest.

    ``bug`` says what kernels do instead, where no kernel is known to have the property. Then a
    failure is known, and does not count.
    """

    __slots__ = (
        "_families",
        "bug",
        "covers",
        "function",
        "id",
        "needs",
        "payloads",
        "phases",
        "scenario",
        "sides",
    )

    def __init__(
        self,
        id: str,
        function: Function,
        needs: Sequence[str],
        phases: Sequence[str],
        sides: Sequence[str],
        payloads: Sequence[str],
        covers: str,
        families: Optional[Sequence[str]] = None,
        scenario: str = "",
        bug: str = "",
    ) -> None:
        self.id = id
        self.function = function
        self.needs = tuple(needs)
        self.phases = tuple(phases)
        self.sides = tuple(sides)
        self.payloads = tuple(payloads)
        self.covers = covers
        self._families = families
        self.scenario = scenario  # "" for a check of a connection
        self.bug = bug

    @property
    def families(self) -> tuple[str, ...]:
        """Where it is run: what it declares, or what its scenario says, which may come later."""
        if self._families is None and self.scenario:
            from guest import scenarios  # quick runs have none

            return scenarios.families_of(self.id, self.scenario)
        return tuple(self._families or ("ipv4", "ipv6"))

    @property
    def summary(self) -> str:
        """The property in one sentence."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


_registry: dict[str, Check] = {}


def check(
    id: str,
    *,
    needs: Sequence[str],
    phases: Sequence[str] = PHASES,
    sides: Sequence[str] = SIDES,
    payloads: Sequence[str] = (SEGMENT,),
    covers: str,
) -> Callable[[Function], Function]:
    """Register the decorated function as the check ``id``."""

    def register(function: Function) -> Function:
        add(Check(id, function, needs, phases, sides, payloads, covers))
        return function

    return register


def scenario_check(
    id: str,
    *,
    scenario: str,
    needs: Sequence[str] = (),
    families: Optional[Sequence[str]] = None,
    phases: Sequence[str] = ("run",),
    sides: Sequence[str] = ("both",),
    covers: str = "",
    bug: str = "",
) -> Callable[[LabFunction], LabFunction]:
    """Register the decorated function of a :class:`~guest.lab.Lab` as the check ``id``.

    It runs in ``scenario`` (:mod:`guest.scenarios`), once for each of ``families`` (by default the
    scenario's), ``phases`` and ``sides``; the lab says which.
    """

    def register(function: LabFunction) -> LabFunction:
        add(
            Check(
                id,
                function,  # type: ignore[arg-type]
                needs,
                phases,
                sides,
                (scenario,),
                covers,
                families,
                scenario,
                bug,
            )
        )
        return function

    return register


def bug_of(id: str) -> str:
    """The bug that makes the check ``id`` fail on all kernels, or ""."""
    item = _registry.get(id)
    return item.bug if item is not None else ""


def add(item: Check) -> None:
    assert item.id not in _registry, item.id
    _registry[item.id] = item


def all_checks(profile: str = FULL) -> Sequence[Check]:
    """Every check of ``profile``, in a fixed order."""
    # The modules register themselves when they are imported, and import this one.
    for name in QUICK_MODULES if profile == QUICK else (*QUICK_MODULES, *FULL_MODULES):
        __import__("guest.checks." + name)
    return [item for item in _registry.values() if profile == FULL or not item.scenario]


def equal(what: str, got: object, expected: object, raw: bytes = b"") -> None:
    """Fail unless ``got`` is ``expected``."""
    if got != expected:
        raise Failed(what, _show(expected), _show(got), raw)


def require(what: str, condition: bool, expected: str, got: object, raw: bytes = b"") -> None:
    """Fail unless ``condition``, which the text ``expected`` puts into words."""
    if not condition:
        raise Failed(what, expected, _show(got), raw)


def succeeded(what: str, answer: Answer) -> Answer:
    """Fail unless the call worked."""
    if answer.errno:
        raise Failed(what, "success", errno_name(answer.errno), answer.data)
    return answer


def refused(what: str, answer: Answer, errno: int, length: Optional[int] = None) -> None:
    """Fail unless the call failed with ``errno``, leaving optlen at ``length`` if given."""
    if answer.errno != errno:
        got = errno_name(answer.errno) if answer.errno else "success"
        raise Failed(what, errno_name(errno), got, answer.data)
    if length is not None and answer.length != length:
        equal(what + ": optlen afterwards", answer.length, length, answer.data)


#: Where Python's name is not the kernel's: an alias of libc's, and one that must never get out.
_KERNEL_NAMES = {95: "EOPNOTSUPP", 524: "ENOTSUPP"}


def errno_name(number: int) -> str:
    """``EINVAL`` for 22, and so on."""
    import errno  # only when there is something to report

    return _KERNEL_NAMES.get(number) or errno.errorcode.get(number, "errno %d" % number)


def _show(value: object) -> str:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex() or "no bytes"
    return str(value)
