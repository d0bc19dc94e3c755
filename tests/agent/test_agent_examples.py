"""Contract: each agent example runs as it stands, with no trained model and with one that does not know its tools."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from toolscaler import Codebook, GistForToolCompression, ToolscalerTokenizer, encode_documents
from toolscaler.data import ToolDocument, finish_document
from toolscaler.embedding import initialize_code_embeddings

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_example(tmp_path, monkeypatch, capfd):
    """Give ``run(name, *arguments)`` -> what the example prints."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(EXAMPLES))
        path = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        runpy.run_path(path, run_name="__main__")
        return capfd.readouterr().out

    return run


def test_python_functions(run_example):
    printed = run_example("agent_python_functions", "which day is it in a week")
    assert "random weights" in printed
    assert "query: which day is it in a week" in printed
    assert "call:" in printed
    calls = re.findall(r"^  call: \S+ (\w+) ", printed, re.MULTILINE)
    assert set(calls) <= {"days_between", "add_days", "Finish"}  # the policy forbids the third
    assert printed.count("audit:") == len([name for name in calls if name != "Finish"])


def test_mcp_server(run_example):
    printed = run_example("agent_mcp_server")
    assert [line.split()[0] for line in printed.splitlines()[:3]] == [
        "shopping/add_item",
        "shopping/list_items",
        "shopping/clear_list",
    ]
    assert printed.count("query: ") == 2
    assert "invalid_arguments" not in printed


def test_openapi_service(run_example):
    printed = run_example("agent_openapi_service")
    assert "rooms/find_rooms         find_rooms(seats: integer)" in printed
    assert "call:" in printed
    assert "the-service-key" not in printed
    assert "no key" not in printed


def test_messages_loop(run_example):
    printed = run_example("agent_messages_loop", "2 times 3")
    messages = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert messages[0] == {"role": "user", "content": "2 times 3"}
    for message, following in zip(messages, [*messages[1:], None], strict=True):
        for call in message.get("tool_calls", ()):
            assert following is not None
            assert call["id"] in {answer.get("tool_call_id") for answer in messages}
            assert call["function"]["name"] in ("multiply", "largest")
            json.loads(call["function"]["arguments"])
    assert "TypeError" not in printed  # arguments fit the functions


@pytest.fixture
def run_folder(tmp_path, make_tiny_tokenizer, make_tiny_model):
    """Give the model folder of a run whose catalogue has none of the examples' tools."""
    folder = tmp_path / "run"
    catalogue = [
        *(ToolDocument(f"tool_{k}", f"Do the thing number {k} of {k * 7}.") for k in range(12)),
        finish_document(),
    ]
    base = make_tiny_tokenizer()
    model = make_tiny_model("llama", base)
    model.config.max_position_embeddings = 4096
    gists = GistForToolCompression.from_base_model(model)
    gists.save_pretrained(folder / "compression" / "model")
    base.save_pretrained(folder / "compression" / "model")
    embeddings = encode_documents(gists, base, catalogue, show_progress=False)
    ids = [document.id for document in catalogue]
    codebook = Codebook.fit(embeddings, ids, num_levels=1, num_centroids=5, reduced_dim=4)
    tokenizer = ToolscalerTokenizer.from_tokenizer(base, codebook)
    initialize_code_embeddings(model, tokenizer, embeddings)
    model.save_pretrained(folder / "agent_model")
    tokenizer.save_pretrained(folder / "agent_model")
    return folder / "agent_model"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_trained_model_gets_codes_for_new_tools(run_example, run_folder):
    printed = run_example("agent_openapi_service", "rooms?", "--model", str(run_folder))
    assert "random weights" not in printed
    assert "was not trained on 2 of these tools; they got codes without training:" in printed
    codes = dict(re.findall(r"^  (<\S+>)  (rooms/\w+)$", printed, re.MULTILINE))
    assert sorted(codes.values()) == ["rooms/describe_room", "rooms/find_rooms"]
    trained = ToolscalerTokenizer.from_pretrained(run_folder)
    taken = {trained.tool_code_text(name) for name in trained.tool_names}
    assert len(taken) == 13
    assert not taken & set(codes)
    called = re.findall(r"^  call: (\S+) (\S+) ", printed, re.MULTILINE)
    assert called
    assert all(codes[code] == name for code, name in called if name != "Finish")


def test_a_model_without_its_compressor_says_so(run_example, run_folder):
    (run_folder.parent / "compression").rename(run_folder.parent / "elsewhere")
    with pytest.raises(SystemExit, match="no compressor"):
        run_example("agent_openapi_service", "rooms?", "--model", str(run_folder))
