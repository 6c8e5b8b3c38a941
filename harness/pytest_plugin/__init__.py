# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin: the checks of a manifest's kernels as tests (docs/pytest.md).

pytest loads this module in every project of an environment that has the package. So it imports
nothing but pytest. Without ``--kernels``, and without a manifest on the command line, it adds
options and the fixture ``kernel``, and nothing else.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.pytest_plugin.fixture import Kernel

#: The name under which the active plugin is registered.
ACTIVE = "mptcp-harness-kernels"
#: Bytes of a YAML file that are searched for the manifest's key.
_START = 1 << 16
_SCOPES = ("function", "module", "session")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mptcp-harness", "kernels under test (mptcp-harness)")
    group.addoption(
        "--kernels",
        action="append",
        default=[],
        metavar="FILE",
        help="manifest with the kernels under test: for the fixture 'kernel', and without a path "
        "on the command line also as tests; may be given several times; to name FILE as a path "
        "does both",
    )
    group.addoption(
        "--kernels-only",
        metavar="GLOBS",
        help="only kernels whose names match, such as 'debian-6.*,patched'; a series, or kernels "
        "of one (trixie-6.12-*), are tested only if this option names them",
    )
    group.addoption(
        "--kernels-profile",
        choices=("quick", "full"),
        default="full",
        help="quick: only checks of loopback connections (default: full)",
    )
    group.addoption(
        "--kernels-accel", choices=("auto", "kvm", "tcg"), help="overrides the manifest"
    )
    group.addoption(
        "--kernels-jobs",
        type=_positive,
        metavar="N",
        help="run N VMs at a time (default: as many as processors and free memory allow; one in "
        "each worker of pytest-xdist)",
    )
    group.addoption("--kernels-seed", type=int, metavar="N", help="seed of the payloads")
    group.addoption(
        "--kernels-confirm",
        type=_positive,
        default=0,
        metavar="N",
        help="boot a failing kernel N more times, and report whether it fails every time",
    )
    group.addoption(
        "--kernels-reuse",
        action="store_true",
        help="do not boot a kernel whose last result was good and for which nothing changed",
    )
    group.addoption(
        "--kernels-resume",
        action="store_true",
        help="continue the last interrupted run with the same kernels, checks and settings: boot "
        "only kernels without a result; without such a run, boot all",
    )
    group.addoption(
        "--kernels-cache",
        type=Path,
        metavar="DIR",
        help="keep prepared kernels in DIR (default: mptcp-harness in XDG_CACHE_HOME)",
    )
    group.addoption(
        "--kernels-scope",
        choices=_SCOPES,
        default="function",
        help="how long a VM of the fixture 'kernel' is used: for one test, for a module, or for "
        "the whole run (default: function)",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the rest of the plugin if the command line names a manifest."""
    given = [Path(text) for text in config.getoption("--kernels")]
    named = _named(config)
    if not given and not named:
        return
    from harness.pytest_plugin import active

    plugin = active.configured(config, given, named)
    config.pluginmanager.register(plugin, ACTIVE)


def _named(config: pytest.Config) -> list[Path]:
    """The manifests among the paths of the command line."""
    paths = (argument.split("::", 1)[0] for argument in config.args)
    found = (config.invocation_params.dir / path for path in paths if _is_yaml(path))
    return [path for path in dict.fromkeys(found) if _looks_like_manifest(path)]


def _is_yaml(path: str) -> bool:
    return path.endswith((".yaml", ".yml"))


def _looks_like_manifest(path: Path) -> bool:
    """Whether the YAML file has the key that every manifest has. Others belong to other plugins."""
    try:
        with path.open("rb") as file:
            return re.search(rb"^kernels\s*:", file.read(_START), re.MULTILINE) is not None
    except OSError:
        return False


def _scope(fixture_name: str, config: pytest.Config) -> str:
    scope: str = config.getoption("--kernels-scope")
    return scope


@pytest.fixture(scope=_scope)  # type: ignore[arg-type]
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A VM with a kernel of the manifest; ``kernel.run(...)`` runs a program in it."""
    active = request.config.pluginmanager.get_plugin(ACTIVE)
    if active is None:
        pytest.skip("no kernels: give --kernels FILE")
    yield from active.kernel_of(request)
