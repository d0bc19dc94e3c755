"""Contract: whatever a model likes to write, what it can write is valid JSON that fits the tool's schema."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toolscaler import ToolscalerTokenizer
from toolscaler.agent.argument_schema import ArgumentLimits
from toolscaler.agent.argument_text import ArgumentError, parse_arguments
from toolscaler.agent.argument_vocabulary import ArgumentVocabulary
from toolscaler.agent.arguments import ArgumentGrammar, ArgumentGrammars
from toolscaler.data import ToolDocument
from toolscaler.errors import ConfigError, DecodingError

pytest.importorskip("llguidance")

_spec = importlib.util.spec_from_file_location("argument_walks", Path(__file__).with_name("argument_walks.py"))
walks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(walks)

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days"],
}


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer):
    return ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=[[0, 1], [2, 3]], tool_ids=["x", "y"], code_sizes=(4, 4)
    )


def accepts(grammar, text: str) -> bool:
    """Feed a text byte by byte's worth of tokens, by the engine's own greedy tokenizer."""
    matcher = grammar.matcher()
    try:
        for token in grammar.vocabulary.engine_tokenizer.tokenize_bytes(text.encode()):
            matcher.accept(token)
    except DecodingError:
        return False
    return matcher.accepting


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(walks.schemas(), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 3.0]))
def test_random_walks_are_valid(tokenizer, schema, seed, sharpness) -> None:
    """Strict JSON, and valid by jsonschema's own class, which knows nothing of the grammar."""
    grammar = ArgumentGrammar(tokenizer, schema)
    text = walks.random_walk(grammar, seed, sharpness=sharpness)
    value = json.loads(text)
    assert (grammar.level, grammar.weakened) == ("schema", ())
    assert list(Draft202012Validator(schema).iter_errors(value)) == []
    assert grammar.parse(text) == value
    json.dumps(value, allow_nan=False).encode()


@pytest.mark.parametrize("words", [1, 40, 100])
@pytest.mark.parametrize("pattern", ["日.?本", r"\d", "é|ü", r"b[0-9]+b"])
def test_a_long_text_that_lacks_a_pattern_is_closed(tokenizer, pattern, words) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"]}
    matcher = ArgumentGrammar(tokenizer, schema).matcher()
    for token in tokenizer.encode('{"a": "' + "wander Ω by " * words, add_special_tokens=False):
        matcher.accept(token)
    way = matcher.closing_tokens(4000)
    assert way is not None
    for token in way:
        matcher.accept(token)
    assert matcher.accepting
    assert re.search(pattern, json.loads(matcher.text)["a"])


LEAVES = (
    ({"type": "integer", "minimum": -50, "maximum": 5000}, st.integers(-50, 5000)),
    ({"type": "number", "minimum": -3, "maximum": 2.5}, st.integers(-300, 250).map(lambda n: n / 100)),
    ({"type": "string", "maxLength": 8}, st.text(st.characters(codec="utf-8"), max_size=8)),
    ({"type": "string", "pattern": "^[a-z]{1,4}$"}, st.from_regex(r"\A[a-z]{1,4}\Z")),
    ({"enum": ["x", 1, None, "é"]}, st.sampled_from(["x", 1, None, "é"])),
    ({"type": "boolean"}, st.booleans()),
    ({"type": "array", "items": {"type": "boolean"}, "maxItems": 3}, st.lists(st.booleans(), max_size=3)),
    ({"anyOf": [{"type": "null"}, {"type": "string", "minLength": 2}]}, st.none() | st.sampled_from(["ab", "日本語"])),
    ({"type": "string", "format": "date"}, st.dates().map(str)),
    ({}, st.sampled_from([1, "x", None, [1, {"y": []}], {"k": {"l": True}}])),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_valid_arguments_can_be_written(tokenizer, data) -> None:
    """Nothing that fits is shut out: keys in the schema's order, optional ones there or not."""
    schema, value = {"type": "object", "properties": {}, "required": []}, {}
    for name in data.draw(st.lists(walks.NAMES, max_size=5, unique=True)):
        leaf, values = data.draw(st.sampled_from(LEAVES))
        schema["properties"][name] = leaf
        if data.draw(st.booleans()):
            value[name] = data.draw(values)
            schema["required"] += [name] * data.draw(st.booleans())
    # The engine writes the delete character escaped; JSON allows both.
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    assert accepts(ArgumentGrammar(tokenizer, schema), text)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"city": "Oslo", "days": 3}', True),
        ('{"city": "東京 😀", "days": 14, "unit": "C"}', True),
        ('{"city": "a\\"b\\n", "days": 1}', True),
        ('{"days": 3}', False),
        ('{"city": "Oslo", "days": 0}', False),
        ('{"city": "Oslo", "days": 15}', False),
        ('{"city": "Oslo", "days": 3.5}', False),
        ('{"city": "Oslo", "days": "3"}', False),
        ('{"city": "thirteen char", "days": 3}', False),
        ('{"city": "Oslo", "days": 3, "unit": "K"}', False),
        ('{"city": "Oslo", "days": 3, "more": 1}', False),
        ('{"city": "Oslo", "days": 3, "days": 4}', False),
        ('{"city":   "Oslo", "days": 3}', False),
        ("[1]", False),
        ('{"city": "\n", "days": 3}', False),
    ],
    ids=lambda value: None if isinstance(value, bool) else repr(value)[:24],
)
def test_by_hand(tokenizer, text, fits) -> None:
    assert accepts(ArgumentGrammar(tokenizer, SCHEMA), text) == fits


@pytest.mark.parametrize("wrapped", [True, False], ids=["with codes", "plain"])
def test_codes_and_special_tokens_stand_in_no_value(make_tiny_tokenizer, tokenizer, wrapped) -> None:
    used = tokenizer if wrapped else make_tiny_tokenizer()
    grammar = ArgumentGrammar(used, {"type": "object", "properties": {"s": {"type": "string"}}, "required": ["s"]})
    matcher = grammar.matcher()
    for token in grammar.vocabulary.engine_tokenizer.tokenize_bytes(b'{"s": "x'):
        matcher.accept(token)
    inside = matcher.allowed()
    assert inside.sum() > 200
    assert not inside[list(used.added_tokens_decoder)].any()
    assert not inside[used.all_special_ids].any()
    if wrapped:
        codes = range(used.first_code_id, used.first_code_id + used.num_code_tokens)
        assert not inside[list(codes)].any()
        for token in [*codes, used.eos_token_id, used.pad_token_id]:
            with pytest.raises(DecodingError):
                matcher.accept(token)
    # As text a code may be written, letter by letter; it is then no code token.
    matcher.accept(used.convert_tokens_to_ids("<"))
    assert matcher.text == '{"s": "x<'


def test_an_ordinary_added_token_is_no_value(make_tiny_tokenizer) -> None:
    used = make_tiny_tokenizer()
    used.add_tokens(["<tool_call>"])
    (token,) = used.convert_tokens_to_ids(["<tool_call>"])
    matcher = ArgumentGrammar(used, SCHEMA).matcher()
    for start in ArgumentVocabulary.of(used).engine_tokenizer.tokenize_bytes(b'{"city": "'):
        matcher.accept(start)
    assert not matcher.allowed()[token]


def test_the_end(tokenizer) -> None:
    grammar = ArgumentGrammar(tokenizer, SCHEMA)
    matcher, end = grammar.matcher(), tokenizer.eos_token_id
    with pytest.raises(DecodingError):
        matcher.accept(end)
    way = matcher.closing_tokens(200)
    assert matcher.tokens == ()
    for token in way:
        assert not matcher.accepting
        assert matcher.allowed()[token]
        matcher.accept(token)
    assert matcher.complete
    assert not matcher.finished
    assert np.flatnonzero(matcher.allowed()).tolist() == [end]
    assert grammar.parse(matcher.text) == {"city": "", "days": 1}
    matcher.accept(end)
    matcher.accept(end)
    assert matcher.finished
    assert np.flatnonzero(matcher.allowed()).tolist() == [end]
    assert matcher.text == '{"city": "", "days": 1}'
    with pytest.raises(DecodingError):
        matcher.accept(way[0])
    assert matcher.closing_tokens(0) == []


def test_end_tokens_of_the_callers_own(tokenizer) -> None:
    (newline,) = tokenizer.encode("\n", add_special_tokens=False)
    grammar = ArgumentGrammar(tokenizer, {"type": "object", "properties": {}}, end_token_ids=(newline,))
    matcher = grammar.matcher()
    for token in matcher.closing_tokens(9):
        matcher.accept(token)
    assert np.flatnonzero(matcher.allowed()).tolist() == [newline]
    with pytest.raises(DecodingError):
        ArgumentGrammar(tokenizer, {}, end_token_ids=(10**6,))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(walks.schemas(), st.integers(0, 2**32 - 1), st.data())
def test_rollback_and_copies_equal_a_fresh_start(tokenizer, schema, seed, data) -> None:
    grammar, rng = ArgumentGrammar(tokenizer, schema), np.random.default_rng(seed)
    matcher = grammar.matcher()
    for _ in range(25):
        matcher.accept(int(rng.choice(np.flatnonzero(matcher.allowed()))))
        if matcher.finished and rng.random() < 0.5:
            break
    tokens, copy = matcher.tokens, matcher.copy()
    back = data.draw(st.integers(0, len(tokens)))
    matcher.rollback(back)
    fresh = grammar.matcher()
    for token in tokens[: len(tokens) - back]:
        fresh.accept(token)
    assert matcher.tokens == fresh.tokens
    assert (matcher.text, matcher.accepting, matcher.finished) == (fresh.text, fresh.accepting, fresh.finished)
    assert np.array_equal(matcher.allowed(), fresh.allowed())
    assert copy.tokens == tokens  # the copy went nowhere
    for token in tokens[len(tokens) - back :]:
        matcher.accept(token)
    assert np.array_equal(matcher.allowed(), copy.allowed())
    with pytest.raises(DecodingError):
        matcher.rollback(len(tokens) + 1)


def test_a_refused_token_changes_nothing(tokenizer) -> None:
    matcher = ArgumentGrammar(tokenizer, SCHEMA).matcher()
    before = matcher.allowed()
    for token in (*np.flatnonzero(~before)[:50].tolist(), -1, 10**6):
        with pytest.raises(DecodingError, match="may not follow"):
            matcher.accept(token)
    assert np.array_equal(matcher.allowed(), before)
    assert matcher.tokens == ()


def test_threads_share_a_grammar(tokenizer) -> None:
    grammars, failures = ArgumentGrammars(tokenizer), []

    def work(number) -> None:
        try:
            schema = {**SCHEMA, "description": str(number % 3)}
            for round_ in range(4):
                grammar = grammars.get(schema)
                text = walks.random_walk(grammar, 10 * number + round_)
                assert text == walks.random_walk(ArgumentGrammar(tokenizer, schema), 10 * number + round_)
                Draft202012Validator(schema).validate(json.loads(text))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(grammars) == 3


def test_grammars_are_kept_by_content(tokenizer) -> None:
    grammars = ArgumentGrammars(tokenizer, max_size=2)
    tool = ToolDocument("weather", parameters=SCHEMA)
    first = grammars.get(tool)
    assert grammars.get(ToolDocument("weather", parameters=json.loads(json.dumps(SCHEMA)))) is first
    assert first.document == tool
    assert grammars.get(ToolDocument("weather", "changed", parameters=SCHEMA)) is not first
    grammars.get(tool)
    grammars.get({"type": "object", "properties": {}})
    assert len(grammars) == 2
    assert grammars.get(tool) is first
    with pytest.raises(ConfigError):
        ArgumentGrammars(tokenizer, max_size=0)


def test_a_tokenizer_is_read_once_and_again_when_it_grows(make_tiny_tokenizer) -> None:
    used = make_tiny_tokenizer()
    known = ArgumentVocabulary.of(used)
    assert ArgumentVocabulary.of(used) is known
    used.add_tokens(["<more>"])
    assert ArgumentVocabulary.of(used).size == known.size + 1
    with pytest.raises(DecodingError, match="fast"):
        ArgumentVocabulary.of("gpt2")


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({}, "{}"),
        ({"type": "object", "properties": {}}, "{}"),
        ({"days": {"type": "int", "required": True}}, '{"days": 0}'),
        ([{"name": "days", "type": "STRING", "required": True}], None),
        (ToolDocument("t", parameters={"properties": {"a": {"type": "null"}}, "required": ["a"]}), '{"a": null}'),
    ],
    ids=["empty", "no arguments", "names", "list", "document"],
)
def test_forms_of_a_schema(tokenizer, schema, text) -> None:
    if text is None:
        with pytest.raises(ArgumentError, match="object"):
            ArgumentGrammar(tokenizer, schema)
        return
    grammar = ArgumentGrammar(tokenizer, schema)
    matcher = grammar.matcher()
    for token in matcher.closing_tokens(60):
        matcher.accept(token)
    assert matcher.text == text
    assert grammar.parse(text) == json.loads(text)


def test_a_tool_without_arguments_takes_none(tokenizer) -> None:
    grammar = ArgumentGrammar(tokenizer, ToolDocument("now"))
    assert {walks.random_walk(grammar, seed) for seed in range(5)} == {"{}"}


def test_long_numbers_and_free_values_stay_finite(tokenizer) -> None:
    names = ("n", "i", "x", "y")
    kinds = ({"type": "number"}, {"type": "integer"}, {}, {"type": "array"})
    schema = {"type": "object", "properties": dict(zip(names, kinds, strict=True)), "required": list(names)}
    grammar = ArgumentGrammar(tokenizer, schema, limits=ArgumentLimits(max_text=20, max_items=3, max_free_depth=2))
    for seed in range(30):
        value = grammar.parse(walks.random_walk(grammar, seed, free=300, sharpness=4.0))
        assert abs(value["n"]) <= 10**18
        assert abs(value["i"]) < 2**53
        assert len(value["y"]) <= 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected one JSON object"),
        ("{", "expected one JSON object"),
        ('{"city": "Oslo", "days": 3} and more', "Extra data"),
        ('[{"city": "Oslo"}]', "got list"),
        ('{"city": "Oslo", "days": NaN}', "NaN"),
        ('{"city": "Oslo", "days": 3, "days": 4}', "'days' stands twice"),
        ('{"city": "\\ud800", "days": 3}', "surrogate"),
        ('{"city": "Oslo", "days": 1e999}', "finite"),
        ('{"city": "Oslo", "days": ' + "9" * 5000 + "}", "expected one JSON object"),
        ('{"city": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested"),
        ('{"city": "Oslo", "days": 99}', "days"),
        ('{"days": 3}', "city"),
        (b"{}", "text"),
    ],
    ids=lambda value: repr(value)[:28],
)
def test_text_is_read_strictly(text, problem) -> None:
    with pytest.raises(ArgumentError, match=problem) as caught:
        parse_arguments(text, SCHEMA)
    assert caught.value.error_type == "invalid_arguments"
    assert len(str(caught.value)) < 1000


def test_text_that_fits_is_read() -> None:
    assert parse_arguments(' {"days": 3,\n"city": "Oslo"} ', SCHEMA) == {"days": 3, "city": "Oslo"}
    with pytest.raises(ArgumentError) as caught:
        parse_arguments(json.dumps({"city": "x" * 2_000_000, "days": 1}), SCHEMA)
    assert caught.value.error_type == "too_large"


@pytest.mark.parametrize("kind", ["scratch", "cased"])
def test_tokenizers_that_put_a_space_before_a_text_or_fold_its_case(kind) -> None:
    """A base made from scratch has such a tokenizer: what is allowed can be taken, and case is kept."""
    from toolscaler.training.scratch import train_tokenizer

    texts = ['the quick brown fox: {"sizeOf": "Paris", "unit": "KM"}', "call it with unit km or KM, sizeof paris"] * 3
    made = train_tokenizer(texts, 400, lowercase=kind == "scratch")
    schema = {
        "type": "object",
        "properties": {"sizeOf": {"enum": ["Paris", "Rome"]}, "n": {"type": "integer"}, "text": {"type": "string"}},
        "required": ["sizeOf", "n", "text"],
    }
    grammar = ArgumentGrammar(made, schema)
    for seed in range(10):
        rng, matcher = np.random.default_rng(seed), grammar.matcher()
        while not matcher.complete:
            if len(matcher.tokens) > 60:
                for token in matcher.closing_tokens(200):
                    matcher.accept(token)
                break
            matcher.accept(int(rng.choice(np.flatnonzero(matcher.allowed()))))
        found = grammar.parse(matcher.text)
        assert matcher.text.startswith("{")
        assert found["sizeOf"] in ("Paris", "Rome")
