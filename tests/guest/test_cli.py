# SPDX-License-Identifier: GPL-2.0-only
"""The checker as a person runs it; as its own process where that can make a difference."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from guest import checks, cli
from guest.runner import Runner

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.mptcp
Done = subprocess.CompletedProcess[str]


def run(*arguments: str, start: tuple[str, ...] = ("guest",), cwd: Path = ROOT) -> Done:
    return subprocess.run(
        # Without scenarios, unless a test asks for them: they take longer, and need root.
        [sys.executable, "-I", "-S", *start, "--profile", "quick", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """As :func:`run`, in this process, which is faster."""
    monkeypatch.setattr("guest.cli.signal.signal", lambda *_: None)  # SIGPIPE is a program's

    def in_process(*arguments: str) -> Done:
        try:
            status = cli.main(["--profile", "quick", *arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return in_process


def lines(output: str) -> list[str]:
    """The result lines of a KTAP document whose header and plan are as they must be."""
    first, *rest = output.splitlines()
    assert first == "KTAP version 1"
    (plan,) = (line for line in rest if re.fullmatch(r"1\.\.\d+", line))
    results = [line for line in rest if line.startswith(("ok ", "not ok "))]
    assert [line.split(" - ")[0].split()[-1] for line in results] == [
        str(number + 1) for number in range(int(plan[3:]))
    ]
    others = [line for line in rest if line not in results and line != plan]
    assert all(line.startswith("# ") for line in others)
    return results


def test_both_families_are_checked(call: Callable[..., Done]) -> None:
    done = call("--seed", "1")
    assert done.returncode == 0, done.stdout
    assert {line.split()[3] for line in lines(done.stdout)} == {"ipv4", "ipv6"}


@pytest.mark.parametrize(
    ("start", "cwd"),
    [
        (("guest",), ROOT),
        (("guest/",), ROOT),
        ((str(ROOT / "guest"),), Path("/")),
        (("guest/__main__.py",), ROOT),
        (("__main__.py",), ROOT / "guest"),
        ((".",), ROOT / "guest"),
    ],
)
def test_it_can_be_started_from_anywhere(start: tuple[str, ...], cwd: Path) -> None:
    done = run("-6", "--check", "payload.*", start=start, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert lines(done.stdout)


def test_it_can_be_started_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "guest", "-4", "--check", "payload.*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_one_family_and_one_option(call: Callable[..., Done]) -> None:
    results = lines(call("-4", "--check", "ip_tos.*").stdout)
    checks = [line for line in results if "capability." not in line]
    assert checks
    assert all("ipv4 ip_tos." in line for line in checks)


def test_several_patterns_add_up(call: Callable[..., Done]) -> None:
    said = call("-4", "--check", "ip_tos.*,payload.*", "--check", "tcpinfo.size_*").stdout
    for group in ("ip_tos", "payload", "tcpinfo"):
        assert f"ipv4 {group}." in said
    assert call("-4", "--check", "payload.*,nothing").returncode == 2


def test_the_seed_is_printed_and_repeats_the_run(call: Callable[..., Done]) -> None:
    first = call("-4").stdout
    (seed,) = re.findall(r"seed (\d+)", first)
    assert lines(call("-4", "--seed", seed).stdout) == lines(first)


def test_any_payload_size_goes(call: Callable[..., Done]) -> None:
    for size in ("1", "65536", "2000000"):
        assert call("-4", "--payload", size).returncode == 0


def test_a_capability_can_be_required() -> None:
    """In a network of its own there is no address to bind to, so no IPv6."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network namespace of its own without more ado")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-I", "-S", "guest", "--require", "ipv6"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert any("capability.ipv6" in line for line in lines(done.stdout) if line[0] == "n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--check", "nothing"), "matches no check"),
        (("--family", "ipx"), "ipv4, ipv6"),
        (("--seed", "abc"), "argument --seed: 'abc' is not a number from 0 to"),
        (("--payload", "0"), "from 1 to"),
        (("--require", "magic"), "magic is none of"),
        (("-4", "-6"), "not allowed with"),
    ],
)
def test_wrong_arguments_are_said_and_exit_with_2(
    arguments: tuple[str, ...], complaint: str, call: Callable[..., Done]
) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_failure_of_the_kernel() -> None:
    done = subprocess.run(
        f"{sys.executable} -I -S guest -4 | head -n 3",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_quick_is_a_part_of_full(call: Callable[..., Done]) -> None:
    quick, full = call("--list"), call("--list", "--profile", "full")
    assert quick.returncode == full.returncode == 0
    assert {*quick.stdout.splitlines()} < {*full.stdout.splitlines()}


def test_a_check_of_a_scenario_can_be_chosen_in_the_quick_profile() -> None:
    done = run("-4", "--check", "tcp_nodelay.set_get")
    assert [line for line in lines(done.stdout) if "tcp_nodelay.set_get" in line]


@pytest.mark.parametrize(
    ("arguments", "run"), [([], True), (["--repeat", "2"], False), (["--until-fail"], False)]
)
def test_bugs_of_all_kernels_are_left_out_of_rounds(
    arguments: list[str], run: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bugs = {item.id for item in checks.all_checks() if item.bug}
    ran: list[bool] = []

    def plan_only(self: Runner) -> None:
        self._probe("ipv4")
        ran.append(bool(bugs & {entry.id for one in self._plan() for entry, *_ in one.entries}))

    monkeypatch.setattr(Runner, "run", plan_only)
    monkeypatch.setattr("guest.cli.signal.signal", lambda *_: None)  # SIGPIPE is a program's
    cli.main(["-4", *arguments])
    named = [*arguments, "--check", min(bugs)]
    cli.main(["-4", *named])
    assert ran == [run, True]


def test_the_checker_in_a_vm_ends_at_once_with_its_status(tmp_path: Path) -> None:
    """Python's own end takes 0.05 s under TCG: what would run then does not."""
    package = tmp_path / "guest"
    package.mkdir()
    (package / "__main__.py").write_text((ROOT / "guest/__main__.py").read_text())
    (package / "vm.py").write_text(
        "import atexit\natexit.register(print, 'ended slowly')\n"
        "def main(arguments):\n    print(arguments)\n    return 3\n"
    )
    command = [sys.executable, "-I", "-S", str(package / "__main__.py"), "--vm", "a=b"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "['a=b']\n", "")
