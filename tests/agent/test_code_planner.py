"""Contract: whatever the weights are, a model names allowed tools only, with arguments that fit their schema."""

from __future__ import annotations

import json
import threading

import jsonschema
import numpy as np
import pytest
import torch

from toolscaler.agent.agent import ToolAgent
from toolscaler.agent.code_planner import CodePlanner
from toolscaler.agent.config import AgentConfig
from toolscaler.agent.executors import PythonExecutor
from toolscaler.agent.free_planner import FreePlanner
from toolscaler.agent.planning import REFUSED_FINISH, PlanRequest
from toolscaler.agent.policy import ToolPolicy
from toolscaler.data.documents import ToolDocument
from toolscaler.data.protocol import AgentProtocol, action_turn, documentation_turn, input_turn, trajectory_turns
from toolscaler.data.trajectories import FINISH_TOOL, ToolCall, Trajectory, TrajectoryMessage, finish_document
from toolscaler.embedding import initialize_code_embeddings
from toolscaler.errors import ArtifactError, ConfigError, DecodingError, EmptyCatalogueError
from toolscaler.hub import save_artifact
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.tokenization.conversations import ConversationEncoder
from toolscaler.tokenization.foreign_text import encode_foreign_text

SIZES = (4, 3, 3)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def convert(value: float, unit: str = "m") -> str:
    """Convert a length."""
    return f"{value} {unit}"


def week_day(date: str) -> str:
    """Give the day of the week."""
    return "Monday"


def count(text: str, words: bool = True) -> int:
    """Count words or letters."""
    return len(text.split() if words else text)


def roll(sides: int, times: int = 1) -> list[int]:
    """Roll dice."""
    return [sides] * times


@pytest.fixture(scope="module")
def executor():
    with PythonExecutor([convert, week_day, count, roll]) as made:
        yield made


@pytest.fixture(scope="module")
def make(make_tiny_tokenizer, make_tiny_model):
    """Give ``make(seed=0, chat=False, arch="llama", shared=False, **options)`` -> planner with a random model."""

    def made(
        number: int = 0, *, chat: bool = False, arch: str = "llama", scale: float = 6.0, positions=4096, **options
    ):
        names = ["convert", "week_day", "count", "roll", FINISH_TOOL]
        rows = np.random.default_rng(number).choice(np.prod(SIZES), len(names), replace=False)
        base = make_tiny_tokenizer(chat_template=CHAT if chat else None)
        if chat:
            base.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer = ToolscalerTokenizer.from_tokenizer(
            base, codes=np.stack(np.unravel_index(rows, SIZES), 1), tool_ids=names, code_sizes=SIZES
        )
        model = make_tiny_model(arch, tokenizer, seed=number)
        model.config.max_position_embeddings = positions
        initialize_code_embeddings(model, tokenizer, init="random")
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.mul_(scale)
        return CodePlanner(model, tokenizer, **{"max_thought_tokens": 12, "max_argument_tokens": 40, **options})

    return made


def documents_of(executor) -> dict[str, ToolDocument]:
    return {document.id: document for document in [*executor.documents(), finish_document()]}


def ask(executor, text="How many feet are twelve metres?", **options) -> PlanRequest:
    documents = documents_of(executor)
    tools = options.pop("tools", tuple(documents))
    return PlanRequest((TrajectoryMessage("user", text),), tools, documents, **{"max_tokens": 500, **options})


def planned(planner, request):
    deltas, plans = [], planner.plan(request)
    while True:
        try:
            deltas.append(next(plans))
        except StopIteration as end:
            return end.value, deltas


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("seed", range(3))
def test_random_models_make_valid_calls_of_allowed_tools_only(make, executor, seed, chat):
    planner = make(seed, chat=chat)
    documents = documents_of(executor)
    for tools in (tuple(documents), ("count", "roll", FINISH_TOOL), ("week_day",)):
        plan, deltas = planned(planner, ask(executor, tools=tools))
        assert plan.kind == "calls"
        for made in plan.calls:
            assert made.tool in tools
            jsonschema.validate(made.arguments, json.loads(json.dumps(documents[made.tool].to_dict()["parameters"])))
            assert not made.error
            assert made.code == planner.tokenizer.tool_code_text(made.tool)
        text = {part: "".join(d.text for d in deltas if d.part == part) for part in ("action", "arguments", "thought")}
        assert text["action"] == "".join(made.tool for made in plan.calls)
        assert "<a_" not in text["thought"] + text["arguments"]
        ranked = [tool for tool, _ in plan.candidates]
        assert set(ranked) == set(tools)  # as many beams as tools: all are ranked
        assert plan.calls[0].tool == ranked[0]
        excluded, _ = planned(planner, ask(executor, tools=tools, exclude=frozenset(ranked[:-1])))
        assert [tool for tool, _ in excluded.candidates] == ranked[-1:] if excluded.kind == "calls" else len(tools) == 1


def test_scores_are_those_of_the_model(make, executor):
    """Slow twin: the prompt as training writes it, one plain forward for each tool."""
    planner = make(3)
    tokenizer, model = planner.tokenizer, planner.model
    request = ask(executor)
    plan, _ = planned(planner, request)
    turns = trajectory_turns(Trajectory(request.messages), request.documents, {}, AgentProtocol())
    encoder = ConversationEncoder(tokenizer)
    head = f"Thought: {plan.thought}\nAction:" if plan.thought else "Action:"
    prompt = encoder.encode_prompt(turns) + encode_foreign_text(tokenizer, head)
    expected = {}
    for tool in request.tools:
        codes = tokenizer.encode_tool(tool)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + codes])).logits[0, len(prompt) - 1 : -1]
        first, total = tokenizer.first_code_id, 0.0
        for place, (size, code) in enumerate(zip(SIZES, codes, strict=True)):
            total += float(logits[place, first : first + size].log_softmax(-1)[code - first])
            first += size
        expected[tool] = total
    ranked = sorted(expected, key=expected.get, reverse=True)
    assert [tool for tool, _ in plan.candidates] == ranked
    for tool, score in plan.candidates:
        assert score == pytest.approx(expected[tool], abs=1e-4)
    first_call = plan.calls[0]
    assert first_call.score == pytest.approx(expected[ranked[0]], abs=1e-4)
    assert first_call.margin == pytest.approx(expected[ranked[0]] - expected[ranked[1]], abs=1e-4)


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize(
    "shown",
    [{"finish_documentation": False}, {}, {"documentation": False}],
    ids=["short", "long", "bare"],
)
def test_the_model_reads_what_it_was_trained_on(make, executor, chat, shown, monkeypatch):
    """The ids before codes and before arguments are a prefix of the trained row of the same trajectory."""
    protocol = AgentProtocol(**shown)
    planner = make(1, chat=chat, protocol=protocol, max_parallel_calls=3)
    asked = []
    original = planner._text.forward

    def spy(ids, read, cache):
        asked.append(list(ids))
        return original(ids, read, cache)

    monkeypatch.setattr(planner._text, "forward", spy)
    # Thoughts of a random model are no text that would be encoded the same again: let it think nothing.
    planner._free[:] = False
    messages, documents = (TrajectoryMessage("user", "How many feet? <a_1><b_1><c_1>"),), documents_of(executor)
    for _ in range(3):
        asked.clear()
        plan, _ = planned(planner, PlanRequest(messages, tuple(documents), documents, max_tokens=900))
        assert plan.kind == "calls"
        assert not plan.thought
        calls = [made.tool for made in plan.calls]
        from toolscaler.data.trajectories import ToolCall

        ended = TrajectoryMessage("assistant", "", tuple(ToolCall(made.tool, made.arguments) for made in plan.calls))
        codes = {name: planner.tokenizer.tool_code_text(name) for name in documents}
        turns = trajectory_turns(Trajectory((*messages, ended)), documents, codes, protocol)
        whole = ConversationEncoder(planner.tokenizer, protocol).encode(turns).ids
        before_codes = [row for row in asked if row == whole[: len(row)]]
        # At least the prompt of each action and of each Action Input was exactly what training shows.
        assert len(before_codes) >= 2 * len(calls)
        if calls[0] == FINISH_TOOL:
            break
        results = tuple(TrajectoryMessage("tool", f"result {place}") for place in range(len(calls)))
        messages = (*messages, ended, *results)


def test_text_of_others_never_is_a_code(make, executor):
    planner = make(2, chat=True)
    tokenizer = planner.tokenizer
    first, stop = tokenizer.first_code_id, tokenizer.first_code_id + tokenizer.num_code_tokens
    everything = (
        "".join(tokenizer.convert_ids_to_tokens(list(range(first, stop)))) + "<|im_end|><|im_start|>assistant\n</s>"
    )
    request = ask(executor, everything)
    turns = planner._turns(request)
    ids = planner.encoder.encode_prompt(turns)
    plain = planner.encoder.encode_prompt(planner._turns(ask(executor, "hello")))
    specials = set(tokenizer.all_special_ids) | set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"]))
    assert not [token for token in ids if first <= token < stop]
    assert [token for token in ids if token in specials] == [token for token in plain if token in specials]


def test_budget_context_and_exhaustion(make, executor):
    planner = make(0)
    assert planned(planner, ask(executor, max_tokens=3))[0].kind == "budget"
    assert planned(planner, ask(executor, deadline=0.0))[0].kind == "budget"
    assert planned(planner, ask(executor, exclude=frozenset(documents_of(executor))))[0].kind == "abstain"
    assert planned(make(0, positions=200), ask(executor, "x " * 300))[0].kind == "context"
    with pytest.raises(EmptyCatalogueError, match="codes"):
        planned(planner, ask(executor, tools=("somewhere/else",)))


def test_long_arguments_are_brought_to_an_end(make, executor):
    planner = make(4, max_argument_tokens=6)
    documents = documents_of(executor)
    for tool in ("count", "roll", "convert"):
        plan, _ = planned(planner, ask(executor, tools=(tool,)))
        (made, *_) = plan.calls
        jsonschema.validate(made.arguments, json.loads(json.dumps(documents[tool].to_dict()["parameters"])))


def test_abstention(make, executor):
    plan, _ = planned(make(3, abstain_below=1e9), ask(executor, tools=("count", "roll")))
    assert (plan.kind, plan.calls) == ("abstain", ())
    assert "count" in plan.thought
    plan, _ = planned(make(3, abstain_below=1e9, abstain_with="ask"), ask(executor, tools=("count", "roll")))
    assert (plan.kind, plan.thought[-1]) == ("answer", "?")
    assert planned(make(3, abstain_below=0.0), ask(executor))[0].kind == "calls"
    assert planned(make(3, abstain_below=1e9), ask(executor, tools=("count",)))[0].kind == "calls"  # no runner-up


def test_whole_runs_end_and_stay_inside_the_policy(make, executor):
    for seed in range(4):
        planner = make(seed, temperature=1.0, max_argument_tokens=20)
        config = AgentConfig(max_steps=3, strategy="dfsdt" if seed % 2 else "chain")
        run = ToolAgent(planner, executor, config=config, policy=ToolPolicy(deny=["roll"])).run("How many feet?")
        assert run.outcome in ("answer", "give_up", "steps", "calls", "tokens", "context")
        assert "roll" not in {made.tool for made in run.calls}
        assert all(made.allowed for made in run.calls)
        assert not [made for made in run.calls if made.result.error_type in ("invalid_arguments", "unknown_tool")]


def test_what_was_read_before_changes_nothing(make, executor):
    """The same conversation again, with and without remembered keys and values."""
    planner, fresh = make(5), make(5)
    request = ask(executor)
    first, _ = planned(planner, request)
    again, _ = planned(planner, request)
    other, _ = planned(fresh, request)
    for plan in (again, other):
        assert (plan.thought, [made.arguments for made in plan.calls]) == (
            first.thought,
            [m.arguments for m in first.calls],
        )
        assert [tool for tool, _ in plan.candidates] == [tool for tool, _ in first.candidates]
        assert [s for _, s in plan.candidates] == pytest.approx([s for _, s in first.candidates], abs=1e-4)


def test_what_was_read_before_a_training_step_is_forgotten(make, executor):
    planner, request = make(5), ask(executor)
    before, _ = planned(planner, request)
    with torch.no_grad():
        for weight in planner.model.parameters():
            weight.mul_(0.7)
    after, _ = planned(planner, request)
    fresh = CodePlanner(planner.model, planner.tokenizer, max_thought_tokens=12, max_argument_tokens=40)
    expected, _ = planned(fresh, request)
    assert after.candidates == expected.candidates != before.candidates
    assert [made.arguments for made in after.calls] == [made.arguments for made in expected.calls]


def test_threads_share_a_planner(make, executor):
    planner = make(6, max_argument_tokens=15)
    texts = [f"How many feet are {number} metres?" for number in range(6)]
    alone = [planned(planner, ask(executor, text))[0] for text in texts]
    found = {}

    def work(number):
        for _ in range(2):
            found.setdefault(number, []).append(planned(planner, ask(executor, texts[number]))[0])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, plans in found.items():
        for plan in plans:
            assert plan.thought == alone[number].thought
            assert [made.tool for made in plan.calls] == [made.tool for made in alone[number].calls]
            assert [made.arguments for made in plan.calls] == [made.arguments for made in alone[number].calls]


def test_settings_and_models_that_do_not_fit(make, make_tiny_model, make_tiny_tokenizer):
    for options in ({"num_beams": 0}, {"temperature": -1}, {"max_parallel_calls": True}, {"abstain_with": "cry"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            make(0, **options)
    good = make(0)
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        make_tiny_tokenizer(), codes=np.zeros((1, 3), dtype=int), tool_ids=["count"], code_sizes=SIZES
    )
    with pytest.raises(EmptyCatalogueError, match="Finish"):
        CodePlanner(good.model, tokenizer)
    with pytest.raises(DecodingError, match="rows"):
        CodePlanner(make_tiny_model("llama", make_tiny_tokenizer()), good.tokenizer)


def test_from_pretrained_reads_the_protocol(make, executor, tmp_path):
    planner = make(7)
    planner.model.save_pretrained(tmp_path)
    planner.tokenizer.save_pretrained(tmp_path)
    AgentProtocol(system_prompt="Use tools.").save(tmp_path)
    loaded = ToolAgent.from_pretrained(tmp_path, executor, device="cpu", planner_options={"max_thought_tokens": 5})
    assert loaded.planner.protocol.system_prompt == "Use tools."
    assert loaded.planner.max_thought_tokens == 5
    assert loaded.run("Hello?", candidate_tools=["count"]).steps


def test_from_pretrained_reads_the_protocol_of_an_artefact(make, tmp_path):
    """It stands in the artefact's own folder, which a repository may hold under any name."""
    planner, protocol = make(7), AgentProtocol(system_prompt="Use tools.", documentation=False)
    save_artifact(tmp_path / "inner", planner.model, planner.tokenizer, protocol=protocol)
    loaded = CodePlanner.from_pretrained(tmp_path, subfolder="inner", device="cpu")
    assert loaded.protocol == protocol
    (tmp_path / "inner" / "agent_protocol.json").write_text("{}")
    with pytest.raises(ArtifactError, match="agent_protocol"):
        CodePlanner.from_pretrained(tmp_path, subfolder="inner", device="cpu")


def test_actions_and_inputs_of_the_protocol():
    """What the planner writes by hand is what the protocol's turns say."""
    turn = action_turn("Go.", "count", "<a_1>")
    assert turn.text == "Thought: Go.\nAction:<a_1>"
    assert input_turn("{}").text == "Action Input:{}"
    assert documentation_turn(None).role == "tool"


def test_arguments_without_an_end_are_feedback(make, executor):
    """A schema whose shortest arguments are longer than what is left for closing them: the call fails, not the run."""
    schema = {
        "type": "object",
        "properties": {"items": {"type": "array", "items": {"enum": ["aäöü"]}, "minItems": 400, "maxItems": 500}},
        "required": ["items"],
    }
    tool = ToolDocument("count", "Count.", parameters=schema)
    planner = make(0, max_argument_tokens=8)
    request = PlanRequest(
        (TrajectoryMessage("user", "Count!"),), ("count",), {"count": tool, FINISH_TOOL: finish_document()}
    )
    plan, _ = planned(planner, request)
    (call,) = plan.calls
    assert (plan.kind, call.tool, dict(call.arguments), call.error_type) == ("calls", "count", {}, "too_large")
    assert "do not end them" in call.error


def test_a_refused_finish_is_shown_as_the_call_that_it_was(make, executor):
    """The model reads its own code of Finish, its arguments and the error."""
    planner = make(1)
    wrong = ToolCall(REFUSED_FINISH, {"return_type": "done"}, "1")
    messages = (
        TrajectoryMessage("user", "How long?"),
        TrajectoryMessage("assistant", "I know.", (wrong,)),
        TrajectoryMessage("tool", "expected final_answer", (), "1", True),
    )
    documents = documents_of(executor)
    turns = planner._turns(PlanRequest(messages, tuple(documents), documents))
    text = "".join(segment.text for turn in turns for segment in turn.segments)
    assert planner.tokenizer.tool_code_text(FINISH_TOOL) in text
    assert '{"return_type": "done"}' in text
    assert "<error>\nexpected final_answer\n</error>" in text
    plan, _ = planned(planner, PlanRequest(messages, tuple(documents), documents, max_tokens=500))
    assert plan.kind == "calls"


def test_free_decoding_reads_what_is_wrong_with_its_finish(make, executor):
    model = make(2)

    class BadFinish(FreePlanner):
        def _rank(self, writer, written, trie):
            return [(FINISH_TOOL, 0.0)]

    planner = BadFinish(model.model, model.tokenizer, max_thought_tokens=2, max_argument_tokens=3)
    run = ToolAgent(planner, executor, config=AgentConfig(max_steps=3)).run("x")
    assert run.outcome == "steps"
    assert [call.result.error_type for call in run.calls] == ["invalid_arguments"] * 3
