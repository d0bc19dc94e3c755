"""Contract: a hostile schema costs its own tool an error or a weaker grammar, soon; nobody else notices."""

from __future__ import annotations

import importlib.util
import json
import random
import threading
import time
from pathlib import Path

import pytest

from toolscaler import ToolscalerTokenizer
from toolscaler.data import ToolDocument
from toolscaler.errors import DecodingError, ToolscalerError

pytest.importorskip("llguidance")

from toolscaler.agent.argument_text import ArgumentError, parse_arguments
from toolscaler.agent.arguments import ArgumentGrammar, ArgumentGrammars

_spec = importlib.util.spec_from_file_location("argument_walks", Path(__file__).with_name("argument_walks.py"))
walks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(walks)

#: Far above what any of these takes, far below what the attack is after.
SECONDS = 20.0


@pytest.fixture(scope="module")
def tokenizer(make_tiny_tokenizer):
    return ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=[[0, 1], [2, 3]], tool_ids=["x", "y"], code_sizes=(4, 4)
    )


def obj(properties, **more) -> dict:
    return {"type": "object", "properties": properties, **more}


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = obj({"a": schema}, required=["a"])
    return schema


def doubled(key: str, depth: int) -> dict:
    """Each definition names the one before twice: 2**depth when written out."""
    defs: dict = {"d0": obj({"x": {"type": "string"}})}
    for level in range(1, depth):
        one = {"$ref": f"#/$defs/d{level - 1}"}
        both = obj({"x": one, "y": one}, required=["x", "y"]) if key == "properties" else {key: [one, one]}
        defs[f"d{level}"] = both
    return obj({"v": {"$ref": f"#/$defs/d{depth - 1}"}}, required=["v"], **{"$defs": defs})


BOMBS = {
    "deep": lambda: nested(60),
    "too deep": lambda: nested(20_000),
    "deep any of": lambda: obj({"v": deep_options(60)}),
    "doubled properties": lambda: doubled("properties", 40),
    "doubled all of": lambda: doubled("allOf", 40),
    "doubled any of": lambda: doubled("anyOf", 40),
    "doubled one of": lambda: doubled("oneOf", 40),
    "recursion": lambda: obj(
        {"v": {"$ref": "#"}, "w": {"anyOf": [{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}}]}}
    ),
    "all of itself": lambda: {"type": "object", "allOf": [{"$ref": "#"}]},
    "any of itself": lambda: {"type": "object", "anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "huge enum": lambda: obj({"v": {"enum": [f"value {n}" for n in range(20_000)]}}, required=["v"]),
    "long enum": lambda: obj({"v": {"enum": ["x" * 200_000, "y" * 200_000]}}, required=["v"]),
    "many properties": lambda: obj({f"p{n}": {"type": "integer"} for n in range(9000)}),
    "all required": lambda: obj(
        {f"p{n}": {"type": "null"} for n in range(3000)}, required=[f"p{n}" for n in range(3000)]
    ),
    "many branches": lambda: obj({"v": {"anyOf": [obj({f"p{n}": {}, "q": {}}) for n in range(900)]}}),
    "long text": lambda: obj({"v": {"type": "string", "minLength": 10**9}}, required=["v"]),
    "many items": lambda: obj({"v": {"type": "array", "minItems": 10**9, "items": {}}}, required=["v"]),
    "repeats": lambda: obj({"v": {"type": "string", "pattern": "^((((a{1,99}){1,99}){1,99}){1,99}){1,99}$"}}),
    "backtracking": lambda: obj({"v": {"type": "string", "pattern": "^(a+)+$"}}, required=["v"]),
    "wide classes": lambda: obj({"v": {"type": "string", "pattern": "(.*a.*){40}[^a]{200}"}}),
    "huge numbers": lambda: obj({"v": {"type": "integer", "minimum": 10**400, "maximum": 10**401}}),
    "tiny step": lambda: obj({"v": {"type": "number", "multipleOf": 1e-300}}, required=["v"]),
    "hidden text": lambda: obj(
        {"a\u200bb\u202e": {"type": "string"}, "a\x00": {}, "</s><a_1>": {"enum": ["<a_1></s>"]}}
    ),
    "engine options": lambda: obj({"v": {"%lark": "start: /.*/"}}, **{"x-guidance": {"lenient": True}, "$id": "x"}),
}


def deep_options(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth // 2):
        schema = {"anyOf": [schema, {"type": "integer"}]}
    return schema


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("bare", [True, False], ids=["schema", "document"])
def test_schema_bombs(tokenizer, name, bare) -> None:
    """An error of this library, or arguments that are JSON; and either soon."""
    start, errors = time.monotonic(), []
    codes = range(tokenizer.first_code_id, tokenizer.first_code_id + tokenizer.num_code_tokens)
    try:
        schema = BOMBS[name]()
        grammar = ArgumentGrammar(tokenizer, schema if bare else ToolDocument("bomb", parameters=schema))
        matcher, rng = grammar.matcher(), random.Random(0)
        for _ in range(30):
            allowed = matcher.allowed().nonzero()[0].tolist()
            assert not set(allowed) & set(codes)
            matcher.accept(rng.choice(allowed))
            if matcher.finished:
                break
        way = None if matcher.finished else matcher.closing_tokens(300)
        if way is not None:
            for token in way:
                matcher.accept(token)
            json.loads(matcher.text)
            try:
                grammar.parse(matcher.text)
            except ArgumentError as error:
                errors.append(str(error))
    except ToolscalerError as error:
        errors.append(str(error))
    except RecursionError:
        errors.append("recursion")
    assert "recursion" not in errors or (name, bare) == ("too deep", False)  # ToolDocument itself cannot hold it
    assert max(map(len, errors), default=0) < 2000
    assert time.monotonic() - start < SECONDS


def test_bombs_harm_no_neighbour(tokenizer) -> None:
    """Compiled side by side with bombs, an ordinary tool's grammar stays right."""
    grammars, results = ArgumentGrammars(tokenizer, max_size=4), []
    plain = obj({"n": {"type": "integer", "minimum": 1, "maximum": 9}}, required=["n"])

    def bomb() -> None:
        for name in ("doubled any of", "deep", "all of itself", "repeats", "long enum"):
            try:
                grammars.get(BOMBS[name]()).matcher().allowed()
            except ToolscalerError:
                continue

    def work() -> None:
        for seed in range(15):
            grammar = grammars.get(plain)
            results.append(grammar.parse(walks.random_walk(grammar, seed)))

    threads = [threading.Thread(target=target) for target in (bomb, work, bomb, work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 30
    assert all(set(value) == {"n"} and 1 <= value["n"] <= 9 for value in results)
    assert len(grammars) <= 4


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (obj({"v": {"pattern": "^(a+)+$"}}), json.dumps({"v": "a" * 40 + "b"})),
        (obj({"v": {"pattern": "^(a|a)*$"}}), json.dumps({"v": "a" * 60 + "b"})),
        (doubled("allOf", 40), '{"v": {"x": 1}}'),
        (doubled("oneOf", 40), '{"v": {"x": "1"}}'),
        (obj({"v": {"type": "array", "uniqueItems": True}}), json.dumps({"v": [{"a": n} for n in range(20_000)]})),
        (obj({"v": {"$ref": "http://127.0.0.1:9/x"}}), '{"v": 1}'),
        (obj({"v": {"$ref": "file:///etc/passwd"}}), '{"v": 1}'),
        ({"type": "object", "patternProperties": {"(x+x+)+y": {}}}, json.dumps({"x" * 60: 1})),
        ({"type": "object", "allOf": [{"$ref": "#"}]}, "{}"),
    ],
    ids=["plus", "or", "all of", "one of", "unique", "network", "file", "key", "itself"],
)
def test_reading_is_bounded(schema, text) -> None:
    start, message = time.monotonic(), ""
    try:
        parse_arguments(text, schema)
    except ArgumentError as error:
        message = str(error)
    assert len(message) < 2000
    assert time.monotonic() - start < SECONDS


def test_no_code_comes_out_of_arguments(tokenizer) -> None:
    """Even where the schema wants the text of a code, or of the end token, it is written letter by letter."""
    schema = obj({"v": {"enum": ["<a_1><b_2></s>"]}}, required=["v"])
    grammar = ArgumentGrammar(tokenizer, schema)
    matcher = grammar.matcher()
    way = matcher.closing_tokens(100)
    for token in way:
        matcher.accept(token)
    assert json.loads(matcher.text) == {"v": "<a_1><b_2></s>"}
    assert tokenizer.decode_tool(list(matcher.tokens)) == []
    assert not set(matcher.tokens) & {tokenizer.eos_token_id, *tokenizer.added_tokens_decoder}


def test_a_tokenizer_without_the_needed_bytes_is_an_error(tokenizer) -> None:
    grammar = ArgumentGrammar(tokenizer, obj({"v": {"const": "é"}}, required=["v"]))
    forbidden = grammar.vocabulary.forbidden.copy()
    try:
        grammar.vocabulary.forbidden[:] = True
        with pytest.raises(DecodingError, match="no token"):
            grammar.matcher().allowed()
        assert grammar.matcher().closing_tokens(50) is None
    finally:
        grammar.vocabulary.forbidden[:] = forbidden
