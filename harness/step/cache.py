# SPDX-License-Identifier: GPL-2.0-only
"""What is kept of commits: images, results, failed builds and logs, each bounded.

All but the logs go by content (Recipe.key): by the tree that was built, whatever its commit and its
repository. What is damaged counts as absent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.errors import Malformed
from harness.host.files import recall, remember, touch, write_atomically
from harness.kernels.cache import file_sha256
from harness.records import to_json
from harness.records.from_json import kernel_from_text
from harness.verdict.results import KernelResult

#: How many are kept, the last used: images of 10 MB, results and logs of some 100 KB.
IMAGES = 32
RESULTS = 512
FAILURES = 512
LOGS = 256


class Memory:
    """Images in ``images``, which anybody may remove; all else below ``state``.

    Several steps use it at once.
    """

    def __init__(self, images: Path, state: Path) -> None:
        self._images = images
        self._results = state / "results"
        self._failures = state / "failures"
        self._logs = state / "logs"
        for place in (self._images, self._results, self._failures, self._logs):
            place.mkdir(parents=True, exist_ok=True)
        touch(state)
        touch(images)

    def log(self, name: str) -> Path:
        """Where the log of the build ``name`` goes."""
        _limit(self._logs, LOGS - 1)
        return self._logs / f"{name}.log"

    def image(self, key: str) -> Path | None:
        """The image that was kept by ``key``, if it is sound."""
        for path in self._images.glob(f"{key}-*"):
            if path.name == f"{key}-{file_sha256(path)}":
                touch(path)
                return path
            path.unlink(missing_ok=True)
        return None

    def keep_image(self, key: str, image: Path) -> Path:
        """A copy of ``image`` under ``key``."""
        _limit(self._images, IMAGES - 1)
        new = self._images / f".{key}-{os.getpid()}"
        shutil.copyfile(image, new)
        return new.rename(self._images / f"{key}-{file_sha256(new)}")

    def results(self, key: str) -> tuple[KernelResult, ...]:
        """The results that were kept by ``key``, the oldest first."""
        return tuple(self._read(key))

    def keep_result(self, key: str, result: KernelResult) -> None:
        _limit(self._results, RESULTS - 1)
        number = len(self._of(key))
        path = self._results / f"{key}-{number:03}.json"
        write_atomically(path, to_json.kernel_text(result))

    def failure(self, key: str) -> str | None:
        """Why what ``key`` stands for could not be built."""
        known = recall(self._failures / f"{key}.json")
        why = known.get("why") if isinstance(known, dict) else None
        return why if isinstance(why, str) else None

    def keep_failure(self, key: str, why: str) -> None:
        _limit(self._failures, FAILURES - 1)
        remember(self._failures / f"{key}.json", {"why": why})

    def forget(self, key: str, results: str) -> None:
        """Remove all that is kept by ``key``, and the results kept by the key ``results``."""
        kept = (*self._images.glob(f"{key}-*"), *self._of(results), self._failures / f"{key}.json")
        for path in kept:
            path.unlink(missing_ok=True)

    def _of(self, key: str) -> list[Path]:
        return sorted(self._results.glob(f"{key}-*.json"))

    def _read(self, key: str) -> Iterator[KernelResult]:
        for path in self._of(key):
            with contextlib.suppress(Malformed, OSError, UnicodeDecodeError):
                yield kernel_from_text(path.read_text(encoding="utf-8"))


def _limit(place: Path, most: int) -> None:
    """Remove from ``place`` what was used longest ago, down to ``most`` files."""
    used = []
    for path in place.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another step removed it
            used.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(used, reverse=True)[most:]:
        path.unlink(missing_ok=True)
