"""Contract: from anywhere in a text, the shortest end that its schema allows, or none where the engine cannot tell."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toolscaler.agent.argument_processor import ArgumentLogitsProcessor
from toolscaler.agent.argument_vocabulary import ArgumentVocabulary
from toolscaler.agent.arguments import ArgumentGrammar
from toolscaler.errors import DecodingError

pytest.importorskip("llguidance")

LETTERS = "abé日"


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer):
    return make_tiny_tokenizer()


def text_schema(**rules) -> dict:
    return {
        "type": "object",
        "properties": {"a": {"type": "string", **rules}},
        "required": ["a"],
        "additionalProperties": False,
    }


def at(tokenizer, schema, written: str):
    matcher = ArgumentGrammar(tokenizer, schema).matcher()
    for token in tokenizer(written, add_special_tokens=False)["input_ids"]:
        matcher.accept(token)
    return matcher


def closed(matcher, limit: int = 300) -> str:
    way = matcher.closing_tokens(limit)
    assert way is not None
    assert len(way) <= limit
    for token in way:
        matcher.accept(token)
    assert matcher.accepting
    return matcher.text


def patterns() -> st.SearchStrategy[str]:
    """Draw regular expressions over few letters, anchored or not."""
    leaf = st.sampled_from([*LETTERS, "[ab]", "[^a]", "[à-ÿ]", "."])
    counts = st.sampled_from(["", "", "*", "?", "+", "{2}", "{1,2}"])
    inner = st.recursive(
        st.builds("".join, st.tuples(leaf, counts)),
        lambda part: (
            st.builds("".join, st.lists(part, min_size=1, max_size=3))
            | st.lists(part, min_size=2, max_size=2).map(lambda two: f"({two[0]}|{two[1]})")
        ),
        max_leaves=4,
    )
    return st.builds(
        lambda start, body, end: start + body + end, st.sampled_from(["", "^"]), inner, st.sampled_from(["", "$"])
    )


def brute_force(pattern: str, begin: str, least: int, most: int) -> int | None:
    """Try every text over the letters; give the characters of the shortest that fits."""
    for count in range(4):
        for letters in itertools.product(LETTERS, repeat=count):
            text = begin + "".join(letters)
            if least <= len(text) <= most and re.search(pattern, text):
                return count
    return None


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns(), st.text("abé", max_size=3), st.integers(0, 3), st.integers(4, 9))
def test_the_end_is_the_shortest(tokenizer, pattern, begin, least, most) -> None:
    expected = brute_force(pattern, begin, least, most)
    assume(expected is not None)
    schema = text_schema(pattern=pattern, minLength=least, maxLength=most)
    text = closed(at(tokenizer, schema, '{"a": "' + begin))
    assert text.endswith('"}')
    value = json.loads(text)["a"]
    assert value.startswith(begin)
    assert len(value) - len(begin) == expected
    assert list(Draft202012Validator(schema).iter_errors({"a": value})) == []


@pytest.mark.parametrize(
    ("rules", "begin", "end"),
    [
        ({"pattern": "é|ü"}, "plain", "[éü]"),
        ({"pattern": "foo.*bar.*baz"}, "xfo", "obarbaz"),
        ({"pattern": "^(a[0-9]{5}|b[0-9]{30})$"}, "b1", "0{29}"),
        ({"pattern": r"^\S+@\S+\.[a-z]{2}$"}, "me", "@a\\.aa"),
        ({"pattern": "^[^\\x00-\\x7f]{3}$"}, "é", "[^\\x00-\\x7f]{2}"),
        ({"pattern": '^"\\\\q$'}, "", '"\\\\q'),
        ({"minLength": 200}, "ab", "a{198}"),
        ({"format": "date"}, "2024-02-", "[0-3][0-9]"),
        ({"format": "uuid"}, "", "[0-9a-f-]{36}"),
        ({"enum": ["日本", "日本語学校", "x" * 90]}, "日本語", "学校"),
    ],
    ids=["letters", "words", "branch", "mail", "not-ascii", "quote", "length", "date", "uuid", "enum"],
)
def test_by_hand(tokenizer, rules, begin, end) -> None:
    schema = text_schema(**rules)
    text = closed(at(tokenizer, schema, json.dumps({"a": begin}, ensure_ascii=False)[:-2]))
    value = json.loads(text)["a"]
    assert re.fullmatch(re.escape(begin) + end, value)


def test_patterns_that_must_both_fit(tokenizer) -> None:
    parts = [{"type": "string", "pattern": "é"}, {"type": "string", "pattern": "^x+.$"}, {"$ref": "#/$defs/long"}]
    schema = {
        "type": "object",
        "properties": {"a": {"allOf": parts}},
        "required": ["a"],
        "$defs": {"long": {"type": "string", "minLength": 4}},
    }
    assert json.loads(closed(at(tokenizer, schema, '{"a": "x')))["a"] == "xxxé"


@pytest.mark.parametrize("pattern", ["^é.ü$", "日", "^[à-ÿ]{2}$"])
def test_from_the_middle_of_a_character_or_an_escape(tokenizer, pattern) -> None:
    """Byte-level tokens end anywhere."""
    schema = text_schema(pattern=pattern)
    grammar = ArgumentGrammar(tokenizer, schema)
    begun = 0
    for seed in range(40):
        rng, matcher = np.random.default_rng(seed), grammar.matcher()
        for _ in range(int(rng.integers(8, 14))):
            if matcher.complete:
                break
            matcher.accept(int(rng.choice(np.flatnonzero(matcher.allowed()))))
        begun += matcher.text.endswith(("\ufffd", "\\"))
        if not matcher.complete:
            value = json.loads(closed(matcher))["a"]
            assert re.search(pattern, value)
    assert begun


def test_what_the_engine_cannot_tell_is_said(tokenizer) -> None:
    """A long repetition: the way is then the likely one, and `None` where that comes to no end."""
    matcher = at(tokenizer, text_schema(pattern="^.{40}q.*é.{60}$"), '{"a": "')
    before = matcher.text
    way = matcher.closing_tokens(400)
    assert way is None or json.loads(before + matcher.grammar.vocabulary.engine_tokenizer.decode_bytes(way).decode())
    assert matcher.text == before
    assert at(tokenizer, text_schema(minLength=500), '{"a": "').closing_tokens(20) is None


def test_tokens_are_the_fewest(tokenizer) -> None:
    vocabulary = ArgumentVocabulary.of(tokenizer)
    pieces = {vocabulary.engine_tokenizer.decode_bytes([token]) for token in np.flatnonzero(~vocabulary.forbidden)}
    for text in (b"", b"description of a length", "é日".encode(), b"aaaa"):
        tokens = vocabulary.spell(text)
        assert vocabulary.engine_tokenizer.decode_bytes(tokens) == text
        best = {0: 0}  # slow twin
        for end in range(1, len(text) + 1):
            best[end] = min(best[start] + 1 for start in range(end) if text[start:end] in pieces)
        assert len(tokens) == best[len(text)]


def test_a_budget_holds_for_letters_that_nothing_points_to(tokenizer, make_tiny_model) -> None:
    import torch

    schema = text_schema(pattern="é.*ü.*日")
    grammar = ArgumentGrammar(tokenizer, schema)
    least = len(grammar.matcher().closing_tokens(100)) + 1
    with pytest.raises(DecodingError, match="give more"):
        ArgumentLogitsProcessor(grammar, 1, max_tokens=least - 1)
    model = make_tiny_model(tokenizer=tokenizer)
    prompt = torch.tensor([[5, 6, 7]])
    for budget in (least, least + 9):
        processor = ArgumentLogitsProcessor(grammar, 3, max_tokens=budget)
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            logits_processor=[processor],
            max_new_tokens=budget,
            do_sample=True,
            pad_token_id=tokenizer.pad_token_id,
        )
        value = json.loads(tokenizer.decode(out[0, 3:], skip_special_tokens=True))["a"]
        assert re.search("é.*ü.*日", value)


@pytest.mark.parametrize(
    ("rules", "written"),
    [
        ({"exclusiveMinimum": 0}, '{"a": '),
        ({"exclusiveMinimum": 0}, '{"a": 0.00'),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, '{"a": 0'),
        ({"exclusiveMinimum": -1, "exclusiveMaximum": 0}, '{"a": -0.0'),
        ({"minimum": 0.25}, '{"a": 0.2'),
        ({"minimum": 1}, '{"a": '),
    ],
)
def test_a_number_ends_though_zeros_alone_never_would(tokenizer, rules, written) -> None:
    """Above 0 no number of zeros is enough: other digits come too, and soon."""
    schema = text_schema()
    schema["properties"]["a"] = {"type": "number", **rules}
    whole = closed(at(tokenizer, schema, written), 12)
    assert whole.startswith(written)
    assert list(Draft202012Validator(schema).iter_errors(json.loads(whole))) == []
