"""Accelerate configurations by name, and what goes to the launcher."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import yaml

from toolscaler.errors import ConfigError, MissingDependencyError, TrainingError
from toolscaler.scripts.launch import config_file, config_names, launch, split_arguments

NAMES = ["cpu", "fsdp2", "multi_gpu", "single_gpu", "two_nodes", "zero1", "zero2", "zero3", "zero3_offload"]


def test_the_configurations_are_packaged() -> None:
    assert config_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_reads_each(name) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    settings = load_config_from_file(str(config_file(name)))
    kinds = {
        "fsdp2": "FSDP",
        "single_gpu": "NO",
        "cpu": "MULTI_GPU",
        "multi_gpu": "MULTI_GPU",
        "two_nodes": "MULTI_GPU",
    }
    assert str(settings.distributed_type).rpartition(".")[2] == kinds.get(name, "DEEPSPEED")
    assert settings.use_cpu == (name == "cpu")
    # A stage decides its precision; a launcher that says bf16 would overrule it without a word.
    assert settings.mixed_precision == "no"


@pytest.mark.parametrize(("name", "stage"), [("zero1", 1), ("zero2", 2), ("zero3", 3), ("zero3_offload", 3)])
def test_zero_stages(name, stage) -> None:
    settings = yaml.safe_load(config_file(name).read_text())["deepspeed_config"]
    assert settings["zero_stage"] == stage
    assert settings["zero3_init_flag"] == (stage == 3)
    # Without it a ZeRO-3 run saves no weights.
    assert settings.get("zero3_save_16bit_model", False) == (stage == 3)
    offloads = {settings["offload_optimizer_device"], settings["offload_param_device"]}
    assert offloads == ({"cpu"} if name == "zero3_offload" else {"none"})


def test_launch_options_are_taken_out() -> None:
    line = ["--model", "m", "--accelerate_config=zero2", "--num_processes", "8", "--seed", "1", "--machine_rank=1"]
    config, options, rest = split_arguments(line)
    assert (config, options) == ("zero2", {"num_processes": "8", "machine_rank": "1"})
    assert rest == ["--model", "m", "--seed", "1"]
    assert split_arguments(["--num_processes", "2"]) == (None, {}, ["--num_processes", "2"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--accelerate_config"], "the name of a packaged config"),
        (["--accelerate_config", "cpu", "--num_processes"], "num_processes: got None, expected a value"),
        (["--accelerate_config", "cpu", "--num_processes", "two"], "whole number"),
    ],
    ids=["no_name", "no_value", "no_number"],
)
def test_bad_options_are_refused(line, message) -> None:
    with pytest.raises(ConfigError, match=message):
        split_arguments(line)


def test_an_unknown_or_broken_configuration_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="two_nodes"):
        launch("toolscaler.scripts.retrieval", "moon", [])
    broken = tmp_path / "own.yaml"
    for text in ("a: [", "- a list\n"):
        broken.write_text(text)
        with pytest.raises(ConfigError, match="YAML"):
            launch("toolscaler.scripts.retrieval", str(broken), [])


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_deepspeed_is_asked_for_by_its_extra() -> None:
    with pytest.raises(MissingDependencyError, match=r"toolscaler\[deepspeed\]"):
        launch("toolscaler.scripts.retrieval", "zero2", [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fsdp_is_refused_without_a_gpu() -> None:
    """accelerate would train copies that never exchange gradients, and say nothing."""
    with pytest.raises(TrainingError, match="FSDP needs GPUs"):
        launch("toolscaler.scripts.retrieval", "fsdp2", [])
