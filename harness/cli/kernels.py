# SPDX-License-Identifier: GPL-2.0-only
"""``prepare``, ``list`` and ``config``: commands that boot nothing."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from harness.cli import arguments
from harness.cli.common import chosen, complain, say, sharded, stopping
from harness.errors import KernelUnavailable
from harness.verdict.verdicts import EXIT_INFRASTRUCTURE, EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from harness.kernels import Cache
    from harness.manifest.entries import KernelEntry

# Each function imports what it needs: `list checks` takes a fraction of what the manifest's schema
# takes.


def run_prepare(given: argparse.Namespace) -> int:
    """Fetch and unpack kernels without booting them."""
    from concurrent.futures import ThreadPoolExecutor

    from harness.kernels import Cache
    from harness.run import matrix

    cache = Cache(given.cache)
    entries = sharded(chosen(given, cache), given).entries
    with (
        stopping(cache.stop) as stop,
        cache.scratch(),  # keeps `prune` from removing what is in use
        ThreadPoolExecutor(matrix.PREPARING) as preparers,
    ):
        ready = list(preparers.map(lambda entry: _prepare(entry, cache), entries))
    if stop.is_set():
        complain("interrupted")
        return EXIT_INTERRUPTED
    return EXIT_OK if all(ready) else EXIT_INFRASTRUCTURE


def _prepare(entry: KernelEntry, cache: Cache) -> bool:
    from harness import kernels

    def tell(text: str) -> None:
        say(f"{entry.name}: {text}")

    if cache.stop.is_set():
        return False
    try:
        ready = kernels.prepare(entry, cache, tell)
    except KernelUnavailable as error:
        complain(f"{entry.name}: {error}")
        return False
    tell(f"{ready.release} ready in {ready.root}")
    return True


def run_list(given: argparse.Namespace) -> int:
    """Show kernels, checks, capabilities or fixes."""
    lists = {
        "kernels": _list_kernels,
        "checks": _list_checks,
        "capabilities": _list_capabilities,
        "fixes": _list_fixes,
    }
    lists[given.what](given)
    return EXIT_OK


def _list_kernels(given: argparse.Namespace) -> None:
    from harness import kernels
    from harness.kernels import Cache
    from harness.manifest import kernels_yaml

    cache = Cache(given.cache)
    for entry in kernels_yaml.load(given.manifest).entries:
        found = kernels.expand(entry, cache, complain) if given.expand else (entry,)
        for kernel in found:
            kind = "series" if kernel.is_series else "kernel"
            say(f"{kernel.name:24} {kind}  {_source(kernel)}")


def _source(entry: KernelEntry) -> str:
    """The source of a kernel, in the manifest's notation."""
    from harness.manifest.entries import (
        DebSource,
        FileSource,
        GitSource,
        ImageSource,
        TreeSource,
        UpstreamSource,
        UrlSource,
    )

    match entry.source:
        case DebSource(suite=suite, package=package, mirror=mirror):
            return f"deb {suite} {package}" + (f" of {mirror}" if mirror else "")
        case FileSource(format=kind, files=files):
            return f"{kind} {' and '.join(map(str, files))}"
        case GitSource(repository=repository, ref=ref, config=config):
            return " ".join([f"git {repository} {ref}", *config])
        case UrlSource(image=address):
            return f"url {address}"
        case ImageSource(image=image, modules=modules):
            return f"image {image}" + (f", modules {modules}" if modules else "")
        case TreeSource(tree=tree):
            return f"tree {tree}"
        case UpstreamSource(tag=tag):
            return f"upstream {tag}"


def _list_checks(_: argparse.Namespace) -> None:
    from guest import checks as guest_checks

    for check in guest_checks.all_checks():
        print(check.id)
        print(f"    {check.summary}")
        print(
            f"    needs {', '.join(check.needs)}; at {', '.join(check.phases)}; "
            f"on {', '.join(check.sides)}; with {', '.join(check.payloads)}"
        )
        if check.covers:
            print(f"    covers {check.covers}")
        if check.bug:
            print(f"    fails on all kernels so far: {check.bug}")


def _list_capabilities(_: argparse.Namespace) -> None:
    from harness.manifest.expectations import CAPABILITIES

    for spec in CAPABILITIES.values():
        since = f"mainline {spec.since[0]}.{spec.since[1]}" if spec.since else "always"
        print(f"{spec.name:20} {since:14} {spec.meaning}")


def _list_fixes(_: argparse.Namespace) -> None:
    from harness.manifest.fixes_table import FIXES

    for fix in FIXES:
        versions = ", ".join((fix.fixed, *fix.backports))
        since = f"; broken since {fix.since}" if fix.since else ""
        print(f"{fix.commit} {fix.title}")
        print(f"    fixed in {versions}{since}; shown by {', '.join(fix.checks)}")


def add_prepare(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "prepare", run_prepare)
    arguments.add_manifest(command)
    arguments.add_selection(command)
    arguments.add_shard(command)
    arguments.add_durations(command)


def add_list(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "list", run_list)
    command.add_argument("what", choices=("kernels", "checks", "capabilities", "fixes"))
    command.add_argument(
        "--expand",
        action="store_true",
        help="with kernels: list the kernels that each series has now",
    )
    arguments.add_manifest(command)


def add_config(commands: arguments.Commands) -> None:
    command = arguments.command(commands, "config", run_config)
    command.add_argument(
        "--modules",
        action="store_true",
        help="for a kernel that can load modules; the harness itself needs none",
    )
    command.add_argument(
        "--debug-info",
        action="store_true",
        help="with debug information, for source lines in traces; the build takes three times as "
        "long and gigabytes of disk",
    )


def run_config(given: argparse.Namespace) -> int:
    """Print the configuration fragment."""
    from harness.kernels import kconfig

    print("# For a kernel that mptcp-harness can test; in a kernel tree:")
    print(f"#   {kconfig.REMEDY}")
    print(kconfig.fragment(modules=given.modules, debug_info=given.debug_info), end="")
    return EXIT_OK
