"""Post-guided training: L_traj is that of the model which embedding init would write, and it moves gists alone."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from toolscaler.codebook import Codebook
from toolscaler.codebook.translation import CodeTranslation
from toolscaler.compression import GistForToolCompression, encode_documents
from toolscaler.data import (
    AgentProtocol,
    ToolCall,
    ToolDocument,
    ToolQuery,
    Trajectory,
    TrajectoryMessage,
    finish_document,
    retrieval_rows,
    save_trajectories,
)
from toolscaler.embedding import initialize_code_embeddings, reframe_vectors
from toolscaler.errors import ArtifactError, ConfigError, TrainingError
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training import PostGuidedConfig, RetrievalConfig, guiding_rows, post_guided_trainer, trajectory_rows
from toolscaler.training.checkpoints import last_whole_checkpoint
from toolscaler.training.compression import finalize
from toolscaler.training.post_guided_codes import CodeRowBank
from toolscaler.training.post_guided_data import GuidedDataset
from toolscaler.training.retrieval import tokenize_retrieval_rows

M, C = TrajectoryMessage, ToolCall
VERBS = ("convert", "count", "fetch", "tell", "sort", "round", "open", "close", "find")
DOCUMENTS = [
    *(ToolDocument(f"{verb}_it", f"{verb} a thing for me.", category="Units") for verb in VERBS),
    finish_document(),
]
IDS = [document.id for document in DOCUMENTS]
PROTOCOL = AgentProtocol("", finish_documentation=False)
FIT = {"num_levels": 2, "num_centroids": 3, "reduced_dim": 4, "seed": 0}


def _talk(*tools: str) -> Trajectory:
    messages = [M("user", f"please {' and '.join(tools)}")]
    for tool in tools:
        messages += [M("assistant", f"I take {tool}", (C(tool, {}),)), M("tool", "done")]
    return Trajectory((*messages, M("assistant", "", (C.finish("done"),))))


TRAJECTORIES = [_talk(IDS[0], IDS[1]), _talk(IDS[2]), _talk(IDS[3], IDS[0], IDS[4]), _talk(IDS[5], IDS[6])]
QUERIES = [ToolQuery("measure this", (IDS[0], IDS[1])), ToolQuery("sing", (IDS[7],)), ToolQuery("look", (IDS[8],))]
pytestmark = pytest.mark.filterwarnings("ignore::toolscaler.codebook.CatalogueSizeWarning")


@pytest.fixture(scope="module")
def base_tokenizer(make_tiny_tokenizer):
    return make_tiny_tokenizer()


def _codebook(seed: int = 0, **changes) -> tuple[Codebook, np.ndarray]:
    values = np.random.default_rng(seed).normal(size=(len(IDS), 2, 32)).astype(np.float32)
    return Codebook.fit(values, IDS, **{**FIT, **changes}), values


@pytest.fixture(scope="module")
def tuned_tokenizer(base_tokenizer) -> ToolscalerTokenizer:
    return ToolscalerTokenizer.from_tokenizer(base_tokenizer, _codebook(7)[0])


@pytest.fixture
def make_tuned(make_tiny_model, base_tokenizer, tuned_tokenizer):
    def make(arch: str = "llama", tie: bool = False):
        model = make_tiny_model(arch, base_tokenizer, tie=tie, seed=3)
        return initialize_code_embeddings(model, tuned_tokenizer, init="random", seed=5)

    return make


@pytest.fixture
def make_trainer(make_tiny_model, base_tokenizer, tuned_tokenizer, make_tuned, tmp_path):
    def make(folder: str = "run", *, tuned=None, rows=None, codebook=FIT, callbacks=None, **keys):
        quick = {
            "num_train_epochs": 3,
            "per_device_train_batch_size": 3,
            "rows_per_document": 1,
            "lora_r": 4,
            "logging_steps": 1,
            "disable_tqdm": True,
            "max_length": 500,
        }
        config = PostGuidedConfig(output_dir=str(tmp_path / folder), **{**quick, **keys})
        rows = (
            guiding_rows(tuned_tokenizer, DOCUMENTS, TRAJECTORIES, QUERIES, use_queries="always", protocol=PROTOCOL)
            if rows is None
            else rows
        )
        model = GistForToolCompression.from_base_model(make_tiny_model("llama", base_tokenizer))
        return post_guided_trainer(
            model,
            base_tokenizer,
            make_tuned() if tuned is None else tuned,
            tuned_tokenizer,
            DOCUMENTS,
            rows,
            config,
            codebook_options=codebook,
            callbacks=callbacks,
        )

    return make


def whole_batch(trainer, count: int = 5):
    batch = trainer.data_collator([trainer.train_dataset[place] for place in range(count)])
    return {name: value.clone() for name, value in batch.items()}


def hand_sum(model, rows) -> tuple[float, int]:
    """Negative log-likelihood of the counted tokens, one row at a time, without padding."""
    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([list(row["input_ids"])])).logits[0].float().log_softmax(-1)
        for position, label in enumerate(row["labels"]):
            if label != -100:
                total -= logits[position - 1, label].item()
                count += 1
    return total, count


# ---- the rows ----


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="paper"),
        pytest.param({"collisions": "suffix", "num_centroids": 2}, id="suffix"),
        pytest.param({"collisions": "share", "num_centroids": 2}, id="share"),
        pytest.param({"whiten": True, "normalize": True, "metric": "cosine"}, id="whitened-cosine"),
        pytest.param({"projection": "none"}, id="no-projection"),
        pytest.param({"quantizer": "product_kmeans"}, id="product"),
    ],
)
def test_rows_are_those_of_embedding_init_and_follow_the_gists(base_tokenizer, options) -> None:
    codebook, before = _codebook(1, **options)
    now = before.copy()
    live = np.array([4, 0, 7])
    now[live] += np.random.default_rng(2).normal(scale=0.3, size=(3, 2, 32)).astype(np.float32)
    tokenizer = ToolscalerTokenizer.from_tokenizer(base_tokenizer, codebook)
    bank = CodeRowBank(codebook, before)
    rows = bank.rows(torch.tensor(now[live]), torch.tensor(live))
    np.testing.assert_allclose(rows.table.numpy(), reframe_vectors(tokenizer, now, codebook=codebook), atol=2e-4)
    bank.update(torch.tensor(now[live]), torch.tensor(live))
    np.testing.assert_allclose(bank.cache.numpy(), now)
    other = bank.rows(torch.tensor(now[[2]]), torch.tensor([2])).table.numpy()
    np.testing.assert_allclose(other, rows.table.numpy(), atol=1e-4)
    bank.rebuild()
    np.testing.assert_allclose(bank.rows(torch.tensor(now[[2]]), torch.tensor([2])).table.numpy(), other, atol=1e-4)


def test_tools_of_other_processes_count_as_they_are_now_and_each_once() -> None:
    codebook, before = _codebook(1)
    now = before + 0.5
    bank = CodeRowBank(codebook, before)
    everyone = (torch.tensor(now[[1, 4, 6]]), torch.tensor([1, 4, 6]))
    apart = bank.rows(torch.tensor(now[[4, 1]]), torch.tensor([4, 1]), everyone).table
    together = bank.rows(torch.tensor(now[[1, 4, 6]]), torch.tensor([1, 4, 6])).table
    torch.testing.assert_close(apart, together)


def test_a_bank_comes_back_from_its_folder(tmp_path) -> None:
    codebook, gists = _codebook(1)
    CodeRowBank(codebook, gists, epoch=4).save(tmp_path)
    found = CodeRowBank.load(tmp_path, IDS)
    assert found.epoch == 4
    assert found.codebook == codebook
    np.testing.assert_array_equal(found.cache.numpy(), gists)
    with pytest.raises(ArtifactError, match="another catalogue"):
        CodeRowBank.load(tmp_path, IDS[::-1])
    with pytest.raises(TrainingError, match=r"shape \(N, V, D\)"):
        CodeRowBank(codebook, gists[:3])


# ---- the loss ----


@pytest.mark.parametrize("scale", ["match", "none"])
@pytest.mark.parametrize(
    ("arch", "tie"), [("llama", False), ("llama", True), ("gemma", True), ("gemma2", False), ("phi3", False)]
)
def test_the_loss_is_that_of_the_model_that_embedding_init_writes(
    make_trainer, make_tuned, base_tokenizer, arch, tie, scale
) -> None:
    """The slow reference: write the rows into a copy of theta, code the trajectories anew, sum token by token."""
    tuned = make_tuned(arch, tie)
    reference = copy.deepcopy(tuned)
    trainer = make_trainer(tuned=tuned, scale=scale)
    batch = whole_batch(trainer)
    assert len(set(batch["mention_tool"].tolist())) > 4
    codebook = trainer.new_codebook()
    gists = encode_documents(trainer.model, base_tokenizer, DOCUMENTS, show_progress=False)
    tokenizer = ToolscalerTokenizer.from_tokenizer(base_tokenizer, codebook)
    assert tokenizer.num_code_tokens == trainer.guide.model.get_input_embeddings().weight.shape[0] - len(base_tokenizer)
    initialize_code_embeddings(reference, tokenizer, gists, scale=scale)
    dealt = [place % len(rows) for rows in [trainer.train_dataset.rows] for place in trainer_deal(trainer, 5)]
    recoded = _recoded(tokenizer)
    total, count = hand_sum(reference, [recoded[number] for number in dealt])
    live = trainer.bank.rows(torch.tensor(gists[batch["live_tools"].numpy()]).requires_grad_(), batch["live_tools"])
    got, counted = trainer.guide.loss(batch, trainer.bank, live)
    assert int(counted) == count
    assert got.item() / count == pytest.approx(total / count, abs=2e-4)


def trainer_deal(trainer, count: int) -> list[int]:
    return [trainer.train_dataset._row(place) for place in range(count)]


def _recoded(tokenizer) -> list[dict]:
    code_text = {name: tokenizer.tool_code_text(name) for name in tokenizer.tool_names}
    talks = trajectory_rows(TRAJECTORIES, tokenizer, DOCUMENTS, protocol=PROTOCOL).dataset
    single = tokenize_retrieval_rows(tokenizer, retrieval_rows(QUERIES, code_text), RetrievalConfig(output_dir="x"))
    return [*talks, *single]


def test_previous_targets_are_the_old_codes_under_the_old_head(make_trainer, make_tuned, base_tokenizer) -> None:
    """A reference of its own: ordinary embeddings of theta, code positions overwritten by hand."""
    tuned = make_tuned()
    trainer = make_trainer(tuned=tuned, code_targets="previous", scale="none")
    batch = whole_batch(trainer)
    codebook = trainer.new_codebook()
    gists = encode_documents(trainer.model, base_tokenizer, DOCUMENTS, show_progress=False)
    rows = np.concatenate(codebook.level_embeddings(gists))
    offsets = np.cumsum([0, *codebook.code_sizes[:-1]])
    total, count = 0.0, 0
    for number in trainer_deal(trainer, 5):
        row = trainer.train_dataset.rows[number]
        ids = torch.tensor(row["input_ids"])
        embeds = tuned.get_input_embeddings()(ids).detach().clone()
        for start, tool in trainer.data_collator.mentions(ids.numpy()):
            for position in range(4):
                embeds[start + position] = torch.tensor(rows[offsets[position] + codebook.codes[tool, position]])
        with torch.no_grad():
            logits = tuned(inputs_embeds=embeds[None]).logits[0].log_softmax(-1)
        for position, label in enumerate(row["labels"]):
            if label != -100:
                total, count = total - logits[position - 1, label].item(), count + 1
    tools = batch["live_tools"]
    live = trainer.bank.rows(torch.tensor(gists[tools.numpy()]), tools)
    got, counted = trainer.guide.loss(batch, trainer.bank, live)
    assert int(counted) == count
    assert got.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("targets", ["current", "previous"])
def test_the_trajectory_loss_reaches_gist_rows_and_adapter_and_nothing_else(make_trainer, targets) -> None:
    trainer = make_trainer(code_targets=targets, lora_dropout=0.0)
    trainer.new_codebook()
    model = trainer.model.eval()
    with torch.no_grad():  # a fresh adapter's B is zero, which keeps its A from having a gradient
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
    batch = whole_batch(trainer)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    trainer.trajectory_loss(model(**inputs).gist_outputs, batch).backward()
    for name, parameter in model.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert moved == ("lora_" in name or name.endswith("gist_embeddings.modules_to_save.default.weight")), name
        assert parameter.requires_grad == (moved or "task_embeddings.modules_to_save" in name), name
    for name, parameter in trainer.guide.model.named_parameters():
        assert parameter.grad is None, name
        assert not parameter.requires_grad, name
    trained = {id(p) for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}


def test_the_gradient_goes_straight_through_to_the_mentioned_tool(make_trainer) -> None:
    """By hand, on the inputs alone: the gradient at a code's embedding arrives whole at the tool's gist output."""
    trainer = make_trainer(code_targets="previous", scale="none")
    codebook = trainer.new_codebook()
    batch = whole_batch(trainer)
    tools = batch["live_tools"]
    gists = trainer.bank.cache[tools].clone().requires_grad_()
    live = trainer.bank.rows(gists, tools)
    seen = {}
    hook = trainer.guide.model.model.register_forward_pre_hook(
        lambda _, args, keys: seen.setdefault("embeds", keys["inputs_embeds"]).retain_grad(), with_kwargs=True
    )
    trainer.guide.loss(batch, trainer.bank, live)[0].backward()
    hook.remove()
    expected = torch.zeros_like(gists)
    for row, start, tool, slot in zip(
        *(batch[f"mention_{name}"].tolist() for name in ("row", "start", "tool", "slot")), strict=True
    ):
        assert tools[slot] == tool
        for position in range(4):
            gradient = seen["embeds"].grad[row, start + position]
            gist, level = divmod(position, 2)
            components = torch.tensor(codebook.pca_components[gist])
            expected[slot, gist] += gradient if level == 0 else gradient @ components.T @ components
    torch.testing.assert_close(gists.grad, expected, rtol=1e-4, atol=1e-6)
    assert (gists.grad.abs().sum((1, 2)) > 0).sum() > 4


def test_a_tool_alone_in_its_cluster_does_not_blow_the_gradient_up(make_trainer) -> None:
    """Its residual is nothing but rounding; scaled rows of such vectors have derivatives of a million."""
    trainer = make_trainer(codebook={**FIT, "num_centroids": 6})
    codebook = trainer.new_codebook()
    first = codebook.codes[:, [0, 2]]
    assert any(np.bincount(column).tolist().count(1) for column in first.T)
    batch = whole_batch(trainer)
    tools = batch["live_tools"]
    gists = trainer.bank.cache[tools].clone().requires_grad_()
    live = trainer.bank.rows(gists, tools)
    alone = [slot for slot, tool in enumerate(tools) if (first[:, 0] == first[tool, 0]).sum() == 1]
    assert live.own[alone, 1].norm(dim=1).max() < 1e-3 * live.own[:, 0].norm(dim=1).mean()
    total, counted = trainer.guide.loss(batch, trainer.bank, live)
    (total / counted).backward()
    assert gists.grad.norm(dim=(1, 2)).max() < 10


def test_tools_beyond_the_limit_are_rows_without_gradient(make_trainer) -> None:
    trainer = make_trainer(max_live_tools=4)
    trainer.new_codebook()
    items = [trainer.train_dataset[place] for place in range(3)]
    batch = trainer.data_collator(items)
    assert len(batch["live_tools"]) == 4
    assert batch["live_tools"][:3].tolist() == [0, 1, 2]
    assert (batch["mention_slot"] == -1).any()
    assert (batch["mention_slot"] >= 0).any()
    tools = batch["live_tools"]
    gists = trainer.bank.cache[tools].clone()
    limited = trainer.guide.loss(batch, trainer.bank, trainer.bank.rows(gists, tools))[0]
    trainer.data_collator.max_live_tools = None
    every = trainer.data_collator(items)
    assert len(every["live_tools"]) == len(set(every["live_tools"].tolist())) > 4
    tools = every["live_tools"]
    whole = trainer.guide.loss(every, trainer.bank, trainer.bank.rows(trainer.bank.cache[tools].clone(), tools))[0]
    assert limited.item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*checkpointing.*:FutureWarning")
def test_checkpointing_changes_memory_and_nothing_else(make_trainer, make_tuned) -> None:
    gradients = {}
    for name, on in (("plain", False), ("recomputed", True)):
        trainer = make_trainer(name, gradient_checkpointing=on, lora_dropout=0.0, num_train_epochs=1)
        trainer.train()
        gradients[name] = {key: value.clone() for key, value in trainer.model.state_dict().items() if "gist" in key}
        layers = [m for m in trainer.guide.model.modules() if getattr(m, "gradient_checkpointing", False)]
        assert bool(layers) == on
        assert not trainer.guide.model.model.layers[0].self_attn.training
    for key, value in gradients["plain"].items():
        torch.testing.assert_close(gradients["recomputed"][key], value, rtol=1e-4, atol=1e-5)


# ---- training ----


def test_defaults_are_the_papers(tmp_path) -> None:
    config = PostGuidedConfig(output_dir=str(tmp_path))
    assert (config.trajectory_weight, config.max_length, config.learning_rate) == (1.0, 6144, 1e-3)
    assert (config.lora_r, config.lora_alpha, config.lora_dropout, config.use_lora) == (32, 128, 0.1, True)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"code_targets": "next"}, "code_targets"),
        ({"scale": "big"}, "scale"),
        ({"truncation": "right"}, "truncation"),
        ({"trajectory_weight": -1.0}, "trajectory_weight"),
        ({"rows_per_document": 0}, "rows_per_document"),
        ({"max_live_tools": -1}, "max_live_tools"),
        ({"lora_r": 0}, "lora_r"),
    ],
)
def test_bad_settings_name_their_key(tmp_path, keys, key) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: got"):
        PostGuidedConfig(output_dir=str(tmp_path), **keys)


def test_rows_come_from_trajectories_or_from_queries(tuned_tokenizer) -> None:
    def count(*given, **keys):
        return len(guiding_rows(tuned_tokenizer, DOCUMENTS, *given, protocol=PROTOCOL, **keys))

    assert count(TRAJECTORIES, QUERIES) == 4
    assert count(TRAJECTORIES, QUERIES, use_queries="always") == 8
    assert count(None, QUERIES) == 4  # one row a relevant tool
    with pytest.raises(TrainingError, match="expected trajectories"):
        count(None, QUERIES, use_queries="never")
    with pytest.raises(ConfigError, match="use_queries"):
        count(TRAJECTORIES, use_queries="maybe")


def test_every_row_comes_once_before_any_comes_again() -> None:
    rows = [{"input_ids": [number], "labels": [number]} for number in range(7)]
    dataset = GuidedDataset(list(range(5)), rows, 2, seed=3)
    dealt = []
    for epoch in range(7):
        dataset.epoch = epoch
        dealt += [row["input_ids"][0] for item in range(5) for row in dataset[item].rows]
    deals = [dealt[start : start + 7] for start in range(0, 70, 7)]
    assert all(sorted(deal) == list(range(7)) for deal in deals)
    assert len({tuple(deal) for deal in deals}) > 5


class Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_training_stop = state.global_step >= self.step


def weights(trainer):
    return {
        name: value
        for name, value in trainer.model.state_dict().items()
        if "lora_" in name or "modules_to_save" in name
    }


@pytest.mark.parametrize(
    ("steps", "stop"), [pytest.param(1, 6, id="inside-an-epoch"), pytest.param(4, 4, id="last-step-of-an-epoch")]
)
def test_a_resumed_run_ends_with_the_same_weights(make_trainer, tmp_path, steps, stop) -> None:
    keys = {"save_strategy": "steps", "save_steps": steps, "eval_strategy": "steps", "save_total_limit": None}
    whole = make_trainer("whole", **keys)
    whole.train()
    make_trainer("broken", **keys, callbacks=[Stop(stop)]).train()
    checkpoint = last_whole_checkpoint(tmp_path / "broken")
    assert checkpoint.endswith(f"checkpoint-{stop}")
    resumed = make_trainer("broken", **keys)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert resumed.bank.codebook == whole.bank.codebook
    assert resumed.bank.epoch == whole.bank.epoch == 3
    for name, value in weights(whole).items():
        assert weights(resumed)[name].equal(value), name
    expected = [(entry["tool_loss"], entry["trajectory_loss"]) for entry in whole.state.log_history if "loss" in entry]
    got = [(entry["tool_loss"], entry["trajectory_loss"]) for entry in resumed.state.log_history if "loss" in entry]
    assert got[stop:] == expected[stop:]


def test_each_epoch_has_a_new_codebook_of_the_gists_it_ends_with(make_trainer, base_tokenizer) -> None:
    fitted = []

    class Watch(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs) -> None:
            fitted.append(trainer.bank.codebook.fingerprint)

    trainer = make_trainer(learning_rate=5e-3)
    trainer.add_callback(Watch())
    trainer.train()
    assert len(set(fitted)) == 3
    compressor = finalize(trainer)
    gists = encode_documents(compressor, base_tokenizer, DOCUMENTS, show_progress=False)
    np.testing.assert_allclose(gists, trainer.bank.cache.numpy(), atol=1e-4)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    for entry in history:
        assert entry["loss"] == pytest.approx(entry["tool_loss"] + entry["trajectory_loss"], abs=1e-3)
    assert np.mean([e["trajectory_loss"] for e in history[-4:]]) < np.mean([e["trajectory_loss"] for e in history[:4]])


def test_accumulated_batches_weigh_every_token_alike(make_trainer) -> None:
    """2 x 5 documents in one step or in two: the same loss but for cached gists, which are those of the first half."""
    logged = []
    for folder, size, steps in (("one", 10, 1), ("two", 5, 2)):
        trainer = make_trainer(
            folder,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            num_train_epochs=1,
            lora_dropout=0.0,
        )
        trainer.train()
        logged.append(trainer.state.log_history[0])
    for key in ("loss", "tool_loss", "trajectory_loss"):
        assert logged[0][key] == pytest.approx(logged[1][key], rel=1e-4), key


def test_validation_watches_the_documents_alone(make_trainer) -> None:
    trainer = make_trainer(validation_share=0.2, num_train_epochs=1)
    trainer.train()
    assert len(trainer.eval_dataset) == 2
    assert any("eval_loss" in entry for entry in trainer.state.log_history)


def test_the_whole_base_can_be_trained_and_bf16_works(make_trainer) -> None:
    trainer = make_trainer(train_base=True, num_train_epochs=1, bf16=True)
    trainer.train()
    assert all(np.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    assert not any(parameter.requires_grad for parameter in trainer.guide.model.parameters())


def test_what_does_not_fit_together_is_refused(make_trainer, make_tuned, make_tiny_model, tuned_tokenizer) -> None:
    wide = initialize_code_embeddings(make_tiny_model("llama", hidden_size=64), tuned_tokenizer, init="random")
    with pytest.raises(TrainingError, match="one width, got 32 and 64"):
        make_trainer(tuned=wide)
    with pytest.raises(TrainingError, match=r"at least .* embedding rows"):
        make_trainer(tuned=make_tiny_model("llama"))
    peft = pytest.importorskip("peft")
    with pytest.raises(TrainingError, match="merge_and_unload"):
        make_trainer(tuned=peft.get_peft_model(make_tuned(), peft.LoraConfig(target_modules=["q_proj"])))
    trainer = make_trainer()
    with pytest.raises(TrainingError, match="no codebook yet"):
        trainer.trajectory_loss(torch.zeros(1, 2, 32), {})


@pytest.mark.slow
def test_two_launched_processes_train_as_one(make_tuned, make_tiny_model, base_tokenizer, tuned_tokenizer, tmp_path):
    """A real `accelerate launch` of the command: losses and codes of two processes are those of one."""
    make_tiny_model("llama", base_tokenizer).save_pretrained(tmp_path / "base")
    base_tokenizer.save_pretrained(tmp_path / "base")
    make_tuned().save_pretrained(tmp_path / "tuned")
    tuned_tokenizer.save_pretrained(tmp_path / "tuned")
    PROTOCOL.save(tmp_path / "tuned")
    tools = [document.to_dict() for document in DOCUMENTS]
    (tmp_path / "tools.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tools))
    save_trajectories(tmp_path / "trajectories.jsonl", TRAJECTORIES)

    def run(name: str, batch: int, *extra: str) -> list[tuple[float, ...]]:
        flags = [
            *("--model", str(tmp_path / "base"), "--tuned", str(tmp_path / "tuned")),
            *("--tools", str(tmp_path / "tools.jsonl"), "--train_trajectories", str(tmp_path / "trajectories.jsonl")),
            *("--output_dir", str(tmp_path / name), "--per_device_train_batch_size", str(batch), "--max_steps", "3"),
            *("--logging_steps", "1", "--save_strategy", "epoch", "--seed", "3", "--lora_dropout", "0"),
            # Plain descent: Adam's first steps are signs of the gradient, which rounding turns where it is near zero.
            *("--max_length", "500", "--optim", "sgd", "--learning_rate", "0.3"),
        ]
        command = [sys.executable, "-m", "toolscaler.cli", "refine", *flags, *extra]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=280
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "tools have new codes" in done.stdout
        history = json.loads((tmp_path / name / "losses.json").read_text())
        return [tuple(entry[key] for key in _PARTS) for entry in history if "loss" in entry]

    alone = run("one", 10)  # 10 documents: an epoch is one step
    together = run("two", 5, "--accelerate_config", "cpu")
    assert len(alone) == 3
    assert abs(alone[2][0] - alone[0][0]) > 1e-2
    np.testing.assert_allclose(together, alone, rtol=2e-4)
    one, two = (Codebook.from_pretrained(tmp_path / name / "codebook") for name in ("one", "two"))
    np.testing.assert_array_equal(one.codes, two.codes)
    np.testing.assert_allclose(one.centroids, two.centroids, atol=5e-3)
    folder = tmp_path / "two" / "vocabulary"
    assert ToolscalerTokenizer.from_pretrained(folder).tool_names == IDS
    translation = CodeTranslation.load(folder / "translation.json")
    assert translation.translate_codes(tuned_tokenizer.tool_index.codes).tolist() == two.codes.tolist()


_PARTS = ("loss", "tool_loss", "trajectory_loss", "grad_norm")
