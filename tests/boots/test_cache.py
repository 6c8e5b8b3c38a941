# SPDX-License-Identifier: GPL-2.0-only
"""A cache that is damaged, closed, read-only or full, under the real command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
#: Of nobody in /etc/passwd.
STRANGER = 54321
# $0 is the cache; what comes after it is the command.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
#: On a disk of its own, of so many KiB; the last lines show what is left there.
SMALL = """\
mount -t tmpfs -o size=%dk,mode=1777 none "$0" || exit 99
"$@"; status=$?
find "$0/kernels" "$0/tmp" "$0/roots" -mindepth 1 2>/dev/null | sed 's/^/LEFT /'
exit $status
"""


@dataclass(frozen=True)
class Place:
    """A directory that every user reaches, with a manifest of one kernel in it, and a cache."""

    directory: Path

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    def command(self, command: str) -> list[str]:
        run = tempfile.mkdtemp(dir=self.directory)
        quick = [
            *("--family", "ipv4", "--check", "mptcp_info.readable"),
            *("--output", f"{run}/run", "--json", f"{run}/record.json"),
        ]
        return [
            *(sys.executable, "-m", "harness", command, str(self.directory / "kernels.yaml")),
            *("--cache", str(self.cache), *(quick if command == "matrix" else ())),
        ]

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=self.directory,
            env=environment,
            **options,
        )

    def within(self, script: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """``command`` where ``script`` has mounted something of its own."""
        namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
        tried = self.run([*namespace, script, str(self.cache), "true"])
        if tried.returncode:
            lack(f"nothing can be mounted in a namespace: {tried.stderr.strip()}")
        return self.run([*namespace, script, str(self.cache), *command])


def lack(reason: str) -> None:
    """What tests.conftest does where a prerequisite is missing."""
    pytest.fail(reason, pytrace=False) if all_required() else pytest.skip(reason)


@contextlib.contextmanager
def made(cache: Cache) -> Iterator[Place]:
    entry = KernelEntry("trixie", DebSource("trixie", "linux-image-amd64"), "the tests")
    kernel = prepare(entry, cache, lambda _: None)
    with tempfile.TemporaryDirectory(prefix="mh-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        shutil.copyfile(kernel.image, directory / "bzImage")
        (directory / "kernels.yaml").write_text("kernels: [{name: k, image: bzImage}]\n")
        (directory / "cache").mkdir()
        yield Place(directory)


@pytest.fixture
def place(cache: Cache) -> Iterator[Place]:
    with made(cache) as place:
        yield place


@pytest.fixture(scope="module")
def booted(cache: Cache) -> Iterator[Place]:
    """A place with all in its cache that its manifest needs, to be copied."""
    with made(cache) as place:
        know_kvm(cache, place.cache)
        assert_passed(place.run(place.command("matrix")))
        yield place


@pytest.fixture
def filled(place: Place, booted: Place) -> Place:
    """The place with all in its cache that its manifest needs."""
    shutil.copytree(booted.cache, place.cache, symlinks=True, dirs_exist_ok=True)
    return place


def assert_passed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert " pass " in done.stdout
    assert "Traceback" not in done.stderr


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 3, said
    for word in words:
        assert word in said
    assert "Traceback" not in said


def booted_files(place: Place) -> list[Path]:
    return sorted((place.cache / "kernels").glob("*/root/boot/*"))


@pytest.mark.parametrize("which", [0, 1], ids=["uncompressed", "as it came"])
def test_a_flipped_byte_of_a_prepared_kernel_is_found_and_mended(filled: Place, which: int) -> None:
    """Somewhere in the middle, with the size and the times as they were."""
    image = booted_files(filled)[which]
    status = image.stat()
    sound = image.read_bytes()
    with image.open("r+b") as file:
        file.seek(len(sound) // 2)
        file.write(bytes([sound[len(sound) // 2] ^ 1]))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    done = filled.run(filled.command("prepare"))
    assert done.returncode == 0, done.stderr
    assert "is damaged" in done.stdout
    assert f"root/boot/{image.name} has other bytes" in done.stdout
    assert image.read_bytes() == sound


def test_a_damaged_kernel_is_not_booted(filled: Place) -> None:
    """But made again, and tested."""
    for image in booted_files(filled):
        image.write_bytes(bytes(image.stat().st_size))
    assert_passed(filled.run(filled.command("matrix")))


def test_a_whole_cache_need_not_be_writable(filled: Place) -> None:
    before = sorted(filled.cache.rglob("*"))
    assert_passed(filled.within(READ_ONLY, filled.command("matrix")))
    assert sorted(filled.cache.rglob("*")) == before


def test_a_whole_cache_may_be_another_users(filled: Place) -> None:
    if os.geteuid() != 0:
        lack("only root can become another user")
    command = filled.command("matrix")
    for path in filled.directory.glob("tmp*"):
        os.chown(path, STRANGER, STRANGER)
    stranger = {"user": STRANGER, "group": STRANGER, "extra_groups": []}
    assert_passed(filled.run(command, **stranger))


def test_what_is_not_in_a_read_only_cache_is_said(filled: Place) -> None:
    for path in (filled.cache / "kernels").iterdir():
        shutil.rmtree(path)
    done = filled.within(READ_ONLY, filled.command("matrix"))
    assert_refused(done, "cannot be written to", "use another one with --cache DIR")


def test_damage_in_a_read_only_cache_is_said(filled: Place) -> None:
    booted_files(filled)[0].write_bytes(b"damaged")
    done = filled.within(READ_ONLY, filled.command("matrix"))
    assert_refused(done, "has no valid image-6.", "cannot be written to")


@pytest.mark.parametrize("command", ["matrix", "prepare"])
def test_an_empty_cache_that_is_read_only_is_said(place: Place, command: str) -> None:
    done = place.within(READ_ONLY, place.command(command))
    assert_refused(
        done, "cannot be used: Read-only file system", "use another one with --cache DIR"
    )


def left(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("LEFT ")]


def test_a_cache_too_small_for_the_guests_root_is_said(place: Place) -> None:
    done = place.within(SMALL % 4096, place.command("matrix"))
    assert_refused(done, "cannot build the guest's root", "No space left on device")
    assert not left(done)


@pytest.mark.parametrize("kib", [4 << 10, 16 << 10, 40 << 10], ids=str)
def test_a_cache_too_small_for_a_kernel_is_said(place: Place, kib: int) -> None:
    """Full while the image is copied, unpacked and put in its place."""
    done = place.within(SMALL % kib, place.command("prepare"))
    assert_refused(done, "No space left on device", "free some space on the disk of")
    assert not left(done)


def test_a_kernel_that_found_no_room_is_infrastructure(place: Place) -> None:
    """While the guest's root did."""
    done = place.within(SMALL % (80 << 10), place.command("matrix"))
    assert_refused(
        done, "infrastructure", "No space left on device", "free some space on the disk of"
    )
    assert all(line.startswith(f"LEFT {place.cache}/roots/") for line in left(done))


def test_two_harnesses_share_a_cache(place: Place) -> None:
    """Of each thing, one makes it and the other waits; both test."""
    both = [
        subprocess.Popen(
            place.command("matrix"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    records = list(place.directory.glob("*/record.json"))
    verdicts = [json.loads(path.read_text())["kernels"][0]["verdict"] for path in records]
    assert verdicts == ["pass", "pass"]
    assert list((place.cache / "tmp").iterdir()) == []
