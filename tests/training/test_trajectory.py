"""Trajectory stage: the loss is the hand-made one, five trajectories are learnt by heart, and runs resume exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from toolscaler.cli import main
from toolscaler.data import (
    AgentProtocol,
    ToolCall,
    ToolDocument,
    Trajectory,
    TrajectoryMessage,
    finish_document,
    save_trajectories,
    trajectory_turns,
)
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.errors import ConfigError, TrainingError
from toolscaler.tokenization import ConversationEncoder, ToolscalerTokenizer
from toolscaler.training import TrajectoryConfig, trajectory_rows, trajectory_trainer
from toolscaler.training.checkpoints import last_whole_checkpoint
from toolscaler.training.trajectory_data import IGNORE_INDEX

M, C = TrajectoryMessage, ToolCall
DOCUMENTS = [
    ToolDocument(
        "convert_length",
        "Convert a length.",
        provider="units",
        parameters={"type": "object", "properties": {"value": {"type": "number"}}, "required": ["value"]},
    ),
    ToolDocument("week_day", "Tell the day.", provider="dates"),
    finish_document(),
]
TOOLS = [document.id for document in DOCUMENTS]
PROTOCOL = AgentProtocol("", finish_documentation=False)


def asked(query: str, tool: str, arguments: dict, result: str) -> Trajectory:
    return Trajectory(
        (
            M("user", query),
            M("assistant", f"I say: {query}", (C(tool, arguments),)),
            M("tool", result),
            M("assistant", "", (C.finish(result),)),
        )
    )


TRAJECTORIES = [
    asked("How many feet are 2 metres?", "units/convert_length", {"value": 2}, "6.56"),
    asked("Change 3 metres, please, to feet", "units/convert_length", {"value": 3}, "9.84"),
    asked("Which day is it?", "dates/week_day", {}, "Monday"),
    asked("Tell the day of the week", "dates/week_day", {}, "Friday"),
    Trajectory((M("user", "Sing."), M("assistant", "", (C.finish("No tool sings.", return_type="give_up"),)))),
]


@pytest.fixture
def tokenizer(make_tiny_tokenizer) -> ToolscalerTokenizer:
    return ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=[[0, 1], [1, 0], [2, 2]], tool_ids=TOOLS, code_sizes=(3, 3)
    )


@pytest.fixture
def make_model(make_tiny_model, make_tiny_tokenizer, tokenizer):
    def make(arch: str = "llama", tie: bool = False, hidden_size: int = 32):
        model = make_tiny_model(arch, tokenizer=make_tiny_tokenizer(), hidden_size=hidden_size, tie=tie)
        return initialize_code_embeddings(model, tokenizer, init="random")

    return make


def config(folder: Path, **changes) -> TrajectoryConfig:
    values = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 5,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "disable_tqdm": True,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "max_length": 500,
        **changes,
    }
    return TrajectoryConfig(**values)


def trained(model, tokenizer, settings, **given):
    trainer = trajectory_trainer(model, tokenizer, TRAJECTORIES, DOCUMENTS, settings, protocol=PROTOCOL, **given)
    trainer.train()
    return trainer


def hand_loss(model, dataset) -> float:
    """Mean negative log-likelihood of the counted tokens, one row at a time, without padding."""
    total, count = 0.0, 0
    for row in dataset:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for position, label in enumerate(row["labels"]):
            if label != IGNORE_INDEX:
                total -= logits[position - 1, label].item()
                count += 1
    return total / count


def test_defaults_are_the_papers() -> None:
    values = TrajectoryConfig(output_dir="unused")
    assert values.num_train_epochs == 2
    assert values.learning_rate == 4e-5
    assert values.lr_scheduler_type == "cosine"
    assert values.warmup_steps == 0.03
    assert values.max_length == 6144
    assert values.per_device_train_batch_size * values.gradient_accumulation_steps == 64
    with pytest.raises(ConfigError, match="truncation"):
        TrajectoryConfig(output_dir="unused", truncation="right")


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_loss_equals_a_hand_written_loop(make_model, tokenizer, tmp_path, packing) -> None:
    model = make_model()
    settings = config(tmp_path, packing=packing)
    trainer = trajectory_trainer(model, tokenizer, TRAJECTORIES, DOCUMENTS, settings, protocol=PROTOCOL)
    rows = trajectory_rows(TRAJECTORIES, tokenizer, DOCUMENTS, protocol=PROTOCOL)
    assert trainer.rows_report == rows.report
    if packing:
        assert len(trainer.train_dataset) < len(TRAJECTORIES)
        assert sum(len(row["input_ids"]) for row in trainer.train_dataset) == rows.report.tokens
    else:
        assert [dict(row) for row in trainer.train_dataset] == [dict(row) for row in rows.dataset]
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(len(trainer.train_dataset))])
    loss = trainer.compute_loss(trainer.model.eval(), dict(batch)).item()
    assert loss == pytest.approx(hand_loss(model.eval(), rows.dataset), abs=1e-5)


def test_five_trajectories_are_learnt_by_heart(make_model, tokenizer, tmp_path) -> None:
    settings = config(tmp_path, num_train_epochs=40, learning_rate=5e-3, per_device_train_batch_size=1, adam_beta2=0.98)
    trainer = trained(make_model(hidden_size=64), tokenizer, settings)
    model = trainer.model.eval()
    assert hand_loss(model, trainer.train_dataset) < 0.05
    encoder = ConversationEncoder(tokenizer, PROTOCOL)
    code_text = {name: tokenizer.tool_code_text(name) for name in TOOLS}
    documents = {document.id: document for document in DOCUMENTS}
    for trajectory in TRAJECTORIES:
        turns = trajectory_turns(trajectory, documents, code_text, PROTOCOL)
        for place, turn in enumerate(turns):
            if turn.role == "assistant":
                prompt = torch.tensor([encoder.encode_prompt(turns[:place])])
                ids = model.generate(prompt, do_sample=False, max_new_tokens=80, eos_token_id=encoder.end_ids[-1])
                said = tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=False)
                assert said == f"{turn.text}</s>"


def test_a_resumed_run_equals_an_unbroken_one(make_model, tokenizer, tmp_path) -> None:
    settings = {
        "num_train_epochs": 4,
        "save_strategy": "epoch",
        "per_device_train_batch_size": 2,
        "use_lora": True,
        "lora_r": 4,
    }
    whole = trained(make_model(), tokenizer, config(tmp_path / "whole", **settings))

    class StopError(Exception):
        pass

    class Stop(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 8:
                raise StopError

    with pytest.raises(StopError):
        trained(make_model(), tokenizer, config(tmp_path / "broken", **settings), callbacks=[Stop()])
    settings = config(tmp_path / "broken", **settings)
    again = trajectory_trainer(make_model(), tokenizer, TRAJECTORIES, DOCUMENTS, settings, protocol=PROTOCOL)
    again.train(resume_from_checkpoint=last_whole_checkpoint(tmp_path / "broken"))
    assert again.state.global_step == whole.state.global_step == 12
    for left, right in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(("arch", "tie"), [("llama", False), ("llama", True), ("gemma", True)])
def test_lora_trains_code_rows_and_leaves_the_others(make_model, tokenizer, tmp_path, arch, tie) -> None:
    model = make_model(arch, tie)
    old = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    settings = config(tmp_path, use_lora=True, lora_r=4, lora_alpha=8, num_train_epochs=4, gradient_checkpointing=True)
    trainer = trained(model, tokenizer, settings)
    loss = hand_loss(trainer.model.eval(), trainer.train_dataset)
    merged = trainer.model.merge_and_unload()
    assert hand_loss(merged, trainer.train_dataset) == pytest.approx(loss, abs=1e-4)
    first = tokenizer.first_code_id
    for before, layer in zip(old, (merged.get_input_embeddings(), merged.get_output_embeddings()), strict=True):
        after = layer.weight.detach()
        assert torch.equal(before[:first], after[:first])
        assert ((after[first:] - before[first:]).abs().amax(1) > 0).all()


def test_checkpoints_are_complete_by_themselves(make_model, tokenizer, tmp_path) -> None:
    trainer = trained(make_model(), tokenizer, config(tmp_path, save_strategy="epoch", num_train_epochs=1))
    for folder in (tmp_path / "checkpoint-1", tmp_path / "final"):
        if folder.name == "final":
            trainer.save_model(str(folder))
        assert AgentProtocol.load(folder) == PROTOCOL
        loaded = ToolscalerTokenizer.from_pretrained(folder)
        assert loaded.tool_names == TOOLS
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert hand_loss(model, trainer.train_dataset) == pytest.approx(
            hand_loss(trainer.model.eval(), trainer.train_dataset), abs=1e-6
        )


def test_what_cannot_be_trained_is_refused(
    make_model, make_tiny_model, make_tiny_tokenizer, tokenizer, tmp_path
) -> None:
    settings = config(tmp_path)
    bare = make_tiny_model(tokenizer=make_tiny_tokenizer())
    with pytest.raises(TrainingError, match="initialize_code_embeddings"):
        trajectory_trainer(bare, tokenizer, TRAJECTORIES, DOCUMENTS, settings)
    with pytest.raises(TrainingError, match="catalogue"):
        trajectory_trainer(make_model(), tokenizer, TRAJECTORIES, None, settings)
    rows = trajectory_rows(TRAJECTORIES, tokenizer, DOCUMENTS, protocol=PROTOCOL)
    with pytest.raises(TrainingError, match="max_length=50"):
        trajectory_trainer(make_model(), tokenizer, rows.dataset, None, config(tmp_path, max_length=50))
    with pytest.raises(TrainingError, match="input_ids and labels"):
        trajectory_trainer(make_model(), tokenizer, rows.dataset.remove_columns("labels"), None, settings)


def test_the_command_trains_resumes_and_reports(make_model, tokenizer, tmp_path) -> None:
    source = tmp_path / "retrieval"
    make_model().save_pretrained(source)
    tokenizer.save_pretrained(source)
    save_trajectories(tmp_path / "train.jsonl", TRAJECTORIES)
    lines = [json.dumps(document.to_dict()) for document in DOCUMENTS[:2]]
    (tmp_path / "tools.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = [
        *("--model", str(source), "--train_trajectories", str(tmp_path / "train.jsonl")),
        *("--documents", str(tmp_path / "tools.jsonl"), "--output_dir", str(tmp_path / "out")),
        *("--validation_trajectories", str(tmp_path / "train.jsonl"), "--eval_strategy", "epoch"),
        *("--per_device_train_batch_size", "5", "--gradient_accumulation_steps", "1", "--num_train_epochs", "2"),
        *("--logging_steps", "1", "--system_prompt", "Help.", "--finish_documentation", "false", "--max_length", "400"),
    ]
    assert main(["trajectory", *flags]) == 0
    log = json.loads((tmp_path / "out" / "losses.json").read_text())
    assert len([entry for entry in log if "loss" in entry]) == 2
    assert len([entry for entry in log if "eval_loss" in entry]) == 2
    assert json.loads((tmp_path / "out" / "rows.json").read_text())["rows"] == len(TRAJECTORIES)
    assert AgentProtocol.load(tmp_path / "out") == AgentProtocol("Help.", False)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert main(["trajectory", *flags]) == 0  # goes on from the last checkpoint: nothing is left to do
    assert main(["trajectory", *flags, "--truncation", "right"]) == 2
