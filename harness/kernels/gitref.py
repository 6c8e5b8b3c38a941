# SPDX-License-Identifier: GPL-2.0-only
"""The ``git`` source: a commit of a clone, built in a copy as ``step`` builds, kept by content.

A clone that is an address is made once, without the contents of files, which git fetches when they
are checked out (git-clone(1), --filter=blob:none). There is one copy, and so one directory of
objects, for each clone and configuration. A build has low priority and all processors, and there is
one at a time, so the boots beside it keep their pace.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, Interrupted, KernelUnavailable, Unbuildable
from harness.host import toolchain, tools
from harness.host.files import touch
from harness.kernels import image, kconfig, kconfig_tree, patch_files
from harness.kernels.build import Build, Compiler, Recipe
from harness.kernels.cache import Built, Cache, digest
from harness.kernels.debian import version_key
from harness.kernels.kernel_image import PreparedKernel, assemble, prepared, recognise
from harness.kernels.modules import ModuleSet
from harness.kernels.source import Commit, GitFailed, Repository, Untestable
from harness.manifest.entries import GitSource

Say = Callable[[str], None]
#: Below the cache: a directory for each copy, and for each clone of an address.
BUILDS = "builds"
#: Logs that are kept of each copy.
_LOGS = 16
_WANTED = ("Kbuild", "Makefile", "arch/x86/Kconfig")
_REFS = ("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/remotes", "refs/tags")


def prepare(name: str, source: GitSource, cache: Cache, say: Say) -> PreparedKernel:
    """The kernel of ``source``, built unless the same content was built before.

    Raises KernelUnavailable, and Unbuildable if it is the commit's fault.
    """
    with _refusals():
        toolchain.check(source.compiler)
        repository = opened(source, cache, say)
        commit = resolve(repository, source)
        patches = patch_files.files(source.patches)
        # The user's own fragments are read before minutes are spent on a check-out.
        kconfig_tree.wanted([item for item in source.config if item.startswith("/")], cache.root)
        key = digest([commit.tree, *_inputs(source, patches)])
        place = f"{repository.key}-{digest([source.config, source.compiler])}"

        def build(root: Path) -> Built:
            with (
                cache.lock("git-build", say, "another build"),
                cache.lock(f"build-{place}", say, "another build in this copy") as lock,
            ):
                job = _Job(source, repository, commit, patches, cache.directory(BUILDS, place))
                return job.run(root, key, cache, say, lock)

        entry = cache.entry(f"git-{key}", build, say)
    origin = " ".join([source.repository, source.ref, commit.id[:12], *source.config])
    return prepared(name, entry, origin=origin)


def check_clone(path: str, cache: Cache, say: Say) -> None:
    """Raise HostError unless ``path`` is a clone of Linux, as far as its HEAD shows."""
    repository = opened(GitSource(path, "HEAD"), cache, say)
    with contextlib.suppress(GitFailed):  # the HEAD of a bare clone may be of no branch
        repository.git("rev-parse", "--verify", "--quiet", "HEAD")
        resolve(repository, GitSource(path, "HEAD"))


def recipe(source: GitSource) -> str:
    """A digest of what an image of ``source`` depends on besides its commit.

    Raises KernelUnavailable.
    """
    with _refusals():
        return digest(_inputs(source, patch_files.files(source.patches)))


def built_from(origin: str, source: GitSource) -> str:
    """The commit of a kernel of ``source`` whose result has this ``origin``; "" if it is of another
    ref or clone."""
    rest = origin.removeprefix(f"{source.repository} {source.ref} ")
    commit = rest.split(" ")[0]
    return commit if rest != origin and re.fullmatch(r"[0-9a-f]{12}", commit) else ""


def refs(source: GitSource, cache: Cache, say: Say) -> list[str]:
    """The branches and tags that the pattern in ``source`` matches, oldest version first.

    Raises KernelUnavailable if there are none.
    """
    with _refusals():
        repository = opened(source, cache, say)
        known = repository.git(*_REFS).splitlines()
    found = [ref for ref in known if fnmatch.fnmatchcase(ref, source.ref)]
    if not found:
        raise KernelUnavailable(
            f"no branch or tag of {source.repository} matches {source.ref!r}{_near(source, known)}"
        )
    return sorted(found, key=lambda ref: version_key(ref.replace("-rc", "~rc")))


def release(source: GitSource, cache: Cache, say: Say) -> str:
    """The release that the Makefile of the commit names, such as 6.12.5, without building it."""
    with _refusals():
        repository = opened(source, cache, say)
        text = repository.git("show", f"{resolve(repository, source).id}:Makefile")
    found: dict[str, str] = dict(
        re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) = ?(\S*)$", text, re.M)
    )
    numbers = [found.get(name, "") for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    return ".".join(filter(None, numbers)) + found.get("EXTRAVERSION", "")


class _refusals:  # noqa: N801 - a context manager, used like a function
    """Turns whatever a build raises into KernelUnavailable: other kernels are still tested."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KernelUnavailable):
            return
        if isinstance(error, Interrupted):
            raise KernelUnavailable("interrupted") from error
        if isinstance(error, Untestable):
            raise Unbuildable(str(error)) from error
        if isinstance(error, HarnessError | GitFailed):
            raise KernelUnavailable(str(error)) from error


def _inputs(source: GitSource, patches: Sequence[Path]) -> list[object]:
    """The inputs of an image, besides its tree."""
    texts = [Path(item).read_text() if item.startswith("/") else item for item in source.config]
    named = [kconfig_tree.NAMED.get(item, "") for item in source.config]
    sums = [hashlib.sha256(patch.read_bytes()).hexdigest() for patch in patches]
    version = toolchain.version(source.compiler)
    return [kconfig.fragment(), texts, named, sums, source.compiler, version]


@dataclass(frozen=True)
class _Job:
    """A build in the directory ``place``, whose lock is held."""

    source: GitSource
    repository: Repository
    commit: Commit
    patches: Sequence[Path]
    place: Path

    def run(self, root: Path, key: str, cache: Cache, say: Say, lock: int) -> Built:
        """Fill ``root``. Raises Untestable, HostError, Interrupted and KernelUnavailable."""
        touch(self.place)
        copy = self.repository.open(self.place)
        tree = copy.patched(self.commit.tree, self.patches)
        say(f"checking out {self.commit}")
        copy.check_out(tree)
        wanted = kconfig_tree.wanted(self.source.config, copy.directory)
        recipe = Recipe(
            (kconfig.fragment(),),
            tools.processors(),
            tuple(wanted),
            Compiler(self.source.compiler),
            nice=True,
        )
        log = self._log(key)
        build = Build(self.place, copy, recipe, log, say, cache.stop, lock)
        path = build.run(self.commit, tree)
        found = recognise(path.read_bytes(), f"the image of {self.source.ref}")
        check = functools.partial(image.check_configuration, path)
        return assemble(root, found, ModuleSet(), check)

    def _log(self, key: str) -> Path:
        logs = self.place / "logs"
        logs.mkdir(exist_ok=True)
        old = sorted(logs.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in old[: -_LOGS + 1]:
            path.unlink(missing_ok=True)
        return logs / f"{self.commit.id[:12]}-{key}.log"


def opened(source: GitSource, cache: Cache, say: Say) -> Repository:
    """The clone of ``source``, made or fetched if necessary. Raises HostError."""
    if "://" not in source.repository:
        repository = Repository(Path(source.repository), say, cache.stop)
    else:
        repository = _cloned(source.repository, cache, say)
    if source.fetch and source.repository not in cache.fetched:
        with cache.lock(f"fetch-{repository.key}", say, "another fetch"):
            say(f"fetching {source.repository}")
            try:
                repository.git("fetch", "--quiet", "--tags", "--prune", "--all")
            except GitFailed as error:
                raise KernelUnavailable(
                    f"{source.repository} cannot be fetched ({error}); check the network, or omit "
                    "fetch: true"
                ) from error
        cache.fetched.add(source.repository)
    return repository


def _cloned(address: str, cache: Cache, say: Say) -> Repository:
    key = digest(["clone", address])
    place = cache.directory(BUILDS) / f"clone-{key}"
    with cache.lock(f"build-clone-{key}", say, "another clone"), cache.scratch() as scratch:
        if not (place / "HEAD").is_file():
            say(f"cloning {address}")
            fresh = scratch / "clone"
            options = ("--quiet", "--bare", "--filter=blob:none")
            try:
                Repository.run_git(
                    scratch, ("clone", *options, "--", address, str(fresh)), say, cache.stop
                )
            except GitFailed as error:
                raise KernelUnavailable(
                    f"{address} cannot be cloned ({error}); check the address and the network"
                ) from error
            fresh.rename(place)
        touch(place)
    return Repository(place, say, cache.stop)


def resolve(repository: Repository, source: GitSource) -> Commit:
    """The commit that ``source`` names. Raises KernelUnavailable if it is none of a kernel."""
    wanted = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{source.ref}^{{commit}}")
    try:
        id = repository.git(*wanted)
    except GitFailed:
        near = _near(source, repository.git(*_REFS).splitlines())
        fetch = "" if source.fetch else "; fetch: true fetches new ones"
        raise KernelUnavailable(
            f"{source.repository} has no commit {source.ref!r}{near}{fetch}"
        ) from None
    there = repository.git("ls-tree", "--name-only", id, "--", *_WANTED).splitlines()
    if len(there) < len(_WANTED):
        raise KernelUnavailable(
            f"{source.ref} of {source.repository} is not a kernel: it lacks "
            f"{', '.join(name for name in _WANTED if name not in there)}; give a clone of Linux"
        )
    time, tree, subject = repository.git("log", "-1", "--format=%ct %T %s", id).split(" ", 2)
    return Commit(id, subject, int(time), tree, is_modified=False)


def _near(source: GitSource, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(source.ref, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""
