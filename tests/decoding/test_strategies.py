"""Every tokenization strategy through one retriever: what it finds is what writing out every sequence finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolscaler.data import ToolDocument
from toolscaler.decoding import CodeTrie, GenerativeRetriever, PrefixConstrainedLogitsProcessor
from toolscaler.embedding import initialize_first_rows
from toolscaler.errors import ConfigError, DecodingError
from toolscaler.tokenization.strategies import STRATEGIES, make_strategy

# Names that begin each other: without an end token the longer ones would never be less likely than these.
NAMES = ["get", "get_weather", "get_weather_today", "get_weather_to", "week", "week_day", "convert_length", "convert"]
QUERIES = ["what is the weather today", "convert 3 metres"]
OPTIONS = {
    "toolscaler": {"settings": {"num_levels": 2, "num_centroids": 4, "reduced_dim": 4}},
    "hierarchical": {"branching": 3},
}


@pytest.fixture(params=[*sorted(STRATEGIES), "hierarchical-own"])
def system(request, make_tiny_tokenizer, make_tiny_model):
    """A retriever with random but clearly different scores, and the number of tools."""
    name, _, own = request.param.partition("-")
    tools = [ToolDocument(text, id=f"tool_{row}") for row, text in enumerate(NAMES)]
    tools.append(ToolDocument("week", provider="moon", id="tool_8"))
    options = {**OPTIONS.get(name, {}), **({"tokens": own} if own else {})}
    gists = np.random.default_rng(1).normal(size=(len(tools), 2, 32)).astype(np.float32)
    base = make_tiny_tokenizer()
    catalogue = make_strategy(name, options).tokenize(tools, base, gists)
    model = initialize_first_rows(make_tiny_model("llama", base), catalogue, gists)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(8 if "lm_head" in key else 4)
    return GenerativeRetriever(model, catalogue.tokenizer)


@torch.no_grad()
def written_out(retriever: GenerativeRetriever, query: str) -> dict[str, float]:
    """The sum of the log-probabilities of each tool's tokens and the end token, one whole forward a tool."""
    tokenizer, scores = retriever.tokenizer, {}
    prompt = tokenizer.encode_retrieval_prompt(query)
    for tool in tokenizer.tool_names:
        ids = [*prompt, *tokenizer.encode_tool(tool), tokenizer.eos_token_id]
        table = retriever.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        scores[tool] = sum(float(table[place - 1, ids[place]]) for place in range(len(prompt), len(ids)))
    return scores


def test_the_search_equals_writing_out_every_sequence(system) -> None:
    for query, whole, narrow in zip(
        QUERIES,
        system.retrieve(QUERIES, 9, num_beams=9),
        system.retrieve(QUERIES, 3, num_beams=3, exact=True),
        strict=True,
    ):
        expected = written_out(system, query)
        best = sorted(expected, key=lambda tool: -expected[tool])
        assert [tool.name for tool in whole] == best
        assert [tool.score for tool in whole] == pytest.approx([expected[tool] for tool in best], abs=1e-3)
        assert [tool.name for tool in narrow] == best[:3]
        assert narrow.certified
        assert all(tool.codes == system.tokenizer.tool_index[tool.name] for tool in whole)
        given = system.score(query, list(expected))
        assert given[0] == pytest.approx(list(expected.values()), abs=1e-3)


def test_generate_under_the_processor_finds_the_same(system) -> None:
    tokenizer = system.tokenizer
    prompt = torch.tensor([tokenizer.encode_retrieval_prompt(QUERIES[0])])
    processor = PrefixConstrainedLogitsProcessor(
        CodeTrie.from_tokenizer(tokenizer), tokenizer.eos_token_id, prompt_length=prompt.shape[1]
    )
    found = system.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        num_beams=9,
        num_return_sequences=9,
        max_new_tokens=tokenizer.code_length + 1,
        length_penalty=0.0,
        early_stopping=False,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        logits_processor=[processor],
        return_dict_in_generate=True,
        output_scores=True,
    )
    expected = written_out(system, QUERIES[0])
    kept = found.sequences_scores > -1e8  # fillers, where fewer sequences than beams are left
    named = [tokenizer.decode_tool(row) for row in found.sequences[kept, prompt.shape[1] :]]
    assert named == [[tool] for tool in sorted(expected, key=lambda tool: -expected[tool])]


def test_an_allow_list_keeps_names_that_begin_others(system) -> None:
    allowed = ["tool_0", "tool_2"]
    (found,) = system.retrieve(QUERIES[0], 9, tools=allowed)
    expected = written_out(system, QUERIES[0])
    assert [tool.name for tool in found] == sorted(allowed, key=lambda tool: -expected[tool])


def test_group_scores_are_for_code_tokens_of_one_length(system) -> None:
    tokenizer = system.tokenizer
    if tokenizer.base_tokens or tokenizer.tool_index.ragged:
        with pytest.raises(DecodingError, match=tokenizer.strategy):
            system.retrieve(QUERIES, scores="group")
    else:
        assert system.retrieve(QUERIES, 1, scores="group")[0]


@pytest.mark.parametrize("tie", [False, True])
def test_atomic_rows_are_means_of_the_matrix_they_go_to(make_tiny_tokenizer, make_tiny_model, tie) -> None:
    base = make_tiny_tokenizer()
    tools = [ToolDocument("get weather", provider="sky"), ToolDocument("week")]
    catalogue = make_strategy("atomic").tokenize(tools, base)
    model = make_tiny_model("llama", base, tie=tie)
    before = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    initialize_first_rows(model, catalogue)
    after = [layer.weight.detach() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[: len(old)], old)
        for row, ids in enumerate(catalogue.first_rows.sources):
            assert torch.allclose(new[len(old) + row], old[list(ids)].mean(0), atol=1e-6)
    matched = initialize_first_rows(
        make_tiny_model("llama", base), make_strategy("atomic", {"scale": "match"}).tokenize(tools, base)
    )
    rows = matched.get_input_embeddings().weight
    assert rows[-1].norm().item() == pytest.approx(rows[: len(base)].norm(dim=1).mean().item(), rel=1e-3)


@pytest.mark.parametrize("sources", [None, [[1]], [[1], []], [[1], [10**6]], [[1], [-1]]])
def test_bad_sources_are_refused(make_tiny_tokenizer, make_tiny_model, sources) -> None:
    from toolscaler.embedding import initialize_code_embeddings

    base = make_tiny_tokenizer()
    catalogue = make_strategy("atomic").tokenize([ToolDocument("one"), ToolDocument("two")], base)
    with pytest.raises(ConfigError, match="sources"):
        initialize_code_embeddings(make_tiny_model("llama", base), catalogue.tokenizer, init="mean", sources=sources)


@pytest.mark.parametrize("name", ["numerical", "semantic"])
def test_strategies_without_new_tokens_leave_the_model_alone(make_tiny_tokenizer, make_tiny_model, name) -> None:
    base = make_tiny_tokenizer()
    catalogue = make_strategy(name).tokenize([ToolDocument("one"), ToolDocument("two")], base)
    model = make_tiny_model("llama", base)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    initialize_first_rows(model, catalogue)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_agent_refuses_codes_that_look_like_text(make_tiny_tokenizer, make_tiny_model) -> None:
    from toolscaler.agent import CodePlanner

    base = make_tiny_tokenizer()
    catalogue = make_strategy("semantic").tokenize([ToolDocument("one"), ToolDocument("two")], base)
    with pytest.raises(DecodingError, match="semantic"):
        CodePlanner(make_tiny_model("llama", base), catalogue.tokenizer)
