"""Each of the paper's tables, from its file in examples/toolbench to its numbers, on a miniature in the same layout."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.servers.chat_server import KEY, ChatServer
from agent.servers.http_service import Service
from experiments.miniature import chat_model, cut_down, write_miniature
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.runner import run_experiment
from toolscaler.tokenization.strategies import STRATEGIES

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "toolbench"
TABLES = sorted(path.stem for path in EXAMPLES.glob("table*.yaml"))


@pytest.fixture(scope="module")
def toolbench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature(tmp_path_factory.mktemp("toolbench"))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all tables: a model that two of them need is trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """A chat server and a StableToolBench server, and the variables that lead to them."""
    service = Service()
    with ChatServer(model=chat_model) as chat:
        yield {
            "OPENAI_BASE_URL": chat.url,
            "OPENAI_MODEL": "gpt-mini",
            "OPENAI_OTHER_MODEL": "gpt-other",
            "OPENAI_API_KEY": KEY,
            "TOOLLLAMA_BASE_URL": chat.url,
            "STABLETOOLBENCH_URL": f"{service.url}/virtual",
        }
    service.stop()


def test_every_table_of_the_paper_has_a_file() -> None:
    assert [f"table{number:02d}" for number in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13)] == TABLES


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_made_from_its_file(
    table: str, toolbench: Path, output: Path, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in servers.items():
        monkeypatch.setenv(name, value)
    config = ExperimentConfig.from_file(EXAMPLES / f"{table}.yaml", {"data_root": str(toolbench)})
    outcome = run_experiment(cut_down(config, output), in_process=True)
    errors = {path.parent.name: path.read_text()[-1500:] for path in output.glob("jobs/*/failure.json")}
    assert outcome.ok, errors
    assert outcome.report is not None
    text = (outcome.report / "report.md").read_text()
    rows = list(csv.DictReader((outcome.report / "table.csv").open()))
    assert {row["setting"] for row in rows} == set(config.settings)
    assert len({row["share"] for row in rows}) == len(config.shares)
    labels = {spec.label or name for name, spec in config.systems.items() if spec.report}
    if len(config.bases) > 1:
        labels = {base.label or name for name, base in config.bases.items()}
    for label in labels:
        assert any(label in row["system"] for row in rows), label
        assert label in text
    metrics = config.report.metrics or ["ndcg@1", "ndcg@3", "ndcg@5"]
    if config.task == "tool_calling":
        metrics = ["sopr", "sowr"]
    tests = list(config.datasets["toolbench"].tests)
    assert {row["column"] for row in rows} == {f"{metric} {test}" for metric in metrics for test in tests}
    assert all(0 <= float(row["mean"]) <= 1 for row in rows)
    for block in config.report.blocks:
        heads = " | ".join(f"{metric.upper()} {test}" for metric in metrics for test in block)
        assert f"| | {heads} |" in text
    costs = list(csv.DictReader((outcome.report / "costs.csv").open()))
    trained = [row for row in costs if row["steps"]]
    assert {row["steps"] for row in trained} <= {"2"}  # the budget, for all that is trained
    assert {row["examples"] for row in trained} <= {"8"}
    assert all(int(row["trainable_parameters"]) > 1000 for row in trained)
    # A bi-encoder, alone or before a chat model, counts no tokens.
    written = {spec.label or name for name, spec in config.systems.items() if spec.kind in STRATEGIES}
    written |= labels if len(config.bases) > 1 else set()
    assert all(int(row["tokens"]) > 100 for row in trained if any(label in row["system"] for label in written))
    for figure in config.report.figures:
        assert (outcome.report / f"{figure}.png").stat().st_size > 1000


@pytest.mark.slow
def test_models_were_shared_between_tables(output: Path) -> None:
    """Ten tables ask for Toolscaler with the paper's settings; it was trained once for each way of ending."""
    if len(list(output.glob("reports/*"))) < len(TABLES):
        pytest.skip("not all tables were made in this run")
    trained = list(output.glob("jobs/train-*/record.json"))
    # After the pairs: five strategies, two ablations, ToolRetriever; three go on with trajectories; five at two shares.
    assert len(trained) == 5 + 2 + 1 + 3 + 2 * 5
