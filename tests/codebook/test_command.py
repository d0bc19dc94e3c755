"""Contract: the run file and the command take every keyword of the fit, with its default; a slip is told early."""

from __future__ import annotations

import dataclasses
import inspect
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from toolscaler.cli import main
from toolscaler.codebook import Codebook
from toolscaler.compression.export import FORMAT_VERSION
from toolscaler.errors import ConfigError
from toolscaler.pipeline.config import CodebookSection, RunConfig
from toolscaler.pipeline.stages import check_settings
from toolscaler.scripts.codebook import _OWN, make_parser

KEYWORDS = {
    name: parameter.default
    for name, parameter in inspect.signature(Codebook.fit).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}


@pytest.fixture
def run_folder(tmp_path, embeddings):
    """A run whose encode stage is done, and the tools of it."""
    names = [f"tool {j}" for j in range(len(embeddings))]
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "data").mkdir()
    values = {"embeddings": embeddings, "positions": np.arange(len(embeddings))}
    save_file(values, tmp_path / "embeddings" / "embeddings-00000-of-00001.safetensors", metadata={"fingerprint": "x"})
    index = {
        "ids": names,
        "shape": list(embeddings.shape),
        "dtype": "float32",
        "shards": [{"file": "embeddings-00000-of-00001.safetensors", "documents": len(names)}],
        "complete": True,
        "fingerprint": "x",
        "format_version": FORMAT_VERSION,
    }
    (tmp_path / "embeddings" / "embeddings.index.json").write_text(json.dumps(index))
    rows = [{"name": name, "description": "d", "category": f"c{j % 3}"} for j, name in enumerate(names)]
    (tmp_path / "data" / "tools.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_run_file_takes_every_keyword_of_the_fit():
    section = dataclasses.asdict(CodebookSection())
    assert {**section, "quantizer_options": section["quantizer_options"] or None} == KEYWORDS


def test_the_command_takes_every_keyword_of_the_fit():
    found = vars(make_parser().parse_args(["--embeddings", "e", "--output_dir", "o"]))
    assert {name: value for name, value in found.items() if name not in _OWN} == KEYWORDS


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quantizer": "rq"}, "codebook.quantizer"),
        ({"metric": "dot"}, "'cosine'"),
        ({"quantizer": "fsq", "quantizer_options": {"level": [3]}}, "codebook.quantizer_options.*expected levels"),
        ({"quantizer_options": {"levels": [3]}}, "expected none"),
    ],
    ids=["kind", "metric", "option", "option_of_another_kind"],
)
def test_slips_are_told_before_anything_runs(section, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(RunConfig.from_dict({"codebook": section}))


def test_options_reach_the_fit(run_folder, embeddings, capsys):
    flags = ["--num_centroids", "6", "--reduced_dim", "4", "--quantizer", "fsq", "--quantizer_options", "levels=[4, 2]"]
    flags += ["--encoding", "beam", "--beam_width", "3", "--reassignment", "joint", "--whiten", "--normalize"]
    flags += ["--metric", "cosine", "--num_restarts", "2", "--max_iterations", "30", "--seed", "5"]
    places = ["--embeddings", str(run_folder / "embeddings"), "--output_dir", str(run_folder / "codebook")]
    assert main(["codebook", *places, *flags, "--documents", str(run_folder / "data" / "tools.jsonl")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["prefix_purity"]) == {"category"}
    expected = Codebook.fit(
        embeddings,
        [f"tool {j}" for j in range(150)],
        num_centroids=6,
        reduced_dim=4,
        quantizer="fsq",
        quantizer_options={"levels": [4, 2]},
        encoding="beam",
        beam_width=3,
        reassignment="joint",
        whiten=True,
        normalize=True,
        metric="cosine",
        num_restarts=2,
        max_iterations=30,
        seed=5,
    )
    assert Codebook.from_pretrained(run_folder / "codebook") == expected
    assert expected.code_sizes == (6, 8, 6, 8)


def test_the_report_verb(run_folder, capsys):
    places = ["--embeddings", str(run_folder / "embeddings"), "--output_dir", str(run_folder / "codebook")]
    assert main(["codebook", *places, "--num_centroids", "5", "--reduced_dim", "4"]) == 0
    capsys.readouterr()
    assert main(["codebook", "report", str(run_folder), "--no-plots", "--no-reseed"]) == 0
    printed = capsys.readouterr().out
    target = run_folder / "codebook_report"
    assert (target / "report.md").read_text() in printed
    elsewhere = run_folder / "elsewhere"
    words = ["codebook", "report", str(run_folder), "--output", str(elsewhere), "--json", "--reseed", "--no-plots"]
    assert main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((elsewhere / "report.json").read_text())
    assert printed["reseeding_stability"]
    assert main(["codebook", "report", str(run_folder / "nowhere")]) == 2


def test_documents_of_another_catalogue_are_refused(run_folder, capsys):
    tools = run_folder / "data" / "tools.jsonl"
    tools.write_text("".join(tools.read_text().splitlines(keepends=True)[1:]))
    places = ["--embeddings", str(run_folder / "embeddings"), "--output_dir", str(run_folder / "codebook")]
    assert main(["codebook", *places, "--documents", str(tools)]) == 2
    assert "1 of 150 embedded tools" in capsys.readouterr().err
