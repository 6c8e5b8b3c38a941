# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin on real kernels, as a user starts it; and the examples of docs/pytest.md."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.kernels.cache import Cache
from tests.boots.conftest import PATIENCE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pytest.md").read_text(encoding="utf-8")
OLD = """\
  - name: old
    deb: {suite: bookworm, package: linux-image-amd64}
    expect: {full_info: true}
"""
NEW = "  - {name: new, deb: {suite: trixie, package: linux-image-amd64}}\n"
Pytest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, cache: Cache) -> Pytest:
    """pytest in a project of its own; where the package is installed, its entry point is used."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    entries = importlib.metadata.entry_points(group="pytest11")
    installed = any(entry.value == "harness.pytest_plugin" for entry in entries)
    plugin = () if installed else ("-p", "harness.pytest_plugin")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *plugin, f"--kernels-cache={cache.root}", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return run


def examples() -> dict[str, str]:
    """The files in docs/pytest.md, which begin with their names."""
    return dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))


def test_two_kernels_in_two_workers_and_what_failed_once_more(run: Pytest, tmp_path: Path) -> None:
    (tmp_path / "kernels.yaml").write_text(f"kernels:\n{OLD}{NEW}")
    quick = ("kernels.yaml", "--kernels-profile=quick")
    first = run(*quick, "-n2", "-k", "full_info", "--junitxml=junit.xml", "-rfs")
    assert first.returncode == 1, first.stdout + first.stderr
    failed = re.findall(r"^FAILED (\S+)", first.stdout, re.MULTILINE)
    expected = [f"kernels.yaml::old::{family}::capability.full_info" for family in ("ipv4", "ipv6")]
    assert sorted(failed) == expected
    assert re.search(r"^SKIPPED \[\d+\] kernels.yaml:2: no full_info: ", first.stdout, re.MULTILINE)
    cases = ET.parse(tmp_path / "junit.xml").iter("testcase")
    by_name = {(case.get("classname"), case.get("name")): case for case in cases}
    new = by_name["kernels.yaml.new.ipv4", "full_info.readable"]
    assert [child.tag for child in new if child.tag != "properties"] == []

    again = run(*quick, "--lf")
    assert again.returncode == 1, again.stdout + again.stderr
    assert "2 failed" in again.stdout
    assert "passed" not in again.stdout.splitlines()[-1]
    assert "old: booting" in again.stdout
    assert "new: booting" not in again.stdout


CRASH = """\
def test_the_log_is_of_one_program(kernel):
    kernel.run("sh", "-c", "echo before > /dev/kmsg", check=True)
    ended = kernel.run("sh", "-c", "echo meanwhile > /dev/kmsg", check=True)
    assert "meanwhile" in ended.log
    assert "before" not in ended.log
    assert "meanwhile" in kernel.console


def test_a_program_of_the_host_runs(kernel):
    assert kernel.run(kernel.put("/bin/ls"), "/opt").output.split()[0] == "guest"


def test_it_crashes(kernel):
    kernel.run("sh", "-c", "echo c > /proc/sysrq-trigger")
"""


def test_the_fixture_and_the_examples_of_its_page(run: Pytest, tmp_path: Path) -> None:
    (tmp_path / "kernels.yaml").write_text(f"kernels:\n{NEW}")
    files = {**examples(), "test_other.py": CRASH}
    assert set(files) == {"test_mine.py", "listen.py", "test_other.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    scope = "--kernels-scope=session"
    done = run("--kernels=kernels.yaml", scope, "test_mine.py", "test_other.py")
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert re.search(r"^FAILED test_other.py::test_it_crashes\[new\]", done.stdout, re.MULTILINE)
    assert "lost: its VM ended; Kernel panic: sysrq triggered crash" in done.stdout
    assert "- console of new -" in done.stdout
