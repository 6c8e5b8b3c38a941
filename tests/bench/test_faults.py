# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench.faults import (
    catalogue,
    document,
    in_guest,
    kernel,
    nearest,
    selftests,
    shared_vm,
    source,
    sweep,
)
from bench.faults.catalogue import BadCatalogue, Edit, Fault
from bench.faults.kernel import FaultKernel, NotBuilt
from bench.faults.selftests import Found
from bench.faults.shared_vm import SharedBoots
from bench.faults.source import NotApplied
from bench.faults.sweep import Outcome, Sweep
from guest import checks as guest_checks
from guest.ktap import Ktap
from harness.kernels import apt
from harness.kernels.cache import Cache
from harness.kernels.debian import Package
from harness.manifest import kernels_yaml
from harness.manifest.entries import Abi
from tests.replacing import replaced

FILE = "net/mptcp/sockopt.c"
C = """\
static int first(int a)
{
	if (a)
		return 1;
	return  2;
}

int second(struct sock *sk,
	int a)
{
	a = 3;
	a = 4;
	a = 3;
	return first(a);
}
"""
SOURCES = {
    FILE: C,
    source.PROTOCOL: "#define __MPTCP_PROTOCOL_H\n",
    source.MAKEFILE: "mptcp-y := protocol.o\n",
}
KERNEL = FaultKernel(Path("bzImage"), "7.3.4", "linux-source-7.3 7.3.4-1", Path("tree"))


def fault(*edits: Edit, name: str = "wrong", luck: bool = False) -> Fault:
    return Fault(name, "states", "It is wrong.", edits, luck=luck)


def patched(*faults: Fault) -> str:
    return source.patched(faults, SOURCES.__getitem__)[FILE]


def test_an_anchor_is_found_whatever_its_white_space() -> None:
    edit = Edit(FILE, "first", "return 2;", "with", "return FAULT(wrong) ? 5 : 2;")
    assert "\treturn FAULT(wrong) ? 5 : 2;\n}" in patched(fault(edit))


def test_an_anchor_counts_only_within_its_function() -> None:
    edit = Edit(FILE, "second", "return", "before", "a = FAULT(wrong);")
    assert "a = FAULT(wrong); return first(a);" in patched(fault(edit))


def test_a_missing_anchor_is_named() -> None:
    edit = Edit(FILE, "first", "return 3;", "with", "")
    with pytest.raises(NotApplied, match=r"wrong: net/mptcp/sockopt.c: first\(\): `return 3;`"):
        patched(fault(edit))


def test_an_ambiguous_anchor_is_named() -> None:
    with pytest.raises(NotApplied, match=r"wrong: .*`a = 3;` is there 2 times"):
        patched(fault(Edit(FILE, "second", "a = 3;", "with", "")))


def test_one_of_several_places_can_be_picked() -> None:
    text = patched(fault(Edit(FILE, "second", "a = 3;", "before", "HERE", nth=2)))
    assert text.index("a = 4;") < text.index("HERE") < text.rindex("a = 3;")


def test_an_unknown_function_is_named() -> None:
    with pytest.raises(NotApplied, match=r"third\(\): the function is there 0 times"):
        patched(fault(Edit(FILE, "third", "return", "with", "")))


def test_all_that_does_not_fit_is_told_at_once() -> None:
    edit = Edit(FILE, "first", "return 3;", "with", "")
    with pytest.raises(NotApplied) as error:
        patched(fault(edit, name="one"), fault(edit, name="two"))
    assert "one:" in str(error.value)
    assert "two:" in str(error.value)


def test_two_faults_in_one_place_both_get_in() -> None:
    skip = [Edit(FILE, "second", "a = 4;", "before", f"if (!FAULT({n}))") for n in ("one", "two")]
    text = patched(fault(skip[0], name="one"), fault(skip[1], name="two"))
    assert "if (!FAULT(one)) if (!FAULT(two)) a = 4;" in text


def test_two_replacements_of_one_place_are_refused() -> None:
    edit = Edit(FILE, "second", "a = 4;", "with", "a = 5;")
    with pytest.raises(NotApplied, match="overlaps"):
        patched(fault(edit, name="one"), fault(edit, name="two"))


def test_a_tree_is_patched_again_from_its_own_text(tmp_path: Path) -> None:
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    edit = Edit(FILE, "second", "a = 4;", "with", "a = 5;")
    source.apply([fault(edit)], tmp_path)
    assert "a = 5;" in (tmp_path / FILE).read_text()
    other = Edit(FILE, "first", "return 1;", "with", "return 6;")
    source.apply([fault(other)], tmp_path)
    text = (tmp_path / FILE).read_text()
    assert "a = 4;" in text
    assert "return 6;" in text
    source.apply([], tmp_path)
    assert (tmp_path / FILE).read_text() == C


def test_the_switch_knows_each_fault_and_refuses_others() -> None:
    files = source.patched([fault(name="one"), fault(name="two")], SOURCES.__getitem__)
    switch = files[source.SWITCH]
    assert '"none",\n\t"one",\n\t"two",' in switch
    assert "return -EINVAL;" in switch
    assert "MPTCP_FAULT_none,\n\tMPTCP_FAULT_one,\n\tMPTCP_FAULT_two," in files[source.HEADER]
    assert "fault.o" in files[source.MAKEFILE]
    assert '#include "fault.h"' in files[source.PROTOCOL]


def write_catalogue(tmp_path: Path, text: str) -> Path:
    (tmp_path / "x.toml").write_text(text)
    return tmp_path


GOOD = """\
file = "net/mptcp/sockopt.c"
[[fault]]
name = "wrong"
group = "states"
sees = "It is wrong."
edits = [{in = "second", skip = "a = 4;"}]
"""


def test_a_skipped_statement_stands_behind_a_condition(tmp_path: Path) -> None:
    (found,) = catalogue.load(write_catalogue(tmp_path, GOOD))
    assert found.edits == (Edit(FILE, "second", "a = 4;", "before", "if (!FAULT(wrong))"),)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "wrong"', 'name = "none"', "a name is"),
        ('name = "wrong"', 'name = "Wrong"', "a name is"),
        ('"states"', '"stats"', "group must be one of"),
        ("It is wrong.", "It is wrong", "sees must be a sentence"),
        ("skip =", "omit =", "unknown key omit of an edit"),
        ('skip = "a = 4;"', 'at = "a = 4;"', "an edit has skip, or at and one of"),
        ("sees =", "luk = true\nsees =", "unknown key luk"),
        ("sees =", 'abi = "arm"\nsees =', "abi must be one of native, i386"),
        ("file =", "files =", "lacks its function or file"),
    ],
)
def test_wrong_data_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(BadCatalogue, match=said):
        catalogue.load(write_catalogue(tmp_path, replaced(GOOD, old, new)))


def test_a_name_is_given_once(tmp_path: Path) -> None:
    text = GOOD + GOOD.partition("\n")[2]
    with pytest.raises(BadCatalogue, match="two faults are named wrong"):
        catalogue.load(write_catalogue(tmp_path, text))


# The catalogue itself.

FAULTS = catalogue.load()


def test_there_are_enough_faults_in_every_group() -> None:
    used = catalogue.applied(FAULTS)
    assert len(used) >= 120
    assert {fault.group for fault in used} == set(catalogue.GROUPS)
    assert sum(fault.luck for fault in used) >= 8


def test_a_fault_does_something_while_it_is_on_and_only_then() -> None:
    for given in FAULTS:
        texts = " ".join(edit.text for edit in given.edits)
        assert {*re.findall(r"FAULT\((\w+)\)", texts)} == {given.name}, given.name


# The sweep.


def record(name: str, verdict: str = "pass", **checks: str) -> dict[str, Any]:
    results = [
        {"id": replaced(check, "_", ".", 1), "phase": "x", "side": "client", "verdict": result}
        for check, result in checks.items()
    ]
    return {
        "name": name,
        "verdict": verdict,
        "reason": "",
        "families": {"ipv4": {"verdict": verdict, "checks": results}},
        "incidents": [],
        "attempts": [{"console": "console"}],
        "timing": {"total_s": 4.0},
    }


Records = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Swept:
    outcomes: dict[str, Outcome]
    booted: list[str]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Swept]:
    """Runs a sweep over faults whose boots give the records given, and say that ``on`` is on."""

    def run(boots: Records, again: bool = False, on: dict[str, str] | None = None) -> Swept:
        booted: list[str] = []

        def boot(names: Sequence[str]) -> Records:
            booted.extend(names)
            for name in names:
                directory = tmp_path / name
                directory.mkdir(exist_ok=True)
                said = source.LOGGED.format(name=(on or {}).get(name, name))
                (directory / "console").write_text(f"[ 0.5] {said}\n")
            return {name: boots[name] | {"_run": str(tmp_path / name)} for name in names}

        made = Sweep(boot, tmp_path / "outcomes.json", lambda _: None)
        made.run([fault(name=name) for name in boots if name != "none"], again=again)
        return Swept(made.outcomes, booted)

    return run


def test_a_check_that_fails_only_with_the_fault_catches_it(run: Callable[..., Swept]) -> None:
    sound = record("none", "fail", a_good="pass", a_bad="fail")
    boots = {"none": sound, "one": record("one", "fail", a_good="fail", a_bad="fail")}
    assert run(boots).outcomes["one"].checks == ("a.good",)


def test_what_fails_without_a_fault_catches_nothing(run: Callable[..., Swept]) -> None:
    boots = {"none": record("none", "fail", a_bad="fail"), "one": record("one", a_bad="fail")}
    assert not run(boots).outcomes["one"].caught


def test_a_crash_catches_only_where_it_is_charged(run: Callable[..., Swept]) -> None:
    incident = {"kind": "oops", "check": "a.good"}
    charged = record("one", "crash") | {"incidents": [incident]}
    boots = {
        "none": record("none"),
        "one": charged,
        "two": charged | {"name": "two", "incidents": [incident | {"check": ""}]},
    }
    outcomes = run(boots).outcomes
    assert outcomes["one"].charged == "a.good"
    assert outcomes["one"].caught
    assert not outcomes["two"].caught


def test_a_hang_is_charged_to_the_check_it_was_in(run: Callable[..., Swept]) -> None:
    hang = record("one", "hang", a_good="pass", a_slow="lost", a_later="lost")
    hang["reason"] = "the guest is silent in ipv4 a.slow x client"
    outcome = run({"none": record("none"), "one": hang}).outcomes["one"]
    assert outcome.charged == "a.slow"


def test_a_boot_whose_fault_was_not_on_says_nothing(run: Callable[..., Swept]) -> None:
    boots = {"none": record("none"), "one": record("one", "fail", a_good="fail")}
    assert run(boots).outcomes["one"].caught
    outcomes = run(boots, again=True, on={"one": "none"}).outcomes
    assert not outcomes["one"].caught
    assert outcomes["one"].reason == "the fault one was not on"


def test_what_is_known_is_not_booted_again(run: Callable[..., Swept]) -> None:
    boots = {
        "none": record("none", a_good="pass"),
        "one": record("one", "fail", a_good="fail"),
        "two": record("two", a_good="pass"),
    }
    assert run(boots).booted == ["none", "one", "two"]
    assert run(boots).booted == []
    assert run(boots, again=True).booted == ["none", "one", "two"]


def test_what_was_missed_is_booted_again_with_new_checks(
    run: Callable[..., Swept], monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = {
        "none": record("none", a_good="pass"),
        "one": record("one", "fail", a_good="fail"),
        "two": record("two", a_good="pass"),
    }
    run(boots)
    monkeypatch.setattr(sweep, "checks_key", lambda: "another")
    assert run(boots).booted == ["none", "two"]


def test_a_kernel_that_does_not_boot_ends_the_sweep(run: Callable[..., Swept]) -> None:
    boots = {"none": record("none", "boot-failure"), "one": record("one")}
    with pytest.raises(sweep.SweepFailed, match="boot-failure"):
        run(boots)


def test_a_fault_of_32_bit_programs_is_held_against_a_sound_kernel_under_such_a_program(
    tmp_path: Path,
) -> None:
    bad = {"none": {"a_bad": "fail"}, "none-i386": {"a_narrow": "fail"}}
    both = {"a_bad": "fail", "a_narrow": "fail"}

    def boot(names: Sequence[str]) -> Records:
        return {name: record(name, "fail", **bad.get(name, both)) | {"_on": True} for name in names}

    made = Sweep(boot, tmp_path / "outcomes.json", lambda _: None)
    made.run([fault(name="one"), replace(fault(name="two"), abi=Abi.I386)], again=True)
    assert made.outcomes["one"].checks == ("a.narrow",)
    assert made.outcomes["two"].checks == ("a.bad",)


def test_the_switch_of_a_boot_has_no_user_space_in_it(tmp_path: Path) -> None:
    text = sweep.manifest_text(tmp_path / "bzImage", ["none-i386"], {"none-i386": Abi.I386})
    assert "append: mptcp.fault=none, abi: i386" in text
    (tmp_path / "console").write_text("MPTCP: fault: none is on\n")
    given = record("none-i386") | {"_run": str(tmp_path)}
    assert sweep.is_on("none-i386", given)


def test_the_manifest_is_one_that_the_harness_takes(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.touch()
    path = tmp_path / "faults.yaml"
    path.write_text(sweep.manifest_text(image, ["none", "tos_live"], {"tos_live": Abi.I386}))
    entries = kernels_yaml.load(path).entries
    assert [entry.name for entry in entries] == ["none", "tos_live"]
    assert entries[1].append == ("mptcp.fault=tos_live",)
    assert [entry.abi for entry in entries] == [Abi.NATIVE, Abi.I386]


# The kernel.


def test_the_newest_source_is_taken_by_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("linux-source", "linux-source-7.9", "linux-source-7.10", "linux-source-6.12-rt")
    found = {name: Package(name, "1", "", 1, "") for name in names}
    monkeypatch.setattr(apt, "find", lambda *given: found)
    assert kernel.newest(Cache(Path("cache")), print).name == "linux-source-7.10"
    monkeypatch.setattr(apt, "find", lambda *given: {})
    with pytest.raises(NotBuilt, match="no package linux-source"):
        kernel.newest(Cache(Path("cache")), print)


def test_a_kernel_is_built_once_for_its_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Package("linux-source-7.3", "7.3.4-1", "", 1, "sum")
    monkeypatch.setattr(kernel, "newest", lambda cache, say: package)
    monkeypatch.setattr(kernel, "unpacked", lambda *given: tmp_path)
    monkeypatch.setattr(source, "apply", lambda faults, tree: None)
    builds = []

    def build(*given: object) -> Path:
        builds.append(given)
        (tmp_path / "built").touch()
        return tmp_path / "built"

    monkeypatch.setattr(kernel, "build", build)

    def prepare(*faults: Fault) -> FaultKernel:
        return kernel.prepare(faults, tmp_path, Cache(tmp_path / "cache"), lambda line: None, 1)

    edit = Edit(FILE, "first", "return 1;", "with", "FAULT(one)")
    first = prepare(fault(edit))
    assert first.release == "7.3.4"
    assert prepare(replace(fault(edit), sees="In other words.")).image == first.image
    assert len(builds) == 1
    assert prepare(fault(replace(edit, text="FAULT(one) + 1"))).image != first.image
    assert len(builds) == 2


# Several faults in one VM.

CONSOLE = """\
[    0.000000] Linux version 7.3.4
@@ on one
@@ start ipv4 a.good x client -
@@ start ipv4 a.bad x client byte
@@ fail ipv4 a.bad x client byte
"""
END = ["@@ on none", "@@ end one 2.5"]


def told(*lines: str) -> dict[str, Any]:
    return shared_vm.records([*CONSOLE.splitlines(), *lines])


def test_the_console_of_a_shared_vm_tells_what_fails() -> None:
    found = told(*END, "@@ on two", "@@ on none", "@@ end two 1.0", "@@ over ")
    assert [record["verdict"] for record in found.values()] == ["fail", "pass"]
    check = {"id": "a.bad", "phase": "x", "side": "client", "payload": "byte", "verdict": "fail"}
    assert found["one"]["families"] == {"ipv4": {"verdict": "fail", "checks": [check]}}
    assert found["one"]["timing"] == {"total_s": 2.5}


def test_the_sound_kernel_is_a_fault_like_others_in_a_shared_vm() -> None:
    found = shared_vm.records(["@@ on none", "@@ on none", "@@ end none 3.0", *CONSOLE.split("\n")])
    assert found["none"]["verdict"] == "pass"
    assert found["one"]["verdict"] == "hang"


def test_a_panic_of_a_shared_vm_is_charged_to_the_check_that_ran() -> None:
    found = told("[    3.1] Kernel panic - not syncing: x")
    assert found["one"]["verdict"] == "crash"
    assert found["one"]["incidents"][0]["check"] == "a.bad"


def test_a_shared_vm_that_falls_silent_hangs_in_the_check_that_ran() -> None:
    found = told()
    assert found["one"]["verdict"] == "hang"
    assert found["one"]["incidents"][0]["check"] == "a.bad"


def test_a_checker_that_fails_in_a_shared_vm_says_nothing() -> None:
    assert told("@@ broken one", *END)["one"]["verdict"] == "infrastructure"


def test_the_checker_takes_what_a_shared_vm_has_for_its_events() -> None:
    wanted = {name for name in dir(Ktap) if not name.startswith("_")} - {"finish"}
    assert wanted <= set(dir(in_guest.Lines))


def test_a_warning_of_a_shared_vm_is_an_incident() -> None:
    lines = [*CONSOLE.splitlines()[:3], "WARNING: net/mptcp/pm.c:1", *END]
    assert shared_vm.records(lines)["one"]["verdict"] == "warning"


def test_what_the_checker_says_becomes_lines(capfd: pytest.CaptureFixture[str]) -> None:
    lines = in_guest.Lines()
    in_guest.write("on", "one")
    lines.emit("capability", name="ipv6", family="ipv6", present=False, detail="")
    bug = next(check.id for check in guest_checks.all_checks() if check.bug)
    entries = [("a.good", "x", ""), (bug, "", ""), ("a.bad", "", "")]
    lines.emit("plan", family="ipv4", payload="", entries=entries)
    for number, verdict in enumerate(("pass", "fail", "fail")):
        lines.emit("start", i=number)
        lines.emit("result", i=number, verdict=verdict, detail="why")
    families = shared_vm.records(capfd.readouterr().out.splitlines())["one"]["families"]
    assert [check["id"] for check in families["ipv4"]["checks"]] == ["a.bad"]
    assert [check["id"] for check in families["ipv6"]["checks"]] == ["capability.ipv6"]


def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *boots: list[str]) -> SharedBoots:
    """Boots that give these lines in turn."""
    made = object.__new__(SharedBoots)
    left = list(boots)
    monkeypatch.setattr(made, "_directory", tmp_path, raising=False)
    monkeypatch.setattr(made, "_jobs", 1, raising=False)
    monkeypatch.setattr(made, "_abis", {"narrow": Abi.I386}, raising=False)
    monkeypatch.setattr(made, "_boot", lambda number, names: left.pop(0), raising=False)
    return made


def test_after_a_crash_another_vm_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boots = shared(
        *(tmp_path, monkeypatch),
        [*CONSOLE.splitlines(), "Kernel panic - not syncing"],
        ["@@ on two", "@@ on none", "@@ end two 1.0"],
    )
    assert {n: r["verdict"] for n, r in boots(["one", "two"]).items()} == {
        "one": "crash",
        "two": "pass",
    }


def test_a_vm_that_does_not_start_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = shared(tmp_path, monkeypatch, [], [*CONSOLE.splitlines(), *END])
    assert boots(["one"])["one"]["verdict"] == "fail"
    with pytest.raises(NotBuilt, match="the VM did not come to one"):
        shared(tmp_path, monkeypatch, [], [], [])(["one"])


def test_a_fault_of_32_bit_programs_has_a_vm_with_such_a_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = shared(tmp_path, monkeypatch)
    booted: list[list[str]] = []

    def boot(number: int, names: Sequence[str]) -> list[str]:
        booted.append(list(names))
        return [f"@@ {word}" for name in names for word in (f"on {name}", f"end {name} 1.0")]

    monkeypatch.setattr(boots, "_boot", boot, raising=False)
    boots(["one", "narrow", "two"])
    assert booted == [["one", "two"], ["narrow"]]


def test_what_the_nearest_checks_miss_gets_those_of_its_group_and_then_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [replace(fault(name=name), sees="SO_MARK is lost.") for name in ("one", "two", "six")]
    catching = {"one": "named", "two": "group", "six": "all"}
    asked: list[tuple[str, list[str]]] = []

    class Boots:
        def __init__(self, image: Path, directory: Path, *rest: object) -> None:
            self.scope = directory.name

        def __call__(self, names: Sequence[str]) -> Records:
            asked.append((self.scope, list(names)))
            bad = {"a_flaky": "fail"}
            return {
                name: record(name, "fail", **bad, a_new="fail")
                if catching.get(name) == self.scope
                else record(name, "fail", **bad)
                for name in names
            }

    monkeypatch.setattr(shared_vm, "SharedBoots", Boots)
    boots = shared_vm.TieredBoots(Path("bzImage"), tmp_path, 1, given, everything=True)
    boots(["none"])
    found = boots(["one", "two", "six"])
    assert {name: record["_scope"] for name, record in found.items()} == catching
    assert asked == [
        ("all", ["none"]),
        ("named", ["one", "two", "six"]),
        ("group", ["two", "six"]),
        ("all", ["six"]),
    ]


def test_checks_are_near_a_fault_that_names_their_option() -> None:
    given = replace(fault(), sees="TCP_NODELAY reads what it should not.")
    names = nearest.ids(nearest.named(given))
    assert "tcp_nodelay.set_get" in names
    assert not any(name.startswith("tcp_cork.") for name in names)


def test_a_fault_that_names_nothing_gets_the_scenarios_of_its_group() -> None:
    assert nearest.named(fault()) == nearest.GROUPS["states"]


# The document.


def outcome(name: str, *checks: str, charged: str = "", verdict: str = "fail") -> Outcome:
    return Outcome(name, verdict, "", checks, charged, 6.0, "", "")


def test_the_document_counts_by_group_and_by_luck() -> None:
    faults = [
        fault(name="one"),
        fault(name="two"),
        fault(name="three", luck=True),
        replace(fault(name="four"), dropped="nobody sees it"),
    ]
    outcomes = {
        "none": outcome("none", verdict="pass"),
        "one": outcome("one", "a.good"),
        "two": outcome("two"),
        "three": outcome("three", charged="a.slow", verdict="crash"),
    }
    text = document.text(faults, outcomes, KERNEL)
    assert "| states | 1 of 2 (50 %) | 1 of 1 (100 %) | - |" in text
    assert "| `two` | states | It is wrong. | no check sees it |" in text
    assert "* `four`: nobody sees it" in text
    assert "| `three`, luck | It is wrong. | crash in `a.slow` | not run |" in text


def test_what_the_selftests_say_is_read_from_the_console() -> None:
    lines = ["noise", "@@ one on one", "@@ one mptcp_sockopt 0", "@@ one mptcp_inq 1"]
    found, died = selftests.read([*lines, "@@ two on two", "@@ two mptcp_inq 0", "@@ end"])
    assert found == [Found("one", ("mptcp_inq",)), Found("two")]
    assert not died
    found, died = selftests.read([*lines, "Kernel panic - not syncing"])
    assert (found, died) == ([], "crashed")


def test_selftests_that_fail_without_a_fault_catch_nothing(tmp_path: Path) -> None:
    path = tmp_path / "selftests.json"
    selftests.keep([Found("none", ("mptcp_inq",)), Found("one", ("mptcp_inq",))], path)
    selftests.keep(
        [Found("two", ("mptcp_inq", "mptcp_sockopt")), Found("six", died="crashed")], path
    )
    faults = [fault(name=name) for name in ("one", "two", "six", "ten")]
    outcomes = {each.name: outcome(each.name, "a.good") for each in faults}
    text = document.text(faults, outcomes, KERNEL, selftests.recall(path))
    assert "They were run with 3 faults, and caught 2." in text
    assert "| states | 4 of 4 (100 %) | - | 2 of 3 (66 %) |" in text
    rows = {
        line.split("`")[1]: line.split(" | ")[-1] for line in text.splitlines() if "a.g" in line
    }
    assert rows == {
        "one": "nothing |",
        "two": "`mptcp_sockopt` |",
        "six": "the VM crashed |",
        "ten": "not run |",
    }


def test_the_rest_of_the_selftests_is_run_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consoles = [
        ["@@ none on", "@@ none mptcp_inq 0", "@@ one on", "Kernel panic - not syncing"],
        ["@@ two on", "@@ two mptcp_inq 1", "@@ end"],
    ]
    booted: list[list[str]] = []

    def boot(image: Path, programs: Path, faults: Sequence[str], *rest: object) -> list[str]:
        booted.append(list(faults))
        return consoles.pop(0)

    monkeypatch.setattr(selftests, "_boot", boot)
    found = selftests.run_all(Path("bzImage"), tmp_path, ["one", "two"], lambda _: None)
    assert found == [Found("none"), Found("one", died="crashed"), Found("two", ("mptcp_inq",))]
    assert booted == [["none", "one", "two"], ["two"]]


def test_a_vm_of_the_selftests_that_does_not_start_is_no_crash_with_the_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panic = ["Kernel panic - not syncing"]
    consoles = [panic, ["@@ none on", "@@ end"], panic, panic, panic]
    monkeypatch.setattr(selftests, "_boot", lambda *given: consoles.pop(0))
    assert selftests.run_all(Path("bzImage"), tmp_path, [], lambda _: None) == [Found("none")]
    with pytest.raises(NotBuilt, match="did not come to none"):
        selftests.run_all(Path("bzImage"), tmp_path, [], lambda _: None)


def test_the_narrowest_check_is_named_first() -> None:
    faults = [fault(name="one"), fault(name="two")]
    outcomes = {"one": outcome("one", "wide.a", "narrow.b"), "two": outcome("two", "wide.a")}
    assert "`narrow.b`, `wide.a`" in document.text(faults, outcomes, KERNEL)


def test_outcomes_survive_being_kept(tmp_path: Path) -> None:
    kept = tmp_path / "outcomes.json"
    made = Sweep(lambda names: {}, kept, lambda _: None)
    made.outcomes["one"] = outcome("one", "a.good")
    made._write()
    assert Sweep(lambda names: {}, kept, lambda _: None).outcomes == made.outcomes
    assert json.loads(kept.read_text())["one"]["checks"] == ["a.good"]


def test_every_file_of_data_is_toml() -> None:
    for path in catalogue.DATA.glob("*.toml"):
        tomllib.loads(path.read_text())


def test_a_bug_that_linux_had_may_have_a_title_alone() -> None:
    titled = replace(fault(name="one"), title="mptcp: fix one")
    text = document.text([titled, fault(name="two")], {"one": outcome("one", "a.b")}, KERNEL)
    assert "Of the bugs that Linux had: 1 of 1 (100 %)." in text
    assert "| `one` (mptcp: fix one) |" in text


def test_the_document_has_what_was_measured_before() -> None:
    assert document.MEASURED.read_text() in document.text([], {}, KERNEL)
