# SPDX-License-Identifier: GPL-2.0-only
from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundle.support import Failing


@pytest.fixture
def failing(tmp_path: Path) -> Failing:
    return Failing(tmp_path / "run")
