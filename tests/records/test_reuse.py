# SPDX-License-Identifier: GPL-2.0-only
"""Which earlier result may take the place of a boot."""

from __future__ import annotations

import datetime
import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import harness
from harness.kernels import PreparedKernel
from harness.manifest.kernels_yaml import DebSource, ImageSource, KernelEntry
from harness.manifest.known_issues import LOOK_AGAIN, KnownIssue, KnownIssues
from harness.manifest.plan import Plan
from harness.records import reuse
from harness.records.reuse import STEADY, Answer, Results, Setting
from harness.records.store import Run, Store
from harness.records.to_json import kernel_text
from harness.verdict.results import Confirmed, EarlierRun, KernelResult
from harness.verdict.verdicts import Family, KernelVerdict
from tests import factories

ENTRY = KernelEntry("k", ImageSource(Path("/src/bzImage")), "the tests")
TODAY = datetime.date(2026, 8, 4)
ISSUE = KnownIssue("it is slow", "net", TODAY, "/issues.yaml:2", check="mptcp_info.readable")
SETTING = Setting(
    plan=Plan(),
    base="0b",
    qemu="7.2.22",
    virtme_ng="1.42",
    known=KnownIssues(TODAY, {Path("/issues.yaml"): (ISSUE,)}),
)
RUNS = [
    Run(f"20260101-00000{n}-abcdef", "2026-01-01T00:00:00+00:00", "all", 7, f"/runs/{n}")
    for n in range(9)
]
ROOT = Path("/cache/kernels/k/root")
KERNEL = PreparedKernel(
    name="k",
    release="6.12.1",
    version="#1",
    origin="/src/bzImage",
    image=ROOT / "boot/vmlinuz-6.12.1",
    image_sha256="11" * 32,
    root=ROOT,
    boot_image=ROOT / "boot/vmlinux-6.12.1",
    modules=(ROOT / "modules/virtio.ko",),
    modules_sha256=("22" * 32,),
)
PASSED = factories.kernel("k")


class Past:
    """Runs one after another, each of one result."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._left = iter(RUNS)

    def keep(
        self,
        result: KernelResult,
        entry: KernelEntry = ENTRY,
        kernel: PreparedKernel = KERNEL,
        setting: Setting = SETTING,
    ) -> Run:
        run = next(self._left)
        self.store.begin(run)
        key = Results(self.store, setting).key(entry, kernel, result)
        self.store.add(run.id, entry.name, result.verdict, kernel_text(result), key)
        return run


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    with Store(tmp_path / "results.sqlite") as store:
        yield Past(store)


@pytest.fixture
def results(past: Past) -> Results:
    return Results(past.store, SETTING)


def found(results: Results) -> KernelResult:
    answer = results.find(ENTRY, KERNEL, kvm=False)
    assert answer.result is not None, answer.why
    return answer.result


def why_not(results: Results) -> str:
    answer = results.find(ENTRY, KERNEL, kvm=False)
    assert answer.result is None
    return answer.why


def of(verdict: KernelVerdict) -> KernelResult:
    return replace(PASSED, verdict=verdict)


def keep(past: Past, *verdicts: KernelVerdict) -> None:
    for verdict in verdicts:
        past.keep(of(verdict))


def test_nothing_is_said_of_a_kernel_that_was_never_tested(results: Results) -> None:
    assert results.find(ENTRY, KERNEL, kvm=False) == Answer()


def test_a_good_result_is_found_again(past: Past, results: Results) -> None:
    past.keep(PASSED)
    again = found(results)
    assert (again.verdict, again.families) == (KernelVerdict.PASS, PASSED.families)


def test_a_kernel_without_mptcp_need_not_be_booted_again_either(
    past: Past, results: Results
) -> None:
    keep(past, KernelVerdict.UNSUPPORTED)
    assert found(results).verdict is KernelVerdict.UNSUPPORTED


def test_the_run_is_named_that_a_result_came_from(past: Past, results: Results) -> None:
    past.keep(PASSED)
    earlier = found(results).reused_from
    assert earlier is not None
    assert replace(earlier, finished="") == EarlierRun(
        RUNS[0].id, "", 7, "/runs/0", PASSED.timing.total_s
    )
    assert earlier.finished.startswith("20")


def test_boots_and_times_of_another_run_are_not_shown_as_this_ones(
    past: Past, results: Results
) -> None:
    past.keep(PASSED)
    assert (found(results).attempts, found(results).timing.total_s) == ((), 0)


def test_a_kernel_is_called_what_it_is_called_now(past: Past, results: Results) -> None:
    past.keep(PASSED)
    now = replace(ENTRY, name="renamed")
    moved = replace(KERNEL, origin="/elsewhere/bzImage")
    answer = results.find(now, moved, kvm=False).result
    assert answer is not None
    assert (answer.name, answer.origin) == ("renamed", "/elsewhere/bzImage")


BAD = [v for v in KernelVerdict if not v.as_expected and v is not KernelVerdict.INFRASTRUCTURE]


@pytest.mark.parametrize("verdict", BAD)
def test_a_bad_result_is_never_reused(past: Past, results: Results, verdict: KernelVerdict) -> None:
    keep(past, KernelVerdict.PASS, verdict)
    assert why_not(results) == f"the last result was {verdict}: testing again"


def test_a_kernel_that_failed_lately_is_tested_again(past: Past, results: Results) -> None:
    keep(past, KernelVerdict.FAIL, KernelVerdict.PASS)
    assert why_not(results) == "the last results were pass, fail: testing again"


def test_a_kernel_that_is_now_this_and_now_that_is_tested_again(
    past: Past, results: Results
) -> None:
    keep(past, KernelVerdict.PASS, KernelVerdict.UNSUPPORTED)
    assert why_not(results) == "the last results were unsupported, pass: testing again"


def test_a_kernel_that_has_been_steady_again_is_reused(past: Past, results: Results) -> None:
    keep(past, KernelVerdict.FAIL, *[KernelVerdict.PASS] * STEADY)
    assert found(results).verdict is KernelVerdict.PASS


def test_a_run_that_learned_nothing_changes_nothing(past: Past, results: Results) -> None:
    keep(past, KernelVerdict.PASS, KernelVerdict.INFRASTRUCTURE)
    assert found(results).verdict is KernelVerdict.PASS


def test_a_flaky_result_is_called_that(past: Past, results: Results) -> None:
    past.keep(replace(of(KernelVerdict.FAIL), confirmed=Confirmed(4, 1)))
    assert why_not(results) == "the last result was fail (flaky 1 of 4): testing again"


#: By what differs: circumstances in which the result does not count.
ENTRIES = {
    "cpus": replace(ENTRY, cpus=2),
    "memory": replace(ENTRY, memory_mib=1024),
    "timeout": replace(ENTRY, timeout_s=5),
    "append": replace(ENTRY, append=("foo=1",)),
    "expect": replace(ENTRY, expect={"full_info": False}),
    "who built it": replace(ENTRY, source=DebSource("bullseye", "linux-image-amd64")),
}
KERNELS = {
    "image": replace(KERNEL, image_sha256="12" * 32),
    "unpacking": replace(KERNEL, boot_image=KERNEL.image),
    "modules": replace(KERNEL, modules_sha256=("23" * 32,)),
    "number of modules": replace(KERNEL, modules_sha256=("22" * 32, "33" * 32)),
}
SETTINGS = {
    "guest": replace(SETTING, base="0c"),
    "QEMU": replace(SETTING, qemu="10.0"),
    "virtme-ng": replace(SETTING, virtme_ng="1.43"),
    "families": replace(SETTING, plan=Plan((Family.IPV6,))),
    "checks": replace(SETTING, plan=Plan(checks=("mptcp_info.readable",))),
    "payload": replace(SETTING, plan=Plan(payload=1)),
    "seed": replace(SETTING, plan=Plan(seed=7)),
}


@pytest.mark.parametrize("what", ENTRIES)
def test_a_change_of_the_manifest_counts(past: Past, results: Results, what: str) -> None:
    # Debian's own 5.10 is not expected to have MPTCP.
    old = replace(KERNEL, release="5.10.0")
    past.keep(PASSED, kernel=old)
    assert results.find(ENTRIES[what], old, kvm=False).result is None


@pytest.mark.parametrize("what", KERNELS)
def test_a_change_of_the_kernel_counts(past: Past, results: Results, what: str) -> None:
    past.keep(PASSED)
    assert results.find(ENTRY, KERNELS[what], kvm=False) == Answer()


@pytest.mark.parametrize("what", SETTINGS)
def test_a_change_of_the_run_counts(past: Past, what: str) -> None:
    past.keep(PASSED)
    other = Results(past.store, SETTINGS[what])
    assert other.find(ENTRY, KERNEL, kvm=False) == Answer()


def test_known_issues_count(past: Past, results: Results) -> None:
    path = Path("/issues.yaml")
    last = datetime.date(2026, 1, 31)
    issue = KnownIssue("odd", "me", last, "here", check="payload.arrives")
    entry = replace(ENTRY, known_issues=path)

    def on(day: datetime.date) -> Setting:
        return replace(SETTING, known=KnownIssues(day, {path: (issue,)}))

    def answer(day: datetime.date) -> Answer:
        return Results(past.store, on(day)).find(entry, KERNEL, kvm=False)

    past.keep(PASSED, entry, setting=on(last))
    assert answer(last).result is not None
    assert answer(last + datetime.timedelta(1)) == Answer()
    assert results.find(ENTRY, KERNEL, kvm=False) == Answer()


def test_a_result_is_not_reused_once_the_bugs_of_all_kernels_count(past: Past) -> None:
    def at(day: datetime.date) -> Setting:
        return replace(SETTING, known=KnownIssues(day))

    past.keep(PASSED, setting=at(LOOK_AGAIN))
    assert Results(past.store, at(LOOK_AGAIN)).find(ENTRY, KERNEL, kvm=False).result is not None
    late = at(LOOK_AGAIN + datetime.timedelta(1))
    assert Results(past.store, late).find(ENTRY, KERNEL, kvm=False) == Answer()


def test_the_accelerator_counts(past: Past, results: Results) -> None:
    past.keep(PASSED)
    assert results.find(ENTRY, KERNEL, kvm=True) == Answer()


def test_a_change_of_the_code_that_judges_counts(
    past: Past, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    past.keep(PASSED)
    monkeypatch.setattr(reuse, "judging", lambda: "other code")
    assert results.find(ENTRY, KERNEL, kvm=False) == Answer()


def replaced(past: Past, record: str) -> None:
    """In the store, ``record`` is the last result."""
    run = past.keep(PASSED)
    key = Results(past.store, SETTING).key(ENTRY, KERNEL, PASSED)
    past.store.add(run.id, "k", "pass", record, key)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000], ids=range(4))
def test_what_no_harness_wrote_is_refused(past: Past, results: Results, text: str) -> None:
    replaced(past, text)
    assert why_not(results).startswith(f"the stored result of run {RUNS[0].id} cannot be read (")


def test_a_result_that_lacks_something_is_refused(past: Past, results: Results) -> None:
    record = json.loads(kernel_text(PASSED))
    del record["families"]
    replaced(past, json.dumps(record))
    assert "lacks 'families'" in why_not(results)


def test_a_verdict_that_is_not_that_of_the_result_is_refused(past: Past, results: Results) -> None:
    replaced(past, kernel_text(of(KernelVerdict.FAIL)))
    assert "it is damaged: two verdicts" in why_not(results)


def test_a_damaged_result_is_noticed(past: Past, results: Results) -> None:
    past.keep(PASSED)
    with sqlite3.connect(past.store.path) as database:
        database.execute("UPDATE results SET record = substr(record, 1, length(record) - 1)")
    database.close()
    assert "it is damaged" in why_not(results)


def test_after_a_damaged_result_the_next_one_counts(past: Past, results: Results) -> None:
    replaced(past, "")
    past.keep(PASSED)
    assert found(results).verdict is KernelVerdict.PASS


# What another boot would say again.


@pytest.mark.parametrize(
    ("verdict", "is_evidence"),
    [
        (KernelVerdict.FAIL, True),
        (KernelVerdict.CRASH, True),
        (KernelVerdict.WARNING, True),
        (KernelVerdict.BOOT_FAILURE, False),  # it may be the host's fault
    ],
)
def test_a_bisect_takes_a_bad_result_unless_the_kernel_did_not_boot(
    past: Past, verdict: KernelVerdict, is_evidence: bool
) -> None:
    past.keep(of(verdict))
    answer = Results(past.store, SETTING, evidence=True).find(ENTRY, KERNEL, kvm=False)
    assert (answer.result is not None) is is_evidence


@pytest.mark.parametrize(("bad", "is_evidence"), [(3, True), (2, False)])
def test_a_bisect_takes_no_result_of_a_kernel_that_is_flaky(
    past: Past, bad: int, is_evidence: bool
) -> None:
    past.keep(replace(of(KernelVerdict.FAIL), confirmed=Confirmed(3, bad)))
    answer = Results(past.store, SETTING, evidence=True).find(ENTRY, KERNEL, kvm=False)
    assert (answer.result is not None) is is_evidence


# The code that judges.

JUDGES = {"host", "kernels", "manifest", "run", "verdict", "vm"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the harness whose files may be changed."""
    copy = tmp_path / "harness"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(harness.__file__).parent, copy, ignore=ignored)
    monkeypatch.setattr(harness, "__file__", str(copy / "__init__.py"))
    return copy


def judging() -> str:
    return reuse.judging.__wrapped__()


def test_every_file_that_boots_or_judges_is_in_the_key(package: Path) -> None:
    before = judging()
    rooms = [package, *(package / room for room in JUDGES)]
    files = [path for room in rooms for path in room.glob("*.py")]
    assert len(files) > 50
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content + b"#")
        assert judging() != before, path
        path.write_bytes(content)
    assert judging() == before


def test_a_new_room_is_in_the_key(package: Path) -> None:
    before = judging()
    (package / "opinion").mkdir()
    (package / "opinion" / "judge.py").touch()
    assert judging() != before


def test_a_report_is_not_in_the_key(package: Path) -> None:
    before = judging()
    (package / "report" / "table.py").write_text("")
    assert judging() == before
