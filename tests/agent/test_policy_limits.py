"""Contract: no window of 60 seconds, and no run, holds more calls than its limit; a brute-force twin agrees."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.agent.call_limits import WINDOW_SECONDS, CallLedger, CallLimits
from toolscaler.agent.policy import PendingCall, ToolPolicy
from toolscaler.data import ToolDocument
from toolscaler.errors import ConfigError, UnknownToolError

TOOLS = {name: ToolDocument(name) for name in ("a", "b")}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_each_limit_names_its_rule() -> None:
    for limits, rule in [
        (CallLimits(per_run=1), "run_calls"),
        (CallLimits(tool_per_run=1), "tool_calls"),
        (CallLimits(per_minute=1), "rate"),
        (CallLimits(tool_per_minute={"a": 1}), "tool_rate"),
        (CallLimits(per_run=1, per_minute=1), "run_calls"),
    ]:
        session = ToolPolicy(limits=limits).session("ann")
        assert session.reserve(PendingCall("a"), TOOLS["a"])
        refused = session.reserve(PendingCall("a"), TOOLS["a"])
        assert (refused.allowed, refused.rule) == (False, rule)
        assert "limit of 1" in refused.reason


def test_a_rate_holds_across_runs_and_not_across_callers() -> None:
    clock = Clock()
    policy = ToolPolicy(limits=CallLimits(per_minute=2), ledger=CallLedger(clock))
    for _ in range(2):
        assert policy.session("ann").reserve(PendingCall("a"), TOOLS["a"])
    assert policy.session("ann").reserve(PendingCall("b"), TOOLS["b"]).rule == "rate"
    assert policy.session("bob").reserve(PendingCall("b"), TOOLS["b"])
    clock.now += WINDOW_SECONDS
    assert policy.session("ann").reserve(PendingCall("b"), TOOLS["b"])


def test_policies_that_share_a_ledger_count_once() -> None:
    ledger = CallLedger(Clock())
    first = ToolPolicy(limits=CallLimits(per_minute=3), ledger=ledger)
    both = first & ToolPolicy(limits=CallLimits(tool_per_minute=2), ledger=ledger)
    rules = [both.session("ann").reserve(PendingCall("a"), TOOLS["a"]).rule for _ in range(3)]
    assert rules == ["", "", "tool_rate"]
    assert first.session("ann").reserve(PendingCall("a"), TOOLS["a"])
    assert first.session("ann").reserve(PendingCall("a"), TOOLS["a"]).rule == "rate"


def test_a_refusal_by_one_part_takes_nothing_from_another() -> None:
    loose, tight = ToolPolicy(limits=CallLimits(per_minute=5)), ToolPolicy(limits=CallLimits(per_minute=1))
    both = loose & tight
    assert both.session("ann").reserve(PendingCall("a"), TOOLS["a"])
    for _ in range(10):
        assert both.session("ann").reserve(PendingCall("a"), TOOLS["a"]).rule == "rate"
    assert sum(bool(loose.session("ann").reserve(PendingCall("a"), TOOLS["a"])) for _ in range(10)) == 4


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), st.integers(0, 1)), max_size=40),
    st.integers(0, 4),
    st.integers(0, 3),
    st.integers(0, 9),
)
def test_equals_counting_by_hand(calls, per_minute, of_a, per_run) -> None:
    clock = Clock()
    limits = CallLimits(per_minute=per_minute, tool_per_minute={"a": of_a}, per_run=per_run)
    policy = ToolPolicy(limits=limits, ledger=CallLedger(clock))
    sessions, taken = [policy.session("ann"), policy.session("ann")], []
    for tool, pause, run in calls:
        clock.now += pause
        recent = [(t, r) for when, t, r in taken if when > clock.now - 60]
        fits = len(recent) < per_minute and (tool != "a" or sum(t == "a" for t, _ in recent) < of_a)
        fits = fits and sum(r == run for _, _, r in taken) < per_run
        assert sessions[run].reserve(PendingCall(tool), TOOLS[tool]).allowed == fits
        if fits:
            taken.append((clock.now, tool, run))


def test_exact_under_threads() -> None:
    policy = ToolPolicy(limits=CallLimits(per_minute=50, tool_per_minute={"a": 30}))
    start, counts = threading.Barrier(8), []

    def work(tool):
        session = policy.session("ann")
        start.wait()
        counts.append((tool, sum(bool(session.reserve(PendingCall(tool), TOOLS[tool])) for _ in range(40))))

    threads = [threading.Thread(target=work, args=("ab"[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(n for _, n in counts) == 50
    assert sum(n for tool, n in counts if tool == "a") <= 30


def test_quiet_callers_are_forgotten() -> None:
    clock = Clock()
    policy = ToolPolicy(limits=CallLimits(per_minute=5), ledger=CallLedger(clock))
    for n in range(100):
        assert policy.session(f"caller {n}").reserve(PendingCall("a"), TOOLS["a"])
    clock.now += 2 * WINDOW_SECONDS
    assert policy.session("last").reserve(PendingCall("a"), TOOLS["a"])
    assert len(policy.ledger._times) == 2


@pytest.mark.parametrize("value", [-1, 1.5, True, "3"], ids=["negative", "fraction", "flag", "text"])
def test_a_limit_is_a_whole_number(value) -> None:
    for key in ("per_minute", "per_run", "tool_per_run", "tool_per_minute"):
        with pytest.raises(ConfigError, match=key):
            CallLimits(**{key: value})
    with pytest.raises(ConfigError, match="'a'"):
        CallLimits(tool_per_run={"a": value})
    with pytest.raises(ConfigError):
        ToolPolicy(limits=3)


def test_a_misspelt_tool_of_a_limit_is_an_error() -> None:
    with pytest.raises(UnknownToolError):
        ToolPolicy(limits=CallLimits(tool_per_run={"c": 1})).allowed(TOOLS.values())
