"""Fixtures of the hub room: its tiny parts, importable as in the scripts that the tests start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def parts():
    import parts

    return parts


@pytest.fixture(scope="session")
def codes(parts):
    return parts.tokenizer()


@pytest.fixture
def base_folder(parts, tmp_path):
    """``base_folder(arch, tie)`` -> a saved base model with its tokenizer."""

    def make(arch="qwen2", tie=False):
        folder = tmp_path / f"base-{arch}-{tie}"
        parts.tiny.tiny_model(arch, tie=tie).save_pretrained(folder)
        parts.tiny.tiny_tokenizer().save_pretrained(folder)
        return folder

    return make
