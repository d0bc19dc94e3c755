"""Contract: codes, codebook and tools go wherever the tokenizer goes; what is damaged on the way is refused."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets.fingerprint import Hasher
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from toolscaler.errors import ArtifactError
from toolscaler.tokenization import ToolscalerTokenizer

TOOLS = {"units/convert": (0, 1, 2), "dates/weekday": (0, 1, 1), "text/count words": (3, 0, 0), 'été "x"\n': (3, 3, 0)}
TEXTS = ["Convert 12 metres", "<a_0><b_1><c_2>", "x<a_3>y <b_0>,<c_1>\n</s>", "Ünï<a_1>  "]


def wrap(base) -> ToolscalerTokenizer:
    return ToolscalerTokenizer.from_tokenizer(
        base,
        tool_ids=list(TOOLS),
        codes=list(TOOLS.values()),
        code_sizes=(4, 4, 3),
        document_hashes={"units/convert": "h"},
    )


def assert_same(one: ToolscalerTokenizer, other: ToolscalerTokenizer) -> None:
    assert type(other) is ToolscalerTokenizer
    assert other.tool_index == one.tool_index
    assert other.first_code_id == one.first_code_id
    assert other.retrieval_template == one.retrieval_template
    assert other.special_tokens_map == one.special_tokens_map
    assert (other.padding_side, other.model_max_length) == (one.padding_side, one.model_max_length)
    assert other.chat_template == one.chat_template
    assert other(TEXTS)["input_ids"] == one(TEXTS)["input_ids"]
    assert other.decode(one.encode_tool("units/convert")) == one.decode(one.encode_tool("units/convert"))
    np.testing.assert_array_equal(other.tool_token_ids(), one.tool_token_ids())


@pytest.mark.parametrize("name", ["bytelevel", "chat", "metaspace", "wordpiece"])
def test_every_way_of_copying(bases, name, tmp_path):
    tokenizer = wrap(bases[name])
    written = tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert str(tmp_path / "tokenizer" / "tool_index.json") in written
    assert all(Path(path).is_file() for path in written)
    assert_same(tokenizer, ToolscalerTokenizer.from_pretrained(tmp_path / "tokenizer"))
    assert_same(tokenizer, pickle.loads(pickle.dumps(tokenizer)))
    copied = copy.deepcopy(tokenizer)
    assert_same(tokenizer, copied)
    copied.remove_tools(["units/convert"])
    assert "units/convert" in tokenizer.tool_index
    # Once more around: nothing is lost or gained on the second trip, and changes are kept.
    again = ToolscalerTokenizer.from_pretrained(tmp_path / "tokenizer")
    again.add_tools(["new"], codes=[[1, 1, 1]])
    again.save_pretrained(tmp_path / "tokenizer")
    last = ToolscalerTokenizer.from_pretrained(tmp_path / "tokenizer", padding_side="left")
    assert last.decode_tool("<a_1><b_1><c_1>") == ["new"]
    assert last.padding_side == "left"
    assert (tmp_path / "tokenizer" / "tokenizer.json").read_text() == _tokenizer_json(tokenizer)


def _tokenizer_json(tokenizer) -> str:
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer.backend_tokenizer.to_str(pretty=True)


def test_fingerprints_do_not_depend_on_use(bases):
    tokenizer, used = wrap(bases["bytelevel"]), wrap(bases["bytelevel"])
    used.decode_tool("<a_0><b_1><c_2>")
    used.encode_tool("units/convert")
    assert Hasher.hash(tokenizer) == Hasher.hash(used)
    used.remove_tools(["units/convert"])
    assert Hasher.hash(tokenizer) != Hasher.hash(used)


def test_datasets_map_with_two_processes(bases):
    tokenizer = wrap(bases["bytelevel"])
    names = list(TOOLS) * 3
    rows = datasets.Dataset.from_dict({"tool": names, "query": [f"query {k}" for k in range(len(names))]})

    def encode(row):
        return {"ids": tokenizer.encode_retrieval_prompt(row["query"]) + tokenizer.encode_tool(row["tool"])}

    mapped = rows.map(encode, num_proc=2)
    for k, (name, ids) in enumerate(zip(names, mapped["ids"], strict=True)):
        assert ids == tokenizer.encode_retrieval_prompt(f"query {k}") + tokenizer.encode_tool(name)


_PLAIN = """
import json, sys
from transformers import AutoTokenizer
texts = json.loads(sys.argv[1])
report = {}
for folder in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    kept = [tokenizer.decode(one, skip_special_tokens=True) for one in ids]
    report[folder] = [type(tokenizer).__name__, len(tokenizer), ids, kept]
assert "toolscaler" not in sys.modules
print(json.dumps(report))
"""


def test_a_plain_autotokenizer_reads_the_folder(bases, make_tiny_tokenizer, make_tiny_model, tmp_path):
    saved = {}
    for name in ("bytelevel", "chat", "metaspace", "wordpiece"):
        saved[name] = wrap(bases[name])
    for arch in ("llama", "qwen3", "mistral", "gemma"):
        saved[arch] = wrap(bases["bytelevel"])
        make_tiny_model(arch).config.save_pretrained(tmp_path / arch)
    for name, tokenizer in saved.items():
        tokenizer.save_pretrained(tmp_path / name)
    command = [sys.executable, "-c", _PLAIN, json.dumps(TEXTS), *(str(tmp_path / name) for name in saved)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    for folder, (kind, length, ids, kept) in json.loads(output.splitlines()[-1]).items():
        tokenizer = saved[Path(folder).name]
        assert kind != "ToolscalerTokenizer"
        assert length == len(tokenizer)
        assert ids == [tokenizer(text)["input_ids"] for text in TEXTS], folder
        assert kept[1].replace(" ", "") == "<a_0><b_1><c_2>"


@pytest.fixture
def folder(bases, tmp_path) -> Path:
    wrap(bases["bytelevel"]).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_an_ordinary_tokenizer_is_not_taken_for_ours(bases, tmp_path):
    bases["bytelevel"].save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="from_tokenizer"):
        ToolscalerTokenizer.from_pretrained(tmp_path)


def test_an_index_of_another_tokenizer_is_refused(bases, folder, tmp_path):
    other = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], code_sizes=(4, 4, 4), tool_ids=[], codes=None)
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tool_index.json", folder)
    with pytest.raises(ArtifactError, match="do not belong together"):
        ToolscalerTokenizer.from_pretrained(folder)
    bases["bytelevel"].save_pretrained(folder)
    with pytest.raises(ArtifactError, match="do not belong together"):
        ToolscalerTokenizer.from_pretrained(folder)


def test_a_damaged_index_is_refused(folder):
    index = folder / "tool_index.json"
    index.write_bytes(index.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"tool_index\.json"):
        ToolscalerTokenizer.from_pretrained(folder)


def test_nothing_but_documented_files_is_written(folder):
    expected = {"tokenizer.json", "tokenizer_config.json", "tool_index.json"}
    assert {path.name for path in folder.iterdir()} == expected
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert "auto_map" not in config  # the folder opens without trust_remote_code
    assert not [key for key in config if "codebook" in key or ("tool" in key and key != "tokenizer_class")]
    assert isinstance(AutoTokenizer.from_pretrained(folder), PreTrainedTokenizerFast)
