# SPDX-License-Identifier: GPL-2.0-only
"""Rules of the project that no tool of its own enforces (docs/architecture.md, CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import functools
import graphlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import harness
from tests.conftest import REQUIREMENTS

ROOT = Path(__file__).resolve().parent.parent
LICENCE = "SPDX-License-Identifier: GPL-2.0-only"

#: From the top down: a room imports from its own level and from those below it.
LEVELS = (
    ("cli", "__main__", "pytest_plugin"),
    ("report",),
    ("nightly",),
    ("step", "replay", "selftest"),
    ("bisect",),
    ("run",),
    ("bundle",),
    ("records",),
    ("vm",),
    ("kernels",),
    ("manifest",),
    ("verdict",),
    ("host", "text"),
    ("errors",),
)
#: What of the guest the host may import beside guest.events, by room: the list of checks, and the
#: package itself, to find its files.
#: The report names the bytes that the guest read.
OF_THE_GUEST = {
    "cli": {"guest.checks"},
    "pytest_plugin": {"guest.checks"},
    "manifest": {"guest.checks"},
    "report": {"guest.abi"},
    "vm": {"guest"},
}

#: Each costs an emulated VM 0.1 s or more.
EXPENSIVE = {
    *("argparse", "dataclasses", "enum", "inspect", "json", "pathlib", "random", "re", "socket"),
    "typing",
}
#: Of the guest, what only a person's run loads.
NOT_IN_A_VM = {"guest.__main__", "guest.cli", "guest.ktap"}
LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    __import__(name)
print(*sys.modules)
"""
#: The same for a run of a check that no kernel lacks, or that plans nothing without MPTCP.
QUICK_RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from guest import events, runner, vm
wanted = runner.Options(profile="quick", selected="payload.arrives".__eq__)
runner.Runner(wanted, events.Emitter(lambda line: None)).run()
print(*sys.modules)
"""


def sources(*names: str) -> list[Path]:
    return sorted(path for name in names for path in (ROOT / name).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def room(module: str) -> str:
    """``vm`` for ``harness.vm.boot``; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


@functools.cache
def tree(path: Path) -> ast.Module:
    """The guest's own in the syntax of Python 3.9, which it is written for."""
    version = (3, 9) if path.is_relative_to(ROOT / "guest") else None
    return ast.parse(path.read_text(), str(path), feature_version=version)


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    """The modules that ``path`` imports, wherever it does so; names from a package count if they
    are modules of this project."""
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"  # noqa: PT018
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if is_ours(name)]
            yield from modules
            if len(modules) < len(inner):
                yield node.module


#: An import as ruff formats it: at the start of a line, and on several only in parentheses.
IMPORT = re.compile(r"^[ \t]*((?:import|from)[ \t][^\n(]*(?:\([^)]*\)[^\n]*)?)", re.MULTILINE)


def import_statements(path: Path) -> list[ast.AST]:
    """Of the imports alone, which takes a tenth of the time; of all if one cannot be told so."""
    found = "\n".join(IMPORT.findall(path.read_text()))
    try:
        return list(ast.parse(found).body)
    except SyntaxError:  # prose, or an import in another shape
        return list(statements(tree(path)))


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements below ``node``; not what they consist of, which is most of a tree."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from statements(child)


@functools.cache
def is_ours(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


HARNESS = sources("harness")
GUEST = sources("guest")


def test_every_file_names_its_licence() -> None:
    files = [*HARNESS, *GUEST, *sources("tests"), ROOT / "noxfile.py", ROOT / ".ci" / "run"]
    bare = [
        path for path in files if not any(LICENCE in line for line in path.open().readlines()[:2])
    ]
    assert bare == []


def test_the_version_stands_in_one_way() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == harness.__version__


def test_the_guest_needs_nothing_but_the_standard_library() -> None:
    ours = {*sys.stdlib_module_names, "guest"}
    foreign = [(path, name) for path in GUEST for name in imports(path) if top(name) not in ours]
    assert foreign == []


def top(module: str) -> str:
    return module.split(".")[0]


def test_the_guest_is_written_for_python_3_9() -> None:
    for path in GUEST:
        tree(path)


def test_the_guest_loads_no_expensive_module_in_a_vm() -> None:
    names = {module_name(path) for path in GUEST} - NOT_IN_A_VM
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LOADED, str(ROOT), *sorted(names)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert EXPENSIVE & set(run.stdout.split()) == set()


def test_the_supervisor_of_a_boot_starts_without_os_and_signal() -> None:
    """They take as long as Python's own start, in each boot."""
    own = [sys.executable, "-I", "-S", "-c", LOADED, str(ROOT / "harness/host"), "supervisor"]
    run = subprocess.run(own, capture_output=True, text=True, check=True)
    assert "supervisor" in run.stdout.split()
    assert {"os", "signal", "enum"} & set(run.stdout.split()) == set()


def test_quick_runs_start_without_os_and_ctypes() -> None:
    """They take a tenth of a second in a VM; the runner loads what is left to load."""
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", QUICK_RUN, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "guest.probe" in run.stdout.split()
    assert {"os", "ctypes", "guest.isolation"} & set(run.stdout.split()) == set()


@pytest.mark.parametrize(
    ("command", "without"),
    [
        (["--help"], {"harness.verdict.results", "dataclasses", "sqlite3", "pydantic"}),
        (["runs"], {"harness.verdict.results", "harness.records.from_json", "pydantic"}),
        (["history"], {"harness.verdict.results", "harness.verdict.comparison", "pydantic"}),
        (["compare"], {"harness.run", "yaml", "pydantic"}),
        (["list", "checks"], {"harness.run", "sqlite3", "pydantic", "yaml"}),
        (["step", "--help"], {"pydantic", "yaml", "harness.bisect.commit_search"}),
        (
            ["check", "--help"],
            {
                *("pydantic", "yaml", "rich", "harness.report.table", "harness.kernels.apt"),
                *("harness.kernels.archive", "harness.verdict.comparison", "importlib.metadata"),
            },
        ),
    ],
)
def test_a_command_imports_what_it_needs(
    command: list[str], without: set[str], tmp_path: Path
) -> None:
    """Each of these answers in a fraction of a second."""
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "harness", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    loaded = set(re.findall(r"\| +([\w.]+)$", run.stderr, re.MULTILINE))
    assert "harness.cli" in loaded
    assert loaded & without == set()


@pytest.mark.parametrize(
    "name",
    [
        *("harness/__init__.py", "harness/errors.py", "harness/host/tools.py"),
        "harness/host/architectures.py",
    ],
)
def test_what_nox_imports_needs_nothing_installed(name: str) -> None:
    modules = set(imports(ROOT / name)) - {"harness.errors", "harness.host.architectures"}
    assert {module.split(".")[0] for module in modules} - sys.stdlib_module_names == set()


def test_every_module_has_a_level() -> None:
    known = {"", *(name for level in LEVELS for name in level)}
    unknown = [path for path in HARNESS if room(module_name(path)) not in known]
    assert unknown == [], "add it to LEVELS, where docs/architecture.md puts it"


def test_imports_point_down() -> None:
    rank = {name: height for height, level in enumerate(LEVELS) for name in level}

    def height(module: str) -> int:
        return rank.get(room(module), len(LEVELS))

    upwards = [
        (path, name)
        for path in HARNESS
        for name in imports(path)
        if name.startswith("harness.") and height(name) < height(module_name(path))
    ]
    assert upwards == []


def test_no_two_rooms_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for path in HARNESS:
        here = room(module_name(path))
        others = {room(name) for name in imports(path) if name.startswith("harness.")}
        graph.setdefault(here, set()).update(others - {here})
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_the_host_knows_only_the_events_of_the_guest() -> None:
    unknown = [
        (path, name)
        for path in HARNESS
        for name in imports(path)
        if top(name) == "guest"
        and name not in {"guest.events", *OF_THE_GUEST.get(room(module_name(path)), ())}
    ]
    assert unknown == []


#: Modules that run a program which ends at once: all others go through harness.host.programs, whose
#: supervisor ends a program that outlives the harness.
AT_ONCE = {
    "harness.host.programs",
    "harness.host.tools",
    "harness.kernels.apt",  # apt-config
    "harness.manifest.cross_check",  # ldd
    "harness.host.toolchain",  # gcc --version
    "harness.vm.accelerator",  # qemu --version
    "harness.vm.foreign_root",  # compileall
    "harness.vm.initramfs",  # compileall, ldd
    "harness.vm.traces",  # addr2line
}


def test_programs_that_take_long_run_under_the_supervisor() -> None:
    starts = re.compile(r"\b(subprocess\.(run|Popen|call|check_\w+)|os\.(system|popen|spawn\w+))\(")
    found = {module_name(path) for path in HARNESS if starts.search(path.read_text())}
    assert found <= AT_ONCE


def test_no_check_reads_a_number_by_its_first_byte() -> None:
    """On s390x, that is the most significant one: a check of TCP_IS_MPTCP always saw 0 there."""
    pattern = re.compile(r"\.(?:data|filled)\[(?:0|:1)\]")
    assert [str(path) for path in GUEST if pattern.search(path.read_text())] == []


def test_nothing_below_the_command_line_exits() -> None:
    below = [path for path in HARNESS if room(module_name(path)) != "cli"]
    named = [path for path in below if re.search(r"exit|abort|SystemExit", path.read_text())]
    assert [(path, line) for path in named for line in exits(tree(path))] == []


def exits(node: ast.AST) -> Iterator[int]:
    """The lines of ``node`` that end the process; a program's own last lines do not count."""
    endings = ("sys.exit", "os._exit", "os.abort", "SystemExit")
    left = [node]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            continue
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in endings:
            yield node.lineno
        left += ast.iter_child_nodes(node)


def test_a_test_that_replaces_notices_where_there_is_nothing_to_replace() -> None:
    """Data that was not spoiled proves nothing; to remove something is no spoiling."""
    unchecked = [
        (path, call.lineno)
        for path in sources("tests")
        if path.name != "replacing.py" and re.search(r"\.(replace|sub)\(", path.read_text())
        for call in ast.walk(tree(path))
        if isinstance(call, ast.Call) and replaces(call)
    ]
    assert unchecked == [], "use tests.replacing"


def replaces(call: ast.Call) -> bool:
    """Whether ``call`` is str.replace() or re.sub() with something in place of what it finds."""
    if not isinstance(call.func, ast.Attribute):
        return False
    of_re = ast.unparse(call.func) == "re.sub"
    is_replacement = of_re or (call.func.attr == "replace" and len(call.args) >= 2)
    return is_replacement and ast.unparse(call.args[1]) not in ("''", "b''")


#: Runs pytest with its arguments once for each of these, in a process of its own.
ENVIRONMENTS: tuple[dict[str, str], ...] = ({}, {"CI": "true"}, {"MPTCP_HARNESS_REQUIRE_ALL": "1"})
IN_EACH = f"""
import os, sys, pytest
for environment in {ENVIRONMENTS}:
    if not os.fork():
        os.environ.update(environment)
        pytest.main(sys.argv[1:])
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def test_a_test_without_its_tools_is_skipped_and_fails_where_all_is_required(
    tmp_path: Path,
) -> None:
    """On a developer's machine, and in CI."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = boots: ...\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.boots\ndef test_it():\n    pass\n"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("CI", "MPTCP_HARNESS_REQUIRE_ALL")}
    run = subprocess.run(
        [
            *(sys.executable, "-c", IN_EACH, "-p", "tests.conftest", "-p", "no:cacheprovider"),
            *("-q", "--rootdir", str(tmp_path), "-c", str(tmp_path / "pytest.ini"), "-o"),
            *("addopts=", str(tmp_path)),
        ],
        cwd=ROOT,
        env={
            **kept,
            "PATH": str(tmp_path),
            "PYTEST_ADDOPTS": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
    )
    ended = re.findall(r"^(1 [a-z]+) in ", run.stdout, re.MULTILINE)
    assert ended == ["1 skipped", "1 error", "1 error"], run.stdout + run.stderr


def test_every_marker_has_its_requirement() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        options = tomllib.load(file)["tool"]["pytest"]["ini_options"]
    assert {marker.split(":")[0] for marker in options["markers"]} == set(REQUIREMENTS)


def test_the_readme_fits_on_two_pages() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readme_links_to_files_that_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    paths = [target for target in targets if "://" not in target]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert paths
