# SPDX-License-Identifier: GPL-2.0-only
"""The registry of checks and scenarios."""

from __future__ import annotations

from pathlib import Path

from guest import checks, scenarios

CHECKS = Path(checks.__file__).parent


def test_every_module_of_checks_is_in_one_list() -> None:
    modules = sorted(path.stem for path in CHECKS.glob("*.py") if path.stem != "__init__")
    assert sorted((*checks.QUICK_MODULES, *checks.FULL_MODULES)) == modules


def test_the_list_that_grows_is_sorted() -> None:
    assert list(checks.FULL_MODULES) == sorted(checks.FULL_MODULES)


def test_quick_is_the_checks_of_connections() -> None:
    quick = checks.all_checks(checks.QUICK)
    assert quick
    assert all(not item.scenario and set(item.payloads) <= {*CONNECTED} for item in quick)


CONNECTED = (*checks.PAYLOADS, checks.EARLY)


def test_full_holds_quick() -> None:
    assert {*checks.all_checks()} >= {*checks.all_checks(checks.QUICK)}


def test_a_scenario_that_nobody_declared_is_plain() -> None:
    plain = scenarios.named("nobody declared this one")
    assert plain.setup is None
    assert not plain.waits


def test_a_scenario_has_no_name_of_a_payload() -> None:
    assert {item.scenario for item in checks.all_checks()}.isdisjoint(CONNECTED)


def test_a_scenario_of_one_family_has_checks_in_each_and_none_in_both() -> None:
    alone = [
        c for c in checks.all_checks() if c.scenario and scenarios.named(c.scenario).one_family
    ]
    assert {c.families for c in alone} == {("ipv4",), ("ipv6",)}
    by_scenario: dict[str, set[str]] = {}
    for item in alone:
        by_scenario.setdefault(item.scenario, set()).update(item.families)
    assert all(found == {"ipv4", "ipv6"} for found in by_scenario.values()), by_scenario


def test_a_check_runs_in_both_families_unless_it_or_its_scenario_says_otherwise() -> None:
    assert scenarios.families_of("some.check", "nobody declared this one") == ("ipv4", "ipv6")
    both = [c for c in checks.all_checks() if c.scenario == "inherit"]
    assert {c.families for c in both} >= {("ipv4", "ipv6")}


def test_each_check_says_what_it_is_about_in_one_line() -> None:
    summaries = {item.id: item.summary for item in checks.all_checks()}
    assert [name for name, text in summaries.items() if not text.endswith(".")] == []
