# SPDX-License-Identifier: GPL-2.0-only
"""Manifests that the benchmark makes from the default one's kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.manifest.kernels_yaml import DebSource, KernelEntry


def small(entries: Sequence[KernelEntry], memory: str) -> str:
    """``entries``, which are packages, with ``memory`` each."""
    return _text([{**_common(entry), **_package(entry)} for entry in entries], memory=memory)


def many(
    entries: Sequence[KernelEntry], images: Mapping[str, Path], count: int, directory: Path
) -> str:
    """``count`` kernels: those of ``entries`` in turn, each from a file of its own.

    The files are links below ``directory`` to ``images``, by an entry's name. A parameter of a
    module that does not exist, which a kernel ignores, tells each from the others.
    """
    kernels = []
    for number in range(count):
        entry = entries[number % len(entries)]
        link = directory / f"image-{number}"
        link.symlink_to(images[entry.name])
        kernels.append(
            {
                **_common(entry),
                "name": f"{entry.name}-{number:02}",
                "image": str(link),
                "append": f"bench.number={number}",
            }
        )
    return _text(kernels)


def _common(entry: KernelEntry) -> dict[str, Any]:
    return {"name": entry.name, "expect": dict(entry.expect)}


def _package(entry: KernelEntry) -> dict[str, Any]:
    assert isinstance(entry.source, DebSource), "bench.lab.entries() chose it"
    return {"deb": {"suite": entry.source.suite, "package": entry.source.package}}


def _text(kernels: list[dict[str, Any]], **defaults: str) -> str:
    return yaml.safe_dump({"defaults": defaults, "kernels": kernels}, sort_keys=False)
