# SPDX-License-Identifier: GPL-2.0-only
"""Downloads one file: ``fetcher.py ADDRESS FILE``, for http, https and file addresses.

A program of its own, so that a download ends with the harness or at its request. The last line of
standard error says what failed. Standard library only.
"""

import sys
import urllib.error
import urllib.request
from pathlib import Path

#: Bytes; the largest package of a kernel with debug information has 1 GB.
LIMIT = 4 << 30
#: Seconds without any data.
PATIENCE = 60
#: Exit status if another attempt may succeed.
TRANSIENT = 75


def main(address: str, target: str) -> int:
    """The exit status."""
    try:
        with (
            # The manifest's schema permits only http, https and file.
            urllib.request.urlopen(address, timeout=PATIENCE) as source,  # noqa: S310
            Path(target).open("wb") as file,
        ):
            expected = source.headers.get("Content-Length")
            done = 0
            while more := source.read(1 << 20):
                done += file.write(more)
                if done > LIMIT:
                    return _fail(f"it has more than {LIMIT >> 30} GiB")
            if expected is not None and done != int(expected):
                return _fail(f"the connection ended after {done} of {expected} bytes", TRANSIENT)
    except urllib.error.HTTPError as error:
        return _fail(
            f"HTTP status {error.code} {error.reason}", TRANSIENT if error.code >= 500 else 1
        )
    except urllib.error.URLError as error:
        is_local = address.startswith("file:")
        return _fail(str(error.reason), 1 if is_local else TRANSIENT)
    except (OSError, ValueError) as error:
        return _fail(str(error), TRANSIENT if isinstance(error, TimeoutError) else 1)
    return 0


def _fail(why: str, status: int = 1) -> int:
    sys.stderr.write(f"{why}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
