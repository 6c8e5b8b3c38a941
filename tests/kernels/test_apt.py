# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import KernelUnavailable
from harness.host import programs, tools
from harness.kernels import apt
from harness.kernels.cache import Cache
from harness.kernels.debian import Package
from tests.kernels.conftest import FakeApt, Said, stopped_after
from tests.processes import is_gone, read_pid
from tests.replacing import replaced


def age(cache: Cache, name: str, seconds: float) -> None:
    """Let the file ``name`` of the suite's state be ``seconds`` old."""
    then = time.time() - seconds
    os.utime(cache.root / "apt" / "bookworm" / name, (then, then))


def source_line(cache: Cache) -> str:
    return (cache.root / "apt" / "bookworm" / "sources.list").read_text()


def test_the_index_holds_the_kernels_of_the_suite(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    found = apt.index("bookworm", cache, say)
    assert found["linux-image-amd64"].depends == "linux-image-6.1.0-50-amd64 (= 6.1.176-1)"
    assert found["linux-image-6.1.0-47-amd64"].size == 70236800


def test_a_fresh_index_is_not_read_again(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    assert apt.index("bookworm", cache, say) == apt.index("bookworm", Cache(cache.root), say)
    assert len(fake_apt.calls("update")) == 1


def test_an_index_of_yesterday_is_read_again(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    apt.index("bookworm", cache, say)
    age(cache, "kernels.json", 86400)
    apt.index("bookworm", cache, say)
    assert len(fake_apt.calls("update")) == 2


def test_an_index_from_the_future_is_read_again(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    apt.index("bookworm", cache, say)
    age(cache, "kernels.json", -86400)
    apt.index("bookworm", cache, say)
    assert len(fake_apt.calls("update")) == 2


def test_a_fresh_index_is_read_again_when_asked(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    apt.index("bookworm", cache, say)
    apt.index("bookworm", cache, say, refresh=True)
    assert len(fake_apt.calls("update")) == 2


def test_a_torn_index_is_read_again(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    apt.index("bookworm", cache, say)
    (cache.root / "apt" / "bookworm" / "kernels.json").write_text('{"linux-im')
    assert "linux-image-amd64" in apt.index("bookworm", cache, say)


def test_another_mirror_makes_the_index_stale(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    apt.index("bookworm", cache, say)
    sources = fake_apt.directory / "sources.list"
    sources.write_text(replaced(sources.read_text(), "mirror", "other"))
    apt.index("bookworm", cache, say)
    assert len(fake_apt.calls("update")) == 2
    assert "http://other.example.org/debian bookworm main" in source_line(cache)


def test_without_a_network_an_old_index_is_used_and_that_is_said(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    found = apt.index("bookworm", cache, say)
    age(cache, "kernels.json", 86400)
    fake_apt.fails("update", "update-offline.stderr")
    assert apt.index("bookworm", cache, say) == found
    assert "using the package index of bookworm from " in say
    assert "Could not resolve 'mirror.example.org'" in say


def test_a_missing_network_is_not_waited_for_again_and_again(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    apt.index("bookworm", cache, say)
    age(cache, "kernels.json", 86400)
    fake_apt.fails("update", "update-offline.stderr")
    apt.index("bookworm", cache, say)
    apt.index("bookworm", cache, say)
    assert len(fake_apt.calls("update")) == 2
    assert sum("using the package index" in line for line in say.lines) == 2


def test_a_network_that_is_back_is_used(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    apt.index("bookworm", cache, say)
    age(cache, "kernels.json", 86400)
    fake_apt.fails("update", "update-offline.stderr")
    apt.index("bookworm", cache, say)
    fake_apt.works("update")
    age(cache, "failed", 3600)
    apt.index("bookworm", cache, say)
    assert not (cache.root / "apt" / "bookworm" / "failed").exists()


@pytest.mark.parametrize(
    ("recorded", "reason", "transient"),
    [
        ("update-offline.stderr", "check the network", True),
        (
            "update-unknown-suite.stderr",
            "the mirror http://mirror.example.org/debian has no suite bookworm",
            False,
        ),
        ("update-unsigned.stderr", "update the package debian-archive-keyring", False),
        ("disk-full.stderr", "the disk is full", False),
    ],
)
def test_an_index_that_cannot_be_read_is_an_error(
    fake_apt: FakeApt, cache: Cache, say: Said, recorded: str, reason: str, transient: bool
) -> None:
    fake_apt.fails("update", recorded)
    with pytest.raises(KernelUnavailable) as caught:
        apt.index("bookworm", cache, say)
    assert reason in str(caught.value)
    assert caught.value.transient is transient


def test_a_failure_is_reported_without_apts_remarks_on_its_sandbox(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    fake_apt.fails("update", "disk-full.stderr")
    with pytest.raises(KernelUnavailable) as caught:
        apt.index("bookworm", cache, say)
    assert "unsandboxed" not in str(caught.value)


def test_apt_trusts_debians_keys_only(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    apt.index("bookworm", cache, say)
    assert source_line(cache) == (
        f"deb [arch=amd64 signed-by={fake_apt.directory}/keyring.gpg]"
        " http://mirror.example.org/debian bookworm main\n"
    )


def test_the_systems_apt_is_not_touched(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    apt.index("bookworm", cache, say)
    config = (cache.root / "apt" / "bookworm" / "apt.conf").read_text()
    state = cache.root / "apt" / "bookworm"
    assert f'Dir::State "{state}";' in config
    assert f'Dir::Cache "{state}/cache";' in config
    assert fake_apt.calls("update") == [f"apt-get -c {state}/apt.conf -q update"]


def test_missing_keys_are_named_with_their_package(
    fake_apt: FakeApt, cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "_KEYRINGS", (Path("/nonexistent/keyring.gpg"),))
    with pytest.raises(KernelUnavailable, match="apt-get install debian-archive-keyring"):
        apt.index("bookworm", cache, say)


@pytest.mark.parametrize("sources", ["", "deb http://x.example.org/ubuntu noble main\n"])
def test_a_host_that_is_not_debian_is_told_what_to_use_instead(
    fake_apt: FakeApt, cache: Cache, say: Said, sources: str
) -> None:
    (fake_apt.directory / "sources.list").write_text(sources)
    with pytest.raises(KernelUnavailable, match="use an image:, tree: or upstream: kernel"):
        apt.index("bookworm", cache, say)


def test_a_host_without_apt_is_told_what_to_use_instead(
    cache: Cache, say: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "find", lambda _: None)
    with pytest.raises(KernelUnavailable, match="use an image:, tree: or upstream: kernel"):
        apt.index("bookworm", cache, say)


PACKAGE = Package("linux-image-6.1.0-47-amd64", "6.1.170-3", "", 3, "0" * 64)


def test_a_package_is_asked_for_in_the_version_of_the_index(
    fake_apt: FakeApt, cache: Cache, tmp_path: Path
) -> None:
    (fake_apt.debs / "linux-image-6.1.0-47-amd64_6.1.170-3_amd64.deb").write_bytes(b"abc")
    package = replace(PACKAGE, sha256=hashlib.sha256(b"abc").hexdigest())
    apt.download("bookworm", [package], tmp_path, cache)
    assert fake_apt.calls("linux-image-6.1.0-47-amd64=6.1.170-3")


def test_other_bytes_than_the_index_promised_are_refused(
    fake_apt: FakeApt, cache: Cache, tmp_path: Path
) -> None:
    (fake_apt.debs / "linux-image-6.1.0-47-amd64_6.1.170-3_amd64.deb").write_bytes(b"abc")
    with pytest.raises(apt.Gone, match="changed while it was downloaded"):
        apt.download("bookworm", [PACKAGE], tmp_path, cache)


def test_a_package_that_left_the_mirror_is_told_from_other_failures(
    fake_apt: FakeApt, cache: Cache, tmp_path: Path
) -> None:
    fake_apt.fails("download", "download-gone.stderr")
    with pytest.raises(apt.Gone, match="the mirror no longer has linux-image-6"):
        apt.download("bookworm", [PACKAGE], tmp_path, cache)


def test_a_full_disk_is_said(fake_apt: FakeApt, cache: Cache, tmp_path: Path) -> None:
    fake_apt.fails("download", "disk-full.stderr")
    with pytest.raises(KernelUnavailable, match="the disk is full") as caught:
        apt.download("bookworm", [PACKAGE], tmp_path, cache)
    assert not caught.value.transient


def test_a_stop_ends_the_reading_of_an_index(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    pid = fake_apt.hangs()
    with stopped_after(pid, cache), pytest.raises(KernelUnavailable, match="interrupted"):
        apt.index("bookworm", cache, say)
    assert is_gone(read_pid(pid))


def test_a_stop_is_not_remembered_as_a_failure_of_the_network(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    apt.index("bookworm", cache, say)
    age(cache, "kernels.json", 86400)
    pid = fake_apt.hangs()
    with stopped_after(pid, cache), pytest.raises(KernelUnavailable, match="interrupted"):
        apt.index("bookworm", cache, say)
    assert not (cache.root / "apt" / "bookworm" / "failed").exists()


def test_a_stop_ends_a_download(fake_apt: FakeApt, cache: Cache, tmp_path: Path) -> None:
    pid = fake_apt.hangs()
    with stopped_after(pid, cache), pytest.raises(KernelUnavailable, match="interrupted"):
        apt.download("bookworm", [PACKAGE], tmp_path, cache)
    assert is_gone(read_pid(pid))


def test_a_long_download_says_how_far_it_is(
    fake_apt: FakeApt, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_apt.hangs()
    monkeypatch.setattr(programs, "SAY_EVERY", 0.0)
    (tmp_path / "linux-image.deb").write_bytes(bytes(2_000_000))
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        cache.stop.set()

    with pytest.raises(KernelUnavailable, match="interrupted"):
        apt.download("bookworm", [PACKAGE], tmp_path, cache, say=say)
    assert said[0].startswith(f"downloading {PACKAGE.name}: 2 of ")


def test_a_harness_that_is_killed_leaves_no_apt(
    fake_apt: FakeApt, cache: Cache, tmp_path: Path
) -> None:
    pid = fake_apt.hangs()
    downloads = (
        "import sys; from pathlib import Path\n"
        "from harness.kernels import apt; from harness.kernels.cache import Cache\n"
        "from harness.kernels.debian import Package\n"
        "package = Package('linux-image-6.1', '6.1', '', 1, '0')\n"
        "apt.download('bookworm', [package], Path(sys.argv[1]), Cache(Path(sys.argv[2])))\n"
    )
    command = [sys.executable, "-c", downloads, str(tmp_path), str(cache.root)]
    with subprocess.Popen(command) as harness:
        method = read_pid(pid)
        harness.kill()
    assert is_gone(method)


def test_the_state_of_a_suite_stays_locked_while_an_apt_of_a_killed_harness_works(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    """Two apts in one state would spoil it."""
    pid = fake_apt.hangs()
    index = (
        "import sys; from pathlib import Path\n"
        "from harness.kernels import apt; from harness.kernels.cache import Cache\n"
        "apt._KEYRINGS = (Path(sys.argv[2]),)\n"
        "apt.index('bookworm', Cache(Path(sys.argv[1])), print)\n"
    )
    keyring = fake_apt.directory / "keyring.gpg"
    command = [sys.executable, "-c", index, str(cache.root), str(keyring)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as harness:
        method = read_pid(pid)
        supervisor = os.getpgid(method)
        os.kill(supervisor, signal.SIGSTOP)
        harness.kill()
        harness.wait()
        cache.stop.set()
        try:
            with pytest.raises(KernelUnavailable, match="interrupted"), cache.lock("apt-bookworm"):
                pass
        finally:
            os.killpg(supervisor, signal.SIGKILL)
    assert is_gone(method)
