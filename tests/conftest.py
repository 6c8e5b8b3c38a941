# SPDX-License-Identifier: GPL-2.0-only
"""What tests share, and what becomes of a test whose prerequisites are not there.

On a developer's machine it is skipped, with the reason. Where ``CI`` is true, or
``MPTCP_HARNESS_REQUIRE_ALL=1``, it fails: there a skip would be a hole in the proof.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import platform
import signal
import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import settings

from harness.host import tools

if TYPE_CHECKING:
    from harness.kernels.cache import Cache

#: For the tests of the pytest plugin.
pytest_plugins = ("pytester",)

IPPROTO_MPTCP = 262

HERE = Path(__file__).parent
#: The files that take longest, which are begun first: the shorter ones fill up all workers then.
LONG = (
    *("pytest_plugin/test_plugin.py", "step/test_step.py", "bisect/test_commit_search.py"),
    *("guest/test_peer.py", "guest/test_paths.py", "guest/test_scenarios.py", "vm/test_boot.py"),
    *("vm/test_incidents.py", "test_project.py", "guest/test_checks.py", "run/test_session.py"),
    "guest/test_slow_loopback.py",
)

#: A tmpfs, on most hosts; in containers it is often small, and without the right to execute.
SHARED_MEMORY = Path("/dev/shm")
SPARE = 4 << 30  # ten times what all tests need together

# In CI the same examples each time: what fails there fails again, and on the change that broke it.
# Elsewhere others each time, so that few in each run become many. HYPOTHESIS_PROFILE=thorough
# takes minutes.
settings.register_profile("ci", derandomize=True, deadline=None, database=None, max_examples=25)
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=500)


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores SIGINT, and so would the programs that tests press Ctrl-C on.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def cache() -> Cache:
    """The user's own cache of kernels, so that what was fetched once is used again."""
    from harness.kernels.cache import Cache

    return Cache()


def all_required() -> bool:
    """Whether a missing prerequisite is a failure."""
    return (
        os.environ.get("CI", "").lower() in ("true", "1")
        or os.environ.get("MPTCP_HARNESS_REQUIRE_ALL") == "1"
    )


def _keep_files_in_memory() -> None:
    """Let ``tmp_path`` be in memory: the harness syncs what it writes, thousands of times here."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        return
    found = os.statvfs(SHARED_MEMORY)
    if found.f_frsize * found.f_bavail >= SPARE and not found.f_flag & os.ST_NOEXEC:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED_MEMORY))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what is imported and collected out of garbage collections: it stays to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Collect once what the tests left: pytest then does so five times, with nothing to walk."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Let a worker of pytest-xdist send two messages for a test that passes, not five.

    To encode and decode each costs as much as a short test. What a test needs before and after
    itself is told if it fails, is skipped or prints something.
    """
    if not hasattr(item.config, "workerinput"):
        return None
    for report in runtestprotocol(item, nextitem=nextitem, log=False):
        if report.when == "call" or not report.passed or report.sections:
            item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = {HERE / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path, len(first)))


def pytest_configure() -> None:
    _keep_files_in_memory()
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        os.environ.pop(name, None)  # else the harness under test would write to this run's own log
    in_ci = os.environ.get("CI", "").lower() in ("true", "1")
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if in_ci else "quick"))


@functools.cache
def _lacking_for_boots() -> str:
    if platform.machine() != "x86_64":
        return f"kernels are booted on x86_64 only, this is {platform.machine()}"
    missing = tools.missing()
    return str(tools.ToolsMissing(missing)) if missing else _lacking_for_apt()


@functools.cache
def _lacking_for_apt() -> str:
    missing = [tool for tool in tools.DEB_TOOLS if tools.locate(tool) is None]
    return str(tools.ToolsMissing(missing)) if missing else ""


@functools.cache
def _lacking_for_mptcp() -> str:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP).close()
    except OSError as error:
        remedy = (
            "turn it on with: sudo sysctl net.mptcp.enabled=1"
            if error.errno == errno.ENOPROTOOPT
            else "boot a kernel with CONFIG_MPTCP"
        )
        return f"the running kernel makes no MPTCP socket ({error.strerror}); {remedy}"
    return ""


#: By marker: a sentence that says what is missing, or "".
REQUIREMENTS: dict[str, Callable[[], str]] = {
    "boots": _lacking_for_boots,
    "apt": _lacking_for_apt,
    "mptcp": _lacking_for_mptcp,
}


#: What tests, and the code under test, set handlers for.
SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGPIPE, signal.SIGCHLD, signal.SIGALRM),
)
HANDLERS = pytest.StashKey[list[Any]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that leaves a handler behind: one that comes later in its worker would fail."""
    yield
    before = item.stash.get(HANDLERS, [])
    for number, handler in zip(SIGNALS, before, strict=False):
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
            pytest.fail(f"it leaves another handler of {number.name}", pytrace=False)


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[HANDLERS] = [signal.getsignal(number) for number in SIGNALS]
    for marker, lacking in REQUIREMENTS.items():
        if item.get_closest_marker(marker) and (reason := lacking()):
            if all_required():
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Without a network, and nothing cached, a kernel is one more prerequisite that is missing."""
    report = yield
    if report.passed:
        report.keywords = {}  # dozens, which nobody reads, and which a worker would have to send
    if call.excinfo is None or all_required():
        return report
    if not any(item.get_closest_marker(marker) for marker in ("boots", "apt")):
        return report
    from harness.errors import KernelUnavailable

    error = call.excinfo.value
    if isinstance(error, KernelUnavailable) and error.transient:
        path, line, _ = item.location
        report.outcome = "skipped"
        report.longrepr = (path, (line or 0) + 1, f"Skipped: {error}")
    return report
