# SPDX-License-Identifier: GPL-2.0-only
"""Archives from anywhere: nothing of them is believed, and nothing leads out of them."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from harness.bundle import archive
from harness.errors import Damaged

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MEMBERS = {"bundle.json": b"{}", "attempt-1/console.log": b"Linux version 6.1\n" * 500}


def packed(*members: tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive of ``members`` as someone else would make it; their content is zeros."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=format) as made:
        for member in members:
            made.addfile(member, io.BytesIO(bytes(member.size)))
    return zstd.compress(plain.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(Damaged) as refused:
        archive.read(path)
    return str(refused.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "k.bundle.tar.zst"


def test_what_was_written_is_read(file: Path) -> None:
    archive.write(file, MEMBERS)
    assert archive.read(file) == MEMBERS


def test_the_same_content_makes_the_same_bytes(file: Path) -> None:
    archive.write(file, MEMBERS)
    first = file.read_bytes()
    archive.write(file, MEMBERS)
    assert file.read_bytes() == first


def test_a_text_is_no_bundle(file: Path) -> None:
    assert "is not a bundle, which is a .tar.zst" in refusal(file, b"kernels:\n  - name: k\n")


def test_an_empty_file_is_no_bundle(file: Path) -> None:
    assert "is empty" in refusal(file, b"")


def test_a_file_that_is_not_there_is_said(file: Path) -> None:
    with pytest.raises(Damaged, match="cannot be read: No such file or directory"):
        archive.read(file)


def test_a_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="cannot be read: Is a directory"):
        archive.read(tmp_path)


@pytest.mark.parametrize("part", range(1, 20))
def test_a_bundle_that_was_cut_off_is_refused(file: Path, part: int) -> None:
    archive.write(file, MEMBERS)
    whole = file.read_bytes()
    assert "copy it again" in refusal(file, whole[: len(whole) * part // 20])


def test_an_archive_that_was_cut_off_before_it_was_packed_is_refused(file: Path) -> None:
    plain = zstd.decompress(packed(member("a", size=4000)))
    assert "unexpected end" in refusal(file, zstd.compress(plain[:2000]))


@pytest.mark.parametrize(
    "name",
    [
        *("../k", "a/../../k", "/etc/passwd", ".", "./a", "a//b", "a/", ".hidden", "a/.b"),
        *("a b", "a\nb", "a\x1b[2J", "ä", "a" * 101, "-" * 3 + "/../x", "a\\b", "C:a"),
    ],
)
def test_a_name_that_leads_elsewhere_or_is_odd_is_refused(file: Path, name: str) -> None:
    assert "is not a valid bundle" in refusal(file, packed(member(name)))


@pytest.mark.parametrize(
    "kind",
    [
        *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE),
        *(tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE),
    ],
)
def test_all_but_a_plain_file_is_refused(file: Path, kind: bytes) -> None:
    content = packed(member("a", kind, linkname="/etc/passwd"))
    assert "is not a plain file" in refusal(file, content)


def test_a_sparse_file_that_claims_a_size_is_refused(file: Path) -> None:
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": "1" + "0" * 12,
    }
    sparse = member("a", pax_headers=headers, size=512)
    assert "is not a valid bundle" in refusal(file, packed(sparse, format=tarfile.PAX_FORMAT))


def test_two_members_of_one_name_are_refused(file: Path) -> None:
    assert "has 'a' twice" in refusal(file, packed(member("a"), member("a")))


def test_too_many_members_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MEMBERS", 3)
    content = packed(*(member(f"m{number}") for number in range(4)))
    assert "more than 3 members" in refusal(file, content)


def test_a_bomb_does_not_fill_the_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LIMIT", 1 << 20)
    bomb = zstd.compress(bytes(32 << 20))
    assert len(bomb) < 1 << 14
    assert "the decompressed data are too large" in refusal(file, bomb)
