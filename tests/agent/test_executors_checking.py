"""Arguments against schemas: JSON Schema's own answers, and hostile schemas that cost an error, not the process."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from toolscaler.agent import ExecutorLimits, PythonExecutor, RetryPolicy
from toolscaler.agent.executors.base import ERROR_TYPES, ToolResult
from toolscaler.agent.executors.checking import ArgumentChecker, CheckFailed, plain_json
from toolscaler.agent.executors.patterns import expansion, found
from toolscaler.data import ToolDocument
from toolscaler.errors import ConfigError

LIMITS = ExecutorLimits()


def outcome(schema: dict, arguments: object, limits: ExecutorLimits = LIMITS) -> str:
    try:
        ArgumentChecker(ToolDocument("tool", parameters=schema), limits).check(arguments)
    except CheckFailed as error:
        return error.error_type if error.error_type in ERROR_TYPES else f"unknown name {error.error_type}"
    return "fits"


def of(**properties: object) -> dict:
    return {"type": "object", "properties": properties}


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return of(a=schema)


def doubling(levels: int) -> dict:
    steps = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {**of(a={"$ref": "#/$defs/d0"}), "$defs": {**steps, f"d{levels}": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        ({"type": "object", "$ref": "#"}, {}),
        (of(a={"$ref": "#/properties/a"}), {"a": 1}),
        ({**of(), "$ref": "http://127.0.0.1:9/schema"}, {}),
        ({**of(), "$ref": "file:///etc/passwd"}, {}),
        (of(a={"$ref": "#/nowhere"}), {"a": 1}),
        (doubling(40), {"a": "x"}),
        (of(a={"type": "string", "pattern": "(x+x+)+y"}), {"a": "x" * 5000}),
        (of(a={"type": "string", "pattern": "((((a{1000}){1000}){1000}){1000})"}), {"a": "a"}),
        (of(a={"type": "string", "pattern": "(?x)#[\n((((a{1000}){1000}){1000}){1000})#]"}), {"a": "a"}),
        (of(a={"type": "string", "pattern": "(unclosed"}), {"a": "a"}),
        (of(a={"type": "string", "pattern": "a" * 3000}), {"a": "a"}),
        ({**of(), "patternProperties": {"(x+x+)+y": {}}}, {"x" * 5000: 1}),
        ({**of(), "patternProperties": {"(x+x+)+y": {}}, "additionalProperties": False}, {"x" * 5000: 1}),
        ({**of(), "patternProperties": {"a": {}}, "unevaluatedProperties": False}, {"b": 1}),
        ({**of(), "propertyNames": {"pattern": "(x+x+)+y"}}, {"x" * 5000: 1}),
        (nested(80), {"a": []}),
        (of(a={"enum": ["x" * 1000] * 2000}), {"a": "x"}),
        (of(a={"type": "banana"}), {"a": 1}),
        ({"type": "array"}, {}),
        (of(a={"multipleOf": 0.1}), {"a": 10**400}),
    ],
    ids=[
        "itself",
        "loop",
        "http",
        "file",
        "nowhere",
        "doubling",
        "slow",
        "expand",
        "hidden",
        "unclosed",
        "long",
        "pattern-properties",
        "additional",
        "unevaluated",
        "names",
        "deep",
        "huge",
        "type",
        "array",
        "overflow",
    ],
)
def test_hostile_and_broken_schemas_are_typed_errors(schema, arguments) -> None:
    assert outcome(schema, arguments) == "invalid_schema"


def test_a_hostile_schema_fails_alone() -> None:
    limits = ExecutorLimits(max_check_steps=2000)
    bad = ToolDocument("bad", parameters=doubling(40))
    good = ToolDocument("good", parameters=of(a={"type": "string"}))
    with PythonExecutor({"bad": str, "good": lambda a: a}, documents=[bad, good], limits=limits) as executor:
        outcomes = []
        threads = [
            threading.Thread(target=lambda: outcomes.append(executor.call("bad", {"a": "x"}).error_type))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        assert executor.call("good", {"a": "fine"}).content == "fine"
        for thread in threads:
            thread.join(60)
        assert outcomes == ["invalid_schema"] * 8


def test_large_but_honest_schemas_and_arguments_pass() -> None:
    assert outcome(of(a={"enum": [f"v{i}" for i in range(20_000)]}), {"a": "v19999"}) == "fits"
    assert outcome(nested(50), {"a": []}) == "fits"
    assert outcome(of(a={"type": "array", "uniqueItems": True}), {"a": [{"k": i} for i in range(20_000)]}) == "fits"
    assert outcome(of(a={"type": "array", "uniqueItems": True}), {"a": [{"k": 1}, {"k": 1.0}]}) == "invalid_arguments"
    tree = {"$ref": "#/$defs/node"}
    node = {"type": "object", "properties": {"next": tree, "value": {"type": "integer"}}}
    schema = {**of(a=tree), "$defs": {"node": node}}
    assert outcome(schema, {"a": {"next": {"next": {"value": 1}}}}) == "fits"
    assert outcome(schema, {"a": {"next": {"next": {"value": "1"}}}}) == "invalid_arguments"


_scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "", "a", "ab", "b1"])
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
)
_types = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
_keyword_sets = st.fixed_dictionaries(
    {},
    optional={
        "type": _types,
        "enum": st.lists(_scalars, min_size=1, max_size=3),
        "minimum": st.integers(-2, 2),
        "maxLength": st.integers(0, 2),
        "pattern": st.sampled_from(["^a", "b$", "[0-9]", "a|b", "^$"]),
        "minItems": st.integers(0, 2),
        "uniqueItems": st.booleans(),
        "required": st.lists(st.sampled_from("ab"), max_size=2, unique=True),
    },
)
_schemas = st.recursive(
    _keyword_sets,
    lambda inner: st.builds(
        lambda base, extra: {**base, **extra},
        _keyword_sets,
        st.fixed_dictionaries(
            {},
            optional={
                "properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
                "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner, max_size=2),
                "additionalProperties": st.booleans() | inner,
                "items": inner,
                "anyOf": st.lists(inner, min_size=1, max_size=2),
                "oneOf": st.lists(inner, min_size=1, max_size=2),
                "not": inner,
            },
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(inner=_schemas, value=_values)
def test_the_bounded_check_decides_as_jsonschema_does(inner, value) -> None:
    schema = {**of(a=inner), "additionalProperties": False}
    expected = Draft202012Validator(schema).is_valid({"a": value})
    assert outcome(schema, {"a": value}) == ("fits" if expected else "invalid_arguments")


@settings(max_examples=200, deadline=None)
@given(value=_values)
def test_plain_json_copies(value) -> None:
    copy = plain_json(value, 50, "invalid_arguments")
    assert json.dumps(copy) == json.dumps(value)


@pytest.mark.parametrize(
    ("pattern", "items"),
    [("", 0), ("abc", 3), ("(ab{3}){2}", 8), ("[](]{5}", 5), (r"\({4}", 4), ("(a{10,}){10}", 100), ("a{,9}", 5)],
)
def test_expansion_by_hand(pattern, items) -> None:
    assert expansion(pattern) == items


@pytest.mark.parametrize("pattern", ["a{4}){9}", ")a{4}){9}", "(((a{6}){6}", "[a{6}){6}"])
def test_expansion_of_broken_patterns_is_finite(pattern) -> None:
    assert 0 < expansion(pattern) < 100


def test_everyday_patterns_are_allowed() -> None:
    uuid = "^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$"
    assert found(uuid, "123e4567-e89b-12d3-a456-426614174000", 1.0)
    assert not found(uuid, "123e4567", 1.0)
    assert found(r"^\d{4}-\d{2}-\d{2}$", "2024-01-01", 1.0)


def test_waits_grow_within_bounds_and_heed_the_server() -> None:
    policy = RetryPolicy(base_delay=0.5, max_delay=4.0)
    for attempts, bound in [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (500, 4.0)]:
        waits = [policy.delay(attempts) for _ in range(200)]
        assert 0 <= min(waits) < max(waits) <= bound
        assert max(waits) > bound / 2
    assert policy.delay(1, least=3.0) == 3.0
    assert policy.delay(1, least=9999.0) == 4.0


def test_a_wait_that_would_pass_the_time_limit_is_not_begun() -> None:
    def always(text: str) -> str:
        """Fail."""
        raise OSError(text)

    limits = ExecutorLimits(retry=RetryPolicy(max_attempts=10, base_delay=1000.0, max_delay=1000.0))
    with PythonExecutor(always, idempotent=True, limits=limits) as executor:
        started = time.monotonic()
        result = executor.call("always", {"text": "down"}, timeout=0.2)
        assert (result.error_type, result.metadata["attempts"]) == ("tool_error", 1)
        assert time.monotonic() - started < 100


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_result_bytes": 0},
        {"max_depth": 10_000},
        {"max_check_steps": 1.5},
        {"max_argument_bytes": True},
        {"retry": 3},
    ],
    ids=lambda item: next(iter(item)),
)
def test_wrong_limits_are_refused(arguments) -> None:
    with pytest.raises(ConfigError):
        ExecutorLimits(**arguments)


@pytest.mark.parametrize("arguments", [{"max_attempts": 0}, {"base_delay": -1}, {"max_delay": float("inf")}])
def test_wrong_retry_policies_are_refused(arguments) -> None:
    with pytest.raises(ConfigError):
        RetryPolicy(**arguments)


def test_a_failure_has_a_known_name_and_read_only_facts() -> None:
    with pytest.raises(ValueError, match="error_type"):
        ToolResult.failure("no such type", "message")
    result = ToolResult.failure("timeout", "late", attempts=2)
    with pytest.raises(TypeError):
        result.metadata["attempts"] = 3
    assert pickle.loads(pickle.dumps(result)) == copy.deepcopy(result) == result
