# SPDX-License-Identifier: GPL-2.0-only
"""``python -m harness``, and the console script."""

import gc
import sys

INTERRUPTED = 130  # harness.verdict.results has it, too, which is not imported yet
STOP = 128  # of git bisect run: nothing is learned of the commit


def main() -> int:
    """The command line. A harness that cannot even be imported must not call a commit bad:

    Python's own status for that is 1. What is imported stays, and so does all that there is at the
    end: looking for garbage in it takes a tenth of the time of a short run.
    """
    gc.disable()
    try:
        from harness import cli

        cli.load(sys.argv[1:2])
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        if sys.argv[1:2] != ["step"]:
            raise
        sys.excepthook(*sys.exc_info())
        return STOP
    gc.freeze()
    gc.enable()
    try:
        return cli.main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
