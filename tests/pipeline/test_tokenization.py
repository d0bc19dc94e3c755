"""The strategy of a run: which stages it leaves out, what it does not go with, and that older runs stay valid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolscaler.errors import ConfigError
from toolscaler.pipeline import RunConfig, run_pipeline
from toolscaler.pipeline.manifest import fingerprint
from toolscaler.pipeline.runner import stage_fingerprints, stage_table
from toolscaler.pipeline.stages import check_settings
from toolscaler.tokenization import ToolscalerTokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory, make_tiny_tokenizer, make_tiny_model) -> Path:
    """A base, tools whose names begin each other, and their queries."""
    folder = tmp_path_factory.mktemp("source")
    make_tiny_tokenizer().save_pretrained(folder / "base")
    make_tiny_model(num_layers=1).save_pretrained(folder / "base")
    names = ["get", "get_weather", "get_weather_today", "convert", "convert_length", "week_day"]
    tools = [
        {"name": name, "description": f"Do {name}.", "parameters": {"type": "object", "properties": {}}}
        for name in names
    ]
    queries = [{"query": f"{word} {name}", "tools": [name]} for name in names for word in ("please", "now", "can you")]
    (folder / "tools.json").write_text(json.dumps(tools))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    return folder


def settings(source: Path, output: Path, strategy: str, **sections) -> RunConfig:
    data = {"tools": str(source / "tools.json"), "queries": str(source / "queries.jsonl"), "test_size": 0.2}
    trainer = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
    return RunConfig.from_dict(
        {
            "output_dir": str(output),
            "data": data,
            "base": {"model": str(source / "base")},
            "compression": {"trainer": {"num_train_epochs": 1}},
            "tokenization": {"strategy": strategy},
            "retrieval": {"trainer": trainer},
            "evaluation": {"baselines": [], "num_beams": 6},
            **sections,
        }
    )


@pytest.mark.parametrize("strategy", ["atomic", "semantic", "numerical", "hierarchical"])
def test_a_run_leaves_out_what_its_strategy_does_not_need(source, tmp_path, strategy) -> None:
    config = settings(source, tmp_path / "run", strategy)
    folder = run_pipeline(config)
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    without = {name for name, entry in stages.items() if "left_out" in entry["summary"]}
    gists = {"codebook"} if strategy == "hierarchical" else {"compress", "encode", "codebook"}
    assert without == gists | {"trajectory", "agent"}
    assert all(strategy in stages[name]["summary"]["left_out"] for name in gists)
    assert stages["vocabulary"]["summary"]["strategy"] == strategy
    assert stages["vocabulary"]["summary"]["code_tokens"] == (6 if strategy == "atomic" else 0)
    (ours,) = json.loads((folder / "evaluation" / "metrics.json").read_text())["results"]
    assert ours["name"] == strategy
    assert stages["report"]["summary"]["plots"] == ["loss.png", "metrics.png"]
    assert ToolscalerTokenizer.from_pretrained(folder / "model").strategy == strategy
    assert run_pipeline(config) == folder  # every stage is done with these settings
    with pytest.raises(ConfigError, match="other settings"):
        run_pipeline(settings(source, tmp_path / "run", "toolscaler"))


def test_the_default_changes_no_fingerprint_and_another_strategy_does() -> None:
    config = RunConfig()
    values, mark = config.to_dict(), ""
    values["rounds"].pop("count")
    for name, (_, sections, _) in stage_table(config).items():
        mark = fingerprint(mark, {key: values[key] for key in sections if key != "tokenization"})
        assert stage_fingerprints(config)[name] == mark
    other = RunConfig.from_dict({"tokenization": {"strategy": "atomic"}})
    scaled = RunConfig.from_dict({"tokenization": {"strategy": "atomic", "options": {"scale": "match"}}})
    marks = [stage_fingerprints(item) for item in (config, other, scaled)]
    assert len({found["base"] for found in marks}) == 1
    assert len({found["vocabulary"] for found in marks}) == 3


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"tokenization": {"strategy": "words"}}, "tokenization.strategy"),
        ({"tokenization": {"options": {"init": "name"}}}, "tokenization.options"),
        ({"tokenization": {"strategy": "atomic", "options": {"inits": 1}}}, "tokenization.options (atomic.inits)"),
        ({"tokenization": {"strategy": "atomic"}, "embedding": {"start_from": "compressor"}}, "embedding.start_from"),
        ({"tokenization": {"strategy": "atomic"}, "rounds": {"count": 2}}, "rounds.count"),
        ({"tokenization": {"strategy": "semantic"}, "data": {"trajectories": "starter"}}, "data.trajectories"),
        ({"tokenization": {"strategy": "semantic"}, "evaluation": {"scores": "group"}}, "evaluation.scores"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_runs(sections, key) -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(RunConfig.from_dict(sections))
    assert caught.value.key == key


@pytest.mark.parametrize("scores", ["full", "group"])
def test_code_tokens_of_one_length_go_with_agents_and_group_scores(scores) -> None:
    for options in ({"strategy": "atomic"}, {"strategy": "numerical", "options": {"tokens": "own"}}):
        sections = {"tokenization": options, "data": {"trajectories": "starter"}, "evaluation": {"scores": scores}}
        check_settings(RunConfig.from_dict(sections))


def test_the_vocabulary_command_knows_the_strategies(source, tmp_path, capsys) -> None:
    from toolscaler.scripts.vocabulary import main

    base, tools = str(source / "base"), str(source / "tools.json")
    given = ["--model", base, "--strategy", "atomic", "--output_dir", str(tmp_path / "out")]
    main([*given, "--tools", tools, "--options", '{"scale": "match"}'])
    assert "6 code tokens for 6 tools" in capsys.readouterr().out
    assert ToolscalerTokenizer.from_pretrained(tmp_path / "out").strategy == "atomic"
    with pytest.raises(ConfigError, match="--tools"):
        main(given)
    with pytest.raises(ConfigError, match="--codebook"):
        main(["--model", base, "--output_dir", str(tmp_path / "other")])
