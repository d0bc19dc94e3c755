"""Contract: with grounding, values that a model writes stand in the conversation, and still fit the tool's schema."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toolscaler import ToolscalerTokenizer
from toolscaler.agent.grounding import ConversationValues, Grounder, Grounding
from toolscaler.agent.grounding_values import MAX_BYTES, MAX_NUMBERS, json_values, numerals
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import ToolCall, TrajectoryMessage, finish_document
from toolscaler.errors import ConfigError, DecodingError

pytest.importorskip("llguidance")

from toolscaler.agent.arguments import ArgumentGrammar, ArgumentGrammars

_spec = importlib.util.spec_from_file_location("argument_walks", Path(__file__).with_name("argument_walks.py"))
walks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(walks)

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer):
    return ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=[[0, 1], [2, 3]], tool_ids=["x", "y"], code_sizes=(4, 4)
    )


def talk(user: str, *results: str) -> list[TrajectoryMessage]:
    messages = [TrajectoryMessage("system", "The year is 1066."), TrajectoryMessage("user", user)]
    for result in results:
        messages.append(TrajectoryMessage("assistant", "I call 777.", (ToolCall("look", {"n": 888}),)))
        messages.append(TrajectoryMessage("tool", result))
    return messages


def values(user: str, *results: str, **fields) -> ConversationValues:
    return ConversationValues(talk(user, *results), Grounding(**fields))


def obj(**properties) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def accepts(grammar: ArgumentGrammar, value) -> bool:
    matcher = grammar.byte_matcher()
    data = list((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


# What stands in a text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4,800 at 39.62", {4800, 39.62}),
        ("55 percent, 55%", {55}),
        ("it is -5 or \u22127, a range 3-9, and (-2)", {-5, -7, 3, 9, -2}),
        ("-$12.50", {-12.5}),
        ("[100,200]", {100, 200}),
        ('{"a":100,"b":[1,-2.5]}', {100, 1, -2.5}),
        ("Oslo,100,200", {100, 200}),
        ("12,345,678.9", {12345678.9}),
        ("on 2024-05-17 at 09:30", {2024, 5, 17, 9, 30}),
        ("5kg of 3rd A7", {5, 3, 7}),
        ("1.5e3 and 2E-2", {1500.0, 0.02}),
        ("2.5 million, 3k", {2.5, 2_500_000, 3, 3000}),
        ("twenty-five and three hundred and four", {25, 304}),
        ("two thousand and twelve; seven eight", {2012, 7, 8}),
        ("half a dozen", {0.5, 12}),
        ("It costs 5. Or 6, or 7!", {5, 6, 7}),
        ("1.2.3", {1, 2, 3}),
        ("nobody, none, tens, someone", set()),
        ("the fifth of them, the twenty-first", {5, 21}),
        ("\u0664\u0662", {42}),
        ("", set()),
        ("9" * 5000, set()),
    ],
    ids=lambda value: repr(value)[:24] if isinstance(value, str) else "",
)
def test_numbers_of_a_text(text, expected) -> None:
    assert {found.value for found in numerals(text)} == expected


@QUICK
@given(st.lists(st.integers(-(10**9), 10**9) | st.decimals(-1000, 1000, places=3).map(float), max_size=8))
def test_numbers_come_back_from_json_and_from_prose(wanted) -> None:
    for text in (
        json.dumps(wanted),
        json.dumps({"rows": wanted}, separators=(",", ":")),
        " and ".join(map(str, wanted)),
    ):
        assert {found.value for found in numerals(text)} == set(wanted)


@pytest.mark.parametrize(
    ("user", "piece"),
    [
        ("Translate 'good morning, all' please", "good morning, all"),
        ("Say \u201chello there\u201d", "hello there"),
        ("Weather in New York?", "New York"),
        ("Weather in New York?", "York?"),
        ("Open inbox/coffee.txt now", "inbox/coffee.txt"),
        ("Open inbox/coffee.txt now", "coffee.txt"),
        ("order id=AB-123, quickly", "AB-123"),
        ("at 2002-08-17T18:44:42Z", "2002-08-17"),
        ("at 2002-08-17T18:44:42Z", "2002-08-17T18:44:42"),
        ("Count this: the quick brown fox", "the quick brown fox"),
        ("Read it:\na,b\n1,2", "a,b\n1,2"),
        ("\u6771\u4eac\u306e\u5929\u6c17", "\u6771\u4eac"),
    ],
)
def test_pieces_of_a_text(user, piece) -> None:
    assert piece in values(user).texts


def test_texts_of_json_results_are_read_without_escapes() -> None:
    result = json.dumps({"path": 'C:\\x "y"', "rows": [{"name": "l\u00edn\ne", "n": 4}]})
    found = values("go on", result).texts
    assert {'C:\\x "y"', "l\u00edn\ne", "name"} <= set(found)
    assert list(json_values('the reply was {"a": ["b"]}')) == ["a", "b"]
    assert list(json_values("no [json")) == []


def test_only_users_and_results_count() -> None:
    found = values("call 12", "it is 34")
    assert set(found.numbers) == {12, 34}
    assert not {"1066", "777", "888"} & set(found.texts)


def test_bounds_and_shares() -> None:
    long = " ".join(f"word{n} {n}" for n in range(8000))
    found = values("please look up Oslo for me", long, max_spans=100)
    assert len(found.texts) == 100
    assert {"Oslo", "look up Oslo"} <= set(found.texts)  # a long result does not crowd the query out
    assert "word7" in found.texts
    assert len(found.numbers) == MAX_NUMBERS
    assert all(len(text.encode()) <= MAX_BYTES for text in found.texts)


# The narrower grammar

SCHEMA = obj(
    city={"type": "string"},
    days={"type": "integer", "minimum": 1, "maximum": 14},
    rate={"type": ["number", "null"]},
    unit={"enum": ["C", "F", 3]},
    spots={"type": "array", "items": obj(x={"type": "number"})},
    sure={"type": "boolean"},
)
RIGHT = {"city": "New York", "days": 3, "rate": 39.62, "unit": "C", "spots": [{"x": -4800}], "sure": True}


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"city": "Newark"}, False),
        ({"city": "York in"}, False),
        ({"days": 4}, False),
        ({"days": 30}, False),  # of the conversation, and out of bounds
        ({"rate": 39.6}, False),
        ({"rate": None}, True),
        ({"unit": 3}, True),
        ({"unit": "K"}, False),
        ({"spots": [{"x": 3}, {"x": 39.62}]}, True),
        ({"spots": [{"x": 4800}]}, False),
        ({"sure": False}, True),
        ({"more": 3}, False),
    ],
    ids=str,
)
def test_by_hand(tokenizer, change, fits) -> None:
    grammar = ArgumentGrammar(tokenizer, SCHEMA)
    narrow = values("For 3 or 30 days in New York: 39.62", "[-4800]").narrowed(grammar)
    value = {**RIGHT, **change}
    assert accepts(narrow, value) == fits
    if change != {"more": 3}:
        assert accepts(grammar, value) == (change not in ({"days": 30}, {"unit": "K"}))


def test_number_keeps_its_form(tokenizer) -> None:
    narrow = values("from 39.62 to 4,800").narrowed(ArgumentGrammar(tokenizer, obj(n={"type": "number"})))
    assert accepts(narrow, '{"n": 39.62}')
    assert accepts(narrow, '{"n": 4800}')
    for wrong in ("39.620", "3.962e1", "39", "4,800", "4", "800", "-39.62"):
        assert not accepts(narrow, f'{{"n": {wrong}}}')


def test_a_leaf_that_nothing_fits_stays_as_it_was(tokenizer) -> None:
    schema = obj(n={"type": "integer", "minimum": 100}, s={"type": "string", "minLength": 40}, m={"type": "integer"})
    narrow = values("only 7 here").narrowed(ArgumentGrammar(tokenizer, schema))
    assert accepts(narrow, {"n": 123, "s": "z" * 40, "m": 7})
    assert not accepts(narrow, {"n": 123, "s": "z" * 40, "m": 8})


@pytest.mark.parametrize(
    "leaf",
    [
        {"type": "string", "pattern": "^[a-z]{3}$"},
        {"type": "string", "format": "date"},
        {"enum": ["zzz", 9]},
        {"const": "zzz"},
        {"type": "boolean"},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object"},
        {"oneOf": [{"type": "integer", "minimum": 5}, {"type": "number", "maximum": 9}]},
        {},
    ],
    ids=str,
)
def test_what_is_not_narrowed_shares_the_kept_grammar(tokenizer, leaf) -> None:
    grammar = ArgumentGrammar(tokenizer, obj(v=leaf))
    assert values("abc 5 on 2024-05-17").narrowed(grammar) is grammar


@pytest.mark.parametrize(
    "leaf",
    [
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
        {"$ref": "#/$defs/a"},
        {"allOf": [{"$ref": "#/$defs/a"}]},
        {"allOf": [{"type": "integer"}, {"minimum": 2}]},
    ],
    ids=str,
)
def test_composition_and_references(tokenizer, leaf) -> None:
    schema = {**obj(v=leaf), "$defs": {"a": {"type": "integer"}}}
    narrow = values("abc 5").narrowed(ArgumentGrammar(tokenizer, schema))
    assert accepts(narrow, {"v": 5})
    assert not accepts(narrow, {"v": 6})


def test_switches(tokenizer) -> None:
    grammar = ArgumentGrammar(tokenizer, obj(n={"type": "integer"}, s={"type": "string"}))
    for fields, free in (({"strings": False}, {"n": 5, "s": "z"}), ({"numbers": False}, {"n": 6, "s": "abc"})):
        narrow = values("abc 5", **fields).narrowed(grammar)
        assert accepts(narrow, free)
        assert not accepts(narrow, {"n": 6, "s": "z"})
    finish = ArgumentGrammar(tokenizer, finish_document())
    assert values("abc 5", answer=False).narrowed(finish) is finish


def test_settings_are_checked() -> None:
    assert Grounding.of(True) == Grounding()
    assert Grounding.of(False) is Grounding.of(None) is None
    assert Grounding.of({"strings": False, "max_spans": 9}) == Grounding(strings=False, max_spans=9)
    for wrong in ("yes", 1, {"text": True}, {"numbers": 1}, {"max_spans": 0}, {"max_spans": True}, [True]):
        with pytest.raises(ConfigError):
            Grounding.of(wrong)


def test_every_digit_of_a_number_is_kept(tokenizer) -> None:
    """The engine reads one number of 17 digits in ten as its neighbour; what is written is the number itself."""
    rng = np.random.default_rng(0)
    grammar = ArgumentGrammar(tokenizer, obj(n={"type": "number"}))
    missed = 0
    for number in map(float, rng.uniform(-1, 1, 100) * 10.0 ** rng.integers(-9, 15, 100)):
        matcher = values("go", json.dumps([number])).narrowed(grammar).matcher()
        for token in matcher.closing_tokens(100):
            matcher.accept(token)
        assert matcher.grammar.parse(matcher.text) == {"n": number}
        missed += json.loads(matcher.text) != {"n": number}
    assert missed  # else nothing needs to be put right any more


# Answers


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        ("It is 4800.", True),
        ("It is 4,800, not -3.", True),
        ("39.6234, or 39.62, or 39.6, or 40", True),
        ("no number at all", True),
        ("", True),
        ("From 3 to 4800", True),
        ("3-4800 GPT-3 3/4800 (3)", True),
        ("x,3\ny,4800", True),
        ("It is 4801.", False),
        ("It is 48", False),
        ("48003", False),
        ("3.4800", False),
        ("3,4800", False),
        (".3", False),
        ("-4800", False),
        ("is -4800", False),
        ("3e3", False),
        ("3e-3", False),
        ("39.7", False),
        ("\u0663", False),
        ("3\u0663", False),
    ],
    ids=repr,
)
def test_numbers_of_an_answer(tokenizer, answer, fits) -> None:
    found = values("with 3 and -3", '{"cost": 4800, "rate": 39.6234}')
    narrow = found.narrowed(ArgumentGrammar(tokenizer, finish_document()))
    assert accepts(narrow, {"return_type": "give_answer", "final_answer": answer}) == fits


def test_an_answer_to_a_conversation_without_numbers_has_none(tokenizer) -> None:
    narrow = values("hello").narrowed(ArgumentGrammar(tokenizer, finish_document()))
    for seed in range(10):
        assert not re.search(r"\d", json.loads(walks.random_walk(narrow, seed))["final_answer"])


def test_answers_end_where_a_number_was_begun(tokenizer) -> None:
    """The way out of half a number is that number's rest; nothing of the conversation is kept for it."""
    from toolscaler.agent import argument_closing

    narrow = values("with 123456789 or -98.75").narrowed(ArgumentGrammar(tokenizer, finish_document()))
    before = argument_closing._fits_some.cache_info().currsize
    for begun, whole in (("it is 1234", "it is 123456789"), ("x -9", "x -99"), ("1", "123456789")):
        matcher = narrow.matcher()
        text = f'{{"return_type": "give_up", "final_answer": "{begun}'
        for token in narrow.vocabulary.spell(text.encode()):
            matcher.accept(token)
        for token in matcher.closing_tokens(100):
            matcher.accept(token)
        assert narrow.parse(matcher.text)["final_answer"].startswith(whole)
    assert argument_closing._fits_some.cache_info().currsize == before


# Whatever the schema and the texts are

TEXTS = st.lists(
    st.text(max_size=40)
    | st.lists(st.sampled_from(["a", "New York", "-3", "4,800", "39.62", '"q"', "5", "two", "x\\"]), max_size=6).map(
        " ".join
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(walks.schemas(), TEXTS, st.integers(0, 2**32 - 1))
def test_random_walks_fit_the_tools_own_schema(tokenizer, schema, texts, seed) -> None:
    grammar = ArgumentGrammar(tokenizer, schema)
    try:
        narrow = values("u " + texts[0], *texts[1:]).narrowed(grammar)
    except DecodingError:
        return  # the plain grammar is used then
    value = json.loads(walks.random_walk(narrow, seed))
    assert list(Draft202012Validator(schema).iter_errors(value)) == []
    assert grammar.parse(json.dumps(value)) == value


def numbers_in(value) -> list:
    if isinstance(value, dict | list):
        return [n for item in (value.values() if isinstance(value, dict) else value) for n in numbers_in(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _written_out(number: float) -> bool:
    return not number or abs(number) >= 1e-30


@QUICK
@given(
    st.lists(st.integers(-(10**12), 10**12) | st.floats(-1e6, 1e6).filter(_written_out), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_every_number_is_one_of_the_conversation(tokenizer, numbers, seed) -> None:
    leaf = {"type": "number"}
    schema = obj(a=leaf, b={"type": "array", "items": obj(c=leaf), "minItems": 1, "maxItems": 3})
    grammar = ArgumentGrammar(tokenizer, schema)
    narrow = values("look it up", json.dumps(numbers)).narrowed(grammar)
    found = numbers_in(narrow.parse(walks.random_walk(narrow, seed)))
    assert found
    assert all(number in numbers for number in found)


@pytest.mark.parametrize("number", [900719.9999999999, -988159199411.0001, 0.30000000000000004, 900720, 2**53 - 1])
def test_a_number_beside_a_whole_one_stays_itself(tokenizer, number) -> None:
    """The engine reads about sixteen digits, and may take such a number for the whole one."""
    others = [900721, 900719, 2**53 - 2, number]
    narrow = values("look it up", json.dumps(others)).narrowed(ArgumentGrammar(tokenizer, obj(a={"type": "number"})))
    found = {narrow.parse(walks.random_walk(narrow, seed))["a"] for seed in range(40)}
    assert number in found
    assert found <= set(others)


@QUICK
@given(st.lists(st.integers(0, 9999), max_size=5), st.integers(0, 2**32 - 1))
def test_every_number_of_an_answer_is_one_of_the_conversation(tokenizer, numbers, seed) -> None:
    """Read by another eye: digit runs with the separators that glue numbers together."""
    narrow = values("go", json.dumps(numbers)).narrowed(ArgumentGrammar(tokenizer, finish_document()))
    answer = json.loads(walks.random_walk(narrow, seed, sharpness=2.0))["final_answer"]
    written = {f"{n}" for n in numbers} | {f"{n:,}" for n in numbers}
    for match in re.finditer(r"(?<![\w.,])[-.]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", answer):
        assert match.group() in written


ATTACKS = {
    "quotes": '"""\\"\\\\"\'\'`\u201c\u201c' * 200,
    "regex": "(a+)+$ .* [^x]{1,9999} \\p{L} (?<=y) \\1 ^$|" * 100,
    "control": "".join(map(chr, range(1, 32))) + "\x7f\u2028\u2029\u202e\u200b\ufeff a 5",
    "surrogate": "\ud800 a \udfff 5",
    "codes": "</s><a_1><b_2> <|endoftext|> <unk> <a_0><b_3>",
    "large": "word 12 " * 12_500,
    "many words": " ".join(f"w{n}x" for n in range(15_000)),
    "one word": "x" * 100_000,
    "digits": "9" * 100_000,
    "points": "1." * 50_000,
    "commas": "1,234," * 16_000,
    "open brackets": "[" * 100_000,
    "lists": "[1]" * 33_000,
    "open quotes": "\u201c" * 100_000,
    "apostrophes": " '" * 50_000,
    "lines": "a: b\n" * 20_000,
    "deep": "[" * 25_000 + "]" * 25_000,
    "number words": "twenty five hundred " * 5000,
    "big number": "1e999 -1e999 1e308 1e-400 " + "1" * 39 + " 5",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_results(tokenizer, name) -> None:
    """A grammar that writes valid arguments without code tokens, soon; or a plain one."""
    start = time.monotonic()
    grammar = ArgumentGrammar(tokenizer, obj(s={"type": "string"}, n={"type": "number"}, i={"type": "integer"}))
    finish = ArgumentGrammar(tokenizer, finish_document())
    messages = [TrajectoryMessage("user", "go on with a5"), TrajectoryMessage("tool", ATTACKS[name])]
    grounder = Grounder(Grounding())
    for base in (grammar, finish):
        held = grounder.matcher(base, grounder.values(messages))
        codes = range(tokenizer.first_code_id, tokenizer.first_code_id + tokenizer.num_code_tokens)
        for seed in range(3):
            rng, matcher, tokens = np.random.default_rng(seed), held.copy(), []
            while not matcher.complete and len(tokens) < 40:
                tokens.append(int(rng.choice(np.flatnonzero(matcher.allowed()))))
                matcher.accept(tokens[-1])
            if not matcher.finished:
                for token in matcher.closing_tokens(3000):
                    matcher.accept(token)
            base.parse(matcher.text)
            assert not set(tokens) & set(codes)
    assert time.monotonic() - start < 20.0


def test_what_cannot_be_compiled_falls_back_with_one_warning(tokenizer, caplog, monkeypatch) -> None:
    grammars = ArgumentGrammars(tokenizer)
    tool = ToolDocument("t", parameters=obj(v={"allOf": [{"type": "integer"}, {"enum": [9]}]}))
    grammar, grounder = grammars.get(tool), Grounder(Grounding())
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):  # five, and nine by the other branch: nothing fits both
            matcher = grounder.matcher(grammar, grounder.values(talk("five 5")))
            assert matcher.grammar is grammar
    levels = [record.levelno for record in caplog.records if "not held" in record.message]
    assert levels == [logging.WARNING, logging.DEBUG, logging.DEBUG]


def test_a_matcher_that_is_stuck_goes_on_without(tokenizer) -> None:
    grammar, grounder = ArgumentGrammar(tokenizer, obj(n={"type": "integer"})), Grounder(Grounding())
    held = grounder.matcher(grammar, grounder.values(talk("12345")))
    for token in held.grammar.vocabulary.spell(b'{"n": 123'):
        held.accept(token)
    plain = grounder.released(held, grammar, "a limit of the engine's own")
    assert plain.grammar is grammar
    assert plain.text == held.text
    for token in plain.grammar.vocabulary.spell(b"}"):
        plain.accept(token)
    assert plain.grammar.parse(plain.text) == {"n": 123}
    with pytest.raises(DecodingError):
        held.accept(held.grammar.vocabulary.spell(b"}")[0])
    assert grounder.released(plain, grammar, "again") is None


def test_nothing_of_a_call_is_kept(tokenizer) -> None:
    grammars, grounder = ArgumentGrammars(tokenizer), Grounder(Grounding())
    grammar = grammars.get(ToolDocument("t", parameters=SCHEMA))
    schema, fingerprint = json.dumps(grammar.engine_schema), grammar.fingerprint
    seen = {grounder.matcher(grammar, grounder.values(talk(f"take {n} in Oslo"))).grammar.fingerprint for n in range(9)}
    assert len(seen) == 9
    assert len(grammars) == 1
    assert (json.dumps(grammar.engine_schema), grammar.fingerprint) == (schema, fingerprint)


def test_characters_that_the_vocabulary_lacks_are_not_offered() -> None:
    """A Unigram model without byte fallback cannot write every letter: no dead end in the middle of a piece."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(0x21, 0x7F)]
    model = models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("\u2581", -1.0), *((c, -2.0) for c in letters)], unk_id=0)
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    used = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    grammar = ArgumentGrammar(used, obj(s={"type": "string"}))
    narrow = values("caf\u00e9 or tea").narrowed(grammar)
    assert accepts(narrow, {"s": "tea"})
    assert not accepts(narrow, {"s": "caf\u00e9"})
    for seed in range(10):
        narrow.parse(walks.random_walk(narrow, seed))
