# SPDX-License-Identifier: GPL-2.0-only
"""A manifest as pytest's tree of tests: the kernels, their families, and the checks.

All of it follows from the manifest and the registry of checks, so nothing is booted to collect it,
and names are the same in each run. A check is one test in each family, however many phases, sides
and payloads it has: it is the least that a boot can be asked for, so that `--lf` and `-k` run what
they select, and its name stays when a place is added.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guest import checks as guest_checks
from harness.manifest.entries import KernelEntry
from harness.manifest.expectations import CAPABILITIES
from harness.manifest.plan import Profile
from harness.pytest_plugin.boots import Boots, Wanted
from harness.pytest_plugin.outcomes import KERNEL, Key, Kind, Outcome
from harness.verdict.judge import CAPABILITY, OF_IPV6
from harness.verdict.verdicts import Family


class ManifestFile(pytest.File):
    """The manifest, with ``entries`` to test."""

    def __init__(
        self, *, entries: list[KernelEntry], profile: Profile, boots: Boots, **given: Any
    ) -> None:
        super().__init__(**given)
        self.entries = entries
        self.profile = profile
        self.boots = boots

    def collect(self) -> Iterator[KernelNode]:
        for entry in self.entries:
            yield KernelNode.from_parent(self, name=entry.name, entry=entry, manifest=self)


class KernelNode(pytest.Collector):
    """A kernel: its own test, and those of its families."""

    def __init__(self, *, entry: KernelEntry, manifest: ManifestFile, **given: Any) -> None:
        super().__init__(**given)
        self.entry = entry
        self.manifest = manifest
        self.line = int(entry.where.rsplit(":", 2)[1])
        # All tests of a kernel in one worker of pytest-xdist, so that it boots once.
        self.add_marker(pytest.mark.xdist_group(name=f"{manifest.path}:{entry.name}"))

    def collect(self) -> Iterator[KernelItem | FamilyNode]:
        yield KernelItem.from_parent(self, name=KERNEL, kernel=self, key=Key(None, KERNEL))
        for family in Family:
            yield FamilyNode.from_parent(self, name=family.value, kernel=self)


class FamilyNode(pytest.Collector):
    """The checks of a kernel in one address family."""

    def __init__(self, *, kernel: KernelNode, **given: Any) -> None:
        super().__init__(**given)
        self.kernel = kernel

    def collect(self) -> Iterator[KernelItem]:
        family = Family(self.name)
        for id in tests_of(family, self.kernel.manifest.profile):
            key = Key(family, id)
            yield KernelItem.from_parent(self, name=id, kernel=self.kernel, key=key)


@functools.cache
def tests_of(family: Family, profile: Profile) -> tuple[str, ...]:
    """The names of the tests of ``family``: capabilities that may be expected, and checks."""
    capabilities = [n for n in CAPABILITIES if n not in OF_IPV6 or family is Family.IPV6]
    checks = [c.id for c in guest_checks.all_checks(profile) if family in c.families]
    return (*(CAPABILITY + name for name in capabilities), *checks)


class KernelItem(pytest.Item):
    """One test; its set-up waits for the kernel's boot."""

    def __init__(self, *, kernel: KernelNode, key: Key, **given: Any) -> None:
        super().__init__(**given)
        self.kernel = kernel
        self.key = key
        self.outcome: Outcome | None = None

    def setup(self) -> None:
        manifest, name = self.kernel.manifest, self.kernel.entry.name
        self.outcome = manifest.boots.outcome(manifest.path, name, self.key)
        if self.key.family is None:
            self._describe(manifest)
        # --junitxml leaves out the sections of a report.
        self.user_properties += self.outcome.sections
        if self.outcome.kind is Kind.ERROR:
            pytest.fail(self.outcome.text, pytrace=False)

    def _describe(self, manifest: ManifestFile) -> None:
        """The kernel, in the report that --junitxml writes."""
        result = manifest.boots.result(manifest.path, self.kernel.entry.name)
        if result is not None:
            names = ("verdict", "release", "version", "image_sha256", "accel")
            self.user_properties += [(name, str(getattr(result, name))) for name in names]

    def runtest(self) -> None:
        outcome = self.outcome
        assert outcome is not None, "pytest calls setup() first"
        match outcome.kind:
            case Kind.SKIPPED:
                raise pytest.skip.Exception(outcome.text, _use_item_location=True)
            case Kind.KNOWN:
                pytest.xfail(outcome.text)
                pytest.fail(outcome.text, pytrace=False)  # with --runxfail
            case Kind.FAILED:
                pytest.fail(outcome.text, pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        names = [node.name for node in self.listchain()[-3 if self.key.family else -2 :]]
        # With "::" pytest would take it for the end of the name, and write its dots as "::", too.
        return self.path, self.kernel.line - 1, " ".join(names)


def wanted_of(items: list[pytest.Item]) -> list[Wanted]:
    """The selected checks of each kernel in ``items``; kernels in the order of their first test."""
    found: dict[KernelNode, dict[Key, None]] = {}
    for item in items:
        if isinstance(item, KernelItem):
            found.setdefault(item.kernel, {})[item.key] = None
    return [
        Wanted(kernel.manifest.path, kernel.entry, tuple(keys)) for kernel, keys in found.items()
    ]
