# SPDX-License-Identifier: GPL-2.0-only
"""The HTML report in a real browser: as its readers use it, and against hostile text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from guest import abi
from guest import checks as guest_checks
from harness.cli import site
from harness.records import summaries
from harness.records.store import Run, Store
from harness.records.summaries import RunSummary
from harness.records.to_json import kernel_text
from harness.report import html
from harness.verdict import comparison
from harness.verdict.results import KernelResult, RunResult
from harness.verdict.verdicts import CheckVerdict, Family, KernelVerdict
from tests import factories
from tests.browser.conftest import Browser, recorded
from tests.report import hostile

#: Two builds of one tree, with faults in MPTCP, beside Debian's kernels; the night before, without.
FAULTY = "next-20261126"
MEANINGS = {check.id: check.summary for check in guest_checks.all_checks()}


#: One of each kind of what is folded.
UNFOLD = """for (const kind of [".kernel", ".kernel:nth-of-type(2)", ".kernel .bytes"])
    document.querySelector(kind).open = true"""


@pytest.fixture(scope="session")
def night() -> RunResult:
    return recorded("faults.json.xz")


@pytest.fixture(scope="session")
def page(night: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that real kernels gave."""
    before = recorded("before.json.xz")
    context = html.Context(
        comparison.runs(before, night), runs=generated(before, night), meanings=MEANINGS
    )
    text = html.to_html(night, context)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def generated(before: RunResult, last: RunResult) -> list[RunSummary]:
    """Three weeks of nights like ``before``, and the ``last`` one; one kernel is flaky, and each
    gets a new build at times."""
    nights = []
    for day in range(6, 27):
        kernels, times = {}, {}
        for place, kernel in enumerate(before.kernels):
            found = summaries.of(kernel)
            age = f"{(day + 3 * place) // 11}" if place else ""
            swing = 1 + ((day * (place + 3)) % 7) / 20
            if kernel.name == "debian-6.12" and day in (12, 15, 20):
                found = found._replace(verdict=KernelVerdict.HANG)
            kernels[kernel.name] = found._replace(
                build=found.build._replace(image=found.build.image + age)
            )
            took = summaries.times_of(kernel)
            times[kernel.name] = took._replace(
                boot_s=took.boot_s * swing, checks_s=took.checks_s * (1.3 - swing / 4)
            )
        started = f"2026-11-{day:02}T02:00:00+00:00"
        nights.append(RunSummary(f"day-{day}", started, "", kernels, times))
    now = {kernel.name: summaries.of(kernel) for kernel in last.kernels}
    times = {kernel.name: summaries.times_of(kernel) for kernel in last.kernels}
    return [*nights, RunSummary(last.id, last.started, last.finished, now, times)]


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.open(page)
    return browser


def cell(row: int, column: str) -> str:
    """A script for the link in a row of the matrix, in the column with this head."""
    return (
        "const heads = [...document.querySelectorAll('#matrix .heads th')];"
        f"const x = heads.findIndex((head) => head.innerText === '{column}');"
        f"return document.querySelectorAll('#matrix tbody tr')[{row}].cells[x].querySelector('a')"
    )


def open_cell(browser: Browser, row: int, column: str) -> str:
    """Open a cell as with the mouse; returns what the panel says."""
    browser.run(cell(row, column)).click()
    return browser.text("#panel")


def test_the_page_says_what_is_newly_wrong_and_nothing_in_it_is_forbidden(
    opened: Browser, screenshot: Callable[[str], None]
) -> None:
    assert opened.text("#answer").startswith("2 of 6 kernels are newly wrong: ")
    assert set(opened.rows()[:2]) == {FAULTY, "next-net"}
    assert opened.trouble() == []
    screenshot("report-light")
    opened.look(theme="dark")
    screenshot("report-dark")
    opened.look(width=390, height=780)
    screenshot("report-narrow")
    assert opened.trouble() == []


def test_a_failing_cell_shows_the_bytes_field_by_field(
    opened: Browser, screenshot: Callable[[str], None]
) -> None:
    row = opened.rows().index(FAULTY)
    said = open_cell(opened, row, "MPTCP_INFO")
    assert "mptcp_info.bytes_sent_exact" in said
    assert MEANINGS["mptcp_info.bytes_sent_exact"] in said
    assert f"mptcp-harness matrix -k {FAULTY} --seed " in said
    hit = "#panel .fields tr.hit"
    assert "mptcpi_bytes_sent" in opened.text(hit)
    opened.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", hit)
    screenshot("report-cell")
    number = abi.MPTCP_INFO_LAYOUT.offsets["mptcpi_bytes_sent"]
    assert opened.text(f"{hit} td") == str(number)
    # The check names what it got, and the field has that value.
    got = opened.run(
        "return [...document.querySelectorAll('#panel dt')]"
        ".find((one) => one.innerText === 'got').nextSibling.innerText"
    )
    assert opened.text(f"{hit} td:last-child") == got


def test_the_console_around_an_incident_has_its_line_marked(opened: Browser) -> None:
    row = opened.rows().index("next-net")
    opened.run(cell(row, "kernel")).click()
    assert "WARNING" in opened.text("#panel mark")
    assert "Call Trace" in opened.text("#panel pre")


def test_the_history_names_what_is_flaky(
    opened: Browser, screenshot: Callable[[str], None]
) -> None:
    opened.run("document.getElementById('history-title').scrollIntoView()")
    assert "bad in 3 of 22" in opened.text("#history-title ~ .box")
    assert opened.run("return document.querySelectorAll('.past .spark svg').length") == 12
    screenshot("report-history")
    opened.run("document.getElementById('features-title').scrollIntoView()")
    screenshot("report-compatibility")


def test_words_filter_the_kernels(opened: Browser) -> None:
    opened.choose("text", "debian 6.1")
    assert set(opened.rows()) == {"debian-6.1", "debian-6.12"}
    assert opened.text("#count") == "2 of 6 kernels"
    opened.choose("text", "bytes_sent_exact")  # a check that fails
    assert FAULTY in opened.rows()
    assert "debian-newest" not in opened.rows()
    opened.choose("text", "")
    assert len(opened.rows()) == 6


def test_a_verdict_filters_the_kernels(opened: Browser) -> None:
    opened.choose("verdict", "unsupported")
    assert opened.rows() == ["debian-5.10"]
    opened.choose("verdict", "!")
    assert set(opened.rows()) == {FAULTY, "next-net"}
    opened.choose("verdict", "new")
    assert set(opened.rows()) == {FAULTY, "next-net"}


def test_a_group_is_spread_into_its_checks(opened: Browser) -> None:
    groups = opened.run("return [...document.querySelectorAll('#group option')].map((o) => o.text)")
    opened.choose("group", str(groups.index("MPTCP_INFO") - 1))
    assert "bytes_sent_exact" in opened.text("#matrix thead")
    said = open_cell(opened, opened.rows().index(FAULTY), "bytes_sent_exact")
    assert "mptcp_info.bytes_sent_exact" in said
    assert "mptcp_info.readable" not in said
    opened.run("document.getElementById('panel').close()")
    opened.choose("group", "")
    assert "seconds" in opened.text("#matrix thead")
    assert len(opened.rows()) == 6


def test_a_head_sorts_and_says_so(opened: Browser) -> None:
    opened.click("#matrix .name button")
    assert opened.rows() == sorted(opened.rows(), key=lambda name: (name[0], name))
    assert opened.run("return document.querySelector('#matrix .name').ariaSort") == "ascending"
    opened.click("#matrix .name button")
    assert opened.rows()[0] == "next-net"
    opened.click("#matrix .verdict button")
    assert set(opened.rows()[:2]) == {FAULTY, "next-net"}
    assert opened.run("return document.querySelectorAll('[aria-sort]').length") == 1


def test_the_keyboard_reaches_everything(opened: Browser) -> None:
    opened.press("/")
    assert opened.run("return document.activeElement.id") == "text"
    opened.press("d", "e", "b")
    assert len(opened.rows()) == 4
    opened.run("document.getElementById('box').focus()")
    stops = "return document.querySelectorAll('#matrix tbody a[tabindex=\"0\"]').length"
    assert opened.run(stops) == 1
    opened.run("document.querySelector('#matrix tbody a[tabindex=\"0\"]').focus()")
    right, down, enter, escape = "\ue014", "\ue015", "\ue007", "\ue00c"
    opened.press(right, down, enter)
    assert opened.run("return document.getElementById('panel').open")
    opened.press(escape)
    assert not opened.run("return document.getElementById('panel').open")
    name = "return document.activeElement.closest('tr').cells[0].querySelector('a').innerText"
    assert opened.run(name) == opened.rows()[1]


def test_a_link_opens_a_cell_or_a_check(browser: Browser, page: Path) -> None:
    browser.open(page, f"#{FAULTY}/mptcp_info.bytes_sent_exact")
    assert "mptcp_info.bytes_sent_exact" in browser.text("#panel .failure h3")
    browser.open(page, "#debian-6.1/subflows")
    assert browser.text("#panel h2") == "debian-6.1: subflows"
    assert browser.trouble() == []


def test_axe_finds_nothing(opened: Browser) -> None:
    opened.run(UNFOLD)
    assert opened.axe() == []
    opened.look(theme="dark")
    assert opened.axe("color-contrast") == []


def test_axe_finds_nothing_in_an_opened_cell(opened: Browser) -> None:
    open_cell(opened, opened.rows().index(FAULTY), "MPTCP_INFO")
    assert opened.axe() == []
    opened.look(theme="dark")
    assert opened.axe("color-contrast") == []


def test_it_is_printed_as_a_whole_and_never_dark(opened: Browser) -> None:
    opened.look(width=1050, theme="dark", media="print")
    ink = opened.run("return getComputedStyle(document.querySelector('h2')).color")
    assert ink == "rgb(26, 31, 38)"
    assert opened.axe("color-contrast") == []
    whole = "const box = document.getElementById('box'); return box.offsetHeight"
    assert opened.run(whole) >= opened.run("return document.getElementById('matrix').offsetHeight")
    tools = "return getComputedStyle(document.getElementById('tools')).display"
    assert opened.run(tools) == "none"


def test_a_narrow_screen_scrolls_the_matrix_and_not_the_page(opened: Browser) -> None:
    opened.look(width=390, height=780)
    assert opened.run("return document.documentElement.scrollWidth") <= 390
    assert opened.run(
        "const box = document.getElementById('box');return box.scrollWidth > box.clientWidth"
    )


def test_the_matrix_fits_1280_pixels(opened: Browser) -> None:
    assert opened.run(
        "const box = document.getElementById('box');return box.scrollWidth <= box.clientWidth"
    )


def test_the_heads_and_names_stay_while_the_matrix_scrolls(browser: Browser, many: Path) -> None:
    browser.look(width=800)
    browser.open(many)
    browser.run("document.getElementById('box').scrollTo(200, 900)")
    places = browser.run(
        "const top = (one) => document.querySelector(one).getBoundingClientRect();"
        "return [top('#box').left, top('#matrix tbody th').left,"
        " top('#box').top, top('#matrix .spans td').top]"
    )
    assert places[1] - places[0] < 3
    assert places[3] - places[2] < 3


@pytest.fixture
def served(tmp_path: Path, night: RunResult) -> Path:
    """A site of two runs."""
    with Store(tmp_path / "results.sqlite") as store:
        for run in (recorded("before.json.xz"), night):
            names = [{"name": kernel.name} for kernel in run.kernels]
            asked = json.dumps({"kernels": names})
            store.begin(Run(run.id, run.started, asked, run.seed, run.directory))
            for kernel in run.kernels:
                store.add(run.id, kernel.name, kernel.verdict, kernel_text(kernel))
            store.finish(run.id)
        site.write_site(tmp_path / "site", store.path)
    return tmp_path / "site" / "index.html"


def test_the_index_of_a_site_leads_to_its_runs(
    browser: Browser, served: Path, screenshot: Callable[[str], None]
) -> None:
    browser.open(served)
    assert browser.text("h1").startswith("2 of 6 kernels are newly wrong")
    assert browser.axe() == []
    screenshot("site")
    browser.click(".runs tbody a")
    assert browser.text("#answer").startswith("2 of 6 kernels are newly wrong")
    assert browser.trouble() == []


@pytest.fixture
def without_script(browser: Browser) -> object:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    yield browser
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_without_its_script_the_page_can_be_read(without_script: Browser, page: Path) -> None:
    from selenium.webdriver.common.by import By

    without_script.open(page)
    found = without_script.driver.find_element(By.TAG_NAME, "main").text
    assert "mptcp_info.bytes_sent_exact" in found
    assert "expected" in found
    assert "Filter" not in found


LONG = "long " + "x" * 1_000_000 + " end"
MARKUP = "<img src=x onerror=document.title='forged'><script>document.title='forged'</script>"


@pytest.fixture
def forged(tmp_path: Path) -> Path:
    """The page of kernels whose every text wants out of it."""
    evil = hostile.run()
    long = factories.check(
        "mptcp_info.long",
        CheckVerdict.FAIL,
        detail=LONG,
        expected=MARKUP,
        got="\u202e\u2066abc\x1b[2J",
    )
    kernel = replace(factories.failing(factories.kernel(MARKUP), long), notes=(LONG, MARKUP))
    run = replace(evil, kernels=(*evil.kernels, kernel))
    path = tmp_path / "forged.html"
    path.write_text(html.to_html(run), encoding="utf-8")
    return path


def test_hostile_text_stays_text(browser: Browser, forged: Path) -> None:
    browser.open(forged)
    assert browser.trouble() == []
    for row, kernel in enumerate(browser.rows()):
        browser.run(cell(row, "kernel")).click()
        said = browser.text("#panel")
        assert kernel in said
        assert not set(said) & {"\x1b", "\u202e", "\u2066", "\u2028"}
        browser.run("document.getElementById('panel').close()")
    browser.run(cell(browser.rows().index(MARKUP), "kernel")).click()
    said = browser.text("#panel")
    assert MARKUP in said
    assert "\\u202e\\u2066abc\\x1b[2J" in said
    assert "more characters)" in said
    assert browser.run("return document.title").startswith("mptcp-harness ")
    assert browser.run("return document.querySelectorAll('img, iframe, form, object').length") == 0
    assert browser.run("return document.scripts.length") == 2
    assert browser.trouble() == []


def test_a_script_that_got_in_would_be_forbidden_and_noticed(browser: Browser, page: Path) -> None:
    """The watch itself: it sees what the policy forbids."""
    browser.open(page)
    browser.run(
        "const bad = document.createElement('script'); bad.textContent = 'document.title = 1';"
        "document.body.append(bad);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"x.png\">')"
    )
    assert browser.run("return document.title") != "1"
    assert any("script-src" in one for one in browser.trouble())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty kernels of 400 checks, a twentieth of which fails."""
    ids = list(MEANINGS)[:400]
    path = tmp_path_factory.mktemp("many") / "many.html"
    run = factories.run(*(_one_of_many(number, ids) for number in range(60)))
    path.write_text(html.to_html(run, html.Context(meanings=MEANINGS)), encoding="utf-8")
    return path


def _one_of_many(number: int, ids: list[str]) -> KernelResult:
    raw = bytes(abi.MPTCP_INFO_LAYOUT.pack(mptcpi_token=number)).hex()
    results = [
        factories.check(check, family=family)
        if (place + number) % 20
        else factories.check(
            *(check, CheckVerdict.FAIL),
            family=family, detail="mptcpi_token", expected="1", got=f"{number}", raw=raw,
        )
        for place, check in enumerate(ids)
        for family in Family
    ]  # fmt: skip
    return factories.failing(factories.kernel(f"kernel-{number}"), *results)


def test_sixty_kernels_can_be_used_at_once(browser: Browser, many: Path) -> None:
    """Half a second on an idle machine; the limit is ten times the target, for a loaded one."""
    assert many.stat().st_size < 3_000_000
    times = []
    for _ in range(3):
        browser.open(many)
        times.append(
            browser.run("return performance.getEntriesByType('navigation')[0].domComplete")
        )
    assert len(browser.rows()) == 60
    assert min(times) < 10_000, times
    taken = browser.run(
        "const then = performance.now(); const it = document.getElementById('text');"
        "it.value = 'kernel-7'; it.dispatchEvent(new Event('input')); document.body.offsetHeight;"
        "return performance.now() - then"
    )
    assert browser.rows() == ["kernel-7"]
    assert taken < 5_000
