# SPDX-License-Identifier: GPL-2.0-only
"""pytest-xdist: all tests of a kernel in one worker. Imported only where pytest-xdist is."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadGroupScheduling, LoadScopeScheduling

#: What a manifest's name ends in.
_SUFFIXES = (".yaml", ".yml")


class _ByKernel:
    def _split_scope(self, nodeid: str) -> str:
        """The kernel of a test; what the scheduler says itself of any other test."""
        manifest, _, rest = nodeid.partition("::")
        if manifest.endswith(_SUFFIXES):
            return f"{manifest}::{rest.partition('::')[0]}"
        scope: str = super()._split_scope(nodeid)  # type: ignore[misc]
        return scope


class ByKernel(_ByKernel, LoadGroupScheduling):  # type: ignore[misc]
    """Kernels; other tests one by one, or by their `xdist_group`.

    Kernels have that mark, too, but `--dist loadgroup` adds it to the names of tests, which --lf
    then does not find in another run; and with pytest 9.2, pytest-xdist 3.8 does not find it.
    """


class ByKernelOrScope(_ByKernel, LoadScopeScheduling):  # type: ignore[misc]
    """Kernels; other tests by their module or class."""


#: By `--dist`; the others leave a file whole, or give each test to each worker.
SCHEDULERS: dict[str, Any] = {
    "load": ByKernel,
    "loadgroup": ByKernel,
    "worksteal": ByKernel,
    "loadscope": ByKernelOrScope,
}
