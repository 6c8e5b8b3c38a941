# SPDX-License-Identifier: GPL-2.0-only
"""The user's fragments of a kernel's configuration, and whether a tree accepted them.

kconfig silently drops an option whose dependencies are not met. So after ``make olddefconfig`` each
wanted option is looked up, and one that did not survive is an error that names what it depends on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from harness.errors import KernelUnavailable, Unbuildable

_KASAN = """\
CONFIG_DEBUG_KERNEL=y
CONFIG_KASAN=y
CONFIG_KASAN_GENERIC=y
CONFIG_KASAN_INLINE=y
CONFIG_KASAN_VMALLOC=y
"""
_LOCKDEP = """\
CONFIG_EXPERT=y
CONFIG_DEBUG_KERNEL=y
CONFIG_PROVE_LOCKING=y
CONFIG_PROVE_RCU=y
CONFIG_DEBUG_ATOMIC_SLEEP=y
CONFIG_RCU_EXPERT=y
CONFIG_PROVE_RCU_LIST=y
"""
_KMEMLEAK = """\
CONFIG_DEBUG_KERNEL=y
CONFIG_DEBUG_FS=y
CONFIG_DEBUG_FS_ALLOW_ALL=y
CONFIG_DEBUG_KMEMLEAK=y
# CONFIG_DEBUG_KMEMLEAK_AUTO_SCAN is not set
# CONFIG_DEBUG_KMEMLEAK_DEFAULT_OFF is not set
"""
#: Configurations by our names. An option that the tree does not have is left out: they change with
#: the kernel. ``debug`` is close to what the MPTCP project's CI uses.
NAMED: Mapping[str, str] = {
    "kasan": _KASAN,
    "lockdep": _LOCKDEP,
    "kmemleak": _KMEMLEAK,
    "kcsan": """\
CONFIG_DEBUG_KERNEL=y
CONFIG_KCSAN=y
CONFIG_KCSAN_REPORT_ONCE_IN_MS=3000
""",
    # The selftest makes its module from what BTF says of the kernel (harness/selftest/module.py).
    "modules": """\
CONFIG_MODULES=y
CONFIG_DEBUG_KERNEL=y
CONFIG_BPF_SYSCALL=y
CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT=y
CONFIG_DEBUG_INFO_BTF=y
""",
    "gcov": """\
CONFIG_DEBUG_KERNEL=y
CONFIG_DEBUG_FS=y
CONFIG_DEBUG_FS_ALLOW_ALL=y
CONFIG_GCOV_KERNEL=y
CONFIG_GCOV_PROFILE_ALL=y
""",
    "debug": _KASAN
    + _LOCKDEP
    + _KMEMLEAK
    + """\
CONFIG_UBSAN=y
CONFIG_UBSAN_BOOL=y
CONFIG_UBSAN_BOUNDS=y
CONFIG_UBSAN_ENUM=y
CONFIG_UBSAN_SHIFT=y
# CONFIG_UBSAN_TRAP is not set
CONFIG_DEBUG_OBJECTS=y
CONFIG_DEBUG_OBJECTS_FREE=y
CONFIG_DEBUG_OBJECTS_PERCPU_COUNTER=y
CONFIG_DEBUG_OBJECTS_RCU_HEAD=y
CONFIG_DEBUG_OBJECTS_TIMERS=y
CONFIG_DEBUG_OBJECTS_WORK=y
CONFIG_DEBUG_NET=y
CONFIG_NET_DEV_REFCNT_TRACKER=y
CONFIG_NET_NS_REFCNT_TRACKER=y
CONFIG_DEBUG_VM=y
CONFIG_DEBUG_LIST=y
CONFIG_SCHED_STACK_END_CHECK=y
CONFIG_SOFTLOCKUP_DETECTOR=y
CONFIG_DETECT_HUNG_TASK=y
""",
}
#: Where a tree has fragments; a name may leave these directories out.
_PLACES = ("", "kernel/configs", "arch/x86/configs", "tools/testing")
_SET = re.compile(r"(CONFIG_\w+)=(.*)")
_UNSET = re.compile(r"# (CONFIG_\w+) is not set")
_NO = "n"
_ENTRY = re.compile(r"(?:menu)?config\s+(\w+)\s*")
_DEPENDS = re.compile(r"\s+depends on\s+(.*)")
#: Bytes; the largest Kconfig file has 0.1 MB.
_LIMIT = 1 << 20


class Origin(Enum):
    """The origin of a fragment, which decides what happens if an option does not survive."""

    USER = "an error"
    OURS = "an error, unless the tree does not know the option"
    TREE = "a message: such a fragment is for other architectures too"


@dataclass(frozen=True)
class Wanted:
    """A wanted option: ``value`` as in a .config, "n" if it must not be set.

    ``where`` names its fragment.
    """

    name: str
    value: str
    where: str
    origin: Origin

    @property
    def line(self) -> str:
        return f"# {self.name} is not set" if self.value == _NO else f"{self.name}={self.value}"


def wanted(config: Sequence[str], tree: Path) -> list[Wanted]:
    """The options in the fragments that ``config`` names, each once; later ones take precedence.

    A fragment is one of NAMED, an absolute path, or a file of ``tree``. Raises KernelUnavailable.
    """
    found: dict[str, Wanted] = {}
    for item in config:
        text, origin = _fragment(item, tree)
        own: dict[str, Wanted] = {}
        for name, value in _options(text):
            if name in own and own[name].value != value:
                raise KernelUnavailable(
                    f"the fragment {item} contradicts itself: {own[name].line} and "
                    f"{Wanted(name, value, item, origin).line}; keep one of them"
                )
            own[name] = Wanted(name, value, item, origin)
        found |= own
    return list(found.values())


def _fragment(item: str, tree: Path) -> tuple[str, Origin]:
    """The text of a fragment, and its origin."""
    if item in NAMED:
        # The parts of `debug` have lines in common.
        return "\n".join(dict.fromkeys(NAMED[item].splitlines())), Origin.OURS
    if item.startswith("/"):
        return _read(Path(item), item), Origin.USER
    for place in _PLACES:
        for name in (item, f"{item}.config"):
            path = tree / place / name
            if path.is_file() and path.resolve().is_relative_to(tree.resolve()):
                return _read(path, item), Origin.TREE
    raise KernelUnavailable(
        f"there is no configuration {item!r}: give {', '.join(NAMED)}, a file beside the manifest, "
        "or one of the tree such as debug.config or selftests/net/mptcp/config"
    )


def _read(path: Path, item: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KernelUnavailable(f"the fragment {item} cannot be read: {error}") from error


def _options(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        line = line.strip()
        if match := _SET.fullmatch(line):
            # Without modules, kconfig drops "m".
            yield match[1], "y" if match[2] == "m" else match[2]
        elif match := _UNSET.fullmatch(line):
            yield match[1], _NO


def check(options: Sequence[Wanted], config: str, tree: Path) -> str:
    """What the tree's own fragments want and ``config``, the text of a .config, lacks: for people.

    Raises Unbuildable with the options of other fragments that it lacks.
    """
    values = dict(_options(config))
    lost = [option for option in options if values.get(option.name, _NO) != option.value]
    if not lost:
        return ""
    known = _depends(tree, {_symbol(option) for option in lost})
    refused = [
        _why(option, values, known.get(_symbol(option)))
        for option in lost
        if option.origin is Origin.USER
        or (option.origin is Origin.OURS and _symbol(option) in known)
    ]
    if refused:
        raise Unbuildable(
            f"the configuration is not possible: {'; '.join(refused[:5])}; correct the fragment"
        )
    trees = [option for option in lost if option.origin is Origin.TREE]
    return ", ".join(f"{option.line} of {option.where}" for option in trees)


def _symbol(option: Wanted) -> str:
    return option.name.removeprefix("CONFIG_")


def _why(option: Wanted, values: Mapping[str, str], depends: Sequence[str] | None) -> str:
    what = f"{option.line} of {option.where} did not survive olddefconfig"
    if depends is None:
        return f"{what}: this kernel has no such option"
    if option.value == _NO:
        return f"{what}: another option selects it"
    if not depends:
        return f"{what}: the kernel sets it to {values.get(option.name, _NO)}"
    symbols = dict.fromkeys(re.findall(r"\b[A-Z][A-Z0-9_]*\b", " ".join(depends)))
    now = [f"{name}={values.get(f'CONFIG_{name}', _NO)}" for name in symbols]
    return f"{what}: it depends on {' && '.join(depends)} (now {', '.join(now)})"


def _depends(tree: Path, names: set[str]) -> dict[str, list[str]]:
    """The dependencies of each of ``names`` that the Kconfig files of ``tree`` define."""
    found: dict[str, list[str]] = {}
    for path in sorted(tree.rglob("Kconfig*")):
        # Of other architectures, options have other dependencies.
        top, *below = path.relative_to(tree).parts
        if top == "arch" and below[1:] and below[0] != "x86":
            continue
        if not path.is_file() or path.stat().st_size > _LIMIT:
            continue
        current: list[str] | None = None
        for line in path.read_text(errors="replace").splitlines():
            if match := _ENTRY.fullmatch(line):
                current = found.setdefault(match[1], []) if match[1] in names else None
            elif current is not None and (match := _DEPENDS.fullmatch(line)):
                current.append(match[1].strip())
            elif line[:1].isalpha():
                current = None
    return found


def text(options: Sequence[Wanted]) -> str:
    """The lines that set ``options``, and no debug information unless one of them asks for it.

    virtme-ng turns it on with DEBUG_KERNEL, which triples the build's time and size.
    """
    # The harness's own fragment turns it off, against debug information.
    lines = ["CONFIG_DEBUG_KERNEL=y", *(option.line for option in options)]
    if not any(option.name.startswith("CONFIG_DEBUG_INFO") for option in options):
        lines += [
            "CONFIG_DEBUG_INFO_NONE=y",
            "# CONFIG_DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT is not set",
        ]
    return "".join(f"{line}\n" for line in lines)
