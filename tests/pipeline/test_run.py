"""The whole line on a small catalogue of the user's own, through the real command, killed at several points."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from toolscaler.agent.agent import ToolAgent
from toolscaler.agent.executors import PythonExecutor
from toolscaler.data import FINISH_TOOL, load_tool_documents
from toolscaler.decoding import GenerativeRetriever
from toolscaler.pipeline.runner import STAGES

THINGS = ["kettle", "lamp", "door", "radio", "heater", "camera"]
VERBS = {"open": "opens it wide", "close": "shuts it again", "measure": "reads its state in numbers"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tools as function schemas, queries as JSON lines, and the run file that names them."""
    folder = tmp_path_factory.mktemp("source")
    tools, queries = [], []
    for thing in THINGS:
        for verb, text in VERBS.items():
            properties = {"room": {"type": "string", "description": f"where the {thing} stands"}}
            tools.append(
                {
                    "name": f"{verb}_{thing}",
                    "description": f"Takes the {thing} and {text}.",
                    "parameters": {"type": "object", "properties": properties, "required": ["room"]},
                }
            )
            for line in (f"please {verb} the {thing}", f"{verb} {thing} in the hall", f"can you {verb} my {thing} now"):
                queries.append({"query": line, "tools": [f"{verb}_{thing}"]})
    (folder / "tools.json").write_text(json.dumps(tools))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    trajectories = []
    for thing in THINGS:
        for verb in VERBS:
            for room in ("hall", "attic"):
                call = {"name": f"{verb}_{thing}", "arguments": json.dumps({"room": room})}
                messages = [
                    {"role": "user", "content": f"please {verb} the {thing} in the {room}"},
                    {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]},
                    {"role": "tool", "tool_call_id": "1", "content": "done"},
                    {"role": "assistant", "content": f"The {thing} is done."},
                ]
                trajectories.append({"messages": messages})
    (folder / "trajectories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in trajectories))
    scratch = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    run = {
        "data": {
            "tools": str(folder / "tools.json"),
            "queries": str(folder / "queries.jsonl"),
            "test_size": 0.2,
            "validation_size": 0.1,
            "trajectories": str(folder / "trajectories.jsonl"),
        },
        "base": {"model": "scratch", "scratch": {**scratch, "num_train_epochs": 1}},
        "compression": {"trainer": {"train_base": True, "num_train_epochs": 3}},
        "embedding": {"start_from": "compressor"},
        "retrieval": {
            "trainer": {
                "num_train_epochs": 60,
                "learning_rate": 5e-3,
                "per_device_train_batch_size": 8,
                "gradient_accumulation_steps": 1,
                "save_strategy": "steps",
                "save_steps": 30,
                "prompt_token_dropout": 0.1,
            }
        },
        "evaluation": {"baselines": ["bm25"], "num_beams": 6},
        "trajectory": {
            "protocol": {"system_prompt": "Use tools.", "finish_documentation": False},
            "trainer": {
                "num_train_epochs": 40,
                "learning_rate": 3e-3,
                "per_device_train_batch_size": 6,
                "gradient_accumulation_steps": 1,
                "max_length": 512,
                "save_strategy": "steps",
                "save_steps": 60,
            },
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return folder


def command(source: Path, output: Path, *extra: str) -> list[str]:
    flags = ["--config", str(source / "run.yaml"), "--output_dir", str(output), *extra]
    return [sys.executable, "-m", "toolscaler.cli", "run", *flags]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(source: Path, output: Path, *extra: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(source, output, *extra), capture_output=True, text=True, env=ENVIRONMENT, timeout=250)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An unbroken run, and what it printed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    done = run(source, output)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout


def weights(folder: Path) -> dict[str, bytes]:
    return {
        f"{model}/{name}": value.tobytes()
        for model in ("model", "agent_model")
        for name, value in load_file(folder / model / "model.safetensors").items()
    }


@pytest.mark.slow
def test_a_run_leaves_what_the_architecture_says(whole: tuple[Path, str]) -> None:
    folder, printed = whole
    manifest = json.loads((folder / "manifest.json").read_text())
    assert list(manifest["stages"]) == list(STAGES)
    assert manifest["stages"]["data"]["summary"]["tools"] == len(THINGS) * len(VERBS) + 1  # and Finish
    assert manifest["stages"]["trajectory"]["summary"]["rows"] == 2 * len(THINGS) * len(VERBS)
    assert "left_out" in manifest["stages"]["agent"]["summary"]  # these tools cannot be run
    for name in (
        *("data/tools.jsonl", "data/test.jsonl", "base/model/model.safetensors", "compression/model/config.json"),
        *("codebook/codebook.safetensors", "codebook/statistics.json", "codebook/usage.png"),
        *("vocabulary/tool_index.json", "model/tool_index.json", "model/tools.jsonl", "evaluation/metrics.json"),
        *("evaluation/table.md", "plots/loss.png", "plots/map.png", "config.yaml"),
        *("data/trajectories.jsonl", "trajectory/history.json", "trajectory/rows.json"),
        *("agent_model/model.safetensors", "agent_model/tool_index.json", "agent_model/agent_protocol.json"),
    ):
        assert (folder / name).stat().st_size > 0, name
    assert "| toolscaler |" in printed
    assert "tools became codes:" in printed


@pytest.mark.slow
def test_held_out_queries_find_their_tools(whole: tuple[Path, str]) -> None:
    """The words of this catalogue decide the tool, so even this model must beat chance (1/18) by far."""
    folder, _ = whole
    queries = [json.loads(line) for line in (folder / "data" / "test.jsonl").open()]
    train = {json.loads(line)["query"] for line in (folder / "data" / "train.jsonl").open()}
    assert not train & {row["query"] for row in queries}
    retriever = GenerativeRetriever.from_pretrained(str(folder / "model"))
    found = retriever.retrieve([row["query"] for row in queries], top_k=3)
    hits = sum(tools[0].name in row["tools"] for tools, row in zip(found, queries, strict=True))
    assert hits / len(queries) > 0.3
    reported = json.loads((folder / "manifest.json").read_text())["stages"]["evaluate"]["summary"]["ndcg@1"]
    assert reported == pytest.approx(hits / len(queries), abs=1e-3)


@pytest.mark.slow
def test_the_trained_agent_calls_the_tool_that_is_meant(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    documents = load_tool_documents(str(folder / "agent_model" / "tools.jsonl"))
    real = [document for document in documents if document.id != FINISH_TOOL]
    called: list[str] = []
    functions = {document.id: partial(_called, called, document.id) for document in real}
    with PythonExecutor(functions, documents=real) as executor:
        agent = ToolAgent.from_pretrained(folder / "agent_model", executor)
        runs = [agent.run(f"please {verb} the {thing} in the hall") for thing in THINGS for verb in VERBS]
    right = sum(f"{verb}_{thing}" in run.trajectory.tools for run, (thing, verb) in zip(runs, _pairs(), strict=True))
    assert right / len(runs) > 0.5  # chance: 1/19
    assert called == [tool for run in runs for tool in run.trajectory.tools]  # what it says it called was called
    assert sum(run.finished for run in runs) / len(runs) > 0.5


def _called(called: list[str], tool: str, **arguments: str) -> str:
    called.append(tool)
    return "done"


def _pairs() -> list[tuple[str, str]]:
    return [(thing, verb) for thing in THINGS for verb in VERBS]


@pytest.mark.slow
def test_a_finished_run_does_nothing_again_and_refuses_other_settings(source: Path, whole: tuple[Path, str]) -> None:
    folder, _ = whole
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    again = run(source, folder)
    assert again.returncode == 0
    assert again.stdout.count("done before") == len(STAGES)
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before
    other = run(source, folder, "--set", "codebook.seed=5")
    assert other.returncode == 2
    assert "--redo codebook" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1


def exists(pattern: str) -> Callable[[Path], bool]:
    return lambda folder: any(folder.glob(pattern))


# Points in the line at which the process is killed, each the first moment that its sign is on disk.
KILL_POINTS = {
    "base is made": exists("base/model"),
    "a compression checkpoint is being written": exists("compression/checkpoints/checkpoint-*"),
    "embeddings are there": exists("embeddings/*.json"),
    "the vocabulary is being written": exists(".vocabulary.*.tmp"),
    "a retrieval checkpoint is being written": exists("retrieval/checkpoints/checkpoint-*"),
    "retrieval has gone on": exists("retrieval/checkpoints/checkpoint-90"),
    "the trained model is being written": exists(".model.*.tmp"),
}


def kill_when(source: Path, output: Path, sign: Callable[[Path], bool]) -> bool:
    """Start the run and kill it with SIGKILL when the sign appears; say whether it was still running then."""
    process = subprocess.Popen(
        command(source, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if sign(output):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    process.kill()
    process.wait()
    return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_runs_go_on_and_end_as_an_unbroken_one(source: Path, whole: tuple[Path, str], tmp_path: Path) -> None:
    output = tmp_path / "run"
    killed = [name for name, sign in KILL_POINTS.items() if kill_when(source, output, sign)]
    assert len(killed) >= len(KILL_POINTS) - 1, f"the premise: killed at {killed}"
    done = run(source, output)
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights(output) == weights(whole[0])
    metrics = [json.loads((folder / "evaluation" / "metrics.json").read_text()) for folder in (output, whole[0])]
    assert metrics[0] == metrics[1]
    assert not list(output.glob(".*.tmp"))
