"""Contract: of every attack nothing gets through. Larger counts of the same: benchmarks/agent_attacks.py."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("llguidance")
pytest.importorskip("mcp")

from agent.attacks import injection
from agent.attacks.catalogue import ATTACKS
from agent.attacks.documents import HONEST, TOOL, Shifting
from agent.attacks.planners import Scripted, call, calls, code_planner
from toolscaler.agent import CallLimits, PendingCall, PolicyVerdict, ToolAgent, ToolPolicy
from toolscaler.agent.config import AgentConfig
from toolscaler.agent.dispatch import sound_call
from toolscaler.agent.executors import CompositeExecutor, ExecutorLimits, PythonExecutor, ToolResult
from toolscaler.data.trajectories import TrajectoryMessage
from toolscaler.errors import DataError

#: Attacks that need what only some systems have.
_UNIX = {"paths", "audit", "functions", "functions in processes"}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_gets_through(name) -> None:
    if name in _UNIX and sys.platform == "win32":
        pytest.skip("links, /dev/full and signals of Unix")
    attack, count, _ = ATTACKS[name]
    tally = attack(count, 1)
    assert tally.tried >= count
    assert tally.through == []


def test_the_obedient_model_would_do_it() -> None:
    """Without a rule the injected order is carried out: the attack is none of straw."""
    assert injection.premise() > 0


def test_what_was_confirmed_is_what_runs() -> None:
    """A document that changes while a person is asked: the call is refused, and counted as refused."""
    provider = Shifting(HONEST)

    def confirm(pending: PendingCall) -> bool:
        provider.offered = []
        return True

    run = ToolAgent(Scripted(calls(call(TOOL))), provider, policy=ToolPolicy(confirm=confirm)).run("Send.")
    assert (run.calls[0].rule, run.calls[0].result.error_type, provider.ran) == ("hash", "refused", [])


def test_an_id_stays_with_its_first_owner() -> None:
    mine, theirs = Shifting(HONEST), Shifting()
    with CompositeExecutor([mine, theirs]) as executor:
        mine.offered, theirs.offered = [], [HONEST]
        with pytest.raises(DataError, match="another executor's"):
            executor.documents()
        assert executor.call(TOOL, {}).content == "theirs"  # what Shifting says
        assert (mine.ran, theirs.ran) == ([TOOL], [])
        mine.offered, theirs.offered = [HONEST], []
        assert executor.documents() == [HONEST]


@pytest.mark.parametrize(
    "arguments",
    [[], None, "x", {"a": float("nan")}, {"a": {1: 2}}, {"a": object()}, {"a": "\ud800"}],
    ids=["list", "none", "text", "nan", "number as key", "object", "half a character"],
)
def test_arguments_that_are_no_json_are_feedback(arguments) -> None:
    from dataclasses import replace

    provider = Shifting(HONEST)
    planned = replace(call(TOOL), arguments=arguments)
    run = ToolAgent(Scripted(calls(planned)), provider).run("Send.")
    assert (run.outcome, run.calls[0].result.error_type, provider.ran) == ("answer", "invalid_arguments", [])


def test_arguments_without_a_bottom_are_feedback() -> None:
    deep: dict = {}
    for _ in range(50_000):
        deep = {"a": deep}
    circle: dict = {}
    circle["a"] = circle
    for arguments in (deep, circle):
        assert sound_call(call(TOOL, x=arguments)).error_type == "invalid_arguments"
    while deep:  # no recursion when it is let go
        deep = deep.pop("a")


def test_a_plan_without_calls_is_a_dead_end() -> None:
    assert ToolAgent(Scripted(calls()), Shifting(HONEST)).run("Send.").outcome == "no_tool"


def test_an_executor_that_raises_is_feedback() -> None:
    provider = Shifting(HONEST)

    def broken():
        raise RuntimeError("I promised not to")

    provider.on_call = broken
    run = ToolAgent(Scripted(calls(call(TOOL))), provider).run("Send.")
    assert (run.outcome, run.calls[0].result.error_type) == ("answer", "tool_error")


def test_the_runs_time_does_not_lengthen_the_executors_own() -> None:
    """A tool that hangs is left after the executor's limit, not after the whole run's."""
    asked = []

    class Asked(PythonExecutor):
        def call(self, tool, arguments, *, timeout=None):
            asked.append(timeout)
            return ToolResult("x")

    def look() -> str:
        """Look."""
        return "x"

    with Asked([look], limits=ExecutorLimits(timeout=0.5)) as executor:
        for config in (AgentConfig(), AgentConfig(call_seconds=2.0), AgentConfig(max_seconds=None)):
            ToolAgent(Scripted(calls(call("look"))), executor, config=config).run("Look.")
        with CompositeExecutor({"a": executor}) as both:
            ToolAgent(Scripted(calls(call("a/look"))), both).run("Look.")
    assert asked == [0.5, 2.0, 0.5, 0.5]


def test_a_past_answer_in_plain_text_can_be_read() -> None:
    """A conversation whose assistant spoke before: the planner shows it as a call of Finish."""
    planner, provider = code_planner(["bank/send"], 0), Shifting(HONEST)
    past = [TrajectoryMessage("user", "Hello"), TrajectoryMessage("assistant", "Hello. <a_1>")]
    run = ToolAgent(planner, provider, config=AgentConfig(max_steps=1)).session(messages=past).run("Send.")
    assert run.steps


def test_a_limit_of_zero_is_never() -> None:
    policy, provider = ToolPolicy(limits=CallLimits(per_run=0)), Shifting(HONEST)
    run = ToolAgent(Scripted(calls(call(TOOL))), provider, policy=policy).run("Send.")
    assert not PolicyVerdict(run.calls[0].allowed)
    assert provider.ran == []
