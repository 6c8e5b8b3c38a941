# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from harness.host import toolchain, tools
from harness.host.tools import Standing, ToolsMissing
from harness.kernels.build import complaints

ROOT = Path(__file__).resolve().parents[2]


def test_nox_can_ask_for_the_tools_before_anything_is_installed() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import harness.host.toolchain"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_a_missing_compiler_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tools, "find", lambda program: None if program == "flex" else Path("/x"))
    monkeypatch.setattr(tools, "install_command", lambda tools: [tool.debian for tool in tools])
    monkeypatch.setattr(tools, "HEADERS", Path("/nowhere"))
    with pytest.raises(
        ToolsMissing, match="lacks flex, headers of libc, headers of libelf"
    ) as raised:
        toolchain.check()
    assert str(raised.value).endswith("flex libc6-dev libelf-dev")


def test_the_doctor_tells_whether_kernels_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find", lambda _: None)
    found = toolchain.doctor()
    assert (found.standing, found.found) == (Standing.LIMITED, "for step and git: only")


def test_the_doctor_asks_for_clang_where_the_manifest_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "kernels.yaml"
    git = "git: {repo: ., ref: v6.12, toolchain: clang}"
    manifest.write_text(f"kernels: [{{name: a, {git}}}]")
    monkeypatch.setattr(toolchain, "missing", lambda compiler: [*toolchain.LLVM_TOOLS])
    cli.main(["doctor", str(manifest), "--cache", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "limited  kernel builds, clang" in shown
    assert "lacks clang, ld.lld, llvm-objcopy" in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/usr/bin/ld: final link failed: No space left on device", "the disk is full"),
        ("gcc: fatal error: Killed signal terminated program cc1", "ran out of memory"),
        ("cc1: error: x.c: Input/output error", "the disk failed"),
        ("certs/x.c:21:10: fatal error: openssl/bio.h: No such file or directory", "libssl-dev"),
        ("/bin/sh: 1: no-such-program: not found", "needs no-such-program"),
        ("make[2]: no-such-program: No such file or directory", "needs no-such-program"),
    ],
)
def test_what_the_host_lacks_is_not_the_commits_fault(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "install_command", lambda tools: [tool.debian for tool in tools])
    why = toolchain.host_failure(["make: *** Error 2", line], tmp_path)
    assert why is not None
    assert said in why


@pytest.mark.parametrize(
    "line",
    [
        "net/mptcp/x.c:1:10: fatal error: linux/gone.h: No such file or directory",
        "net/mptcp/protocol.c:9:2: error: 'out_of_memory' undeclared",
        "make[3]: *** No rule to make target 'net/mptcp/x.o', needed by 'net/mptcp/built-in.a'.",
        "/bin/sh: 1: scripts/gone.sh: not found",
        "x.c:(.text+0x1): undefined reference to `mptcp_gone'",
    ],
)
def test_what_the_source_lacks_is_the_commits_fault(line: str, tmp_path: Path) -> None:
    assert toolchain.host_failure([line], tmp_path) is None


def test_of_a_log_the_errors_are_shown() -> None:
    log = ["  CC x.o", "x.c:1: error: a", "  CC y.o", "make: *** [x.o] Error 1", "  CC z.o"]
    assert complaints(log) == ["x.c:1: error: a", "make: *** [x.o] Error 1"]


def test_a_log_without_errors_shows_its_end() -> None:
    assert complaints([f"line {n}" for n in range(20)]) == [f"line {n}" for n in range(12, 20)]


def test_without_ccache_make_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find", lambda _: None)
    assert toolchain.ccache({}) == ([], {})


def test_ccache_keeps_the_users_own_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ccache"
    program.write_text('#!/bin/sh\necho "$MINE"\n')
    program.chmod(0o700)
    monkeypatch.setattr(tools, "find", lambda _: program)
    found = toolchain.ccache({"MINE": "/home/me/.cache/ccache"})
    assert found == (["CC=ccache gcc"], {"CCACHE_DIR": "/home/me/.cache/ccache"})
