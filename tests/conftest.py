"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_DATA_VARIABLE = "TOOLSCALER_DATA"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the public data sets, from $TOOLSCALER_DATA or ../shared/data; skips by name where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(_DATA_VARIABLE, default))
    if not (folder / "README.md").exists():
        pytest.skip(f"shared_data: no public data sets at ${_DATA_VARIABLE} or ../shared/data")
    return folder
