"""Parallel export: every process writes its own shards, and one that is lost takes no other with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from launch.workspace import DOCUMENTS, IDS
from toolscaler._files import read_json, write_json
from toolscaler.compression import GistForToolCompression, encode_documents, encode_shards, load_embeddings
from toolscaler.compression.shards import INDEX_NAME
from toolscaler.errors import ArtifactError, CompressionError, TrainingError
from toolscaler.scripts import encode

QUIET = {"show_progress": False, "shard_size": 2}


@pytest.fixture(scope="module")
def model(make_tiny_model, make_tiny_tokenizer):
    return GistForToolCompression.from_base_model(make_tiny_model("llama", make_tiny_tokenizer()))


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer):
    return make_tiny_tokenizer()


@pytest.fixture(scope="module")
def whole(model, tokenizer):
    return encode_documents(model, tokenizer, DOCUMENTS, **QUIET)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_parts_make_the_whole_in_any_order(model, tokenizer, whole, tmp_path, count) -> None:
    done = [
        encode_shards(model, tokenizer, DOCUMENTS, tmp_path, process_index=rank, num_processes=count, **QUIET)
        for rank in reversed(range(count))
    ]
    assert done == [False] * (count - 1) + [True]
    ids, found = load_embeddings(tmp_path)
    assert ids == IDS
    # A batch may hold other documents than in one run over all of them.
    assert np.abs(found - whole).max() < 1e-5


def test_a_lost_process_loses_its_shards_alone(model, tokenizer, whole, tmp_path, monkeypatch) -> None:
    keys = {"num_processes": 3, **QUIET}
    assert not encode_shards(model, tokenizer, DOCUMENTS, tmp_path, process_index=0, **keys)
    assert not encode_shards(model, tokenizer, DOCUMENTS, tmp_path, process_index=2, **keys)
    there = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("embeddings-*")}
    assert len(there) == 5  # of 8: shards 2, 5 and 8 were those of process 1
    with pytest.raises(ArtifactError, match="interrupted"):
        load_embeddings(tmp_path)
    # Two processes now, one of which has nothing left to do.
    counted = []
    original = model.gist_outputs
    monkeypatch.setattr(model, "gist_outputs", lambda ids, mask: (counted.append(len(ids)), original(ids, mask))[1])
    for rank in (0, 1):
        encode_shards(model, tokenizer, DOCUMENTS, tmp_path, process_index=rank, num_processes=2, **QUIET)
    assert sum(counted) == len(DOCUMENTS) - 10
    assert np.abs(load_embeddings(tmp_path)[1] - whole).max() < 1e-5
    assert all((tmp_path / name).stat().st_mtime_ns == then for name, then in there.items())


def test_a_late_index_does_not_undo_a_complete_one(model, tokenizer, tmp_path) -> None:
    encode_documents(model, tokenizer, DOCUMENTS, tmp_path, **QUIET)
    index = read_json(tmp_path / INDEX_NAME)
    write_json(tmp_path / INDEX_NAME, {**index, "complete": False})  # as a slow process writes it after all others
    assert encode_shards(model, tokenizer, DOCUMENTS, tmp_path, process_index=1, num_processes=2, **QUIET)
    assert read_json(tmp_path / INDEX_NAME)["complete"]


def test_a_process_that_is_not_one_of_them_is_refused(model, tokenizer, tmp_path) -> None:
    with pytest.raises(CompressionError, match="process_index: got 2, expected a number from 0 to 1"):
        encode_shards(model, tokenizer, DOCUMENTS, tmp_path, process_index=2, num_processes=2, **QUIET)


# ---- what a folder says is not trusted ----


@pytest.fixture(scope="module")
def exported(model, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    encode_documents(model, tokenizer, DOCUMENTS, folder, **QUIET)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [1 << 50, 2, 32]}, "shape"),
        ({"shape": [15, 2]}, "shape"),
        ({"dtype": "float8"}, "dtype"),
        ({"ids": ["a"]}, "ids"),
        ({"shards": [{"file": "../../x.safetensors", "documents": 15}]}, "shards"),
        ({"shards": [{"file": "embeddings-00001-of-00001.safetensors", "documents": 14}]}, "15 documents in all"),
        ({"complete": "yes"}, "complete"),
        ({"fingerprint": None}, "fingerprint"),
        ({"format_version": 2}, "format_version"),
    ],
    ids=["huge", "flat", "dtype", "ids", "path", "count", "complete", "fingerprint", "version"],
)
def test_a_damaged_index_is_named(folder, change, message) -> None:
    write_json(folder / INDEX_NAME, {**read_json(folder / INDEX_NAME), **change})
    with pytest.raises(ArtifactError, match=message):
        load_embeddings(folder)


@pytest.mark.parametrize("damage", ["cut", "extra", "shape", "dtype", "positions", "other"])
def test_a_damaged_shard_is_named(folder, damage) -> None:
    path = sorted(folder.glob("embeddings-0*"))[3]
    mark = read_json(folder / INDEX_NAME)["fingerprint"]
    arrays = load_file(path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "extra":
        arrays["more"] = np.zeros(1, np.float32)
    elif damage == "shape":
        arrays["embeddings"] = arrays["embeddings"][:, :, :16].copy()
    elif damage == "dtype":
        arrays["embeddings"] = arrays["embeddings"].astype(np.float64)
    elif damage == "positions":
        arrays["positions"] = arrays["positions"] + 100
    if damage != "cut":
        save_file(arrays, path, metadata={"fingerprint": "another" if damage == "other" else mark})
    with pytest.raises(ArtifactError, match=path.name):
        load_embeddings(folder)


# ---- the command ----


@pytest.fixture(scope="module")
def flags(space, model, tokenizer):
    source = space.root / "compressor"
    model.save_pretrained(source, save_base=True)
    tokenizer.save_pretrained(source)
    return ["--model", str(source), "--tools", str(space.root / "tools.jsonl"), "--shard_size", "2"]


@pytest.mark.slow
def test_processes_of_the_command_share_the_work(flags, whole, tmp_path, capsys) -> None:
    encode.main([*flags, "--output_dir", str(tmp_path / "two"), "--num_processes", "2"])
    assert "15 tools x 2 gist tokens x 32: 8 of 8 shards" in capsys.readouterr().out
    assert np.abs(load_embeddings(tmp_path / "two")[1] - whole).max() < 1e-5


@pytest.mark.slow
def test_a_killed_process_is_named_and_its_shards_come_later(flags, whole, tmp_path) -> None:
    """Two processes, one of them killed before it began: the other does its part, and one process does the rest."""
    output = tmp_path / "killed"
    env = {**os.environ, "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "toolscaler.scripts.encode", *flags, "--output_dir", str(output)]
    lost = subprocess.Popen(command, env={**env, "RANK": "1"})
    time.sleep(0.2)
    lost.send_signal(signal.SIGKILL)
    subprocess.run(command, env={**env, "RANK": "0"}, check=True, capture_output=True)
    assert lost.wait() == -signal.SIGKILL
    assert len(list(output.glob("embeddings-*.safetensors"))) == 4
    encode.main([*flags, "--output_dir", str(output)])
    assert np.abs(load_embeddings(output)[1] - whole).max() < 1e-5


def test_a_failing_process_is_an_error(tmp_path) -> None:
    flags = ["--model", str(tmp_path / "nothing"), "--tools", str(tmp_path / "none"), "--output_dir", str(tmp_path)]
    with pytest.raises(TrainingError, match=r"processes \[0, 1\] of 2 were lost"):
        encode.main([*flags, "--num_processes", "2"])
