# SPDX-License-Identifier: GPL-2.0-only
"""The tools that a host needs to build a kernel, in addition to those for booting one. Standard
library only: noxfile.py imports this before any dependency is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.host import tools
from harness.host.tools import Finding, Standing, Tool

#: Without these, no kernel can be built, but other kernels can be booted.
TOOLS = (
    Tool("git", ("git",), "reads the tree", "git", "git"),
    Tool("make", ("make",), "builds the kernel", "make", "make"),
    Tool("gcc", ("gcc",), "compiles the kernel", "gcc", "gcc"),
    Tool("ld", ("ld",), "links the kernel", "binutils", "binutils"),
    Tool("flex", ("flex",), "builds the kernel's configurator", "flex", "flex"),
    Tool("bison", ("bison",), "builds it too", "bison", "bison"),
    Tool("bc", ("bc",), "computes constants of the kernel", "bc", "bc"),
    Tool("perl", ("perl",), "runs scripts of the kernel's build", "perl", "perl"),
    Tool(
        *("headers of libc", (), "are for the build's own programs", "libc6-dev", "glibc-devel"),
        header="stdio.h",
    ),
    Tool(
        *("headers of libelf", (), "are for objtool", "libelf-dev", "elfutils-libelf-devel"),
        header="gelf.h",
    ),
)
#: Needed by some configurations only.
OPENSSL = Tool(
    *("headers of OpenSSL", (), "are for certificates", "libssl-dev", "openssl-devel"),
    header="openssl/opensslv.h",
)

_NO_HEADER = re.compile(r"fatal error: (\S+): No such file or directory")
_NO_PROGRAM = re.compile(r"(?:sh: \d+: |sh: line \d+: |make\S*: )(\S+): (?:command )?[Nn]o[t ]")
#: Messages that show that the host failed, not the kernel's source; with the remedy.
_FAILURES = (
    (
        re.compile(r"No space left on device|Disk quota exceeded"),
        "the disk is full; free some space (`mptcp-harness prune` removes old files)",
    ),
    (
        re.compile(r"Killed signal terminated program|virtual memory exhausted|out of memory"),
        "the compiler ran out of memory; build with fewer jobs (-j), or end other programs",
    ),
    (re.compile(r"Read-only file system|Input/output error"), "the disk failed; check it"),
)


#: In place of gcc and ld, for kernels that clang compiles.
LLVM_TOOLS = (
    Tool("clang", ("clang",), "compiles the kernel", "clang", "clang"),
    Tool("ld.lld", ("ld.lld",), "links the kernel", "lld", "lld"),
    Tool("llvm-objcopy", ("llvm-objcopy",), "makes the image", "llvm", "llvm"),
)
GCC, CLANG = "gcc", "clang"


def missing(compiler: str = GCC) -> tuple[Tool, ...]:
    """The tools for building kernels with ``compiler`` that this host lacks."""
    wanted = (*TOOLS, *(LLVM_TOOLS if compiler == CLANG else ()))
    return tuple(tool for tool in wanted if tools.locate(tool) is None)


def check(compiler: str = GCC) -> None:
    """Raise HostError with the command that installs what is missing."""
    absent = missing(compiler)
    if absent:
        raise tools.ToolsMissing(absent, "needed to build a kernel")


def doctor(compiler: str = GCC) -> Finding:
    """Whether kernels can be built here with ``compiler``, which only ``step`` and ``git`` need."""
    subject = "kernel builds" if compiler == GCC else f"kernel builds, {compiler}"
    absent = missing(compiler)
    if not absent:
        return Finding(subject, Standing.OK, version(compiler))
    lacking = tools.ToolsMissing(absent)
    return Finding(subject, Standing.LIMITED, "for step and git: only", "", str(lacking))


def version(compiler: str = GCC) -> str:
    """The version line of the compiler."""
    run = subprocess.run([compiler, "--version"], capture_output=True, text=True)
    return run.stdout.partition("\n")[0]


def ccache(environment: Mapping[str, str], compiler: str = GCC) -> tuple[list[str], dict[str, str]]:
    """The arguments for make(1) to compile through ccache, and the environment with its directory.

    Both are empty without ccache.
    """
    program = tools.find("ccache")
    if program is None:
        return [], {}
    # Run in the user's environment, because the build has a different home.
    asked = [str(program), "--get-config", "cache_dir"]
    run = subprocess.run(asked, capture_output=True, text=True, env=dict(environment))
    place = run.stdout.strip()
    return ([f"CC=ccache {compiler}"], {"CCACHE_DIR": place}) if place else ([], {})


def host_failure(lines: Sequence[str], place: Path) -> str | None:
    """The reason why a build with the output ``lines`` failed, if the host is at fault.

    ``place`` is the directory of the build. A missing file of the kernel is not the host's fault.
    """
    for line in lines:
        for pattern, sentence in _FAILURES:
            if pattern.search(line):
                return sentence
        header = _NO_HEADER.search(line)
        if header and header[1].startswith("openssl/"):
            return str(tools.ToolsMissing([OPENSSL], "needed to build this kernel"))
        program = _NO_PROGRAM.search(line)
        if program and "/" not in program[1] and not shutil.which(program[1]):
            return f"the build needs {program[1]}, which this host lacks; install it"
    if shutil.disk_usage(place).free < 1 << 20:
        return _FAILURES[0][1]
    return None
