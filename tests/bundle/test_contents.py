# SPDX-License-Identifier: GPL-2.0-only
"""A bundle.json from anywhere: what is not exactly of its shape is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.bundle import archive, load
from harness.errors import Damaged
from tests.bundle.support import Failing

Bend = Callable[[dict[str, Any]], object]


@pytest.fixture
def members(failing: Failing) -> dict[str, bytes]:
    failing.with_image = True
    failing.keep()
    return archive.read(failing.bundle)


def refusal(path: Path, members: dict[str, bytes]) -> str:
    archive.write(path, members)
    with pytest.raises(Damaged) as refused:
        load(path)
    return str(refused.value)


def bent(members: dict[str, bytes], bend: Bend) -> dict[str, bytes]:
    manifest = json.loads(members["bundle.json"])
    bend(manifest)
    return {**members, "bundle.json": json.dumps(manifest).encode()}


def with_file(members: dict[str, bytes], name: str, content: bytes) -> dict[str, bytes]:
    """``members`` with one more, or another one, that is listed as it is to be."""
    listed = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {**bent(members, lambda m: m["files"].update({name: listed})), name: content}


def put(value: object, *path: str) -> Bend:
    """Sets what stands at ``path``."""

    def bend(manifest: dict[str, Any]) -> None:
        for name in path[:-1]:
            manifest = manifest[name]
        manifest[path[-1]] = value

    return bend


BENT: dict[str, tuple[Bend, str]] = {
    "another schema": (put(2, "schema"), "it has schema 2, this harness reads 1"),
    "a missing key": (lambda m: m.pop("accel"), "bundle lacks 'accel'"),
    "an unknown key": (put(1, "more"), "bundle has 'more', which is unknown"),
    "an unknown key of the image": (put(1, "image", "more"), "bundle.image has 'more'"),
    "another accelerator": (put("hax", "accel"), "'accel' cannot be 'hax'"),
    "a hash that is none": (
        put("0" * 63, "image", "sha256"),
        "the image's sha256 is not a SHA-256 sum",
    ),
    "an image outside": (put("../x", "image", "file"), "its image '../x' is not in it"),
    "a module outside": (put(["/etc/x.ko"], "modules"), "its module '/etc/x.ko' is not in it"),
    "a seed that is too large": (put(1 << 63, "request", "seed"), "a number out of bounds"),
    "a seed that is true": (put(True, "request", "seed"), "'seed' is not of type int"),
    "no family": (put([], "request", "families"), "its request has no family"),
    "an unknown family": (put(["ipx"], "request", "families"), "'ipx' is not a valid Family"),
    "endless rounds": (put(1 << 40, "request", "rounds"), "a number out of bounds"),
    "a date that is none": (put("yesterday", "created"), "Invalid isoformat string"),
    "a name that is a path": (put("../k", "entry", "name"), "entry.name: "),
    "a shell's words": (put("a;reboot", "entry", "append"), "is not allowed in a kernel argument"),
    "an init of its own": (put("rdinit=/x", "entry", "append"), "starts the guest's init itself"),
    "too little memory": (put("1M", "entry", "memory"), "an amount of memory"),
    "a thousand processors": (put("1000", "entry", "cpus"), "a whole number of processors"),
    "no source": (lambda m: m["entry"].pop("deb"), "not that of one kernel"),
    "two sources": (put("v6.6", "entry", "upstream"), "not that of one kernel"),
    "a series": (put("s", "entry", "series"), "not that of one kernel"),
    "a file of known issues": (put("/etc/passwd", "entry", "known_issues"), "not that of one"),
    "a tag with options": (put("-x", "entry", "upstream"), "a mainline or stable tag"),
    "a relative path": (put("x", "entry", "image"), "the path of its entry is not valid"),
    "an unknown capability": (put("true", "entry", "expect", "telepathy"), "unknown capability"),
    "another size": (put(1, "files", "result.json", "size"), "result.json has other bytes"),
    "a file too few": (lambda m: m["files"].pop("result.json"), "bundle.files lacks 'result.json'"),
    "a file too many": (put({}, "files", "x"), "bundle.files has 'x', which is unknown"),
}


@pytest.mark.parametrize(("bend", "said"), BENT.values(), ids=list(BENT))
def test_what_is_not_of_its_shape_is_refused(
    tmp_path: Path, members: dict[str, bytes], bend: Bend, said: str
) -> None:
    assert said in refusal(tmp_path / "b", bent(members, bend))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b'{"schema": NaN}'], ids=range(7)
)
def test_what_is_no_object_is_refused(
    tmp_path: Path, members: dict[str, bytes], text: bytes
) -> None:
    assert "is not a valid bundle" in refusal(tmp_path / "b", {**members, "bundle.json": text})


@pytest.mark.parametrize("name", ["bundle.json", "result.json", "checker/__main__.py"])
def test_what_is_needed_is_missed(tmp_path: Path, members: dict[str, bytes], name: str) -> None:
    del members[name]
    if name != "bundle.json":
        members = bent(members, lambda m: m["files"].pop(name))
    assert "it has no " in refusal(tmp_path / "b", members)


def test_a_member_with_other_bytes_is_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    members["checker/__main__.py"] = b"# runt\n"
    said = refusal(tmp_path / "b", members)
    assert "checker/__main__.py has other bytes than were written" in said


def test_a_result_that_is_good_is_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    result = json.loads(members["result.json"])
    result["verdict"] = "pass"
    said = refusal(tmp_path / "b", with_file(members, "result.json", json.dumps(result).encode()))
    assert "its kernel did not fail" in said


@pytest.mark.parametrize("name", ["checker/x.so", "checker/x.pth", "checker/a-b/c.py"])
def test_a_checker_is_of_python_sources(
    tmp_path: Path, members: dict[str, bytes], name: str
) -> None:
    said = refusal(tmp_path / "b", with_file(members, name, b""))
    assert f"{name} is not a source file of a checker" in said


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_refused_in_a_sentence_or_does_no_harm(
    failing: Failing, data: st.DataObject
) -> None:
    if not failing.bundle.exists():
        failing.keep()
    whole = failing.bundle.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    spoilt = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    place = failing.directory / "spoilt"
    place.write_bytes(spoilt)
    with contextlib.suppress(Damaged):
        assert load(place) == load(failing.bundle)  # what padded something
