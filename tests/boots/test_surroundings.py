# SPDX-License-Identifier: GPL-2.0-only
"""Where the command line runs: another user, no home, no terminal, odd paths, a container."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.kernels import prepare
from harness.kernels.cache import Cache
from harness.manifest.kernels_yaml import DebSource, KernelEntry
from tests.boots.conftest import know_kvm
from tests.conftest import all_required

ROOT = Path(__file__).parents[2]
PATIENCE = 300
QUICK = ("--family", "ipv4", "--check", "mptcp_info.readable")
#: Of nobody in /etc/passwd, as in many containers.
STRANGER = 54321
BARE = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}


@dataclass
class Place:
    """A directory that every user reaches, with a kernel in it."""

    directory: Path
    image: Path
    options: dict[str, Any] = field(default_factory=dict)  # for subprocess

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "harness", *arguments]

    def check(self) -> list[str]:
        return self.command(
            *("check", str(self.image), *QUICK),
            *("--cache", str(self.directory / "cache")),
            *("--output", str(self.directory / "run")),
            *("--json", str(self.directory / "record.json")),
        )

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        given: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "env": BARE,
            "cwd": self.directory,
            **self.options,
            **options,
        }
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **given)

    def verdict(self) -> str:
        (kernel,) = json.loads((self.directory / "record.json").read_text())["kernels"]
        return str(kernel["verdict"])


@pytest.fixture
def place(cache: Cache) -> Iterator[Place]:
    entry = KernelEntry("trixie", DebSource("trixie", "linux-image-amd64"), "the tests")
    kernel = prepare(entry, cache, lambda _: None)
    # Not pytest's own, which is closed to other users.
    with tempfile.TemporaryDirectory(prefix="mh-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        image = directory / "vmlinux"
        shutil.copyfile(kernel.boot_image, image)
        yield Place(directory, image)


@pytest.fixture
def stranger(place: Place) -> Place:
    """The place as a user without privileges has it: this one, or for root one of no name."""
    if os.geteuid() == 0:
        place.options = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
        os.chown(place.directory, STRANGER, STRANGER)
        tried = place.run(place.command("--version"))
        if tried.returncode:
            lack(f"other users cannot run {sys.executable} in {ROOT}: {tried.stderr.strip()}")
    return place


def lack(reason: str) -> None:
    """What tests.conftest does where a prerequisite is missing."""
    pytest.fail(reason, pytrace=False) if all_required() else pytest.skip(reason)


def assert_passed(place: Place, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.verdict() == "pass"
    assert done.stderr == ""


def test_a_user_without_a_home_is_told_what_to_give(stranger: Place) -> None:
    if os.geteuid() != 0:
        lack("only root can become a user without a home")
    done = stranger.run(stranger.command("check", str(stranger.image), *QUICK))
    assert done.returncode in (2, 3)
    assert "--cache" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_service_without_home_and_standard_input_tests_a_kernel(stranger: Place) -> None:
    """As cron and systemd start one: at the root, with a umask of 077, without HOME, TERM or LANG.

    Descriptor 0 is not even open.
    """
    shell = ["sh", "-c", 'exec "$@" <&-', "sh"]
    done = stranger.run([*shell, *stranger.check()], start_new_session=True, umask=0o077, cwd="/")
    assert_passed(stranger, done)
    assert (stranger.directory / "run").stat().st_mode & 0o077 == 0


def _take_the_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_background_job_of_a_terminal_in_a_container_is_not_stopped(
    cache: Cache, place: Place
) -> None:
    """What touches the terminal from there, as a QEMU may, is sent SIGTTIN or SIGTTOU.

    The container has process ids of its own.
    """
    know_kvm(cache, place.directory / "cache")
    namespace = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    tried = place.run([*namespace, "true"])
    if tried.returncode:
        lack(f"no namespace of process ids can be made: {tried.stderr.strip()}")
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[3] |= termios.TOSTOP
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    try:
        done = place.run(
            ["sh", "-c", 'set -m; "$@" & wait $!', "sh", *namespace, *place.check()],
            stdin=theirs,
            preexec_fn=_take_the_terminal,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert_passed(place, done)


#: Spaces, letters beyond ASCII, and what a shell, QEMU's options and HTML give a meaning to.
ODD = "Läufe of me, x=y; $(touch pwned) `touch pwned` 'a' \"b\" & <i> * %s"


def test_a_user_without_privileges_has_a_kernel_tested_below_odd_paths(stranger: Place) -> None:
    odd = stranger.directory / ODD
    odd.mkdir()
    image = odd / f"{ODD} vmlinux"
    stranger.image.rename(image)
    manifest = odd / f"{ODD}.yaml"
    manifest.write_text(f"kernels:\n  - name: k\n    image: {json.dumps(str(image))}\n")
    if os.geteuid() == 0:
        os.chown(odd, STRANGER, STRANGER)
    record = str(stranger.directory / "record.json")
    done = stranger.run(
        stranger.command(
            *("matrix", str(manifest), *QUICK, "--json", record),
            *("--cache", str(odd / "cache"), "--output", str(odd / "run")),
        ),
        env={**BARE, "HOME": str(odd), "TMPDIR": str(odd), "XDG_STATE_HOME": str(odd / "state")},
    )
    assert_passed(stranger, done)
    assert (odd / "run" / "run.json").exists()
    assert not list(stranger.directory.rglob("pwned"))
    kvm = Path("/dev/kvm")
    if os.geteuid() == 0 and kvm.exists() and not kvm.stat().st_mode & 0o006:
        assert "/dev/kvm is not" in " ".join(done.stdout.split())
