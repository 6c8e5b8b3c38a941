# SPDX-License-Identifier: GPL-2.0-only
"""net.mptcp.*: defaults, bounds, what is refused, and that each namespace has its own."""

from __future__ import annotations

import os

from guest import topology
from guest.checks import Failed, equal, require, scenario_check
from guest.lab import write_sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, Sequence

    from guest.lab import Lab

SCENARIO = "sysctls"
PLACE = "/proc/sys/net/mptcp/"
EINVAL, ENOENT = 22, 2


class Sysctl:
    """One number: its default, values that it takes, and values that it refuses."""

    def __init__(
        self,
        name: str,
        default: Sequence[str],
        taken: Sequence[str],
        refused: Sequence[str],
        needs: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.default = default
        self.taken = taken
        self.refused = refused
        self.needs = needs


SWITCH = {"taken": ("0", "1"), "refused": ("2", "-1", "256", "x")}
SYSCTLS = (
    Sysctl("enabled", ("1",), **SWITCH),
    Sysctl("checksum_enabled", ("0",), **SWITCH),
    Sysctl("allow_join_initial_addr_port", ("1",), **SWITCH),
    Sysctl("add_addr_timeout", ("120",), ("0", "1", "300"), ("x",)),
    Sysctl("stale_loss_cnt", ("4",), ("0", "1", "4294967295"), ("-1", "x")),
    Sysctl("pm_type", ("0",), needs=("userspace_pm",), **SWITCH),
    Sysctl("close_timeout", ("60",), ("0", "1", "300"), ("x",), ("close_timeout",)),
    Sysctl("blackhole_timeout", ("3600",), ("0", "1", "7200"), ("-1", "x"), ("blackhole",)),
    Sysctl(
        "syn_retrans_before_tcp_fallback",
        ("2",),
        ("0", "1", "255"),
        ("-1", "256", "x"),
        ("syn_retrans",),
    ),
    Sysctl("add_addr_v6_port_drop_ts", ("1",), needs=("add_addr_v6_port",), **SWITCH),
)


def read(name: str) -> str:
    with open(PLACE + name, "rb") as file:
        return file.read().decode().strip()


def write(name: str, value: str) -> Optional[int]:
    """0, or the errno of a refusal."""
    try:
        write_sysctl("net/mptcp/" + name, value)
    except OSError as error:
        return error.errno
    return 0


def _number(lab: Lab, sysctl: Sysctl) -> None:
    old = read(sysctl.name)
    lab.afterwards(lambda: write(sysctl.name, old))
    for value in sysctl.taken:
        equal("writing " + value, write(sysctl.name, value), 0)
        equal("value", read(sysctl.name), value)
    for value in sysctl.refused:
        errno = write(sysctl.name, value)
        require("writing " + value, errno == EINVAL, "EINVAL", errno)
        equal("value after a refusal", read(sysctl.name), sysctl.taken[-1])


def _default(lab: Lab, sysctl: Sysctl) -> None:
    with topology.Namespace():
        # /proc/sys/net shows the namespace of the thread that looks.
        found = read(sysctl.name)
        if found not in sysctl.default:
            raise Failed("default", " or ".join(sysctl.default), found)
        other = next(value for value in sysctl.taken if value != found)
        write(sysctl.name, other)
    old = read(sysctl.name)
    require("value in this namespace", old != other, "not " + other, old)


def _register() -> None:
    for sysctl in SYSCTLS:

        def number(lab: Lab, sysctl: Sysctl = sysctl) -> None:
            _number(lab, sysctl)

        def default(lab: Lab, sysctl: Sysctl = sysctl) -> None:
            _default(lab, sysctl)

        name = "net.mptcp." + sysctl.name
        number.__doc__ = "%s takes every legal value and refuses others with EINVAL." % name
        default.__doc__ = (
            "%s has its default in a new network namespace, and can differ there." % name
        )
        once = {"scenario": SCENARIO, "needs": sysctl.needs, "families": ("ipv4",)}
        scenario_check("sysctl.%s_bounds" % sysctl.name, **once)(number)  # type: ignore[arg-type]
        scenario_check("sysctl.%s_default" % sysctl.name, **once)(default)  # type: ignore[arg-type]


_register()


@scenario_check("sysctl.scheduler", scenario=SCENARIO, needs=("scheduler",), families=("ipv4",))
def scheduler(lab: Lab) -> None:
    """net.mptcp.scheduler is "default"; unavailable schedulers are refused with ENOENT."""
    equal("scheduler", read("scheduler"), "default")
    equal("an unknown one", write("scheduler", "nobody_has_this"), ENOENT)
    equal("scheduler after that", read("scheduler"), "default")
    equal("the default one", write("scheduler", "default"), 0)


@scenario_check(
    "sysctl.available_schedulers", scenario=SCENARIO, needs=("scheduler",), families=("ipv4",)
)
def available_schedulers(lab: Lab) -> None:
    """net.mptcp.available_schedulers, if it exists, lists "default" and is read-only."""
    _available("available_schedulers", ("default",))


@scenario_check(
    "sysctl.available_path_managers",
    scenario=SCENARIO,
    needs=("path_manager",),
    families=("ipv4",),
)
def available_path_managers(lab: Lab) -> None:
    """net.mptcp.available_path_managers lists "kernel" and "userspace" and is read-only."""
    _available("available_path_managers", ("kernel", "userspace"))


def _available(name: str, expected: Sequence[str]) -> None:
    if not os.path.exists(PLACE + name):
        return  # 6.6 to 6.9 have the scheduler without the list
    words = read(name).split()
    for one in expected:
        require(name, one in words, one, words)
    equal("mode", os.stat(PLACE + name).st_mode & 0o777, 0o444)


@scenario_check(
    "sysctl.path_manager_and_pm_type",
    scenario=SCENARIO,
    needs=("path_manager",),
    families=("ipv4",),
)
def path_manager_and_pm_type(lab: Lab) -> None:
    """net.mptcp.path_manager and pm_type follow each other; an unknown name is refused."""
    lab.afterwards(lambda: write("pm_type", "0"))
    for number, name in (("1", "userspace"), ("0", "kernel")):
        equal("writing pm_type", write("pm_type", number), 0)
        equal("path_manager", read("path_manager"), name)
    for number, name in (("1", "userspace"), ("0", "kernel")):
        equal("writing path_manager", write("path_manager", name), 0)
        equal("pm_type", read("pm_type"), number)
    equal("an unknown one", write("path_manager", "nobody"), ENOENT)
    equal("path_manager after that", read("path_manager"), "kernel")
