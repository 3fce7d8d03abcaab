"""The reference tables, or a skip that says why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def folder() -> Path:
    """Folder of the tables; skips the test where there is none."""
    found = Path(os.environ.get("WORKLODE_DATA") or Path(__file__).parents[2] / ".." / "shared" / "data")
    if not (found / "gemm_measured.csv").is_file():
        pytest.skip("reference tables are absent: set WORKLODE_DATA")
    return found
