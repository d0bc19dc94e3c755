"""Two rounds of a small run: what each leaves, what is told about it, and what is skipped and done again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from toolscaler.cli import main
from toolscaler.codebook import Codebook, hamming_distance
from toolscaler.codebook.translation import CodeTranslation
from toolscaler.compression import load_embeddings
from toolscaler.decoding import GenerativeRetriever
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.errors import ConfigError
from toolscaler.pipeline.config import RunConfig
from toolscaler.pipeline.round_report import rounds_table
from toolscaler.pipeline.runner import STAGES, run_pipeline, stage_fingerprints, stage_table
from toolscaler.tokenization import ToolscalerTokenizer

THINGS = ["kettle", "lamp", "door", "radio", "heater", "camera"]
VERBS = ["open", "close", "measure"]
TOOLS = [f"{verb}_{thing}" for thing in THINGS for verb in VERBS]

pytestmark = pytest.mark.filterwarnings("ignore::toolscaler.codebook.CatalogueSizeWarning")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("source")
    tools = [{"name": name, "description": f"{name.replace('_', ' the ')} at once."} for name in TOOLS]
    queries = [
        {"query": f"{word} {name.replace('_', ' ')}", "tools": [name]}
        for name in TOOLS
        for word in ("please", "now", "do")
    ]
    queries += [{"query": f"both for {t}", "tools": [f"open_{t}", f"close_{t}"]} for t in THINGS]
    (folder / "tools.json").write_text(json.dumps(tools))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    trajectories = []
    for thing in THINGS:
        calls = [{"name": f"{verb}_{thing}", "arguments": "{}"} for verb in ("close", "measure")]
        messages = [{"role": "user", "content": f"close and measure the {thing}"}]
        for number, call in enumerate(calls):
            messages.append(
                {"role": "assistant", "tool_calls": [{"id": str(number), "type": "function", "function": call}]}
            )
            messages.append({"role": "tool", "tool_call_id": str(number), "content": "done"})
        trajectories.append({"messages": [*messages, {"role": "assistant", "content": "Both done."}]})
    (folder / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trajectories))
    scratch = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    quick = {"logging_steps": 5, "disable_tqdm": True}
    return {
        "data": {
            "tools": str(folder / "tools.json"),
            "queries": str(folder / "queries.jsonl"),
            "test_size": 0.2,
            "trajectories": str(folder / "trajectories.jsonl"),
        },
        "base": {"model": "scratch", "scratch": {**scratch, "num_train_epochs": 0}},
        "compression": {"trainer": {"train_base": True, "num_train_epochs": 2, **quick}},
        "codebook": {"num_centroids": 4, "reduced_dim": 8},
        "embedding": {"start_from": "compressor"},
        "retrieval": {
            "trainer": {
                "num_train_epochs": 4,
                "learning_rate": 5e-3,
                "per_device_train_batch_size": 16,
                "gradient_accumulation_steps": 1,
                **quick,
            }
        },
        "evaluation": {"baselines": [], "num_beams": 4, "ks": [1, 3]},
        "trajectory": {
            "protocol": {"system_prompt": "", "finish_documentation": False},
            "trainer": {
                "num_train_epochs": 1,
                "gradient_accumulation_steps": 1,
                "per_device_train_batch_size": 6,
                "max_length": 512,
                **quick,
            },
        },
        "rounds": {"queries": "always", "trainer": {"max_length": 512, "rows_per_document": 2, "logging_steps": 1}},
    }


def config_of(settings: dict, folder: Path, **changes) -> RunConfig:
    config = RunConfig.from_dict({**settings, "output_dir": str(folder)})
    for key, value in changes.items():
        setattr(config.rounds, key, value)
    return config


@pytest.fixture(scope="module")
def whole(settings: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One round, then a second one on top: raising the count is no other run."""
    folder = tmp_path_factory.mktemp("run")
    events: list[tuple[str, str]] = []
    run_pipeline(config_of(settings, folder), on_stage=lambda name, event, _: events.append((name, event)))
    assert {event for _, event in events} == {"start", "done"}
    assert not (folder / "round-1").exists()
    before = (folder / "model" / "model.safetensors").read_bytes()
    events.clear()
    run_pipeline(config_of(settings, folder, count=2), on_stage=lambda name, event, _: events.append((name, event)))
    assert [name for name, event in events if event == "skipped"] == list(STAGES)
    assert (folder / "model" / "model.safetensors").read_bytes() == before
    return folder


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["stages"]


def test_a_round_leaves_a_folder_like_the_first(whole: Path) -> None:
    assert list(manifest(whole)) == list(stage_table(RunConfig.from_dict({"rounds": {"count": 2}})))
    inside = whole / "round-1"
    for name in (
        *("compression/model/model.safetensors", "compression/history.json", "embeddings/embeddings.index.json"),
        *("codebook/codebook.safetensors", "vocabulary/translation.json", "vocabulary/tool_index.json"),
        *("model/model.safetensors", "evaluation/metrics.json", "agent_model/agent_protocol.json"),
        *("report/round.json", "report/loss.png", "report/map.png"),
    ):
        assert (inside / name).stat().st_size > 0, name
    found = GenerativeRetriever.from_pretrained(str(inside / "model")).retrieve(["please open the lamp"], top_k=3)
    assert {tool.name for tool in found[0]} <= {*TOOLS, "Finish"}
    history = json.loads((inside / "compression" / "history.json").read_text())
    assert any(entry.get("trajectory_loss", 0) > 0 for entry in history)


def test_the_round_starts_from_the_tuned_model_with_its_rows_replaced(whole: Path) -> None:
    """By hand: the agent model of round 0, the tokenizer of the base, the new codebook."""
    inside = whole / "round-1"
    ids, gists = load_embeddings(inside / "embeddings")
    codebook = Codebook.from_pretrained(inside / "codebook")
    assert codebook == Codebook.fit(gists, ids, num_levels=2, num_centroids=4, reduced_dim=8, seed=0)
    tokenizer = ToolscalerTokenizer.from_tokenizer(AutoTokenizer.from_pretrained(whole / "base" / "model"), codebook)
    expected = AutoModelForCausalLM.from_pretrained(whole / "agent_model")
    initialize_code_embeddings(expected, tokenizer, gists)
    found = AutoModelForCausalLM.from_pretrained(inside / "vocabulary")
    for name, value in expected.state_dict().items():
        assert value.equal(found.state_dict()[name]), name
    assert dict(ToolscalerTokenizer.from_pretrained(inside / "model").tool_index) == dict(tokenizer.tool_index)


def test_the_report_counts_what_changed(whole: Path) -> None:
    old = ToolscalerTokenizer.from_pretrained(whole / "agent_model").tool_index
    new = ToolscalerTokenizer.from_pretrained(whole / "round-1" / "agent_model").tool_index
    report = json.loads((whole / "round-1" / "report" / "round.json").read_text())
    assert report["tools"] == len(TOOLS) + 1
    assert report["changed"] == sum(old[name] != new[name] for name in old)
    assert 0 <= report["changed_up_to_names"] <= report["changed"]
    train = [json.loads(line) for line in (whole / "data" / "train.jsonl").open()]
    pairs = {frozenset((f"close_{thing}", f"measure_{thing}")) for thing in THINGS}
    pairs |= {frozenset(row["tools"]) for row in train if len(row["tools"]) > 1}
    for index, entry in zip((old, new), json.loads((whole / "rounds.json").read_text()), strict=True):
        distances = {
            frozenset((one, other)): int(hamming_distance(np.array(index[one]), np.array(index[other])))
            for one in index
            for other in index
            if one != other
        }
        others = [value for pair, value in distances.items() if pair not in pairs]
        assert entry["distances"]["co_used"] == pytest.approx(np.mean([distances[pair] for pair in pairs]))
        assert entry["distances"]["random"] == pytest.approx(np.mean(others))
        assert entry["distances"]["random_pairs"] == len(others)
        assert entry["seconds"] > 0
    metrics = json.loads((whole / "round-1" / "evaluation" / "metrics.json").read_text())["results"][0]["metrics"]
    assert report["metrics"]["ndcg@1"] == metrics["ndcg@1"]
    before = json.loads((whole / "evaluation" / "metrics.json").read_text())["results"][0]["metrics"]
    for key, change in report["differences"].items():
        assert change["mean"] == pytest.approx(metrics[key]["mean"] - before[key]["mean"])
        assert change["low"] <= change["mean"] <= change["high"]
    table = (whole / "rounds.md").read_text()
    assert table.count("\n|") == 3
    assert f"{report['changed']} of {report['tools']}" in table


def test_the_translation_is_that_of_the_two_models(whole: Path) -> None:
    translation = CodeTranslation.load(whole / "round-1" / "vocabulary" / "translation.json")
    old = ToolscalerTokenizer.from_pretrained(whole / "model")
    new = ToolscalerTokenizer.from_pretrained(whole / "round-1" / "model")
    for name in old.tool_names:
        assert translation.translate_text(old.tool_code_text(name)) == new.tool_code_text(name)


def test_finished_rounds_are_skipped_redone_and_forgotten(settings: dict, whole: Path) -> None:
    events: list[tuple[str, str]] = []

    def run(**keys) -> list[str]:
        events.clear()
        count = keys.pop("count", 2)
        config = config_of(settings, whole, count=count)
        run_pipeline(config, **keys, on_stage=lambda name, event, _: events.append((name, event)))
        return [name for name, event in events if event == "start"]

    weights = load_file(whole / "round-1" / "model" / "model.safetensors")
    assert run() == []
    assert run(redo="round-1/retrieval") == [f"round-1/{n}" for n in STAGES if n in list(STAGES)[6:]]
    again = load_file(whole / "round-1" / "model" / "model.safetensors")
    assert all(value.equal(again[name]) for name, value in weights.items())
    other = config_of(settings, whole, count=2, start_from="tuned")
    with pytest.raises(ConfigError, match="round-1/compress"):
        run_pipeline(other)
    with pytest.raises(ConfigError, match="redo: got 'round-2/compress'"):
        run(redo="round-2/compress")
    assert run(count=1) == []  # fewer rounds are no other run either
    assert (whole / "round-1" / "model").is_dir()
    assert run(count=1, redo="report") == ["report"]
    assert not (whole / "round-1").exists()
    assert list(manifest(whole)) == list(STAGES)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"rounds": {"count": 0}}, "rounds.count"),
        ({"rounds": {"count": "two"}}, "rounds.count"),
        ({"rounds": {"start_from": "model"}}, "rounds.start_from"),
        ({"rounds": {"trainer": {"trajectory_wight": 1}}}, "did you mean 'trajectory_weight'"),
        ({"rounds": {"trainer": {"code_targets": "next"}}}, "code_targets"),
        ({"rounds": {"trainer": {"output_dir": "x"}}}, "rounds.trainer.output_dir"),
        ({"rounds": {"count": 2}, "embedding": {"init": "random"}}, "embedding.init"),
        ({"rounds": {"count": 2}, "retrieval": {"trainer": {"bidirectional_prompts": True}}}, "rounds.count"),
    ],
)
def test_bad_settings_stop_before_anything_runs(tmp_path: Path, data: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_pipeline(RunConfig.from_dict({**data, "output_dir": str(tmp_path / "run")}))
    assert not (tmp_path / "run").exists()


def test_the_number_of_rounds_changes_no_fingerprint() -> None:
    one, three = (stage_fingerprints(RunConfig.from_dict({"rounds": {"count": count}})) for count in (1, 3))
    assert one.items() <= three.items()
    assert len(set(three.values())) == len(three) == len(STAGES) + 2 * 9
    other = stage_fingerprints(RunConfig.from_dict({"rounds": {"count": 3, "start_from": "tuned"}}))
    assert {name for name in three if other[name] != three[name]} == {name for name in three if "/" in name}


@pytest.mark.parametrize("start", ["tuned", "compressor"])
def test_the_compressor_may_start_elsewhere(settings: dict, whole: Path, tmp_path: Path, start: str) -> None:
    """In a copy of round 0, as far as the new vocabulary."""
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("round-*", "rounds.*", "checkpoints"))
    config = config_of(settings, folder, count=2, start_from=start)
    run_pipeline(config, until="round-1/vocabulary")
    assert (folder / "round-1" / "vocabulary" / "translation.json").is_file()


def test_the_command_takes_the_number_of_rounds(settings: dict, tmp_path: Path, capsys) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    flags = ["run", "--config", str(tmp_path / "run.yaml"), "--output_dir", str(tmp_path / "run"), "--rounds", "2"]
    assert main([*flags, "--until", "round-9/encode"]) == 2
    assert "round-1/encode" in capsys.readouterr().err
    assert main([*flags, "--until", "data"]) == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["rounds"]["count"] == 2


def test_a_table_says_where_there_are_no_pairs() -> None:
    value = {"mean": 0.5, "low": 0.4, "high": 0.6}
    distances = {"co_used": None, "random": 3.0, "co_used_pairs": 0, "random_pairs": 6}
    entry = {"round": 0, "metrics": {"ndcg@1": value}, "distances": distances, "seconds": 90.0, "queries": 7}
    table = rounds_table([entry])
    assert "| 0 | 50.0 [40.0, 60.0] |  |  |  | – | 3.000 | 1.5 |" in table
    assert "n = 7" in table
