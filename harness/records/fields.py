# SPDX-License-Identifier: GPL-2.0-only
"""An object of JSON that was not written here and now: read member by member, and strictly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from harness.errors import Malformed

_T = TypeVar("_T")


class Fields:
    """An object of JSON whose members are taken one by one, each checked for its type."""

    def __init__(self, where: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise Malformed(f"{where} is no object")
        self._where = where
        self._left = dict(value)

    def take(self, name: str, kind: type[_T]) -> _T:
        """The member ``name``, which is exactly of type ``kind``: 1 is no True, and no 1.0."""
        if name not in self._left:
            raise Malformed(f"{self._where} lacks {name!r}")
        value = self._left.pop(name)
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            raise Malformed(f"{self._where}: {name!r} is not of type {kind.__name__}")
        return value

    def text(self, name: str) -> str:
        return self.take(name, str)

    def word(self, name: str, words: Callable[[str], _T]) -> _T:
        """The member ``name`` as one of a closed set."""
        text = self.take(name, str)
        try:
            return words(text)
        except (ValueError, KeyError) as error:
            raise Malformed(f"{self._where}: {name!r} cannot be {text[:64]!r}") from error

    def optional_word(self, name: str, words: Callable[[str], _T]) -> _T | None:
        """As :meth:`word`, of a member that may be null but not absent."""
        if self._left.get(name, ...) is None:
            del self._left[name]
            return None
        return self.word(name, words)

    def has(self, name: str) -> bool:
        return name in self._left

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        """The member ``name``, which may be null but not absent."""
        if self._left.get(name, ...) is None:
            del self._left[name]
            return None
        return self.take(name, kind)

    def later(self, name: str, kind: type[_T]) -> _T | None:
        """As :meth:`optional`, of a member that records of older harnesses do not have."""
        return self.optional(name, kind) if name in self._left else None

    def added(self, name: str, kind: type[_T], otherwise: _T) -> _T:
        """As :meth:`take`; ``otherwise`` is what records of older harnesses mean, which lack it."""
        return self.take(name, kind) if name in self._left else otherwise

    def fields(self, name: str) -> Fields:
        return Fields(f"{self._where}.{name}", self.take(name, dict))

    def each(
        self, name: str, make: Callable[[Fields], _T], *, since: bool = False
    ) -> tuple[_T, ...]:
        """The objects in the list ``name``, by ``make``; ``since``: older records lack the list."""
        items: list[Any] = self.added(name, list, []) if since else self.take(name, list)
        return tuple(make(Fields(f"{self._where}.{name}[{i}]", x)) for i, x in enumerate(items))

    def texts(self, name: str) -> tuple[str, ...]:
        items = self.take(name, list)
        if not all(type(item) is str for item in items):
            raise Malformed(f"{self._where}: {name!r} holds something else than text")
        return tuple(items)

    def mapping(self, name: str, kind: type[_T]) -> dict[str, _T]:
        """The object ``name``, whose members have any name and one type."""
        items = self.fields(name)
        return {key: items.take(key, kind) for key in list(items._left)}

    def end(self) -> None:
        """Raises where a member was not taken."""
        if self._left:
            raise Malformed(f"{self._where} has {next(iter(self._left))!r}, which is unknown")
