"""The compressor: the cut between Task and Content, padding, loss, indicators. Slow twins are written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModel, BertConfig, BertLMHeadModel

from toolscaler.compression import GistForToolCompression
from toolscaler.compression.functional import embedding_statistics, target_loss
from toolscaler.errors import CompressionError

ARCHITECTURES = ("llama", "qwen2", "qwen3", "mistral", "gemma")


def content(rows, columns, seed=0):
    return torch.randint(3, 400, (rows, columns), generator=torch.Generator().manual_seed(seed))


def targets(rows, tasks, columns, seed=1):
    """Targets of different lengths, padded on the right."""
    labels = content(rows * tasks, columns, seed).view(rows, tasks, columns)
    for row in range(rows):
        for task in range(tasks):
            labels[row, task, 1 + (row + task) % columns :] = -100
    return labels


def padded(ids, side, width=4, value=0):
    """Padding of one value on one side, and the mask."""
    filler = torch.full((len(ids), width), value)
    parts, ones, zeros = (ids, filler), torch.ones_like(ids), torch.zeros_like(filler)
    if side == "left":
        return torch.cat(parts[::-1], 1), torch.cat([zeros, ones], 1)
    return torch.cat(parts, 1), torch.cat([ones, zeros], 1)


@pytest.fixture(params=ARCHITECTURES)
def model(request, make_model):
    return make_model(request.param)


def test_shapes(model):
    ids, labels = content(2, 9), targets(2, 4, 6)
    output = model(ids, labels=labels)
    assert output.gist_outputs.shape == (2, 2, 32)
    assert output.logits.shape == (2, 4, 6, 400)
    assert output.loss.ndim == 0
    assert model(ids).loss is None
    assert model.gist_outputs(ids).equal(output.gist_outputs)


# ---- the cut (section 4.1) ----


def test_task_sees_content_only_through_the_gists(model):
    labels = targets(2, 4, 6)
    one, other = content(2, 9, seed=2), content(2, 9, seed=3)
    gists = model.gist_outputs(one)
    # The other document's gists differ, so that the next lines mean something.
    assert (gists - model.gist_outputs(other)).abs().max() > 1e-3
    assert not model(one, labels=labels).logits.equal(model(other, labels=labels).logits)
    assert model(one, labels=labels).logits.equal(model(gist_outputs=gists, labels=labels).logits)


def test_held_gists_hide_the_content(model):
    """With gist outputs held fixed, whatever Content says changes no Task logit, and no gradient reaches it."""
    labels, held = targets(2, 4, 6), model.gist_outputs(content(2, 9)).detach()
    logits = []
    original = model.gist_outputs
    for seed in (2, 3):
        model.gist_outputs = lambda ids, mask=None, seed=seed: (original(ids, mask), held)[1]
        logits.append(model(content(2, 9, seed), labels=labels).logits)
    assert logits[0].equal(logits[1])


def test_two_passes_equal_the_cascaded_mask_in_one_sequence(model):
    """The paper's layout, written out: one sequence of four blocks and a 4-D mask, run on the bare backbone."""
    ids, labels = content(1, 7), content(1, 5, seed=4).view(1, 1, 5)
    size, gists, task = 7, 2, 3
    output = model(ids, labels=labels, task_ids=torch.tensor([[task]]))
    embed = model.get_input_embeddings()
    blocks = [
        embed(ids),
        model.gist_embeddings.weight[None],
        output.gist_outputs,
        model.task_embeddings.weight[None, task : task + 1],
        embed(labels[0, :, :-1]),
    ]
    sequence = torch.cat(blocks, 1)
    length = sequence.shape[1]
    block_of = torch.tensor([0] * size + [1] * gists + [2] * gists + [3] * (length - size - 2 * gists))
    allowed = {(0, 0), (1, 0), (1, 1), (2, 2), (3, 2), (3, 3)}
    mask = torch.full((length, length), torch.finfo(torch.float32).min)
    for i in range(length):
        for j in range(i + 1):
            if (block_of[i].item(), block_of[j].item()) in allowed:
                mask[i, j] = 0
    hidden = model.backbone.base_model(inputs_embeds=sequence, attention_mask=mask[None, None]).last_hidden_state
    assert torch.allclose(hidden[:, size : size + gists], output.gist_outputs, atol=1e-5)
    logits = model.backbone.get_output_embeddings()(hidden[:, size + 2 * gists :])
    assert torch.allclose(logits, output.logits[0], atol=1e-5)


def test_gists_see_content_and_each_other_backwards(model):
    ids = content(1, 9)
    changed = ids.clone()
    changed[0, 0] = 5 if ids[0, 0] != 5 else 6
    before, after = model.gist_outputs(ids), model.gist_outputs(changed)
    assert all((before - after)[0, i].abs().max() > 1e-5 for i in range(2))
    with torch.no_grad():
        model.gist_embeddings.weight[1] += 1
    later = model.gist_outputs(ids)
    assert torch.allclose(later[0, 0], before[0, 0], atol=1e-6)
    assert (later - before)[0, 1].abs().max() > 1e-3


# ---- padding ----


@pytest.mark.parametrize("side", ["left", "right"])
def test_gists_do_not_depend_on_padding(model, side):
    ids = content(3, 9)
    alone = model.gist_outputs(ids)
    for value in (0, 17):
        outputs = model.gist_outputs(*padded(ids, side, value=value))
        assert (outputs - alone).abs().max() < 1e-5


def test_gists_do_not_depend_on_the_batch(model):
    ids = [content(1, size, seed=size) for size in (3, 11, 6)]
    batch = torch.zeros(3, 11, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for row, one in enumerate(ids):
        batch[row, -one.shape[1] :], mask[row, -one.shape[1] :] = one, 1
    together = model.gist_outputs(batch, mask)
    for row, one in enumerate(ids):
        assert (together[row] - model.gist_outputs(one)[0]).abs().max() < 1e-5
    # The negative: without the mask padding is read, and the numbers move.
    assert (model.gist_outputs(batch)[0] - together[0]).abs().max() > 1e-4


def test_padding_does_not_widen_a_sliding_window(make_tiny_model, tokenizer):
    base = make_tiny_model("mistral", tokenizer)
    base.config.sliding_window = 4
    model = GistForToolCompression.from_base_model(base)
    ids = content(2, 9)
    for side in ("left", "right"):
        assert (model.gist_outputs(*padded(ids, side)) - model.gist_outputs(ids)).abs().max() < 1e-5


def test_absolute_positions_start_at_the_first_token(tokenizer):
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, is_decoder=True,
    )  # fmt: skip
    model = GistForToolCompression.from_base_model(BertLMHeadModel(config).eval())
    model.check_causal()
    ids, labels = content(2, 9), targets(2, 4, 6)
    for side in ("left", "right"):
        assert (model.gist_outputs(*padded(ids, side)) - model.gist_outputs(ids)).abs().max() < 1e-5
    assert math.isclose(model(ids, labels=labels).loss.item(), by_hand(model, ids, labels), rel_tol=1e-5)


# ---- loss ----


def by_hand(model, ids, labels, task_ids=None):
    """One document, one target, one token at a time, nothing padded: the mean of -log p(token)."""
    losses = []
    for row, document in enumerate(ids):
        gists = model.gist_outputs(document[None])
        for j, target in enumerate(labels[row]):
            target = target[target != -100]
            task = j if task_ids is None else task_ids[row, j].item()
            for t in range(len(target)):
                parts = [gists, model.task_embeddings.weight[None, task : task + 1]]
                inputs = torch.cat([*parts, model.get_input_embeddings()(target[None, :t])], 1)
                logits = model.backbone(inputs_embeds=inputs).logits[0, -1]
                losses.append(cross_entropy(logits[None], target[t : t + 1]).item())
    return sum(losses) / len(losses)


def test_loss_equals_a_loop_by_hand(model):
    ids, labels = content(2, 9), targets(2, 4, 5)
    assert math.isclose(model(ids, labels=labels).loss.item(), by_hand(model, ids, labels), rel_tol=1e-5)


def test_loss_with_chosen_tasks_and_missing_targets(model):
    ids, labels = content(2, 9), targets(2, 3, 5)
    labels[1, 2] = -100
    task_ids = torch.tensor([[3, 0, 0], [1, 2, 0]])
    loss = model(ids, labels=labels, task_ids=task_ids).loss
    assert math.isclose(loss.item(), by_hand(model, ids, labels, task_ids), rel_tol=1e-5)


def test_loss_does_not_depend_on_padding(make_model):
    model, ids, labels = make_model(), content(2, 9), targets(2, 4, 5)
    wide = torch.cat([labels, torch.full((2, 4, 7), -100)], 2)
    padded_ids, mask = padded(ids, "left")
    assert torch.allclose(model(padded_ids, mask, wide).loss, model(ids, labels=labels).loss, atol=1e-6)


def test_encoding_once_equals_encoding_for_every_target(model):
    ids, labels = content(3, 9), targets(3, 4, 6)
    losses, gradients = [], []
    for once in (True, False):
        model.zero_grad()
        output = model(*padded(ids, "left"), labels=labels, encode_once=once)
        output.loss.backward()
        losses.append(output.loss.item())
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        assert len(output.gist_outputs) == (3 if once else 12)
    assert math.isclose(*losses, rel_tol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_flattened_targets_equal_the_cube(make_model):
    model, ids, labels = make_model(), content(3, 9), targets(3, 4, 6)
    cube = model(ids, labels=labels)
    flat, tasks = labels.view(12, 6), torch.arange(4).repeat(3)
    assert model(ids, labels=flat, task_ids=tasks).logits.equal(cube.logits.view(12, 6, -1))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = model(ids, labels=flat[order], task_ids=tasks[order], document_index=order // 4)
    assert torch.allclose(shuffled.logits, cube.logits.view(12, 6, -1)[order], atol=1e-5)
    assert math.isclose(shuffled.loss.item(), cube.loss.item(), rel_tol=1e-5)


def test_num_items_is_the_divisor():
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[1, 2, -100], [0, -100, -100]])
    mean = target_loss(logits, labels)
    assert torch.allclose(target_loss(logits, labels, 6), mean / 2)
    assert torch.allclose(target_loss(logits, labels, torch.tensor(6)), mean / 2)
    assert target_loss(logits, torch.full((2, 3), -100)) == 0


# ---- task indicators and new rows ----


def test_every_task_indicator_matters(model):
    ids, labels = content(1, 9), targets(1, 1, 5)
    logits = [model(ids, labels=labels, task_ids=torch.tensor([[j]])).logits for j in range(4)]
    for one in range(4):
        for other in range(one):
            assert (logits[one] - logits[other]).abs().max() > 1e-4


def test_every_new_row_gets_a_gradient(model):
    model(content(2, 9), labels=targets(2, 4, 5)).loss.backward()
    for table in (model.gist_embeddings, model.task_embeddings):
        assert (table.weight.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("arch", ["llama", "gemma"])
def test_new_rows_look_like_embedded_tokens(make_model, arch):
    model = make_model(arch, hidden_size=64, num_gist_tokens=200)
    embedded = model.get_input_embeddings()(torch.arange(400))
    mean, std = embedding_statistics(model.get_input_embeddings(), chunk=7)
    assert torch.allclose(mean, embedded.mean(0), atol=1e-6)
    assert torch.allclose(std, embedded.std(0, unbiased=False), atol=1e-6)
    rows = model.gist_embeddings.weight
    assert 0.9 < (rows.std(0) / std).mean() < 1.1
    # Gemma scales its rows by sqrt(D) on the way in; the gist rows are fed raw and must be that large already.
    raw = model.get_input_embeddings().weight.std() * (math.sqrt(64) if arch == "gemma" else 1)
    assert 0.9 < rows.std() / raw < 1.1


def test_new_rows_are_seeded_and_distinct(make_model):
    one, same, other = make_model(seed=1), make_model(seed=1), make_model(seed=2)
    rows = [torch.cat([m.gist_embeddings.weight, m.task_embeddings.weight]) for m in (one, same, other)]
    assert rows[0].equal(rows[1])
    assert not rows[0].equal(rows[2])
    assert len(rows[0].unique(dim=0)) == 2 + 4


def test_base_object_is_used_as_it_is(make_tiny_model, tokenizer):
    base = make_tiny_model("llama", tokenizer)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    ids = content(2, 9)
    logits = base(ids).logits
    model = GistForToolCompression.from_base_model(base)
    assert model.backbone is base
    assert all(tensor.equal(before[name]) for name, tensor in base.state_dict().items())
    assert base(ids).logits.equal(logits)


def test_half_precision_base_keeps_rows_in_float32(make_tiny_model, tokenizer, tmp_path):
    model = GistForToolCompression.from_base_model(make_tiny_model("llama", tokenizer).to(torch.bfloat16))
    assert model.gist_embeddings.weight.dtype == torch.float32
    output = model(content(2, 9), labels=targets(2, 4, 5))
    assert output.gist_outputs.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    model.save_pretrained(tmp_path)
    loaded = GistForToolCompression.from_pretrained(tmp_path)
    assert (loaded.backbone.dtype, loaded.task_embeddings.weight.dtype) == (torch.bfloat16, torch.float32)


def test_gradient_checkpointing_changes_no_gradient(make_model):
    ids, labels, gradients = content(2, 9), targets(2, 4, 5), []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.allclose(gradients[1][name], g, atol=1e-7) for name, g in gradients[0].items())


# ---- refusals ----


def test_a_model_that_looks_ahead_is_refused(tokenizer):
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )  # fmt: skip
    model = GistForToolCompression.from_base_model(BertLMHeadModel(config).eval())
    with pytest.raises(CompressionError, match="attends to later tokens"):
        model.check_causal()


def test_causality_of_every_architecture(model):
    model.check_causal()
    assert not model.training
    # What transformers does with a configuration whose attention was erased: no mask, no error.
    model.backbone.config._attn_implementation = None
    with pytest.raises(CompressionError, match="attends to later tokens"):
        model.check_causal()


def test_a_base_without_head_is_refused(make_tiny_model, tokenizer):
    bare = AutoModel.from_config(make_tiny_model("llama", tokenizer).config)
    with pytest.raises(CompressionError, match="causal language model"):
        GistForToolCompression.from_base_model(bare)
    with pytest.raises(CompressionError, match="causal language model"):
        GistForToolCompression.from_base_model(42)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"input_ids": torch.zeros(9, dtype=torch.long)}, "input_ids: expected shape"),
        ({"attention_mask": torch.ones(2, 8, dtype=torch.long)}, "attention_mask: expected shape"),
        ({"labels": targets(3, 4, 5)}, "labels: expected shape"),
        ({"labels": targets(2, 3, 5)}, "task_ids: expected shape"),
        ({"labels": targets(2, 4, 5), "task_ids": torch.zeros(2, 3, dtype=torch.long)}, "task_ids: expected shape"),
        ({"labels": targets(2, 4, 5)[0]}, "task_ids"),
        ({"gist_outputs": torch.zeros(2, 2, 32)}, "exactly one"),
        ({"token_type_ids": torch.zeros(2, 9)}, "unexpected"),
    ],
)
def test_bad_inputs_are_refused(make_model, keys, message):
    with pytest.raises(CompressionError, match=message):
        make_model()(**{"input_ids": content(2, 9), **keys})


def test_arguments_for_loading_need_a_name(make_tiny_model, tokenizer):
    with pytest.raises(CompressionError, match="by name"):
        GistForToolCompression.from_base_model(make_tiny_model("llama", tokenizer), dtype="float32")
