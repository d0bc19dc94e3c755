"""GistConfig: defaults of the paper, lengths that fit the base, and values that are refused."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig, LlamaConfig

from toolscaler.compression import GistConfig
from toolscaler.errors import CompressionError


def backbone(**keys):
    return LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=100, **keys)


def test_defaults_are_the_papers():
    config = GistConfig()
    assert (config.num_gist_tokens, config.num_tasks) == (2, 4)
    assert config.task_names == ["category", "name", "code", "description"]


def test_round_trip_keeps_everything(tmp_path):
    config = GistConfig(
        backbone(), num_gist_tokens=3, task_names=("name", "query"), base_model_name_or_path="some/base"
    )
    config.save_pretrained(tmp_path)
    assert GistConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert isinstance(AutoConfig.from_pretrained(tmp_path), GistConfig)
    assert isinstance(GistConfig.from_pretrained(tmp_path).backbone_config, LlamaConfig)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "toolscaler_gist"
    assert saved["base_model_name_or_path"] == "some/base"


def test_wrapping_keeps_the_backbones_attention():
    inner = backbone(attn_implementation="eager")
    assert GistConfig(inner)._attn_implementation == "eager"
    assert inner._attn_implementation == "eager"


def test_lengths_shrink_to_the_base_and_must_fit_it():
    config = GistConfig(backbone(), num_gist_tokens=2)
    assert config.max_content_length == config.max_target_length == 100 - 2 - 1
    assert GistConfig(backbone(), max_content_length=50).max_content_length == 50
    with pytest.raises(CompressionError, match="max_content_length: got 98, expected at most 97"):
        GistConfig(backbone(), max_content_length=98)
    with pytest.raises(CompressionError, match="max_target_length"):
        GistConfig(backbone(), max_target_length=0)


def test_task_names_follow_their_number():
    assert GistConfig(num_tasks=2).task_names == ["category", "name"]
    assert GistConfig(num_tasks=5).task_names[-1] == "query"
    assert GistConfig(task_names=["mine"]).num_tasks == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_tasks": 0}, "num_tasks"),
        ({"num_tasks": 6}, "num_tasks"),
        ({"num_tasks": 3, "task_names": ["a", "b"]}, "2 names for num_tasks=3"),
        ({"task_names": ["a", "a"]}, "distinct"),
        ({"task_names": []}, "at least one"),
        ({"num_gist_tokens": 0}, "num_gist_tokens"),
        ({"weights": "half"}, "weights"),
    ],
)
def test_bad_values_are_refused(keys, message):
    with pytest.raises(CompressionError, match=message):
        GistConfig(**keys)
