# SPDX-License-Identifier: GPL-2.0-only
"""Bundles that somebody crafted: each is refused in a sentence or booted, whatever is in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.bundle import archive
from harness.verdict.verdicts import EXIT_USAGE
from tests.kernels import builders
from tests.replay.conftest import Bench
from tests.replay.test_cli import bundle, replay

__all__ = ["bundle"]

#: What a crafted value may be; the texts lead to a terminal, a shell and a path.
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        [
            *("../../etc/passwd", "/dev/zero", "$(reboot)", "\x1b[2J", "\ud800", "a" * 300, "\0"),
            *("1970-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"),
            *("mptcp_info.*", "ipv4", "kvm", "v6.6", "128M", "999999999T", "0", "-1", "", "6.1.0"),
        ]
    ),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.none(), max_size=2),
)
NO_MODULES = [b"", b"no ELF", b"\x7fELF", b"\x7fELF\x02\x01\x01" + b"\xff" * 57]


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in ``value`` something may be crafted."""
    if path:
        yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        if key != "files":
            yield from places(inner, (*path, key))


def put(value: Any, path: tuple[str | int, ...], what: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = what


def pack(path: Path, members: dict[str, bytes], manifest: dict[str, Any]) -> None:
    """Write the bundle with the sizes and hashes that its members have now."""
    rest = {name: content for name, content in members.items() if name != "bundle.json"}
    manifest["files"] = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in rest.items()
    }
    text = json.dumps(manifest).encode("utf-8", "surrogatepass")
    archive.write(path, {**rest, "bundle.json": text})


@pytest.mark.parametrize("content", NO_MODULES, ids=repr)
def test_a_module_that_is_no_elf_file_is_refused(
    bench: Bench, bundle: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    members = archive.read(bundle)
    members["modules/00-virtio_pci.ko"] = content
    pack(bundle, members, json.loads(members["bundle.json"]))
    assert replay(bench, bundle) == EXIT_USAGE
    assert "the module virtio_pci.ko is damaged" in capsys.readouterr().err
    assert bench.plans == []


def test_a_module_of_another_kernel_is_refused(
    bench: Bench, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = archive.read(bundle)
    members["modules/00-virtio_pci.ko"] = builders.module("virtio_pci", release="6.6.6")
    pack(bundle, members, json.loads(members["bundle.json"]))
    assert replay(bench, bundle) == EXIT_USAGE
    assert "the modules are for 6.6.6" in capsys.readouterr().err


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_value_in_a_bundle_is_refused_in_words_or_booted(
    bench: Bench, bundle: Path, capsys: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    """Fails with the exception where one gets through, as a traceback does to the user."""
    members = archive.read(bundle)
    manifest = json.loads(members["bundle.json"])
    result = json.loads(members["result.json"])
    whole = {"manifest": manifest, "result": result}
    where = data.draw(st.sampled_from(list(places(whole))), "where")
    put(whole, where, data.draw(VALUES, "value"))
    members["result.json"] = json.dumps(whole["result"]).encode("utf-8", "surrogatepass")
    crafted = bundle.with_name("crafted.bundle.tar.zst")
    if isinstance(whole["manifest"], dict):
        pack(crafted, members, whole["manifest"])
    status = replay(bench, crafted)
    assert status in (0, 1, 2, 3)
    shutil.rmtree(bench.directory / "state", ignore_errors=True)
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
