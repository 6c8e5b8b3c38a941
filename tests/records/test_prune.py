# SPDX-License-Identifier: GPL-2.0-only
"""What is removed, and what stays whatever its age."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import Busy
from harness.host.tools import Finding
from harness.kernels import Cache
from harness.kernels import cache as cache_module
from harness.kernels.cache import Built
from harness.records import prune, store
from harness.records.store import Run, Store
from tests.replacing import replaced

DAY = 86400
MONTH = 30 * DAY
RUN = "20260101-000000-abcdef"


def build(root: Path) -> Built:
    (root / "boot").mkdir()
    (root / "boot/vmlinuz").write_bytes(b"kernel" * 1000)
    return Built("6.1", "#1", "boot/vmlinuz", "boot/vmlinuz")


class Kept:
    """A cache and a directory of runs with one of everything, none of it old."""

    def __init__(self, tmp_path: Path) -> None:
        self.cache = Cache(tmp_path / "cache")
        self.runs = tmp_path / "runs"
        self.cache.entry("k", build, lambda _: None)
        self.kernel = self.cache.root / "kernels/k"
        self.root = self.cache.directory("roots") / "0b.cpio"
        self.checksum, self.verified = map(self.root.with_suffix, prune.BESIDE_ROOT)
        self.image = self.cache.directory("images") / "bb.json"
        for path in (self.root, self.checksum, self.verified, self.image):
            path.write_text("x" * 5000)
        self.run = self.runs / RUN
        (self.run / "kernels").mkdir(parents=True)
        (self.run / "run.json").write_text("{}")

    def age(self, *paths: Path, days: float = 40) -> None:
        for path in paths:
            then = time.time() - days * DAY
            os.utime(path, (then, then))

    def age_all(self) -> None:
        self.age(self.kernel / "entry.json", self.root, self.checksum, self.verified, self.image)
        self.age(self.run / "run.json")

    def prune(self, keep_s: float = MONTH, *, dry_run: bool = False) -> list[prune.Item]:
        return prune.prune(self.cache, self.runs, keep_s, dry_run=dry_run)

    def removed(self, keep_s: float = MONTH) -> set[Path]:
        """The things themselves that a prune removes."""
        return {item.paths[0] for item in self.prune(keep_s)}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_what_was_used_lately_stays(kept: Kept) -> None:
    assert kept.removed() == set()


def test_what_was_not_used_for_long_goes(kept: Kept) -> None:
    kept.age_all()
    assert kept.removed() == {kept.kernel, kept.root, kept.image, kept.run}
    gone = (kept.kernel, kept.root, kept.checksum, kept.verified, kept.image, kept.run)
    assert not any(path.exists() for path in gone)


def test_the_age_is_what_the_user_says(kept: Kept) -> None:
    kept.age(kept.image, days=3)
    assert kept.removed(4 * DAY) == set()
    assert kept.removed(2 * DAY) == {kept.image}


def test_the_use_of_a_kernel_keeps_it(kept: Kept) -> None:
    kept.age_all()
    assert kept.cache.existing("k") is not None
    assert kept.kernel not in kept.removed()


def test_the_files_beside_a_root_live_as_long_as_the_root(kept: Kept) -> None:
    kept.age(kept.checksum, kept.verified)
    assert kept.removed() == set()
    assert kept.checksum.exists()
    assert kept.verified.exists()


def test_the_use_of_a_root_keeps_it(kept: Kept) -> None:
    """Its checksum has the time of the last use, for its own must not change."""
    kept.age(kept.root, kept.verified)
    assert kept.removed() == set()


def test_what_is_beside_no_root_is_obsolete(kept: Kept) -> None:
    kept.root.unlink()
    assert kept.removed() == {kept.checksum, kept.verified}


def test_a_dry_run_says_the_same_and_removes_nothing(kept: Kept) -> None:
    kept.age_all()
    would = kept.prune(dry_run=True)
    assert kept.kernel.exists()
    assert kept.run.exists()
    assert {item.paths for item in would} == {item.paths for item in kept.prune()}


def test_the_file_of_a_lock_goes_only_if_it_is_old_and_nobody_holds_it(kept: Kept) -> None:
    old, held, young = (kept.cache.directory("locks") / name for name in ("old", "held", "young"))
    for path in (old, held, young):
        path.touch()
    with held.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept.age(old, held)
        assert {item.paths[0] for item in kept.prune(dry_run=True)} == {old}
        assert old.exists()
        assert kept.removed() == {old}
    assert [path.exists() for path in (old, held, young)] == [False, True, True]


def test_the_size_of_what_was_removed_is_told(kept: Kept) -> None:
    kept.age(kept.image)
    (item,) = kept.prune()
    assert 5000 <= item.size <= 16384


def with_format(kept: Kept, number: object) -> None:
    path = kept.kernel / "entry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": number}))
    kept.age(path, days=0.01)


@pytest.mark.parametrize("number", [cache_module.FORMAT - 1, "?", None])
def test_a_kernel_of_an_older_harness_goes_at_once(kept: Kept, number: object) -> None:
    with_format(kept, number)
    (item,) = kept.prune()
    assert item.paths == (kept.kernel,)
    assert item.obsolete


def test_a_kernel_of_a_newer_harness_stays(kept: Kept) -> None:
    with_format(kept, cache_module.FORMAT + 1)
    assert kept.removed() == set()


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000])
def test_a_kernel_without_a_sound_record_goes_at_once(kept: Kept, content: str) -> None:
    (kept.kernel / "entry.json").write_text(content)
    kept.age(kept.kernel / "entry.json", days=0.01)
    assert kept.removed() == {kept.kernel}


def test_a_root_of_an_older_harness_goes_at_once(kept: Kept) -> None:
    unpacked = kept.root.with_suffix("")
    (unpacked / "bin").mkdir(parents=True)
    kept.age(unpacked, days=0.01)
    assert kept.removed() == {unpacked}


def test_what_a_running_harness_uses_stays_whatever_its_age(kept: Kept) -> None:
    with kept.cache.scratch():
        assert kept.cache.existing("k") is not None
        assert kept.removed(keep_s=-DAY) & {kept.kernel} == set()


def test_what_a_running_harness_has_not_used_yet_may_go(kept: Kept) -> None:
    kept.age_all()
    with kept.cache.scratch():
        assert kept.kernel in kept.removed()


def test_what_another_process_uses_counts_as_well(kept: Kept) -> None:
    with Cache(kept.cache.root).scratch():
        assert Cache(kept.cache.root).existing("k") is not None
        assert kept.kernel not in kept.removed(keep_s=-DAY)


def test_a_run_that_goes_on_stays(kept: Kept) -> None:
    kept.age_all()
    with prune.in_use(kept.run):
        assert kept.run not in kept.removed()
    assert kept.run in kept.removed()


def test_a_run_is_gone_on_with_by_one_harness_only(kept: Kept) -> None:
    with (
        prune.in_use(kept.run),
        pytest.raises(Busy, match="two would spoil each other"),
        prune.in_use(kept.run),
    ):
        pass


def test_results_of_a_harness_that_kept_them_as_files_go_at_once(kept: Kept) -> None:
    place = kept.cache.directory("results")
    (place / "aa.json").write_text("{}")
    kept.age(place, days=0.01)
    (item,) = kept.prune()
    assert item.paths == (place,)
    assert item.obsolete
    assert not place.exists()


class Stored:
    """A store with a run that began long ago."""

    def __init__(self, kept: Kept) -> None:
        self.path = kept.runs.parent / store.FILE
        self.run = Run(RUN, "2026-01-01T00:00:00+00:00", "all", 1, str(kept.run))
        with Store(self.path) as file:
            file.begin(self.run)
            file.add(RUN, "k", "pass", "{}" + " " * 100_000)

    def prune(self, keep_s: float = MONTH, *, dry_run: bool = False) -> int:
        return prune.prune_store(self.path, keep_s, dry_run=dry_run).count

    def runs(self) -> list[str]:
        with Store(self.path) as file:
            return [run.id for run in file.runs()]


@pytest.fixture
def stored(kept: Kept) -> Stored:
    return Stored(kept)


def test_old_runs_go_from_the_store(stored: Stored) -> None:
    assert stored.prune() == 1
    assert stored.runs() == []


def test_a_dry_run_leaves_the_store_alone(stored: Stored) -> None:
    assert stored.prune(dry_run=True) == 1
    assert stored.runs() == [RUN]


def test_the_age_of_a_run_in_the_store_is_what_the_user_says(stored: Stored) -> None:
    assert stored.prune(100_000 * DAY) == 0
    assert stored.runs() == [RUN]


def test_a_run_that_goes_on_stays_in_the_store(stored: Stored, kept: Kept) -> None:
    with prune.in_use(kept.run):
        assert stored.prune() == 0
    assert stored.prune() == 1


def test_further_boots_of_a_bisect_that_goes_on_stay_in_the_store(
    stored: Stored, kept: Kept
) -> None:
    with Store(stored.path) as file:
        file.begin(replace(stored.run, id=f"{RUN}-2", directory=str(kept.run / "boot-2")))
    with prune.in_use(kept.run):
        assert stored.prune() == 0
    assert stored.prune() == 2


def test_a_run_whose_directory_is_gone_goes_from_the_store(stored: Stored, kept: Kept) -> None:
    shutil.rmtree(kept.run)
    assert stored.prune() == 1


def test_no_store_is_made_to_be_pruned(tmp_path: Path) -> None:
    assert prune.prune_store(tmp_path / store.FILE, MONTH, dry_run=False).count == 0
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_never_ended_is_as_old_as_its_directory(kept: Kept) -> None:
    (kept.run / "run.json").unlink()
    assert kept.removed() == set()
    kept.age(kept.run)
    assert kept.removed() == {kept.run}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda runs: (runs / "notes").mkdir(), id="directory"),
        pytest.param(lambda runs: (runs / replaced(RUN, "1", "2")).write_text(""), id="file"),
        pytest.param(
            lambda runs: (runs / replaced(RUN, "1", "3")).symlink_to(runs.parent), id="link"
        ),
    ],
)
def test_what_is_no_run_is_not_ours(kept: Kept, make: Callable[[Path], object]) -> None:
    make(kept.runs)
    (foreign,) = set(kept.runs.iterdir()) - {kept.run}
    kept.age_all()
    kept.prune(keep_s=-DAY)
    assert list(kept.runs.iterdir()) == [foreign]


def test_nothing_is_made_where_nothing_is_kept(tmp_path: Path) -> None:
    assert prune.prune(Cache(tmp_path / "cache"), tmp_path / "runs", MONTH, dry_run=False) == []
    assert list(tmp_path.iterdir()) == []


def findings(kept: Kept) -> dict[str, Finding]:
    found = prune.doctor(kept.cache.root, kept.runs, kept.runs.parent / store.FILE)
    return {finding.subject: finding for finding in found}


def beside(kept: Kept, name: str, *, days: float = 40) -> Path:
    """A thing of a bisect or of step, that old."""
    place = kept.runs.with_name(name) / "0123456789abcdef"
    place.mkdir(parents=True)
    (place / "bisect.jsonl").write_text("x" * 5000)
    kept.age(place / "bisect.jsonl", place, days=days)
    return place


@pytest.mark.parametrize("name", ["bisects", "maps", "step"])
def test_what_a_bisect_or_step_found_out_goes_when_it_is_old(kept: Kept, name: str) -> None:
    old = beside(kept, name)
    assert kept.removed() == {old}
    assert not old.exists()
    beside(kept, name, days=20)
    assert kept.removed() == set()


@pytest.mark.parametrize("name", ["bisects", "maps"])
def test_a_bisect_that_goes_on_stays(kept: Kept, name: str) -> None:
    with prune.in_use(beside(kept, name)):
        assert kept.removed() == set()


def test_what_a_step_that_goes_on_knows_stays(kept: Kept) -> None:
    place = beside(kept, "step")
    with kept.cache.scratch():
        os.utime(place)
        assert kept.removed(-DAY) & {place} == set()


def test_what_others_put_beside_the_runs_stays(kept: Kept) -> None:
    other = kept.runs.with_name("bisects") / "notes"
    other.mkdir(parents=True)
    kept.age(other)
    assert kept.removed() == set()


def test_the_doctor_counts_bisects(kept: Kept) -> None:
    beside(kept, "bisects")
    beside(kept, "step")
    assert "bisects 1, results of step 1" in findings(kept)["bisects"].found


def test_the_doctor_says_what_there_is(kept: Kept) -> None:
    found = findings(kept)
    assert "prepared kernels 1, guest roots 1, notes on images 1" in found["cache"].found
    assert str(kept.runs) in found["runs"].found
    assert {finding.remedy for finding in found.values()} == {""}


def test_the_doctor_counts_package_indexes(kept: Kept) -> None:
    (kept.cache.root / "apt/bookworm").mkdir()
    assert "package indexes 1" in findings(kept)["cache"].found


def test_the_doctor_names_the_remedy_for_what_is_large(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune, "LARGE", 1000)
    assert findings(kept)["cache"].remedy == "mptcp-harness prune --keep 30d"


def test_the_doctor_of_a_new_host_finds_nothing(tmp_path: Path) -> None:
    found = prune.doctor(tmp_path / "cache", tmp_path / "runs", tmp_path / store.FILE)
    assert [finding.found[:10] for finding in found] == ["0.0 MiB in"] * 4
