# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of the reports share: streams, a clock, and patience on a slow machine."""

from __future__ import annotations

from io import BytesIO, StringIO, TextIOWrapper

from hypothesis import HealthCheck, settings

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Encoded(TextIOWrapper):
    """A stream of an encoding, and what was written to it."""

    def __init__(self, encoding: str) -> None:
        super().__init__(BytesIO(), encoding=encoding, newline="")

    def written(self) -> bytes:
        self.flush()
        assert isinstance(self.buffer, BytesIO)
        return self.buffer.getvalue()


class Gone(StringIO):
    """A pipe whose reader went away, or a terminal that hung up."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.writes = 0

    def write(self, _: str) -> int:
        self.writes += 1
        raise self.error


class FullOnce(StringIO):
    """A non-blocking stream that is full at the first write."""

    def __init__(self) -> None:
        super().__init__()
        self.was_full = False

    def write(self, text: str) -> int:
        if not self.was_full:
            self.was_full = True
            raise BlockingIOError
        return super().write(text)
