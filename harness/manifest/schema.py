# SPDX-License-Identifier: GPL-2.0-only
"""The schema of ``kernels.yaml``: the type of each key.

The models mirror the file. Every scalar is text until its type here parses it; pydantic's own
conversions would accept ``1_000`` or `` 7 `` as numbers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
)

from harness.host.architectures import Arch, of_machine
from harness.manifest.entries import Abi, Accel, PathKind, locate
from harness.manifest.expectations import CAPABILITIES
from harness.manifest.fixes_table import FIXES
from harness.manifest.positions import DataPath, Document, Position, Problem, kind, show_path
from harness.text import quoted

MIN_MEMORY_MIB, MAX_MEMORY_MIB = 128, 64 * 1024
# x86 allows 2048 bytes in all, of which virtme-ng's own arguments need about half. The arguments of
# the defaults and of an entry add up.
MAX_APPEND = 512

# Arguments that the harness and virtme-ng set themselves.
_OWNED_ARGUMENTS = {
    "init": "virtme-ng starts the guest's init itself",
    "rdinit": "virtme-ng starts the guest's init itself",
    "root": "the harness provides the guest's root",
    "rootfstype": "the harness provides the guest's root",
    "rootflags": "the harness provides the guest's root",
    "console": "the harness reads the kernel's log from the console it set up",
    "quiet": "the harness reads the whole log of the kernel",
    "loglevel": "the harness reads the whole log of the kernel",
    "earlyprintk": "the harness reads the kernel's log from the console it set up",
    "panic": "the harness decides what follows a panic",
}


def _text(value: object, wanted: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"expected {wanted}, found {kind(value)}")


def _matching(pattern: str, wanted: str) -> PlainValidator:
    def read(value: object) -> str:
        text = _text(value, wanted)
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {wanted}, found {quoted(text)}")
        return text

    return PlainValidator(read)


def _number(low: int, high: int, unit: str) -> PlainValidator:
    wanted = f"a whole number of {unit} from {low} to {high}"

    def read(value: object) -> int:
        text = _text(value, wanted)
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"expected {wanted}, found {quoted(text)}")
        return int(text)

    return PlainValidator(read)


def _path(wanted: PathKind) -> PlainValidator:
    def read(value: object, info: ValidationInfo[Path]) -> Path:
        return locate(_text(value, f"the path of a {wanted}"), info.context, wanted)

    return PlainValidator(read)


def _memory(value: object) -> int:
    wanted = "an amount of memory from 128M to 64G, such as 512M or 2G"
    text = _text(value, wanted)
    match = re.fullmatch(r"([0-9]{1,9})([MG])", text)
    mib = int(match[1]) * (1024 if match[2] == "G" else 1) if match else 0
    if not MIN_MEMORY_MIB <= mib <= MAX_MEMORY_MIB:
        raise ValueError(f"expected {wanted}, found {quoted(text)}")
    return mib


def _accel(value: object) -> Accel:
    text = _text(value, "auto, kvm or tcg")
    if text not in tuple(Accel):
        raise ValueError(f"expected auto, kvm or tcg, found {quoted(text)}")
    return Accel(text)


def _arch(value: object) -> Arch:
    wanted = f"{', '.join(tuple(Arch)[:-1])} or {tuple(Arch)[-1]}"
    text = _text(value, wanted)
    if text in tuple(Arch):
        return Arch(text)
    meant = of_machine(text)
    hint = f"; {quoted(text)} is called {meant} here" if meant else ""
    raise ValueError(f"expected {wanted}, found {quoted(text)}{hint}")


def _abi(value: object) -> Abi:
    text = _text(value, "native or i386")
    if text not in tuple(Abi):
        raise ValueError(f"expected native or i386, found {quoted(text)}")
    return Abi(text)


def flag(value: object) -> bool:
    """True or false, as YAML 1.2 has them. Raises ValueError for anything else."""
    text = _text(value, "true or false")
    if text not in ("true", "false"):
        raise ValueError(f"expected true or false, spelled exactly so, found {quoted(text)}")
    return text == "true"


def _expectable(name: str) -> str:
    if name in CAPABILITIES or any(name == fix.commit for fix in FIXES):
        return name
    if re.fullmatch(r"[0-9a-f]{7,40}", name):
        raise ValueError(
            "no check shows a fix of this commit; `mptcp-harness list fixes` shows those known"
        )
    raise ValueError(f"unknown capability{nearest(name, CAPABILITIES)}")


def _listed(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if value == []:
        raise ValueError("an empty list; give an argument or omit the key")
    return value


def _arguments(value: object) -> tuple[str, ...]:
    arguments = tuple(_text(value, "kernel arguments, such as 'slub_debug=FZ'").split(" "))
    for argument in arguments:
        _refuse_argument(argument)
    return tuple(argument for argument in arguments if argument)


def _refuse_argument(argument: str) -> None:
    """Raise ValueError unless ``argument`` is allowed on the kernel's command line."""
    for character in argument:
        # virtme-ng splits its arguments like a shell, and passes its own command to a shell
        if not "!" <= character <= "~" or character in "\"'\\`$;&|<>":
            shown = quoted(character)
            raise ValueError(
                f"the character {shown} is not allowed in a kernel argument; remove it"
            )
    # the kernel treats - and _ in a parameter's name alike
    name = argument.split("=", 1)[0].replace("-", "_")
    if argument.startswith("-"):
        raise ValueError(
            f"{quoted(argument)}: a kernel argument does not begin with '-', "
            "and what follows '--' belongs to init; remove it"
        )
    if name.startswith("virtme"):
        raise ValueError(f"{quoted(argument)}: virtme-ng sets its own arguments; remove it")
    if name in _OWNED_ARGUMENTS:
        raise ValueError(f"{quoted(argument)}: {_OWNED_ARGUMENTS[name]}; remove it")


def _short_enough(arguments: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    length = sum(len(argument) + 1 for group in arguments for argument in group)
    if length > MAX_APPEND:
        raise ValueError(
            f"{length} characters of kernel arguments, but at most {MAX_APPEND} fit; remove some"
        )
    return arguments


Arguments = Annotated[
    list[Annotated[tuple[str, ...], PlainValidator(_arguments)]],
    BeforeValidator(_listed),
    AfterValidator(_short_enough),
]
Expect = dict[Annotated[str, AfterValidator(_expectable)], Annotated[bool, PlainValidator(flag)]]
Name = Annotated[
    str,
    _matching(
        r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}",
        "a name for a file: a letter or digit, then at most 79 letters, digits or ._+-",
    ),
]
# Debian policy 5.6.7; names in dists/ have the same characters
Package = Annotated[
    str,
    _matching(
        r"[a-z0-9][a-z0-9+.*?\[\]!-]{1,199}",
        "a package such as linux-image-amd64, or a pattern in a series",
    ),
]
Suite = Annotated[
    str, _matching(r"[a-z0-9][a-z0-9.+-]{0,63}", "a suite of the archive, such as bookworm")
]
Tag = Annotated[
    str,
    _matching(
        r"v[0-9]{1,3}\.[0-9]{1,3}(\.[0-9]{1,4}|-rc[0-9]{1,3})?",
        "a mainline or stable tag such as v6.6, v6.6.12 or v6.7-rc1",
    ),
]
Sha256 = Annotated[str, _matching(r"[0-9A-Fa-f]{64}", "a SHA-256 sum of 64 hexadecimal digits")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


def _files(value: object, info: ValidationInfo[Path]) -> tuple[Path, ...]:
    """One path, or the list of the files that make up a kernel."""
    given = value if isinstance(value, list) and value else [value]
    texts = [_text(each, "the path of a file, or a list of paths") for each in given]
    return tuple(locate(text, info.context, PathKind.FILE) for text in texts)


def _address(value: object) -> str:
    text = _text(value, "an address that begins with https://, http:// or file:///")
    if not re.fullmatch(r"(?:https?://[^\s/]+|file://)/[!-~]*", text):
        raise ValueError(
            "expected an address such as https://example.org/bzImage or file:///boot/vmlinuz, "
            f"found {quoted(text)}"
        )
    return text


Address = Annotated[str, PlainValidator(_address)]
Files = Annotated[tuple[Path, ...], PlainValidator(_files)]


class DebModel(_Model):
    """``file``, or ``suite`` and ``package``; see :data:`DEB_KEYS`."""

    suite: Suite | None = None
    package: Package | None = None
    mirror: Address | None = None
    signed_by: Annotated[Path, _path(PathKind.FILE)] | None = None
    file: Files | None = None


class ArchiveModel(_Model):
    file: Files


def _clone(value: object, info: ValidationInfo[Path]) -> str:
    """The path of a clone, made absolute, or an address."""
    text = _text(value, "the path or the address of a git clone")
    if re.fullmatch(r"(?:https?|git|ssh|file)://[!-~]+", text):
        return text
    return str(locate(text, info.context, PathKind.DIRECTORY))


def _configurations(value: object, info: ValidationInfo[Path]) -> tuple[str, ...]:
    """Names and paths of fragments; that of a file beside the manifest is made absolute."""
    given = value if isinstance(value, list) else [value]
    texts = [_text(each, "configurations, such as debug or [kasan, my.config]") for each in given]
    found = []
    for text in texts:
        if not text.isprintable() or ".." in text.split("/")[1:]:
            raise ValueError(f"{quoted(text)} is not the name of a configuration; correct it")
        path = info.context / Path(text).expanduser()
        is_path = path.is_file() or text.startswith(("/", "~", "."))
        found.append(str(locate(text, info.context, PathKind.FILE)) if is_path else text)
    return tuple(found)


def _patches(value: object, info: ValidationInfo[Path]) -> tuple[Path, ...]:
    given = value if isinstance(value, list) and value else [value]
    texts = [_text(each, "the path of a patch or of a directory of patches") for each in given]
    return tuple(locate(text, info.context, PathKind.PATCH) for text in texts)


_REF = r"[A-Za-z0-9][A-Za-z0-9._/+@^~{}-]{0,199}"
Ref = Annotated[str, _matching(_REF, "a branch, tag or commit such as origin/export or v6.12.5")]
Refs = Annotated[
    str, _matching(r"[A-Za-z0-9*?\[][A-Za-z0-9._/+*?\[\]!-]{0,199}", "a pattern such as 'v6.12.*'")
]
Toolchain = Annotated[str, _matching(r"gcc|clang", "gcc or clang")]
Clone = Annotated[str, PlainValidator(_clone)]


class GitModel(_Model):
    """``ref``, or in a series ``refs``."""

    repo: Clone | None = None
    ref: Ref | None = None
    refs: Refs | None = None
    config: Annotated[tuple[str, ...], PlainValidator(_configurations)] = ()
    toolchain: Toolchain = "gcc"
    patches: Annotated[tuple[Path, ...], PlainValidator(_patches)] = ()
    fetch: Annotated[bool, PlainValidator(flag)] = False


class UrlModel(_Model):
    image: Address
    modules: Address | None = None
    sha256: Sha256 | None = None


class DefaultsModel(_Model):
    """The keys of ``defaults`` and of every entry."""

    cpus: Annotated[int, _number(1, 64, "processors")] | None = None
    memory: Annotated[int, PlainValidator(_memory)] | None = None  # MiB
    timeout: Annotated[int, _number(10, 3600, "seconds")] | None = None
    accel: Annotated[Accel, PlainValidator(_accel)] | None = None
    abi: Annotated[Abi, PlainValidator(_abi)] | None = None
    arch: Annotated[Arch, PlainValidator(_arch)] | None = None
    append: Arguments | None = None
    expect: Expect | None = None
    known_issues: Annotated[Path, _path(PathKind.FILE)] | None = None


class EntryModel(DefaultsModel):
    """An entry of ``kernels``. That it has one name and one source is checked elsewhere."""

    name: Name | None = None
    series: Name | None = None
    deb: DebModel | None = None
    image: Annotated[Path, _path(PathKind.IMAGE)] | None = None
    modules: Annotated[Path, _path(PathKind.DIRECTORY)] | None = None
    sha256: Sha256 | None = None
    git: GitModel | None = None
    tree: Annotated[Path, _path(PathKind.DIRECTORY)] | None = None
    upstream: Tag | None = None
    rpm: ArchiveModel | None = None
    tar: ArchiveModel | None = None
    url: UrlModel | None = None


class SharedModel(DefaultsModel):
    """The keys of ``defaults``. ``git`` is the clone of entries that name none."""

    git: Clone | None = None


class FileModel(_Model):
    defaults: SharedModel = SharedModel()
    kernels: Annotated[list[EntryModel], Field(min_length=1)]


# The expected shape of the value of each key, for error messages.
_SHAPES = {
    "kernels": "a list, each item such as '- name: patched' with 'image: bzImage' under it",
    "defaults": "a mapping such as {cpus: 1, memory: 512M}",
    "deb": "a mapping such as {suite: bookworm, package: linux-image-amd64}",
    "git": "a mapping such as {ref: origin/export, config: [debug]}",
    "rpm": "a mapping such as {file: kernel-core.rpm}",
    "tar": "a mapping such as {file: linux.tar.gz}",
    "url": "a mapping such as {image: https://example.org/bzImage}",
    "expect": "a mapping such as {full_info: false}",
    "append": "kernel arguments as text or as a list of texts",
}
_ENTRY_SHAPE = "a mapping with a name and a source"
_FILE_SHAPE = "a mapping such as {kernels: [{name: mainline, upstream: v6.6}]}"


def validate(document: Document, base: Path) -> tuple[FileModel | None, list[Problem]]:
    """The typed file, or None and all errors that the schema finds.

    Relative paths start at the directory ``base``.
    """
    try:
        return FileModel.model_validate(document.data, context=base), []
    except ValidationError as error:
        return None, [_problem(document, found) for found in error.errors(include_url=False)]


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: the nearest known one, or all known ones."""
    known = list(known)
    close = difflib.get_close_matches(word.lower(), known, n=1) if len(word) <= 80 else []
    return f", did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}"


def _problem(document: Document, found: Any) -> Problem:
    """pydantic's error dict ``found`` as a problem at its place in the manifest."""
    path: DataPath = found["loc"]
    if found["type"] == "extra_forbidden":
        text = "unknown key" + nearest(str(path[-1]), _known_keys(path[:-1]))
        return Problem(document.keys[path], show_path(path), text)
    if found["type"] == "missing":
        path, key = path[:-1], path[-1]
        text = f"the key {key!r} is missing; expected {_shape(path)}"
        return Problem(document.values[path], show_path(path), text)
    if path not in document.values and path[-1] == "[key]":
        path = path[:-1]
        return Problem(document.keys[path], show_path(path), str(found["ctx"]["error"]))
    path, place = _known_place(document, path)
    return Problem(place, show_path(path), _words(found, path))


def _words(found: Any, path: DataPath) -> str:
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    if found["type"] == "too_short":
        return "an empty list; give at least one kernel"
    return f"expected {_shape(path)}, found {kind(found['input'])}"


def _shape(path: DataPath) -> str:
    if not path:
        return _FILE_SHAPE
    return _SHAPES.get(str(path[-1]), _ENTRY_SHAPE)


def _known_place(document: Document, path: DataPath) -> tuple[DataPath, Position]:
    """``path``, or its parent: a single argument given as a string has no list index."""
    while path not in document.values:
        path = path[:-1]
    return path, document.values[path]


def _known_keys(path: DataPath) -> Iterable[str]:
    if not path:
        return FileModel.model_fields
    if path == ("defaults",):
        return SharedModel.model_fields
    return _MODELS.get(str(path[-1]), EntryModel).model_fields


#: The models of the sources that are mappings.
_MODELS: dict[str, type[BaseModel]] = {
    "deb": DebModel,
    "git": GitModel,
    "rpm": ArchiveModel,
    "tar": ArchiveModel,
    "url": UrlModel,
}
