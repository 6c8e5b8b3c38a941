# SPDX-License-Identifier: GPL-2.0-only
"""The workflows of docs/ci.md: of the schemas of GitHub and GitLab, and commands that exist."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cli
from tests.replacing import replaced

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "ci.md"
TEXT = DOCUMENT.read_text()
GITHUB, GITLAB, GITHUB_SHARDS, GITLAB_SHARDS, KUBERNETES = re.findall(
    r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE
)
SLURM, PARALLEL, _ = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
OF_GITHUB = ("--builtin-schema", "vendor.github-workflows")
OF_GITLAB = ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")


def validate(text: str, schema: tuple[str, ...], directory: Path) -> str:
    """What check-jsonschema, which has the schemas in its package, finds wrong; "" if nothing."""
    import check_jsonschema  # in the worker that needs it, for it takes 0.2 s

    file = directory / "workflow.yml"
    file.write_text(text)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        check_jsonschema.main([*schema, str(file)])
    return "" if ended.value.code == 0 else said.getvalue()


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        (GITHUB, OF_GITHUB),
        (GITLAB, OF_GITLAB),
        (GITHUB_SHARDS, OF_GITHUB),
        (GITLAB_SHARDS, OF_GITLAB),
    ],
    ids=["GitHub", "GitLab", "shards on GitHub", "shards on GitLab"],
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


def actionlint(text: str, directory: Path) -> str:
    """What actionlint says about a workflow of GitHub; "" if nothing is wrong."""
    file = directory / "workflow.yml"
    file.write_text(text)
    program = Path(sysconfig.get_path("scripts")) / "actionlint"
    done = subprocess.run(
        [program, "-no-color", str(file)], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("text", [GITHUB, GITHUB_SHARDS], ids=["one job", "shards"])
def test_actionlint_finds_nothing(text: str, tmp_path: Path) -> None:
    assert actionlint(text, tmp_path) == ""


def test_actionlint_notices_what_the_schema_allows(tmp_path: Path) -> None:
    """A function that does not exist, in an expression."""
    wrong = replaced(GITHUB, "hashFiles('kernels.yaml')", "hashFile('kernels.yaml')")
    assert validate(wrong, OF_GITHUB, tmp_path) == ""
    assert "hashFile" in actionlint(wrong, tmp_path)


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


#: Instead of the harness: prints its arguments.
ECHO = """\
#!/bin/sh
for word; do echo "$word"; done
"""


def asked_by(script: str, variables: dict[str, str], directory: Path) -> argparse.Namespace:
    """The arguments that a shell ``script`` gives to the harness."""
    program = directory / "mptcp-harness"
    program.write_text(ECHO)
    program.chmod(0o755)
    environment = {"PATH": f"{directory}:{os.environ['PATH']}", **variables}
    done = subprocess.run(
        ["sh", "-euc", script], env=environment, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    return cli.parser(words[:1]).parse_args(words)


def shards_of(given: list[argparse.Namespace]) -> list[str]:
    assert all(each.durations == ["none"] for each in given), "no host has another's store"
    assert len({each.output or each.json for each in given}) == len(given)
    return [str(each.shard) for each in given]


EACH = ["1/3", "2/3", "3/3"]


def test_github_tests_each_shard_once_and_merges_whatever_came_of_them() -> None:
    jobs: dict[str, Any] = yaml.safe_load(GITHUB_SHARDS)["jobs"]
    numbers = jobs["shard"]["strategy"]["matrix"]["shard"]
    (line,) = re.findall(r"nox -s matrix -- (.*)", GITHUB_SHARDS)
    expand = {"${{ matrix.shard }}": "", "${{ strategy.job-total }}": str(len(numbers))}
    given = []
    for number in numbers:
        text = line
        for name, value in expand.items():
            text = replaced(text, name, value or str(number))
        given.append(cli.parser(["matrix"]).parse_args(["matrix", *shlex.split(text)]))
    assert [str(each.shard) for each in given] == EACH
    assert jobs["merge"]["if"] == "always()"
    assert jobs["shard"]["strategy"]["fail-fast"] is False
    names = [step["with"] for step in jobs["shard"]["steps"] if "upload" in step.get("uses", "")]
    assert names == [{"name": "shard-${{ matrix.shard }}", "path": "run"}]
    assert_merges(GITHUB_SHARDS, "shards/*")


def assert_merges(text: str, runs: str) -> None:
    (words,) = re.findall(r"mptcp-harness (merge .*)$", text, re.MULTILINE)
    assert cli.parser(["merge"]).parse_args(shlex.split(words)).runs == [Path(runs)]


def test_gitlab_tests_each_shard_once_and_merges_whatever_came_of_them() -> None:
    jobs: dict[str, Any] = yaml.safe_load(GITLAB_SHARDS)
    (line,) = re.findall(r"nox -s matrix -- (.*)", GITLAB_SHARDS)
    given = []
    for number in range(1, jobs["shard"]["parallel"] + 1):
        text = replaced(line, "$CI_NODE_INDEX", str(number))
        text = replaced(text, "$CI_NODE_TOTAL", str(jobs["shard"]["parallel"]))
        given.append(cli.parser(["matrix"]).parse_args(["matrix", *shlex.split(text)]))
    assert shards_of(given) == EACH
    assert (jobs["merge"]["when"], jobs["merge"]["needs"]) == ("always", ["shard"])
    assert_merges(GITLAB_SHARDS, "shard-*")


def test_slurm_tests_each_shard_once(tmp_path: Path) -> None:
    (first, last) = re.findall(r"--array=(\d+)-(\d+)", SLURM)[0]
    given = []
    for number in range(int(first), int(last) + 1):
        variables = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": last}
        given.append(asked_by(SLURM, variables, tmp_path))
    assert shards_of(given) == EACH


def test_kubernetes_tests_each_shard_once(tmp_path: Path) -> None:
    job: dict[str, Any] = yaml.safe_load(KUBERNETES)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["completionMode"] == "Indexed"
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] in ("Never", "OnFailure")  # the API server refuses another
    (container,) = pod["containers"]
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["name"] == volume["name"]
    (script,) = container["args"]
    given = [
        asked_by(script, {"JOB_COMPLETION_INDEX": str(index)}, tmp_path)
        for index in range(job["spec"]["completions"])
    ]
    assert shards_of(given) == EACH
    assert all(str(each.output).startswith(mount["mountPath"]) for each in given)


def test_parallel_tests_each_shard_once_and_merges_what_it_returns() -> None:
    command, merge = replaced(PARALLEL, "\\\n", "").splitlines()
    template, _, numbers = command.partition(" ::: ")
    (words,) = re.findall(r"mptcp-harness (matrix .*)", template)
    given = [
        cli.parser(["matrix"]).parse_args(shlex.split(replaced(words, "{}", number)))
        for number in numbers.split()
    ]
    assert shards_of(given) == EACH
    merged = cli.parser(["merge"]).parse_args(shlex.split(merge)[1:])
    assert merged.runs == [each.json for each in given]
