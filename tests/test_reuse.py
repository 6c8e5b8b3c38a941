# SPDX-License-Identifier: GPL-2.0-only
"""Which earlier result may take the place of a boot."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness import reuse
from harness.kernels import Cache, PreparedKernel
from harness.known_issues import KnownIssue, KnownIssues
from harness.manifest import DebSource, ImageSource, KernelEntry
from harness.results import EarlierRun, Family, KernelResult, KernelVerdict
from harness.reuse import STEADY, Answer, Results, Setting
from tests import factories

ENTRY = KernelEntry("k", ImageSource(Path("/src/bzImage")), "the tests")
TODAY = datetime.date(2026, 8, 4)
ISSUE = KnownIssue("it is slow", "net", TODAY, "/issues.yaml:2", check="mptcp_info.readable")
SETTING = Setting(
    base="0b",
    qemu="7.2.22",
    virtme_ng="1.42",
    families=tuple(Family),
    checks=(),
    payload=None,
    seed=None,
    known=KnownIssues(TODAY, {Path("/issues.yaml"): (ISSUE,)}),
)
RUN = EarlierRun("20260101-000000-abcdef", "", 7, "/runs/20260101-000000-abcdef")
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
FAILED = factories.failing(PASSED, factories.check())


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


@pytest.fixture
def results(cache: Cache) -> Results:
    return Results(cache, SETTING, RUN)


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


def keep(results: Results, *verdicts: KernelVerdict) -> None:
    for verdict in verdicts:
        results.keep(ENTRY, KERNEL, of(verdict))


def test_nothing_is_said_of_a_kernel_that_was_never_tested(results: Results) -> None:
    assert results.find(ENTRY, KERNEL, kvm=False) == Answer()


def test_a_good_result_is_found_again(results: Results) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    again = found(results)
    assert (again.verdict, again.families) == (KernelVerdict.PASS, PASSED.families)


def test_a_kernel_without_mptcp_need_not_be_booted_again_either(results: Results) -> None:
    keep(results, KernelVerdict.UNSUPPORTED)
    assert found(results).verdict is KernelVerdict.UNSUPPORTED


def test_the_run_is_named_that_a_result_came_from(results: Results) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    earlier = found(results).reused_from
    assert earlier is not None
    assert replace(earlier, finished="") == RUN
    assert earlier.finished.startswith("20")


def test_boots_and_times_of_another_run_are_not_shown_as_this_ones(results: Results) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    assert (found(results).attempts, found(results).timing.total_s) == ((), 0)


def test_a_kernel_is_called_what_it_is_called_now(results: Results) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    now = replace(ENTRY, name="renamed")
    moved = replace(KERNEL, origin="/elsewhere/bzImage")
    answer = results.find(now, moved, kvm=False).result
    assert answer is not None
    assert (answer.name, answer.origin) == ("renamed", "/elsewhere/bzImage")


def test_a_later_run_finds_what_an_earlier_one_kept(cache: Cache, results: Results) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    later = Results(cache, SETTING, replace(RUN, run="later"))
    assert found(later).reused_from == found(results).reused_from


BAD = [v for v in KernelVerdict if not v.as_expected and v is not KernelVerdict.INFRASTRUCTURE]


@pytest.mark.parametrize("verdict", BAD)
def test_a_bad_result_is_never_reused(results: Results, verdict: KernelVerdict) -> None:
    keep(results, KernelVerdict.PASS, verdict)
    assert why_not(results) == f"the last result was {verdict}: testing again"


def test_a_kernel_that_failed_lately_is_tested_again(results: Results) -> None:
    keep(results, KernelVerdict.FAIL, KernelVerdict.PASS)
    assert why_not(results) == "the last results were pass, fail: testing again"


def test_a_kernel_that_is_now_this_and_now_that_is_tested_again(results: Results) -> None:
    keep(results, KernelVerdict.PASS, KernelVerdict.UNSUPPORTED)
    assert why_not(results) == "the last results were unsupported, pass: testing again"


def test_a_kernel_that_has_been_steady_again_is_reused(results: Results) -> None:
    keep(results, KernelVerdict.FAIL, *[KernelVerdict.PASS] * STEADY)
    assert found(results).verdict is KernelVerdict.PASS


def test_a_run_that_learned_nothing_changes_nothing(results: Results) -> None:
    keep(results, KernelVerdict.PASS, KernelVerdict.INFRASTRUCTURE)
    assert found(results).verdict is KernelVerdict.PASS


def test_a_result_that_is_used_is_not_old(cache: Cache, results: Results) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    (file,) = (cache.root / "results").iterdir()
    os.utime(file, (1, 1))
    found(results)
    assert file.stat().st_mtime > time.time() - 60


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
    "families": replace(SETTING, families=(Family.IPV6,)),
    "checks": replace(SETTING, checks=("mptcp_info.readable",)),
    "payload": replace(SETTING, payload=1),
    "seed": replace(SETTING, seed=7),
}


@pytest.mark.parametrize("what", ENTRIES)
def test_a_change_of_the_manifest_counts(results: Results, what: str) -> None:
    # Debian's own 5.10 is not expected to have MPTCP.
    old = replace(KERNEL, release="5.10.0")
    results.keep(ENTRY, old, PASSED)
    assert results.find(ENTRIES[what], old, kvm=False).result is None


@pytest.mark.parametrize("what", KERNELS)
def test_a_change_of_the_kernel_counts(results: Results, what: str) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    assert results.find(ENTRY, KERNELS[what], kvm=False) == Answer()


@pytest.mark.parametrize("what", SETTINGS)
def test_a_change_of_the_run_counts(cache: Cache, results: Results, what: str) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    assert Results(cache, SETTINGS[what], RUN).find(ENTRY, KERNEL, kvm=False) == Answer()


def test_known_issues_count(cache: Cache, results: Results) -> None:
    path = Path("/issues.yaml")
    last = datetime.date(2026, 1, 31)
    issue = KnownIssue("odd", "me", last, "here", check="payload.arrives")
    entry = replace(ENTRY, known_issues=path)

    def on(day: datetime.date) -> Results:
        known = KnownIssues(day, {path: (issue,)})
        return Results(cache, replace(SETTING, known=known), RUN)

    on(last).keep(entry, KERNEL, PASSED)
    assert on(last).find(entry, KERNEL, kvm=False).result is not None
    assert on(last + datetime.timedelta(1)).find(entry, KERNEL, kvm=False) == Answer()
    assert results.find(ENTRY, KERNEL, kvm=False) == Answer()


def test_the_accelerator_counts(results: Results) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    assert results.find(ENTRY, KERNEL, kvm=True) == Answer()


def test_a_change_of_the_code_that_judges_counts(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.keep(ENTRY, KERNEL, PASSED)
    monkeypatch.setattr(reuse, "judging", lambda: "other code")
    assert results.find(ENTRY, KERNEL, kvm=False) == Answer()


@pytest.fixture
def file(cache: Cache, results: Results) -> Path:
    """That of a good result."""
    results.keep(ENTRY, KERNEL, PASSED)
    (file,) = (cache.root / "results").iterdir()
    return file


def sealed(record: object) -> str:
    """A file whose checksum is right, whatever is in it."""
    text = json.dumps(record)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"sha256": "{digest}", "record": {text}}}\n'


def test_a_kept_result_is_json(file: Path) -> None:
    assert json.loads(file.read_text())["record"]["kernel"]["verdict"] == "pass"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{}", id="something else"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
        pytest.param(sealed([]).encode(), id="a list"),
        pytest.param(sealed({"format": reuse.FORMAT}).encode(), id="of another kind"),
        pytest.param(sealed({"format": reuse.FORMAT + 1}).encode(), id="of another version"),
        pytest.param(b"[" * 100_000, id="nested"),
    ],
)
def test_a_file_that_no_harness_wrote_is_refused(
    results: Results, file: Path, content: bytes
) -> None:
    file.write_bytes(content)
    assert why_not(results).startswith(f"the kept result in {file} is of no use (")


def test_a_flipped_byte_is_noticed(results: Results, file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"unsupported"', b'"Unsupported"', 1))
    file.write_text(file.read_text().replace('"verdict": "pass"', '"verdict": "pasS"', 1))
    assert "it is damaged" in why_not(results)


def test_a_truncated_file_is_noticed(results: Results, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])
    assert "it is damaged" in why_not(results)


def test_a_result_of_other_circumstances_under_this_name_is_refused(
    results: Results, file: Path, cache: Cache
) -> None:
    results.keep(ENTRIES["append"], KERNEL, PASSED)
    (other,) = set((cache.root / "results").iterdir()) - {file}
    other.replace(file)
    assert "it is of other circumstances" in why_not(results)


def test_a_result_that_lacks_something_is_refused(results: Results, file: Path) -> None:
    record = json.loads(file.read_text())["record"]
    del record["kernel"]["families"]
    file.write_text(sealed(record))
    assert "lacks 'families'" in why_not(results)


def test_a_verdict_that_is_none_is_refused(results: Results, file: Path) -> None:
    record = json.loads(file.read_text())["record"]
    record["before"] = ["fine"]
    file.write_text(sealed(record))
    assert "'fine' is not a valid KernelVerdict" in why_not(results)


def test_a_result_that_was_reused_itself_is_refused(results: Results, file: Path) -> None:
    record = json.loads(file.read_text())["record"]
    record["kernel"]["reused_from"] = record["run"]
    file.write_text(sealed(record))
    assert "it was reused itself" in why_not(results)


def test_a_file_that_cannot_be_read_is_said(results: Results, file: Path) -> None:
    file.unlink()
    file.mkdir()
    assert "Is a directory" in why_not(results)


def test_a_damaged_file_is_replaced_by_the_next_result(results: Results, file: Path) -> None:
    file.write_text("")
    results.keep(ENTRY, KERNEL, PASSED)
    assert found(results).verdict is KernelVerdict.PASS


def test_a_disk_that_takes_nothing_is_an_error_of_keeping(results: Results, file: Path) -> None:
    file.unlink()
    file.mkdir()
    with pytest.raises(OSError, match="directory"):
        results.keep(ENTRY, KERNEL, FAILED)
