# SPDX-License-Identifier: GPL-2.0-only
"""`report --site`: a page for each kept run, written once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli
from harness.cli import site
from harness.errors import UsageError
from harness.records.store import Run, Store
from harness.records.to_json import kernel_text
from harness.verdict.verdicts import CheckVerdict
from tests import factories
from tests.replacing import replaced

ASKED = '{"kernels": [{"name": "debian-6.12"}]}'


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "results.sqlite") as opened:
        yield opened


def add(store: Store, day: int, verdict: CheckVerdict = CheckVerdict.PASS, end: bool = True) -> str:
    run = Run(f"run{day}", f"2026-11-{day:02}T02:00:00Z", ASKED, seed=1, directory="")
    kernel = factories.kernel()
    if verdict is CheckVerdict.FAIL:
        kernel = factories.failing(kernel, *factories.everywhere(factories.check(verdict=verdict)))
    store.begin(run)
    store.add(run.id, kernel.name, kernel.verdict, kernel_text(kernel))
    if end:
        store.finish(run.id)
    return run.id


def test_each_run_has_a_page_and_the_index_leads_to_it(store: Store, tmp_path: Path) -> None:
    for day in range(1, 5):
        add(store, day)
    add(store, 5, CheckVerdict.FAIL)
    said = site.write_site(tmp_path / "site", store.path)
    assert said == f"{tmp_path / 'site' / 'index.html'}: 5 runs, 5 written"
    index = (tmp_path / "site" / "index.html").read_text()
    files = re.findall(r'href="(run-[^"]*)"', index)
    assert files == [f"run-run{day}.html" for day in (5, 4, 3, 2, 1)]
    assert "<h1>1 of 1 kernel is newly wrong: debian-6.12.</h1>" in index
    assert "1 of 1 kernel is newly wrong" in (tmp_path / "site" / files[0]).read_text()
    assert "Nothing is newly wrong" in (tmp_path / "site" / files[1]).read_text()


def test_only_what_is_new_is_written(store: Store, tmp_path: Path) -> None:
    for day in range(1, 31):
        add(store, day)
    place = tmp_path / "site"
    site.write_site(place, store.path)
    before = {path.name: path.stat().st_mtime_ns for path in place.glob("run-*.html")}
    assert len(before) == 30
    add(store, 31)
    assert ": 31 runs, 1 written" in site.write_site(place, store.path)
    after = {path.name: path.stat().st_mtime_ns for path in place.glob("run-*.html")}
    assert after.pop("run-run31.html")
    assert after == before


def test_a_run_that_went_on_is_written_again(store: Store, tmp_path: Path) -> None:
    run = add(store, 1, end=False)
    site.write_site(tmp_path, store.path)
    store.finish(run)
    assert ": 1 run, 1 written" in site.write_site(tmp_path, store.path)


def test_the_page_of_a_run_that_is_not_kept_goes_and_nothing_else(
    store: Store, tmp_path: Path
) -> None:
    for day in (1, 2):
        add(store, day)
    place = tmp_path / "site"
    site.write_site(place, store.path)
    (place / "run-of-mine.html").write_text("mine")
    store.prune(["run1"])
    assert ": 1 run, 0 written, 1 removed" in site.write_site(place, store.path)
    assert {path.name for path in place.iterdir()} == {
        *("index.html", "run-run2.html", "run-of-mine.html", "site.json"),
    }


@pytest.mark.parametrize("state", ["", "{}", '{"schema": 1, "runs": {"run1": {"file": "../x"}}}'])
def test_a_damaged_state_costs_time_only(store: Store, tmp_path: Path, state: str) -> None:
    add(store, 1)
    site.write_site(tmp_path, store.path)
    (tmp_path / "site.json").write_text(state)
    assert ": 1 run, 1 written" in site.write_site(tmp_path, store.path)


def test_a_state_cannot_name_a_file_outside(store: Store, tmp_path: Path) -> None:
    add(store, 1)
    place = tmp_path / "site"
    site.write_site(place, store.path)
    state = (place / "site.json").read_text()
    (tmp_path / "run-gone.html").write_text("mine")
    elsewhere = replaced(replaced(state, "run1", "gone"), "run-", "../run-")
    (place / "site.json").write_text(elsewhere)
    site.write_site(place, store.path)
    assert (tmp_path / "run-gone.html").exists()


def test_without_a_run_there_is_no_site(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run is kept"):
        site.write_site(tmp_path / "site", tmp_path / "results.sqlite")


def test_a_site_is_of_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "last1", "--site", str(tmp_path)]) == 2
    assert "omit RUN and --output" in capsys.readouterr().err
