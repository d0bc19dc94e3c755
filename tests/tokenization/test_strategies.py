"""The five tokenization strategies: different sequences whatever the names, one interface, and the way to disk."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from toolscaler.data import ToolDocument
from toolscaler.errors import ArtifactError, ConfigError, TokenizationError, TrainingError
from toolscaler.tokenization import ToolIndex, ToolscalerTokenizer
from toolscaler.tokenization.foreign_text import encode_foreign_text
from toolscaler.tokenization.strategies import (
    STRATEGIES,
    make_strategy,
    plot_subtoken_lengths,
    subtoken_lengths,
)
from toolscaler.tokenization.strategies.digits import cluster_paths

NAMES = ["get", "get_weather", "get_weather_today", "convert_length", "week_day"]
OPTIONS = {"toolscaler": {"settings": {"num_levels": 2, "num_centroids": 4, "reduced_dim": 4}}}


def documents(count: int = 23) -> list[ToolDocument]:
    """Names that begin each other, and the same names at several providers."""
    return [
        ToolDocument(NAMES[k % len(NAMES)], f"Does thing {k}.", provider=f"provider{k // len(NAMES)}")
        for k in range(count)
    ]


def gists(count: int = 23) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2, 8)).astype(np.float32)


def made(name: str, base, **options):
    strategy = make_strategy(name, {**OPTIONS.get(name, {}), **options})
    return strategy.tokenize(documents(), base, gists() if strategy.needs_embeddings else None)


@pytest.fixture(params=sorted(STRATEGIES))
def name(request) -> str:
    return request.param


def test_every_tool_has_a_sequence_of_its_own_that_names_it(name, base) -> None:
    digitless = base.unk_token == "[UNK]"  # this vocabulary lacks some digits
    options = {"tokens": "own"} if digitless and name in ("numerical", "hierarchical") else {}
    found = made(name, base, **options)
    tokenizer, sequences = found.tokenizer, found.sequences
    assert found.strategy == tokenizer.strategy == name
    assert tokenizer.tool_names == [document.id for document in documents()]
    assert len({tuple(row) for row in sequences}) == len(documents())
    for tool, row in zip(tokenizer.tool_names, sequences, strict=True):
        assert row == tokenizer.encode_tool(tool)
        assert tokenizer.eos_token_id not in row
        assert tokenizer.decode_tool(row) == tokenizer.decode_tool([*row, tokenizer.eos_token_id]) == [tool]
        text = tokenizer.tool_code_text(tool)
        assert tokenizer.encode_code_text(text) == row
        assert tokenizer.decode_tool(text) == [tool]
    assert tokenizer.decode_tool([]) == []
    assert tokenizer.decode_tool(sequences[0] * 2) == []


def test_only_atomic_and_toolscaler_add_tokens(name, bases) -> None:
    base = bases["bytelevel"]
    tokenizer = made(name, base).tokenizer
    text = "Convert 12 metres: get_weather"
    assert tokenizer(text)["input_ids"] == base(text)["input_ids"]
    added = {"atomic": 23, "toolscaler": sum(tokenizer.code_sizes)}.get(name, 0)
    assert (len(tokenizer) - len(base), tokenizer.num_code_tokens) == (added, added)
    assert tokenizer.required_vocab_size == len(base) + added
    assert tokenizer.first_code_id == len(base)


def test_a_saved_tokenizer_knows_its_strategy(name, bases, tmp_path) -> None:
    found = made(name, bases["bytelevel"])
    found.tokenizer.save_pretrained(tmp_path)
    again = ToolscalerTokenizer.from_pretrained(tmp_path)
    assert (again.strategy, again.base_tokens) == (name, found.tokenizer.base_tokens)
    assert again.tool_index == found.tokenizer.tool_index
    assert np.array_equal(again.tool_token_ids(), found.tokenizer.tool_token_ids())
    assert again.required_vocab_size == found.tokenizer.required_vocab_size
    assert again.format_retrieval_prompt("<a_0> 3 get") == found.tokenizer.format_retrieval_prompt("<a_0> 3 get")


def test_numbers_count_from_one_in_digits_of_the_base(bases) -> None:
    base = bases["bytelevel"]
    tokenizer = made("numerical", base).tokenizer
    zero, three, two = (encode_foreign_text(base, digit)[0] for digit in "032")
    assert tokenizer.encode_tool(tokenizer.tool_names[2]) == [zero, three]  # the third of 23 tools
    assert tokenizer.tool_code_text(tokenizer.tool_names[22]) == "2 3"
    assert tokenizer.encode_tool(tokenizer.tool_names[22]) == [two, three]
    shuffled = made("numerical", base, order_seed=1).tokenizer
    assert sorted(map(tuple, shuffled.tool_index.values())) == sorted(map(tuple, tokenizer.tool_index.values()))
    assert list(shuffled.tool_index.values()) != list(tokenizer.tool_index.values())
    own = made("numerical", base, tokens="own").tokenizer
    assert own.tool_code_text(own.tool_names[2]) == "<a_0><b_3>"
    assert own.num_code_tokens == 20


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60), st.integers(2, 5))
def test_paths_are_leaves_of_a_tree(points, branching) -> None:
    paths = cluster_paths(np.array(points, dtype=np.float32), branching)
    assert all(path and min(path) >= 0 and max(path) < branching for path in paths)
    ordered = sorted(paths)
    assert all(later[: len(first)] != first for first, later in pairwise(ordered))  # none begins another, none twice
    assert paths == cluster_paths(np.array(points, dtype=np.float32), branching)


def test_clusters_share_their_first_digits(bases) -> None:
    points = gists(20) * 0.01
    points[:10] += 100.0
    found = make_strategy("hierarchical", {"branching": 2}).tokenize(documents(20), bases["bytelevel"], points)
    first = [row[0] for row in found.sequences]
    assert len(set(first[:10])) == len(set(first[10:])) == 1
    assert first[0] != first[10]
    assert min(map(len, found.sequences)) < max(map(len, found.sequences))


NAME_PARTS = st.sampled_from(["get", "Get", "_", " ", "weather", "é", "2", "日", "\u200b", "</s>", "<a_0>"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(NAME_PARTS, min_size=1, max_size=5), st.sampled_from(["", "p", "get"])), min_size=1))
def test_names_stay_different_whatever_they_are(base, parts) -> None:
    named = [("".join(words), provider) for words, provider in parts]
    tools = [
        ToolDocument(text, provider=provider, id=f"{row}:{text}")
        for row, (text, provider) in enumerate(named)
        if text.strip()
    ]
    if not tools:
        return
    strategy = make_strategy("semantic", {"max_tokens": 8})
    sequences = strategy.name_tokens(tools, base)
    assert len(set(sequences)) == len(tools)
    assert all(1 <= len(row) <= 8 for row in sequences)
    assert sequences == strategy.name_tokens(tools, base)
    plain = [tuple(encode_foreign_text(base, tool.name.strip())[:8]) for tool in tools]
    for row, ids in enumerate(plain):
        longer = {tuple(encode_foreign_text(base, text)[:8]) for tool in tools for text in (tool.id,)}
        if ids and plain.count(ids) == 1 and ids not in longer | set(sequences[:row]) | set(sequences[row + 1 :]):
            others = {form for k, tool in enumerate(tools) if k != row for form in strategy._forms(tool)}
            if all(tuple(encode_foreign_text(base, form)[:8]) != ids for form in others):
                assert sequences[row] == ids  # a name that nobody else has is left alone


def test_collisions_get_longer_names(bases) -> None:
    base = bases["bytelevel"]
    tools = [
        ToolDocument("compress", provider="imagon"),
        ToolDocument("compress", provider="zip"),
        ToolDocument("expand", provider="zip"),
        ToolDocument("compress", provider="zip", id="other"),
    ]
    found = make_strategy("semantic").tokenize(tools, base)
    texts = [base.decode(row) for row in found.sequences]
    assert texts == ["compress_for_imagon", "zip/compress", "expand", "other"]
    everywhere = make_strategy("semantic", {"with_provider": True}).tokenize(tools[:3], base)
    assert base.decode(everywhere.sequences[2]) == "expand_for_zip"


def test_names_that_the_tokenizer_cannot_tell_apart_are_numbered(bases) -> None:
    base = bases["wordpiece"]
    tools = [ToolDocument("日", id="日"), ToolDocument("日", id="月"), ToolDocument("日", id="日日")]  # all [UNK]
    sequences = make_strategy("semantic").tokenize(tools, base).sequences
    assert len({tuple(row) for row in sequences}) == 3
    assert sequences[0] == [base.unk_token_id]
    assert sequences[1][0] == base.unk_token_id


def test_atomic_rows_come_from_provider_and_name(bases) -> None:
    base = bases["bytelevel"]
    rows = made("atomic", base).first_rows
    assert (rows.kind, rows.scale) == ("mean", "none")
    assert rows.sources[1] == tuple(encode_foreign_text(base, "provider0 get_weather"))
    whole = made("atomic", base, init="document", max_source_tokens=5).first_rows
    assert whole.sources[1] == tuple(encode_foreign_text(base, documents()[1].to_text())[:5])
    assert made("atomic", base, init="random").first_rows.kind == "random"


def test_a_ragged_index_keeps_lengths_through_changes_and_disk(tmp_path) -> None:
    index = ToolIndex((3, 3, 3), ["a", "b", "c"], [[0], [0, 1], [2, 2, 2]], ragged=True)
    assert dict(index) == {"a": (0,), "b": (0, 1), "c": (2, 2, 2)}
    assert index.lengths.tolist() == [1, 2, 3]
    assert index.codes[0].tolist() == [0, -1, -1]
    assert index.tools_with((0, 1)) == ("b",)
    assert index.tools_with((0, 0)) == ()
    grown = index.with_tools(["d"], [[1]]).without_tools(["c"]).renamed({"a": "z"})
    assert dict(grown) == {"z": (0,), "b": (0, 1), "d": (1,)}
    grown.save(tmp_path / "index.json")
    assert ToolIndex.load(tmp_path / "index.json")[0] == grown
    assert json.loads((tmp_path / "index.json").read_text())["format_version"] == 2
    with pytest.raises(TokenizationError, match="given twice"):
        index.with_tools(["d"], [[0, 1]])


@pytest.mark.parametrize("codes", [[[]], [[-1, 0]], [[0, -1, 0]], [[3]], [[0, 0, 0, 0]], [[-2]]])
def test_bad_ragged_codes_are_refused(codes) -> None:
    with pytest.raises(TokenizationError):
        ToolIndex((3, 3, 3), ["a"], codes, ragged=True)


def test_an_index_that_is_not_ragged_refuses_short_codes() -> None:
    with pytest.raises(TokenizationError):
        ToolIndex((3, 3), ["a", "b"], [[0, 0], [0, -1]])


@pytest.mark.parametrize(
    ("strategy", "options", "key"),
    [
        ("words", {}, "strategy"),
        ("atomic", {"inits": "name"}, "atomic.inits"),
        ("atomic", {"init": "nothing"}, "atomic.init"),
        ("atomic", {"scale": "big"}, "atomic.scale"),
        ("atomic", {"max_source_tokens": 0}, "atomic.max_source_tokens"),
        ("numerical", {"tokens": "new"}, "numerical.tokens"),
        ("hierarchical", {"branching": 1}, "hierarchical.branching"),
        ("hierarchical", {"branching": 11}, "hierarchical.branching"),
        ("hierarchical", {"reduced_dim": 0}, "hierarchical.reduced_dim"),
        ("semantic", {"max_tokens": 7}, "semantic.max_tokens"),
        ("semantic", {"max_tokens": "many"}, "semantic"),
    ],
)
def test_bad_options_name_their_key(strategy, options, key) -> None:
    with pytest.raises(ConfigError) as caught:
        make_strategy(strategy, options)
    assert caught.value.key == key


def test_bad_input_is_refused(bases) -> None:
    base = bases["bytelevel"]
    with pytest.raises(ConfigError, match="needs them"):
        make_strategy("hierarchical").tokenize(documents(), base)
    with pytest.raises(TokenizationError, match="N = 23"):
        make_strategy("toolscaler").tokenize(documents(), base, gists(22))
    with pytest.raises(TokenizationError, match="at least one tool"):
        make_strategy("atomic").tokenize([], base)
    with pytest.raises(TokenizationError, match="fast tokenizer"):
        make_strategy("semantic").tokenize(documents(), object())
    with pytest.raises(TokenizationError, match="end token"):
        ToolscalerTokenizer.from_tokenizer(base, codes=[[base.eos_token_id]], tool_ids=["a"], base_tokens=True)
    with pytest.raises(TokenizationError, match="base_tokens"):
        ToolscalerTokenizer.from_tokenizer(base, codes=[[3]], tool_ids=["a"], base_tokens=True, code_sizes=(9,))
    tokenizer = made("semantic", base).tokenizer
    with pytest.raises(TokenizationError, match="blanks between them"):
        tokenizer.encode_code_text("no such piece at all")
    with pytest.raises(TokenizationError):
        tokenizer.add_tools(["new"], codes=[[10**6]])


def test_files_that_do_not_fit_are_refused(bases, tmp_path) -> None:
    made("semantic", bases["bytelevel"]).tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tool_index.json"
    text = path.read_text()
    size = len(bases["bytelevel"])
    for old, new in (
        ('"base_tokens": true', '"base_tokens": "yes"'),
        ('"strategy": "semantic"', '"strategy": 3'),
        (f"[{size},", f"[{size + 1},"),
    ):
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(ArtifactError):
            ToolscalerTokenizer.from_pretrained(tmp_path)


def test_sequences_of_several_lengths_need_the_end_token(bases, tmp_path) -> None:
    from toolscaler.training.retrieval import RetrievalConfig, tokenize_retrieval_rows

    tokenizer = made("semantic", bases["bytelevel"]).tokenizer
    tool = tokenizer.tool_names[0]
    rows = [{"prompt": "what is it", "completion": tokenizer.tool_code_text(tool)}]
    (row,) = tokenize_retrieval_rows(tokenizer, rows, RetrievalConfig(output_dir=str(tmp_path)))
    ids = [*tokenizer.encode_tool(tool), tokenizer.eos_token_id]
    assert row["input_ids"] == tokenizer.encode_retrieval_prompt("what is it") + ids
    assert row["labels"][-len(ids) :] == ids
    with pytest.raises(TrainingError, match="end token"):
        tokenize_retrieval_rows(tokenizer, rows, RetrievalConfig(output_dir=str(tmp_path), train_end_token=False))
    with pytest.raises(TrainingError, match="row 0"):
        tokenize_retrieval_rows(
            tokenizer, [{"prompt": "x", "completion": "what?"}], RetrievalConfig(output_dir=str(tmp_path))
        )


def test_lengths_are_counted_and_drawn(bases, tmp_path) -> None:
    found = {name: made(name, bases["bytelevel"]) for name in STRATEGIES}
    lengths = {name: subtoken_lengths(catalogue) for name, catalogue in found.items()}
    for name, catalogue in found.items():
        rows = [len(row) for row in catalogue.sequences]
        assert lengths[name].counts == {length: rows.count(length) for length in sorted(set(rows))}
        values = lengths[name].to_dict()
        assert values["mean"] == pytest.approx(np.mean(rows), abs=1e-4)
        assert values["deviation"] == pytest.approx(np.std(rows), abs=1e-4)
        assert values["median"] == np.quantile(rows, 0.5, method="inverted_cdf")
        assert subtoken_lengths(catalogue.tokenizer) == lengths[name]
    assert lengths["atomic"].counts == {1: 23}
    assert lengths["numerical"].counts == {2: 23}
    assert lengths["toolscaler"].counts == {4: 23}
    path = plot_subtoken_lengths(lengths, tmp_path / "lengths.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(TokenizationError):
        plot_subtoken_lengths({}, tmp_path / "none.png")
    empty = ToolscalerTokenizer.from_tokenizer(bases["bytelevel"], code_sizes=(2, 2))
    with pytest.raises(TokenizationError):
        subtoken_lengths(empty)


def test_the_door_is_light() -> None:
    code = "import sys, toolscaler.tokenization.strategies; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
