# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.errors import HostError, KernelUnavailable
from harness.host import files
from harness.kernels import cache as cache_module
from harness.kernels.cache import Built, Cache, digest
from tests.kernels.conftest import Said

MODULES = ("modules/virtio.ko", "modules/a_needs_virtio.ko")
BUILT = Built("6.1", "1", "boot/vmlinuz-6.1", "boot/vmlinux-6.1", MODULES)


class Builder:
    """Builds the same small kernel each time, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, root: Path) -> Built:
        self.count += 1
        (root / "boot").mkdir()
        (root / BUILT.image).write_bytes(b"compressed")
        (root / BUILT.boot_image).write_bytes(b"uncompressed")
        (root / "modules").mkdir()
        for name in MODULES:
            (root / name).write_bytes(b"module")
        return BUILT


def entry_files(cache: Cache) -> list[Path]:
    return [path for path in (cache.root / "kernels").rglob("*") if path.is_file()]


def test_an_entry_is_built_once(cache: Cache, say: Said) -> None:
    build = Builder()
    first = cache.entry("k", build, say)
    second = Cache(cache.root).entry("k", build, say)
    assert (build.count, second) == (1, first)


def test_an_entry_tells_where_its_images_are(cache: Cache, say: Said) -> None:
    entry = cache.entry("k", Builder(), say)
    assert entry.image.read_bytes() == b"compressed"
    assert entry.boot_image.read_bytes() == b"uncompressed"


def test_an_entry_tells_its_modules_in_the_order_of_the_build(cache: Cache, say: Said) -> None:
    entry = cache.entry("k", Builder(), say)
    assert entry.modules == tuple(entry.root / name for name in MODULES)


def test_an_older_harness_made_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    now = digest("a kernel")
    monkeypatch.setattr(cache_module, "FORMAT", cache_module.FORMAT - 1)
    assert digest("a kernel") != now


def test_other_keys_are_other_entries(cache: Cache, say: Said) -> None:
    build = Builder()
    cache.entry("k", build, say)
    cache.entry("l", build, say)
    assert build.count == 2


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [BUILT.boot_image, BUILT.image, MODULES[0]])
def test_a_flipped_byte_is_noticed_and_mended(cache: Cache, say: Said, name: str) -> None:
    build = Builder()
    entry = cache.entry("k", build, say)
    flip(entry.root / name)
    again = cache.entry("k", build, say)
    assert build.count == 2
    assert again.boot_image.read_bytes() == b"uncompressed"
    assert name in say


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda place: (place / "entry.json").write_text(""), id="torn record"),
        pytest.param(lambda place: (place / "entry.json").write_text("[]"), id="no record"),
        pytest.param(lambda place: (place / "entry.json").unlink(), id="missing record"),
        pytest.param(lambda place: (place / "root" / MODULES[0]).unlink(), id="missing module"),
        pytest.param(lambda place: (place / "root" / BUILT.image).unlink(), id="missing file"),
        pytest.param(lambda place: (place / "root" / "more").write_text(""), id="another file"),
        pytest.param(lambda place: (place / "root" / BUILT.image).write_text(""), id="torn file"),
    ],
)
def test_an_entry_that_is_not_whole_is_built_again(
    cache: Cache, say: Said, damage: Callable[[Path], object]
) -> None:
    build = Builder()
    entry = cache.entry("k", build, say)
    damage(entry.root.parent)
    assert cache.entry("k", build, say) == entry
    assert build.count == 2


class Reads:
    """Counts the files whose bytes are read to verify them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = cache_module.file_sha256

        def counted(path: Path) -> str:
            self.count += 1
            return real(path)

        monkeypatch.setattr(cache_module, "file_sha256", counted)


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what was just written count as untouched for long."""
    monkeypatch.setattr(files, "SETTLED", -1.0)


def test_a_trusting_cache_does_not_read_what_is_untouched(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    entry = cache.entry("k", Builder(), say)
    reads = Reads(monkeypatch)
    assert cache.trusting().existing("k") == entry
    assert reads.count == 0


def test_for_a_boot_what_was_just_read_is_not_read_again(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    entry = cache.entry("k", Builder(), say)
    reads = Reads(monkeypatch)
    assert cache.existing("k") == entry
    assert reads.count == 0


def test_for_a_boot_everything_is_read_after_the_hosts_start(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(monkeypatch)
    entry = cache.entry("k", Builder(), say)
    monkeypatch.setattr(files, "host_start", lambda: "another")
    reads = Reads(monkeypatch)
    assert [cache.existing("k"), cache.existing("k")] == [entry, entry]
    assert reads.count == 4


@pytest.mark.parametrize("moved", [files.RECENT + 1, -60.0])
def test_for_a_boot_everything_is_read_once_a_day(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch, moved: float
) -> None:
    """Also where the clock was set back, which is no day."""
    settle(monkeypatch)
    entry = cache.entry("k", Builder(), say)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + moved)
    reads = Reads(monkeypatch)
    assert cache.existing("k") == entry
    assert reads.count == 4
    assert cache.trusting().existing("k") == entry
    assert reads.count == 4


def test_for_a_boot_everything_is_read_where_the_hosts_start_is_unknown(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settle(monkeypatch)
    cache.entry("k", Builder(), say)
    monkeypatch.setattr(files, "_HOST_START", tmp_path / "nothing")
    reads = Reads(monkeypatch)
    cache.existing("k")
    assert reads.count == 4


def test_what_has_just_changed_is_not_trusted_yet(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.entry("k", Builder(), say)
    reads = Reads(monkeypatch)
    cache.trusting().existing("k")
    assert reads.count == 4


@pytest.mark.parametrize("name", [BUILT.boot_image, BUILT.image, MODULES[0]])
def test_a_flipped_byte_is_noticed_at_once(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    settle(monkeypatch)
    entry = cache.entry("k", Builder(), say)
    flip(entry.root / name)
    assert [cache.existing("k"), cache.trusting().existing("k")] == [None, None]


@pytest.mark.parametrize("content", ["", "[]", "null", '{"root/boot/vmlinuz-6.1": 1}'])
def test_without_sound_notes_a_trusting_cache_reads_again(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    settle(monkeypatch)
    entry = cache.entry("k", Builder(), say)
    (entry.root.parent / cache_module.STAMPS).write_text(content)
    reads = Reads(monkeypatch)
    assert cache.trusting().existing("k") == entry
    assert reads.count == 4


def test_notes_do_not_vouch_for_damage(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found to be damaged is not noted as verified."""
    settle(monkeypatch)
    entry = cache.entry("k", Builder(), say)
    flip(entry.root / BUILT.image)
    cache.existing("k")
    assert cache.trusting().existing("k") is None


def test_a_trusting_cache_asks_once(cache: Cache) -> None:
    answers = iter("ab")
    trusting = cache.trusting()
    assert [trusting.once("x", lambda: next(answers)) for _ in range(2)] == ["a", "a"]
    assert trusting.once("y", lambda: next(answers)) == "b"


def test_a_cache_that_does_not_trust_asks_each_time(cache: Cache) -> None:
    answers = iter("ab")
    assert [cache.once("x", lambda: next(answers)) for _ in range(2)] == ["a", "b"]


def test_each_use_is_noted(cache: Cache, say: Said) -> None:
    entry = cache.entry("k", Builder(), say)
    record = entry.root.parent / cache_module.RECORD
    os.utime(record, (1, 1))
    cache.existing("k")
    assert record.stat().st_mtime > time.time() - 60


def test_an_idle_cache_has_no_oldest_use(cache: Cache) -> None:
    with cache.frozen() as oldest:
        assert oldest == float("inf")


def test_the_oldest_use_is_when_the_first_of_those_at_work_began(cache: Cache) -> None:
    with cache.scratch() as first, Cache(cache.root).scratch() as second:
        os.utime(first, (1000, 1000))
        os.utime(second, (2000, 2000))
        with cache.frozen() as oldest:
            assert oldest == 1000


def test_nobody_begins_to_use_a_frozen_cache(cache: Cache) -> None:
    """The lock that scratch() takes first is held."""
    with (
        cache.frozen(),
        (cache.root / "locks/tmp").open() as lock,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_failed_build_leaves_nothing(cache: Cache, say: Said) -> None:
    def fail(root: Path) -> Built:
        (root / "half").write_text("done")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        cache.entry("k", fail, say)
    assert entry_files(cache) == []
    assert list((cache.root / "tmp").iterdir()) == []


def test_of_several_that_want_an_entry_one_builds(cache: Cache, say: Said) -> None:
    build = Builder()
    barrier = threading.Barrier(4)

    def want(_: int) -> Path:
        barrier.wait()
        # A cache of its own for each: as if they were different processes.
        return Cache(cache.root).entry("k", build, say).root

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(want, range(4)))) == 1
    assert build.count == 1


def test_waiting_for_another_run_is_said(cache: Cache, say: Said) -> None:
    build = Builder()
    building = threading.Event()

    def first(root: Path) -> Built:
        building.set()
        said.wait(timeout=30)
        return build(root)

    said = threading.Event()

    def tell(line: str) -> None:
        say(line)
        said.set()

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(cache.entry, "k", first, lambda _: None)
        building.wait(timeout=30)
        assert cache.entry("k", build, tell) == other.result()
    assert "waiting for another preparation" in say


KILLED = """
import os, signal, sys
from pathlib import Path
from harness.kernels.cache import Built, Cache

def build(root):
    (root / "half").write_text("done")
    os.kill(os.getpid(), signal.SIGKILL)

Cache(Path(sys.argv[1])).entry("k", build, print)
"""


def test_what_a_killed_harness_left_is_removed_by_the_next(cache: Cache, say: Said) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(cache.root)])
    assert run.returncode == -signal.SIGKILL
    assert list((cache.root / "tmp").rglob("half"))
    build = Builder()
    cache.entry("k", build, say)
    assert build.count == 1
    assert list((cache.root / "tmp").iterdir()) == []


def test_what_a_living_harness_builds_is_left_alone(cache: Cache) -> None:
    with cache.scratch() as path:
        (path / "half").write_text("done")
        Cache(cache.root).directory("kernels")
        assert (path / "half").exists()


def test_a_cache_creates_nothing_before_it_is_used(tmp_path: Path) -> None:
    Cache(tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_backups_are_told_to_leave_the_cache_out(cache: Cache) -> None:
    cache.directory("kernels")
    assert (cache.root / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172")


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(*_: object) -> Path:
        raise RuntimeError

    monkeypatch.setattr("platformdirs.user_cache_path", homeless)
    with pytest.raises(HostError, match="--cache DIR"):
        Cache()


def test_the_cache_lies_below_the_xdg_cache_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache().root == tmp_path / "mptcp-harness"


def test_a_relative_cache_stays_where_it_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Said
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Cache(Path("cache")).entry("k", Builder(), say).root.is_absolute()


def test_equal_values_have_equal_digests() -> None:
    assert digest({"a": 1, "b": [2]}) == digest(json.loads('{"b": [2], "a": 1}'))


def test_a_stop_ends_the_wait_for_a_lock(cache: Cache) -> None:
    def stop(said: str) -> None:
        assert "waiting for another preparation" in said
        cache.stop.set()

    other = Cache(cache.root)
    with (
        other.lock("k"),
        pytest.raises(KernelUnavailable, match="interrupted"),
        cache.lock("k", stop),
    ):
        pass


def test_a_lock_that_is_free_is_had_even_after_a_stop(cache: Cache) -> None:
    cache.stop.set()
    with cache.lock("k"):
        pass


def test_a_trusting_cache_is_stopped_with_its_origin(cache: Cache) -> None:
    trusting = cache.trusting()
    cache.stop.set()
    assert trusting.stop.is_set()


def test_a_stop_while_a_scratch_directory_is_removed_is_no_error(cache: Cache) -> None:
    other = Cache(cache.root)
    with contextlib.ExitStack() as stack:
        with cache.scratch() as scratch:
            stack.enter_context(other.lock("tmp"))
            cache.stop.set()
        assert not scratch.exists()
    Cache(cache.root).directory()  # a later run removes what is left
    assert list((cache.root / "tmp").iterdir()) == []
