# SPDX-License-Identifier: GPL-2.0-only
"""The workflows of docs/ci.md: of the schemas of GitHub and GitLab, and commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cli
from tests.replacing import replaced

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "ci.md"
GITHUB, GITLAB = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
OF_GITHUB = ("--builtin-schema", "vendor.github-workflows")
OF_GITLAB = ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")


def validate(text: str, schema: tuple[str, ...], directory: Path) -> str:
    """What check-jsonschema, which has the schemas in its package, finds wrong; "" if nothing."""
    file = directory / "workflow.yml"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "schema"), [(GITHUB, OF_GITHUB), (GITLAB, OF_GITLAB)], ids=["GitHub", "GitLab"]
)
def test_an_example_is_of_the_schema(text: str, schema: tuple[str, ...], tmp_path: Path) -> None:
    assert validate(text, schema, tmp_path) == ""


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        (replaced(GITHUB, "runs-on:", "run-on:"), OF_GITHUB),
        (replaced(GITHUB, "timeout-minutes: 60", "timeout-minutes: [60]"), OF_GITHUB),
        (replaced(GITLAB, "when: always\n    expire_in", "when: ever\n    expire_in"), OF_GITLAB),
        (replaced(GITLAB, "  image:", "  images:"), OF_GITLAB),
    ],
)
def test_the_schema_notices_a_mistake(text: str, schema: tuple[str, ...], tmp_path: Path) -> None:
    assert validate(text, schema, tmp_path)


def commands(text: str) -> list[list[str]]:
    """The arguments of the harness in the example, also those behind nox."""
    found = re.findall(r"(?:nox -s (matrix) -- |bin/mptcp-harness )(.*)$", text, re.MULTILINE)
    return [[*filter(None, [session]), *shlex.split(rest)] for session, rest in found]


@pytest.mark.parametrize("text", [GITHUB, GITLAB], ids=["GitHub", "GitLab"])
def test_every_command_of_an_example_exists(text: str) -> None:
    lines = commands(text)
    assert [line[0] for line in lines] == ["matrix", "report"]
    for line in lines:
        cli.parser(line[:1]).parse_args(line)


def test_what_is_kept_depends_on_the_manifest_and_all_results_are_uploaded() -> None:
    steps: list[dict[str, Any]] = yaml.safe_load(GITHUB)["jobs"]["matrix"]["steps"]
    of = {step["uses"].partition("@")[0]: step["with"] for step in steps if "with" in step}
    assert "hashFiles('kernels.yaml')" in of["actions/cache"]["key"]
    job: dict[str, Any] = yaml.safe_load(GITLAB)["mptcp"]
    assert job["cache"]["key"]["files"] == ["kernels.yaml"]
    assert job["artifacts"]["reports"]["junit"] == "junit.xml"
    uploaded = {"results.json", "report.html", "junit.xml", "run"}
    assert uploaded == set(job["artifacts"]["paths"])
    assert uploaded == set(of["actions/upload-artifact"]["path"].split())


def test_steps_after_a_failure_run_all_the_same() -> None:
    *_, test, convert, upload = yaml.safe_load(GITHUB)["jobs"]["matrix"]["steps"]
    assert "if" not in test
    assert convert["if"].startswith("always()")
    assert upload["if"] == "always()"
