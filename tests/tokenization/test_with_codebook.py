"""Contract: the codebook goes where the tokenizer goes, and gives codes to tools that come later."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets.fingerprint import Hasher

from toolscaler.codebook import Codebook
from toolscaler.errors import ArtifactError, TokenizationError
from toolscaler.tokenization import ToolscalerTokenizer

TOOLS, GISTS, WIDTH = 30, 2, 12
NAMES = [f"tool {k}" for k in range(TOOLS)]


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = 4 * rng.normal(size=(5, GISTS, WIDTH))
    table = (centres[rng.integers(0, 5, TOOLS)] + rng.normal(size=(TOOLS, GISTS, WIDTH))).astype(np.float32)
    table[7] = table[3]  # exact duplicates, so that every policy has something to do
    return table


@pytest.fixture(scope="module")
def fit(embeddings):
    def make(collisions="reassign") -> Codebook:
        return Codebook.fit(
            embeddings, NAMES, num_levels=2, num_centroids=4, reduced_dim=4, collisions=collisions, seed=0
        )

    return make


@pytest.fixture(params=["reassign", "suffix", "share"])
def policy(request) -> str:
    return request.param


def test_codes_and_layout_come_from_the_codebook(bases, fit, policy):
    codebook = fit(policy)
    tokenizer = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], codebook)
    assert tokenizer.code_sizes == codebook.code_sizes
    assert tokenizer.tool_names == NAMES
    assert tokenizer.tool_index.collisions == policy
    for name, codes in zip(NAMES, codebook.codes.tolist(), strict=True):
        assert tokenizer.tool_index[name] == tuple(codes)
        assert name in tokenizer.decode_tool(tokenizer.encode_tool(name))
    twins = tokenizer.decode_tool(tokenizer.encode_tool("tool 3"))
    assert ("tool 7" in twins) is (policy == "share")
    # The assignment lives in one place only.
    assert len(tokenizer.codebook) == 0
    assert np.array_equal(tokenizer.codebook.centroids, codebook.centroids)


def test_the_codebook_travels(bases, fit, policy, tmp_path):
    tokenizer = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], fit(policy))
    written = tokenizer.save_pretrained(tmp_path)
    assert {"codebook.safetensors", "codebook_config.json", "tool_index.json"} <= {Path(path).name for path in written}
    for other in (
        ToolscalerTokenizer.from_pretrained(tmp_path),
        pickle.loads(pickle.dumps(tokenizer)),
        copy.deepcopy(tokenizer),
    ):
        assert other.codebook == tokenizer.codebook
        assert other.tool_index == tokenizer.tool_index
        assert Hasher.hash(other.codebook) == Hasher.hash(tokenizer.codebook)
    assert Codebook.from_pretrained(tmp_path) == tokenizer.codebook


def test_new_tools_get_codes_by_quantisation(bases, fit, embeddings, policy):
    tokenizer = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], fit(policy))
    before = dict(tokenizer.tool_index)
    rng = np.random.default_rng(1)
    new = np.concatenate([embeddings[:2], embeddings[:1], 4 * rng.normal(size=(2, GISTS, WIDTH)).astype(np.float32)])
    if policy == "suffix":
        new = new[3:]  # the suffix has as many numbers as the fitted tools needed; duplicates may not fit
    names = [f"new {k}" for k in range(len(new))]
    codes = tokenizer.add_tools(names, embeddings=new, document_hashes=[f"hash {k}" for k in range(len(new))])
    assert codes.shape == (len(new), tokenizer.code_length)
    assert {name: tokenizer.tool_index[name] for name in NAMES} == before
    everything = list(tokenizer.tool_index.values())
    assert (len(set(everything)) == len(everything)) is (policy != "share")
    for name, row in zip(names, codes.tolist(), strict=True):
        assert name in tokenizer.decode_tool(tokenizer.encode_tool(name))
        assert tokenizer.tool_index[name] == tuple(row)
    if policy == "share":
        np.testing.assert_array_equal(codes, tokenizer.codebook.quantize(new))
        assert "new 0" in tokenizer.decode_tool(tokenizer.tool_code_text("tool 0"))
    assert tokenizer.tool_index.document_hash("new 1") == "hash 1"
    assert tokenizer.tool_index.document_hash("tool 0") is None


def test_codes_of_removed_tools_are_given_again(bases, fit, embeddings):
    tokenizer = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], fit())
    plain = tuple(tokenizer.codebook.quantize(embeddings[:1])[0].tolist())
    holder = tokenizer.tool_index.tools_with(plain)
    tokenizer.remove_tools(holder)
    tokenizer.add_tools(["successor"], embeddings=embeddings[:1])
    assert tokenizer.tool_index["successor"] == plain


def test_given_codes_win_over_fitted_ones(bases, fit):
    codebook = fit()
    renamed = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], codebook, tool_ids=[f"x{k}" for k in range(TOOLS)])
    assert renamed.tool_index["x3"] == tuple(codebook.codes[3].tolist())
    other = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], codebook, codes=[[0, 1, 2, 3]], tool_ids=["only"])
    assert dict(other.tool_index) == {"only": (0, 1, 2, 3)}
    empty = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], codebook.without_tools())
    assert empty.tool_names == []


def test_contradictions_are_refused(bases, fit):
    codebook = fit()
    with pytest.raises(TokenizationError, match="the codebook has"):
        ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], codebook, code_sizes=(4, 4))
    with pytest.raises(TokenizationError, match="the codebook has 'reassign'"):
        ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], codebook, collisions="share")
    with pytest.raises(TokenizationError, match="tool_ids"):
        ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], codebook, codes=codebook.codes)
    tokenizer = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], codebook)
    with pytest.raises(TokenizationError, match="codebook"):
        tokenizer.replace_tool_index(tokenizer.tool_index, fit("share"))


def test_a_refitted_codebook_takes_the_place_of_the_old(bases, fit, embeddings):
    tokenizer = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], fit())
    refitted = Codebook.fit(embeddings, NAMES, num_levels=2, num_centroids=4, reduced_dim=4, seed=9)
    index = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], refitted).tool_index
    tokenizer.replace_tool_index(index, refitted)
    assert tokenizer.codebook == refitted.without_tools()
    assert tokenizer.tool_index is index


@pytest.fixture
def folder(bases, fit, tmp_path) -> Path:
    ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], fit()).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("name", ["codebook.safetensors", "codebook_config.json"])
def test_lost_and_damaged_codebook_files_are_refused(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError):
        ToolscalerTokenizer.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match="copy the whole folder"):
        ToolscalerTokenizer.from_pretrained(folder)


def test_a_codebook_of_another_layout_is_refused(fit, folder):
    fit("share").without_tools().save_pretrained(folder)
    with pytest.raises(ArtifactError, match="share"):
        ToolscalerTokenizer.from_pretrained(folder)


def test_a_codebook_left_in_the_folder_is_not_taken_for_ours(bases, folder):
    without = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], code_sizes=(4,) * 4, tool_ids=[], codes=None)
    without.save_pretrained(folder)
    assert ToolscalerTokenizer.from_pretrained(folder).codebook is None


def test_push_and_load_by_hub_id_and_revision(bases, fit, folder, tmp_path):
    tokenizer = ToolscalerTokenizer.from_pretrained(folder)
    script = Path(__file__).with_name("fake_hub.py")
    shutil.copytree(folder, tmp_path / "pushed")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    command = [sys.executable, str(script), str(tmp_path / "pushed")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    everything = {name: list(codes) for name, codes in tokenizer.tool_index.items()}
    sidecars = {"codebook.safetensors", "codebook_config.json", "tool_index.json"}
    assert {"tokenizer.json", "tokenizer_config.json"} | sidecars <= set(report["files"])
    assert report["older"] == everything
    assert report["newest"] == {name: codes for name, codes in everything.items() if name != NAMES[0]}
    assert report["ids"] == tokenizer("Convert <a_1><b_2>")["input_ids"]
    assert report["has_codebook"] is True
