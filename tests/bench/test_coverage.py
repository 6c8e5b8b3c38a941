# SPDX-License-Identifier: GPL-2.0-only
"""Coverage: from a guest's console to the table, with what gcov says of a small program."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.coverage import counters, figures
from bench.coverage.counters import Function, NoCounters, SourceFile
from bench.coverage.figures import Figures, Measured
from bench.faults import document

PLACE = "/sys/kernel/debug/gcov/build/net/mptcp"


def console(name: str, content: bytes, *, damaged: bool = False) -> list[str]:
    """What dump.sh writes of one file."""
    text = base64.encodebytes(content).decode()
    summary = hashlib.md5(text.encode()).hexdigest()
    lines = text.splitlines()
    if damaged:
        lines.insert(0, "[  12.3] a message of the kernel")
    return [f"@@gcov begin {PLACE}/{name}", *lines, f"@@gcov end {summary}  -"]


def test_counters_come_over_the_console() -> None:
    content = bytes(range(256)) * 4
    lines = [
        "[ 1.0] noise",
        *console("pm.gcda", content),
        *console("diag.gcda", b""),
        "@@gcov done",
    ]
    assert counters.read_console(lines) == {"pm.gcda": content, "diag.gcda": b""}


def test_counters_that_are_damaged_or_cut_are_refused() -> None:
    with pytest.raises(NoCounters, match=r"pm\.gcda are damaged"):
        counters.read_console([*console("pm.gcda", b"abc", damaged=True), "@@gcov done"])
    with pytest.raises(NoCounters, match="did not write all"):
        counters.read_console(console("pm.gcda", b"abc"))
    with pytest.raises(NoCounters, match="did not write all"):
        counters.read_console(["@@gcov done"])


def line(number: int, count: int, function: str, *branches: int) -> dict[str, Any]:
    taken = [{"count": each, "fallthrough": False, "throw": False} for each in branches]
    return {"line_number": number, "count": count, "function_name": function, "branches": taken}


def report(path: str, lines: list[dict[str, Any]], **functions: tuple[int, int, int]) -> Any:
    said = [
        {"name": name, "start_line": start, "end_line": end, "execution_count": calls}
        for name, (start, end, calls) in functions.items()
    ]
    return {"files": [{"file": path, "lines": lines, "functions": said}]}


def test_a_header_runs_where_any_file_with_it_runs_it() -> None:
    header = "net/mptcp/protocol.h"
    merged = counters.merged(
        [
            report(header, [line(7, 0, "f", 0, 0), line(8, 0, "f")], f=(6, 9, 0)),
            report(header, [line(7, 3, "f", 3, 0), line(8, 0, "f")], f=(6, 9, 3)),
            report("include/linux/skbuff.h", [line(1, 1, "g")], g=(1, 2, 1)),
        ]
    )
    assert list(merged) == [header]
    assert merged[header].lines == {7: 3, 8: 0}
    assert merged[header].branches == {(7, "f", 0): 3, (7, "f", 1): 0}
    assert merged[header].functions == [Function("f", 6, 9, 3)]
    assert figures.of(merged) == {header: Figures(1, 2, 1, 2)}


def test_lines_that_never_ran_stand_under_their_function(tmp_path: Path) -> None:
    (tmp_path / "pm.c").write_text(
        "int f(void)\n{\n\treturn 1;\n}\nint g(void)\n{\n\treturn 2;\n}\n"
    )
    functions = [Function("f", 1, 4, 2), Function("g", 5, 8, 0)]
    files = {"pm.c": SourceFile({1: 2, 3: 0, 5: 0, 7: 0}, {}, functions)}
    assert list(figures.never_run(files, tmp_path)) == [
        "\n# pm.c f(): called 2 times",
        "pm.c:3: return 1;",
        "\n# pm.c g(): never called",
        "pm.c:5: int g(void)",
        "pm.c:7: return 2;",
    ]


MEASURED = Measured(
    "linux-source-7.3 7.3.4-1",
    "pass",
    {"net/mptcp/pm.c": Figures(9, 10, 1, 4), "net/mptcp/bpf.c": Figures(0, 10, 0, 0)},
    {"net/mptcp/pm.c": Figures(1, 10, 0, 4), "net/mptcp/bpf.c": Figures(0, 10, 0, 0)},
)


def test_what_was_measured_survives_being_kept(tmp_path: Path) -> None:
    kept = tmp_path / "figures.json"
    assert figures.recall(kept) is None
    figures.keep(MEASURED, kept)
    assert figures.recall(kept) == MEASURED


def test_the_table_has_the_selftests_beside_the_checks() -> None:
    assert figures.table(MEASURED)[2:] == [
        "| `net/mptcp/pm.c` | 9 of 10 (90 %) | 1 of 4 (25 %) | 1 of 10 (10 %) | 0 of 4 (0 %) |",
        "| `net/mptcp/bpf.c` | 0 of 10 (0 %) | - | 0 of 10 (0 %) | - |",
        "| **all** | 9 of 20 (45 %) | 1 of 4 (25 %) | 1 of 20 (5 %) | 0 of 4 (0 %) |",
    ]


def test_new_figures_replace_the_old_ones_and_nothing_else() -> None:
    before = "# Detection\n\n## Totals\n\ntotals\n\n## Not caught\n\nnone\n"
    once = document.with_coverage(before, MEASURED)
    assert once.startswith(
        "# Detection\n\n## Totals\n\ntotals\n\n## Lines and branches of net/mptcp"
    )
    assert once.endswith("\n\n## Not caught\n\nnone\n")
    assert document.with_coverage(once, MEASURED) == once


def test_gcov_reads_what_a_program_counted(tmp_path: Path) -> None:
    place = tmp_path / counters.DIRECTORY
    place.mkdir(parents=True)
    (place / "pm.c").write_text(
        "int main(int n, char **v)\n{\n\tif (n > 1)\n\t\treturn 1;\n\treturn 0;\n}\n"
    )
    build = ["gcc", "--coverage", "-o", "net/mptcp/pm", "-c", "net/mptcp/pm.c"]
    try:
        subprocess.run([*build[:3], "net/mptcp/pm.o", *build[4:]], cwd=tmp_path, check=True)
        subprocess.run(
            ["gcc", "--coverage", "-o", "program", "net/mptcp/pm.o"], cwd=tmp_path, check=True
        )
        subprocess.run(["gcov", "--version"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no gcc with gcov")
    subprocess.run(["./program"], cwd=tmp_path, check=True)
    counted = {"pm.gcda": (place / "pm.gcda").read_bytes()}
    found = counters.read(tmp_path, counted, tmp_path / "work")["net/mptcp/pm.c"]
    assert found.lines[4] == 0
    assert found.lines[5] == 1
    with pytest.raises(NoCounters, match=r"diag\.gcno is missing"):
        counters.read(tmp_path, {"diag.gcda": b""}, tmp_path / "work")
