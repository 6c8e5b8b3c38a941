# SPDX-License-Identifier: GPL-2.0-only
"""``python3 guest`` or ``python3 -m guest`` for a person; with ``--vm`` or ``--agent`` in a VM."""

import sys

if not __package__:
    # Run as a directory or a file: sys.path starts with guest/ itself, and -I keeps other
    # directories out. The package is found in its parent.
    sys.path[0] = __file__.rpartition("/")[0].rpartition("/")[0] or (
        "." if "/" in __file__ else ".."
    )


def in_a_vm() -> int:
    """Run the checks, and end at once: what Python does before and after takes 0.1 s under TCG."""
    import gc
    import os

    gc.disable()  # also while modules are imported; see guest.vm
    from guest import vm

    status = vm.main(sys.argv[2:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
