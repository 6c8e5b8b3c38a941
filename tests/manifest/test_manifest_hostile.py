# SPDX-License-Identifier: GPL-2.0-only
"""Whatever a file holds, it gives a manifest or errors with a place, and soon."""

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.manifest.kernels_yaml import Manifest, ManifestError, load
from harness.manifest.positions import MAX_VALUES

# Pieces that a YAML parser gives a meaning to, and the manifest's own words.
PIECES = [
    *("\n", "\n  ", "\n    ", " ", "\t", ": ", "- ", "? ", ", ", "{", "}", "[", "]", "'", '"', "#"),
    *("&a ", "*a", "<<", "!!int ", "!x ", "!<", "|", ">", "%YAML 1.1", "%TAG ! x", "---", "..."),
    *("\\x00", "\\ud800", "\\UFFFFFFFF", "\r", "\x85", "\u2028", "\ufeff", "\0", "é", "~", "\\"),
    *("kernels", "defaults", "name", "series", "deb", "suite", "package", "image", "modules"),
    *("sha256", "tree", "upstream", "append", "expect", "cpus", "memory", "timeout", "accel"),
    *("known_issues", "mptcp", "true", "v6.6", "trixie", "linux-image-*", "512M", "10", "[key]"),
]
ERROR = re.compile(r"[^\n]*kernels\.yaml:[1-9][0-9]*:[1-9][0-9]*: [^\n]+: [^\n]+")


def errors_of(content: bytes) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernels.yaml"
        path.write_bytes(content)
        try:
            assert isinstance(load(path), Manifest)
        except ManifestError as error:
            return error.errors or ("no error said",)
    return ()


def check(content: bytes) -> None:
    errors = errors_of(content)
    assert all(ERROR.fullmatch(error) for error in errors), errors


def mappings(keys: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.dictionaries(st.sampled_from(keys), values, max_size=5).map(
        lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
    )


values = st.recursive(
    st.sampled_from([*PIECES[-10:], '"\\ud800"', "''", "&a x", "*a", "../x", "'\\0'", "~nobody/x"]),
    lambda inner: (
        mappings(PIECES, inner)
        | st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
    ),
    max_leaves=8,
)


@settings(deadline=None)  # machines that boot kernels are busy
@given(st.binary(max_size=200))
@example(b"kernels: \xff")
def test_any_bytes_give_a_manifest_or_errors(content: bytes) -> None:
    check(content)


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@example('kernels: [{name: "\\ud800"}]')
@example('"\\UFFFFFFFF"')
@example("%YAML 1." + "1" * 5000 + "\n--- a")
@example("&a [*a]")
def test_any_pieces_of_yaml_give_a_manifest_or_errors(text: str) -> None:
    check(text.encode())


@settings(deadline=None)
@given(
    mappings(["defaults", "<<"], values),
    st.lists(mappings(PIECES[-29:], values), max_size=3).map(", ".join),
)
def test_any_values_under_known_keys_give_a_manifest_or_errors(defaults: str, kernels: str) -> None:
    check(f"defaults: {defaults}\nkernels: [{kernels}]\n".encode())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[a, " * 100_000, id="brackets"),
        pytest.param("- " * 100_000, id="lists"),
        pytest.param("? " * 100_000, id="keys"),
        pytest.param("[" + "a," * (MAX_VALUES + 1) + "]", id="items"),
        pytest.param("a: &a x\nb: [" + "*a," * (MAX_VALUES + 1) + "]", id="aliases"),
        pytest.param(
            "kernels:\n- " + "\n  ".join(f"cpux{i}: 1" for i in range(2_000)), id="unknown"
        ),
    ],
)
def test_a_hostile_file_is_refused_within_seconds(text: str) -> None:
    check(text.encode())
