# SPDX-License-Identifier: GPL-2.0-only
"""The ``upstream`` source: a build of a mainline or stable tag, which virtme-ng downloads."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from harness.errors import KernelUnavailable
from harness.host import files, programs, tools
from harness.kernels import modules
from harness.kernels.cache import Built, Cache, digest, unavailable
from harness.kernels.kernel_image import PreparedKernel, assemble, prepared, recognise
from harness.manifest.entries import UpstreamSource

# The form that virtme-ng recognises (virtme_ng/run.py); it takes anything else for a file.
_TAG = re.compile(r"v\d+(\.\d+)*(-rc\d+)?")
_TIMEOUT = 3600


def prepare(
    name: str, source: UpstreamSource, cache: Cache, say: Callable[[str], None]
) -> PreparedKernel:
    """The kernel of ``source.tag``, downloaded once; builds of a tag are never replaced."""
    tag = source.tag
    if not _TAG.fullmatch(tag):
        raise KernelUnavailable(f"{tag!r} is not a tag; give one such as v6.6 or v6.7-rc3")

    def build(root: Path) -> Built:
        # virtme-ng takes an interrupted download for a complete one, so each starts from scratch.
        with cache.scratch() as home:
            say(f"virtme-ng downloads {tag}")
            directory = download(tag, home, cache.stop, say)
            return unpack(directory, root, tag)

    entry = cache.entry(f"upstream-{tag}-{digest(tag)}", build, say)
    return prepared(name, entry, origin=f"upstream {tag}")


def download(
    tag: str,
    home: Path,
    stop: threading.Event,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Let virtme-ng fetch ``tag`` with ``home`` as its home; returns the directory of its files.

    ``say`` gets a progress message now and then.

    Raises KernelUnavailable, with virtme-ng's last message, for any failure, and once ``stop`` is
    set.
    """
    program = tools.find_virtme_ng()
    if program is None:
        raise KernelUnavailable(f"vng was not found; {tools.VIRTME_NG_REMEDY}")

    def waiting(seconds: float) -> None:
        done = files.size_below(home) / 1e6
        say(f"virtme-ng downloads {tag}: {done:.0f} MB after {seconds:.0f} s")

    with unavailable(f"virtme-ng did not download {tag} within {_TIMEOUT} seconds"):
        run = programs.run(
            # Even a dry run starts a virtiofsd, waits for one that does not work, and looks for
            # modules with depmod and modprobe.
            [str(program), "-r", tag, "--dry-run", "-v", "--force-9p", "--skip-modules"],
            {**os.environ, "HOME": str(home), "PATH": tools.virtme_ng_path()},
            stop=stop,
            timeout=_TIMEOUT,
            directory=home,
            waiting=waiting,
        )
    images = list(home.glob(f".cache/virtme-ng/{tag}/*/boot/vmlinuz*generic"))
    if run.returncode != 0 or len(images) != 1:
        raise _failure(tag, run)
    return images[0].parent.parent


def unpack(directory: Path, root: Path, what: str) -> Built:
    """Fill ``root`` from ``directory``, which holds boot/vmlinuz-* and lib/modules."""
    image = next((directory / "boot").glob("vmlinuz*"))
    recognised = recognise(image.read_bytes(), f"the image of {what}")
    found = modules.find(directory, recognised.release)
    modules.check_event_channel(found, what)
    return assemble(root, recognised, found)


def _failure(tag: str, run: subprocess.CompletedProcess[str]) -> KernelUnavailable:
    said = [line.strip() for line in run.stderr.splitlines() if line.strip()]
    reason = said[-1][:500] if said else f"it ended with status {run.returncode}"
    if "error: 404" in reason or "could not find kernel packages" in reason:
        return KernelUnavailable(
            f"virtme-ng finds no build of {tag} ({reason}); not every tag has one; try another, or "
            f"build the tag and use tree:"
        )
    offline = re.search("Connection|Timeout|NameResolution|Max retries|Proxy|SSL", reason)
    hint = "; check the network and HTTPS_PROXY" if offline else ""
    return KernelUnavailable(
        f"virtme-ng could not download {tag}: {reason}{hint}", transient=bool(offline)
    )
