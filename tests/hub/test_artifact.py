"""Contract: a saved artefact opens again as it was; what is missing, changed, newer or foreign is refused by name."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from toolscaler import GenerativeRetriever
from toolscaler.errors import ArtifactError, ConfigError, HubError
from toolscaler.hub import Artifact, ArtifactManifest, save_artifact, seal_artifact, tokenizer_sha256


@pytest.fixture(scope="module")
def whole(parts, codes, tmp_path_factory):
    """A saved artefact with all weights, and its model."""
    folder = tmp_path_factory.mktemp("saved") / "whole"
    model = parts.with_codes(parts.tiny.tiny_model("llama"), codes)
    save_artifact(folder, model, codes, documents=parts.documents(), card="# card\n")
    return folder, model


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "artifact")


def edit(path, **changes):
    data = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        data.pop(key) if value is ... else data.__setitem__(key, value)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_round_trip(whole, parts, codes):
    folder, model = whole
    artifact = Artifact.from_pretrained(folder)
    assert artifact.manifest.kind == "model"
    assert parts.same_weights(artifact.load_model(), model)
    assert artifact.load_tokenizer().tool_index == codes.tool_index
    assert {document.id for document in artifact.documents()} == set(parts.TOOLS)
    assert [document.id for document in artifact.documents()] == codes.tool_names  # in the order of the index
    assert artifact.protocol() is None
    assert not artifact.has_compressor()
    with pytest.raises(ArtifactError, match="no compressor"):
        artifact.load_compressor()
    assert parts.same_weights(GenerativeRetriever.from_pretrained(folder, device="cpu").model, model)


def test_a_tied_model_is_saved_once_and_loaded_tied(parts, codes, tmp_path):
    model = parts.with_codes(parts.tiny.tiny_model("qwen2", tie=True), codes)
    save_artifact(tmp_path / "a", model, codes)
    loaded = Artifact.from_pretrained(tmp_path / "a").load_model()
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert parts.same_weights(loaded, model)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma"])
@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
def test_an_adapter_merges_bit_for_bit_as_peft_does(parts, codes, base_folder, tmp_path, arch, tie):
    adapter = parts.adapted(parts.tiny.tiny_model(arch, tie=tie), codes)
    manifest = save_artifact(tmp_path / "small", adapter, codes)
    assert manifest.kind == "adapter"
    base = base_folder(arch, tie)
    artifact = Artifact.from_pretrained(tmp_path / "small")
    merged = artifact.load_model(base=base)
    apart = artifact.load_model(base=base, merge=False)
    ids = torch.tensor([[5, 6, 7, codes.first_code_id, codes.first_code_id + 3]])
    with torch.no_grad():
        expected = adapter(ids).logits
        torch.testing.assert_close(apart(ids).logits, expected, rtol=0, atol=0)
        torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert parts.same_weights(merged, adapter.merge_and_unload())  # peft's own merge
    head, rows = merged.get_output_embeddings().weight, merged.get_input_embeddings().weight
    assert (head is rows) == tie
    # Neither matrix is in the files: LoRA and one row a code, twice where the head is untied.
    small = (tmp_path / "small" / "adapter_model.safetensors").stat().st_size
    assert small < base.joinpath("model.safetensors").stat().st_size / 4


def test_padding_rows_and_other_dtypes_of_an_adapter(parts, codes, tmp_path):
    from toolscaler.embedding import initialize_code_embeddings
    from toolscaler.training.adapters import with_adapter

    model = parts.tiny.tiny_model("llama").to(torch.bfloat16)
    initialize_code_embeddings(model, codes, parts.codebook()[1], pad_to_multiple_of=64)
    adapter = with_adapter(model, codes, rank=2, alpha=4, dropout=0.0)
    manifest = save_artifact(tmp_path / "small", adapter, codes)
    assert (manifest.base.dtype, manifest.base.vocab_rows % 64) == ("bfloat16", 0)
    base = parts.tiny.tiny_model("llama").to(torch.bfloat16)
    loaded = Artifact.from_pretrained(tmp_path / "small").load_model(base=base, dtype="float32")
    assert loaded.dtype == torch.float32
    assert parts.same_weights(loaded, adapter.merge_and_unload().float())
    with pytest.raises(ArtifactError, match="another dtype"):
        Artifact.from_pretrained(tmp_path / "small").load_model(base=parts.tiny.tiny_model("llama"))


def test_an_adapter_on_another_base_is_refused(parts, codes, tmp_path):
    save_artifact(tmp_path / "small", parts.adapted(parts.tiny.tiny_model("llama"), codes), codes)
    artifact = Artifact.from_pretrained(tmp_path / "small")
    with pytest.raises(ArtifactError, match="other weights"):
        artifact.load_model(base=parts.tiny.tiny_model("llama", seed=1))
    with pytest.raises(ArtifactError, match="no name on the Hub"):
        artifact.load_model()


def test_adapters_that_would_carry_or_lose_rows_are_refused(parts, codes, tmp_path):
    from peft import LoraConfig, get_peft_model

    from toolscaler.training.adapters import code_row_targets

    def save(keys):
        model = parts.with_codes(parts.tiny.tiny_model("llama"), codes)
        rows = code_row_targets(model, codes)
        settings = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"], **keys(rows))
        save_artifact(tmp_path / "small", get_peft_model(model, settings), codes)

    for keys, words in (
        (lambda _: {}, "trainable_token_indices"),
        (lambda rows: {"trainable_token_indices": {"model.embed_tokens": rows["model.embed_tokens"]}}, "untied head"),
        (lambda rows: {"trainable_token_indices": {name: ids[:-1] for name, ids in rows.items()}}, "all codes"),
    ):
        with pytest.raises(ConfigError, match=words):
            save(keys)
    with pytest.raises(ArtifactError, match="use_dora"):
        save(lambda rows: {"trainable_token_indices": rows, "use_dora": True})
    assert list(tmp_path.iterdir()) == []  # a refused save leaves nothing


def test_the_hash_of_the_base_tokenizer_does_not_see_codes(parts, codes, whole):
    base = parts.tiny.tiny_tokenizer()
    assert (
        tokenizer_sha256(codes)
        == tokenizer_sha256(base)
        == Artifact.from_pretrained(whole[0]).manifest.base_tokenizer_sha256
    )
    assert tokenizer_sha256(AutoTokenizer.from_pretrained(whole[0])) != tokenizer_sha256(base)
    assert tokenizer_sha256(parts.tiny.tiny_tokenizer(vocab_size=399)) != tokenizer_sha256(base)


@pytest.mark.parametrize(
    "name", ["config.json", "tool_index.json", "codebook.safetensors", "tools.jsonl", "tokenizer.json"]
)
def test_a_changed_or_missing_file_is_named(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + b" ")
    with pytest.raises(ArtifactError, match=rf"{name}: expected the sum in the manifest"):
        Artifact.from_pretrained(folder)
    Artifact.from_pretrained(folder, verify=False)  # sizes alone agree
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(ArtifactError, match=rf"{name}: expected {len(data)} bytes, got {len(data) - 1}"):
        Artifact.from_pretrained(folder, verify=False)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf'missing \["{name}"\]'):
        GenerativeRetriever.from_pretrained(folder)


def test_files_that_a_loader_would_read_unasked_are_named(folder):
    (folder / "README.md").write_text("edited on the Hub\n")
    (folder / "picture.png").write_bytes(b"x")
    Artifact.from_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ evil }}")
    with pytest.raises(ArtifactError, match=r'unexpected \["chat_template.jinja"\]'):
        Artifact.from_pretrained(folder)
    assert "chat_template.jinja" in seal_artifact(folder).files  # the way out that the message names
    Artifact.from_pretrained(folder)


TRICKS = ("../x.json", "/etc/passwd", "a/../b", "C:\\x", "a\\b", "a//b", "", ".hidden", "a/b/c", "x\0y", "é")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format_version": 2, "toolscaler_version": "9.1"}, r"got 2 \(written by toolscaler 9.1\); install"),
        ({"format_version": True}, "format_version"),
        ({"format_version": ...}, "format_version"),
        ({"kind": "pickle"}, "kind"),
        ({"kind": "adapter"}, "base"),
        ({"more": 1, "kind": ...}, r"missing keys \['kind'\], unexpected keys \[\"more\"\]"),
        ({"base_tokenizer_sha256": "0" * 64}, "base tokenizer"),
        ({"files": {}}, "files"),
        *(
            ({"files": {name: {"size": 1, "sha256": "0" * 64}}}, "names inside the folder")
            for name in (
                "../x.json",
                "/etc/passwd",
                "a/../b",
                "C:\\x",
                "a\\b",
                "a//b",
                "",
                ".hidden",
                "a/b/c",
                "x\0y",
                "é",
            )
        ),
        ({"files": {"A.json": {"size": 1, "sha256": "0" * 64}, "a.json": {"size": 1, "sha256": "0" * 64}}}, "case"),
        ({"files": {"a.json": {"size": -1, "sha256": "0" * 64}}}, "size"),
        ({"files": {"a.json": {"size": 1, "sha256": "0" * 63}}}, "64"),
        ({"files": {"a.json": {"size": 1}}}, "sha256"),
    ],
)
def test_manifests_that_do_not_fit(folder, changes, words):
    edit(folder / "toolscaler.json", **changes)
    with pytest.raises(ArtifactError, match=words):
        Artifact.from_pretrained(folder).load_tokenizer()


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("config.json", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ("config.json", {"attn_implementation": "someone/kernel"}, "attn_implementation"),
        ("config.json", {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
        ("config.json", {"vocab_size": 10**9}, "vocab_size"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("config.json", {"num_hidden_layers": 20}, "asks for"),
        ("config.json", {"hidden_size": "x"}, "causal language model"),
        ("config.json", {"model_type": "nothing"}, "causal language model"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "auto_map"),
        ("tool_index.json", {"code_sizes": [10**12, 4, 4, 4]}, "code_sizes"),
        ("tool_index.json", {"code_sizes": [10**6, 4, 4, 4]}, "do not belong|code sizes"),
        ("tool_index.json", {"surprise": 1}, "surprise"),
    ],
)
def test_what_a_forger_could_seal_is_refused_too(folder, file, changes, words):
    edit(folder / file, **changes)
    seal_artifact(folder)
    with pytest.raises(ArtifactError, match=words):
        Artifact.from_pretrained(folder).load_model()


def test_a_tokenizer_of_another_base_is_refused_even_when_sealed(folder, parts, tmp_path):
    from toolscaler.tokenization import ToolscalerTokenizer

    other = ToolscalerTokenizer.from_tokenizer(parts.tiny.tiny_tokenizer(vocab_size=390), parts.codebook()[0])
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", folder)
    seal_artifact(folder)
    with pytest.raises(ArtifactError, match="base tokenizer"):
        Artifact.from_pretrained(folder).load_tokenizer()


def test_saving_again_gives_the_same_bytes_and_leaves_no_litter(whole, codes, parts, tmp_path):
    for _ in range(2):
        save_artifact(tmp_path / "again", whole[1], codes, documents=parts.documents(), card="# card\n")
    assert ArtifactManifest.load(tmp_path / "again") == ArtifactManifest.load(whole[0])
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_folder_of_a_saved_model_is_taken_as_it_is(whole, codes, parts, tmp_path):
    whole[1].save_pretrained(tmp_path / "model")
    save_artifact(tmp_path / "copy", tmp_path / "model", codes)
    assert parts.same_weights(Artifact.from_pretrained(tmp_path / "copy").load_model(), whole[1])
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        save_artifact(tmp_path / "none", tmp_path, codes)


def test_documents_must_be_those_of_the_tools(whole, codes, parts, tmp_path):
    import dataclasses

    documents = parts.documents()
    changed = [dataclasses.replace(documents[0], description="other"), *documents[1:]]
    for wrong, words in (
        (documents[:-1], "1 tools without"),
        (documents * 2, "exactly one"),
        (changed, "encode the tool"),
    ):
        with pytest.raises(ConfigError, match=words):
            save_artifact(tmp_path / "a", whole[1], codes, documents=wrong)


def test_a_model_without_code_rows_is_refused_before_anything_is_written(codes, parts, tmp_path):
    with pytest.raises(ConfigError, match="vocabulary rows"):
        save_artifact(tmp_path / "a", parts.tiny.tiny_model(), codes)
    assert list(tmp_path.iterdir()) == []


def test_no_path_of_this_machine_goes_along(parts, codes, base_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    from toolscaler.compression import GistForToolCompression

    base = base_folder("llama")
    model = parts.with_codes(AutoModelForCausalLM.from_pretrained(base), codes)
    compressor = GistForToolCompression.from_base_model(base)
    save_artifact(
        tmp_path / "a", model, codes, compressor=compressor, compressor_tokenizer=AutoTokenizer.from_pretrained(base)
    )
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()]
    loaded, _ = Artifact.from_pretrained(tmp_path / "a").load_compressor()
    # A base that only this machine has is not left out.
    assert loaded.config.weights == "model"
    assert parts.same_weights(loaded, compressor)


def test_a_hub_error_survives_pickling():
    error = pickle.loads(pickle.dumps(HubError("no", repo_id="me/x", status=403)))
    assert (str(error), error.repo_id, error.status) == ("me/x: no", "me/x", 403)
