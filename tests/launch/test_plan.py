"""The planner: sizes without weights, formulas against hand arithmetic, and a measured peak."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from toolscaler.errors import ConfigError
from toolscaler.scripts.plan import main
from toolscaler.training.memory import ORDER, OVERHEAD, ModelSizes, Workload, fitting, model_sizes, need, sizes_of

# Llama-3-8B, its numbers written out.
LLAMA_8B = ModelSizes(8_030_261_248, 32, 4096, 1024, 14336, 128_256, False, 32 * (4 * 2 * 4096 - 2 * 3072 + 3 * 18432))


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma"])
def test_a_configuration_gives_the_sizes_of_the_model(make_tiny_model, tmp_path, arch, tie) -> None:
    model = make_tiny_model(arch, tie=tie)
    model.config.save_pretrained(tmp_path)  # no weights there
    found = model_sizes(str(tmp_path))
    assert found == sizes_of(model)
    assert found.parameters == model.num_parameters()
    assert (found.layers, found.hidden, found.keys, found.inner, found.tied) == (2, 32, 16, 64, tie)
    # q and o are 32 x 32, k and v 32 x 16, gate, up and down 32 x 64.
    assert found.linear_widths == 2 * (2 * 64 + 2 * 48 + 3 * 96)
    rows = found.with_rows(10)
    assert rows.parameters == found.parameters + 320 * (1 if tie else 2)


def test_a_model_that_is_not_there_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="causal language model"):
        model_sizes(str(tmp_path / "nothing"))
    AutoConfig.for_model("vit").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="causal language model"):
        model_sizes(str(tmp_path))


def test_the_papers_model_by_hand() -> None:
    """8 B weights, all trained: 16 bytes a weight, cut by ZeRO as its paper says (Rajbhandari et al., figure 1)."""
    work = Workload(1, 6144, 1536, checkpointing=True)
    gb = LLAMA_8B.parameters / 1e9

    def states(config, processes):
        found = need(LLAMA_8B, work, config, processes)
        return (found.weights + found.gradients + found.optimizer) / 1e9

    assert states("zero1", 4) == pytest.approx(4 * gb + 12 * gb / 4, rel=1e-3)
    assert states("zero2", 4) == pytest.approx(2 * gb + 14 * gb / 4, rel=1e-3)
    assert states("zero3", 4) == pytest.approx(16 * gb / 4, rel=0.02)  # and one layer
    assert states("multi_gpu", 4) == pytest.approx(18 * gb + 4 * gb, rel=1e-3)
    # The paper trained it under ZeRO-3 on four GPUs of 80 GB.
    assert fitting(LLAMA_8B, work, 4, 80 * 10**9)[0] == "zero1"
    assert fitting(LLAMA_8B, work, 4, 48 * 10**9)[0] in ("fsdp2", "zero3")
    # Checkpointing is tried before weights leave the GPU.
    longer = replace(work, checkpointing=False, rows=2)
    name, tried, needs = fitting(LLAMA_8B, longer, 4, 80 * 10**9)
    assert (name, tried.checkpointing) == ("zero1", True)
    assert needs["zero3"].total < needs["zero1"].total
    assert fitting(LLAMA_8B, work, 1, 80 * 10**9)[0] == "zero3_offload"
    assert fitting(LLAMA_8B, work, 1, 10**9)[0] is None
    activations = need(LLAMA_8B, work, "zero3", 4).activations
    layer = 6144 * (10 * 4096 + 2 * 1024 + 4 * 14336) * 2
    assert activations == 32 * 6144 * 4096 * 2 + layer + 1536 * 128_256 * 14


@given(processes=st.integers(2, 64), rows=st.integers(1, 32), tokens=st.integers(1, 4096), lora=st.booleans())
@settings(deadline=None)
def test_cutting_more_never_needs_more(processes, rows, tokens, lora) -> None:
    work = Workload(rows, tokens, tokens, trained=10**7 if lora else None)
    totals = [need(LLAMA_8B, work, name, processes).total for name in ("zero1", "zero2", "zero3")]
    assert totals == sorted(totals, reverse=True)
    for name in ORDER:
        found = need(LLAMA_8B, work, name, processes)
        assert found.overhead == OVERHEAD
        assert need(LLAMA_8B, replace(work, checkpointing=True), name, processes).total <= found.total
        assert need(LLAMA_8B, replace(work, rows=rows + 1), name, processes).total > found.total


def test_an_unknown_configuration_is_refused() -> None:
    with pytest.raises(ConfigError, match="zero3_offload"):
        need(LLAMA_8B, Workload(1, 1, 1), "moon")


def test_the_command_tells_every_stage(make_tiny_model, tmp_path, capsys) -> None:
    make_tiny_model().config.save_pretrained(tmp_path)
    main(["--model", str(tmp_path), "--tools", "46985", "--gpus", "4", "--json"])
    plan = json.loads(capsys.readouterr().out)
    assert list(plan["stages"]) == ["compress", "encode", "refine", "retrieval", "trajectory"]
    assert {stage["config"] for stage in plan["stages"].values()} == {"multi_gpu", "single_gpu"}
    assert plan["code_rows"] == 2048
    assert plan["disk"]["embeddings"] == 46985 * 2 * 32 * 4
    main(["--model", str(tmp_path), "--tools", "10", "--gpus", "0", "--memory", "0.001"])
    text = capsys.readouterr().out
    assert "none fits" in text
    assert "a CPU" in text


@pytest.mark.parametrize("flags", [["--gpus", "-1"], ["--memory", "0"], ["--max_length", "0"]], ids=lambda f: f[0][2:])
def test_numbers_that_make_no_sense_are_refused(flags) -> None:
    with pytest.raises(ConfigError, match=flags[0]):
        main(["--model", "unused", "--tools", "10", *flags])


_MEASURE = """
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from toolscaler.training.memory import Workload, need, sizes_of

torch.set_num_threads(1)
ROWS, TOKENS, LABELS = 8, int(sys.argv[1]), int(sys.argv[2])

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

config = LlamaConfig(vocab_size=4000, hidden_size=256, intermediate_size=768, num_hidden_layers=4,
                     num_attention_heads=4, num_key_value_heads=2)
tiny = LlamaForCausalLM(LlamaConfig(vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                    num_attention_heads=1))
def step(model, rows, tokens, labels, vocabulary):
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        logits = model(input_ids=torch.zeros(rows, tokens, dtype=torch.long), use_cache=False,
                       logits_to_keep=labels).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), torch.zeros(rows * labels).long()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
step(tiny, 1, 4, 2, 10)  # libraries load on first use
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
model = LlamaForCausalLM(config)
step(model, ROWS, TOKENS, LABELS, 4000)
print(status("VmHWM") - before, need(sizes_of(model), Workload(ROWS, TOKENS, LABELS, bf16=False), "cpu").total)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize(("tokens", "labels"), [(16, 5), (256, 5), (64, 64)])
def test_the_estimate_is_the_measured_peak(tokens, labels) -> None:
    """Within a factor of 1.5: states alone, activations on top, and logits on top."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tokens), str(labels)], capture_output=True, text=True, check=True
    )
    measured, estimate = map(int, done.stdout.split())
    assert estimate / 1.5 < measured < estimate * 1.5, (measured / 1e6, estimate / 1e6)
