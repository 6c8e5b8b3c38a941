# SPDX-License-Identifier: GPL-2.0-only
"""The walk of a kernel in docs/architecture.md leads through the code as it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEP = re.compile(r"^\| (\d+) \| `([\w/.]+)` \| `([\w.]+)` \| (.*) \|$", re.MULTILINE)
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALK = STEP.findall(TEXT)
FORM = re.compile(r"\*\*`(\w+)`\*\*")


def functions(source: Path) -> set[str]:
    """The names of its functions and of its classes' methods."""
    tree = ast.parse(source.read_bytes())
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for parent in tree.body:
        if isinstance(parent, ast.ClassDef):
            methods = (node for node in parent.body if isinstance(node, ast.FunctionDef))
            found |= {f"{parent.name}.{method.name}" for method in methods}
    return found


def test_every_step_is_a_function_of_its_file() -> None:
    for _, file, function, _ in WALK:
        assert function in functions(ROOT / file), f"{file}: {function}"


def test_the_walk_has_at_most_25_functions() -> None:
    assert [int(number) for number, *_ in WALK] == [*range(1, len(WALK) + 1)]
    assert 20 <= len(WALK) <= 25


def test_a_kernel_has_at_most_five_forms() -> None:
    forms = [form for *_, what in WALK for form in FORM.findall(what)]
    assert len(forms) == len(set(forms)) <= 5
    code = "\n".join(path.read_text() for path in (ROOT / "harness").rglob("*.py"))
    assert all(re.search(rf"^class {form}\b", code, re.MULTILINE) for form in forms)
