# SPDX-License-Identifier: GPL-2.0-only
"""What changed between two of Debian's kernels, from excerpts of their change logs as they are."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.bisect import commits
from harness.bisect import commits as logs
from harness.bisect.candidates import Candidate
from harness.bisect.commits import Changes, entries_between
from harness.errors import HostError, KernelUnavailable
from harness.kernels import Cache, apt
from harness.kernels.debian import Package
from harness.manifest.kernels_yaml import DebSource, ImageSource, KernelEntry
from tests.kernels import builders

DATA = Path(__file__).parent / "data"
SIGNED = (DATA / "changelog-6.12.117.txt").read_bytes()
BACKPORT = (DATA / "changelog-7.3.4.txt").read_bytes()
OLD, NEW = "6.12.113-1", "6.12.117-1"


def package(name: str, version: str, size: int = 1, depends: str = "") -> Package:
    return Package(name, version, depends, size, "0" * 64)


class Archive:
    """A suite that holds ``packages``; ``files`` are by name of package, others are gone."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.packages: dict[str, Package] = {}
        self.files: dict[str, Path] = {}
        self.downloaded: list[str] = []

    def holds(self, name: str, version: str, log: bytes | None, *, depends: str = "") -> None:
        self.packages[name] = package(name, version, depends=depends)
        members = [(f"./usr/share/doc/{name}/copyright", b"GPL")]
        if log is not None:
            members.append((f"./usr/share/doc/{name}/changelog.gz", log))
        self.files[name] = builders.deb(self.directory / f"{name}.deb", members)

    def download(
        self, _: str, wanted: list[Package], *_more: object, **_named: object
    ) -> dict[str, Path]:
        name = wanted[0].name
        self.downloaded.append(name)
        if name not in self.files:
            raise apt.Gone(f"the mirror has {name} no longer")
        return {name: self.files[name]}

    def lookup(self, _: str, name: str, version: str, *__: object) -> Package | None:
        found = self.packages.get(name)
        return found if found and found.version == version else None


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    found = Archive(tmp_path)
    monkeypatch.setattr(apt, "index", lambda *_, **__: found.packages)
    monkeypatch.setattr(apt, "download", found.download)
    monkeypatch.setattr(apt, "lookup", found.lookup)
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def kernel(version: str, release: str = "", suite: str = "trixie") -> Candidate:
    release = release or f"{version.partition('-')[0]}+deb13-amd64"
    name = f"linux-image-{release}"
    return Candidate(KernelEntry(name, DebSource(suite, name), "the tests"), release, version)


Between = Callable[..., Changes]


@pytest.fixture
def between(archive: Archive, cache: Cache) -> Between:
    """Of a kernel in one package, whose change log is ``log``."""

    def find(log: bytes, old: str = OLD, new: str = NEW, check: str | None = None) -> Changes:
        bad = kernel(new)
        archive.holds(bad.entry.name, new, log)
        return entries_between(kernel(old), bad, check, cache, lambda _: None)

    return find


def packed(log: bytes) -> bytes:
    return gzip.compress(log, compresslevel=1, mtime=0)


def test_a_rebuild_for_another_release_has_what_the_version_has(between: Between) -> None:
    """Debian sorts 7.3.4-1~bpo13+1 before the 7.3.4-1 that it is made of."""
    found = between(packed(BACKPORT), "7.3.3-1~bpo13+1", "7.3.4-1~bpo13+1")
    assert {version for version, _ in found.items} == {"7.3.4-1"}


def test_what_mentions_mptcp_is_told_with_the_version_that_brought_it(between: Between) -> None:
    found = between(packed(SIGNED))
    assert ("6.12.117-1", "mptcp: hold MP_JOIN msk ref when cloning reqsk") in found.items


def test_the_entry_of_a_signed_image_is_that_of_the_kernel_it_signs() -> None:
    assert next(logs.entries_of(SIGNED.decode())).version == "6.12.117-1"


def test_the_older_kernels_own_entry_does_not_count(between: Between) -> None:
    assert {version for version, _ in between(packed(SIGNED)).items} <= {
        *("6.12.117-1", "6.12.116-1", "6.12.115-2", "6.12.115-1")
    }


def test_a_subject_that_goes_on_in_the_next_line_is_one_item(between: Between) -> None:
    texts = [text for _, text in between(packed(SIGNED), "6.12.111-1").items]
    assert (
        "tcp: Don't call skb_clone_and_charge_r() for close()d listener in tcp_v6_do_rcv()."
        in texts
    )


def test_each_of_several_entries_counts(between: Between) -> None:
    assert between(packed(SIGNED)).versions == 4


@pytest.mark.parametrize(
    "subject",
    [
        "mptcp: pm: prio: skip closed subflows",
        "bpf: Fix mptcp_subflow iteration",
        "tcp: annotate data-races around tp->bytes_sent",
        "tcp/dccp: Un-pin tw_timer",
        "net: tcp: accept old ack during closing",
        "net: advertise TCP MSS from the configured MTU, not the learned PMTU",
        "net/tcp-md5: Fix MAC comparison to be constant-time",
        'Revert "tcp: avoid the lookup process failing"',
        "ipv4: tcp: get rid of ipv4_tcp_sk",
    ],
)
def test_net_mptcp_and_net_ipv4_tcp_concern_every_check(subject: str, between: Between) -> None:
    log = f"linux ({NEW}) x; urgency=low\n\n  * Update:\n    - {subject}\n".encode()
    assert [text for _, text in between(packed(log)).items] == [subject]


@pytest.mark.parametrize(
    "subject",
    [
        "nvme-tcp: fix usage of page_frag_cache",
        "usb: typec: tcpm: fix debug accessory mode detection for sink ports",
        "[amd64,arm64] tcpm: switch check for role_sw device with fw_node",
        "net/rds: fix tcp stream corruption with large pages",
        "smb: server: fix max_connections off-by-one in tcp accept path",
        "drm/amdgpu: add buf length check",
        "net: phy: FULL_INFORMATION is none of it",
    ],
)
def test_other_subjects_do_not(subject: str, between: Between) -> None:
    log = f"linux ({NEW}) x; urgency=low\n\n  * Update:\n    - {subject}\n".encode()
    assert between(packed(log), check="full_info.*").items == ()


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("full_info", ("FULL_INFO",)),
        ("full_info.*,mptcp_info.readable", ("FULL_INFO", "MPTCP_INFO")),
        ("capability.tcp_maxseg", ("TCP_MAXSEG",)),
        ("payload.arrives", ()),
        ("*.readable", ()),
        (None, ()),
    ],
)
def test_a_check_is_looked_for_by_its_option(check: str | None, words: tuple[str, ...]) -> None:
    assert commits.words_of(check) == words


def test_the_checked_option_counts_wherever_it_is_named(between: Between) -> None:
    log = f"linux ({NEW}) x; urgency=low\n\n  * sockopt: MPTCP_FULL_INFO\n  * doc: IP_TOS\n"
    assert [text for _, text in between(packed(log.encode()), check="ip_tos.kept").items] == [
        *("sockopt: MPTCP_FULL_INFO", "doc: IP_TOS")
    ]


def test_that_a_new_mainline_version_is_not_itemised_is_said(between: Between) -> None:
    found = between(packed(BACKPORT), "7.2.12-1~bpo13+1", "7.3.4-1~bpo13+1")
    assert "7.3.1-1~exp1" in found.notes[0]


def test_stable_updates_alone_need_no_such_note(between: Between) -> None:
    assert between(packed(SIGNED)).notes == ()


def test_a_log_that_does_not_reach_back_is_said(between: Between) -> None:
    notes = between(packed(SIGNED), "6.1.170-3").notes
    assert "the log does not reach back to 6.1.170-3" in notes


def test_a_good_kernel_may_be_the_newer_one(archive: Archive, cache: Cache) -> None:
    good = kernel(NEW)
    archive.holds(good.entry.name, NEW, packed(SIGNED))
    assert entries_between(good, kernel(OLD), None, cache, lambda _: None).versions == 4


# Where it comes from.


def test_the_log_is_taken_from_the_smallest_package_that_holds_it(
    archive: Archive, between: Between
) -> None:
    archive.holds("linux-headers-6.12.117+deb13-common", NEW, packed(SIGNED))
    between(packed(SIGNED))
    assert archive.downloaded == ["linux-headers-6.12.117+deb13-common"]


def test_headers_of_another_version_are_not_asked(archive: Archive, between: Between) -> None:
    archive.holds("linux-headers-6.12.117+deb13-common", "6.12.117-2", packed(SIGNED))
    between(packed(SIGNED))
    assert archive.downloaded == ["linux-image-6.12.117+deb13-amd64"]


def test_from_6_19_on_it_is_in_the_base_package(archive: Archive, cache: Cache) -> None:
    version, release = "7.3.4-1~bpo13+1", "7.3.4+deb13-amd64"
    parts = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
    archive.holds(
        f"linux-image-{release}",
        version,
        None,
        depends=", ".join(f"{part} (= {version})" for part in parts),
    )
    for part in parts:
        archive.holds(part, version, packed(BACKPORT) if "base" in part else None)
    bad = kernel(version)
    entries_between(kernel("7.3.3-1"), bad, None, cache, lambda _: None)
    assert archive.downloaded == [f"linux-base-{release}"]


def test_a_package_that_is_gone_gives_way_to_the_next(archive: Archive, between: Between) -> None:
    archive.packages["linux-headers-6.12.117+deb13-common"] = package(
        "linux-headers-6.12.117+deb13-common", NEW
    )
    assert between(packed(SIGNED)).versions == 4


def test_what_was_read_is_kept(archive: Archive, between: Between) -> None:
    assert between(packed(SIGNED)) == between(packed(SIGNED))
    assert len(archive.downloaded) == 1


def test_what_is_torn_in_the_cache_is_read_again(
    archive: Archive, between: Between, cache: Cache
) -> None:
    first = between(packed(SIGNED))
    (kept,) = (cache.root / logs.LOGS).iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert between(packed(SIGNED)) == first


# What cannot be had is a sentence.


def test_an_image_has_no_change_log(cache: Cache) -> None:
    image = KernelEntry("mine", ImageSource(Path("/src/bzImage")), "the tests")
    with pytest.raises(HostError, match="`git log` in a kernel tree"):
        entries_between(kernel(OLD), Candidate(image, "6.17.0", ""), None, cache, lambda _: None)


def test_a_package_without_a_log_is_said(archive: Archive, cache: Cache) -> None:
    bad = kernel(NEW)
    archive.holds(bad.entry.name, NEW, None)
    with pytest.raises(HostError, match="holds no change log"):
        entries_between(kernel(OLD), bad, None, cache, lambda _: None)


def test_a_mirror_without_the_package_is_said(archive: Archive, cache: Cache) -> None:
    bad = kernel(NEW)
    archive.packages[bad.entry.name] = package(bad.entry.name, NEW)
    with pytest.raises(HostError, match="no longer"):
        entries_between(kernel(OLD), bad, None, cache, lambda _: None)


def test_two_builds_of_one_version_have_nothing_between_them(between: Between) -> None:
    with pytest.raises(HostError, match="no entry after"):
        between(packed(SIGNED), NEW)


# A log that was made to do harm.


@pytest.mark.parametrize(
    "log",
    [
        b"",
        b"not gzip",
        packed(SIGNED)[:-9],
        packed(SIGNED)[:200] + b"\xff" * 200 + packed(SIGNED)[400:],
        packed(bytes(range(256)) * 4000),
        packed(b"\n" * 1_000_000),
        packed(b"linux (6.12.117-1" * 100_000),
    ],
    ids=["empty", "text", "truncated", "damaged", "binary", "blank", "one line"],
)
def test_a_log_that_is_none_is_said(log: bytes, between: Between) -> None:
    with pytest.raises(HostError):
        between(log)


def test_a_bomb_is_refused(between: Between) -> None:
    started = time.monotonic()
    with pytest.raises(HostError, match="too large"):
        between(packed(bytes(logs.UNPACKED_LIMIT + 1)))
    assert time.monotonic() - started < 60


def test_a_line_without_end_is_cut(between: Between) -> None:
    log = f"linux ({NEW}) x; urgency=low\n\n  * mptcp: ".encode() + b"A" * (5 << 20)
    ((_, text),) = between(packed(log)).items
    assert len(text) <= 2000


def test_an_item_of_many_lines_is_cut(between: Between) -> None:
    log = f"linux ({NEW}) x; urgency=low\n\n  * mptcp:\n" + "      and so on\n" * 50_000
    ((_, text),) = between(packed(log.encode())).items
    assert len(text) <= 2000


@given(st.text(max_size=300))
def test_no_text_breaks_the_parser(text: str) -> None:
    for entry in logs.entries_of(f"linux (1) x\n  * {text}\n{text}"):
        assert all(isinstance(item, str) for item in entry.items)


def test_an_interruption_is_not_taken_for_a_missing_log(
    archive: Archive, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = kernel(NEW)
    archive.holds("linux-headers-6.12.117+deb13-common", NEW, packed(SIGNED))
    archive.holds(bad.entry.name, NEW, packed(SIGNED))

    def interrupted(*_: object, **__: object) -> dict[str, Path]:
        archive.downloaded.append("one")
        cache.stop.set()
        raise KernelUnavailable("interrupted")

    monkeypatch.setattr(apt, "download", interrupted)
    with pytest.raises(HostError, match="interrupted"):
        entries_between(kernel(OLD), bad, None, cache, lambda _: None)
    assert archive.downloaded == ["one"]
