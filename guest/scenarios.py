# SPDX-License-Identifier: GPL-2.0-only
"""The scenarios of checks: their setups and deadlines.

The checks of one scenario and one family run in order, in their own process and network namespace.
A module of checks declares its scenarios::

    declare(Scenario("two_paths", setup=add_second_path, waits=True))

A scenario that is not declared has no setup and is assumed to keep the processor busy.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Optional

    from guest.lab import Lab

    Setup = Callable[[Lab], object]

#: Seconds that one check may take. An emulated processor is 20 to 30 times slower than a real one.
DEADLINE_S = 60.0


class Scenario:
    """Where checks run.

    ``setup`` prepares the network namespace (addresses, endpoints, sysctls) once for all checks of
    a family; sockets that it adopts into its lab stay open until the last check. Set ``waits`` if
    the checks mostly sleep: such scenarios run concurrently. A check that takes longer than
    ``deadline_s`` fails, and the rest of its scenario does not run.

    Set ``one_family`` if the MPTCP code that the checks exercise does not depend on the family:
    buffers, wake-ups, concurrent calls. Each check then runs in one family, half of them in IPv4
    and half in IPv6.
    """

    __slots__ = ("deadline_s", "name", "one_family", "setup", "waits")

    def __init__(
        self,
        name: str,
        setup: Optional[Setup] = None,
        waits: bool = False,
        deadline_s: float = DEADLINE_S,
        one_family: bool = False,
    ) -> None:
        self.name = name
        self.setup = setup
        self.waits = waits
        self.deadline_s = deadline_s
        self.one_family = one_family


_declared: dict[str, Scenario] = {}


def declare(scenario: Scenario) -> Scenario:
    """Make ``scenario`` known under its name, which must be new."""
    assert scenario.name not in _declared, scenario.name
    _declared[scenario.name] = scenario
    return scenario


def named(name: str) -> Scenario:
    """The scenario declared as ``name``, or a plain one."""
    return _declared.get(name) or Scenario(name)


def families_of(check: str, scenario: str) -> tuple[str, ...]:
    """The families in which the check with this id runs, unless it declares them."""
    if not named(scenario).one_family:
        return ("ipv4", "ipv6")
    return ("ipv4",) if sum(check.encode()) % 2 else ("ipv6",)
