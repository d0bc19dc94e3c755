"""Saving and loading: bit-identical in every form, and never rows on a base they were not trained on."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertLMHeadModel, BertModel

from toolscaler.compression import GistForToolCompression
from toolscaler.compression.persistence import ROWS_NAME, attach_adapter, merge_adapter, weights_fingerprint
from toolscaler.errors import ArtifactError, CompressionError

IDS = torch.arange(3, 21).view(2, 9)
LABELS = torch.arange(30, 70).view(2, 4, 5)


def same(one, other):
    with torch.no_grad():
        return one(IDS, labels=LABELS).logits.equal(other(IDS, labels=LABELS).logits)


@pytest.fixture
def base_folder(make_tiny_model, tokenizer, tmp_path):
    make_tiny_model("llama", tokenizer).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapted(base_folder):
    """A compressor by name with a LoRA adapter that is not zero."""
    from peft import LoraConfig, get_peft_model

    model = GistForToolCompression.from_base_model(base_folder)
    lora = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["gist_embeddings", "task_embeddings"])
    peft_model = get_peft_model(model, lora).eval()
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    return peft_model


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "mistral", "gemma"])
def test_whole_model_is_bit_identical(make_model, tmp_path, arch, tie):
    model = make_model(arch, tie)
    model.save_pretrained(tmp_path)
    loaded = GistForToolCompression.from_pretrained(tmp_path)
    assert same(model, loaded)
    loaded.check_causal()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(tensor.equal(model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    head, tokens = loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight
    assert (head is tokens) == tie
    assert isinstance(AutoModel.from_pretrained(tmp_path), GistForToolCompression)


def test_backbone_is_an_ordinary_model(make_model, tmp_path):
    model = make_model()
    model.backbone.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain(IDS).logits.equal(model.backbone(IDS).logits)


def test_base_by_name_is_left_out(base_folder, tmp_path):
    model = GistForToolCompression.from_base_model(base_folder, num_gist_tokens=3, seed=5)
    model.save_pretrained(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", ROWS_NAME}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["base_model_name_or_path"] == str(base_folder)
    assert same(model, GistForToolCompression.from_pretrained(tmp_path / "model"))
    model.save_pretrained(tmp_path / "whole", save_base=True)
    assert (tmp_path / "whole" / "model.safetensors").exists()
    assert same(model, GistForToolCompression.from_pretrained(tmp_path / "whole"))


def test_changed_base_is_saved_whole(base_folder, tmp_path):
    model = GistForToolCompression.from_base_model(base_folder)
    with torch.no_grad():
        model.backbone.lm_head.weight[7] += 1
    model.save_pretrained(tmp_path / "model")
    assert same(model, GistForToolCompression.from_pretrained(tmp_path / "model"))
    with pytest.raises(CompressionError, match="was changed"):
        model.save_pretrained(tmp_path / "other", save_base=False)


def test_base_object_is_saved_whole_unless_it_has_a_name(base_folder, make_model, tmp_path):
    nameless = make_model()
    with pytest.raises(CompressionError, match="no name"):
        nameless.save_pretrained(tmp_path / "no", save_base=False)
    model = GistForToolCompression.from_base_model(AutoModelForCausalLM.from_pretrained(base_folder))
    model.save_pretrained(tmp_path / "rows", save_base=False)
    assert same(model, GistForToolCompression.from_pretrained(tmp_path / "rows"))


def test_rows_refuse_another_base(base_folder, make_tiny_model, tokenizer, tmp_path):
    GistForToolCompression.from_base_model(base_folder).save_pretrained(tmp_path / "model")
    make_tiny_model("llama", tokenizer, seed=1).save_pretrained(base_folder)
    with pytest.raises(ArtifactError, match="has other weights"):
        GistForToolCompression.from_pretrained(tmp_path / "model")


def bert_folder(tokenizer, folder, with_head):
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )  # fmt: skip
    (BertLMHeadModel(config) if with_head else BertModel(config)).save_pretrained(folder)


def test_settings_of_the_base_are_kept(tokenizer, tmp_path):
    """The base's own file says encoder; the compressor that uses it as a decoder must stay causal."""
    bert_folder(tokenizer, tmp_path / "base", with_head=True)
    model = GistForToolCompression.from_base_model(tmp_path / "base", is_decoder=True)
    model.check_causal()
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / ROWS_NAME).exists()
    loaded = GistForToolCompression.from_pretrained(tmp_path / "model")
    loaded.check_causal()
    assert same(model, loaded)


def test_base_with_random_parts_is_saved_whole(tokenizer, tmp_path, caplog):
    bert_folder(tokenizer, tmp_path / "base", with_head=False)
    model = GistForToolCompression.from_base_model(tmp_path / "base", is_decoder=True)
    assert "drawn at random" in caplog.text
    model.save_pretrained(tmp_path / "model")
    assert same(model, GistForToolCompression.from_pretrained(tmp_path / "model"))


def test_missing_parts_are_named(base_folder, tmp_path):
    GistForToolCompression.from_base_model(base_folder).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / ROWS_NAME).rename(tmp_path / "rows")
    with pytest.raises(ArtifactError, match=ROWS_NAME):
        GistForToolCompression.from_pretrained(tmp_path / "model")
    (tmp_path / "rows").rename(tmp_path / "model" / ROWS_NAME)
    base_folder.rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        GistForToolCompression.from_pretrained(tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        GistForToolCompression.from_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="model_type 'toolscaler_gist'"):
        GistForToolCompression.from_pretrained(tmp_path / "moved")


def test_adapter_apart_and_merged(adapted, tmp_path):
    plain = GistForToolCompression.from_base_model(adapted.get_base_model().config.base_model_name_or_path)
    model = attach_adapter(adapted)
    assert not same(model, plain)
    with pytest.raises(CompressionError, match="merge"):
        model.save_pretrained(tmp_path / "no", save_base=True)
    model.save_pretrained(tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"config.json", "adapter_config.json", "adapter_model.safetensors"} <= names
    assert "model.safetensors" not in names
    apart = GistForToolCompression.from_pretrained(tmp_path / "adapter", merge_adapter=False)
    assert same(model, apart)
    apart.save_pretrained(tmp_path / "again")
    assert same(model, GistForToolCompression.from_pretrained(tmp_path / "again", merge_adapter=False))
    merged = GistForToolCompression.from_pretrained(tmp_path / "adapter")
    assert not any("lora" in name for name, _ in merged.named_parameters())
    with torch.no_grad():
        assert torch.allclose(merged(IDS, labels=LABELS).logits, model(IDS, labels=LABELS).logits, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    assert same(merged, GistForToolCompression.from_pretrained(tmp_path / "merged"))
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_fingerprint_sees_every_weight_and_no_adapter(adapted):
    model = adapted.get_base_model()
    plain = GistForToolCompression.from_base_model(model.config.base_model_name_or_path)
    assert weights_fingerprint(model.backbone) == weights_fingerprint(plain.backbone) == plain.config.base_fingerprint
    assert weights_fingerprint(model, base_only=False) != weights_fingerprint(plain, base_only=False)
    assert weights_fingerprint(merge_adapter(adapted).backbone) != plain.config.base_fingerprint
    with torch.no_grad():
        plain.backbone.model.layers[1].mlp.up_proj.weight[3, 5] *= 1.001
    assert weights_fingerprint(plain.backbone) != plain.config.base_fingerprint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": "model"}, "expected a whole gist compressor"),  # the rows alone are there
        ({"weights": "adapter"}, "adapter_config.json"),
        ({"backbone_config": None}, "expected a backbone_config"),
    ],
)
def test_a_configuration_that_does_not_fit_the_files_is_refused(base_folder, tmp_path, change, says):
    folder = tmp_path / "model"
    GistForToolCompression.from_base_model(base_folder).save_pretrained(folder)
    GistForToolCompression.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ArtifactError, match=says):
        GistForToolCompression.from_pretrained(folder)


def test_a_repository_that_is_not_there_keeps_the_client_s_error(base_folder, tmp_path):
    config = GistForToolCompression.from_base_model(base_folder).config
    with pytest.raises(OSError) as found:
        GistForToolCompression.from_pretrained("no/such-repository", config=config, local_files_only=True)
    assert not isinstance(found.value, ArtifactError)
