# SPDX-License-Identifier: GPL-2.0-only
"""Every error a manifest can have, word for word: data/bad/NAME.yaml against NAME.txt."""

import os
from pathlib import Path

import pytest

from harness.manifest import positions
from harness.manifest.kernels_yaml import ManifestError, for_image, load

BAD = Path(__file__).parent / "data" / "bad"


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_a_bad_manifest_gives_exactly_the_recorded_errors(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(BAD)
    with pytest.raises(ManifestError) as caught:
        load(Path(f"{name}.yaml"))
    assert f"{caught.value}\n" == (BAD / f"{name}.txt").read_text(encoding="utf-8")


def test_no_recorded_error_has_lost_its_manifest() -> None:
    assert {path.stem for path in BAD.glob("*.txt")} == {path.stem for path in BAD.glob("*.yaml")}


def test_errors_name_the_file_as_it_was_given() -> None:
    with pytest.raises(ManifestError) as caught:
        load(BAD / "no_kernels.yaml")
    assert caught.value.errors[0].startswith(f"{BAD}/no_kernels.yaml:1:10: kernels: ")


def error_of(path: Path) -> str:
    with pytest.raises(ManifestError) as caught:
        load(path)
    assert len(caught.value.errors) == 1
    return caught.value.errors[0]


def test_a_missing_manifest_is_one_error(tmp_path: Path) -> None:
    assert "no such file; give a manifest" in error_of(tmp_path / "kernels.yaml")


def test_a_directory_is_one_error(tmp_path: Path) -> None:
    assert "a directory, not a manifest" in error_of(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_manifest_without_read_permission_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "kernels.yaml"
    path.touch(mode=0o000)
    assert "cannot be read: Permission denied" in error_of(path)


def test_a_manifest_that_fails_to_read_is_one_error() -> None:
    # reading a process's memory at address 0 is an I/O error, for root too
    assert "cannot be read: Input/output error" in error_of(Path("/proc/self/mem"))


def test_a_file_name_that_no_file_can_have_is_one_error() -> None:
    assert "cannot be read: embedded null byte" in error_of(Path("a\0b"))


def test_an_endless_file_is_refused_by_size() -> None:
    assert f"larger than {positions.MAX_BYTES} bytes" in error_of(Path("/dev/zero"))


def test_an_image_that_is_missing_on_the_command_line_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no kernel image"):
        for_image(tmp_path / "bzImage")


def test_a_missing_image_and_missing_modules_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        for_image(tmp_path / "bzImage", tmp_path / "modules")
    assert len(caught.value.errors) == 2
