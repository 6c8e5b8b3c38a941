# SPDX-License-Identifier: GPL-2.0-only
"""The canonical form of settings: equal settings give equal text, in every process.

Resume, reuse, step and bisect use it to find earlier results. Every field of a dataclass counts, so
a new setting is in every key from the start. A field that does not count says why, with
:func:`apart`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

_APART = "apart"
_ADDED = "added"


def apart(reason: str) -> Mapping[str, str]:
    """Metadata of a field that does not count, for this ``reason``."""
    return {_APART: reason}


def added() -> Mapping[str, str]:
    """Metadata of a field that older harnesses do not have: it counts unless it has its default.

    So the runs of older harnesses are still found.
    """
    return {_ADDED: "later"}


def counting(kind: type[Any]) -> tuple[str, ...]:
    """The names of the fields of the dataclass ``kind`` that count."""
    return tuple(f.name for f in dataclasses.fields(kind) if _APART not in f.metadata)


def members(settings: Any) -> dict[str, Any]:
    """The fields of the dataclass ``settings`` that count, as JSON values."""
    fields = {f.name: f for f in dataclasses.fields(settings)}
    return {
        name: canonical(value)
        for name in counting(type(settings))
        if (value := getattr(settings, name)) != fields[name].default
        or _ADDED not in fields[name].metadata
    }


def canonical(value: Any) -> Any:
    """``value`` as a JSON value. Raises TypeError for a type without a canonical form."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: members(value)}  # two classes may have the same fields
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): canonical(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(member) for member in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


def text(value: Any) -> str:
    """:func:`canonical` as text."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """SHA-256 of :func:`text`."""
    return hashlib.sha256(text(value).encode()).hexdigest()
