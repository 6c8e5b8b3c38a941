# SPDX-License-Identifier: GPL-2.0-only
"""Replacements that are errors where they replace nothing.

A test that spoils data and finds nothing to spoil proves nothing. tests/test_project.py asks that
every test replaces through here.
"""

from __future__ import annotations

import re
from typing import AnyStr


def replaced(data: AnyStr, old: AnyStr, new: AnyStr, count: int = -1) -> AnyStr:
    """``data`` with ``new`` for ``old``, at most ``count`` times; ``old`` must stand in it."""
    assert old in data, f"there is no {old!r} to replace in {data[:2000]!r}"
    return data.replace(old, new, count)


def substituted(pattern: AnyStr, new: AnyStr, data: AnyStr) -> AnyStr:
    """``data`` with ``new`` for every match of ``pattern``, which must match somewhere."""
    result, found = re.subn(pattern, new, data)
    assert found, f"nothing matches {pattern!r} in {data[:2000]!r}"
    return result
