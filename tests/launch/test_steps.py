"""What makes a step: the rows, however many processes share them; a batch in one row; logits only at labels."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from toolscaler.embedding import initialize_code_embeddings
from toolscaler.errors import ConfigError
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training import attention
from toolscaler.training.attention import attention_implementation
from toolscaler.training.checkpoints import deepspeed_pieces, last_whole_checkpoint
from toolscaler.training.retrieval import IGNORE_INDEX, RetrievalConfig, flat_inputs, retrieval_trainer
from toolscaler.training.sampling import FilledDataset, StepSampler
from toolscaler.training.trajectory import TrajectoryConfig, trajectory_trainer

TOOLS = ["units/convert_length", "dates/week_day", "text/word_count", "text/reverse"]
WORDS = ("please", "tell", "me", "which", "of", "the", "many", "words", "in", "this", "long", "text", "comes", "last")


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer) -> ToolscalerTokenizer:
    codes = [[0, 1], [1, 0], [2, 2], [2, 0]]
    return ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), codes=codes, tool_ids=TOOLS, code_sizes=(3, 3))


@pytest.fixture
def make_model(make_tiny_model, make_tiny_tokenizer, tokenizer):
    def make(arch: str = "llama"):
        return initialize_code_embeddings(make_tiny_model(arch, make_tiny_tokenizer()), tokenizer, init="random")

    return make


@pytest.fixture(scope="module")
def rows(tokenizer):
    return [
        {
            "prompt": " ".join(WORDS[n % 5 : n % 5 + 1 + n * 7 % 11]),
            "completion": tokenizer.tool_code_text(TOOLS[n % 4]),
        }
        for n in range(20)
    ]


def retrieval(model, tokenizer, rows, folder, **keys):
    quick = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 1,
        "learning_rate": 0.3,
        "optim": "sgd",
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "warmup_steps": 0,
    }
    return retrieval_trainer(model, tokenizer, rows, RetrievalConfig(output_dir=str(folder), **{**quick, **keys}))


def history(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# ---- rows of a step ----


@given(
    count=st.integers(1, 60),
    per_process=st.integers(1, 5),
    accumulate=st.integers(1, 4),
    sort=st.booleans(),
    epoch=st.integers(0, 3),
)
@settings(deadline=None)
def test_a_step_has_the_same_rows_for_any_number_of_processes(count, per_process, accumulate, sort, epoch) -> None:
    """A step takes the same rows from the order whether one process cuts it into batches or several do."""
    lengths = np.random.default_rng(count).integers(1, 50, count) if sort else None
    a_step = per_process * 4 * accumulate
    found = {}
    for processes in (1, 2, 4):
        at_once = per_process * 4 // processes * processes
        sampler = StepSampler(count, rows_a_step=a_step, rows_a_round=at_once, seed=3, lengths=lengths)
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(sampler)
        assert len(order) % at_once == 0
        assert sorted(number for number in order if number < count) == list(range(count))
        found[processes] = [
            sorted(number for number in order[start : start + a_step] if number < count)
            for start in range(0, len(order), a_step)
        ]
    assert found[1] == found[2] == found[4]


def test_the_order_is_accelerates_and_sorting_stays_inside_a_step() -> None:
    from accelerate.data_loader import SeedableRandomSampler

    theirs = SeedableRandomSampler(range(23), data_seed=5)
    lengths = np.random.default_rng(0).integers(1, 9, 23)
    plain = StepSampler(23, rows_a_step=8, seed=5)
    sorting = StepSampler(23, rows_a_step=8, seed=5, lengths=lengths)
    for _ in range(3):  # epochs
        order, own, in_order = list(theirs), list(plain), list(sorting)
        assert own == order
        for start in (0, 8, 16):
            assert sorted(in_order[start : start + 8]) == sorted(order[start : start + 8])
            widths = lengths[in_order[start : start + 8]]
            assert (np.diff(widths) <= 0).all()


def test_the_blank_row_lies_behind_the_others() -> None:
    data = FilledDataset(["a", "b"], "blank")
    assert (len(data), data[0], data[1], data[2]) == (2, "a", "b", "blank")


def test_sorting_the_rows_of_a_step_changes_no_loss(make_model, tokenizer, rows, tmp_path) -> None:
    sorted_ = retrieval(make_model(), tokenizer, rows, tmp_path / "a")
    as_drawn = retrieval(make_model(), tokenizer, rows, tmp_path / "b", sort_step_rows=False)
    widths = [[batch["input_ids"].shape[1] for batch in t.get_train_dataloader()] for t in (sorted_, as_drawn)]
    assert sum(widths[0]) < sum(widths[1])  # there is something to win
    np.testing.assert_allclose(history(sorted_), history(as_drawn), rtol=1e-5)


# ---- a batch in one row ----


@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma2"])
def test_rows_put_behind_each_other_do_not_see_each_other(make_model, tokenizer, rows, tmp_path, arch) -> None:
    model = make_model(arch)
    trainer = retrieval(model, tokenizer, rows, tmp_path, padding_free=True)
    batch = next(iter(trainer.get_train_dataloader()))
    targets = batch["labels"][:, 1:]
    given_ = trainer._model_inputs(model, batch, batch["labels"].shape[1])
    flat = flat_inputs(given_, targets)
    assert flat["input_ids"].shape == (1, int(batch["attention_mask"].sum()))
    with torch.no_grad():
        found = model(**flat).logits[0]
        start = 0
        for row in range(len(targets)):
            own = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            count = int((targets[row] != IGNORE_INDEX).sum())
            alone = model(input_ids=own[None]).logits[0, -count - 1 : -1]
            torch.testing.assert_close(found[start : start + count], alone, atol=1e-5, rtol=1e-4)
            start += count
        # Another neighbour changes nothing; another row of its own does.
        changed = {**flat, "input_ids": flat["input_ids"].clone()}
        first = int(batch["attention_mask"][0].sum())
        changed["input_ids"][0, :first] = 5
        other = model(**changed).logits[0]
    count = int((targets[0] != IGNORE_INDEX).sum())
    torch.testing.assert_close(other[count:], found[count:], atol=1e-5, rtol=1e-4)
    assert (other[:count] - found[:count]).abs().max() > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_without_padding_the_losses_are_the_same(make_model, tokenizer, rows, tmp_path, dropout) -> None:
    keys = {"prompt_token_dropout": dropout}
    padded = history(retrieval(make_model(), tokenizer, rows, tmp_path / "a", **keys))
    flat = history(retrieval(make_model(), tokenizer, rows, tmp_path / "b", padding_free=True, **keys))
    assert abs(padded[-1] - padded[0]) > 1e-2
    np.testing.assert_allclose(flat, padded, rtol=1e-4)


def test_packing_short_rows_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="padding_free"):
        RetrievalConfig(output_dir="unused", packing=True)


# ---- logits ----


def test_logits_are_computed_at_labels_alone(make_model, tokenizer, rows, tmp_path) -> None:
    """The head's output has a row for each label column, and the loss is that of all logits."""
    model = make_model()
    trainer = retrieval(model, tokenizer, rows, tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape)))
    loss = trainer.compute_loss(model.train(), batch)
    hook.remove()
    kept = batch["labels"].shape[1]
    assert [shape[:2] for shape in seen] == [(4, kept)]
    assert kept < batch["input_ids"].shape[1]
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], position_ids=positions).logits
    expected = cross_entropy(
        whole[:, -kept:-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE_INDEX
    )
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)


# ---- settings that pass through ----


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [{"gradient_checkpointing": True}, {"torch_compile": True, "torch_compile_backend": "eager"}],
    ids=["checkpointing", "compile"],
)
def test_settings_that_change_no_number(make_model, tokenizer, rows, tmp_path, keys) -> None:
    plain = history(retrieval(make_model(), tokenizer, rows, tmp_path / "a", max_steps=2))
    found = history(retrieval(make_model(), tokenizer, rows, tmp_path / "b", max_steps=2, **keys))
    np.testing.assert_allclose(found, plain, rtol=1e-5)


@pytest.mark.slow
def test_a_compiled_trajectory_step_counts_the_same_positions(make_model, tokenizer, tmp_path) -> None:
    from datasets import Dataset

    generator = np.random.default_rng(0)
    ids = [generator.integers(3, 300, size).tolist() for size in (9, 17, 12, 5)]
    labels = [[token if place % 3 else IGNORE_INDEX for place, token in enumerate(row)] for row in ids]
    data = Dataset.from_dict({"input_ids": ids, "labels": labels})
    found = []
    for name, keys in (("a", {}), ("b", {"torch_compile": True, "torch_compile_backend": "eager"})):
        config = TrajectoryConfig(
            output_dir=str(tmp_path / name),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=1,
            max_steps=2,
            learning_rate=0.1,
            optim="sgd",
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            **keys,
        )
        found.append(history(trajectory_trainer(make_model(), tokenizer, data, config=config)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)


def test_bfloat16_trains(make_model, tokenizer, rows, tmp_path) -> None:
    exact = history(retrieval(make_model(), tokenizer, rows, tmp_path / "a", max_steps=2))
    rounded = history(retrieval(make_model(), tokenizer, rows, tmp_path / "b", max_steps=2, bf16=True))
    assert rounded != exact
    np.testing.assert_allclose(rounded, exact, rtol=0.02)


def test_attention_is_chosen_and_said_once(monkeypatch, caplog) -> None:
    monkeypatch.setattr(attention, "_said", set())
    assert attention_implementation("eager") == "eager"
    with caplog.at_level("INFO"):
        if not torch.cuda.is_available():
            assert attention_implementation() is None
            assert attention_implementation("auto") is None
            assert caplog.text.count("there is no GPU") == 1
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
        monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
        assert attention_implementation(bf16=True) is None
        assert "too old" in caplog.text
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
        assert attention_implementation(bf16=False) is None
        assert attention_implementation(bf16=True) == "flash_attention_2"
        monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: False)
        assert attention_implementation(bf16=True) is None


# ---- checkpoints of other engines ----


@pytest.fixture
def checkpoint(make_model, tokenizer, rows, tmp_path):
    trainer = retrieval(make_model(), tokenizer, rows, tmp_path, save_strategy="steps", save_steps=1, max_steps=1)
    trainer.train()
    return tmp_path / "checkpoint-1"


def test_checkpoints_of_deepspeed_and_fsdp_are_whole(checkpoint) -> None:
    (checkpoint / "optimizer.pt").rename(checkpoint / "optimizer.bin")
    assert last_whole_checkpoint(checkpoint.parent) == str(checkpoint)  # FSDP, gathered
    (checkpoint / "optimizer.bin").unlink()
    (checkpoint / "optimizer_0").mkdir()
    (checkpoint / "optimizer_0" / ".metadata").touch()
    assert last_whole_checkpoint(checkpoint.parent) == str(checkpoint)  # FSDP, in pieces
    shutil.rmtree(checkpoint / "optimizer_0")
    pieces = checkpoint / "global_step1"
    pieces.mkdir()
    for rank in (0, 1):
        (pieces / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    (checkpoint / "latest").write_text("global_step1")
    assert deepspeed_pieces(checkpoint) == 2
    assert last_whole_checkpoint(checkpoint.parent) == str(checkpoint)


@pytest.mark.parametrize("latest", ["global_step2", "../..", ""], ids=["other", "outside", "empty"])
def test_deepspeeds_record_of_a_folder_that_is_not_there(checkpoint, latest) -> None:
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "latest").write_text(latest)
    assert deepspeed_pieces(checkpoint) == 0
    assert last_whole_checkpoint(checkpoint.parent) is None


def test_only_the_first_process_deletes(checkpoint, monkeypatch) -> None:
    (checkpoint / "trainer_state.json").unlink()
    monkeypatch.setenv("RANK", "1")
    assert last_whole_checkpoint(checkpoint.parent) is None
    assert checkpoint.exists()
    monkeypatch.setenv("RANK", "0")
    assert last_whole_checkpoint(checkpoint.parent) is None
    assert not checkpoint.exists()
