"""Contract: rankings equal those of scoring every allowed tool by itself, and of transformers' beam search."""

from __future__ import annotations

import logging
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from toolscaler import (
    CodeTrie,
    GenerativeRetriever,
    PrefixConstrainedLogitsProcessor,
    RetrievedTool,
    ToolscalerTokenizer,
)
from toolscaler.decoding.engine import SearchEngine
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.errors import (
    DecodingError,
    EmptyCatalogueError,
    TokenizationError,
    UnknownToolError,
)

QUERIES = [
    "How many feet are twelve metres?",
    "Count",
    "Which day of the week was the first of May, and what does <a_1><b_0><c_2> mean?",
    "",
    "Fetch the last mined block number.",
]
TOLERANCE = 1e-4


@torch.no_grad()
def exhaustive(model, tokenizer, query: str, scores: str, tools=None) -> dict[str, float]:
    """Score every tool by itself: one unpadded forward without cache over prompt, codes and end token."""
    prompt = tokenizer.encode_retrieval_prompt(query)
    found = {}
    for name in tools or tokenizer.tool_names:
        ids = [*prompt, *tokenizer.encode_tool(name), tokenizer.eos_token_id]
        logits = model(torch.tensor([ids])).logits[0].double()
        total = 0.0
        for position, size in enumerate([*tokenizer.code_sizes, None]):
            row, token = logits[len(prompt) - 1 + position], ids[len(prompt) + position]
            if scores == "full":
                total += float(row.log_softmax(0)[token])
            elif size is not None:
                start = tokenizer.first_code_id + sum(tokenizer.code_sizes[:position])
                total += float(row[token] - row[start : start + size].logsumexp(0))
        found[name] = total
    return found


def assert_ranking(ranking: list[RetrievedTool], expected: dict[str, float], tokenizer) -> None:
    """All of ``expected``, each once, in its order (up to rounding), with its scores and codes."""
    assert {tool.name for tool in ranking} == set(expected)
    assert len(ranking) == len(expected)
    values = [tool.score for tool in ranking]
    assert values == sorted(values, reverse=True)
    for tool in ranking:
        assert tool.score == pytest.approx(expected[tool.name], abs=TOLERANCE)
        assert tool.codes == tokenizer.tool_index[tool.name]
        assert isinstance(tool.score, float)


def best(expected: dict[str, float], count: int) -> list[str]:
    return sorted(expected, key=lambda name: -expected[name])[:count]


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(12)


@pytest.fixture(scope="module")
def model(make_model, tokenizer):
    return make_model(tokenizer)


@pytest.fixture(scope="module")
def retriever(model, tokenizer):
    return GenerativeRetriever(model, tokenizer)


# Against slow twins


@pytest.mark.parametrize("scores", ["full", "group"])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "gemma", "gemma2", "mistral"])
def test_equals_exhaustive_scoring(make_model, make_tokenizer, arch, scores):
    tokenizer = make_tokenizer(20, seed=3)
    model = make_model(tokenizer, arch, tie=arch == "gemma")
    retriever = GenerativeRetriever(model, tokenizer)
    found = retriever.retrieve(QUERIES, top_k=20, scores=scores, batch_size=3)
    for query, ranking in zip(QUERIES, found, strict=True):
        expected = exhaustive(model, tokenizer, query, scores)
        assert max(expected.values()) - min(expected.values()) > 1  # premise: the model tells tools apart
        assert_ranking(ranking, expected, tokenizer)
    tops = retriever.retrieve(QUERIES, top_k=3, num_beams=20, scores=scores)
    assert [[tool.name for tool in top] for top in tops] == [[tool.name for tool in whole[:3]] for whole in found]


def test_group_and_full_are_different_numbers(retriever):
    (full,), (group,) = (retriever.retrieve("Count", scores=scores) for scores in ("full", "group"))
    assert all(g.score > f.score for g, f in zip(group, full, strict=True))  # less is in the denominator


@pytest.mark.parametrize("tools", [None, ["tool_1", "tool_3", "tool_5", "tool_8", "tool_13", "tool_21", "tool_34"]])
@pytest.mark.parametrize("beams", [1, 2, 5, 40])
def test_equals_generate_with_the_processor(make_model, make_tokenizer, beams, tools):
    """Also where the beams are too few to see every tool: the same ones fall out."""
    tokenizer = make_tokenizer(40, seed=1)
    model = make_model(tokenizer, seed=1)
    retriever = GenerativeRetriever(model, tokenizer)
    trie = CodeTrie.from_tokenizer(tokenizer) if tools is None else retriever.trie.subset(tools=tools)
    prompts = [tokenizer.encode_retrieval_prompt(query) for query in QUERIES]
    inputs = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    expected = model.generate(
        **inputs,
        logits_processor=[PrefixConstrainedLogitsProcessor(trie, tokenizer.eos_token_id)],
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=6,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    width = inputs["input_ids"].shape[1]
    if beams == 1:  # greedy: no sequences_scores
        names = [tokenizer.decode_tool(row[width:]) for row in expected.sequences]
        assert [
            [tool.name for tool in row] for row in retriever.retrieve(QUERIES, 1, num_beams=1, tools=tools)
        ] == names
        return
    found = retriever.retrieve(QUERIES, beams, num_beams=beams, tools=tools)
    for query, ranking in enumerate(found):
        rows = slice(query * beams, (query + 1) * beams)
        scores = expected.sequences_scores[rows]
        real = {
            tokenizer.decode_tool(ids[width:])[0]: float(score)
            for ids, score in zip(expected.sequences[rows], scores, strict=True)
            if score > -1e8
        }
        assert_ranking(ranking, real, tokenizer)
        assert [tool.name for tool in ranking] == list(real)


def test_beams_limit_what_is_seen(make_model, make_tokenizer):
    """Premise of the test above: with few beams the search is not exhaustive, and more beams never do worse here."""
    tokenizer = make_tokenizer(40, seed=1)
    retriever = GenerativeRetriever(make_model(tokenizer, seed=1), tokenizer)
    narrow, wide = (retriever.retrieve(QUERIES, 2, num_beams=beams) for beams in (2, 40))
    assert narrow != wide
    assert all(w[0].score >= n[0].score - TOLERANCE for n, w in zip(narrow, wide, strict=True))


# Subsets, ties, changes of the catalogue


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    allowed=st.lists(st.sampled_from([f"tool_{k}" for k in range(12)]), min_size=1, max_size=14),
    query=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=25),
    top_k=st.integers(1, 15),
    beams=st.none() | st.integers(1, 15),
    scores=st.sampled_from(["full", "group"]),
)
def test_output_is_always_in_the_allowed_set(retriever, tokenizer, allowed, query, top_k, beams, scores):
    (ranking,) = retriever.retrieve([query], top_k, tools=allowed, num_beams=beams, scores=scores)
    names = [tool.name for tool in ranking]
    assert len(set(names)) == len(names)
    assert set(names) <= set(allowed)
    assert len(names) == min(top_k, len(set(allowed)))
    values = [tool.score for tool in ranking]
    assert values == sorted(values, reverse=True)
    if (beams or 10) >= 12 or max(beams or 10, top_k) >= len(set(allowed)):  # wide enough to be exact
        expected = exhaustive(retriever.model, tokenizer, query, scores, sorted(set(allowed)))
        for tool, name in zip(ranking, best(expected, top_k), strict=True):
            assert tool.score == pytest.approx(expected[name], abs=TOLERANCE)
            assert tool.score == pytest.approx(expected[tool.name], abs=TOLERANCE)


def test_forms_of_a_subset(retriever):
    wanted = ["tool_7", "tool_2", "tool_7"]
    part = retriever.trie.subset(tools=wanted)
    forms = [wanted, tuple(wanted), set(wanted), (name for name in wanted), dict.fromkeys(wanted, 1), part, part]
    first = retriever.retrieve(QUERIES, tools=wanted)
    assert {tool.name for row in first for tool in row} == {"tool_2", "tool_7"}
    assert all(retriever.retrieve(QUERIES, tools=form) == first for form in forms)
    assert {tool.name for row in retriever.retrieve(QUERIES, 12) for tool in row} > {"tool_2", "tool_7"}


def test_shared_codes_give_all_their_tools(make_model, make_tokenizer):
    tokenizer = make_tokenizer(30, shared=True, sizes=(2, 2, 3))
    codes = [tokenizer.tool_index[name] for name in tokenizer.tool_names]
    assert len(set(codes)) < 13  # premise: tools share codes
    model = make_model(tokenizer)
    retriever = GenerativeRetriever(model, tokenizer)
    for scores in ("full", "group"):
        (ranking,) = retriever.retrieve(["Count"], top_k=30, scores=scores)
        assert_ranking(ranking, exhaustive(model, tokenizer, "Count", scores), tokenizer)
        ties = [(a, b) for a, b in pairwise(ranking) if a.codes == b.codes]
        assert ties
        for one, other in ties:  # equal scores: catalogue order
            assert one.score == other.score
            assert tokenizer.tool_names.index(one.name) < tokenizer.tool_names.index(other.name)
    # top_k counts tools, not codes; and of two tools with one code sequence only the allowed one comes.
    assert [len(row) for row in retriever.retrieve(QUERIES, 4, num_beams=1)] == [4] * len(QUERIES)
    one, other = ties[0]
    ((only,),) = retriever.retrieve(["Count"], tools=[other.name])
    assert only.name == other.name


def test_exact_ties_keep_catalogue_order(make_model, make_tokenizer):
    """A head of zeros gives every sequence the same score."""
    tokenizer = make_tokenizer(12)
    model = make_model(tokenizer)
    torch.nn.init.zeros_(model.lm_head.weight)
    (ranking,) = GenerativeRetriever(model, tokenizer).retrieve(["Count"], 12)
    assert [tool.name for tool in ranking] == tokenizer.tool_names


def test_changes_of_the_catalogue_count_from_the_next_call(make_model, make_tokenizer):
    tokenizer = make_tokenizer(8)
    model = make_model(tokenizer)
    retriever = GenerativeRetriever(model, tokenizer)

    def check():
        (ranking,) = retriever.retrieve(["Count"], top_k=50)
        assert_ranking(ranking, exhaustive(model, tokenizer, "Count", "full"), tokenizer)
        return ranking

    best_before = check()[0].name
    tokenizer.remove_tools([best_before])
    assert best_before not in {tool.name for tool in check()}
    with pytest.raises(UnknownToolError):
        retriever.retrieve("Count", tools=[best_before])
    taken = {tokenizer.tool_index[name] for name in tokenizer.tool_names}
    free = next(codes for codes in np.ndindex(*tokenizer.code_sizes) if codes not in taken)
    tokenizer.add_tools(["newcomer"], codes=[free])
    assert "newcomer" in {tool.name for tool in check()}
    tokenizer.rename_tools({"newcomer": "renamed"})
    assert "renamed" in {tool.name for tool in check()}
    tokenizer.remove_tools(tokenizer.tool_names)
    with pytest.raises(EmptyCatalogueError):
        retriever.retrieve("Count")


def test_a_trie_of_another_catalogue_is_refused(make_model, make_tokenizer):
    tokenizer = make_tokenizer(6)
    retriever = GenerativeRetriever(make_model(tokenizer), tokenizer)
    part = retriever.trie.subset(tools=["tool_1", "tool_2"])
    assert {tool.name for tool in retriever.retrieve("Count", tools=part)[0]} == {"tool_1", "tool_2"}
    codes = tokenizer.tool_index["tool_1"]
    tokenizer.remove_tools(["tool_1"])
    with pytest.raises(UnknownToolError, match="tool_1"):  # else a removed tool would come back
        retriever.retrieve("Count", tools=part)
    taken = {tokenizer.tool_index[name] for name in tokenizer.tool_names} | {codes}
    tokenizer.add_tools(["tool_1"], codes=[next(c for c in np.ndindex(*tokenizer.code_sizes) if c not in taken)])
    with pytest.raises(DecodingError, match="make it again"):  # the name is back, with other codes
        retriever.retrieve("Count", tools=part)
    for other in (
        CodeTrie.from_token_sequences([[1, 2]], ["tool_2"]),
        CodeTrie.from_token_sequences([[400]], ["tool_2"]),
    ):
        with pytest.raises(DecodingError, match="make it again"):
            retriever.retrieve("Count", tools=other)


def test_a_change_in_the_middle_of_a_call_does_not_touch_it(make_model, make_tokenizer):
    tokenizer = make_tokenizer(6)
    model = make_model(tokenizer)
    retriever = GenerativeRetriever(model, tokenizer)
    expected = retriever.retrieve(QUERIES, batch_size=2)
    handle = model.get_input_embeddings().register_forward_hook(
        lambda *_: tokenizer.remove_tools(tokenizer.tool_names[1:]) if len(tokenizer.tool_names) > 1 else None
    )
    assert retriever.retrieve(QUERIES, batch_size=2) == expected
    handle.remove()
    assert [[tool.name for tool in row] for row in retriever.retrieve(QUERIES)] == [["tool_0"]] * len(QUERIES)


def test_threads_share_one_retriever(retriever):
    """Each with a subset of its own: a cached trie of one must not serve another."""
    subsets = [[f"tool_{k}", f"tool_{k + 6}"] for k in range(6)]
    failures = []

    def work(allowed):
        for _ in range(5):
            for row in retriever.retrieve(QUERIES[:2], tools=allowed):
                if {tool.name for tool in row} != set(allowed):
                    failures.append(row)

    threads = [threading.Thread(target=work, args=(allowed,)) for allowed in subsets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# Batches, models of other makes


def gpt2():
    config = GPT2Config(vocab_size=50, n_positions=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    return GPT2LMHeadModel(config)


def bert():
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        is_decoder=True,
    )
    return BertLMHeadModel(config)


@pytest.fixture(scope="module", params=["llama", "gpt2", "bert", "gpt2 with peft"])
def any_retriever(request, make_model, tokenizer):
    """Rotary positions forgive a shift by the padding; learned positions do not."""
    if request.param == "llama":
        return GenerativeRetriever(make_model(tokenizer), tokenizer)
    torch.manual_seed(0)
    model = {"gpt2": gpt2, "bert": bert}[request.param.split()[0]]()
    initialize_code_embeddings(model, tokenizer, init="random")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    if request.param.endswith("peft"):
        peft = pytest.importorskip("peft")
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    return GenerativeRetriever(model.eval(), tokenizer)


@pytest.mark.parametrize("scores", ["full", "group"])
def test_a_ranking_does_not_depend_on_its_batch(any_retriever, tokenizer, scores):
    alone = [any_retriever.retrieve(query, 12, scores=scores)[0] for query in QUERIES]
    for query, ranking in zip(QUERIES, alone, strict=True):
        assert_ranking(ranking, exhaustive(any_retriever.model, tokenizer, query, scores), tokenizer)
    for batch_size in (2, 16):
        for order in (range(5), [3, 0, 4, 2, 1]):
            found = any_retriever.retrieve([QUERIES[k] for k in order], 12, batch_size=batch_size, scores=scores)
            for k, ranking in zip(order, found, strict=True):
                assert_ranking(ranking, {tool.name: tool.score for tool in alone[k]}, tokenizer)


def test_chat_templates_and_wide_heads(make_model, make_tokenizer):
    tokenizer = make_tokenizer(9, chat=True)
    assert "[assistant]" in tokenizer.format_retrieval_prompt("Count")  # premise
    model = make_model(tokenizer, "qwen2", pad_to_multiple_of=128, tie=True)
    retriever = GenerativeRetriever(model, tokenizer)
    for query, ranking in zip(QUERIES, retriever.retrieve(QUERIES, 9), strict=True):
        assert_ranking(ranking, exhaustive(model, tokenizer, query, "full"), tokenizer)


def test_long_queries_are_cut_as_in_training(any_retriever, tokenizer, caplog):
    model = any_retriever.model
    limit = model.config.max_position_embeddings
    long = " ".join(f"count {k} words" for k in range(limit))
    room = limit - tokenizer.code_length  # the end token is scored, never fed
    ids = tokenizer.encode_retrieval_prompt(long)
    assert len(ids) > limit  # premise
    with caplog.at_level(logging.WARNING, logger="toolscaler"):
        cut, whole = any_retriever.retrieve([long, "Count"], 12)
    assert f"1 of 2 prompts were cut to the model's {room} positions" in caplog.text
    assert_ranking(whole, exhaustive(model, tokenizer, "Count", "full"), tokenizer)
    expected = {}
    for name in tokenizer.tool_names:
        codes = tokenizer.encode_tool(name)
        with torch.no_grad():
            logits = model(torch.tensor([[*ids[-room:], *codes]])).logits[0, -len(codes) - 1 :].log_softmax(-1)
        expected[name] = float(sum(row[t] for row, t in zip(logits, [*codes, tokenizer.eos_token_id], strict=True)))
    assert_ranking(cut, expected, tokenizer)


def test_a_cut_prompt_keeps_its_start_token(make_model, make_tiny_tokenizer, monkeypatch):
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=[[0]], tool_ids=["t"], code_sizes=(2,), retrieval_template="<s>{query}\n"
    )
    retriever = GenerativeRetriever(make_model(tokenizer), tokenizer)
    ids = tokenizer.encode_retrieval_prompt("count " * 600)
    assert ids[0] == tokenizer.bos_token_id  # premise
    searched = []
    search = SearchEngine.search
    monkeypatch.setattr(
        SearchEngine, "search", lambda *given, **more: searched.extend(given[1]) or search(*given, **more)
    )
    retriever.retrieve("count " * 600)
    assert searched == [[ids[0], *ids[-(512 - 1 - 1) :]]]  # 512 positions, one code to feed behind the prompt


def test_training_mode_is_left_as_it_was(make_model, make_tokenizer):
    tokenizer = make_tokenizer(5)
    model = make_model(tokenizer)
    expected = GenerativeRetriever(model, tokenizer).retrieve(QUERIES)
    assert not model.training
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    ids = torch.arange(5, 15)[None]
    assert not torch.equal(model(ids).logits, model(ids).logits)  # premise: dropout
    retriever = GenerativeRetriever(model, tokenizer)
    assert retriever.retrieve(QUERIES) == expected  # no dropout
    assert model.training
    with pytest.raises(TokenizationError):
        retriever.retrieve([3])
    assert model.training
    assert model(ids).logits.requires_grad
