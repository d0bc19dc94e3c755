"""Export: equal to one document at a time, in input order, streamed, and resumable after a kill at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from toolscaler._files import read_json
from toolscaler.compression import encode_documents, load_embeddings
from toolscaler.compression.export import INDEX_NAME, _Plan
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import ArtifactError, CompressionError

QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def model(make_tiny_model, tokenizer):
    from toolscaler.compression import GistForToolCompression

    return GistForToolCompression.from_base_model(make_tiny_model("llama", tokenizer))


def one_by_one(model, tokenizer, texts):
    with torch.no_grad():
        return np.stack([model.gist_outputs(torch.tensor([tokenizer(text).input_ids]))[0].numpy() for text in texts])


@pytest.mark.parametrize("budget", [1, 100, 4096])
def test_equals_one_document_at_a_time(model, tokenizer, documents, budget):
    embeddings = encode_documents(model, tokenizer, documents, max_tokens_per_batch=budget, **QUIET)
    assert (embeddings.shape, embeddings.dtype) == ((12, 2, 32), np.float32)
    assert np.abs(embeddings - one_by_one(model, tokenizer, [d.to_text() for d in documents])).max() < 1e-5


@pytest.mark.parametrize("layers", [1, 2])
def test_readout_is_the_mean_of_the_last_layers(model, tokenizer, documents, layers, tmp_path):
    found = encode_documents(model, tokenizer, documents, tmp_path, readout_layers=layers, **QUIET)
    expected = []
    for document in documents:
        content = model.get_input_embeddings()(torch.tensor([tokenizer(document.to_text()).input_ids]))
        inputs = torch.cat([content, model.gist_embeddings.weight[None]], dim=1)
        with torch.no_grad():
            states = model.backbone.base_model(inputs_embeds=inputs, output_hidden_states=True).hidden_states
        expected.append(torch.stack(states[-layers:]).mean(0)[0, -2:].numpy())
    assert np.abs(found - np.stack(expected)).max() < 1e-5
    with pytest.raises(ArtifactError, match="other settings"):
        encode_documents(model, tokenizer, documents, tmp_path, readout_layers=3 - layers, **QUIET)


def test_more_layers_than_there_are_is_an_error(model, tokenizer, documents):
    with pytest.raises(CompressionError, match="at most the 2 layers"):
        encode_documents(model, tokenizer, documents, readout_layers=3, **QUIET)
    with pytest.raises(CompressionError, match="readout_layers"):
        encode_documents(model, tokenizer, documents, readout_layers=0, **QUIET)


def test_text_is_a_document_too(model, tokenizer, documents):
    texts = [document.to_text() for document in documents]
    assert (encode_documents(model, tokenizer, texts, **QUIET) == model.encode(tokenizer, documents, **QUIET)).all()


def test_order_of_input_is_kept(model, tokenizer, documents):
    forwards = encode_documents(model, tokenizer, documents, **QUIET)
    backwards = encode_documents(model, tokenizer, documents[::-1], **QUIET)
    assert np.abs(forwards - backwards[::-1]).max() < 1e-5


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    budget=st.integers(1, 200),
    shard_size=st.integers(1, 15),
)
@settings(deadline=None)
def test_batches_hold_every_document_once_and_the_budget(lengths, budget, shard_size):
    order = np.argsort([-n for n in lengths], kind="stable")
    shards = [order[i : i + shard_size] for i in range(0, len(order), shard_size)]
    plan = _Plan([np.zeros(n) for n in lengths], shards, budget, 2)
    batches = [batch for shard in range(len(shards)) for batch in plan.batches(shard)]
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * (max(lengths[i] for i in batch) + 2)
        assert len(batch) == 1 or padded <= budget


def test_folder_holds_the_same_numbers(model, tokenizer, documents, tmp_path):
    memory = encode_documents(model, tokenizer, documents, **QUIET)
    stored = encode_documents(model, tokenizer, documents, tmp_path, shard_size=5, **QUIET)
    ids, loaded = load_embeddings(tmp_path)
    assert (stored == loaded).all()
    assert np.abs(stored - memory).max() < 1e-5
    assert ids == [document.id for document in documents]
    assert loaded.dtype == np.float32
    index = read_json(tmp_path / INDEX_NAME)
    assert index["complete"]
    assert index["document_hashes"] == [document.content_hash for document in documents]
    files = [shard["file"] for shard in index["shards"]]
    assert {path.name for path in tmp_path.iterdir()} == {INDEX_NAME, *files}
    assert len(files) == 3
    first = load_file(tmp_path / files[0])
    assert (first["embeddings"] == loaded[first["positions"]]).all()
    lengths = [len(tokenizer(document.to_text()).input_ids) for document in documents]
    assert sorted(lengths, reverse=True)[:5] == [lengths[i] for i in first["positions"]]


def test_half_precision_storage(model, tokenizer, documents, tmp_path):
    whole = encode_documents(model, tokenizer, documents, **QUIET)
    half = encode_documents(model, tokenizer, documents, tmp_path, dtype="float16", **QUIET)
    assert half.dtype == np.float32
    assert (half == whole.astype(np.float16).astype(np.float32)).all()
    assert (half == encode_documents(model, tokenizer, documents, dtype="float16", **QUIET)).all()


def test_whole_shards_are_not_encoded_again(model, tokenizer, documents, tmp_path, monkeypatch):
    unbroken = encode_documents(model, tokenizer, documents, tmp_path / "a", shard_size=4, **QUIET)
    encode_documents(model, tokenizer, documents, tmp_path / "b", shard_size=4, **QUIET)
    lost = tmp_path / "b" / "embeddings-00002-of-00003.safetensors"
    lost.unlink()
    index = tmp_path / "b" / INDEX_NAME
    index.write_text(index.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(ArtifactError, match="interrupted"):
        load_embeddings(tmp_path / "b")
    seen = []
    original = model.gist_outputs
    monkeypatch.setattr(model, "gist_outputs", lambda ids, mask: (seen.append(len(ids)), original(ids, mask))[1])
    resumed = encode_documents(model, tokenizer, documents, tmp_path / "b", shard_size=4, **QUIET)
    assert sum(seen) == 4
    assert (resumed == unbroken).all()
    encode_documents(model, tokenizer, documents, tmp_path / "b", shard_size=4, **QUIET)
    assert sum(seen) == 4


def test_folder_of_something_else_is_refused(model, make_model, tokenizer, documents, tmp_path):
    encode_documents(model, tokenizer, documents, tmp_path, **QUIET)
    other = make_model(seed=9)
    for arguments in [(other, documents), (model, documents[:-1]), (model, documents[::-1])]:
        with pytest.raises(ArtifactError, match="another model, other documents or other settings"):
            encode_documents(arguments[0], tokenizer, arguments[1], tmp_path, **QUIET)
    with pytest.raises(ArtifactError, match="other settings"):
        encode_documents(model, tokenizer, documents, tmp_path, dtype="float16", **QUIET)
    # How many documents a batch holds decides no number.
    encode_documents(model, tokenizer, documents, tmp_path, max_tokens_per_batch=100, **QUIET)


def test_new_hash_with_the_same_text_reaches_the_index(model, tokenizer, tmp_path):
    one = ToolDocument(name="a", parameters={"properties": {"x": {"type": "integer"}}})
    two = ToolDocument(name="a", parameters={"properties": {"x": {"type": "integer", "minimum": 0}}})
    assert one.to_text() == two.to_text()
    first = encode_documents(model, tokenizer, [one], tmp_path, **QUIET)
    assert (encode_documents(model, tokenizer, [two], tmp_path, **QUIET) == first).all()
    assert read_json(tmp_path / INDEX_NAME)["document_hashes"] == [two.content_hash]


@pytest.mark.parametrize("damage", ["version", "shard", "garbage", "index"])
def test_damaged_folders_are_named(model, tokenizer, documents, tmp_path, damage):
    encode_documents(model, tokenizer, documents, tmp_path, **QUIET)
    index, shard = tmp_path / INDEX_NAME, tmp_path / "embeddings-00001-of-00001.safetensors"
    if damage == "version":
        index.write_text(index.read_text().replace('"format_version": 1', '"format_version": 99'))
    elif damage == "shard":
        shard.unlink()
    elif damage == "garbage":
        shard.write_bytes(b"no shard")
    else:
        index.unlink()
    with pytest.raises(ArtifactError):
        load_embeddings(tmp_path)


def test_long_documents_are_cut_and_counted(model, tokenizer, documents, tmp_path, caplog):
    lengths = [len(tokenizer(document.to_text()).input_ids) for document in documents]
    cut = sum(length > 40 for length in lengths)
    encode_documents(model, tokenizer, documents, tmp_path, max_length=40, **QUIET)
    assert 0 < cut == read_json(tmp_path / INDEX_NAME)["truncated"]
    assert f"{cut} of 12 documents were cut at 40 tokens" in caplog.text


def test_adapters_dropout_is_off_and_the_mode_comes_back(make_model, tokenizer, documents):
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(make_model(), lora).train()
    one = encode_documents(adapted, tokenizer, documents, **QUIET)
    assert (one == encode_documents(adapted, tokenizer, documents, **QUIET)).all()
    assert adapted.training
    assert not (one == encode_documents(make_model(), tokenizer, documents, **QUIET)).any()


@pytest.mark.parametrize(
    ("documents", "keys", "message"),
    [
        ([], {}, "at least one"),
        (["a", " "], {}, "empty document"),
        ([1], {}, "got int"),
        ([ToolDocument(name="a"), ToolDocument(name="b"), ToolDocument(name="a")], {}, "'a' comes more than once"),
        (["a"], {"max_tokens_per_batch": 0}, "max_tokens_per_batch"),
        (["a"], {"max_length": 0}, "max_length"),
        (["a"], {"shard_size": 0}, "shard_size"),
        (["a"], {"dtype": "int8"}, "dtype"),
    ],
)
def test_bad_input_is_refused(model, tokenizer, documents, keys, message):
    with pytest.raises(CompressionError, match=message):
        encode_documents(model, tokenizer, documents, **QUIET, **keys)


def test_numbers_that_are_not_finite_are_refused(make_model, tokenizer):
    model = make_model()
    with torch.no_grad():
        model.gist_embeddings.weight.fill_(float("nan"))
    with pytest.raises(CompressionError, match="not finite"):
        encode_documents(model, tokenizer, ["a"], **QUIET)


_SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import tiny
from toolscaler.compression import GistForToolCompression, encode_documents

tokenizer = tiny.tiny_tokenizer()
model = GistForToolCompression.from_base_model(tiny.tiny_model("llama", tokenizer))
original = model.gist_outputs
model.gist_outputs = lambda ids, mask: (time.sleep(0.05), original(ids, mask))[1]
texts = [f"document number {{i}} " * (1 + i % 7) for i in range(60)]
encode_documents(model, tokenizer, texts, {folder!r}, shard_size=4, max_tokens_per_batch=60, show_progress=False)
"""


@pytest.mark.slow
def test_killed_run_goes_on_and_ends_the_same(model, tokenizer, tmp_path):
    """SIGKILL in the middle; the next call keeps every shard that is there, and the numbers are an unbroken run's."""
    texts = [f"document number {i} " * (1 + i % 7) for i in range(60)]
    settings = {"shard_size": 4, "max_tokens_per_batch": 60, **QUIET}
    whole = encode_documents(model, tokenizer, texts, tmp_path / "whole", **settings)
    folder = tmp_path / "broken"
    script = _SCRIPT.format(tests=str(Path(__file__).resolve().parents[1]), folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).resolve().parents[2])
    deadline = time.monotonic() + 120
    while len(list(folder.glob("embeddings-*.safetensors"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    times = {path: path.stat().st_mtime_ns for path in folder.glob("embeddings-*.safetensors")}
    assert 3 <= len(times) < 15
    with pytest.raises(ArtifactError, match="interrupted"):
        load_embeddings(folder)
    assert (encode_documents(model, tokenizer, texts, folder, **settings) == whole).all()
    assert all(path.stat().st_mtime_ns == then for path, then in times.items())
