"""Fixtures that every room's tests share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

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


@cache
def _tiny() -> ModuleType:
    """Load tests/tiny.py by its path: with importlib import mode the tests are no package, and torch stays unloaded."""
    spec = importlib.util.spec_from_file_location("toolscaler_tests_tiny", Path(__file__).with_name("tiny.py"))
    if spec is None or spec.loader is None:
        raise ImportError("tests/tiny.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_tiny_tokenizer() -> Callable[..., Any]:
    """Give ``make(corpus=None, vocab_size=400, *, chat_template=None)`` -> a BPE ``PreTrainedTokenizerFast``."""
    return _tiny().tiny_tokenizer


@pytest.fixture(scope="session")
def make_tiny_model() -> Callable[..., Any]:
    """Give ``make(arch="llama", tokenizer=None, hidden_size=32, tie=False, *, num_layers=2, seed=0)`` -> causal LM."""
    return _tiny().tiny_model
