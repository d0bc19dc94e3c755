"""The loop of one run: plan a step, run its calls, feed the results back, and go back where a branch fails."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace

from toolscaler.agent.config import AgentConfig
from toolscaler.agent.dispatch import Dispatcher, sound_call
from toolscaler.agent.executors.base import ToolResult
from toolscaler.agent.planning import REFUSED_FINISH, Plan, PlannedCall, Planner, PlanRequest
from toolscaler.agent.records import AgentCall, AgentEvent, AgentOutcome, AgentStep, AgentTrajectory
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import FINISH_TOOL, GIVE_ANSWER, GIVE_UP, ToolCall, Trajectory, TrajectoryMessage
from toolscaler.errors import EndpointError

#: Ends of a branch after which another one may be tried.
_BACK = frozenset({"give_up", "steps", "context", "dead_end", "no_tool"})

Events = Generator[AgentEvent, None, None]


@dataclass(eq=False)
class _Point:
    """A conversation at which a step is chosen, and what was tried there."""

    messages: tuple[TrajectoryMessage, ...]
    depth: int
    tried: set[str] = field(default_factory=set)
    choices: int = 0  # branches that went on from here
    retries: int = 0  # steps taken back because their call failed


@dataclass(eq=False)
class _Taken:
    """What came of one step."""

    message: TrajectoryMessage
    results: tuple[TrajectoryMessage, ...]
    calls: tuple[AgentCall, ...]

    @property
    def failed(self) -> bool:
        return any(call.result.is_error for call in self.calls)


class AgentRun:
    """One run of an agent, for one query.

    Args:
        planner: Decides steps.
        dispatcher: Runs calls.
        config: Budgets and strategy.
        messages: The conversation so far, the query last.
        documents: Documents of the tools that the run may call, :data:`~toolscaler.data.FINISH_TOOL` among them where
            the planner names it by code.
        caller: For whom.
        run_id: Name of the run.
    """

    def __init__(
        self,
        planner: Planner,
        dispatcher: Dispatcher,
        config: AgentConfig,
        messages: tuple[TrajectoryMessage, ...],
        documents: Mapping[str, ToolDocument],
        *,
        caller: str = "",
        run_id: str = "",
    ) -> None:
        self._planner, self._dispatcher, self._config = planner, dispatcher, config
        self._start, self._documents = messages, documents
        self._tools = tuple(documents)
        self._caller, self._run_id = caller, run_id
        self._steps: list[AgentStep] = []
        self._tokens = self._calls = self._branch = 0
        self._began = time.monotonic()
        self._deadline = None if config.max_seconds is None else self._began + config.max_seconds

    def events(self) -> Events:
        """Run, and give what happens as it happens; the last event carries the whole run.

        Raises:
            ArtifactError: The audit log is required and cannot be written.
            EndpointError: The planner's endpoint gave no usable answer; its ``trajectory`` is what was done until then.
        """
        point = _Point(self._start, 0)
        path: list[_Point] = []
        outcome: AgentOutcome | None = None
        answer, messages = "", self._start
        while outcome is None:
            outcome = self._spent()
            if outcome is not None:
                break
            if point.depth >= self._config.max_steps:
                messages, outcome = point.messages, "steps"
            else:
                began = time.monotonic()
                try:
                    plan = yield from self._plan(point)
                except EndpointError as error:  # what was done until then is not lost
                    error.trajectory = self._record(point.messages, "", "error")
                    raise
                messages, answer, outcome, following = yield from self._step(point, plan, began)
                if outcome is None and following is not None:
                    if following is not point:
                        path.append(point)
                    point, messages = following, following.messages
                    continue
            back = self._way_back([*path, point]) if outcome in _BACK else None
            if back is not None:
                point = back
                del path[path.index(back) if back in path else len(path) :]
                self._branch += 1
                yield AgentEvent("backtrack", f"step {point.depth + 1}: trying another tool than {sorted(point.tried)}")
                outcome = None
        if outcome == "answer":
            yield AgentEvent("answer", answer)
        yield AgentEvent("finished", outcome, trajectory=self._record(messages, answer, outcome))

    def _spent(self) -> AgentOutcome | None:
        """Say which budget of the whole run is spent."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return "seconds"
        return "tokens" if self._tokens >= self._config.max_tokens else None

    def _plan(self, point: _Point) -> Generator[AgentEvent, None, Plan]:
        request = PlanRequest(
            point.messages,
            self._tools,
            self._documents,
            frozenset(point.tried),
            self._config.max_tokens - self._tokens,
            self._deadline,
        )
        deltas = self._planner.plan(request)
        while True:
            try:
                delta = next(deltas)
            except StopIteration as end:
                plan: Plan = end.value
                self._tokens += plan.tokens
                return replace(plan, calls=tuple(map(sound_call, plan.calls)))
            yield AgentEvent(delta.part, delta.text)

    def _step(
        self, point: _Point, plan: Plan, began: float
    ) -> Generator[AgentEvent, None, tuple[tuple[TrajectoryMessage, ...], str, AgentOutcome | None, _Point | None]]:
        """Do what a plan says; give the conversation then, the answer, how the run ended, or where it goes on."""
        if plan.kind == "calls" and plan.calls:
            if plan.calls[0].tool == FINISH_TOOL:
                wrong = _wrong_finish(plan.calls[0])
                if wrong is None:
                    return self._finish(point, plan, began)
                following = yield from self._refuse_finish(point, plan, wrong, began)
                return following.messages, "", None, following
            if self._calls + len(plan.calls) > self._config.max_calls:
                self._add(plan, (), began)
                return point.messages, "", "calls", None
            taken = yield from self._take(point, plan)
            if taken.failed and self._config.on_error == "next_best" and point.retries < self._config.max_retries:
                self._add(plan, taken.calls, began, dropped=True)
                point.retries += 1
                point.tried.update(call.tool for call in taken.calls if call.result.is_error)
                yield AgentEvent("retry", f"taking another tool than {sorted(point.tried)}")
                return point.messages, "", None, point
            self._add(plan, taken.calls, began)
            point.tried.add(plan.calls[0].tool)
            point.choices += 1
            messages = (*point.messages, taken.message, *taken.results)
            return messages, "", None, _Point(messages, point.depth + 1)
        self._add(plan, (), began)
        point.choices += 1  # a point that leads nowhere is not tried for ever
        if plan.kind == "answer":
            message = TrajectoryMessage("assistant", plan.thought)
            return (*point.messages, message), plan.thought, "answer", None
        if plan.kind == "budget":
            return point.messages, "", self._spent() or "tokens", None
        if plan.kind == "context":
            return point.messages, "", "context", None
        return point.messages, plan.thought, "dead_end" if point.tried else "no_tool", None

    def _finish(
        self, point: _Point, plan: Plan, began: float
    ) -> tuple[tuple[TrajectoryMessage, ...], str, AgentOutcome | None, _Point | None]:
        """End with what the call of Finish says."""
        arguments = dict(plan.calls[0].arguments)
        answer = str(arguments.get("final_answer") or "")
        kind: AgentOutcome = "answer" if arguments.get("return_type") == GIVE_ANSWER else "give_up"
        planned = plan.calls[0]
        call = AgentCall(FINISH_TOOL, arguments, ToolResult(answer), planned.score, planned.margin, planned.code)
        self._add(plan, (call,), began)
        point.choices += 1
        if kind == "give_up":
            point.tried.add(FINISH_TOOL)
        if kind == "give_up":  # ToolBench's models write a longer name of it
            arguments["return_type"] = GIVE_UP
        message = TrajectoryMessage("assistant", plan.thought, (ToolCall(FINISH_TOOL, arguments, planned.id),))
        return (*point.messages, message), answer, kind, None

    def _refuse_finish(
        self, point: _Point, plan: Plan, wrong: ToolResult, began: float
    ) -> Generator[AgentEvent, None, _Point]:
        """Let the model read what is wrong with its call of Finish, as with any other call."""
        planned = plan.calls[0]
        arguments = dict(planned.arguments)
        call = AgentCall(FINISH_TOOL, arguments, wrong, planned.score, planned.margin, planned.code)
        self._add(plan, (call,), began)
        point.choices += 1
        call_id = planned.id or f"call_{len(self._steps)}_0"
        said = TrajectoryMessage("assistant", plan.thought, (ToolCall(REFUSED_FINISH, arguments, call_id),))
        yield AgentEvent("result", wrong.content, call)
        read = TrajectoryMessage("tool", wrong.content, (), call_id, True)
        return _Point((*point.messages, said, read), point.depth + 1)

    def _take(self, point: _Point, plan: Plan) -> Generator[AgentEvent, None, _Taken]:
        """Run the calls of a step, in order."""
        calls: list[AgentCall] = []
        results: list[TrajectoryMessage] = []
        ids = [planned.id or f"call_{len(self._steps)}_{place}" for place, planned in enumerate(plan.calls)]
        for planned, call_id in zip(plan.calls, ids, strict=True):
            before = AgentCall(planned.tool, dict(planned.arguments), ToolResult(""), planned.score, planned.margin)
            yield AgentEvent("call", planned.tool, replace(before, code=planned.code))
            call = self._dispatcher.run(
                planned,
                seconds=None if self._deadline is None else max(self._deadline - time.monotonic(), 0.001),
                retries=self._retries(len(plan.calls) - len(calls)),
            )
            self._calls += call.tries
            calls.append(call)
            content = call.result.content
            if len(content) > self._config.result_limit:
                left = len(content) - self._config.result_limit
                content = f"{content[: self._config.result_limit]}... [{left} more characters]"
            results.append(TrajectoryMessage("tool", content, (), call_id, call.result.is_error))
            yield AgentEvent("result" if call.allowed else "refused", content, call)
        message = TrajectoryMessage("assistant", plan.thought, tuple(map(_tool_call, plan.calls, ids)))
        return _Taken(message, tuple(results), tuple(calls))

    def _retries(self, planned: int) -> int:
        """Say how often a call may be repeated so that the step's other calls still fit the budget.

        Args:
            planned: Calls of the step that are still to run, this one included.
        """
        if self._config.on_error != "retry":
            return 0
        return min(self._config.max_retries, self._config.max_calls - self._calls - planned)

    def _way_back(self, path: list[_Point]) -> _Point | None:
        """Give the last point at which another tool may be tried; ``None`` where there is none."""
        if self._config.strategy != "dfsdt":
            return None
        for point in reversed(path):
            open_tools = len(self._tools) - len(point.tried)
            if point.tried and point.choices < self._config.max_branches and open_tools > 0:
                return point
        return None

    def _add(self, plan: Plan, calls: tuple[AgentCall, ...], began: float, *, dropped: bool = False) -> None:
        seconds = time.monotonic() - began
        step = AgentStep(plan.thought, calls, plan.candidates, plan.tokens, seconds, self._branch, dropped)
        self._steps.append(step)

    def _record(self, messages: tuple[TrajectoryMessage, ...], answer: str, outcome: AgentOutcome) -> AgentTrajectory:
        queries = [message.content for message in self._start if message.role == "user"]
        return AgentTrajectory(
            query=queries[-1],
            answer=answer,
            outcome=outcome,
            steps=tuple(self._steps),
            trajectory=Trajectory(messages, id=self._run_id),
            caller=self._caller,
            run_id=self._run_id,
            tokens=self._tokens,
            seconds=time.monotonic() - self._began,
        )


def _wrong_finish(planned: PlannedCall) -> ToolResult | None:
    """Say what is wrong with a call of Finish; ``None`` where it ends the run."""
    if planned.error_type:
        return ToolResult.failure(planned.error_type, planned.error)
    kind, answer = planned.arguments.get("return_type"), planned.arguments.get("final_answer")
    if kind == GIVE_ANSWER and isinstance(answer, str):
        return None
    if isinstance(kind, str) and kind.startswith(GIVE_UP) and (answer is None or isinstance(answer, str)):
        return None
    expected = f'{{"return_type": "{GIVE_ANSWER}" or "{GIVE_UP}", "final_answer": text}}'
    return ToolResult.failure("invalid_arguments", f"{FINISH_TOOL}: expected {expected}; write it again")


def _tool_call(planned: PlannedCall, call_id: str) -> ToolCall:
    return ToolCall(planned.tool, planned.arguments, call_id)
