# SPDX-License-Identifier: GPL-2.0-only
"""Compiled programs that run in the guest after the checks (``--cross-check``), and whether each
agrees with the checks. They change no verdict."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError
from harness.manifest.fingerprint import apart
from harness.verdict.results import CrossCheck, FamilyResult, ProgramEnd, ProgramRun
from harness.verdict.verdicts import CheckVerdict, Family

#: Replaced by ``ipv4`` or ``ipv6`` in an argument.
FAMILY = "{family}"
#: Inserted for IPv6 if no argument contains FAMILY; the kernel's selftests take this option.
SIX = "-6"
#: The most programs in a run, and bytes of one with its libraries; guest memory holds them twice.
MAX_PROGRAMS, MAX_SIZE = 8, 64 << 20

_HEADER = struct.Struct("<16sHH")
_PT_INTERP = 3
#: By ELF machine: the layout of the rest of the header, and of a program header.
_LAYOUTS = {62: ("<IQQQIHHH", "<IIQQQQ"), 3: ("<IIIIIHHH", "<IIIII")}
_MISSING = re.compile(r"^\s*(\S+) => not found$", re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """A program at ``path`` on the host, with its ``arguments``; ``sha256`` is of its content."""

    path: Path = field(metadata=apart("its content counts"))
    sha256: str
    arguments: tuple[str, ...] = ()

    def command(self, family: Family) -> tuple[str, ...]:
        """Its name and arguments for ``family``."""
        if any(FAMILY in argument for argument in self.arguments):
            given = tuple(argument.replace(FAMILY, family) for argument in self.arguments)
        else:
            given = (*([SIX] if family is Family.IPV6 else []), *self.arguments)
        return (self.path.name, *given)

    def shown(self, family: Family) -> str:
        return shlex.join(self.command(family))


def find(texts: Sequence[str]) -> tuple[Program, ...]:
    """The programs in ``texts``, each with arguments, split as by a shell.

    Raises UsageError for one that cannot run in the guest.
    """
    if len(texts) > MAX_PROGRAMS:
        raise UsageError(
            f"--cross-check: {len(texts)} programs, but at most {MAX_PROGRAMS} can run"
        )
    return tuple(_find(text) for text in texts)


def _find(text: str) -> Program:
    try:
        name, *arguments = shlex.split(text)
    except ValueError as error:
        what = "it names no program" if not text.strip() else str(error).lower()
        raise UsageError(f"--cross-check {text!r}: {what}") from None
    place = shutil.which(name)
    if place is None:
        raise UsageError(f"--cross-check {name}: no such executable file; give a compiled program")
    path = Path(place).absolute()
    content = path.read_bytes()
    libraries_of(path, content)
    return Program(path, hashlib.sha256(content).hexdigest(), tuple(arguments))


def libraries_of(path: Path, content: bytes) -> tuple[Path, ...]:
    """The shared libraries and the loader that the guest needs for the program.

    Raises UsageError if it cannot run on x86-64, or if the host lacks one of its libraries.
    """
    try:
        loader = _loader(content)
    except (struct.error, ValueError) as error:
        why = "its ELF header is truncated" if isinstance(error, struct.error) else error
        raise UsageError(
            f"--cross-check {path}: {why}; give a program compiled for x86-64 Linux"
        ) from None
    if loader is None:
        libraries: tuple[Path, ...] = ()
    elif not loader.exists():
        raise UsageError(
            f"--cross-check {path}: its loader {loader} does not exist on this host; link it "
            f"statically (cc -static), or install the C library it was linked with"
        )
    else:
        libraries = _listed(path)
    size = len(content) + sum(library.stat().st_size for library in libraries)
    if size > MAX_SIZE:
        raise UsageError(
            f"--cross-check {path}: it has {size >> 20} MiB with its libraries, but at most "
            f"{MAX_SIZE >> 20} fit into the guest; strip it (strip -s)"
        )
    return libraries


def _loader(content: bytes) -> Path | None:
    """The loader in its PT_INTERP; None for a static program. Raises ValueError and
    struct.error."""
    if content[:4] != b"\x7fELF":
        raise ValueError("it is not an ELF program")
    _, kind, machine = _HEADER.unpack_from(content)
    if machine not in _LAYOUTS or content[5] != 1 or kind not in (2, 3):
        raise ValueError("it is not a program for x86-64 or i386")
    header, segment = _LAYOUTS[machine]
    _, _, start, _, _, _, size, count = struct.unpack_from(header, content, _HEADER.size)
    for number in range(count):
        fields = struct.unpack_from(segment, content, start + number * size)
        # The flags are the second field of a 64-bit header, and come last in a 32-bit one.
        offset, length = (fields[2], fields[5]) if machine == 62 else (fields[1], fields[4])
        if fields[0] == _PT_INTERP:
            name = content[offset : offset + length].rstrip(b"\0").decode("ascii")
            return Path(name)
    return None


def _listed(path: Path) -> tuple[Path, ...]:
    """The libraries of a dynamically linked program, as ldd(1) finds them."""
    answer = subprocess.run(
        ["ldd", str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    missing = _MISSING.findall(answer.stdout)
    if missing or answer.returncode != 0:
        what = (
            f"lacks {', '.join(missing)}"
            if missing
            else f"cannot load it ({answer.stderr.strip()})"
        )
        raise UsageError(
            f"--cross-check {path}: this host {what}; link it statically (cc -static), or install "
            "the libraries"
        )
    words = (word for line in answer.stdout.splitlines() for word in line.split())
    return tuple(dict.fromkeys(Path(word) for word in words if word.startswith("/")))


#: Paths in the guest, see guest/programs.py.
PLACE, COMMANDS = "opt/program", "opt/commands"


def files(programs: Sequence[Program], families: Sequence[Family]) -> Mapping[str, bytes]:
    """The files that the guest needs for ``programs``, by name. Raises UsageError and OSError."""
    found: dict[str, bytes] = {}
    for number, program in enumerate(programs):
        content = program.path.read_bytes()
        if hashlib.sha256(content).hexdigest() != program.sha256:
            raise UsageError(f"--cross-check {program.path}: it changed during the run")
        found[f"{PLACE}/{number}/{program.path.name}"] = content
        for library in libraries_of(program.path, content):
            found[str(library).lstrip("/")] = library.read_bytes()
    for number, (program, family) in enumerate(runs(programs, families)):
        words = (str(programs.index(program)), *program.command(family))
        found[f"{COMMANDS}/{number:03}"] = b"\0".join(
            word.encode("utf-8", "surrogateescape") for word in words
        )
    return found


def runs(programs: Sequence[Program], families: Sequence[Family]) -> list[tuple[Program, Family]]:
    """Every program and family, in the order in which the guest runs them."""
    return [(program, family) for program in programs for family in families]


#: The exit status of a skipped kernel selftest (KSFT_SKIP of kselftest.h).
SKIP = 4
_MAX_LINE = 160


def compare(
    program: str, family: Family, run: ProgramRun | None, checks: FamilyResult | None
) -> CrossCheck:
    """Compare the result of ``program`` for ``family`` with that of the ``checks``.

    Exit status 0 means success, and any other end except a skip means failure. A known failure of a
    check counts as a pass, as it does for the verdict.
    """
    run = run or ProgramRun(ProgramEnd.LOST)
    how = _how(run)
    verdict = CheckVerdict.UNSUPPORTED if checks is None else checks.verdict
    skipped = run.end is ProgramEnd.EXIT and run.status == SKIP
    if run.end in (ProgramEnd.LOST, ProgramEnd.NOT_RUN) or skipped:
        return CrossCheck(program, family, run, None, how)
    succeeded = run.end is ProgramEnd.EXIT and run.status == 0
    if succeeded == (verdict is CheckVerdict.PASS):
        return CrossCheck(program, family, run, True, f"{how}, agrees")
    if verdict is CheckVerdict.UNSUPPORTED:
        said = "no check could run"
    elif succeeded:
        assert checks is not None
        bad = dict.fromkeys(check.key.id for check in checks.checks if check.weight.is_bad)
        said = f"the checks fail: {', '.join(list(bad)[:4])}"
    else:
        said = "the checks pass"
    return CrossCheck(program, family, run, False, f"disagrees: {how}; {said}")


def _how(run: ProgramRun) -> str:
    """How the program ended, with the last line of its output if that may say why."""
    lines = [line.strip() for line in run.output.splitlines() if line.strip()]
    last = f" ({lines[-1][:_MAX_LINE]})" if lines else ""
    if run.end is ProgramEnd.EXIT:
        what = f"exit {run.status}"
        return (
            f"{what}, skipped{last}" if run.status == SKIP else what + (last if run.status else "")
        )
    if run.end is ProgramEnd.SIGNAL:
        return f"killed by signal {run.status}{last}"
    if run.end is ProgramEnd.DEADLINE:
        return f"ended at its deadline, after {run.seconds:.0f} s{last}"
    if run.end is ProgramEnd.NOT_RUN:
        return f"the guest could not run it{last}"
    return "lost: the guest did not report how it ended"
