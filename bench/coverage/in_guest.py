# SPDX-License-Identifier: GPL-2.0-only
"""Takes the place of guest/__main__.py in a boot that measures coverage: checks, then counters.

Standard library only, as all that runs in a guest.
"""

import os
import sys


def main() -> int:
    sys.path[0] = "/opt"  # where the guest package lies
    from guest import vm

    status = vm.main(sys.argv[2:])
    os.system("/bin/busybox sh /opt/dump.sh")  # noqa: S605  (a guest of our own)
    return status


if __name__ == "__main__":
    sys.exit(main())
