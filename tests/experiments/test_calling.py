"""Agents on test queries, and a judge on their answers: through real servers, with nothing asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.servers.chat_server import KEY, ChatServer, status
from experiments.miniature import chat_model
from toolscaler.errors import ConfigError
from toolscaler.evaluation.tool_calling.judge import PROMPTS
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.jobs import plan_jobs
from toolscaler.experiments.runner import run_experiment
from toolscaler.experiments.worker import output_of

Grid = Callable[..., dict[str, Any]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ChatServer(model=chat_model) as running:
        yield running


@pytest.fixture
def calling(grid: Grid, server: ChatServer) -> Callable[..., ExperimentConfig]:
    def make(**changes: Any) -> ExperimentConfig:
        plain = grid(
            task="tool_calling",
            settings=["given", "retrieval"],
            chat={"base_url": server.url, "model": "mini"},
            calling={"executor": "recording", "reference": "reader"},
            systems={
                "bm25": {"kind": "bm25", "report": False},
                "reader": {"kind": "chat", "label": "Chat", "parts": {"retriever": "bm25"}},
                "writer": {"kind": "chat", "options": {"style": "react"}, "parts": {"retriever": "bm25"}},
            },
        )
        plain["datasets"]["home"]["split"]["max_test_queries"] = 3
        return ExperimentConfig.from_dict({**plain, **changes})

    return make


def test_agents_answer_and_a_judge_reads(calling: Callable[..., ExperimentConfig], server: ChatServer) -> None:
    config = calling()
    outcome = run_experiment(config, in_process=True)
    assert outcome.ok, list(Path(config.output_dir).glob("jobs/*/failure.json"))
    root = Path(config.output_dir)
    for row in outcome.plan.rows:
        lines = [
            json.loads(line) for line in (root / output_of("judge", row.job.fingerprint) / "per_query.jsonl").open()
        ]
        assert len(lines) == 6
        assert all(line["metrics"]["sopr"] == 1.0 for line in lines)  # this judge takes "It is done" for done
        itself = row.system == "reader" and row.setting == "given"
        assert all(("sowr" in line["metrics"]) != itself for line in lines)
        # A judge that always says "first" has no taste once both orders count.
        assert all(line["metrics"].get("sowr", 0.5) == 0.5 for line in lines)
        answers = [
            json.loads(line) for line in (root / output_of("answer", row.job.needs["answer"]) / "answers.jsonl").open()
        ]
        assert [line["query"] for line in answers] == [line["query"] for line in lines]
        if row.system == "reader" and row.setting == "given":
            called = [{step["tool"] for step in line["answer"]["steps"]} for line in answers]
            assert all(tools <= set(line["relevant"]) for tools, line in zip(called, answers, strict=True))
    text = (outcome.report / "report.md").read_text() if outcome.report else ""
    assert "## Given tools" in text
    assert "## Retrieved tools" in text
    assert "| | SOPR seen | SOPR unseen | SOWR seen | SOWR unseen |" in text
    assert "Judge: mini" in text
    asked = len(server.requests)
    for path in root.glob("jobs/judge-*/record.json"):
        path.unlink()
    assert run_experiment(config, in_process=True).ok
    assert len(server.requests) == asked  # verdicts are kept


def test_a_judge_that_fails_on_one_query_is_asked_for_that_one_again(
    calling: Callable[..., ExperimentConfig], server: ChatServer
) -> None:
    broken = True

    def moody(request: dict[str, Any]) -> dict[str, Any]:
        if broken and request["messages"][0]["content"] == PROMPTS["solved"] and "unseen" not in str(request):
            return {"content": "I would rather not say."}
        return chat_model(request)

    server.model = moody
    config = calling(settings=["given"], calling={"executor": "recording"})
    first = run_experiment(config, in_process=True)
    assert first.count("failed") == 2
    failures = [json.loads(path.read_text())["error"] for path in Path(config.output_dir).glob("jobs/*/failure.json")]
    assert all("no verdict on" in error for error in failures)
    broken = False
    assert run_experiment(config, in_process=True).ok


def test_an_agent_whose_model_is_gone_has_failed_answers(
    calling: Callable[..., ExperimentConfig], server: ChatServer
) -> None:
    gone = status(400, {"error": {"message": "no such model"}})
    server.answers = [gone] * 6
    config = calling(settings=["given"], calling={"executor": "recording"}, evaluation={"resamples": 100})
    outcome = run_experiment(config, in_process=True, only=["system=writer"])
    assert outcome.ok
    row = next(row for row in outcome.plan.rows)
    result = json.loads((Path(config.output_dir) / output_of("judge", row.job.fingerprint) / "result.json").read_text())
    assert {entry["metrics"]["sopr"]["mean"] for entry in result["tests"].values()} == {0.0}


def test_what_cannot_call_tools_is_refused(calling: Callable[..., ExperimentConfig], grid: Grid) -> None:
    with pytest.raises(ConfigError, match="calls tools"):
        plan_jobs(calling(systems={"reader": {"kind": "bm25"}}))
    with pytest.raises(ConfigError, match="calls tools"):
        plan_jobs(calling(systems={"reader": {"kind": "semantic"}}))
    with pytest.raises(ConfigError, match="settings"):
        calling(settings=["in_domain"])
    with pytest.raises(ConfigError, match=r"calling\.server"):
        calling(calling={"executor": "stabletoolbench"})
    with pytest.raises(ConfigError, match=r"chat\.base_url"):
        calling(chat={})
    with pytest.raises(ConfigError, match="settings"):
        ExperimentConfig.from_dict(grid(settings=["given"]))
