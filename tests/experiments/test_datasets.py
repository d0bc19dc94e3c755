"""Splits of an experiment: nothing of a test set reaches training, parts are nested, and all of it is reproducible."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.splits import text_key
from toolscaler.errors import ConfigError, DataError
from toolscaler.experiments.config import ExperimentConfig
from toolscaler.experiments.datasets import DatasetFolder, _catalogue_part, make_dataset, source_digest
from toolscaler.experiments.specs import DatasetSpec, SplitSpec


def home(**split: object) -> DatasetSpec:
    return DatasetSpec(tools="tools.json", queries={"all": "queries.jsonl"}, split=SplitSpec(**split))  # type: ignore[arg-type]


def test_unseen_tools_have_no_training_query_and_seen_ones_do(source: Path, tmp_path: Path) -> None:
    summary = make_dataset(home(by="both", test_size=0.2, unseen_tools=0.2), source, 1.0, tmp_path / "data")
    data = DatasetFolder(tmp_path / "data")
    train, validation = data.queries("train"), data.queries("validation")
    trained = {tool for query in [*train, *validation] for tool in query.tools}
    unseen = set(summary["unseen_tools"])
    assert len(unseen) == round(0.2 * 24)
    assert not unseen & trained
    assert all(unseen & set(query.tools) for query in data.test_set("unseen"))
    trains = {tool for query in train for tool in query.tools}
    assert data.test_set("seen")
    assert all(trains.issuperset(query.tools) for query in data.test_set("seen"))
    texts = [
        {text_key(query.text) for query in rows} for rows in (train, validation, *map(data.test_set, data.test_names))
    ]
    assert sum(map(len, texts)) == len(set().union(*texts)) == 104
    assert len(data.documents) == 24  # unseen tools are in the catalogue


def test_the_stages_never_see_a_test_query(source: Path, tmp_path: Path) -> None:
    make_dataset(home(by="query", test_size=0.3, validation_size=0.1), source, 1.0, tmp_path / "data")
    data = DatasetFolder(tmp_path / "data")
    rows = [json.loads(line) for line in (tmp_path / "data" / "stages.jsonl").open()]
    asked = {text_key(query.text) for query in data.test_set("test")}
    assert asked
    assert not asked & {text_key(row["query"]) for row in rows}
    assert {row["split"] for row in rows} == {"train", "validation", "test"}


def test_the_same_specification_gives_the_same_split_and_another_seed_another(source: Path, tmp_path: Path) -> None:
    one, two, other = (
        make_dataset(home(by="both", seed=seed), source, 1.0, tmp_path / name)
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    assert one == two
    assert one["tests"]["seen"]["sha256"] != other["tests"]["seen"]["sha256"]
    assert one["train_sha256"] != other["train_sha256"]


def test_a_part_of_the_catalogue_keeps_providers_together(source: Path, tmp_path: Path) -> None:
    spec = dataclasses.replace(home(by="query", test_size=0.25), share_by="provider")
    make_dataset(spec, source, 0.5, tmp_path / "data")
    data = DatasetFolder(tmp_path / "data")
    assert len(data.documents) == 12
    providers = {document.provider for document in data.documents}
    assert len(providers) == 4
    names = {document.id for document in data.documents}
    assert all(names.issuperset(query.tools) for query in data.queries("train") + data.test_set("test"))


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 40), shares=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=2), seed=st.integers(0, 5))
def test_parts_are_nested_and_of_the_asked_size(count: int, shares: list[float], seed: int) -> None:
    documents = [ToolDocument(f"t{number}") for number in range(count)]
    queries = [ToolQuery(f"q{number}", (f"t{number}", f"t{(number + 1) % count}")) for number in range(count)]
    spec = DatasetSpec(split=SplitSpec(seed=seed))
    small, large = ({d.id for d in _catalogue_part(documents, queries, share, spec)[0]} for share in sorted(shares))
    assert small <= large
    assert len(small) == max(1, round(min(shares) * count))
    kept, rest = _catalogue_part(documents, queries, min(shares), spec)
    ids = {document.id for document in kept}
    assert [query for query in queries if ids.issuperset(query.tools)] == rest


def given_source(folder: Path) -> DatasetSpec:
    tools = [{"name": f"t{number}", "description": "d"} for number in range(6)]
    (folder / "tools.json").write_text(json.dumps(tools))
    rows = {
        "g1": [("a one", "t0"), ("a two", "t1"), ("held out", "t2"), ("HELD  out", "t2")],
        "g2": [("b one", "t3")],
        "g1_test": [("held out", "t2")],
        "g2_test": [("b test", "t4"), ("b other", "missing")],
    }
    for name, lines in rows.items():
        text = "".join(json.dumps({"query": query, "tools": [tool]}) + "\n" for query, tool in lines)
        (folder / f"{name}.jsonl").write_text(text)
    return DatasetSpec(
        tools="tools.json",
        queries={name: f"{name}.jsonl" for name in rows},
        unknown_labels="drop",
        split=SplitSpec(by="given", validation_size=0.0),
        train=["g1", "g2"],
        tests={"I1": "g1_test", "I2": ["g2_test"]},
        domains={"I1": ["g1*"]},
    )


def test_given_splits_have_domains_and_no_training_on_test_queries(tmp_path: Path) -> None:
    summary = make_dataset(given_source(tmp_path), tmp_path, 1.0, tmp_path / "data")
    data = DatasetFolder(tmp_path / "data")
    assert [query.text for query in data.queries("train")] == ["a one", "a two", "b one"]
    assert data.domain("I1") == ["t0", "t1", "t2"]
    assert data.domain("I2") == ["t0", "t1", "t2", "t3", "t4"]  # all labels where no domain is named
    assert summary["notes"]["unknown_labels_dropped"] == 1
    assert summary["tests"]["I2"]["n"] == 1
    assert summary["tests"]["I2"]["unseen_labels"] == 1


def test_descriptions_are_training_queries_where_there_are_none(tmp_path: Path) -> None:
    spec = dataclasses.replace(given_source(tmp_path), train=["documents"])
    tools = [{"name": f"t{number}", "description": " word" * 50 * (number != 5)} for number in range(6)]
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    summary = make_dataset(spec, tmp_path, 1.0, tmp_path / "data")
    rows = DatasetFolder(tmp_path / "data").queries("train")
    assert [(row.text, row.tools) for row in rows] == [(" ".join(["word"] * 40), (f"t{place}",)) for place in range(5)]
    assert summary["notes"]["tools without a description to train on"] == 1
    plain = make_dataset(given_source(tmp_path), tmp_path, 1.0, tmp_path / "plain")
    assert "tools without a description to train on" not in plain["notes"]
    assert plain["queries"] == summary["queries"] - 5


def test_wrong_labels_and_splits_are_refused(tmp_path: Path) -> None:
    spec = given_source(tmp_path)
    with pytest.raises(DataError, match="'missing'"):
        make_dataset(dataclasses.replace(spec, unknown_labels="raise"), tmp_path, 1.0, tmp_path / "data")
    with pytest.raises(ConfigError, match="g1, g1_test, g2"):
        make_dataset(dataclasses.replace(spec, train=["g3"]), tmp_path, 1.0, tmp_path / "data")
    with pytest.raises(DataError, match="nothing is left"):
        make_dataset(spec, tmp_path, 0.01, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_digest_is_of_content_and_not_of_place(source: Path, tmp_path: Path) -> None:
    for name in ("tools.json", "queries.jsonl"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    before = source_digest(home(), tmp_path)
    assert before == source_digest(home(), source)
    for name, text in (("second", "one"), ("third", "one"), ("fourth", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    bundles = [
        DatasetSpec(tools="bundle:toolbench", folder="second", options={"mgtoolbench": place})
        for place in ("../second", "../third", "../fourth")
    ]
    same, equal, different = (source_digest(bundle, tmp_path) for bundle in bundles)
    assert same == equal != different  # files of the other folder count
    other = tmp_path / "other"
    other.mkdir()
    (other / "tools.json").write_bytes((source / "tools.json").read_bytes() + b" ")
    (other / "queries.jsonl").write_bytes((source / "queries.jsonl").read_bytes())
    assert source_digest(home(), other) != before
    with pytest.raises(DataError, match="found none"):
        source_digest(home(), tmp_path / "nowhere")


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "tools", "queries"), [("toole", 199, 18480), ("ultratool", 436, 800)])
def test_the_example_grids_split_the_real_sets(
    shared_data: Path, tmp_path: Path, name: str, tools: int, queries: int
) -> None:
    file = Path(__file__).resolve().parents[2] / "examples" / "experiments" / f"{name}.yaml"
    config = ExperimentConfig.from_file(file, {"data_root": str(shared_data)})
    assert list(config.datasets) == [name]
    summary = make_dataset(config.datasets[name], shared_data, 1.0, tmp_path / "data")
    assert (summary["tools"], summary["queries"]) == (tools, queries)
    assert summary["tests"]["seen"]["n"] >= 90
    assert summary["tests"]["seen"]["unseen_labels"] == 0
    assert summary["tests"]["unseen"]["unseen_labels"] >= summary["tests"]["unseen"]["n"]
    data = DatasetFolder(tmp_path / "data")
    asked = {text_key(query.text) for part in data.test_names for query in data.test_set(part)}
    assert not asked & {text_key(query.text) for query in data.queries("train") + data.queries("validation")}


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).resolve().parents[2] / "examples" / "experiments").glob("*.yaml"))
)
def test_every_example_grid_is_sound(tmp_path: Path, file: Path) -> None:
    """What `make tables` runs: no unknown key, every part of a system there, a folder of its own."""
    config = ExperimentConfig.from_file(file, {"data_root": str(tmp_path)})
    assert config.datasets
    for name, system in config.systems.items():
        missing = set(system.parts.values()) - set(config.systems)
        assert not missing, f"{name} is made of {missing}"
    others = [other for other in file.parent.glob("*.yaml") if other != file]
    folders = {str(ExperimentConfig.from_file(other, {"data_root": str(tmp_path)}).output_dir) for other in others}
    assert str(config.output_dir) not in folders
