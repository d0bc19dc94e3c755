"""Retrieval stage: which tokens count, that they count as in TRL, what LoRA trains, and that a run resumes exactly."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM
from transformers.trainer_pt_utils import LabelSmoother
from trl import SFTConfig, SFTTrainer

from toolscaler.embedding import initialize_code_embeddings
from toolscaler.errors import ConfigError, TrainingError
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training.checkpoints import last_whole_checkpoint
from toolscaler.training.retrieval import (
    IGNORE_INDEX,
    RetrievalCollator,
    RetrievalConfig,
    hide_prompt_tokens,
    retrieval_trainer,
    tokenize_retrieval_rows,
)

TOOLS = ["units/convert_length", "dates/week_day", "text/word_count", "text/reverse"]
CODES = [[0, 1], [1, 0], [2, 2], [2, 0]]
QUERIES = [
    ("How many feet are twelve metres?", 0),
    ("Which day of the week was the first of May?", 1),
    ("Count the words in this text, please, ignoring punctuation and numbers.", 2),
    ("backwards", 3),
    ("convert 3 metres", 0),
    ("what weekday", 1),
    ("number of words", 2),
    ("turn the string around", 3),
]


@pytest.fixture
def tokenizer(make_tiny_tokenizer) -> ToolscalerTokenizer:
    return ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), codes=CODES, tool_ids=TOOLS, code_sizes=(3, 3))


@pytest.fixture
def make_model(make_tiny_model, make_tiny_tokenizer, tokenizer):
    def make(arch: str = "llama", tie: bool = False):
        model = make_tiny_model(arch, tokenizer=make_tiny_tokenizer(), tie=tie)
        return initialize_code_embeddings(model, tokenizer, init="random")

    return make


@pytest.fixture
def rows(tokenizer) -> list[dict[str, str]]:
    return [{"prompt": text, "completion": tokenizer.tool_code_text(TOOLS[tool])} for text, tool in QUERIES]


def config(folder: Path, **changes) -> RetrievalConfig:
    values = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "save_strategy": "no",
        **changes,
    }
    return RetrievalConfig(**values)


def test_defaults_are_the_papers() -> None:
    values = RetrievalConfig(output_dir="unused")
    assert values.num_train_epochs == 5
    assert values.learning_rate == 4e-5
    assert values.lr_scheduler_type == "cosine"
    assert values.warmup_steps == 0.03
    assert values.per_device_train_batch_size * values.gradient_accumulation_steps == 64


def test_rows_hold_the_decoders_prompt_and_count_only_codes_and_end(tokenizer, rows, tmp_path) -> None:
    data = tokenize_retrieval_rows(tokenizer, rows, config(tmp_path))
    for (text, tool), row in zip(QUERIES, data, strict=True):
        prompt = tokenizer.encode_retrieval_prompt(text)
        codes = tokenizer.encode_tool(TOOLS[tool])
        assert row["input_ids"] == [*prompt, *codes, tokenizer.eos_token_id]
        assert row["labels"] == [IGNORE_INDEX] * len(prompt) + codes + [tokenizer.eos_token_id]
    without_end = tokenize_retrieval_rows(tokenizer, rows, config(tmp_path, train_end_token=False))
    assert {row["labels"][-1] for row in without_end} == {IGNORE_INDEX}
    assert [row["input_ids"] for row in without_end] == [row["input_ids"] for row in data]


def test_a_long_prompt_loses_its_first_tokens_and_is_counted(tokenizer, rows, tmp_path, caplog) -> None:
    data = tokenize_retrieval_rows(tokenizer, rows, config(tmp_path, max_length=12))
    full = tokenizer.encode_retrieval_prompt(QUERIES[2][0])
    assert data[2]["input_ids"] == full[-9:] + tokenizer.encode_tool(TOOLS[2]) + [tokenizer.eos_token_id]
    long = sum(len(tokenizer.encode_retrieval_prompt(text)) > 9 for text, _ in QUERIES)
    assert 0 < long < len(QUERIES)
    assert f"{long} of {len(QUERIES)} prompts were cut" in caplog.text


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "got none"),
        ([{"prompt": "x"}], "prompt and completion"),
        ([{"prompt": "x", "completion": "the first tool"}], "code tokens only"),
    ],
)
def test_bad_rows_are_refused(tokenizer, tmp_path, bad, message) -> None:
    with pytest.raises(TrainingError, match=message):
        tokenize_retrieval_rows(tokenizer, bad, config(tmp_path))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="prompt_token_dropout"):
        RetrievalConfig(output_dir="unused", prompt_token_dropout=1.0)
    with pytest.raises(ConfigError, match="packing"):
        RetrievalConfig(output_dir="unused", packing=True)


def test_collator_pads_left_and_keeps_label_columns() -> None:
    batch = RetrievalCollator(pad_token_id=9)(
        [
            {"input_ids": [5, 6, 7, 1, 2], "labels": [-100, -100, -100, 1, 2]},
            {"input_ids": [8, 3, 4], "labels": [-100, 3, -100]},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 1, 2], [9, 9, 8, 3, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 1, 2], [-100, 3, -100]]


def hand_loss(model, data) -> float:
    """Mean negative log-likelihood of the counted tokens, one row at a time, without padding."""
    total, count = 0.0, 0
    for row in data:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for position, label in enumerate(row["labels"]):
            if label != IGNORE_INDEX:
                total -= logits[position - 1, label].item()
                count += 1
    return total / count


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma"])
def test_loss_equals_a_hand_written_loop(make_model, tokenizer, rows, tmp_path, arch) -> None:
    model = make_model(arch)
    trainer = retrieval_trainer(model, tokenizer, rows, config(tmp_path), eval_rows=rows)
    expected = hand_loss(model.eval(), trainer.train_dataset)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert trainer.compute_loss(model, batch).item() == pytest.approx(expected, abs=1e-5)
    # Evaluation averages over batches of equal size here.
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)


def test_loss_equals_trls_on_the_same_rows(make_model, tokenizer, rows, tmp_path) -> None:
    model = make_model()
    ours = retrieval_trainer(model, tokenizer, rows, config(tmp_path))
    data = Dataset.from_list([dict(row) for row in ours.train_dataset])
    loss = ours.compute_loss(model, ours.data_collator(list(data))).item()
    upstream = SFTTrainer(
        make_model(),
        SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False),
        train_dataset=data,
        processing_class=tokenizer,
    )
    batch = upstream.data_collator([upstream.train_dataset[i] for i in range(len(data))])
    assert loss == pytest.approx(upstream.compute_loss(upstream.model, batch).item(), abs=1e-5)


def test_label_smoothing_is_that_of_transformers(make_model, tokenizer, rows, tmp_path) -> None:
    model = make_model().eval()
    trainer = retrieval_trainer(model, tokenizer, rows, config(tmp_path, label_smoothing_factor=0.2))
    batch = trainer.data_collator(list(trainer.train_dataset))
    mask = batch["attention_mask"]
    with torch.no_grad():
        logits = model(
            input_ids=batch["input_ids"], attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)
        ).logits
    kept = batch["labels"].shape[1]
    expected = LabelSmoother(0.2)({"logits": logits[:, -kept:]}, batch["labels"], shift_labels=True).item()
    assert trainer.compute_loss(model, batch).item() == pytest.approx(expected, abs=1e-5)
    plain = retrieval_trainer(model, tokenizer, rows, config(tmp_path))
    assert abs(plain.compute_loss(model, batch).item() - expected) > 1e-2


def trained(model, tokenizer, rows, settings):
    trainer = retrieval_trainer(model, tokenizer, rows, settings)
    trainer.train()
    return trainer


def test_batches_accumulated_equal_one_batch(make_model, tokenizer, rows, tmp_path) -> None:
    one = trained(make_model(), tokenizer, rows, config(tmp_path, per_device_train_batch_size=8, max_steps=3))
    split = trained(
        make_model(),
        tokenizer,
        rows,
        config(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=3),
    )
    for left, right in zip(one.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=2e-4, rtol=1e-3)


def test_training_teaches_the_codes(make_model, tokenizer, rows, tmp_path) -> None:
    model = make_model()
    before = hand_loss(model.eval(), tokenize_retrieval_rows(tokenizer, rows, config(tmp_path)))
    trainer = trained(model, tokenizer, rows, config(tmp_path, num_train_epochs=25))
    after = hand_loss(trainer.model.eval(), trainer.train_dataset)
    assert before > 2
    assert after < 0.3


def test_hidden_prompt_tokens_are_inner_ones_and_shift_positions() -> None:
    torch.manual_seed(0)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]])
    labels = torch.tensor([[-100, -100, 4, 5], [-100, 3, 4, 5]])
    hidden = torch.stack([hide_prompt_tokens(mask, labels, 0.5) for _ in range(200)])
    free = torch.tensor([[0, 0, 0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    assert torch.equal(hidden[:, ~free], mask[~free].expand(200, -1))
    share = (mask[free] - hidden[:, free].float().mean(0)).numpy()
    np.testing.assert_allclose(share, 0.5, atol=0.15)
    assert torch.equal(hide_prompt_tokens(mask, labels, 0.0), mask)
    some = hide_prompt_tokens(mask, labels, 0.99, whole=torch.tensor([True, False]))
    assert torch.equal(some[0], mask[0])
    assert not torch.equal(some[1], mask[1])


def test_first_steps_join_the_rows_and_keep_their_prompts(make_model, tokenizer, rows, tmp_path) -> None:
    codes = tokenizer.encode_tool(TOOLS[0])
    end, first = tokenizer.eos_token_id, tokenizer.first_code_id
    text = tokenizer("metres: 12 33 45 67 89")["input_ids"]
    step = {"input_ids": [*text, *codes, 5, 6, end], "labels": [-100] * len(text) + [*codes, 5, 6, end]}
    settings = config(tmp_path, prompt_token_dropout=0.9, per_device_train_batch_size=32)
    steps = Dataset.from_list([step])
    trainer = retrieval_trainer(make_model(), tokenizer, rows, settings, step_rows=steps)
    plain = tokenize_retrieval_rows(tokenizer, rows, settings)
    assert len(trainer.train_dataset) == len(plain) + 1
    assert trainer.train_dataset[-1] == step
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, given, named: seen.append(named), with_kwargs=True)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer.compute_loss(trainer.model, dict(batch))
    hidden = (batch["attention_mask"] - seen[0]["attention_mask"]).sum(1)
    is_step = torch.tensor(
        [any(0 <= label < first and label != end for label in row) for row in batch["labels"].tolist()]
    )
    assert is_step.sum() == 1
    assert int(hidden[is_step]) == 0
    assert int(hidden[~is_step].sum()) > 0
    with pytest.raises(TrainingError, match="step_rows"):
        retrieval_trainer(make_model(), tokenizer, rows, settings, step_rows=Dataset.from_dict({"text": ["a"]}))


@pytest.mark.parametrize(("arch", "tie"), [("llama", False), ("llama", True), ("gemma", True)])
def test_lora_trains_code_rows_and_leaves_the_others(make_model, tokenizer, rows, tmp_path, arch, tie) -> None:
    model = make_model(arch, tie)
    old_in = model.get_input_embeddings().weight.detach().clone()
    old_out = model.get_output_embeddings().weight.detach().clone()
    trainer = trained(
        model, tokenizer, rows, config(tmp_path, use_lora=True, lora_r=4, lora_alpha=8, num_train_epochs=4)
    )
    merged = trainer.model.merge_and_unload()
    first = tokenizer.first_code_id
    for old, new in (
        (old_in, merged.get_input_embeddings().weight),
        (old_out, merged.get_output_embeddings().weight),
    ):
        assert torch.equal(old[:first], new.detach()[:first])
        moved = (new.detach()[first:] - old[first:]).abs().amax(1)
        assert (moved > 0).all(), "a code row was not trained"
    assert (merged.get_input_embeddings().weight is merged.get_output_embeddings().weight) == tie


def test_a_model_without_code_rows_is_refused(make_tiny_model, make_tiny_tokenizer, tokenizer, rows, tmp_path) -> None:
    model = make_tiny_model(tokenizer=make_tiny_tokenizer())
    with pytest.raises(TrainingError, match="initialize_code_embeddings"):
        retrieval_trainer(model, tokenizer, rows, config(tmp_path))


def test_a_resumed_run_equals_an_unbroken_one(make_model, tokenizer, rows, tmp_path) -> None:
    settings = {"num_train_epochs": 4, "save_strategy": "epoch", "prompt_token_dropout": 0.3}
    whole = trained(make_model(), tokenizer, rows, config(tmp_path / "whole", **settings))

    class Stop(Exception):
        pass

    from transformers import TrainerCallback

    class StopAtThree(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 5:
                raise Stop

    trainer = retrieval_trainer(
        make_model(), tokenizer, rows, config(tmp_path / "broken", **settings), callbacks=[StopAtThree()]
    )
    with pytest.raises(Stop):
        trainer.train()
    again = retrieval_trainer(make_model(), tokenizer, rows, config(tmp_path / "broken", **settings))
    again.train(resume_from_checkpoint=last_whole_checkpoint(tmp_path / "broken"))
    assert again.state.global_step == whole.state.global_step
    for left, right in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_half_written_checkpoints_are_passed_over(make_model, tokenizer, rows, tmp_path) -> None:
    assert last_whole_checkpoint(tmp_path / "nothing") is None
    trained(make_model(), tokenizer, rows, config(tmp_path, save_strategy="epoch", num_train_epochs=3))
    newest = tmp_path / "checkpoint-6"
    assert last_whole_checkpoint(tmp_path) == str(newest)
    (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:100])
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert not newest.exists()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": ')
    assert last_whole_checkpoint(tmp_path) is None


def test_checkpoints_are_complete_by_themselves(make_model, tokenizer, rows, tmp_path) -> None:
    trained(make_model(), tokenizer, rows, config(tmp_path, save_strategy="epoch", num_train_epochs=1))
    folder = tmp_path / "checkpoint-2"
    loaded = ToolscalerTokenizer.from_pretrained(folder)
    assert loaded.tool_names == TOOLS
    assert AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight.shape[0] == len(loaded)


@pytest.mark.slow
def test_two_launched_processes_train_as_one(make_model, tokenizer, rows, tmp_path) -> None:
    """A real `accelerate launch` of the command's script: the loss of two processes is that of one."""
    source = tmp_path / "vocabulary"
    make_model().save_pretrained(source)
    tokenizer.save_pretrained(source)
    queries = tmp_path / "train.jsonl"
    lines = [json.dumps({"query": text, "tools": [TOOLS[tool]]}) for text, tool in QUERIES]
    queries.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def run(name: str, batch: int, *extra: str) -> list[float]:
        flags = [
            *("--model", str(source), "--train_queries", str(queries), "--output_dir", str(tmp_path / name)),
            *("--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", "1", "--max_steps", "3"),
            *("--logging_steps", "1", "--learning_rate", "1e-2", "--save_strategy", "no", "--seed", "3"),
        ]
        command = [sys.executable, "-m", "toolscaler.cli", "retrieval", *flags, *extra]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=280
        )
        assert done.returncode == 0, done.stderr[-3000:]
        state = json.loads((tmp_path / name / "losses.json").read_text())
        return [entry["loss"] for entry in state if "loss" in entry]

    alone = run("one", 8)
    together = run("two", 4, "--accelerate_config", "cpu")
    assert len(alone) == 3
    assert all(math.isclose(a, b, abs_tol=2e-4) for a, b in zip(alone, together, strict=True)), (alone, together)
    assert ToolscalerTokenizer.from_pretrained(tmp_path / "two").tool_names == TOOLS
