"""Stage 1: the paper's settings, a frozen base that stays as it is, resumption and accumulation that change nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from toolscaler.compression import GistForToolCompression
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import CompressionError, ConfigError, TrainingError
from toolscaler.training.compression import CompressionConfig, compression_trainer, finalize

_VERBS = ("convert", "count", "fetch", "tell", "sort", "round")


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer):
    return make_tiny_tokenizer()


@pytest.fixture(scope="module")
def documents():
    return [
        ToolDocument(name=f"{verb}_{i}", category="Dates" if i % 2 else "Units", description=f"{verb} it {i} times.")
        for i, verb in enumerate(_VERBS * 2)
    ]


@pytest.fixture
def make_model(make_tiny_model, tokenizer):
    def make(**keys):
        return GistForToolCompression.from_base_model(make_tiny_model("llama", tokenizer), **keys)

    return make


@pytest.fixture
def make_config(tmp_path):
    def make(folder="run", **keys):
        quick = {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "disable_tqdm": True,
            "validation_share": 0.2,
        }
        return CompressionConfig(output_dir=str(tmp_path / folder), **{**quick, **keys})

    return make


def weights(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# ---- settings ----


def test_defaults_are_the_papers(tmp_path):
    config = CompressionConfig(output_dir=str(tmp_path))
    assert (config.learning_rate, config.weight_decay, config.per_device_train_batch_size) == (1e-3, 1e-4, 12)
    assert (config.lora_r, config.lora_alpha, config.lora_dropout, config.use_lora) == (32, 128, 0.1, True)
    assert config.num_train_epochs >= 6
    assert config.report_to == []
    assert not config.disable_tqdm


def test_config_follows_the_machine_in_a_fresh_process(tmp_path):
    script = (
        "from toolscaler.training import CompressionConfig\n"
        f"c = CompressionConfig(output_dir={str(tmp_path)!r})\n"
        "import torch\n"
        "print(c.use_cpu == (not torch.accelerator.is_available()), c.bf16 and c.use_cpu, c.device.type)\n"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert done.stdout.split() == ["True", "False", "cpu"]


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"use_lora": True, "train_base": True}, "use_lora"),
        ({"validation_share": 1.0}, "validation_share"),
        ({"lora_dropout": -0.1}, "lora_dropout"),
        ({"lora_r": 0}, "lora_r"),
        ({"early_stopping_patience": -1}, "early_stopping_patience"),
        ({"max_queries_per_document": 0}, "max_queries_per_document"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"remove_unused_columns": True}, "remove_unused_columns"),
    ],
)
def test_bad_settings_name_their_key(tmp_path, keys, key):
    with pytest.raises(ConfigError, match=f"^{key}: got"):
        CompressionConfig(output_dir=str(tmp_path), **keys)


# ---- what is trained ----


def test_lora_trains_adapter_and_rows_and_leaves_the_base(make_model, make_config, tokenizer, documents):
    model = make_model()
    before = weights(model)
    trainer = compression_trainer(model, tokenizer, documents, make_config())
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "_embeddings.modules_to_save" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    config = trainer.model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (32, 128, 0.1)
    trainer.train()
    after = {name.replace(".base_layer", ""): t for name, t in trainer.model.get_base_model().state_dict().items()}
    base = [name for name in before if name.startswith("backbone.")]
    assert len(base) == 21
    assert all(after[name].equal(before[name]) for name in base)
    model = finalize(trainer)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert weights(model).keys() == before.keys()
    for table in ("gist_embeddings.weight", "task_embeddings.weight"):
        assert ((weights(model)[table] - before[table]).abs().sum(1) > 0).all()
    assert not weights(model)["backbone.model.layers.0.mlp.up_proj.weight"].equal(
        before["backbone.model.layers.0.mlp.up_proj.weight"]
    )


def test_rows_alone(make_model, make_config, tokenizer, documents):
    model = make_model()
    before = weights(model)
    trainer = compression_trainer(model, tokenizer, documents, make_config(use_lora=False))
    trainer.train()
    changed = {name for name, tensor in weights(finalize(trainer)).items() if not tensor.equal(before[name])}
    assert changed == {"gist_embeddings.weight", "task_embeddings.weight"}


def test_whole_base(make_model, make_config, tokenizer, documents):
    model = make_model()
    before = weights(model)
    trainer = compression_trainer(model, tokenizer, documents, make_config(train_base=True, num_train_epochs=6))
    trainer.train()
    assert not any(tensor.equal(before[name]) for name, tensor in weights(finalize(trainer)).items())
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.3


@pytest.mark.parametrize("merge", [True, False])
def test_trained_compressor_saves_and_loads(make_tiny_model, make_config, tokenizer, documents, tmp_path, merge):
    make_tiny_model("llama", tokenizer).save_pretrained(tmp_path / "base")
    model = GistForToolCompression.from_base_model(tmp_path / "base")
    trainer = compression_trainer(model, tokenizer, documents, make_config(num_train_epochs=1))
    trainer.train()
    final = finalize(trainer, merge=merge)
    final.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").exists() == merge
    assert (tmp_path / "model" / "adapter_model.safetensors").exists() != merge
    loaded = GistForToolCompression.from_pretrained(tmp_path / "model", merge_adapter=False)
    expected = final.encode(tokenizer, documents, show_progress=False)
    assert (loaded.encode(tokenizer, documents, show_progress=False) == expected).all()
    untrained = GistForToolCompression.from_base_model(tmp_path / "base")
    assert not (untrained.encode(tokenizer, documents, show_progress=False) == expected).any()


def test_queries_are_generation_targets(make_model, make_config, tokenizer, documents):
    queries = [ToolQuery(text=f"please {d.description}", tools=(d.id,)) for d in documents]
    model = make_model(num_tasks=5)
    trainer = compression_trainer(model, tokenizer, documents, make_config(num_train_epochs=1), queries=queries)
    before = model.task_embeddings.weight.detach().clone()
    row = trainer.train_dataset[0]
    assert row.task_ids == (0, 1, 2, 3, 4)
    assert tokenizer.decode(row.targets[-1][:-1]).startswith("please ")
    trainer.train()
    assert ((finalize(trainer).task_embeddings.weight - before).abs().sum(1) > 0).all()


# ---- runs that must be the same ----


class _Broken(Exception):
    pass


class _BreakAt(TrainerCallback):
    """Break off in the middle of a step, as a kill would: nothing is evaluated or saved on the way out."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise _Broken


def resume(make_trainer, step):
    """Train until ``step``, break off, and go on in a new trainer."""
    with pytest.raises(_Broken):
        make_trainer([_BreakAt(step)]).train()
    resumed = make_trainer([])
    resumed.train(resume_from_checkpoint=True)
    return resumed


@pytest.mark.parametrize("keys", [{}, {"train_base": True}, {"use_lora": False}])
def test_resumed_run_equals_an_unbroken_one(make_model, make_config, tokenizer, documents, keys):
    """Dropout, order, optimizer: all go on where they were; checkpoints lie inside epochs of three steps."""
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    # Rising validation loss must not end the comparison early.
    keys = {"num_train_epochs": 3, "early_stopping_patience": 0, **steps, **keys}

    def make_trainer(folder, callbacks=()):
        config = make_config(folder, **keys)
        return compression_trainer(make_model(), tokenizer, documents, config, callbacks=callbacks)

    unbroken = make_trainer("unbroken")
    unbroken.train()
    resumed = resume(lambda callbacks: make_trainer("broken", callbacks), 5)
    assert resumed.state.global_step == unbroken.state.global_step == 9
    assert losses(resumed) == losses(unbroken)
    one, other = weights(finalize(unbroken)), weights(finalize(resumed))
    assert all(tensor.equal(other[name]) for name, tensor in one.items())


def test_early_stopping_keeps_its_count_over_a_break(make_model, make_config, tokenizer, documents):
    # A threshold that no epoch reaches: each one counts as no better than the first.
    keys = {"num_train_epochs": 9, "early_stopping_patience": 3, "early_stopping_threshold": 100.0}
    unbroken = compression_trainer(make_model(), tokenizer, documents, make_config("unbroken", **keys))
    unbroken.train()
    steps = unbroken.state.global_step
    assert steps == 4 * 3  # one best epoch and three that are no better, three steps each
    resumed = resume(
        lambda callbacks: compression_trainer(
            make_model(), tokenizer, documents, make_config("broken", **keys), callbacks=callbacks
        ),
        7,
    )
    assert resumed.state.global_step == steps


def test_gradient_accumulation_equals_a_large_batch(make_model, make_config, tokenizer, documents):
    """Targets have different lengths, so that a mean of means would be another number."""
    keys = {"train_base": True, "validation_share": 0, "max_steps": 3, "optim": "sgd", "learning_rate": 0.1}
    results = []
    for batch, steps in ((8, 1), (2, 4)):
        config = make_config(
            f"{batch}", per_device_train_batch_size=batch, gradient_accumulation_steps=steps,
            save_strategy="no", load_best_model_at_end=False, **keys,
        )  # fmt: skip
        trainer = compression_trainer(make_model(), tokenizer, documents[:8], config)
        trainer.train()
        results.append((losses(trainer), weights(finalize(trainer))))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    assert all(torch.allclose(tensor, results[1][1][name], atol=1e-6) for name, tensor in results[0][1].items())


# ---- data ----


def test_validation_is_a_seeded_share(make_model, make_config, tokenizer, documents):
    def ids(seed, **keys):
        config = make_config(seed=seed, validation_share=0.25, **keys)
        trainer = compression_trainer(make_model(), tokenizer, documents, config)
        return [r.id for r in trainer.train_dataset], [r.id for r in trainer.eval_dataset]

    train, held_out = ids(0)
    assert (len(train), len(held_out)) == (9, 3)
    assert sorted(train + held_out) == sorted(d.id for d in documents)
    assert ids(0) == (train, held_out)
    assert ids(1) != (train, held_out)


def test_given_validation_documents_are_used(make_model, make_config, tokenizer, documents):
    trainer = compression_trainer(make_model(), tokenizer, documents[:9], make_config(), eval_documents=documents[9:])
    assert [r.id for r in trainer.train_dataset] == [d.id for d in documents[:9]]
    assert [r.id for r in trainer.eval_dataset] == [d.id for d in documents[9:]]


def test_without_validation_all_are_trained_on(make_model, make_config, tokenizer, documents):
    config = make_config(validation_share=0, num_train_epochs=1)
    trainer = compression_trainer(make_model(), tokenizer, documents, config)
    trainer.train()
    assert len(trainer.train_dataset) == len(documents)
    assert not any("eval_loss" in entry for entry in trainer.state.log_history)
    assert config.load_best_model_at_end, "the caller's settings are not changed"


def test_cut_documents_and_idle_tasks_are_reported(make_model, make_config, tokenizer, caplog):
    documents = [ToolDocument(name=f"tool_{i}", description="long " * 20 * i) for i in range(1, 6)]
    with caplog.at_level(logging.WARNING, logger="toolscaler"):
        trainer = compression_trainer(
            make_model(max_content_length=60), tokenizer, documents, make_config(validation_share=0)
        )
    lengths = [len(tokenizer(document.to_text()).input_ids) for document in documents]
    assert 0 < trainer.train_dataset.truncated_documents == sum(length > 60 for length in lengths)
    assert "documents were cut at 60 tokens" in caplog.text
    assert "the tasks ['category']" in caplog.text


# ---- refusals ----


def test_what_does_not_fit_together_is_refused(make_model, make_config, make_tiny_tokenizer, tokenizer, documents):
    config = make_config()
    with pytest.raises(CompressionError, match="expected GistForToolCompression"):
        compression_trainer(make_model().backbone, tokenizer, documents, config)
    with pytest.raises(CompressionError, match="at least one"):
        compression_trainer(make_model(), tokenizer, [], config)
    with pytest.raises(CompressionError, match="too few"):
        compression_trainer(make_model(), tokenizer, documents[:1], config)
    with pytest.raises(CompressionError, match="needs ToolDocument"):
        compression_trainer(make_model(), tokenizer, ["text", "text"], config)
    with pytest.raises(CompressionError, match="has the task 'query'"):
        compression_trainer(make_model(num_tasks=5), tokenizer, documents, config)
    with pytest.raises(CompressionError, match="no task for them"):
        compression_trainer(make_model(), tokenizer, documents, config, queries={documents[0].id: ["what?"]})
    with pytest.raises(CompressionError, match="rows for 400"):
        compression_trainer(make_model(), make_tiny_tokenizer(vocab_size=420), documents, config)


def test_finalize_refuses_other_trainers(make_tiny_model, tokenizer, make_config):
    from transformers import Trainer

    other = Trainer(model=make_tiny_model("llama", tokenizer), args=make_config(), eval_dataset=[{}])
    with pytest.raises(TrainingError, match="compression trainer"):
        finalize(other)
