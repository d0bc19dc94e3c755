"""The inputs of every stage, made once."""

from __future__ import annotations

import pytest

from launch.workspace import Workspace, make_workspace


@pytest.fixture(scope="session")
def space(tmp_path_factory, make_tiny_tokenizer, make_tiny_model) -> Workspace:
    tokenizer = make_tiny_tokenizer()
    base, tuned = (make_tiny_model("llama", tokenizer, seed=seed) for seed in (0, 3))
    return make_workspace(tmp_path_factory.mktemp("space"), tokenizer, base, tuned)
