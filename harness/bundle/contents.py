# SPDX-License-Identifier: GPL-2.0-only
"""The content of a bundle: bundle.json, schema 1, written and read strictly (docs/replay.md)."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import Malformed
from harness.host.architectures import Arch
from harness.manifest.entries import (
    Abi,
    DebSource,
    FileSource,
    GitSource,
    ImageSource,
    KernelEntry,
    Source,
    TreeSource,
    UpstreamSource,
    UrlSource,
)
from harness.manifest.plan import Plan, Profile
from harness.verdict import rounds
from harness.verdict.results import KernelResult
from harness.verdict.rounds import Repeat
from harness.verdict.verdicts import Family, KernelVerdict

if TYPE_CHECKING:
    from pydantic import ValidationError

    from harness.manifest.schema import DebModel
    from harness.records.from_json import Fields

# What only reading a bundle needs is imported where one is read: pydantic takes 0.1 s, and most
# runs make no bundle and read none.

SCHEMA = 1
#: Members of every bundle, besides the checker's.
MANIFEST, RESULT = "bundle.json", "result.json"
#: Optional members.
KNOWN_ISSUES, CONFIG = "known_issues.yaml", "config"
#: Directories.
CHECKER, IMAGE, MODULES = "checker", "image", "modules"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PYTHON = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*/)*[A-Za-z_][A-Za-z0-9_]*\.py")
_MODULE = re.compile(rf"{MODULES}/[0-9]{{2}}-([A-Za-z0-9_]+)\.ko")


@dataclass(frozen=True)
class Asked:
    """The request to the checker."""

    seed: int
    plan: Plan


@dataclass(frozen=True)
class Bundle:
    """A failed kernel: its boot, the request, and the result.

    ``entry`` has the machine of the boot, but not the known issues, whose text is ``known_issues``.
    ``image`` is None if it is not included; ``modules`` are (name, bytes) in load order.
    ``checker`` has the sources of the guest's package, which uses version ``protocol`` of the
    events. ``versions`` are for people, and so are ``left_out``: members that did not fit.
    """

    entry: KernelEntry
    created: datetime.datetime
    versions: Mapping[str, str]
    image_sha256: str
    image: bytes | None
    release: str
    version: str
    origin: str
    modules: tuple[tuple[str, bytes], ...]
    kvm: bool
    asked: Asked
    expected: Mapping[str, bool]
    checker: Mapping[str, bytes]
    protocol: int
    known_issues: bytes | None
    left_out: tuple[str, ...]
    result: KernelResult


def to_json(bundle: Bundle, members: Mapping[str, bytes]) -> bytes:
    """The bundle.json of ``bundle``, whose other members are ``members``."""
    modules = [name for name in members if name.startswith(f"{MODULES}/")]
    image = next((name for name in members if name.startswith(f"{IMAGE}/")), None)
    plan = bundle.asked.plan
    manifest = {
        "schema": SCHEMA,
        "created": bundle.created.isoformat(timespec="seconds"),
        "entry": _entry_to_json(bundle.entry),
        "versions": dict(bundle.versions),
        "image": {
            "sha256": bundle.image_sha256,
            "release": bundle.release,
            "version": bundle.version,
            "origin": bundle.origin,
            "file": image,
        },
        "modules": modules,
        "protocol": bundle.protocol,
        "accel": "kvm" if bundle.kvm else "tcg",
        "request": {
            "seed": bundle.asked.seed,
            "families": list(plan.families),
            "checks": list(plan.checks),
            "profile": plan.profile,
            "payload": plan.payload,
            **asdict(plan.repeat),
        },
        "expected": dict(bundle.expected),
        "left_out": list(bundle.left_out),
        "files": {
            name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
        },
    }
    return (json.dumps(manifest, indent=1) + "\n").encode()


def parse(members: Mapping[str, bytes]) -> Bundle:
    """The bundle with these ``members``. Raises :class:`Malformed`, which says what is wrong."""
    from pydantic import ValidationError

    try:
        return _bundle(members)
    except ValidationError as error:
        raise Malformed(_first(error)) from error
    except RecursionError as error:
        raise Malformed("it is nested too deeply") from error
    except ValueError as error:
        raise Malformed(str(error)) from error


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False)[0]
    where = ".".join(map(str, found["loc"]))
    return f"entry.{where}: {found['msg'].removeprefix('Value error, ')}"


def _bundle(members: Mapping[str, bytes]) -> Bundle:
    from harness.records.from_json import Fields

    if MANIFEST not in members:
        raise Malformed(f"it has no {MANIFEST}")
    given = Fields("bundle", json.loads(_text(members, MANIFEST)))
    schema = given.take("schema", int)
    if schema != SCHEMA:
        raise Malformed(f"it has schema {schema}, this harness reads {SCHEMA}")
    _check_files(given.fields("files"), members)
    image = given.fields("image")
    file = image.optional("file", str)
    if file is not None and (not file.startswith(f"{IMAGE}/") or file not in members):
        raise Malformed(f"its image {file[:64]!r} is not in it")
    created = datetime.datetime.fromisoformat(given.text("created"))
    found = Bundle(
        entry=_entry(given.take("entry", dict)),
        created=created,
        versions=given.mapping("versions", str),
        image_sha256=_sha256(image),
        image=None if file is None else members[file],
        release=image.text("release"),
        version=image.text("version"),
        origin=image.text("origin"),
        modules=tuple(_module(name, members) for name in given.texts("modules")),
        kvm=given.word("accel", {"kvm": True, "tcg": False}.__getitem__),
        asked=_asked(given.fields("request")),
        expected=given.mapping("expected", bool),
        checker=_checker(members),
        protocol=given.take("protocol", int),
        known_issues=members.get(KNOWN_ISSUES),
        left_out=given.texts("left_out"),
        result=_result(members),
    )
    image.end()
    given.end()
    return found


def _text(members: Mapping[str, bytes], name: str) -> str:
    try:
        return members[name].decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"{name} is not text") from error


def _check_files(files: Fields, members: Mapping[str, bytes]) -> None:
    """Raise Malformed unless ``members`` are exactly those in ``files``."""
    for name, content in members.items():
        if name == MANIFEST:
            continue
        file = files.fields(name)
        if file.take("size", int) != len(content) or (
            file.text("sha256") != hashlib.sha256(content).hexdigest()
        ):
            raise Malformed(f"{name} has other bytes than were written")
        file.end()
    files.end()


def _sha256(given: Fields) -> str:
    text = given.text("sha256")
    if not _SHA256.fullmatch(text):
        raise Malformed("the image's sha256 is not a SHA-256 sum")
    return text


def _module(name: str, members: Mapping[str, bytes]) -> tuple[str, bytes]:
    match = _MODULE.fullmatch(name)
    if match is None or name not in members:
        raise Malformed(f"its module {name[:64]!r} is not in it")
    return match[1], members[name]


def _checker(members: Mapping[str, bytes]) -> dict[str, bytes]:
    prefix = f"{CHECKER}/"
    found = {n.removeprefix(prefix): c for n, c in members.items() if n.startswith(prefix)}
    strange = [name for name in found if not _PYTHON.fullmatch(name)]
    if strange:
        raise Malformed(f"{prefix}{strange[0]} is not a source file of a checker")
    if "__main__.py" not in found:
        raise Malformed("it has no checker")
    return found


def _result(members: Mapping[str, bytes]) -> KernelResult:
    from harness.records.from_json import kernel_from_text

    if RESULT not in members:
        raise Malformed(f"it has no {RESULT}")
    result = kernel_from_text(_text(members, RESULT))
    if result.verdict.as_expected or result.verdict is KernelVerdict.INFRASTRUCTURE:
        raise Malformed(f"its kernel did not fail, its verdict is {result.verdict}")
    return result


def _asked(given: Fields) -> Asked:
    seed = given.take("seed", int)
    plan = Plan(
        families=tuple(map(Family, given.texts("families"))),
        checks=given.texts("checks"),
        # Older harnesses did not record it; they ran all checks of their time.
        profile=given.word("profile", Profile) if given.has("profile") else Profile.FULL,
        payload=given.optional("payload", int),
        repeat=Repeat(
            given.take("rounds", int),
            given.take("until_fail", bool),
            given.optional("seconds", int),
        ),
    )
    given.end()
    numbers = (
        (seed, 0, (1 << 63) - 1),
        (plan.payload or 1, 1, 1 << 24),
        (plan.repeat.rounds, 1, rounds.MOST),
        (plan.repeat.seconds or 1, 1, 1 << 24),
    )
    if not plan.families or not all(least <= number <= most for number, least, most in numbers):
        raise Malformed("its request has no family, or a number out of bounds")
    return Asked(seed, plan)


# The entry has the form of kernels.yaml, so that the manifest's schema validates it.


def _entry_to_json(entry: KernelEntry) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": entry.name[:80],
        **_source_to_json(entry.source),
        "cpus": str(entry.cpus),
        "memory": f"{entry.memory_mib}M",
        "timeout": str(entry.timeout_s),
    }
    if entry.abi is not Abi.NATIVE:
        fields["abi"] = entry.abi.value
    if entry.arch is not Arch.AMD64:
        fields["arch"] = entry.arch.value
    if entry.append:
        fields["append"] = list(entry.append)
    if entry.expect:
        fields["expect"] = {name: str(value).lower() for name, value in entry.expect.items()}
    return fields


def _source_to_json(source: Source) -> dict[str, Any]:
    match source:
        case DebSource(suite, package, mirror=None):
            return {"deb": {"suite": suite, "package": package}}
        case FileSource(files=files):
            return {"image": str(files[0])}
        case DebSource() | GitSource() | UrlSource():
            # Nothing is fetched from an archive or a server because a bundle says so.
            return {"image": _ELSEWHERE}
        case ImageSource(image=image):
            return {"image": str(image)}
        case TreeSource(tree=tree):
            return {"tree": str(tree)}
        case UpstreamSource(tag):
            return {"upstream": tag}


#: Stands for an image that is in no file of the host; its origin is in the result.
_ELSEWHERE = "/dev/null"


def _entry(given: dict[str, Any]) -> KernelEntry:
    """The entry; the paths of its source need not exist. Raises ValidationError."""
    from harness.manifest.schema import EntryModel

    paths = {name: given[name] for name in ("image", "tree") if name in given}
    if not all(type(path) is str and path.startswith("/") for path in paths.values()):
        raise Malformed("the path of its entry is not valid")
    rest = {name: value for name, value in given.items() if name not in paths}
    if rest.keys() - _KEYS or _NEEDED - rest.keys():
        raise Malformed("its entry is not that of one kernel with its machine")
    model = EntryModel.model_validate(rest)
    sources: list[Source] = [
        *_of_archive(model.deb),
        *([UpstreamSource(model.upstream)] if model.upstream else []),
        *([ImageSource(Path(paths["image"]))] if "image" in paths else []),
        *([TreeSource(Path(paths["tree"]))] if "tree" in paths else []),
    ]
    if len(sources) != 1:
        raise Malformed("its entry is not that of one kernel with its source")
    if not (model.name and model.cpus and model.memory and model.timeout):  # null is none
        raise Malformed("its entry is not that of one kernel with its machine")
    return KernelEntry(
        name=model.name,
        source=sources[0],
        where="the bundle",
        cpus=model.cpus,
        memory_mib=model.memory,
        timeout_s=model.timeout,
        append=tuple(argument for group in model.append or [] for argument in group),
        expect=model.expect or {},
        abi=model.abi or Abi.NATIVE,
        arch=model.arch or Arch.AMD64,
    )


def _of_archive(deb: DebModel | None) -> tuple[Source, ...]:
    if deb is None or deb.mirror or not (deb.suite and deb.package):
        return ()
    return (DebSource(deb.suite, deb.package),)


_NEEDED = {"name", "cpus", "memory", "timeout"}
_KEYS = _NEEDED | {"deb", "upstream", "append", "expect", "abi", "arch"}
