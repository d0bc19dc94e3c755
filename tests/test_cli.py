"""The command line as a user types it: each stage's own command in a row, then questions to what came out."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from toolscaler.cli import main
from toolscaler.scripts.launch import config_names

TOOLS = [
    {"name": f"{verb}_{thing}", "description": f"Will {verb} the {thing} for you.", "parameters": {}}
    for verb in ("open", "close", "paint")
    for thing in ("door", "window", "gate", "box")
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, make_tiny_model, make_tiny_tokenizer) -> Path:
    """A folder in which the five stage commands have run one after the other."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "tools.json").write_text(json.dumps(TOOLS))
    rows = [
        {"query": f"{tool['name'].replace('_', ' ')} {tail}", "tools": [tool["name"]]}
        for tool in TOOLS
        for tail in ("please", "now", "for me")
    ]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = make_tiny_tokenizer([row["query"] for row in rows])
    make_tiny_model(tokenizer=tokenizer).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    small = ["--disable_tqdm", "true"]
    for words in (
        ["compress", "--model", "base", "--tools", "tools.json", "--num_train_epochs", "1", *small],
        ["encode", "--model", "compress", "--tools", "tools.json"],
        ["codebook", "--embeddings", "encode", "--num_centroids", "4"],
        ["vocabulary", "--model", "base", "--codebook", "codebook", "--embeddings", "encode"],
        [
            *("retrieval", "--model", "vocabulary", "--train_queries", "queries.jsonl", "--num_train_epochs", "20"),
            *("--learning_rate", "1e-2", "--gradient_accumulation_steps", "1", "--save_strategy", "no", *small),
        ],
    ):
        paths = {"base", "compress", "encode", "codebook", "vocabulary", "tools.json", "queries.jsonl"}
        full = [words[0], *(str(folder / word) if word in paths else word for word in words[1:])]
        assert main([*full, "--output_dir", str(folder / words[0])]) == 0
    return folder


@pytest.mark.slow
def test_the_stages_make_a_model_that_answers(work: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["retrieve", str(work / "retrieval"), "paint the gate for me", "open the box", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in lines] == ["paint the gate for me", "open the box"]
    known = {tool["name"] for tool in TOOLS}
    for line in lines:
        assert len(line["tools"]) == 5
        assert {tool["name"] for tool in line["tools"]} <= known
        scores = [tool["score"] for tool in line["tools"]]
        assert scores == sorted(scores, reverse=True)
    assert main(["evaluate", str(work / "retrieval"), "--queries", str(work / "queries.jsonl")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 36
    assert result["metrics"]["ndcg@1"]["mean"] > 0.5  # these queries were trained on: it has to have learnt them


@pytest.mark.slow
def test_only_allowed_tools_come_out_and_a_typo_is_told(work: Path, capsys: pytest.CaptureFixture) -> None:
    allowed = ["close_door", "close_gate"]
    assert main(["retrieve", str(work / "retrieval"), "paint the window", "--json", "--tools", *allowed]) == 0
    found = json.loads(capsys.readouterr().out)["tools"]
    assert {tool["name"] for tool in found} == set(allowed)
    assert main(["retrieve", str(work / "retrieval"), "x", "--tools", "close_dor"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("toolscaler: no tool named 'close_dor'")
    assert "'close_door'" in error


@pytest.mark.slow
def test_tools_are_listed_with_their_codes(work: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["tools", "list", str(work / "retrieval")]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for _, name in rows] == [tool["name"] for tool in TOOLS]
    assert len({code for code, _ in rows}) == len(TOOLS)


@pytest.mark.slow
def test_the_plain_generate_example_runs(work: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    example = Path(__file__).parents[1] / "examples" / "generate_with_trie.py"
    monkeypatch.setattr(sys, "argv", [str(example), str(work / "retrieval"), "paint the gate"])
    runpy.run_path(str(example), run_name="__main__")
    names = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert len(names) == 5
    assert set(names) <= {tool["name"] for tool in TOOLS}


def test_the_reading_example_runs(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    example = Path(__file__).parents[1] / "examples" / "tools_from_anywhere.py"
    monkeypatch.setattr(sys, "argv", [str(example), "which song should we play"])
    runpy.run_path(str(example), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == [
        "weather/current_temperature",
        "mail/send_email",
        "home/play_song",
    ]
    assert lines[3].endswith("home/play_song")


def test_the_environment_is_told(capsys: pytest.CaptureFixture) -> None:
    assert main(["env"]) == 0
    assert "transformers: 5" in capsys.readouterr().out


def test_an_unknown_accelerate_config_is_named(capsys: pytest.CaptureFixture) -> None:
    assert main(["retrieval", "--accelerate_config", "moon"]) == 2
    error = capsys.readouterr().err
    assert "'moon'" in error
    for name in config_names():
        assert name in error
