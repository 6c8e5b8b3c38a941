# SPDX-License-Identifier: GPL-2.0-only
"""The state of a bisect on the disk: what a kill, a disk or another harness may do to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bisect import state
from harness.bisect.predicate import Checks, Outcome
from harness.bisect.state import Evidence, Made, Record
from harness.errors import Busy, Damaged
from harness.verdict.verdicts import KernelVerdict
from tests.replacing import replaced

MADE = Made("k", Outcome.BAD, "\x1b[31m why", KernelVerdict.FAIL, 1, 5.25)
OLD = Made("k", Outcome.GOOD, "", KernelVerdict.PASS, 0, 0.0, "20260101-000000-abcdef")


def write(directory: Path, *made: Made) -> Path:
    with state.opened(directory, "asked", 7, print) as journal:
        evidence = Evidence(journal, ["k"])
        for one in made:
            evidence.add(one)
    return directory / state.FILE


def read(directory: Path, said: list[str] | None = None, asked: str = "asked") -> list[Made]:
    say = (said if said is not None else []).append
    with state.opened(directory, asked, 9, say) as journal:
        return Evidence(journal, ["k"]).all


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    write(tmp_path, MADE, OLD)
    assert read(tmp_path) == [MADE, OLD]


def test_the_seed_is_the_one_that_it_was_begun_with(tmp_path: Path) -> None:
    write(tmp_path)
    with state.opened(tmp_path, "asked", 9, print) as journal:
        assert journal.seed == 7


def test_the_checks_that_were_found_to_differ_are_there_again(tmp_path: Path) -> None:
    with state.opened(tmp_path, "asked", 7, print) as journal:
        Evidence(journal, ["k"]).add_predicate(Checks(("a.b", "c.d")))
    with state.opened(tmp_path, "asked", 7, print) as journal:
        assert Evidence(journal, ["k"]).predicate == Checks(("a.b", "c.d"))


def test_a_file_cut_off_at_any_byte_loses_its_last_line_only(tmp_path: Path) -> None:
    path = write(tmp_path, MADE, OLD)
    whole = path.read_bytes()
    ends = [end for end, byte in enumerate(whole, 1) if byte == ord("\n")]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        kept = max(0, sum(1 for end in ends if end <= length) - 1)
        said: list[str] = []
        assert read(tmp_path, said) == [MADE, OLD][:kept], length
        torn = length > ends[0] and length not in ends
        assert len(said) == torn, (length, said)


def test_a_torn_last_line_is_not_in_the_way_of_the_next(tmp_path: Path) -> None:
    path = write(tmp_path, MADE)
    with path.open("ab") as file:
        file.write(b'{"e": "boo\0\0\0')
    write(tmp_path, OLD)
    assert read(tmp_path) == [MADE, OLD]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"bad"', b'"worse"'),
        (b'"fail"', b'"failed"'),
        (b'"kernel": "k"', b'"kernel": "other"'),
        (b'"round": 1', b'"round": "1"'),
        (b'"seconds": 5.25', b'"seconds": null'),
        (b'"why": ', b'"what": '),
        (b'"e": "boot"', b'"e": "boots"'),
        (b'"format": 1', b'"format": 2'),
        (b'"seed": 7', b'"seed": "7"'),
        (b'"e": "begin"', b'"e": "begin'),
    ],
)
def test_a_line_that_no_harness_wrote_is_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = write(tmp_path, MADE, OLD)
    path.write_bytes(replaced(path.read_bytes(), old, new, 1))
    with pytest.raises(Damaged, match="--fresh"):
        read(tmp_path)


def test_the_state_of_another_bisect_is_refused(tmp_path: Path) -> None:
    write(tmp_path, MADE)
    with pytest.raises(Damaged, match="of another bisect"):
        read(tmp_path, asked="something else")


def test_fresh_begins_anew(tmp_path: Path) -> None:
    path = write(tmp_path, MADE)
    path.write_bytes(b"no state at all\nneither\n")
    with state.opened(tmp_path, "asked", 7, print, fresh=True) as journal:
        assert journal.records == []


def test_two_harnesses_do_not_share_a_bisect(tmp_path: Path) -> None:
    with (
        state.opened(tmp_path, "asked", 7, print),
        pytest.raises(Busy, match="another harness"),
        state.opened(tmp_path, "asked", 7, print),
    ):
        pass


def test_what_failed_for_the_hosts_sake_is_tried_again(tmp_path: Path) -> None:
    offline = Made("k", Outcome.UNTESTABLE, "no network", KernelVerdict.INFRASTRUCTURE, 1, 0.0)
    write(tmp_path, offline)
    assert read(tmp_path) == []


def test_records_are_on_the_disk_when_add_returns(tmp_path: Path) -> None:
    record: Record = {"e": "boot", "n": 1}
    with state.opened(tmp_path, "asked", 7, print) as journal:
        journal.add(record)
        assert (tmp_path / state.FILE).read_bytes().endswith(b'{"e": "boot", "n": 1}\n')
