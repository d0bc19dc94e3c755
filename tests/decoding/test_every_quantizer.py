"""Contract: trie, mask and ranking know positions of any sizes, and tools that came later, for every quantiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from support.quantizers import KINDS, make_embeddings
from toolscaler.codebook import Codebook
from toolscaler.decoding import CodeTrie, GenerativeRetriever, PrefixConstrainedLogitsProcessor
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.tokenization import ToolscalerTokenizer

TOOLS, WIDTH = 40, 32
QUERIES = ["How many feet are twelve metres?", "Count the words"]


@pytest.fixture(scope="module", params=list(KINDS))
def made(request, make_tiny_tokenizer, make_tiny_model):
    """A tokenizer of 40 tools and two that were added, and a model whose rows come from the codebook."""
    embeddings = make_embeddings(TOOLS, WIDTH)
    keywords, _ = KINDS[request.param]
    codebook = Codebook.fit(
        embeddings, [f"tool {k}" for k in range(TOOLS)], num_centroids=8, reduced_dim=4, seed=1, **keywords
    )
    tokenizer = ToolscalerTokenizer.from_tokenizer(make_tiny_tokenizer(), codebook)
    model = make_tiny_model("llama", make_tiny_tokenizer(), hidden_size=WIDTH, seed=2)
    initialize_code_embeddings(model, tokenizer, embeddings)
    new = make_embeddings(8, WIDTH, seed=5)[:2] * np.float32(1.5)
    tokenizer.add_tools(["new 0", "new 1"], embeddings=new)
    with torch.no_grad():  # scores that are clearly apart
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.mul_(8 if "lm_head" in name else 4)
    return model.eval(), tokenizer


def test_the_trie_allows_what_some_tool_goes_on_with(made):
    _, tokenizer = made
    trie = CodeTrie.from_tokenizer(tokenizer)
    sequences = [tuple(row) for row in tokenizer.tool_token_ids().tolist()]
    states = {(): 0}
    for length in range(tokenizer.code_length):
        following = {}
        for prefix, state in states.items():
            allowed = sorted({row[length] for row in sequences if row[:length] == prefix})
            _, tokens, children = trie.expand(np.array([state]))
            assert tokens.tolist() == allowed
            following |= {(*prefix, token): child for token, child in zip(allowed, children.tolist(), strict=True)}
        states = following
    assert set(states) == set(sequences)


def test_rankings_are_those_of_every_tool_scored_apart(made):
    model, tokenizer = made
    found = GenerativeRetriever(model, tokenizer).retrieve(QUERIES, 5, num_beams=TOOLS + 2)
    for query, ranking in zip(QUERIES, found, strict=True):
        prompt = tokenizer.encode_retrieval_prompt(query)
        truth = {}
        for name in tokenizer.tool_names:
            codes = tokenizer.encode_tool(name)
            with torch.no_grad():
                rows = model(torch.tensor([[*prompt, *codes]])).logits[0, len(prompt) - 1 :].double()
            ids = [*codes, tokenizer.eos_token_id]
            truth[name] = float(sum(row.log_softmax(0)[token] for row, token in zip(rows, ids, strict=True)))
        best = sorted(truth.values(), reverse=True)[:5]
        assert [tool.score for tool in ranking] == pytest.approx(best, abs=1e-3)
        for tool in ranking:
            assert tool.score == pytest.approx(truth[tool.name], abs=1e-3)
            assert tool.codes == tokenizer.tool_index[tool.name]


def test_tools_that_came_later_are_reached(made):
    model, tokenizer = made
    retriever = GenerativeRetriever(model, tokenizer)
    for name in ("new 0", "new 1"):
        found = retriever.retrieve(QUERIES[0], 1, tools=[name])[0]
        assert name in [tool.name for tool in found]


def test_generate_with_the_processor_writes_tools_only(made):
    model, tokenizer = made
    trie = CodeTrie.from_tokenizer(tokenizer)
    prompt = torch.tensor([tokenizer.encode_retrieval_prompt(QUERIES[1])])
    processor = PrefixConstrainedLogitsProcessor(trie, tokenizer.eos_token_id, prompt_length=prompt.shape[1])
    found = model.generate(
        prompt,
        num_beams=6,
        num_return_sequences=6,
        max_new_tokens=tokenizer.code_length + 1,
        logits_processor=[processor],
        do_sample=False,
    )
    for row in found[:, prompt.shape[1] :].tolist():
        assert tokenizer.decode_tool(row[: tokenizer.code_length])
