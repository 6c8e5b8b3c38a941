# SPDX-License-Identifier: GPL-2.0-only
"""``check --against``, ``compare``, ``history`` and ``report``: from the arguments to the status.

Sessions are real but for kernels and VMs (tests.fake_boots).
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.records import stored_runs
from harness.records.from_json import run_from_text
from harness.verdict.results import Attempt, BootEnd, CheckResult, Stream
from harness.verdict.verdicts import CheckVerdict
from tests import fake_boots

MANIFEST = """\
kernels:
  - name: reference
    image: other
  - name: image
    image: other
  - series: many
    deb: {suite: trixie, package: "linux-image-6.12.*-amd64"}
"""
FAILS: Attempt = replace(
    fake_boots.GOOD,
    stream=replace(
        fake_boots.GOOD.stream,
        results=(CheckResult(fake_boots._KEY, CheckVerdict.FAIL, "it is wrong", "1", "2"),),
    ),
)
NO_QEMU = Attempt(1, BootEnd.VMM_DIED, "out of memory", stream=Stream())


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> fake_boots.Outcomes:
    """Where ``image`` is to be checked, beside a manifest."""
    outcomes = fake_boots.Outcomes(tmp_path)
    outcomes.install(monkeypatch.setattr)
    monkeypatch.setattr("harness.run.attempts.BACK_OFF", (0.0, 0.0))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("image", "other"):
        (tmp_path / name).write_text("never read")
    (tmp_path / "kernels.yaml").write_text(MANIFEST)
    return outcomes


def check(*arguments: str) -> int:
    return cli.main(["check", "image", "--family", "ipv4", *arguments])


def test_a_kernel_of_the_manifest_is_tested_beside_the_image(boots: fake_boots.Outcomes) -> None:
    assert check("--against", "reference") == 0
    assert sorted(boots.booted) == ["image", "reference"]


def test_only_what_differs_is_shown(
    boots: fake_boots.Outcomes, capsys: pytest.CaptureFixture[str]
) -> None:
    boots.of["image"] = FAILS
    assert check("--against", "reference") == 1
    said = capsys.readouterr().out
    assert "  newly failing:\n    payload.arrives at 1 of 1 place: ipv4 segment" in said
    assert "worse: pass before, fail now, 1 check newly failing\n" in said
    assert "not as expected" not in said  # the table's last line


def test_an_image_that_is_as_bad_as_the_other_is_still_bad(
    boots: fake_boots.Outcomes, capsys: pytest.CaptureFixture[str]
) -> None:
    boots.of["image"] = boots.of["reference"] = FAILS
    assert check("--against", "reference") == 1
    assert "verdict: fail in both" in capsys.readouterr().out


def test_an_image_that_is_better_is_no_failure(boots: fake_boots.Outcomes) -> None:
    boots.of["reference"] = FAILS
    assert check("--against", "reference") == 0


@pytest.mark.parametrize(
    ("image", "reference", "status"),
    [(NO_QEMU, None, 3), (None, NO_QEMU, 3), (FAILS, NO_QEMU, 1), (NO_QEMU, FAILS, 3)],
)
def test_what_could_not_be_tested_is_never_called_alike(
    boots: fake_boots.Outcomes,
    capsys: pytest.CaptureFixture[str],
    image: Attempt | None,
    reference: Attempt | None,
    status: int,
) -> None:
    boots.of = {
        name: attempt for name, attempt in (("image", image), ("reference", reference)) if attempt
    }
    assert check("--against", "reference") == status
    said = capsys.readouterr().out
    assert "cannot be compared: " in said
    assert "no difference" not in said


def test_another_image_is_tested_beside_it(boots: fake_boots.Outcomes) -> None:
    assert check("--against", "./other") == 0
    assert sorted(boots.booted) == ["image", "other"]


def test_two_images_of_one_name_are_kept_apart(boots: fake_boots.Outcomes, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "image").write_text("never read")
    assert check("--against", "old/image") == 0
    assert sorted(boots.booted) == ["image", "image-before"]


def test_a_name_that_is_both_is_taken_for_the_manifests_and_that_is_said(
    boots: fake_boots.Outcomes, capsys: pytest.CaptureFixture[str]
) -> None:
    (boots.directory / "reference").write_text("never read")
    assert check("--against", "reference") == 0
    said = capsys.readouterr().out
    assert "against the kernel reference of kernels.yaml; not the file reference" in said


def test_a_stored_run_is_not_booted_again(boots: fake_boots.Outcomes) -> None:
    assert check() == 0
    boots.booted.clear()
    boots.of["image"] = FAILS
    assert check("--against", "last") == 1
    assert boots.booted == ["image"]


def test_a_run_of_several_kernels_is_asked_for_one(
    boots: fake_boots.Outcomes, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["matrix", "-k", "reference,image", "--family", "ipv4"])
    assert check("--against", "last:reference") == 0
    assert "against reference as stored by run" in capsys.readouterr().out
    cli.main(["matrix", "-k", "reference", "-k", "image", "--family", "ipv4"])
    assert check("--against", "last:nothing") == 2
    assert "name one as last:KERNEL, of reference, image" in capsys.readouterr().err
    assert boots.booted.count("image") == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("referense", "kernels with similar names: reference"),
        ("many", "this is a series of kernels; name one of them"),
        ("./nowhere", "not a kernel of kernels.yaml, not a file, and"),
    ],
)
@pytest.mark.usefixtures("boots")
def test_a_name_that_is_nothing_is_refused_with_what_is_near(
    capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert check("--against", name) == 2
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("boots")
def test_another_manifest_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("kernels: [{name: mine, image: other}]\n")
    assert check("--against", "mine", "--manifest", "mine.yaml") == 0


def test_the_record_has_both_kernels_and_the_comparison(
    boots: fake_boots.Outcomes, tmp_path: Path
) -> None:
    boots.of["image"] = FAILS
    check("--against", "reference", "--json", "r.json")
    text = (tmp_path / "r.json").read_text()
    record = json.loads(text)
    assert [kernel["name"] for kernel in record["kernels"]] == ["reference", "image"]
    assert record["comparison"]["worse"] is True
    assert [change["id"] for change in record["comparison"]["checks"]] == ["payload.arrives"]
    assert len(run_from_text(text).kernels) == 2


# Of kept runs.


def test_compare_takes_the_last_two_of_a_kind(
    boots: fake_boots.Outcomes, capsys: pytest.CaptureFixture[str]
) -> None:
    check()
    boots.of["image"] = FAILS
    check()
    capsys.readouterr()
    assert cli.main(["compare"]) == 1
    assert capsys.readouterr().out.endswith("1 kernel compared; worse: image\n")


@pytest.mark.usefixtures("boots")
def test_compare_of_equal_runs_is_a_success() -> None:
    check()
    check()
    assert cli.main(["compare"]) == 0


def test_compare_with_what_was_not_tested_is_no_success(boots: fake_boots.Outcomes) -> None:
    check()
    boots.of["image"] = NO_QEMU
    check()
    assert cli.main(["compare"]) == 3


@pytest.mark.parametrize("runs", [["nothing"], ["a", "b"], ["a", "b", "c"], []])
@pytest.mark.usefixtures("boots")
def test_compare_of_no_runs_is_a_usage_error(runs: list[str]) -> None:
    assert cli.main(["compare", *runs]) == 2


def test_history_shows_a_line_for_each_kernel(
    boots: fake_boots.Outcomes, capsys: pytest.CaptureFixture[str]
) -> None:
    check()
    boots.of["image"] = FAILS
    check()
    capsys.readouterr()
    assert cli.main(["history", "-k", "im*"]) == 0
    assert "image  PF  flaky; pass -> fail at " in capsys.readouterr().out


def test_history_shows_the_checks_that_were_ever_bad(
    boots: fake_boots.Outcomes, capsys: pytest.CaptureFixture[str]
) -> None:
    boots.of["image"] = FAILS
    check()
    capsys.readouterr()
    assert cli.main(["history", "--check", "*"]) == 0
    assert "image payload.arrives  F  always fail" in capsys.readouterr().out


@pytest.mark.usefixtures("boots")
def test_a_report_goes_where_it_is_wanted(tmp_path: Path) -> None:
    check()
    assert cli.main(["report", "--format", "junit", "--output", "r.xml"]) == 0
    assert ET.parse(tmp_path / "r.xml").getroot().tag == "testsuites"


@pytest.mark.parametrize("name", ["html", "junit", "ktap", "json", "markdown", "kcidb"])
@pytest.mark.usefixtures("boots")
def test_every_format_goes_to_standard_output(
    capfdbinary: pytest.CaptureFixture[bytes], name: str
) -> None:
    check()
    capfdbinary.readouterr()
    assert cli.main(["report", "last", "--format", name]) == 0
    assert len(capfdbinary.readouterr().out) > 100


def test_a_page_says_what_changed_since_the_last_run(
    boots: fake_boots.Outcomes, tmp_path: Path
) -> None:
    check()
    boots.of["image"] = FAILS
    check("--html", "page.html")
    assert cli.main(["report", "--format", "html", "--output", "again.html"]) == 0
    for page in ("page.html", "again.html"):
        assert "1 of 1 kernel is newly wrong: image." in (tmp_path / page).read_text()


@pytest.mark.usefixtures("boots")
def test_a_page_of_the_first_run_is_compared_with_nothing(tmp_path: Path) -> None:
    check("--html", "page.html")
    assert "not compared: no earlier complete run" in (tmp_path / "page.html").read_text()


@pytest.mark.usefixtures("boots")
def test_a_place_where_no_page_can_be_written_is_refused_before_the_boot(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["check", "image", "--html", "/nowhere/page.html"]) == 2
    assert capsys.readouterr().err.startswith("--html /nowhere/page.html: ")


@pytest.mark.usefixtures("boots")
def test_a_report_that_cannot_be_written_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    check()
    assert cli.main(["report", "--output", "/nowhere/r.md"]) == 3
    assert "--output /nowhere/r.md: cannot be written" in capsys.readouterr().err


def test_in_github_actions_a_failure_is_annotated_after_the_log(
    boots: fake_boots.Outcomes,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    boots.of["image"] = FAILS
    for arguments in ((), ("--against", "reference")):
        check(*arguments)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("::stop-commands::")
        assert lines[-2] == f"::{lines[0].removeprefix('::stop-commands::')}::"
        assert lines[-1].startswith("::error title=image%3A payload.arrives::it is wrong;")
    assert (tmp_path / "summary").read_text().count("### mptcp-harness: ") == 2


def test_the_flakes_have_a_run_each(
    boots: fake_boots.Outcomes, capsys: pytest.CaptureFixture[str]
) -> None:
    check()
    boots.of["image"] = FAILS
    check()
    capsys.readouterr()
    assert cli.main(["report", "--format", "flakes"]) == 0
    good, bad = json.loads(capsys.readouterr().out)
    assert good["results"] == {}
    assert [test["result"] for test in bad["results"]["image"].values()] == ["fail"]


def test_the_answers_of_history_runs_and_compare_are_written_for_scripts(
    boots: fake_boots.Outcomes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check()
    boots.of["image"] = FAILS
    check()
    answers = {}
    for status, command in ((0, "history"), (0, "runs"), (1, "compare")):
        file = tmp_path / f"{command}.json"
        assert cli.main([command, "--json", str(file)]) == status
        answers[command] = json.loads(file.read_text())
    (line,) = answers["history"]["lines"]
    assert (line["letters"], line["bad"], line["tested"]) == ("PF", 1, 2)
    assert [run["verdicts"] for run in answers["runs"]["runs"]] == [{"fail": 1}, {"pass": 1}]
    assert "1: 1 fail\n" in capsys.readouterr().out
    (kernel,) = answers["compare"]["kernels"]
    assert answers["compare"]["worse"] is True
    assert kernel["checks"][0]["id"] == "payload.arrives"


def test_two_kernels_of_runs_are_compared(
    boots: fake_boots.Outcomes, capsys: pytest.CaptureFixture[str]
) -> None:
    check()
    boots.of["image"] = FAILS
    check()
    assert cli.main(["compare", "--kernels", "image", "image"]) == 0
    assert "fail in both" in capsys.readouterr().out
    runs = [run.id for run in stored_runs.summaries(stored_runs.store_file(), 2, lambda _: True)]
    assert cli.main(["compare", *runs, "--kernels", "image", "image"]) == 1
    assert "payload.arrives" in capsys.readouterr().out
    assert cli.main(["compare", "--kernels", "image", "other"]) == 2
    assert "has no result of a kernel 'other'; it has image" in capsys.readouterr().err
