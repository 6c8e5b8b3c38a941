# SPDX-License-Identifier: GPL-2.0-only
"""A project of somebody who has the package installed, with kernels that are not booted."""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.pytester import RunResult

from harness import pytest_plugin
from tests.pytest_plugin import stand_in

ROOT = Path(__file__).parents[2]
#: As if the package were installed; its entry point is not there in each environment.
PLUGINS = ("-p", "harness.pytest_plugin", "-p", "tests.pytest_plugin.stand_in")
#: pytest's own that no test here needs: they cost as much as a test, in each run of pytest.
UNUSED = ("cacheprovider", "warnings", "unraisableexception", "threadexception", "doctest")
#: Further ones, and these on the command line: what the configuration leaves out is loaded first.
LEFT_OUT = (
    *UNUSED,
    "pastebin",
    "logging",
    "setuponly",
    "setupplan",
    "legacypath",
    "faulthandler",
    "unittest",
)


class Project:
    """Its directory, in which pytest runs."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path

    def manifest(self, *names: str, more: str = "", file: str = "kernels.yaml") -> Path:
        (self.path / "bzImage").write_bytes(b"an image")
        entries = "".join(f"  - {{name: {name}, image: bzImage}}\n" for name in names)
        place = self.path / file
        place.write_text(f"{more}kernels:\n{entries}")
        return place

    def pytest(self, *arguments: str) -> RunResult:
        """pytest, in this process; with all of its own plugins for ``-o addopts=``."""
        left_out = () if "addopts=" in arguments else LEFT_OUT
        return self.pytester.runpytest_inprocess(
            *(f"-pno:{name}" for name in left_out),
            *arguments,
            plugins=[pytest_plugin, stand_in],
        )

    def processes(self, *arguments: str) -> RunResult:
        """pytest in a process of its own."""
        return self.pytester.runpytest_subprocess(*PLUGINS, *arguments, timeout=300)

    @property
    def booted(self) -> list[str]:
        return stand_in.booted(self.path)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("XDG_STATE_HOME", str(pytester.path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(pytester.path / "cache"))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv(stand_in.PLACE, str(pytester.path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyprojecttoml(
        f"[tool.pytest.ini_options]\naddopts = '{' '.join(f'-p no:{name}' for name in UNUSED)}'\n"
    )
    return Project(pytester)
