# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cli
from tests.kernels.conftest import Said
from tests.processes import unsupervised
from tests.step.support import CHECK, GOOD, MAKE, VNG, Boots, Tree


@pytest.fixture(scope="session")
def first_commit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel tree with one commit, to be copied: git needs four processes to make it."""
    directory = tmp_path_factory.mktemp("first-commit")
    tree = Tree(directory / "linux", directory)
    for name in ("Kbuild", "Makefile", "arch/x86/Kconfig", "net/mptcp/Kconfig"):
        tree.write("", Path(name))
    tree.write("*.o\n/arch/x86/boot/bzImage\n.config", Path(".gitignore"))
    tree.git("init", "--quiet", "--template=")
    tree.commit(GOOD)
    return tree.path


@pytest.fixture
def tree(first_commit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    tree = Tree(tmp_path / "linux", tmp_path / "diary")
    tree.diary.mkdir()
    shutil.copytree(first_commit, tree.path)
    monkeypatch.setattr("harness.kernels.source.programs.run", unsupervised)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("vng", VNG), ("make", MAKE)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DIARY", str(tree.diary))
    monkeypatch.setenv("USERS_TREE", str(tree.path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tree.path)
    return tree


@pytest.fixture
def boots(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Boots:
    boots = Boots()
    boots.install(monkeypatch.setattr)
    return boots


@pytest.fixture
def step(boots: Boots) -> Callable[..., int]:
    """``mptcp-harness step --check …`` in the tree: its exit status."""

    def run(*arguments: str) -> int:
        return cli.main(["step", "--check", CHECK, *arguments])

    return run


@pytest.fixture
def say() -> Said:
    return Said()
