"""A run file is checked key by key, and its errors name the key, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from toolscaler.cli import main
from toolscaler.errors import ArtifactError, ConfigError
from toolscaler.pipeline.config import RunConfig, recipe_names
from toolscaler.pipeline.manifest import Manifest
from toolscaler.pipeline.runner import STAGES, stage_fingerprints


def test_defaults_are_the_papers() -> None:
    config = RunConfig()
    assert config.compression.num_gist_tokens == 2
    assert (config.codebook.num_levels, config.codebook.num_centroids, config.codebook.reduced_dim) == (2, 512, 32)
    assert (config.embedding.init, config.embedding.start_from) == ("reframe", "base")
    assert config.retrieval.document_rows is False


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name: str) -> None:
    assert isinstance(RunConfig.from_file(name), RunConfig)


def test_round_trip(tmp_path: Path) -> None:
    config = RunConfig.from_dict({"seed": 4, "codebook": {"num_centroids": 64}, "evaluation": {"ks": [1, 2]}})
    config.write(tmp_path / "run.yaml")
    assert RunConfig.from_file(tmp_path / "run.yaml") == config
    changed = RunConfig.from_file(tmp_path / "run.yaml", {"codebook.num_centroids": 32, "data.folder": "x"})
    assert changed.codebook.num_centroids == 32
    assert changed.data.folder == "x"
    assert changed.evaluation.ks == [1, 2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"codebok": {}}, ["codebok", "codebook"]),
        ({"codebook": {"num_centroid": 3}}, ["codebook.num_centroid", "3", "num_centroids"]),
        ({"codebook": {"num_centroids": "many"}}, ["codebook.num_centroids", "'many'", "whole number"]),
        ({"codebook": {"num_centroids": True}}, ["codebook.num_centroids", "True", "whole number"]),
        ({"codebook": {"collisions": "ignore"}}, ["codebook.collisions", "'ignore'", "'reassign'"]),
        ({"codebook": [1]}, ["codebook", "[1]", "mapping"]),
        ({"data": {"test_size": "a lot"}}, ["data.test_size", "'a lot'", "number"]),
        ({"evaluation": {"ks": [1, "x"]}}, ["evaluation.ks[1]", "'x'", "whole number"]),
        ({"retrieval": {"document_rows": "yes"}}, ["retrieval.document_rows", "'yes'", "true or false"]),
    ],
)
def test_a_bad_key_is_named_with_value_and_remedy(data: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_dict(data)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    data = yaml.safe_load("data: {test_size: 1e-1}")
    assert isinstance(data["data"]["test_size"], str), "the premise: YAML 1.1 takes this for text"
    assert RunConfig.from_dict(data).data.test_size == 0.1


@pytest.mark.parametrize(("content", "word"), [("- 1\n", "mapping"), ("a: [", "YAML")])
def test_a_file_that_is_no_run_file(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ArtifactError, match=word):
        RunConfig.from_file(tmp_path / "bad.yaml")
    with pytest.raises(ArtifactError, match="starter"):
        RunConfig.from_file(tmp_path / "missing.yaml")


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    status = main(["run", "--output_dir", str(tmp_path / "run"), "--set", "codebook.num_levels=two"])
    assert status == 2
    error = capsys.readouterr().err.strip()
    assert error == "toolscaler: codebook.num_levels: got 'two', expected a whole number"
    assert not (tmp_path / "run").exists()


def test_a_bad_trainer_key_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--output_dir", str(tmp_path / "run"), "--set", "retrieval.trainer.learning_ratee=1"]
    assert main(["run", *flags]) == 2
    error = capsys.readouterr().err
    assert "retrieval.trainer.learning_ratee" in error
    assert "'learning_rate'" in error
    assert main(["run", "--output_dir", str(tmp_path / "run"), "--set", "compression.trainer.learning_rate=fast"]) == 2
    assert "compression.trainer.learning_rate: got 'fast', expected a number" in capsys.readouterr().err


def test_fingerprints_change_from_the_changed_stage_on() -> None:
    before = stage_fingerprints(RunConfig())
    after = stage_fingerprints(RunConfig.from_dict({"codebook": {"num_centroids": 16}}))
    same = [name for name in STAGES if before[name] == after[name]]
    assert same == ["data", "base", "compress", "encode"]
    elsewhere = stage_fingerprints(RunConfig.from_dict({"output_dir": "another"}))
    assert elsewhere == before


def test_manifest_refuses_other_settings_and_damage(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    assert manifest.is_done("data", "a") is False
    manifest.finish("data", "a", 1.5, {"tools": 3})
    again = Manifest(tmp_path)
    assert again.is_done("data", "a")
    assert again.summary("data") == {"tools": 3}
    with pytest.raises(ConfigError, match="--redo data"):
        again.is_done("data", "b")
    again.forget(["data"])
    assert Manifest(tmp_path).is_done("data", "b") is False
    (tmp_path / "manifest.json").write_text('{"format_version": 99, "stages": {}}')
    with pytest.raises(ArtifactError, match="99"):
        Manifest(tmp_path)
    (tmp_path / "manifest.json").write_text('{"stages"')
    with pytest.raises(ArtifactError):
        Manifest(tmp_path)
