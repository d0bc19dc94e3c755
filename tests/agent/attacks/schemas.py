"""Schema bombs and fuzzed schemas, all the way through the loop: valid arguments or feedback, and either soon."""

# ruff: noqa: E501

from __future__ import annotations

import itertools
import json
import random
import time
from dataclasses import replace

from agent.attacks.planners import Scripted, call, calls, code_planner
from agent.attacks.tally import Tally
from toolscaler.agent.agent import ToolAgent
from toolscaler.agent.config import AgentConfig
from toolscaler.agent.executors import ExecutorLimits, PythonExecutor
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import ToolscalerError

#: Far above what one run takes, far below what a bomb is after.
SECONDS = 30.0


def obj(properties, **more) -> dict:
    return {"type": "object", "properties": properties, **more}


def _nested(depth: int, kind: str) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = obj({"a": schema}, required=["a"]) if kind == "object" else {kind: [schema, {"type": "integer"}]}
    return schema


def _doubled(key: str, depth: int) -> dict:
    """Each definition names the one before twice: 2**depth when written out."""
    defs: dict = {"d0": {"type": "string", "pattern": "^z"}}
    for level in range(1, depth):
        one = {"$ref": f"#/$defs/d{level - 1}"}
        defs[f"d{level}"] = obj({"x": one, "y": one}, required=["x", "y"]) if key == "object" else {key: [one, one]}
    return obj({"v": {"$ref": f"#/$defs/d{depth - 1}"}}, required=["v"], **{"$defs": defs})


def _pattern(text: str) -> dict:
    return obj({"v": {"type": "string", "pattern": text}}, required=["v"])


#: Name -> schema, and arguments that a model may be made to write for it.
BOMBS = {
    "deep": (lambda: _nested(50, "object"), {"a": "x"}),
    "very deep": (lambda: _nested(180, "object"), {"a": "x"}),
    "deep options": (lambda: obj({"v": _nested(30, "anyOf")}), {"v": []}),
    "doubled anyOf": (lambda: _doubled("anyOf", 30), {"v": "a"}),
    "doubled allOf": (lambda: _doubled("allOf", 30), {"v": "a"}),
    "doubled oneOf": (lambda: _doubled("oneOf", 30), {"v": "a"}),
    "doubled object": (lambda: _doubled("object", 30), {"v": {"x": 1}}),
    "itself": (lambda: {"type": "object", "allOf": [{"$ref": "#"}]}, {}),
    "recursion": (lambda: obj({"v": {"$ref": "#"}, "w": {"anyOf": [{"$ref": "#"}]}}, required=["v"]), {"v": {}}),
    "huge enum": (lambda: obj({"v": {"enum": [f"value {n}" for n in range(20_000)]}}, required=["v"]), {"v": "no"}),
    "many properties": (lambda: obj({f"p{n}": {"type": "integer"} for n in range(5000)}), {"p1": "x"}),
    "plus of plus": (lambda: _pattern("^(a+)+$"), {"v": "a" * 5000 + "!"}),
    "x plus": (lambda: _pattern("(x+x+)+y"), {"v": "x" * 5000}),
    "or": (lambda: _pattern("^(a|a|b|a)*$"), {"v": "a" * 5000 + "!"}),
    "repeats": (lambda: _pattern("^((((a{1,99}){1,99}){1,99}){1,99}){1,99}$"), {"v": "a" * 500}),
    "look behind": (lambda: _pattern("(?<=(a+)+)b(?=(c+)+$)"), {"v": "a" * 3000}),
    "pattern keys": (lambda: {"type": "object", "patternProperties": {"(x+x+)+y": {}}}, {"x" * 3000: 1}),
    "not a pattern": (lambda: _pattern("(("), {"v": "a"}),
    "long text": (lambda: obj({"v": {"type": "string", "minLength": 10**9}}, required=["v"]), {"v": "a"}),
    "many items": (lambda: obj({"v": {"type": "array", "minItems": 10**9}}, required=["v"]), {"v": []}),
    "unique": (lambda: obj({"v": {"type": "array", "uniqueItems": True}}), {"v": [{"a": n} for n in range(20_000)]}),
    "numbers": (lambda: obj({"v": {"type": "integer", "minimum": 10**300}}, required=["v"]), {"v": 10**400}),
    "step": (lambda: obj({"v": {"type": "number", "multipleOf": 1e-300}}, required=["v"]), {"v": 1e300}),
    "network": (lambda: obj({"v": {"$ref": "http://127.0.0.1:9/x"}}), {"v": 1}),
    "file": (lambda: obj({"v": {"$ref": "file:///etc/passwd"}}), {"v": 1}),
    "dynamic": (lambda: {**obj({}), "$dynamicAnchor": "a", "additionalProperties": {"$dynamicRef": "#a"}}, {"v": {"w": 1}}),
    "nothing fits": (lambda: obj({"v": {"type": "string", "enum": [1]}}, required=["v"]), {"v": 1}),
    "no schema": (lambda: obj({"v": {"type": "banana"}}), {"v": 1}),
}  # fmt: skip


def _agent(planner, schema: dict, ran: list) -> ToolAgent:
    plain = obj({"n": {"type": "integer"}}, required=["n"])
    documents = [ToolDocument("bomb", "Tick.", parameters=schema), ToolDocument("good", "Good.", parameters=plain)]
    functions = {"bomb": lambda **kw: ran.append(kw), "good": lambda **kw: "fine"}
    limits = ExecutorLimits(max_check_seconds=1.0)
    executor = PythonExecutor(functions, documents=documents, limits=limits)
    return ToolAgent(planner, executor, config=AgentConfig(max_steps=3, max_seconds=60))


def bombs(count: int, seed: int = 0) -> Tally:
    """A hostile schema costs its own tool an error, in bounded time; the tool beside it works on."""
    tally, coder = Tally("schema bombs through the loop"), code_planner(["bomb", "good"], 1)
    cases = list(itertools.product(BOMBS, ("scripted", "coded")))
    random.Random(seed).shuffle(cases)
    for name, kind in itertools.islice(itertools.cycle(cases), count):
        make, arguments = BOMBS[name]
        ran: list = []
        began = time.monotonic()
        try:
            if kind == "scripted":
                planner = Scripted(calls(call("bomb", **arguments)), calls(call("good", n=1)))
                run = _agent(planner, make(), ran).run("Go.")
                good = run.outcome == "answer" and run.calls[1].result.content == "fine"
            else:
                _agent(coder, make(), ran).run("Go.", candidate_tools=["bomb"])
                after = _agent(coder, obj({}), ran).run("Go on.", candidate_tools=["good"])
                good = not [made for made in after.calls if made.result.error_type in ("invalid_arguments", "refused")]
            problem = ""
        except ToolscalerError as error:
            good, problem = kind == "coded" or name == "very deep", f"{type(error).__name__}: {error}"
        except Exception as error:
            good, problem = False, f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - began
        tally.saw(good and seconds < SECONDS, f"{name} {kind}: {seconds:.1f} s {problem}")
    return tally


def _valid(arguments: dict, schema: dict) -> bool:
    import jsonschema

    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return validator(schema).is_valid(arguments)


def fuzz(count: int, seed: int = 0) -> Tally:
    """Whatever schema and whatever arguments: what runs fits the schema, all else is feedback."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    from agent.argument_walks import schemas

    tally, coder = Tally("arguments fuzzed by schema, round the loop"), code_planner(["bomb", "good"], 2)
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
    quiet = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @seeded(seed)
    @quiet
    @given(st.data())
    def check(data) -> None:
        schema, ran = data.draw(schemas()), []
        wild = data.draw(st.dictionaries(st.sampled_from(list(schema["properties"]) or ["x"]), anything) | anything)
        fitting = _fitting(coder, schema, data.draw(st.integers(0, 10**6)))
        plans = [calls(replace(call("bomb"), arguments=wild))]
        if fitting is not None:
            plans.append(calls(call("bomb", **fitting)))
        try:
            run = _agent(Scripted(*plans), schema, ran).run("Go.")
            good = run.outcome == "answer"
            good &= fitting is None or not run.calls[1].result.is_error
            for made in run.calls[:1]:
                shown = json.loads(json.dumps(made.arguments, default=str))
                fits = isinstance(wild, dict) and _valid(shown, schema) and made.arguments == wild
                good &= made.result.is_error or fits
            written = _agent(coder, schema, ran).run("Go.", candidate_tools=["bomb"])
            for made in written.calls:
                if made.tool == "bomb" and made.result.error_type:
                    good &= made.result.error_type in ("invalid_arguments", "invalid_schema")
            good &= all(_valid(arguments, schema) for arguments in ran)
            problem = [made.result.content for made in (*run.calls, *written.calls)]
        except Exception as error:
            good, problem = False, f"{type(error).__name__}: {error}"
        tally.saw(good, f"{schema} {wild!r}: {problem}")

    check()
    return tally


def _fitting(coder, schema: dict, number: int):
    """Write arguments that fit a schema, token by token at random; ``None`` where the grammar knows only part of it."""
    from agent.argument_walks import random_walk
    from toolscaler.agent.argument_text import ArgumentError

    try:
        grammar = coder.grammars.get(ToolDocument("bomb", "Tick.", parameters=schema))
        return grammar.parse(random_walk(grammar, number, free=40))
    except ArgumentError:
        return None
