# SPDX-License-Identifier: GPL-2.0-only
"""Debian's archives through the host's apt, with private state for each suite.

The configuration of the system's apt is read (mirror, proxy, credentials) and never changed, and
root is not needed. apt verifies every index and every package with Debian's archive keys.
"""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from harness.errors import KernelUnavailable
from harness.host import files, programs, tools
from harness.kernels import debian
from harness.kernels.cache import Cache, digest, file_sha256, unavailable
from harness.kernels.debian import Archive, Package

#: Seconds before an index is read again, or a failed attempt repeated.
FRESH = 3600
#: The architecture of the kernels, as Debian names it.
AMD64 = "amd64"
_RETRY_AFTER = 600
_UPDATE_TIMEOUT = 600
# In a suite's state: its kernel packages, and the reason if the last attempt to read them failed.
_INDEX = "kernels.json"
_FAILED = "failed"
_READ_ONLY = "the cache cannot be written to"
_DOWNLOAD_TIMEOUT = 3600

_KEYRINGS = tuple(
    Path("/usr/share/keyrings/debian-archive-keyring").with_suffix(suffix)
    for suffix in (".pgp", ".gpg")
)
_INSTEAD = "use an image:, tree: or upstream: kernel instead of deb:, or run this on Debian"
# Hooks and pins are for the system's own packages, and a default release that is not in the private
# sources makes apt fail. The index is compressed because only the extracted one is read.
_CONFIG = """\
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "{state}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
#clear APT::Default-Release;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Update::Error-Mode "any";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
Acquire::PDiffs "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
"""
_TRANSIENT = re.compile(
    r"Temporary failure resolving|Could not resolve|Could not connect|Unable to connect"
    r"|Connection (failed|timed out|reset)|Network is unreachable|\b50[0234]  "
    r"|Hash Sum mismatch|unexpected size|Could not get lock"
)
_BAD_SIGNATURE = re.compile("NO_PUBKEY|is not signed|EXPKEYSIG|BADSIG|REVKEYSIG|Missing key")


class Gone(KernelUnavailable):
    """The mirror no longer has a package of the index; a fresh index may name its successor."""


def index(
    suite: str,
    cache: Cache,
    say: Callable[[str], None],
    *,
    refresh: bool = False,
    arch: str = AMD64,
    archive: Archive | None = None,
) -> dict[str, Package]:
    """The kernel packages of ``suite`` by name, each in its newest version.

    ``archive`` is None for Debian's.

    The index is read from the mirror unless that was done within FRESH seconds; ``refresh`` reads
    it in any case. Without a network, an older one is used, and ``say`` gets a message.
    """
    if refresh:
        return _index_of(suite, arch, cache, say, refresh=True, archive=archive)
    # Each of sixty kernels needs this, and reading apt's configuration takes 20 ms.
    return cache.once(
        f"index of {_state_name(suite, arch, archive)}",
        lambda: _index_of(suite, arch, cache, say, refresh=False, archive=archive),
    )


def _index_of(
    suite: str,
    arch: str,
    cache: Cache,
    say: Callable[[str], None],
    *,
    refresh: bool,
    archive: Archive | None,
) -> dict[str, Package]:
    if any(tools.locate(tool) is None for tool in tools.DEB_TOOLS):
        raise KernelUnavailable(f"this host lacks apt or dpkg, which deb: needs; {_INSTEAD}")
    state = _state(suite, arch, cache, archive)
    with cache.lock(f"apt-{state.name}", say) as lock:
        found = _read(state) if _configure(state, suite, arch, archive) else None
        if found is not None and not refresh and _age(state / _INDEX) < FRESH:
            return found
        if found is not None and cache.is_read_only:
            say(f"using the package index of {suite} from {_written(state / _INDEX)}: {_READ_ONLY}")
            return found
        if found is None or refresh or _age(state / _FAILED) >= _RETRY_AFTER:
            say(f"reading the package index of {suite}")
            try:
                return _update(state, suite, lock, cache.stop, say)
            except KernelUnavailable as failure:
                if found is None or cache.stop.is_set():
                    raise
                (state / _FAILED).write_text(str(failure))
        why = (state / _FAILED).read_text()
        say(f"using the package index of {suite} from {_written(state / _INDEX)}: {why}")
        return found


def find(
    suite: str, pattern: str, cache: Cache, say: Callable[[str], None], arch: str = AMD64
) -> dict[str, Package]:
    """The packages of ``suite`` of any kind whose names match the glob ``pattern``.

    Each in its newest version; :func:`index` has only kernel packages.
    """
    index(suite, cache, say, arch=arch)
    state = _state(suite, arch, cache)
    names = _run(state, cache.stop, "apt-cache", "pkgnames").stdout.split()
    wanted = sorted(fnmatch.filter(names, pattern))
    show = ("apt-cache", "show", "--no-all-versions", *wanted)
    return distil(_run(state, cache.stop, *show).stdout if wanted else "")


def download(
    suite: str,
    packages: Sequence[Package],
    directory: Path,
    cache: Cache,
    arch: str = AMD64,
    say: Callable[[str], None] = lambda _: None,
    archive: Archive | None = None,
) -> dict[str, Path]:
    """Fetch ``packages`` of ``suite`` into ``directory``; returns their files by package name.

    ``say`` gets a progress message now and then.

    Raises Gone if the mirror no longer has them, KernelUnavailable for any other failure.
    """
    wanted = [f"{package.name}={package.version}" for package in packages]
    state = _state(suite, arch, cache, archive)
    what = " and ".join(package.name for package in packages)
    size = sum(package.size for package in packages) / 1e6

    def waiting(seconds: float) -> None:
        done = files.size_below(directory) / 1e6
        say(f"downloading {what}: {done:.0f} of {size:.0f} MB after {seconds:.0f} s")

    arguments = ("-q", "download", *wanted)
    run = _run(state, cache.stop, "apt-get", *arguments, cwd=directory, waiting=waiting)
    if run.returncode != 0:
        if "404" in run.stderr or "was not found" in run.stderr or "Unable to locate" in run.stderr:
            raise Gone(f"the mirror no longer has {what} of {suite}: {_tail(run)}")
        raise _failure(f"downloading {what} of {suite} failed", run)
    found = {path.name.split("_")[0]: path for path in directory.glob("*.deb")}
    for package in packages:
        if package.name not in found or file_sha256(found[package.name]) != package.sha256:
            raise Gone(f"{package.name} of {suite} changed while it was downloaded; try again")
    return found


def lookup(suite: str, name: str, version: str, cache: Cache) -> Package | None:
    """The package ``name`` of ``suite`` in ``version``, which :func:`index` may leave out.

    Uses the lists that the last reading of the index left; None if it is not in them.
    """
    run = _run(_state(suite, AMD64, cache), cache.stop, "apt-cache", "show", f"{name}={version}")
    found = distil(run.stdout).get(name)
    return found if found is not None and found.version == version else None


def _state(suite: str, arch: str, cache: Cache, archive: Archive | None = None) -> Path:
    return cache.directory("apt", _state_name(suite, arch, archive))


def _state_name(suite: str, arch: str, archive: Archive | None = None) -> str:
    other = f"@{digest([archive.mirror, str(archive.signed_by)])}" if archive else ""
    return suite.replace("/", "_") + ("" if arch == AMD64 else f":{arch}") + other


def _age(path: Path) -> float:
    """Seconds since ``path`` was written; infinite if it does not exist or is from the future."""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
    return age if age >= 0 else float("inf")


def _written(path: Path) -> str:
    when = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    return f"{when:%Y-%m-%d %H:%M}"


def _read(state: Path) -> dict[str, Package] | None:
    """The extracted index; None if there is none or it is damaged."""
    try:
        records = json.loads((state / _INDEX).read_text())
        return {name: Package(**fields) for name, fields in records.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None


def _configure(state: Path, suite: str, arch: str, archive: Archive | None) -> bool:
    """Write the private configuration; returns whether it existed unchanged."""
    line = _source_line_of(archive, suite, arch) if archive else _source_line(suite, arch)
    files = {"apt.conf": _CONFIG.format(state=state, arch=arch), "sources.list": line, "status": ""}
    unchanged = True
    for name, text in files.items():
        path = state / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            unchanged = False
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    return unchanged


def _source_line_of(archive: Archive, suite: str, arch: str) -> str:
    if re.search(r"[\s\[\]]", f"{archive.mirror}{archive.signed_by}"):
        raise KernelUnavailable(
            f"apt cannot use {archive.mirror} with {archive.signed_by}: no blanks and no brackets "
            "are possible in them; move the keyring"
        )
    return f"deb [arch={arch} signed-by={archive.signed_by}] {archive.mirror} {suite} main\n"


def _source_line(suite: str, arch: str) -> str:
    keyring = next((path for path in _KEYRINGS if path.exists()), None)
    if keyring is None:
        raise KernelUnavailable(
            "Debian's archive keys are missing, so its packages cannot be verified; install them "
            "with: apt-get install debian-archive-keyring"
        )
    names = ["LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"]
    config = subprocess.run(
        ["apt-config", "shell", *names], capture_output=True, text=True, errors="replace"
    )
    uri = debian.choose_mirror(debian.configured_sources(config.stdout), suite)
    if uri is None:
        raise KernelUnavailable(
            f"this host's apt has no source for {suite} or any other suite of Debian's archive, so "
            f"no mirror is known; {_INSTEAD}"
        )
    return f"deb [arch={arch} signed-by={keyring}] {uri} {suite} main\n"


def _update(
    state: Path, suite: str, lock: int, stop: threading.Event, say: Callable[[str], None]
) -> dict[str, Package]:
    def waiting(seconds: float) -> None:
        say(f"reading the package index of {suite}: {seconds:.0f} s so far")

    run = _run(
        *(state, stop, "apt-get", "-q", "update"),
        timeout=_UPDATE_TIMEOUT,
        keep=lock,
        waiting=waiting,
    )
    if run.returncode != 0:
        mirror_line = (state / "sources.list").read_text().split("] ")[1].split(" ")[0]
        if "does not have a Release file" in run.stderr and "404" in run.stdout + run.stderr:
            raise KernelUnavailable(f"the mirror {mirror_line} has no suite {suite}")
        raise _failure(f"reading the package index of {suite} from {mirror_line} failed", run)
    names = _run(state, stop, "apt-cache", "pkgnames", "linux-").stdout.split()
    kinds = ("linux-image-", "linux-binary-", "linux-modules-", "linux-base-")
    names = sorted(n for n in names if n.startswith(kinds) and not n.endswith("-dbg"))
    show = ("apt-cache", "show", "--no-all-versions", *names)
    packages = distil(_run(state, stop, *show).stdout if names else "")
    new = state / (_INDEX + ".new")
    new.write_text(json.dumps({name: asdict(package) for name, package in packages.items()}))
    new.replace(state / _INDEX)
    (state / _FAILED).unlink(missing_ok=True)
    return packages


def distil(records: str) -> dict[str, Package]:
    return {
        fields["package"]: Package(
            name=fields["package"],
            version=fields["version"],
            depends=fields.get("depends", ""),
            size=int(fields["size"]),
            sha256=fields["sha256"],
        )
        for fields in debian.stanzas(records)
        if {"package", "version", "size", "sha256"} <= fields.keys()
    }


def _run(
    state: Path,
    stop: threading.Event,
    program: str,
    *arguments: str,
    cwd: Path | None = None,
    timeout: int = _DOWNLOAD_TIMEOUT,
    keep: int | None = None,
    waiting: Callable[[float], None] = lambda _: None,
) -> subprocess.CompletedProcess[str]:
    """Run apt with the configuration in ``state``; it inherits the descriptor ``keep``."""
    command = next(word for word in arguments if not word.startswith("-"))
    too_long = (
        f"{program} {command} did not end within {timeout} seconds; check the network and "
        f"apt's proxy settings"
    )
    with unavailable(too_long):
        return programs.run(
            [program, "-c", str(state / "apt.conf"), *arguments],
            tools.apt_environment(),
            stop=stop,
            timeout=timeout,
            directory=cwd,
            pass_fds=() if keep is None else (keep,),
            waiting=waiting,
        )


def _failure(what: str, run: subprocess.CompletedProcess[str]) -> KernelUnavailable:
    if "No space left" in run.stderr or "enough free space" in run.stderr:
        return KernelUnavailable(f"{what}: the disk is full; {_tail(run)}")
    if _BAD_SIGNATURE.search(run.stderr):
        return KernelUnavailable(
            f"{what}: its signature does not verify with the archive's keys ({_tail(run)}); "
            "update the package debian-archive-keyring, or correct signed_by"
        )
    transient = _TRANSIENT.search(run.stderr) is not None
    hint = "; check the network and apt's proxy settings" if transient else ""
    return KernelUnavailable(f"{what}: {_tail(run)}{hint}", transient=transient)


def _tail(run: subprocess.CompletedProcess[str]) -> str:
    """apt's first error that is not about its sandbox, or its exit status."""
    for line in run.stderr.splitlines():
        if line.startswith(("E: ", "W: ", "Err")) and "unsandboxed" not in line:
            return line.removeprefix("E: ").removeprefix("W: ").strip()
    return f"apt ended with status {run.returncode}"
