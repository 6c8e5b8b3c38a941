# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.errors import KernelUnavailable
from harness.host import files
from harness.host.architectures import Arch
from harness.kernels import image, modules
from harness.kernels.cache import Cache, file_sha256
from harness.kernels.kernel_image import PreparedKernel
from harness.kernels.modules import ModuleSet
from harness.manifest.kernels_yaml import ImageSource, TreeSource
from tests.kernels import builders
from tests.kernels.builders import RELEASE
from tests.kernels.conftest import Said
from tests.replacing import replaced


@pytest.fixture
def bzimage(tmp_path: Path) -> Path:
    path = tmp_path / "bzImage"
    path.write_bytes(builders.bzimage())
    return path


@pytest.fixture
def built_tree(tmp_path: Path) -> Path:
    """A tree as after make: image, modules of 6.2 or later, configuration."""
    files = {name: data for name, data in builders.module_files().items() if name[0] == "k"}
    tree_files = {name.removeprefix("kernel/"): data for name, data in files.items()}
    order = "".join(replaced(name, ".ko", ".o") + "\n" for name in tree_files)
    tree_files |= {
        "modules.order": order.encode(),
        "modules.builtin": b"kernel/net/unix/unix.ko\n",
        ".config": b"CONFIG_MODULES=y\nCONFIG_VIRTIO_PCI=m\nCONFIG_VIRTIO_CONSOLE=m\n",
        "arch/x86/boot/bzImage": builders.bzimage(),
    }
    return builders.write(tmp_path / "linux", tree_files)


def prepare(
    cache: Cache, say: Said, path: Path, modules: Path | None = None, sha256: str | None = None
) -> PreparedKernel:
    return image.prepare("mine", ImageSource(path, modules, sha256), cache, say)


def module_names(kernel: PreparedKernel) -> set[str]:
    return {path.stem for path in kernel.modules}


ALL_MODULES = {Path(path).stem for path in builders.MODULES} - {"e1000"}


def test_an_image_without_modules_is_a_kernel(cache: Cache, say: Said, bzimage: Path) -> None:
    kernel = prepare(cache, say, bzimage)
    assert (kernel.name, kernel.release, kernel.origin) == ("mine", RELEASE, str(bzimage))
    assert kernel.version == "(builder@host) #1 SMP Tue"
    assert kernel.image_sha256 == file_sha256(bzimage)
    assert kernel.modules == ()


def test_the_modules_of_a_kernel_are_in_the_order_in_which_they_load(
    cache: Cache, say: Said, bzimage: Path, built_tree: Path
) -> None:
    kernel = prepare(cache, say, bzimage, built_tree)
    place = {path.stem: number for number, path in enumerate(kernel.modules)}
    for path, depends in builders.MODULES.items():
        if Path(path).stem in place:
            assert all(place[other] < place[Path(path).stem] for other in depends)


def test_a_vmlinux_is_booted_as_it_is(cache: Cache, say: Said, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(builders.vmlinux())
    kernel = prepare(cache, say, path)
    assert kernel.boot_image == kernel.image == kernel.root / "boot" / f"vmlinux-{RELEASE}"


def test_a_kernel_stays_when_its_image_is_overwritten(
    cache: Cache, say: Said, bzimage: Path
) -> None:
    kernel = prepare(cache, say, bzimage)
    bzimage.write_bytes(builders.bzimage(release="6.2.0"))
    assert prepare(cache, say, bzimage).release == "6.2.0"
    assert kernel.boot_image.read_bytes() == builders.vmlinux()


def test_the_same_image_is_unpacked_once(cache: Cache, say: Said, bzimage: Path) -> None:
    assert prepare(cache, say, bzimage) == prepare(cache, say, bzimage)
    assert say.lines == [f"unpacking {bzimage}"]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was just written counts as untouched for long."""
    monkeypatch.setattr(files, "SETTLED", -1.0)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that were read from now on."""
    read: list[Path] = []
    real = image._snapshot

    def noted(path: Path, cache: Cache) -> AbstractContextManager[object]:
        read.append(path)
        return real(path, cache)

    monkeypatch.setattr(image, "_snapshot", noted)
    return read


@pytest.mark.usefixtures("settled")
def test_a_trusting_cache_does_not_read_an_untouched_image_again(
    cache: Cache, say: Said, bzimage: Path, unread: list[Path]
) -> None:
    first = prepare(cache, say, bzimage)
    assert prepare(cache.trusting(), say, bzimage) == first
    assert unread == [bzimage]


@pytest.mark.usefixtures("settled")
def test_an_image_with_the_same_bytes_is_not_copied_again(
    cache: Cache, say: Said, bzimage: Path, unread: list[Path]
) -> None:
    first = prepare(cache, say, bzimage)
    bzimage.touch()
    assert prepare(cache, say, bzimage) == first
    assert unread == [bzimage]


@pytest.mark.usefixtures("settled")
def test_every_missing_option_of_a_known_image_is_named(
    cache: Cache, say: Said, bzimage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its modules were moved since it was last booted."""
    prepare(cache, say, bzimage)

    def refuse(*_: object) -> None:
        raise KernelUnavailable("a module is missing")

    def explain(*_: object) -> tuple[str, ...]:
        raise KernelUnavailable("every option")

    monkeypatch.setattr(modules, "check_event_channel", refuse)
    monkeypatch.setattr(image, "check_configuration", explain)
    with pytest.raises(KernelUnavailable, match="every option"):
        prepare(cache, say, bzimage)


@pytest.mark.usefixtures("settled")
def test_the_use_of_an_image_renews_its_note(cache: Cache, say: Said, bzimage: Path) -> None:
    prepare(cache, say, bzimage)
    (note,) = (cache.root / "images").iterdir()
    os.utime(note, (0, 0))
    prepare(cache, say, bzimage)
    assert note.stat().st_mtime > 0


@pytest.mark.usefixtures("settled")
def test_other_bytes_are_noticed_though_the_file_looks_untouched(
    cache: Cache, say: Said, bzimage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system over the network, whose answers about a file may be old."""
    stamp = files.stamp(bzimage)
    monkeypatch.setattr(files, "stamp", lambda _: stamp)
    prepare(cache, say, bzimage)
    bzimage.write_bytes(builders.bzimage(release="6.2.0"))
    assert prepare(cache, say, bzimage).release == "6.2.0"


@pytest.mark.usefixtures("settled")
def test_an_image_of_one_architecture_is_not_taken_for_another(
    cache: Cache, say: Said, bzimage: Path
) -> None:
    prepare(cache, say, bzimage)
    for seen in (cache, cache.trusting()):
        with pytest.raises(KernelUnavailable, match="arm64"):
            image.from_file("x", bzimage, lambda _: ModuleSet(), seen, say, arch=Arch.ARM64)


@pytest.mark.usefixtures("settled")
def test_a_new_build_is_noticed_by_a_trusting_cache(cache: Cache, say: Said, bzimage: Path) -> None:
    prepare(cache, say, bzimage)
    bzimage.write_bytes(builders.bzimage(release="6.2.0"))
    assert prepare(cache.trusting(), say, bzimage).release == "6.2.0"


def test_an_image_that_was_just_written_is_not_trusted(
    cache: Cache, say: Said, bzimage: Path, unread: list[Path]
) -> None:
    prepare(cache, say, bzimage)
    prepare(cache.trusting(), say, bzimage)
    assert unread == [bzimage, bzimage]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stamp": 1}'])
def test_an_image_is_read_again_where_the_notes_are_of_no_use(
    cache: Cache, say: Said, bzimage: Path, unread: list[Path], content: str
) -> None:
    first = prepare(cache, say, bzimage)
    (notes,) = (cache.root / "images").iterdir()
    notes.write_text(content)
    assert prepare(cache.trusting(), say, bzimage) == first
    assert len(unread) == 2


@pytest.mark.usefixtures("settled")
def test_a_trusting_cache_still_wants_the_digest_of_the_manifest(
    cache: Cache, say: Said, bzimage: Path
) -> None:
    prepare(cache, say, bzimage)
    with pytest.raises(KernelUnavailable, match="the manifest says 00000000"):
        prepare(cache.trusting(), say, bzimage, sha256="0" * 64)


@pytest.mark.usefixtures("settled")
def test_a_trusting_cache_sees_other_modules(
    cache: Cache, say: Said, bzimage: Path, tmp_path: Path
) -> None:
    place = builders.write(tmp_path / "root/lib/modules" / RELEASE, builders.module_files())
    first = prepare(cache, say, bzimage, tmp_path / "root")
    with (place / "kernel/drivers/virtio/virtio_pci.ko").open("ab") as module:
        module.write(b"another build")
    again = prepare(cache.trusting(), say, bzimage, tmp_path / "root")
    assert again.modules_sha256 != first.modules_sha256


def test_other_modules_make_another_kernel(
    cache: Cache, say: Said, bzimage: Path, tmp_path: Path
) -> None:
    place = builders.write(tmp_path / "root/lib/modules" / RELEASE, builders.module_files())
    first = prepare(cache, say, bzimage, tmp_path / "root")
    with (place / "kernel/drivers/virtio/virtio_pci.ko").open("ab") as module:
        module.write(b"another build")
    assert prepare(cache, say, bzimage, tmp_path / "root").root != first.root


@pytest.mark.parametrize(
    ("below", "given"),
    [
        (f"lib/modules/{RELEASE}", ""),
        (f"usr/lib/modules/{RELEASE}", ""),
        (f"lib/modules/{RELEASE}", "lib/modules"),
        (f"lib/modules/{RELEASE}", f"lib/modules/{RELEASE}"),
        ("unpacked", "unpacked"),
    ],
)
def test_modules_are_found_wherever_they_were_installed(
    cache: Cache, say: Said, bzimage: Path, tmp_path: Path, below: str, given: str
) -> None:
    builders.write(tmp_path / "root" / below, builders.module_files())
    assert module_names(prepare(cache, say, bzimage, tmp_path / "root" / given)) == ALL_MODULES


def test_modules_are_found_in_a_tree(
    cache: Cache, say: Said, bzimage: Path, built_tree: Path
) -> None:
    assert module_names(prepare(cache, say, bzimage, built_tree)) == ALL_MODULES


@pytest.mark.parametrize(
    ("image_at", "modules_at"),
    [
        (f"boot/vmlinuz-{RELEASE}", f"lib/modules/{RELEASE}"),
        (f"boot/vmlinuz-{RELEASE}", f"usr/lib/modules/{RELEASE}"),
        (f"usr/lib/modules/{RELEASE}/vmlinuz", f"usr/lib/modules/{RELEASE}"),
    ],
)
def test_modules_beside_an_installed_image_are_its_own(
    cache: Cache, say: Said, tmp_path: Path, image_at: str, modules_at: str
) -> None:
    builders.write(tmp_path, {image_at: builders.bzimage()})
    builders.write(tmp_path / modules_at, builders.module_files())
    assert module_names(prepare(cache, say, tmp_path / image_at)) == ALL_MODULES


def test_an_image_in_a_tree_gets_the_trees_modules(
    cache: Cache, say: Said, built_tree: Path
) -> None:
    kernel = prepare(cache, say, built_tree / "arch/x86/boot/bzImage")
    assert module_names(kernel) == ALL_MODULES


def test_a_stray_configuration_beside_an_image_makes_no_tree(
    cache: Cache, say: Said, bzimage: Path
) -> None:
    (bzimage.parent / ".config").write_text("CONFIG_VIRTIO_PCI=m\n")
    assert prepare(cache, say, bzimage).release == RELEASE


def test_modules_of_another_release_are_named(
    cache: Cache, say: Said, bzimage: Path, tmp_path: Path
) -> None:
    builders.write(tmp_path / "root/lib/modules/6.2.0", builders.module_files("6.2.0"))
    with pytest.raises(KernelUnavailable, match=r"no modules of 6\.1.*it has those of 6\.2\.0"):
        prepare(cache, say, bzimage, tmp_path / "root")


def test_a_directory_without_modules_is_refused(
    cache: Cache, say: Said, bzimage: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(KernelUnavailable, match="it has none at all"):
        prepare(cache, say, bzimage, tmp_path / "empty")


def test_the_links_to_a_build_are_not_searched(
    cache: Cache, say: Said, bzimage: Path, tmp_path: Path
) -> None:
    place = builders.write(tmp_path / "root/lib/modules" / RELEASE, builders.module_files())
    other = builders.write(tmp_path / "build", {"helper.ko": builders.module("helper")})
    (place / "build").symlink_to(other)
    (place / "kernel/drivers/virtio/virtio_pci.ko").write_bytes(
        builders.module("virtio_pci", ["helper"])
    )
    with pytest.raises(KernelUnavailable, match=r"the module helper, .* is missing"):
        prepare(cache, say, bzimage, tmp_path / "root")


def test_a_digest_that_is_right_is_accepted(cache: Cache, say: Said, bzimage: Path) -> None:
    assert prepare(cache, say, bzimage, sha256=file_sha256(bzimage)).release == RELEASE


def test_a_digest_that_is_wrong_is_an_error(cache: Cache, say: Said, bzimage: Path) -> None:
    with pytest.raises(KernelUnavailable, match="the manifest says 00000000"):
        prepare(cache, say, bzimage, sha256="0" * 64)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path: None, "does not exist", id="missing"),
        pytest.param(lambda path: path.mkdir(), "is a directory", id="directory"),
        pytest.param(lambda path: path.touch(), "is empty", id="empty"),
        pytest.param(lambda path: path.write_text("hello\n"), "is a text file", id="text"),
        pytest.param(os.mkfifo, "is not a regular file", id="pipe"),
    ],
)
def test_what_is_no_image_is_refused(
    cache: Cache, say: Said, tmp_path: Path, make: object, reason: str
) -> None:
    make(tmp_path / "kernel")  # type: ignore[operator]
    with pytest.raises(KernelUnavailable, match=f"kernel {reason}"):
        prepare(cache, say, tmp_path / "kernel")


def test_an_image_that_may_not_be_read_is_refused(
    cache: Cache, say: Said, bzimage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def refuse(path: Path, *arguments: object, **more: object) -> object:
        if path == bzimage:  # root may read whatever its mode
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(KernelUnavailable, match=r"cannot be read \(Permission denied\)"):
        prepare(cache, say, bzimage)


def from_tree(cache: Cache, say: Said, path: Path) -> PreparedKernel:
    return image.prepare_tree("tree", TreeSource(path), cache, say)


def test_a_built_tree_is_a_kernel_with_its_modules(
    cache: Cache, say: Said, built_tree: Path
) -> None:
    kernel = from_tree(cache, say, built_tree)
    assert (kernel.release, kernel.origin) == (RELEASE, f"tree {built_tree}")
    assert module_names(kernel) == ALL_MODULES


@pytest.mark.parametrize("prefix", ["", "kernel/"])
def test_a_tree_before_6_2_lists_its_modules_otherwise(
    cache: Cache, say: Said, built_tree: Path, prefix: str
) -> None:
    order = built_tree / "modules.order"
    lines = replaced(order.read_text(), ".o\n", ".ko\n").splitlines()
    order.write_text("".join(f"{prefix}{line}\n" for line in lines))
    assert module_names(from_tree(cache, say, built_tree)) == ALL_MODULES


def test_a_tree_with_all_built_in_needs_no_modules(cache: Cache, say: Said, tmp_path: Path) -> None:
    files = {
        "arch/x86/boot/bzImage": builders.bzimage(),
        ".config": b"# CONFIG_MODULES is not set\nCONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_CONSOLE=y\n",
        "modules.builtin": b"drivers/virtio/virtio_pci.ko\ndrivers/char/virtio_console.ko\n",
    }
    kernel = from_tree(cache, say, builders.write(tmp_path / "linux", files))
    assert kernel.modules == ()


@pytest.mark.parametrize("left_out", ["modules.order", "drivers/virtio/virtio_pci.ko"])
def test_modules_that_were_configured_and_not_built_are_named_with_the_command(
    cache: Cache, say: Said, built_tree: Path, left_out: str
) -> None:
    (built_tree / left_out).unlink()
    with pytest.raises(
        KernelUnavailable, match=r"CONFIG_VIRTIO_PCI=m.*make -C .*linux -j.* modules"
    ):
        from_tree(cache, say, built_tree)


def test_modules_left_from_an_older_build_are_refused(
    cache: Cache, say: Said, built_tree: Path
) -> None:
    (built_tree / "arch/x86/boot/bzImage").write_bytes(builders.bzimage(release="6.1.0-next"))
    with pytest.raises(KernelUnavailable, match="the modules are for 6"):
        from_tree(cache, say, built_tree)


def test_the_newer_of_bzimage_and_vmlinux_is_taken(
    cache: Cache, say: Said, built_tree: Path
) -> None:
    (built_tree / "vmlinux").write_bytes(builders.vmlinux())
    old = built_tree / "arch/x86/boot/bzImage"
    os.utime(old, (1, 1))
    assert from_tree(cache, say, built_tree).image.name == f"vmlinux-{RELEASE}"
    os.utime(built_tree / "vmlinux", (0, 0))
    assert from_tree(cache, say, built_tree).image.name == f"vmlinuz-{RELEASE}"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        pytest.param({".config": b""}, r"build it with: make -C .*linux -j", id="configured"),
        pytest.param(
            {"Kbuild": b""}, r"build it with: cd .*linux && mptcp-harness config \|", id="pristine"
        ),
        pytest.param({"README": b""}, "is not a kernel tree", id="something else"),
    ],
)
def test_a_tree_that_is_not_built_is_answered_with_the_command(
    cache: Cache, say: Said, tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(KernelUnavailable, match=reason):
        from_tree(cache, say, builders.write(tmp_path / "linux", files))


def test_a_tree_that_is_a_file_is_refused(cache: Cache, say: Said, bzimage: Path) -> None:
    with pytest.raises(KernelUnavailable, match="is not a directory"):
        from_tree(cache, say, bzimage)


def test_a_configuration_is_read_without_its_comments(built_tree: Path) -> None:
    with (built_tree / ".config").open("a") as config:
        config.write('# CONFIG_IPV6 is not set\nCONFIG_LOCALVERSION="-mine"\n')
    config_read = modules.read_config(built_tree)
    assert config_read["CONFIG_LOCALVERSION"] == '"-mine"'
    assert "CONFIG_IPV6" not in config_read
