"""Real launches on the CPU: the losses of two processes are those of one with the same rows a step."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from launch.workspace import IDS, arguments, losses, run, train
from toolscaler.codebook import Codebook
from toolscaler.compression import GistForToolCompression, load_embeddings
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training.checkpoints import deepspeed_pieces, last_whole_checkpoint

VERBS = ("compress", "retrieval", "trajectory", "refine")
ROWS = 8  # rows a step; neither the 15 documents nor the 12 trajectories are a multiple of it
EPOCHS = ("--num_train_epochs", "2")
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")


def jobs(space, folder, rows, verbs=VERBS, flags=EPOCHS, accumulate=1):
    # L_traj has gradients to the tools of one batch: a batch cut in two is another loss there.
    return {
        verb: arguments(
            space,
            verb,
            folder / verb,
            rows * accumulate if verb == "refine" else rows,
            *flags,
            accumulate=1 if verb == "refine" else accumulate,
        )
        for verb in verbs
    }


@pytest.fixture(scope="module")
def alone(space, tmp_path_factory):
    """Losses of one process: its batches are those of two, taken one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    return train(jobs(space, folder, ROWS // 2, accumulate=2), folder, None)


def assert_alike(found, expected, *, rtol=1e-4):
    for verb in found:
        np.testing.assert_allclose(found[verb], expected[verb], rtol=rtol, err_msg=verb)


def assert_results(folder, verbs=VERBS):
    """What a stage leaves can be used: a compressor, codes, models and their tokenizers."""
    if "compress" in verbs:
        GistForToolCompression.from_pretrained(folder / "compress")
    if "refine" in verbs:
        assert Codebook.from_pretrained(folder / "refine" / "codebook").tool_ids == tuple(IDS)
        assert load_embeddings(folder / "refine" / "embeddings")[0] == IDS
    for verb in {"retrieval", "trajectory"} & set(verbs):
        model = AutoModelForCausalLM.from_pretrained(folder / verb)
        tokenizer = ToolscalerTokenizer.from_pretrained(folder / verb)
        assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)


@pytest.mark.slow
def test_two_processes_train_as_one(space, alone, tmp_path) -> None:
    together = train(jobs(space, tmp_path, ROWS // 2), tmp_path, "cpu")
    assert {verb: len(found) for verb, found in alone.items()} == {
        "compress": 4,
        "retrieval": 6,
        "trajectory": 4,
        "refine": 4,
    }
    assert all(abs(found[-1] - found[0]) > 1e-2 for found in alone.values())
    assert_alike(together, alone)
    assert_results(tmp_path)
    # One process writes: nothing half written lies about.
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".old"))]


@pytest.mark.distributed_full
@pytest.mark.parametrize("first", [1, 2])
def test_resumed_with_another_number_of_processes(space, alone, tmp_path, first) -> None:
    """Killed after the first epoch and continued by another number of processes: the losses of an unbroken run."""
    verbs = ("compress", "retrieval", "trajectory")
    flags = (*EPOCHS, "--save_strategy", "epoch")
    for count in (first, 3 - first):
        own = jobs(space, tmp_path, ROWS // 2, verbs, flags, accumulate=3 - count)
        written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/checkpoint-*/trainer_state.json")}
        found = train(own, tmp_path, "cpu", "--num_processes", str(count))
        assert_alike(found, alone)
        assert len(written) == (0 if count == first else len(verbs))
        assert all(path.stat().st_mtime_ns == then for path, then in written.items())  # not trained again
        for verb in verbs:  # as a kill after the first epoch would have left it
            last = last_whole_checkpoint(tmp_path / verb)
            assert last is not None
            shutil.rmtree(last)


@needs_deepspeed
@pytest.mark.distributed_full
@pytest.mark.parametrize("config", ["zero1", "zero2", "zero3"])
def test_deepspeed_trains_as_one_process(space, alone, tmp_path, config) -> None:
    for verb in VERBS:  # DeepSpeed keeps state of its own in a process: a launch each
        found = train(jobs(space, tmp_path, ROWS // 2, (verb,)), tmp_path, config, "--num_processes", "2")
        assert_alike(found, alone, rtol=5e-4)
    assert_results(tmp_path)


@needs_deepspeed
@pytest.mark.distributed_full
@pytest.mark.parametrize("config", ["zero2", "zero3"])
def test_deepspeed_resumes_with_another_number_of_processes(space, tmp_path, config) -> None:
    # The universal format knows Adam's state alone.
    flags = (*EPOCHS, "--save_strategy", "epoch", "--optim", "adamw_torch", "--learning_rate", "1e-3")
    unbroken = train(jobs(space, tmp_path, ROWS // 2, ("retrieval",), flags), tmp_path, config, "--num_processes", "2")
    last = last_whole_checkpoint(tmp_path / "retrieval")
    assert last is not None
    assert deepspeed_pieces(last) == 2
    shutil.rmtree(last)
    own = jobs(space, tmp_path, ROWS // 2, ("retrieval",), flags, accumulate=2)
    resumed = train(own, tmp_path, config, "--num_processes", "1")
    assert (tmp_path / "retrieval" / "checkpoint-3" / "latest_universal").is_file()
    assert len(resumed["retrieval"]) == 6
    # Through DeepSpeed's universal format ZeRO-3 comes near and not to the same: 4e-4 in the third step after it.
    assert_alike(resumed, unbroken, rtol=2e-3 if config == "zero3" else 1e-5)


@pytest.mark.distributed_full
def test_two_nodes_on_one_machine(space, alone, tmp_path) -> None:
    """The template, both machines being this one: two launches of one process each that meet at an address."""
    import socket
    from concurrent.futures import ThreadPoolExecutor

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    own = jobs(space, tmp_path, ROWS // 2, ("retrieval",))["retrieval"]
    place = ("--num_processes", "2", "--main_process_port", port)
    commands = [
        ["-m", "toolscaler.cli", "retrieval", "--accelerate_config", "two_nodes", *place, "--machine_rank", rank, *own]
        for rank in ("0", "1")
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, commands))
    assert_alike({"retrieval": losses(tmp_path / "retrieval")}, alone)
