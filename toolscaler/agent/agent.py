"""A model that uses tools: query in, really run calls and an answer out (paper section 4.2 and 4.3)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler.agent.audit import AuditLog
from toolscaler.agent.config import AgentConfig
from toolscaler.agent.dispatch import Dispatcher
from toolscaler.agent.executors.base import ToolExecutor
from toolscaler.agent.loop import AgentRun
from toolscaler.agent.planning import Planner, PlanRequest
from toolscaler.agent.policy import PolicySession, ToolPolicy
from toolscaler.agent.records import AgentEvent, AgentTrajectory
from toolscaler.data.documents import ToolDocument
from toolscaler.data.protocol import documents_by_id
from toolscaler.data.trajectories import FINISH_TOOL, TrajectoryMessage, finish_document
from toolscaler.errors import ConfigError, DataError, UnknownToolError

if TYPE_CHECKING:
    import torch


class ToolAgent:
    """Answers queries by calling tools.

    Which tool a step may name is decided before the model writes (an allow-list over the code trie, probability zero
    for every other tool), and again outside the model before anything runs.

    Args:
        planner: Decides steps: a :class:`~toolscaler.agent.CodePlanner` around a toolscaler model, or a
            :class:`~toolscaler.agent.ChatPlanner` around any chat endpoint.
        executor: Runs tools. Tools that it does not have are never proposed.
        policy: What callers may do; default: everything that the executor has.
        config: Budgets and strategy.
        audit: Where each decision is written.

    Raises:
        UnknownToolError: The policy names a tool that the executor does not have.
        ConfigError: An argument has the wrong type, or the policy names an unknown provider or category.
    """

    def __init__(
        self,
        planner: Planner,
        executor: ToolExecutor,
        *,
        policy: ToolPolicy | None = None,
        config: AgentConfig | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        kinds: tuple[tuple[str, Any, type], ...] = (("planner", planner, Planner), ("executor", executor, ToolExecutor))
        for key, value, kind in kinds:
            if not isinstance(value, kind):
                raise ConfigError(f"ToolAgent.{key}", value, f"a {kind.__name__}")
        self.planner, self.executor, self.audit = planner, executor, audit
        self.policy = ToolPolicy() if policy is None else policy
        self.config = AgentConfig() if config is None else config
        self.policy.check_names(executor.documents())

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        executor: ToolExecutor,
        *,
        policy: ToolPolicy | None = None,
        config: AgentConfig | None = None,
        audit: AuditLog | None = None,
        device: str | torch.device | None = None,
        planner_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ToolAgent:
        """Load a trained model and its tokenizer from one folder or Hub repo.

        Args:
            name_or_path: Folder or repo id.
            executor: Runs tools.
            policy: What callers may do.
            config: Budgets and strategy.
            audit: Where each decision is written.
            device: As in :meth:`toolscaler.GenerativeRetriever.from_pretrained`.
            planner_options: More arguments of :class:`~toolscaler.agent.CodePlanner`.
            **kwargs: More arguments of ``AutoModelForCausalLM.from_pretrained``.

        Raises:
            ArtifactError: The folder is incomplete.
            DecodingError: Model and tokenizer do not belong together.
        """
        from toolscaler.agent.code_planner import CodePlanner

        planner = CodePlanner.from_pretrained(name_or_path, device=device, **(planner_options or {}), **kwargs)
        return cls(planner, executor, policy=policy, config=config, audit=audit)

    def run(
        self,
        query: str,
        *,
        candidate_tools: Iterable[str] | None = None,
        caller: str = "",
        policy: ToolPolicy | None = None,
        run_id: str | None = None,
    ) -> AgentTrajectory:
        """Answer a query.

        Args:
            query: What is asked.
            candidate_tools: Ids of the only tools to consider (the paper's setting with given tools); default: all.
            caller: For whom; in the audit log, and for rate limits.
            policy: A policy for this run, besides the agent's own: both must agree.
            run_id: Name of the run; default: a random one.

        Returns:
            The whole run. Failures of tools are steps of it, never exceptions.

        Raises:
            EmptyCatalogueError: No tool is allowed.
            UnknownToolError: ``candidate_tools`` or the policy names a tool that the executor does not have.
            DataError: The query is no text.
            EndpointError: The planner's endpoint gave no usable answer; its ``trajectory`` is what was done until then.
            ArtifactError: The audit log is required and cannot be written.
        """
        return _last(self.stream(query, candidate_tools=candidate_tools, caller=caller, policy=policy, run_id=run_id))

    def stream(
        self,
        query: str,
        *,
        candidate_tools: Iterable[str] | None = None,
        caller: str = "",
        policy: ToolPolicy | None = None,
        run_id: str | None = None,
    ) -> Iterator[AgentEvent]:
        """Answer a query, and give what happens as it happens; the last event carries the whole run.

        Arguments and errors are those of :meth:`run`; errors in the arguments are raised at once.
        """
        session = self.session(candidate_tools=candidate_tools, caller=caller, policy=policy, run_id=run_id)
        return session.stream(query)

    def session(
        self,
        *,
        candidate_tools: Iterable[str] | None = None,
        caller: str = "",
        policy: ToolPolicy | None = None,
        run_id: str | None = None,
        messages: Sequence[TrajectoryMessage] = (),
    ) -> AgentSession:
        """Begin a conversation that goes on over several queries.

        Args:
            candidate_tools: As in :meth:`run`.
            caller: As in :meth:`run`.
            policy: As in :meth:`run`.
            run_id: As in :meth:`run`.
            messages: What was said before.
        """
        both = self.policy if policy is None else self.policy & policy
        return AgentSession(self, PolicySession(both, caller, run_id), candidate_tools, messages)

    def allowed_documents(
        self, session: PolicySession, candidate_tools: Iterable[str] | None
    ) -> dict[str, ToolDocument]:
        """Give the documents of the tools that a run may call, :data:`~toolscaler.data.FINISH_TOOL` among them.

        Raises:
            EmptyCatalogueError: No tool is allowed.
            UnknownToolError: A candidate is not among the executor's tools.
            DataError: Two documents that differ have one id: one would shadow the other.
        """
        catalogue = documents_by_id(self.executor.documents())
        chosen = catalogue
        if candidate_tools is not None:
            names = dict.fromkeys(candidate_tools)
            for name in names:
                if name not in catalogue and name != FINISH_TOOL:
                    raise UnknownToolError(name, catalogue)
            chosen = {name: catalogue[name] for name in names if name in catalogue}
        allowed = {name: catalogue[name] for name in session.allowed(chosen.values(), catalogue=catalogue.values())}
        # Never an executor's own: its schema would decide what the answer may be.
        return {**allowed, FINISH_TOOL: finish_document()}

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        candidate_tools: Iterable[str] | None = None,
        caller: str = "",
        policy: ToolPolicy | None = None,
    ) -> dict[str, Any]:
        """Take one step of a conversation in OpenAI's form, and run nothing: a drop-in for a chat model.

        Calls name functions as the API takes them; :meth:`function_names` says which tool a name stands for.

        Args:
            messages: Messages of the Chat Completions API, ``tool_calls`` and ``tool`` results among them. Calls may
                name functions as this method does, or tool ids.
            candidate_tools: As in :meth:`run`.
            caller: As in :meth:`run`.
            policy: As in :meth:`run`.

        Returns:
            The assistant's message: ``role``, ``content``, and ``tool_calls`` where tools are to be called; the caller
            runs them and comes back with the results. An answer has no ``tool_calls``.

        Raises:
            EmptyCatalogueError: No tool is allowed.
            DataError: The messages are not of that form.
        """
        from toolscaler.agent.openai_messages import assistant_message, from_openai_messages

        both = self.policy if policy is None else self.policy & policy
        documents = self.allowed_documents(PolicySession(both, caller), candidate_tools)
        names = self.function_names()
        seconds = self.config.max_seconds
        request = PlanRequest(
            from_openai_messages(messages, names),
            tuple(documents),
            documents,
            max_tokens=self.config.max_tokens,
            deadline=None if seconds is None else time.monotonic() + seconds,
        )
        plan = _result(self.planner.plan(request))
        ids = [call.id or f"call_{uuid.uuid4().hex[:24]}" for call in plan.calls]
        return assistant_message(replace(plan, calls=tuple(map(_with_id, plan.calls, ids))), names)

    def function_names(self) -> dict[str, str]:
        """Give each of the executor's tools the name under which :meth:`chat` calls it.

        Names hold for the whole catalogue, whatever the caller may use, so that they are the same in every step.

        Returns:
            Tool id -> function name: at most 64 letters, digits, ``_`` and ``-``, different for different tools
            (:func:`~toolscaler.agent.function_names`).
        """
        from toolscaler.agent.openai_messages import function_names

        return function_names([*(document.id for document in self.executor.documents()), FINISH_TOOL])


class AgentSession:
    """A conversation over several queries, made by :meth:`ToolAgent.session`. Not for several threads at once.

    Attributes:
        messages: What was said so far.
    """

    def __init__(
        self,
        agent: ToolAgent,
        policy: PolicySession,
        candidate_tools: Iterable[str] | None = None,
        messages: Sequence[TrajectoryMessage] = (),
    ) -> None:
        self._agent, self._policy = agent, policy
        self._candidates = None if candidate_tools is None else tuple(candidate_tools)
        self.messages: tuple[TrajectoryMessage, ...] = tuple(messages)
        agent.allowed_documents(policy, self._candidates)  # what is wrong with them is said at once

    def run(self, query: str) -> AgentTrajectory:
        """Answer the next query; see :meth:`ToolAgent.run`."""
        return _last(self.stream(query))

    def stream(self, query: str) -> Iterator[AgentEvent]:
        """Answer the next query, and give what happens as it happens; see :meth:`ToolAgent.stream`."""
        if not isinstance(query, str) or not query.strip():
            raise DataError(f"query: expected text, got {query!r:.80}")
        documents = self._agent.allowed_documents(self._policy, self._candidates)
        dispatcher = Dispatcher(
            self._agent.executor,
            self._policy,
            allowed=frozenset(documents) - {FINISH_TOOL},
            approved=documents,
            audit=self._agent.audit,
            query=query,
            seconds=self._agent.config.call_seconds,
        )
        messages = (*self.messages, TrajectoryMessage("user", query))
        run = AgentRun(
            self._agent.planner,
            dispatcher,
            self._agent.config,
            messages,
            documents,
            caller=self._policy.caller,
            run_id=self._policy.run_id,
        )
        return self._events(run)

    def _events(self, run: AgentRun) -> Iterator[AgentEvent]:
        for event in run.events():
            if event.trajectory is not None:
                self.messages = event.trajectory.trajectory.messages
            yield event


def _last(events: Iterator[AgentEvent]) -> AgentTrajectory:
    """Run to the end."""
    trajectory = None
    for event in events:
        trajectory = event.trajectory
    if trajectory is None:
        raise RuntimeError("a run ended without its last event")
    return trajectory


def _result(plans: Any) -> Any:
    while True:
        try:
            next(plans)
        except StopIteration as end:
            return end.value


def _with_id(call: Any, call_id: str) -> Any:
    return replace(call, id=call_id)
