"""Random walks through argument grammars, and schemas to walk through; shared by the tests of arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "city", "max price", 'q"x', "é", "日本", "$ref", "type"])


def random_walk(grammar: Any, seed: int, free: int = 80, sharpness: float = 0.0) -> str:
    """Take allowed tokens at random as an untrained model does, and after ``free`` of them the short way out."""
    rng = np.random.default_rng(seed)
    matcher = grammar.matcher()
    taste = rng.normal(size=grammar.vocabulary.size) * sharpness  # tokens that this walk likes: loops
    for _ in range(free):
        allowed = np.flatnonzero(matcher.allowed())
        weights = np.exp(taste[allowed] - taste[allowed].max())
        token = int(rng.choice(allowed, p=weights / weights.sum()))
        matcher.accept(token)
        if matcher.finished or matcher.complete:
            return matcher.text
    way = matcher.closing_tokens(4000)
    assert way is not None, matcher.text
    for token in way:
        matcher.accept(token)
    assert matcher.accepting
    return matcher.text


def _strings() -> st.SearchStrategy[dict]:
    lengths = st.tuples(st.integers(0, 4), st.integers(0, 6)).map(
        lambda pair: {"type": "string", "minLength": pair[0], "maxLength": sum(pair)}
    )
    patterns = st.sampled_from(
        [
            r"^[a-z]{1,4}$",
            r"\d",
            r"^\w+$",
            r"^\S+$",
            r"^[^\d]{2}$",
            r"^\D\W$",
            "^(é|ü)",
            r"^\d{3}-\d{2}$",
            "é|ü",
            "日.?本",
        ]
    )
    formats = st.sampled_from(["date", "email", "uuid", "ipv4", "date-time", "made-up"])
    return (
        st.just({"type": "string"})
        | lengths
        | patterns.map(lambda p: {"type": "string", "pattern": p})
        | formats.map(lambda f: {"type": "string", "format": f})
    )


def _numbers() -> st.SearchStrategy[dict]:
    def bounded(kind: str, low: int, span: int, strict: bool) -> dict:
        keys = ("exclusiveMinimum", "exclusiveMaximum") if strict else ("minimum", "maximum")
        return {"type": kind, keys[0]: low, keys[1]: low + span + 2}

    kinds = st.sampled_from(["integer", "number"])
    return (
        kinds.map(lambda kind: {"type": kind})
        | st.builds(bounded, kinds, st.integers(-1000, 1000), st.integers(0, 10**6), st.booleans())
        | st.builds(lambda k, low: {"type": k, "minimum": low}, kinds, st.integers(-50, 50))
        | st.integers(1, 30).map(lambda step: {"type": "integer", "multipleOf": step})
    )


def _leaves() -> st.SearchStrategy[dict]:
    values = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | st.just([1, {"x": 2}])
    return (
        _strings()
        | _numbers()
        | st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}, {"type": "object"}])
        | st.lists(values, min_size=1, max_size=4).map(lambda v: {"enum": v})
        | values.map(lambda v: {"const": v})
    )


def objects(inner: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    """Draw schemas of objects with declared properties, some of them required."""

    def make(properties: dict, wanted: list, extra: Any) -> dict:
        made = {"type": "object", "properties": properties}
        required = [name for name, want in zip(properties, wanted, strict=False) if want]
        if required:
            made["required"] = required
        if extra is not None:
            made["additionalProperties"] = extra
        return made

    extras = st.sampled_from([None, None, False, True, {"type": "integer"}])
    return st.builds(make, st.dictionaries(NAMES, inner, max_size=4), st.lists(st.booleans(), min_size=4), extras)


def _compound(inner: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    arrays = st.builds(
        lambda items, least, more: {"type": "array", "items": items, "minItems": least, "maxItems": least + more},
        inner,
        st.integers(0, 2),
        st.integers(0, 3),
    )
    unions = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    return objects(inner) | arrays | unions


def schemas() -> st.SearchStrategy[dict]:
    """Draw schemas of tool arguments that the grammar can keep whole."""
    return objects(st.recursive(_leaves(), _compound, max_leaves=8))
