# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from harness.errors import KernelUnavailable
from harness.host import tools
from harness.kernels import upstream
from harness.kernels.cache import Cache
from harness.manifest.kernels_yaml import UpstreamSource
from tests.kernels import builders
from tests.kernels.conftest import Said, needs, stopped_after
from tests.processes import is_gone, read_pid

RELEASE = "6.6.0-060600-generic"

# Stands in for vng's download only: what it leaves in its home, or its last words.
_VNG = """\
#!/bin/sh
echo "$@" > "{calls}"
{does}
"""


def files() -> dict[str, bytes]:
    modules = builders.module_files(RELEASE, suffix=".zst", compress=builders.COMPRESSIONS["zstd"])
    return {f"boot/vmlinuz-{RELEASE}": builders.bzimage(release=RELEASE)} | {
        f"lib/modules/{RELEASE}/{name}": data for name, data in modules.items()
    }


@pytest.fixture
def downloaded(tmp_path: Path) -> Path:
    """What Ubuntu's packages unpack to."""
    return builders.write(tmp_path / "downloaded", files())


def vng(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> Path:
    program = tmp_path / "vng"
    program.write_text(_VNG.format(calls=tmp_path / "calls", does=does))
    program.chmod(0o755)
    monkeypatch.setattr(tools, "virtme_ng_path", lambda: f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path / "calls"


def test_a_tag_becomes_a_kernel(
    cache: Cache, say: Said, tmp_path: Path, downloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "$HOME/.cache/virtme-ng/v6.6/amd64"
    does = f'mkdir -p "{place}"; cp -r {downloaded}/* "{place}"'
    calls = vng(tmp_path, monkeypatch, does)
    kernel = upstream.prepare("mainline", UpstreamSource("v6.6"), cache, say)
    assert (kernel.name, kernel.release, kernel.origin) == ("mainline", RELEASE, "upstream v6.6")
    assert "virtio_console.ko" in [module.name for module in kernel.modules]
    assert calls.read_text().startswith("-r v6.6 --dry-run")


def test_a_tag_is_downloaded_once(
    cache: Cache, say: Said, tmp_path: Path, downloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "$HOME/.cache/virtme-ng/v6.6/amd64"
    vng(tmp_path, monkeypatch, f'mkdir -p "{place}"; cp -r {downloaded}/* "{place}"')
    first = upstream.prepare("mainline", UpstreamSource("v6.6"), cache, say)
    vng(tmp_path, monkeypatch, "exit 1")
    assert upstream.prepare("mainline", UpstreamSource("v6.6"), cache, say) == first


def test_a_download_that_broke_off_leaves_nothing(
    cache: Cache, say: Said, tmp_path: Path, downloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "$HOME/.cache/virtme-ng/v6.6/amd64"
    does = f'mkdir -p "{place}"; cp -r {downloaded}/boot "{place}"; echo broken pipe >&2; exit 1'
    vng(tmp_path, monkeypatch, does)
    with pytest.raises(KernelUnavailable, match=r"could not download v6\.6: broken pipe"):
        upstream.prepare("mainline", UpstreamSource("v6.6"), cache, say)
    assert list(cache.root.rglob("vmlinuz*")) == []


@pytest.mark.parametrize(
    ("last_words", "reason", "transient"),
    [
        pytest.param(
            "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='kernel.example.org', "
            "port=443): Max retries exceeded with url: /mainline/v6.6/amd64",
            "check the network",
            True,
            id="no network",
        ),
        pytest.param(
            "failed to retrieve content, error: 404", "finds no build of v6", False, id="no build"
        ),
        pytest.param("dpkg is not available", "dpkg is not available", False, id="no dpkg"),
    ],
)
def test_a_download_that_fails_is_an_error(
    cache: Cache,
    say: Said,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last_words: str,
    reason: str,
    transient: bool,
) -> None:
    (tmp_path / "words").write_text(f"Traceback (most recent call last):\n{last_words}\n")
    vng(tmp_path, monkeypatch, f"cat {tmp_path}/words >&2; exit 1")
    with pytest.raises(KernelUnavailable, match=reason) as caught:
        upstream.prepare("mainline", UpstreamSource("v6.6"), cache, say)
    assert caught.value.transient is transient


@pytest.mark.parametrize("tag", ["6.6", "v6.6 --root /", "../v6", "v6.6-mptcp"])
def test_what_is_no_tag_never_reaches_virtme_ng(
    cache: Cache, say: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str
) -> None:
    calls = vng(tmp_path, monkeypatch, "true")
    with pytest.raises(KernelUnavailable, match="is not a tag"):
        upstream.prepare("mainline", UpstreamSource(tag), cache, say)
    assert not calls.exists()


@needs("qemu-system-x86_64")
def test_virtme_ng_itself_takes_what_its_home_holds(tmp_path: Path) -> None:
    """The real vng agrees on where its downloads lie, so that none is needed here."""
    home = tmp_path / "home"
    place = builders.write(home / ".cache" / "virtme-ng" / "v6.6" / "amd64", files())
    assert upstream.download("v6.6", home, threading.Event()) == place


def test_a_stop_ends_the_download(
    cache: Cache, say: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vng(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; sleep 60")
    with stopped_after(tmp_path / "pid", cache), pytest.raises(KernelUnavailable, match="interr"):
        upstream.prepare("mainline", UpstreamSource("v6.6"), cache, say)
    assert is_gone(read_pid(tmp_path / "pid"))
    assert list((cache.root / "tmp").iterdir()) == []


def test_a_missing_virtme_ng_is_said(
    cache: Cache, say: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "virtme_ng_path", lambda: str(tmp_path))
    with pytest.raises(KernelUnavailable, match="pip install 'virtme-ng"):
        upstream.prepare("mainline", UpstreamSource("v6.6"), cache, say)
