"""The experiment file is refused before anything runs, with the key, the value and what was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolscaler.errors import ArtifactError, ConfigError
from toolscaler.experiments.config import ExperimentConfig, merged
from toolscaler.experiments.jobs import plan_jobs

Grid = Callable[..., dict[str, Any]]


def test_defaults_are_filled_in(grid: Grid) -> None:
    config = ExperimentConfig.from_dict(grid())
    assert list(config.systems) == ["bm25", "flat"]
    assert config.seeds == [0]
    assert config.evaluation.ks == [1, 3, 5]
    assert list(config.bases) == ["scratch"]
    again = ExperimentConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()


WRONG = {
    "unknown key": ({"sedes": [1]}, "did you mean 'seeds'"),
    "unknown key of a section": ({"evaluation": {"beam": 3}}, "did you mean 'beams'"),
    "unknown key of a data set": ({"datasets": {"a": {"tool": "starter"}}}, "did you mean 'tools'"),
    "no systems": ({"systems": {}}, "systems"),
    "a share above one": ({"shares": [2.0]}, "shares"),
    "a seed twice": ({"seeds": [1, 1]}, "seeds"),
    "a setting that is none": ({"settings": ["everywhere"]}, "settings"),
    "cut-off zero": ({"evaluation": {"ks": [0]}}, "evaluation.ks"),
    "a bundle without its folder": ({"datasets": {"a": {"tools": "bundle:toole"}}}, "datasets.a.folder"),
    "tools without queries": ({"datasets": {"a": {"tools": "tools.json"}}}, "datasets.a.queries"),
    "given without test sets": (
        {"datasets": {"a": {"tools": "starter", "split": {"by": "given"}}}},
        "datasets.a.tests",
    ),
    "a base that is none": ({"systems": {"a": {"kind": "bm25", "bases": ["big"]}}}, "systems.a.bases"),
    "a part that is none": ({"systems": {"a": {"kind": "fusion", "parts": {"x": "b"}}}}, "systems.a.parts"),
    "parts in a circle": ({"systems": {"a": {"kind": "fusion", "parts": {"x": "a", "y": "a"}}}}, "a -> a"),
    "a baseline that is none": ({"report": {"baseline": "bm52"}}, "report.baseline"),
    "a system's name with a slash": ({"systems": {"a/b": {"kind": "bm25"}}}, "names of letters"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_slip_is_refused_by_name(grid: Grid, case: str) -> None:
    changes, told = WRONG[case]
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
        ExperimentConfig.from_dict(grid(**changes))


UNPLANNABLE = {
    "unknown kind": ({"kind": "bm52"}, "did you mean 'bm25'"),
    "unknown option": ({"kind": "bm25", "options": {"k": 1.0}}, "systems.a.options.k"),
    "run of what is not trained": ({"kind": "bm25", "run": {"codebook": {}}}, "systems.a.run"),
    "fusion of one": ({"kind": "fusion", "parts": {}}, "at least two parts"),
    "hybrid without a draft": ({"kind": "hybrid", "parts": {}}, "draft, model"),
    "a section that the grid sets": ({"kind": "toolscaler", "run": {"data": {"seed": 1}}}, "run.data"),
    "a section's slip": ({"kind": "toolscaler", "run": {"codebook": {"num_level": 1}}}, "num_levels"),
}


@pytest.mark.parametrize("case", UNPLANNABLE)
def test_a_system_is_refused_before_anything_runs(grid: Grid, case: str) -> None:
    system, told = UNPLANNABLE[case]
    config = ExperimentConfig.from_dict(grid(systems={"a": system}))
    with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
        plan_jobs(config)


def test_files_extend_others_and_take_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "common.yaml").write_text(
        "data_root: ${THE_DATA}/sets\ndatasets: {s: {tools: starter}}\nevaluation: {beams: 4, ks: [1]}\n"
    )
    (tmp_path / "table.yaml").write_text(
        "extends: common.yaml\nsystems: {bm25: {kind: bm25}}\nevaluation: {ks: [1, 5]}\n"
    )
    monkeypatch.delenv("THE_DATA", raising=False)
    with pytest.raises(ConfigError, match="THE_DATA"):
        ExperimentConfig.from_file(tmp_path / "table.yaml")
    given = ExperimentConfig.from_file(tmp_path / "table.yaml", {"data_root": "here", "evaluation.seed": 3})
    assert given.data_root == "here"
    assert given.evaluation.seed == 3
    monkeypatch.setenv("THE_DATA", "there")
    config = ExperimentConfig.from_file(tmp_path / "table.yaml")
    assert (config.name, config.data_root) == ("table", "there/sets")
    assert (config.evaluation.beams, config.evaluation.ks) == (4, [1, 5])


def test_a_file_is_a_mapping_that_does_not_extend_itself(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found nothing"):
        ExperimentConfig.from_file(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ArtifactError, match="mapping"):
        ExperimentConfig.from_file(tmp_path / "list.yaml")
    (tmp_path / "self.yaml").write_text("extends: self.yaml")
    with pytest.raises(ConfigError, match="circle"):
        ExperimentConfig.from_file(tmp_path / "self.yaml")


def test_later_layers_win_inside_mappings_too() -> None:
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"d": [4]}) == {"a": {"b": 1, "c": 3}, "d": [4]}
    first = {"a": {"b": 1}}
    merged(first, {"a": {"b": 2}})
    assert first == {"a": {"b": 1}}
