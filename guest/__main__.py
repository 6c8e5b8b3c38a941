# SPDX-License-Identifier: GPL-2.0-only
"""``python3 guest`` or ``python3 -m guest`` for a person; with ``--vm`` or ``--agent`` in a VM."""

import sys

if not __package__:
    # Run as a directory or a file: sys.path starts with guest/ itself, and -I keeps other
    # directories out. The package is found in its parent.
    sys.path[0] = __file__.rpartition("/")[0].rpartition("/")[0] or (
        "." if "/" in __file__ else ".."
    )


def main() -> int:
    if sys.argv[1:2] == ["--vm"]:
        from guest import vm

        return vm.main(sys.argv[2:])
    if sys.argv[1:2] == ["--agent"]:
        from guest import agent

        return agent.main(sys.argv[2:])
    from guest import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
