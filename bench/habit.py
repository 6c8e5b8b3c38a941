# SPDX-License-Identifier: GPL-2.0-only
"""The habit: `vng -r IMAGE -- ./check` on the host's root, with the kernel's modules beside it.

virtme-ng needs modules decompressed and ordered by depmod, and they are not among what the
harness keeps of a package. Only those that such a boot loads are unpacked: the whole tree, as much
as 780 MB, would make the habit no faster.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.runner import Failed
from harness.host import tools
from harness.kernels import Cache, PreparedKernel, apt, debian, modules
from harness.kernels.modules import Module
from harness.manifest.kernels_yaml import DebSource, KernelEntry

#: What virtme-ng 1.42 asks modprobe for (virtme/virtmods.py), what its guest mounts, and all that
#: these depend on in Debian's kernels from 5.10 to 7.3.
MODULES = frozenset(
    {
        *("9p", "9pnet", "9pnet_virtio", "fscache", "netfs", "fuse", "virtiofs", "overlay"),
        *("virtio", "virtio_ring", "virtio_console", "virtio_mmio", "virtio_pci"),
        *("virtio_pci_legacy_dev", "virtio_pci_modern_dev"),
        *("unix", "i8042", "atkbd", "libps2", "serio", "vivaldi_fmap"),
    }
)
_LISTS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


def prepare(
    entry: KernelEntry,
    kernel: PreparedKernel,
    place: Path,
    cache: Cache,
    say: Callable[[str], None],
) -> Path:
    """The image below ``place`` that virtme-ng is given, with modules where it looks for them.

    Raises :class:`Failed`, or KernelUnavailable where the package cannot be had.
    """
    target = place / kernel.release
    image = target / "boot" / f"vmlinuz-{kernel.release}"
    if image.exists():
        return image
    if not isinstance(entry.source, DebSource):
        raise Failed(f"{entry.name} is no deb: kernel; the benchmark compares Debian's")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=place) as scratch:
        source = entry.source
        index = apt.index(source.suite, cache, say)
        found = debian.resolve(index, source.package, source.suite)
        say(f"downloading {found.name} for virtme-ng's own use")
        downloads, root = Path(scratch, "debs"), Path(scratch, "root")
        downloads.mkdir()
        debs = apt.download(source.suite, found.parts, downloads, cache)
        for deb in debs.values():
            _unpack(deb, root, kernel.release)
        _complete(root, kernel)
        root.replace(target)
    return image


def loop(image: Path, check: Path, families: str, *, kvm: bool = False) -> list[str]:
    """One turn of the shell loop: `vng -r IMAGE -- ...`, in the directory of ``check``.

    ``families`` is a shell command for the guest. --force-9p spares it the 5 s in which it waits
    for a virtiofsd that it then refuses; without -v a guest that has no udev says nothing.
    """
    return [
        *("vng", "-r", str(image), "-v", "--force-9p"),
        *([] if kvm else ["--disable-kvm"]),
        *("--", families),
    ]


def _unpack(deb: Path, root: Path, release: str) -> None:
    for path, data in _members(deb):
        name = modules.module_name(path)
        relative = path.removeprefix("./").removeprefix("usr/")
        place = root / relative
        if name in MODULES:
            module = modules.load(path, data)
            _write(place.with_name(place.name.partition(".ko")[0] + ".ko"), module.data)
        elif place.name in _LISTS and place.parent.name == release:
            _write(place, data)


def _members(deb: Path) -> Iterator[tuple[str, bytes]]:
    """Modules of MODULES and the lists beside them: (path, contents)."""
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                name = Path(member.name).name
                wanted = modules.module_name(member.name) in MODULES or name in _LISTS
                file = archive.extractfile(member) if wanted and member.isreg() else None
                if file is not None:
                    yield member.name, file.read()


def _complete(root: Path, kernel: PreparedKernel) -> None:
    """Add the image, and what depmod makes; check that no dependency is left out."""
    directory = root / "lib/modules" / kernel.release
    present = [Module(path.stem, path.read_bytes()) for path in directory.rglob("*.ko")]
    names = {module.name.replace("-", "_") for module in present}
    lacking = {name for module in present for name in module.depends} - names
    if lacking or not present:
        what = f"lack {', '.join(sorted(lacking))}" if present else "are none"
        raise Failed(f"the modules of {kernel.release} for virtme-ng {what}; see {__name__}")
    (root / "boot").mkdir()
    shutil.copyfile(kernel.image, root / "boot" / f"vmlinuz-{kernel.release}")
    depmod = tools.find("depmod")
    assert depmod is not None, "bench.tools.missing() looked for it"
    subprocess.run([str(depmod), "-b", str(root), kernel.release], check=True)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
