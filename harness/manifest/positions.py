# SPDX-License-Identifier: GPL-2.0-only
"""YAML with positions: every value keeps its line and column, every scalar stays text.

PyYAML's BaseLoader leaves scalars untyped, so that ``6.10`` is not 6.1 and ``no`` is not false; the
schema types them. It also silently accepts duplicate keys, follows an alias into itself, and
recurses without limit; this module rejects all of these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import yaml

from harness.text import quoted

MAX_BYTES = 1024 * 1024  # what PyYAML reads in a few seconds
MAX_DEPTH = 16  # a manifest needs five
MAX_VALUES = 20_000  # after aliases are followed: about two thousand kernels
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels; a manifest needs no more than five"
TOO_MANY = f"more than {MAX_VALUES} values once aliases are followed; split the file"

Data: TypeAlias = "str | list[Data] | dict[str, Data]"
DataPath: TypeAlias = tuple[str | int, ...]

_KINDS = {
    yaml.ScalarNode: "tag:yaml.org,2002:str",
    yaml.SequenceNode: "tag:yaml.org,2002:seq",
    yaml.MappingNode: "tag:yaml.org,2002:map",
}

# PyYAML's messages for the most common mistakes do not say how to fix them.
_REMEDIES = (
    ("found character '\\t'", "indent with spaces, not tabs"),
    ("cannot start any token", "quote a value that begins with it"),
    ("mapping values are not allowed here", "quote a value that holds ': ' and align the keys"),
    ("could not find expected ':'", "write 'key: value', with a space after the colon"),
    ("while scanning an alias", "quote a value that begins with '*'"),
    ("found undefined alias", "quote a value that begins with '*'"),
    ("found duplicate anchor", "give each anchor its own name"),
    ("found unexpected end of stream", "close the quotes"),
    ("expected a single document", "keep one document: remove the line '---'"),
    ("expected ',' or", "close the brackets"),
    ("did not find expected", "align the lines of one list or mapping"),
    ("expected <block end>", "align the lines of one list or mapping"),
)


@dataclass(frozen=True, order=True)
class Position:
    """A position in a file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, order=True)
class Problem:
    """An error in a file, and its place. ``path`` is the output of :func:`show_path`."""

    position: Position
    path: str
    text: str


@dataclass(frozen=True)
class Document:
    """A file's ``data``, the positions of all ``values`` and ``keys`` by path, and its errors."""

    data: Data
    values: Mapping[DataPath, Position]
    keys: Mapping[DataPath, Position]
    problems: tuple[Problem, ...]


class DocumentError(Exception):
    """The file cannot be parsed; ``problem`` says why."""

    def __init__(self, position: Position, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(position, show_path(()), text)


def parse(content: bytes, holds: str = "kernels") -> Document:
    """The YAML document in ``content``, which should have a list under the key ``holds``.

    Raises :class:`DocumentError` for what is not UTF-8, not YAML, empty, more than one document,
    too deep or too large once aliases are followed, or contains itself.
    """
    text = _decode(content)
    node = _compose(text)
    if node is None:
        raise DocumentError(
            Position(1, 1), f"the file is empty; write '{holds}:' and a list under it"
        )
    tree = _Tree()
    data = tree.read(node, ())
    return Document(data, tree.values, tree.keys, tuple(tree.problems))


def show_path(path: DataPath) -> str:
    """``("kernels", 2, "deb")`` as ``kernels[2].deb``; the whole file is ``manifest``."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z0-9_-]{1,60}", part):
            shown += f".{part}" if shown else part
        else:
            shown += f"[{quoted(part)}]"
    return shown or "manifest"


def kind(value: object) -> str:
    """The type of a value of a document, for "found …"."""
    if isinstance(value, str):
        return quoted(value) if value else "nothing"
    return "a list" if isinstance(value, list) else "a mapping"


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = content[: error.start].decode("utf-8-sig", errors="replace")
        raise DocumentError(
            _end_of(good), f"byte 0x{content[error.start]:02x} is not UTF-8; save it as UTF-8"
        ) from None


class _Loader(yaml.BaseLoader):
    """Composes within the limits: PyYAML recurses once per level, and is slow."""

    depth = 0
    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        try:
            if self.depth > MAX_DEPTH or self.nodes > 2 * MAX_VALUES:  # a key is a node too
                event = self.peek_event()  # type: ignore[no-untyped-call]
                text = TOO_DEEP if self.depth > MAX_DEPTH else TOO_MANY
                raise DocumentError(_position(event.start_mark), text)
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _compose(text: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        place = _end_of(text[: error.position])
        character = f"U+{ord(text[error.position]):04X}"
        raise DocumentError(place, f"YAML does not allow the character {character}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _position(mark) if mark else Position(1, 1)
        raise DocumentError(place, _syntax(error)) from None
    except (ValueError, OverflowError):
        # chr() and int() in PyYAML can fail: "\UFFFFFFFF", a %YAML directive of thousands of digits
        place = _position(loader.get_mark()) if loader else Position(1, 1)
        raise DocumentError(place, "not valid YAML: a number is out of range") from None


def _syntax(error: yaml.MarkedYAMLError) -> str:
    said = ", ".join(part for part in (error.context, error.problem) if part)
    if len(said) > 200:
        said = said[:200] + "…"
    remedy = next((hint for words, hint in _REMEDIES if words in said), "")
    return f"not valid YAML: {said}" + (f"; {remedy}" if remedy else "")


def _position(mark: yaml.Mark) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _end_of(text: str) -> Position:
    return Position(text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1)


def _scalar(node: yaml.ScalarNode) -> str:
    text = str(node.value)
    if any("\ud800" <= character <= "\udfff" for character in text):
        # "\ud800" in quotes: half of a surrogate pair, which neither pydantic nor a terminal
        # accepts
        raise DocumentError(_position(node.start_mark), f"{quoted(text)} is not Unicode text")
    return text


class _Tree:
    """Turns nodes into data and records their positions. Aliases are followed."""

    def __init__(self) -> None:
        self.values: dict[DataPath, Position] = {}
        self.keys: dict[DataPath, Position] = {}
        self.problems: list[Problem] = []
        self._open: list[yaml.Node] = []

    def read(self, node: yaml.Node, path: DataPath) -> Data:
        place = _position(node.start_mark)
        if any(node is outer for outer in self._open):
            raise DocumentError(place, "an alias inside its own anchor; write the value out")
        if len(self._open) >= MAX_DEPTH:
            raise DocumentError(place, TOO_DEEP)
        if len(self.values) >= MAX_VALUES:
            raise DocumentError(place, TOO_MANY)
        self.values[path] = place
        self._refuse_tag(node, path)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode), "PyYAML has three kinds of nodes"
            return _scalar(node)
        finally:
            self._open.pop()

    def _mapping(self, node: yaml.MappingNode, path: DataPath) -> dict[str, Data]:
        data: dict[str, Data] = {}
        for key, value in node.value:
            place = _position(key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                self._wrong(place, path, "a key that is not plain text; write 'key: value'")
                continue
            self._refuse_tag(key, path)
            name = _scalar(key)
            full = (*path, name)
            if name == "<<":
                text = "merge keys are not supported; put shared settings under 'defaults'"
                self._wrong(place, full, text)
            elif name in data:
                text = f"a key given twice, first on line {self.keys[full].line}; keep one"
                self._wrong(place, full, text)
            else:
                self.keys[full] = place
                data[name] = self.read(value, full)
        return data

    def _refuse_tag(self, node: yaml.Node, path: DataPath) -> None:
        if node.tag != _KINDS[type(node)]:
            tag = quoted(node.tag.replace("tag:yaml.org,2002:", "!!"))
            text = f"the tag {tag} has no meaning here; write only the value"
            self._wrong(_position(node.start_mark), path, text)

    def _wrong(self, place: Position, path: DataPath, text: str) -> None:
        self.problems.append(Problem(place, show_path(path), text))
