# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import hashlib
import lzma
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.errors import KernelUnavailable
from harness.host.architectures import Arch
from harness.kernels import apt, archive, deb
from harness.kernels.cache import Built, Cache, file_sha256
from harness.kernels.debian import Package
from harness.kernels.kernel_image import PreparedKernel
from harness.manifest.kernels_yaml import DebSource
from tests.kernels import builders
from tests.kernels.builders import RELEASE
from tests.kernels.conftest import FakeApt, Said, needs

pytestmark = needs("dpkg-deb")
NEW = "7.3.4+deb13-amd64"


def record(name: str, path: Path | None = None, depends: str = "") -> str:
    """The stanza of a package in an index; of its file at ``path``."""
    content = path.read_bytes() if path else b""
    return (
        f"Package: {name}\nVersion: 6.1.176-1\nDepends: {depends}\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n"
    )


def serve(fake_apt: FakeApt, image: bytes | None = None) -> Path:
    """Let the suite hold one kernel, and a metapackage that leads to it."""
    name = f"linux-image-{RELEASE}"
    path = fake_apt.debs / f"{name}_6.1.176-1_amd64.deb"
    builders.kernel_deb(path, image=image)
    meta = record("linux-image-amd64", depends=f"kmod, {name} (= 6.1.176-1)")
    fake_apt.serves(meta + record(name, path))
    return path


def prepare(cache: Cache, say: Said, package: str = "linux-image-amd64") -> PreparedKernel:
    return deb.prepare("debian-6.1", DebSource("bookworm", package), cache, say)


def test_a_metapackage_becomes_a_kernel_that_can_be_booted(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    serve(fake_apt)
    kernel = prepare(cache, say)
    assert (kernel.name, kernel.release) == ("debian-6.1", RELEASE)
    assert kernel.version == "6.1.176-1"
    assert kernel.origin == f"bookworm linux-image-{RELEASE} 6.1.176-1"
    assert kernel.image == kernel.root / "boot" / f"vmlinuz-{RELEASE}"
    assert kernel.image_sha256 == file_sha256(kernel.image)
    assert kernel.boot_image == kernel.root / "boot" / f"vmlinux-{RELEASE}"
    assert kernel.boot_image.read_bytes() == builders.vmlinux()
    assert kernel.root / "modules" / "virtio_console.ko" in kernel.modules


def test_only_what_a_boot_needs_is_kept(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    serve(fake_apt)
    names = {path.name for path in prepare(cache, say).root.rglob("*") if path.is_file()}
    assert "virtio_pci.ko" in names
    assert not names & {"e1000.ko", "copyright", "modules.builtin"}


def test_what_the_cache_holds_is_not_downloaded_again(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    serve(fake_apt)
    assert prepare(cache, say) == prepare(cache, say)
    assert len(fake_apt.calls("download")) == 1


def test_no_package_stays_in_the_cache(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    serve(fake_apt)
    prepare(cache, say)
    assert list(cache.root.rglob("*.deb")) == []


def test_a_download_is_announced_with_its_size(fake_apt: FakeApt, cache: Cache, say: Said) -> None:
    serve(fake_apt)
    prepare(cache, say)
    assert f"downloading linux-image-{RELEASE} (0 MB)" in say


def test_a_kernel_whose_modules_left_the_mirror_says_so(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    path = serve(fake_apt)
    assert prepare(cache, say).notes == ()
    name = f"linux-image-{RELEASE}"
    depends = f"linux-modules-{RELEASE} (= 6.1.176-1), kmod (= 30), linux-base"
    fake_apt.serves(record(name, path, depends))
    for _ in range(2):  # fetched, and from the cache
        (note,) = deb.prepare("k", DebSource("bullseye", name), cache, say).notes
        assert note.startswith(f"bullseye no longer has linux-modules-{RELEASE}: ")


def test_a_package_that_left_the_mirror_is_looked_up_again(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    path = serve(fake_apt)
    path.write_bytes(b"a later build, of which the index does not know yet")
    with pytest.raises(KernelUnavailable):
        prepare(cache, say)
    assert len(fake_apt.calls("update")) == 2


def test_a_kernel_in_three_packages_becomes_one(tmp_path: Path) -> None:
    where = f"./usr/lib/modules/{NEW}"
    files = builders.module_files(NEW, suffix=".xz", compress=lzma.compress)
    builtin = files.pop("modules.builtin")
    debs = [
        builders.deb(tmp_path / "base.deb", [(f"{where}/modules.builtin", builtin)]),
        builders.deb(
            tmp_path / "binary.deb", [(f"{where}/vmlinuz", builders.bzimage(release=NEW))]
        ),
        builders.deb(
            tmp_path / "modules.deb", [(f"{where}/{name}", data) for name, data in files.items()]
        ),
    ]
    root = tmp_path / "root"
    root.mkdir()
    built = archive.unpack(debs, root, "linux-image", threading.Event())
    assert (built.release, built.boot_image) == (NEW, f"boot/vmlinux-{NEW}")
    module = root / "modules" / "virtio_console.ko"
    assert module.read_bytes() == builders.module("virtio_console", ("virtio", "virtio_ring"), NEW)


def unpack(tmp_path: Path, path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    archive.unpack([path], root, "linux-image-x", threading.Event())
    return root


def test_a_stop_ends_the_unpacking(tmp_path: Path) -> None:
    path = builders.kernel_deb(tmp_path / "x.deb")
    stop = threading.Event()
    stop.set()
    with pytest.raises(KernelUnavailable, match="interrupted"):
        archive.unpack([path], tmp_path, "linux-image-x", stop)
    assert list(tmp_path.iterdir()) == [path]


def test_a_dependency_nobody_thought_of_is_fetched_from_the_package(tmp_path: Path) -> None:
    files = builders.module_files(
        modules={"kernel/virtio_pci.ko": ["helper"], "kernel/virtio_console.ko": []}
    )
    files["kernel/a/helper.ko"] = builders.module("helper")
    root = unpack(tmp_path, builders.kernel_deb(tmp_path / "x.deb", files=files))
    assert (root / "modules" / "helper.ko").exists()


def test_a_package_whose_guest_could_not_report_is_refused(tmp_path: Path) -> None:
    path = builders.kernel_deb(tmp_path / "x.deb", files={"modules.builtin": b""})
    with pytest.raises(KernelUnavailable, match="CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_CONSOLE"):
        unpack(tmp_path, path)


def test_a_package_without_an_image_is_refused(tmp_path: Path) -> None:
    path = builders.deb(tmp_path / "x.deb", [("./usr/share/doc/x", b"x")])
    with pytest.raises(KernelUnavailable, match="linux-image-x holds no kernel images"):
        unpack(tmp_path, path)


def test_a_damaged_package_is_an_error(tmp_path: Path) -> None:
    path = builders.kernel_deb(tmp_path / "x.deb")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(KernelUnavailable, match=r"x\.deb cannot be unpacked"):
        unpack(tmp_path, path)


def test_a_file_that_is_no_package_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_text("<html>your hotel's network</html>")
    with pytest.raises(KernelUnavailable, match=r"x\.deb is neither a \.deb"):
        unpack(tmp_path, tmp_path / "x.deb")


def test_an_image_that_is_no_kernel_is_refused(tmp_path: Path) -> None:
    path = builders.kernel_deb(tmp_path / "x.deb", image=b"text")
    with pytest.raises(KernelUnavailable, match="the image in linux-image-x is a text file"):
        unpack(tmp_path, path)


@pytest.mark.parametrize(
    "name",
    [
        f"./lib/modules/{RELEASE}/../../../../virtio_pci.ko",
        f"./lib/modules/{RELEASE}//{{tmp}}/virtio_pci.ko",
        "../virtio_pci.ko",
        "./lib/modules/../virtio_pci.ko",
    ],
)
def test_no_path_in_a_package_leads_out_of_its_directory(tmp_path: Path, name: str) -> None:
    image = (f"./boot/vmlinuz-{RELEASE}", builders.bzimage())
    evil = (name.format(tmp=tmp_path), builders.module("virtio_pci"))
    root = unpack(tmp_path, builders.deb(tmp_path / "x.deb", [image, evil]))
    assert {path.parent for path in tmp_path.rglob("virtio_pci.ko")} <= {root / "modules"}


def test_links_in_a_package_are_not_followed_or_made(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    members: list[tarfile.TarInfo | tuple[str, bytes]] = []
    for name, kind in (("virtio.ko", tarfile.SYMTYPE), ("virtio_pci.ko", tarfile.LNKTYPE)):
        link = tarfile.TarInfo(f"./lib/modules/{RELEASE}/{name}")
        link.type, link.linkname = kind, str(secret)
        members.append(link)
    members.append((f"./boot/vmlinuz-{RELEASE}", builders.bzimage()))
    root = unpack(tmp_path, builders.deb(tmp_path / "x.deb", members))
    assert not (root / "modules").exists()


@pytest.mark.parametrize(
    ("suite", "package"),
    [
        ("bookworm main\ndeb [trusted=yes] http://x.example.org", "linux-image-amd64"),
        ("../../etc", "linux-image-amd64"),
        ("bookworm", "-o=Dir::Etc=/"),
        ("bookworm", "linux-image-amd64 zsh"),
    ],
)
def test_words_that_are_no_names_never_reach_apt(
    fake_apt: FakeApt, cache: Cache, say: Said, suite: str, package: str
) -> None:
    with pytest.raises(KernelUnavailable, match="is not a valid name of a"):
        deb.prepare("x", DebSource(suite, package), cache, say)
    assert not (fake_apt.directory / "calls").exists()


def test_a_hostile_suite_of_a_series_never_reaches_apt(
    fake_apt: FakeApt, cache: Cache, say: Said
) -> None:
    with pytest.raises(KernelUnavailable, match="is not a valid name of a suite"):
        deb.series(DebSource("a b", "linux-image-*"), cache, say)
    assert not (fake_apt.directory / "calls").exists()


def test_the_next_older_kernel_serves_where_the_mirror_lacks_the_current(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {n: f"linux-image-6.12.{n}+deb13-s390x" for n in (90, 107, 117)}
    packages = {name: Package(name, f"6.12.{n}-1", "", 1, f"{n:064}") for n, name in names.items()}
    depends = f"{names[117]} (= 6.12.117-1)"
    packages["linux-image-s390x"] = Package("linux-image-s390x", "6.12.117-1", depends, 1, "0" * 64)
    monkeypatch.setattr(apt, "index", lambda *_, **__: packages)
    tried: list[str] = []

    def download(_: object, parts: Sequence[Package], *__: object) -> dict[str, Path]:
        tried.extend(part.name for part in parts)
        if parts[0].name != names[90]:
            raise apt.Gone(f"the mirror no longer has {parts[0].name}")
        return {}

    def unpack(_: object, root: Path, *__: object, arch: Arch) -> Built:
        assert arch is Arch.S390X
        (root / "vmlinuz").write_bytes(b"x")
        return Built("6.12.90+deb13-s390x", "", "vmlinuz", "vmlinuz")

    monkeypatch.setattr(apt, "download", download)
    monkeypatch.setattr(archive, "unpack", unpack)
    source, said = DebSource("trixie", "linux-image-s390x"), list[str]()
    found = deb.prepare("k", source, Cache(tmp_path / "cache"), said.append, Arch.S390X)
    assert found.release == "6.12.90+deb13-s390x"
    note = f"the mirror no longer has {names[117]} of trixie; this is {names[90]}"
    assert found.notes == (note,)
    assert note in said
    assert tried == [names[117], names[117], names[107], names[90]]
    with pytest.raises(apt.Gone):  # a kernel that is named itself is never replaced
        deb.prepare("k", DebSource("trixie", names[107]), Cache(tmp_path / "c"), print, Arch.S390X)
