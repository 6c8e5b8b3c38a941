# SPDX-License-Identifier: GPL-2.0-only
"""The plugin in pytest itself: what is collected, what is booted, and what is reported."""

from __future__ import annotations

import sys
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from _pytest.pytester import RunResult

from harness.pytest_plugin.scheduling import SCHEDULERS
from tests.pytest_plugin.conftest import PLUGINS, ROOT, Project
from tests.pytest_plugin.stand_in import EXACT, READABLE
from tests.pytest_plugin.test_fixture import PASSING

QUICK = "--kernels-profile=quick"
#: Two checks, each in two families.
TWO = (QUICK, "-k", f"{READABLE} or {EXACT}")


def names(result: RunResult) -> list[str]:
    """The tests that `--collect-only -q` prints."""
    return [line for line in result.outlines if "::" in line]


def test_the_entry_point_names_the_plugin() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        entries = tomllib.load(file)["project"]["entry-points"]["pytest11"]
    assert entries == {"mptcp-harness": "harness.pytest_plugin"}


def test_a_manifest_on_the_command_line_is_collected_without_a_boot(project: Project) -> None:
    project.manifest("good", "failing")
    result = project.pytest("kernels.yaml", "--collect-only", "-q", QUICK)
    found = names(result)
    assert found[0] == "kernels.yaml::good::kernel"
    assert f"kernels.yaml::failing::ipv6::{EXACT}" in found
    assert "kernels.yaml::good::ipv4::capability.mptcp_info" in found
    assert len(found) == len(set(found))
    assert project.booted == []


def test_the_option_and_the_path_collect_the_same(project: Project) -> None:
    project.manifest("good")
    by_path = names(project.pytest("kernels.yaml", "--collect-only", "-q", QUICK))
    by_option = names(project.pytest("--kernels", "kernels.yaml", "--collect-only", "-q", QUICK))
    assert by_option == by_path != []


def test_with_another_path_the_option_collects_no_kernels(project: Project) -> None:
    project.manifest("good")
    project.pytester.makepyfile("def test_it(): pass")
    result = project.pytest("--kernels=kernels.yaml", ".", "--collect-only", "-q", QUICK)
    assert len(names(result)) == 1


def test_without_the_option_a_manifest_in_the_directory_means_nothing(project: Project) -> None:
    project.manifest("good")
    project.pytester.makepyfile("import sys\ndef test_it(): pass")
    result = project.pytest("-v")
    result.assert_outcomes(passed=1)
    assert "kernels" not in result.stdout.str()


def test_yaml_of_other_plugins_is_left_alone(project: Project) -> None:
    (project.path / "other.yaml").write_text("tests:\n - kernels: 1\n")
    result = project.pytest("other.yaml")
    result.stderr.fnmatch_lines(["ERROR: not found: *other.yaml"])


@pytest.mark.parametrize(
    "arguments", [("kernels.yaml", "kernels.yaml"), ("--kernels=kernels.yaml", "kernels.yaml")]
)
def test_a_manifest_named_twice_is_tested_once(
    project: Project, arguments: tuple[str, ...]
) -> None:
    project.manifest("good")
    result = project.pytest(*arguments, *TWO)
    assert project.booted == ["good"]
    assert result.ret == 0


def test_a_kernel_is_booted_once_for_all_of_its_tests(project: Project) -> None:
    project.manifest("good", "failing")
    result = project.pytest("kernels.yaml", *TWO)
    assert sorted(project.booted) == ["failing", "good"]  # whichever was prepared first
    assert result.ret == 1
    assert result.parseoutcomes()["failed"] == 1


def test_only_selected_checks_are_run(project: Project) -> None:
    project.manifest("good")
    project.pytest(f"kernels.yaml::good::ipv4::{READABLE}").assert_outcomes(passed=1)
    (line,) = (project.path / "boots").read_text().splitlines()
    planned = int(line.split()[2])
    (project.path / "boots").unlink()
    project.pytest(
        f"kernels.yaml::good::ipv4::{READABLE}", f"kernels.yaml::good::ipv6::{EXACT}"
    ).assert_outcomes(passed=2)
    (line,) = (project.path / "boots").read_text().splitlines()
    assert 0 < planned < int(line.split()[2]) < 100


def test_k_selects_kernels_by_name(project: Project) -> None:
    project.manifest("good-one", "good-two")
    project.pytest("kernels.yaml", QUICK, "-k", f"good-two and {READABLE}")
    assert project.booted == ["good-two"]


def test_kernels_only_selects_kernels_before_they_are_collected(project: Project) -> None:
    project.manifest("good-one", "good-two")
    result = project.pytest("kernels.yaml", "--kernels-only=*-two", "--collect-only", "-q", QUICK)
    assert {name.split("::")[1] for name in names(result)} == {"good-two"}


def test_the_failing_test_shows_what_came_and_where(project: Project) -> None:
    project.manifest("failing")
    result = project.pytest("kernels.yaml", *TWO, "--junitxml=junit.xml")
    result.assert_outcomes(passed=3, failed=1, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(
        [
            f"*failing ipv4 {EXACT}*",
            "mptcpi_bytes_acked: expected 158, got 0",
            "at * places: ipv4 *",
            "*- expected -*",
            "158",
            "*- got -*",
            "0",
            "*- raw bytes -*",
            "0000  9e000000 00000000",
            "*= kernels =*",
            f"failing: fail: {EXACT}: mptcpi_bytes_acked",
            "seed *, results in *",
            f"FAILED kernels.yaml::failing::ipv4::{EXACT}*",
        ]
    )
    case = ET.parse(project.path / "junit.xml").find(f".//testcase[@name='{EXACT}']")
    assert case is not None
    assert case.get("classname") == "kernels.yaml.failing.ipv4"
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert properties == {"expected": "158", "got": "0", "raw bytes": "0000  9e000000 00000000"}


def test_last_failed_boots_what_failed_with_that_check_alone(project: Project) -> None:
    project.manifest("good", "failing")
    cached = ("-o", "addopts=")
    project.pytest("kernels.yaml", *TWO, *cached)
    (project.path / "boots").unlink()
    result = project.pytest("kernels.yaml", QUICK, "--lf", *cached)
    assert result.parseoutcomes()["failed"] == 1
    assert "passed" not in result.parseoutcomes()
    assert project.booted == ["failing"]


def test_x_ends_the_other_kernels(project: Project) -> None:
    project.manifest("failing", "good")
    result = project.pytest("kernels.yaml", "-x", *TWO)
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])
    result.stdout.no_fnmatch_line("*kernels.yaml::good*")


def test_a_kernel_without_mptcp_is_skipped_with_the_reason(project: Project) -> None:
    project.manifest("lacking", more="defaults: {expect: {ipv6: false}}\n")
    result = project.pytest("kernels.yaml", "-rs", QUICK)
    assert set(result.parseoutcomes()) == {"skipped"}
    result.stdout.fnmatch_lines(
        [
            "SKIPPED * kernels.yaml:3: unsupported: no MPTCP, and none was expected",
            "SKIPPED * kernels.yaml:3: EPROTONOSUPPORT",
        ],
    )
    assert "no ipv6: EAFNOSUPPORT" in result.stdout.str()


def test_an_unsupported_check_is_skipped_with_the_reason(project: Project) -> None:
    project.manifest("unsupporting")
    result = project.pytest(f"kernels.yaml::unsupporting::ipv4::{EXACT}", "-rs")
    result.stdout.fnmatch_lines(["SKIPPED * no mptcp_info: EOPNOTSUPP"])


KNOWN = """\
known_issues:
  - check: mptcp_info.*
    reason: the backport is incomplete
    owner: net@example.org
    expires: 2999-01-31
"""


def test_a_known_failure_is_an_xfail(project: Project) -> None:
    (project.path / "known.yaml").write_text(KNOWN)
    more = "defaults: {known_issues: known.yaml}\n"
    project.manifest("failing", more=more)
    result = project.pytest("kernels.yaml", "-rx", *TWO)
    assert result.ret == 0
    assert result.parseoutcomes()["xfailed"] == 1
    assert "the backport is incomplete" in result.stdout.str()
    failed = project.pytest("kernels.yaml", "--runxfail", *TWO)
    assert failed.parseoutcomes()["failed"] == 1


def test_a_known_check_that_passes_passes_as_the_verdict_does(project: Project) -> None:
    (project.path / "known.yaml").write_text(KNOWN)
    project.manifest("good", more="defaults: {known_issues: known.yaml}\n")
    result = project.pytest("kernels.yaml", *TWO)
    assert result.parseoutcomes()["passed"] == 4


@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        ("unlaunched", "infrastructure: QEMU did not start the kernel: no /dev/kvm"),
        ("unbootable", "not tested: boot-failure: the guest did not start in time"),
        ("broken", "error in the check: KeyError: 'x'"),
        ("silent", "no result: the guest did not plan this check"),
    ],
)
def test_what_says_nothing_of_a_check_is_an_error(project: Project, kernel: str, text: str) -> None:
    project.manifest(kernel)
    result = project.pytest(f"kernels.yaml::{kernel}::ipv4::{EXACT}")
    assert result.parseoutcomes() == {"errors": 1}
    assert text in result.stdout.str()


def test_a_crash_is_charged_to_the_check_that_was_running(project: Project) -> None:
    project.manifest("panicking")
    result = project.pytest("kernels.yaml", *TWO)
    outcomes = result.parseoutcomes()
    # The check before it was not at all of its places.
    assert (outcomes["failed"], outcomes["errors"]) == (1, 3)
    assert "passed" not in outcomes
    result.stdout.fnmatch_lines(
        [
            f"*panicking ipv4 {EXACT}*",
            "crash: Kernel panic - not syncing: sysrq triggered crash, while this check ran",
            "*- console: panic -*",
            f"during ipv4 {EXACT} *",
            " panic+0x118/0x2f0",
        ]
    )


def test_a_crash_fails_the_kernels_own_test(project: Project) -> None:
    project.manifest("panicking")
    result = project.pytest("kernels.yaml::panicking::kernel", QUICK)
    result.assert_outcomes(failed=1)
    assert "crash: Kernel panic" in result.stdout.str()


def test_a_hang_is_charged_to_the_check_that_was_running(project: Project) -> None:
    project.manifest("hanging")
    result = project.pytest("kernels.yaml", *TWO)
    assert result.parseoutcomes()["failed"] == 1
    assert f"hang: the guest fell silent in ipv4 {EXACT}" in result.stdout.str()


def test_a_warning_fails_the_kernels_own_test_alone(project: Project) -> None:
    project.manifest("warning")
    result = project.pytest("kernels.yaml", QUICK)
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(["FAILED kernels.yaml::warning::kernel*"])


def test_a_warning_is_not_lost_where_the_kernels_test_is_not_selected(project: Project) -> None:
    project.manifest("warning")
    result = project.pytest("kernels.yaml", *TWO)
    assert result.parseoutcomes()["failed"] == 1


def test_without_qemu_each_test_is_an_error_that_says_so(project: Project) -> None:
    project.manifest("good")
    (project.path / "no-qemu").touch()
    result = project.pytest("kernels.yaml", *TWO)
    assert result.parseoutcomes()["errors"] == 4
    assert "infrastructure: this host lacks qemu-system-x86_64" in result.stdout.str()


def test_a_wrong_manifest_is_a_usage_error_with_its_line(project: Project) -> None:
    (project.path / "kernels.yaml").write_text("kernels:\n  - name: a\n    imag: x\n")
    result = project.pytest("kernels.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *kernels.yaml:3:*: kernels[[]0[]]*"])


def test_a_missing_manifest_is_a_usage_error(project: Project) -> None:
    result = project.pytest("--kernels=none.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *none.yaml: no such file; *"])


def test_a_pattern_that_matches_no_kernel_is_a_usage_error(project: Project) -> None:
    project.manifest("good")
    result = project.pytest("kernels.yaml", "--kernels-only=bad")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no kernel matches 'bad' (--kernels-only); it has good"])


def test_no_vms_at_a_time_is_a_usage_error(project: Project) -> None:
    result = project.pytest("--kernels-jobs=0")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--kernels-jobs: '0' is not a number from 1 on"])


def test_wrong_known_issues_are_a_usage_error(project: Project) -> None:
    (project.path / "known.yaml").write_text("known_issues: 3\n")
    project.manifest("good", more="defaults: {known_issues: known.yaml}\n")
    result = project.pytest("kernels.yaml")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *known.yaml:1:*"])


def test_progress_is_shown_while_a_kernel_boots(project: Project) -> None:
    project.manifest("good")
    result = project.pytest("kernels.yaml", *TWO)
    result.stdout.fnmatch_lines(["*1 kernel: good", "*good: booting: TCG", "*good: pass"])
    quiet = project.pytest("kernels.yaml", "-q", *TWO)
    quiet.stdout.no_fnmatch_line("*booting*")


def test_it_works_without_the_terminal(project: Project) -> None:
    project.manifest("failing")
    result = project.pytest("kernels.yaml", "-p", "no:terminal", *TWO)
    assert result.ret == 1
    assert result.stdout.str() == ""


def test_ctrl_c_ends_the_boots_and_pytest_and_the_run_is_resumed(project: Project) -> None:
    """Ctrl-C comes while ``endless`` boots, whichever kernel was prepared first."""
    kernels = {"failing", "endless", "good"}
    project.manifest(*sorted(kernels, reverse=True))
    arguments = ("kernels.yaml", *TWO, "--kernels-jobs=1")
    result = project.processes(*arguments)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*KeyboardInterrupt*"])
    booted = project.booted
    assert booted[-1] == "endless"
    resumed = project.pytest(*arguments, "--kernels-resume")
    assert sorted(project.booted[len(booted) :]) == sorted(kernels - set(booted[:-1]))
    assert (resumed.parseoutcomes()["failed"], resumed.parseoutcomes()["passed"]) == (1, 11)


def test_without_a_run_to_resume_all_kernels_are_booted(project: Project) -> None:
    project.manifest("good")
    result = project.pytest("kernels.yaml", *TWO, "--kernels-resume")
    assert result.parseoutcomes()["passed"] == 4
    result.stdout.fnmatch_lines(["*nothing to resume: *"])


XDIST = ("-p", "xdist.plugin", "-n", "2")


def test_xdist_gives_a_kernel_to_one_worker(project: Project) -> None:
    """A test of the fixture, which boots each kernel once more, may be in another one."""
    project.manifest("good", "failing", "panicking")
    project.pytester.makepyfile(test_own=PASSING)
    cached = ("-o", "addopts=")
    chosen = (QUICK, "-k", f"{READABLE} or {EXACT} or test_mine", "--kernels=kernels.yaml")
    result = project.processes("kernels.yaml", "test_own.py", *chosen, *XDIST, *cached)
    assert sorted(project.booted) == sorted(["failing", "good", "panicking"] * 2)
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"], outcomes["errors"]) == (10, 2, 3)
    lines = result.outlines
    for line in (f"failing: fail: {EXACT}: mptcpi_bytes_acked", "good: pass"):
        assert lines.count(line) == 1
    (project.path / "boots").unlink()
    result = project.pytest("kernels.yaml", QUICK, "--lf", *cached)
    assert "passed" not in result.parseoutcomes()
    assert sorted(project.booted) == ["failing", "panicking"]


def test_each_distribution_of_xdist_keeps_a_kernel_together() -> None:
    for name, scheduler in SCHEDULERS.items():
        split = scheduler.__new__(scheduler)._split_scope
        first = split(f"a/kernels.yaml::good::ipv4::{EXACT}")
        assert first == split("a/kernels.yaml::good::kernel")
        assert first != split("a/kernels.yaml::bad::kernel")
        assert first != split("b/kernels.yaml::good::kernel")
        others = (split("test_a.py::test_a"), split("test_a.py::test_b"))
        assert (others[0] == others[1]) == (name == "loadscope")


def test_the_death_of_a_worker_does_not_lose_its_kernel(project: Project) -> None:
    project.manifest("deadly", "good")
    one = ("-p", "xdist.plugin", "-n", "1")  # another one takes its place
    result = project.processes("kernels.yaml", *TWO, *one, "--dist=loadgroup")
    assert sorted(set(project.booted)) == ["deadly", "good"]
    assert result.ret == 1
    assert "crashed while running" in result.stdout.str()
    assert result.parseoutcomes()["passed"] == 8  # the crash is one more


def test_thirty_kernels_are_collected_in_seconds(project: Project) -> None:
    """A boot, or anything that is done for each test but need not be, would take longer."""
    project.manifest(*(f"good-{number}" for number in range(30)))
    result = project.pytest("kernels.yaml", "--collect-only", "-qq", QUICK)
    assert result.ret == 0
    assert project.booted == []


def test_other_tests_do_not_see_the_plugin(project: Project) -> None:
    """It imports nothing but pytest, and no other module of the harness in a whole run."""
    ours = {"harness", "harness.pytest_plugin"}
    project.pytester.makepyfile(
        f"import sys\ndef test_it():\n"
        f"    assert {{m for m in sys.modules if m.startswith('harness')}} == {ours}\n"
    )
    program = (
        "import sys, pytest; before = {*sys.modules}; import harness.pytest_plugin\n"
        f"assert {{*sys.modules}} - before == {ours}\n"
        f"sys.exit(pytest.main({[*PLUGINS[:2]]}))"
    )
    project.pytester.run(sys.executable, "-c", program).assert_outcomes(passed=1)


def test_a_manifest_outside_of_the_project_is_tested(project: Project, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    project.manifest("failing").rename(away / "kernels.yaml")
    (project.path / "bzImage").rename(away / "bzImage")
    result = project.pytest(str(away / "kernels.yaml"), *TWO)
    assert result.parseoutcomes()["failed"] == 1
