# SPDX-License-Identifier: GPL-2.0-only
"""Kernels from git (harness.kernels.gitref), in the same small trees as a step, and as stood in."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness import kernels
from harness.errors import HostError, KernelUnavailable, Unbuildable
from harness.host import toolchain
from harness.kernels import gitref, kconfig_tree, patch_files
from harness.kernels.cache import Cache
from harness.manifest.kernels_yaml import GitSource, KernelEntry
from tests.kernels import builders
from tests.kernels.conftest import Said
from tests.step.support import BROKEN, Tree

#: A build, and make olddefconfig of a tree in which CONFIG_LOST depends on something that is not
#: set.
_MAKE = """\
#!/bin/sh
echo "$*" >> "$DIARY/calls"
case $1 in
olddefconfig)
    grep -v LOST .config > .config.new
    mv .config.new .config
    exit 0 ;;
esac
! grep -q 'syntax error' net/mptcp/code.c || {
    echo "net/mptcp/code.c:1:1: error: expected ';' before 'x'" >&2
    exit 1
}
mkdir -p arch/x86/boot
cp "$DIARY/image" arch/x86/boot/bzImage
"""
KCONFIG = """\
config LOST
\tbool "lost"
\tdepends on NET && MISSING
config KASAN
\tbool "kasan"
"""


@pytest.fixture
def linux(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    tree.make.write_text(_MAKE)
    (tree.diary / "image").write_bytes(builders.bzimage())
    path = os.environ["PATH"]
    monkeypatch.setattr("harness.host.tools.virtme_ng_path", lambda: path)
    monkeypatch.setattr(toolchain, "check", lambda _: None)
    return tree


@pytest.fixture
def prepare(linux: Tree, tmp_path: Path) -> Callable[..., kernels.PreparedKernel]:
    cache = Cache(tmp_path / "cache")

    def run(ref: str = "HEAD", **keys: object) -> kernels.PreparedKernel:
        source = replace(GitSource(str(linux.path), ref), **keys)  # type: ignore[arg-type]
        entry = KernelEntry("export", source, "here")
        return kernels.prepare(entry, cache, lambda _: None)

    return run


Prepare = Callable[..., kernels.PreparedKernel]


def test_a_ref_is_built_once(linux: Tree, prepare: Prepare) -> None:
    linux.git("branch", "export")
    found = prepare("export")
    assert found.release == builders.RELEASE
    assert prepare("export") == found
    assert linux.builds == 1
    assert not linux.git("status", "--porcelain")


def test_another_commit_with_the_same_files_is_not_built_again(
    linux: Tree, prepare: Prepare
) -> None:
    prepare()
    linux.git("commit", "--quiet", "--allow-empty", "-m", "nothing")
    prepare()
    linux.commit("changed")
    prepare()
    assert linux.builds == 2


def test_local_changes_do_not_count(linux: Tree, prepare: Prepare) -> None:
    prepare()
    linux.write("not committed")
    prepare()
    assert linux.builds == 1


def test_each_configuration_has_its_own_objects(
    linux: Tree, prepare: Prepare, tmp_path: Path
) -> None:
    prepare()
    prepare(config=("kasan",))
    prepare(config=("kasan",))
    copies = [path for path in (tmp_path / "cache" / "builds").iterdir() if path.is_dir()]
    assert (linux.builds, len(copies)) == (2, 2)


def test_a_patch_is_applied_and_a_changed_one_is_built_again(
    linux: Tree, prepare: Prepare, tmp_path: Path
) -> None:
    queue = tmp_path / "queue"
    queue.mkdir()
    linux.patch("patched", queue / "1.patch")
    prepare(patches=(queue,))
    copy = next((tmp_path / "cache" / "builds").glob("*/source/net/mptcp/code.c"))
    assert copy.read_text() == "patched\n"
    linux.patch("otherwise", queue / "1.patch")
    prepare(patches=(queue,))
    assert linux.builds == 2


def mailbox(tree: Tree, texts: list[str], to: Path) -> Path:
    """As git format-patch(1) writes it, then in base64 and with carriage returns, as mails are."""
    tree.git("checkout", "--quiet", "-b", "series")
    for text in texts:
        tree.commit(text)
    mails = []
    for mail in tree.git("format-patch", "--stdout", f"-{len(texts)}").split("\nFrom "):
        head, _, body = mail.removeprefix("From ").partition("\n\n")
        coded = base64.encodebytes(body.encode()).decode()
        mails.append(f"From {head}\nContent-Transfer-Encoding: base64\n\n{coded}")
    lines = "\n".join(mails).split("\n")
    to.write_bytes("\r\n".join(lines).encode())
    tree.git("checkout", "--quiet", "-")
    return to


def test_a_mailbox_is_applied_mail_by_mail(linux: Tree, prepare: Prepare, tmp_path: Path) -> None:
    """Each mail changes what the one before it made."""
    linux.commit("before")
    prepare(patches=(mailbox(linux, ["first", "second"], tmp_path / "series.mbox"),))
    copy = next((tmp_path / "cache" / "builds").glob("*/source/net/mptcp/code.c"))
    assert copy.read_text() == "second\n"


def test_the_mail_that_does_not_apply_is_named(
    linux: Tree, prepare: Prepare, tmp_path: Path
) -> None:
    linux.commit("before")
    patches = mailbox(linux, ["first", "second"], tmp_path / "series.mbox")
    linux.commit("first")  # and then the first mail no longer applies
    with pytest.raises(KernelUnavailable, match=r"series\.mbox \(\[PATCH 1/2\] .* does not apply"):
        prepare(patches=(patches,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"From 1234 Mon Sep 17 00:00:00 2001\n", True),
        (b"From: A\nSubject: [PATCH] b:\n c\n\ndiff --git a/x b/x\n", True),
        (b"Received: by x\r\nDate: now\r\n\r\n", True),
        (b"diff --git a/x b/x\n--- a/x\n+++ b/x\n", False),
        (b"Description: of quilt\n\n--- a/x\n+++ b/x\n", False),
        (b"", False),
    ],
    ids=["mailbox", "mail", "carriage returns", "diff", "quilt", "empty"],
)
def test_a_mail_is_told_from_a_diff(tmp_path: Path, text: bytes, expected: bool) -> None:
    path = tmp_path / "patch"
    path.write_bytes(text)
    assert patch_files.is_mail(path) is expected


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"ref": "exprt"}, "has no commit 'exprt'; did you mean export"),
        ({"ref": "--help"}, "has no commit '--help'"),
        ({"config": ("nonsense",)}, "there is no configuration 'nonsense': give kasan, lockdep"),
        ({"config": ("../../../etc/passwd",)}, "there is no configuration"),
    ],
)
def test_what_does_not_exist_is_a_sentence(
    linux: Tree, prepare: Prepare, keys: dict[str, object], said: str
) -> None:
    linux.git("branch", "export")
    with pytest.raises(KernelUnavailable) as caught:
        prepare(**keys)
    assert said in str(caught.value)


def test_a_patch_that_does_not_apply_is_a_sentence(
    linux: Tree, prepare: Prepare, tmp_path: Path
) -> None:
    linux.commit("before")
    patch = linux.patch("after", tmp_path / "x.patch")
    linux.commit("else")
    with pytest.raises(KernelUnavailable, match=r"the patch .*x\.patch does not apply"):
        prepare(patches=(patch,))
    with pytest.raises(KernelUnavailable, match=r"the patch .*none\.patch cannot be read"):
        prepare(patches=(tmp_path / "none.patch",))


def test_a_clone_that_is_no_kernel_is_a_sentence(
    linux: Tree, prepare: Prepare, tmp_path: Path
) -> None:
    other = Tree(tmp_path / "other", tmp_path)
    other.write("x", Path("README"))
    other.git("init", "--quiet")
    other.commit("x")
    with pytest.raises(KernelUnavailable, match="is not a kernel: it lacks Kbuild, Makefile"):
        prepare(repository=str(other.path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(KernelUnavailable, match="empty is not in a git repository of a kernel"):
        prepare(repository=str(tmp_path / "empty"))


def test_a_build_that_fails_is_a_sentence(linux: Tree, prepare: Prepare) -> None:
    linux.commit(BROKEN)
    with pytest.raises(Unbuildable, match="expected ';' before 'x'"):
        prepare()


def test_a_build_that_fails_for_the_hosts_sake_is_no_fault_of_the_commit(
    linux: Tree, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a bisect skips commits because the disk is full."""

    def full(*_: object) -> None:
        raise HostError("the disk is full")

    monkeypatch.setattr(gitref, "assemble", full)
    with pytest.raises(KernelUnavailable, match="the disk is full") as caught:
        prepare()
    assert not isinstance(caught.value, Unbuildable)


def test_a_result_says_from_which_commit_it_is(linux: Tree, prepare: Prepare) -> None:
    linux.git("branch", "export")
    origin = prepare("export", config=("kasan",)).origin
    commit = linux.git("rev-parse", "HEAD")[:12]
    source = GitSource(str(linux.path), "export", ("kasan",))
    assert gitref.built_from(origin, source) == commit
    assert gitref.built_from(origin, replace(source, ref="other")) == ""
    assert gitref.built_from("", source) == ""


def test_the_recipe_is_of_all_but_the_commit(linux: Tree, tmp_path: Path) -> None:
    source = GitSource(str(linux.path), "HEAD")
    assert gitref.recipe(source) == gitref.recipe(replace(source, ref="v1"))
    assert gitref.recipe(source) != gitref.recipe(replace(source, config=("kasan",)))


def test_an_option_that_did_not_survive_is_named_with_what_it_depends_on(
    linux: Tree, prepare: Prepare, tmp_path: Path
) -> None:
    linux.write(KCONFIG, Path("lib/Kconfig"))
    linux.commit("options")
    fragment = tmp_path / "my.config"
    fragment.write_text("CONFIG_LOST=y\nCONFIG_NET=y\nCONFIG_KASAN=y\n")
    with pytest.raises(KernelUnavailable) as caught:
        prepare(config=(str(fragment),))
    said = (
        f"CONFIG_LOST=y of {fragment} did not survive olddefconfig: it depends on NET && MISSING "
        "(now NET=y, MISSING=n)"
    )
    assert said in str(caught.value)
    assert "KASAN" not in str(caught.value)


def test_a_fragment_that_contradicts_itself_is_refused_before_the_checkout(
    prepare: Prepare, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("CONFIG_A=y\n# CONFIG_A is not set\n")
    with pytest.raises(KernelUnavailable, match="contradicts itself: CONFIG_A=y and # CONFIG_A is"):
        prepare(config=(str(tmp_path / "f"),))
    assert not (tmp_path / "cache/builds").exists()


def test_an_option_of_a_named_configuration_may_be_unknown_to_the_tree(tmp_path: Path) -> None:
    (tmp_path / "Kconfig").write_text("config PROVE_LOCKING\n\tdepends on X\n")
    options = kconfig_tree.wanted(["lockdep"], tmp_path)
    with pytest.raises(KernelUnavailable) as caught:
        kconfig_tree.check(options, "", tmp_path)
    assert "CONFIG_PROVE_LOCKING=y of lockdep" in str(caught.value)
    assert "PROVE_RCU" not in str(caught.value)


def test_an_option_of_the_users_must_be_one_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("CONFIG_NONE=y\n")
    options = kconfig_tree.wanted([str(tmp_path / "f")], tmp_path)
    with pytest.raises(KernelUnavailable, match="this kernel has no such option"):
        kconfig_tree.check(options, "", tmp_path)


def test_later_fragments_take_precedence(tmp_path: Path) -> None:
    (tmp_path / "kernel/configs").mkdir(parents=True)
    (tmp_path / "kernel/configs/debug.config").write_text(
        "CONFIG_KASAN=y\nCONFIG_B=m\nCONFIG_C=y\n"
    )
    (tmp_path / "mine").write_text("# CONFIG_KASAN is not set\n")
    options = kconfig_tree.wanted(["debug.config", str(tmp_path / "mine")], tmp_path)
    assert {option.name: option.value for option in options} == {
        "CONFIG_KASAN": "n",
        "CONFIG_B": "y",  # there are no modules
        "CONFIG_C": "y",
    }
    lacking = kconfig_tree.check(options, "CONFIG_B=y\n", tmp_path)
    assert lacking == "CONFIG_C=y of debug.config"  # which is for other architectures too


def test_a_series_is_the_tags_that_match_oldest_first(linux: Tree, tmp_path: Path) -> None:
    for tag in ("v6.12.10", "v6.12.9", "v6.12-rc2", "v6.13"):
        linux.git("tag", tag)
    source = GitSource(str(linux.path), "v6.12*")
    entry = KernelEntry("stable", source, "here", is_series=True)
    found = kernels.expand(entry, Cache(tmp_path / "cache"))
    assert [kernel.name for kernel in found] == [
        "stable-v6.12-rc2",
        "stable-v6.12.9",
        "stable-v6.12.10",
    ]
    assert found[1].source == replace(source, ref="v6.12.9")
    assert not found[1].is_series
    none = replace(entry, source=replace(source, ref="v5.*"))
    with pytest.raises(KernelUnavailable, match=r"no branch or tag of .* matches 'v5"):
        kernels.expand(none, Cache(tmp_path / "cache"))


def test_the_release_is_that_of_the_makefile(linux: Tree, tmp_path: Path, say: Said) -> None:
    linux.write("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 5\nEXTRAVERSION = -rc1", Path("Makefile"))
    linux.commit("release")
    source = GitSource(str(linux.path), "HEAD")
    assert gitref.release(source, Cache(tmp_path / "cache"), say) == "6.12.5-rc1"


def test_an_address_is_cloned_once_and_fetched_when_asked(
    linux: Tree, prepare: Prepare, tmp_path: Path
) -> None:
    linux.git("branch", "export")
    address = linux.path.as_uri()
    prepare("export", repository=address)
    linux.git("tag", "v1")
    with pytest.raises(KernelUnavailable, match="has no commit 'v1'"):
        prepare("v1", repository=address)
    prepare("v1", repository=address, fetch=True)
    assert linux.builds == 1
    assert len(list((tmp_path / "cache/builds").glob("clone-*"))) == 1


def test_a_clone_that_cannot_be_fetched_is_a_sentence(linux: Tree, prepare: Prepare) -> None:
    linux.git("remote", "add", "origin", "/none")
    with pytest.raises(KernelUnavailable, match=r"cannot be fetched .*omit fetch: true"):
        prepare(fetch=True)
    with pytest.raises(KernelUnavailable, match="cannot be cloned"):
        prepare(repository="file:///none")
