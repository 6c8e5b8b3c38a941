# SPDX-License-Identifier: GPL-2.0-only
"""The project's tasks; each session installs what it needs, then does its work.

    nox -s matrix       boot and check every kernel of kernels.yaml
    nox -s tests        all tests, real boots among them
    nox -s selftest     prove on a real kernel that panics, hangs and lies are seen, 2 minutes
    nox -s bisect_demo  let git bisect find a bad commit in a kernel tree, half an hour
    nox -s packages_demo  from two packages to a bad commit with bisect --repo, an hour
    nox -s faults       put faults into a kernel and see which checks catch them, two hours
    nox -s coverage     which lines of net/mptcp the checks run, and which the kernel's selftests
    nox -s nightly      selftest, matrix, comparison with the last run, bisects of what is new
    nox -s browser      the HTML report in a real browser, with axe-core
    nox -s docs         build the documentation as a site and a man page, check its links
    nox -s bench        measure speed against virtme-ng and QEMU alone, 20 minutes
    nox                 lint, types, tests

Arguments after ``--`` go to ``mptcp-harness matrix`` or ``selftest``, to pytest, to the
benchmark and to the demonstration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nox
from nox.command import CommandFailed

if sys.version_info < (3, 11):  # noqa: UP036  (in words, before an import fails over it)
    raise SystemExit(
        f"mptcp-harness needs Python 3.11 or later, and this is {sys.version.split()[0]}: "
        "start nox with a newer one, as in `pipx run --python python3.11 nox`"
    )

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from bench import tools  # noqa: E402  (these need nothing but the standard library)
from harness.host import architectures, toolchain  # noqa: E402
from harness.host import tools as host_tools  # noqa: E402

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_venv = "yes"

PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
MEANING = {
    "1": "a kernel fails, crashes, hangs or warns",
    "2": "the arguments or the manifest are wrong",
    "3": "some kernel could not be tested",
}
#: Seconds that the harness gets after Ctrl-C to end its VMs and to write down what it has.
PATIENCE = 30
#: Bytecode is kept: else each worker, and each program that a test starts, compiles it all again.
CACHED = {"PYTHONDONTWRITEBYTECODE": None}


@nox.session
def matrix(session: nox.Session) -> None:
    """Boot every kernel of kernels.yaml and check it in both address families."""
    run_harness(session, "matrix", MEANING)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, those that boot kernels among them."""
    if not session.posargs:  # a selection may need no tool; a test that does says what is missing
        install_host_tools(session, host_tools.missing())
    install(session, "-e", ".[fleet]", *group("test"))
    if session.posargs:
        session.run("pytest", *session.posargs, interrupt_timeout=PATIENCE)
        return
    slow = "boots or apt"
    # Some wait for a process or for the kernel, so that there are more workers than processors.
    # Each of them imports and collects everything: on two processors, five take 59 s, four 61 and
    # three 70. A file stays in one worker, and so does what its tests share.
    workers = len(os.sched_getaffinity(0)) + 3
    in_order = ("--dist", "loadfile", "--no-loadscope-reorder")  # as tests/*/conftest.py sort them
    # Each worker would build the 2,800 tests of tests/boots, only to leave them out.
    units = ("-m", f"not ({slow})", "-n", str(workers), "--ignore=tests/boots")
    session.run("pytest", *units, *in_order, env=CACHED, interrupt_timeout=PATIENCE)
    # Most boot one VM, which has one processor: two at a time.
    boots = ("-m", slow, "-n", "auto", "--maxprocesses", "2")
    session.run("pytest", *boots, *in_order, env=CACHED, interrupt_timeout=PATIENCE)


@nox.session
def selftest(session: nox.Session) -> None:
    """Prove on a real kernel that faults of kernels and guests are seen."""
    run_harness(session, "selftest", {**MEANING, "1": "a fault was not detected correctly"})


@nox.session
def nightly(session: nox.Session) -> None:
    """What a timer runs: is something wrong that was not wrong before? (docs/nightly.md)"""
    run_harness(session, "nightly", {**MEANING, "1": "something is newly wrong"})


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed and memory side by side with virtme-ng's own and QEMU's (`-- --help`)."""
    install_host_tools(session, tools.missing())
    install(session, "-e", ".")
    session.run("python", "-m", "bench", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def bisect_demo(session: nox.Session) -> None:
    """Let git bisect find a commit that breaks an option, in a kernel tree made for it."""
    install_host_tools(session, (*host_tools.missing(), *toolchain.missing()))
    install(session, "-e", ".")
    session.run("python", "-m", "bench.bisect_demo", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def packages_demo(session: nox.Session) -> None:
    """Let `bisect --repo` find such a commit from two packages, with a kill in the middle."""
    install_host_tools(session, (*host_tools.missing(), *toolchain.missing()))
    install(session, "-e", ".")
    session.run("python", "-m", "bench.packages_demo", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def faults(session: nox.Session) -> None:
    """Put faults into a kernel, and see which checks catch each (`-- --only NAME,NAME`)."""
    install_host_tools(session, (*host_tools.missing(), *toolchain.missing()))
    install(session, "-e", ".")
    session.run("python", "-m", "bench.faults", *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def coverage(session: nox.Session) -> None:
    """Which lines and branches of net/mptcp the checks run, and the kernel's own selftests."""
    install_host_tools(session, (*host_tools.missing(), *toolchain.missing()))
    install(session, "-e", ".")
    command = ("python", "-m", "bench.faults", "--coverage")
    session.run(*command, *session.posargs, interrupt_timeout=PATIENCE)


@nox.session
def mutants(session: nox.Session) -> None:
    """Small faults in the modules that decide: how many does a test notice? An hour for all."""
    install(session, "-e", ".", *group("test"), *group("mutants"))
    session.run("python", "-m", "bench.mutants", *session.posargs, interrupt_timeout=PATIENCE)


#: Debian's own: pip has no browser.
BROWSER = (
    host_tools.Tool("chromium", ("chromium",), "shows the report", "chromium", "chromium"),
    host_tools.Tool(
        "chromedriver", ("chromedriver",), "operates it", "chromium-driver", "chromedriver"
    ),
)
#: Has axe-core in it. Its dependency playwright, which brings browsers of its own, is not needed.
AXE = "axe-playwright-python>=0.1.8"


@nox.session
def browser(session: nox.Session) -> None:
    """Use the HTML report in a real browser (`-- --screenshots DIR` keeps pictures)."""
    absent = [tool for tool in BROWSER if host_tools.locate(tool) is None]
    install_host_tools(session, absent)
    install(session, "-e", ".", *group("browser"))
    session.install("--no-deps", AXE)
    session.run("pytest", "tests/browser", *session.posargs, env=CACHED)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation below site/, with the man page, and check every link."""
    install(session, "-e", ".", *group("docs"))
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})
    session.run(
        *("argparse-manpage", "--module", "harness.cli", "--function", "parser"),
        *("--project-name", "mptcp-harness", "--prog", "mptcp-harness"),
        *("--description", "does this kernel still do what user space relies on?"),
        *("--manual-section", "1", "--output", "site/mptcp-harness.1"),
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    install(session, *group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    install(session, *PYPROJECT["project"]["dependencies"], *group("types"))
    session.run("mypy")


def run_harness(session: nox.Session, command: str, meaning: Mapping[str, str]) -> None:
    """``mptcp-harness COMMAND``; ``meaning`` says in words what its exit status tells."""
    given = [Path(word) for word in session.posargs if word.endswith((".yaml", ".yml"))]
    archs = architectures.named_in(given[0] if given else ROOT / "kernels.yaml")
    install_host_tools(session, host_tools.missing(archs))
    install(session, "-e", ".")
    try:
        session.run("mptcp-harness", command, *session.posargs, interrupt_timeout=PATIENCE)
    except CommandFailed as failed:
        # nox itself exits with 1 whatever happened.
        status = str(failed.reason).removeprefix("Returned code ")
        session.error(f"exit status {status}: {meaning.get(status, 'see above')}")


def install_host_tools(session: nox.Session, missing: Sequence[host_tools.Tool]) -> None:
    """``missing``, where they can be installed without asking; else stop with the command."""
    try:
        host_tools.install(missing, session.log)
    except host_tools.ToolsMissing as error:
        session.warn(str(error))  # error() would put a full stop behind the command
        session.error("tools of the host are missing, see above")


def install(session: nox.Session, *packages: str) -> None:
    """``pip install``, unless the session's environment was made for just this.

    That saves seconds, and the network: a build in isolation downloads its backend each time.
    """
    wanted = "\n".join((str(ROOT), *packages, (ROOT / "pyproject.toml").read_text()))
    stamp = Path(session.virtualenv.location) / "installed.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        session.install(*packages)
        stamp.write_text(wanted)


def group(name: str) -> tuple[str, ...]:
    """A dependency group of pyproject.toml."""
    return tuple(nox.project.dependency_groups(PYPROJECT, name))
