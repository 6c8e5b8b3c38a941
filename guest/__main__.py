# SPDX-License-Identifier: GPL-2.0-only
"""``python3 guest`` or ``python3 -m guest`` for a person; with ``--vm`` or ``--agent`` in a VM."""

import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

if not __package__:
    # Run as a directory or a file: sys.path starts with guest/ itself, and -I keeps other
    # directories out. The package is found in its parent.
    sys.path[0] = __file__.rpartition("/")[0].rpartition("/")[0] or (
        "." if "/" in __file__ else ".."
    )


class Compiled:
    """Finds modules in the file ``place``, which has the bytecode of all (harness/vm/initramfs.py).

    Python's own search for a file takes six system calls and more time than most modules need.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        size = int(self._read(8, 0))
        self._index = marshal.loads(self._read(size, 8))  # noqa: S302
        self._start = 8 + size

    def _read(self, size: int, offset: int) -> bytes:
        # Opened each time, because the processes of scenarios close all files.
        file = posix.open(self._place, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return posix.pread(file, size, offset)
        finally:
            posix.close(file)

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name not in self._index:
            return None
        file = self._index[name][2]
        spec = type(sys.__spec__)(name, self, origin=file)  # type: ignore[arg-type]
        if file.endswith("/__init__.py"):
            spec.submodule_search_locations = [file.rpartition("/")[0]]
        return spec

    def create_module(self, spec: object) -> None:
        return None  # a usual one

    def exec_module(self, module: "Any") -> None:
        offset, size, module.__file__ = self._index[module.__name__]
        code = marshal.loads(self._read(size, self._start + offset))  # noqa: S302
        exec(code, module.__dict__)  # noqa: S102


def in_a_vm() -> int:
    """Run the checks, and end at once: what Python does before and after takes 0.1 s under TCG."""
    import gc

    gc.disable()  # also while modules are imported; see guest.vm
    try:
        sys.meta_path.insert(-1, Compiled(__file__.rpartition("/")[0] + "/compiled"))  # type: ignore[arg-type]
    except (OSError, ValueError):
        pass  # a root without it, or a checker that replaces the root's
    from guest import vm

    status = vm.main(sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    posix._exit(status)


def main() -> int:
    if sys.argv[1:2] == ["--vm"]:
        return in_a_vm()
    if sys.argv[1:2] == ["--agent"]:
        from guest import agent

        return agent.main(sys.argv[2:])
    from guest import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
