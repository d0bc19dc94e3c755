"""The second gate: a planned call in, the policy asked, the tool run, the decision written down, a result out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from toolscaler.agent.audit import AuditLog
from toolscaler.agent.executors.base import ToolExecutor, ToolResult
from toolscaler.agent.executors.checking import CheckFailed, plain_json
from toolscaler.agent.executors.guarded import describe
from toolscaler.agent.planning import PlannedCall
from toolscaler.agent.policy import PendingCall, PolicySession, PolicyVerdict
from toolscaler.agent.records import AgentCall
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import DataError, ToolscalerError

logger = logging.getLogger(__name__)

#: Failures that may pass by themselves.
_PASSING = ("connection", "timeout")
#: Deepest nesting of arguments that is passed on at all; executors have narrower limits of their own.
_MAX_DEPTH = 200


class Dispatcher:
    """Runs the calls of one run, each of them decided here, outside the model.

    Args:
        executor: Runs tools.
        session: The run under its policy.
        allowed: Ids of the tools that the run may call. What a planner proposes beyond them is refused: the decoder
            makes that impossible, and here it is so once more.
        approved: Documents as they were when the run was allowed; a tool whose document has changed since is refused.
        audit: Where decisions are written.
        query: The user's words, for the audit log.
        seconds: Time limit of one call.
    """

    def __init__(
        self,
        executor: ToolExecutor,
        session: PolicySession,
        *,
        allowed: frozenset[str],
        approved: Mapping[str, ToolDocument],
        audit: AuditLog | None = None,
        query: str = "",
        seconds: float | None = None,
    ) -> None:
        self._executor, self._session, self._audit = executor, session, audit
        self._allowed, self._approved = allowed, approved
        self._query, self._seconds = query, seconds

    def run(self, planned: PlannedCall, *, seconds: float | None = None, retries: int = 0) -> AgentCall:
        """Decide about a call, and run it where it may.

        A call is made again only where the executor says that it may be (:meth:`ToolExecutor.idempotent`): one that
        timed out may have had its effect already. Each time the policy is asked anew and the limits count it.

        Args:
            planned: The call.
            seconds: Time that the run has left, repeats included; the shorter limit holds.
            retries: How often to try again after a failure that may pass.

        Returns:
            The call with its last result, and how often it was made; a refusal is a result too.

        Raises:
            ArtifactError: The audit log is required and cannot be written. Nothing has run then.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        call = self._once(planned, seconds)
        while call.tries <= retries and call.result.error_type in _PASSING and self._repeatable(planned.tool):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            logger.info("call of %r failed (%s), trying again", planned.tool, call.result.error_type)
            again = self._once(planned, left)
            if not again.allowed:  # refused this time, for example by a rate; what ran before is what the model reads
                break
            call = replace(again, tries=call.tries + 1)
        return call

    def _repeatable(self, tool: str) -> bool:
        try:
            return self._executor.idempotent(tool) is True
        except Exception as error:
            logger.error("the executor raised %s when asked whether %r may be repeated", type(error).__name__, tool)
            return False

    def _once(self, planned: PlannedCall, seconds: float | None) -> AgentCall:
        known = self._approved.get(planned.tool)
        pending = PendingCall(
            planned.tool,
            planned.arguments,
            self._session.caller,
            self._session.run_id,
            known,
            planned.code,
            planned.score,
        )
        verdict = self._verdict(pending)
        # The run's time is no reason to wait longer than the executor itself would.
        own = self._seconds if self._seconds is not None else self._executor.time_limit(planned.tool)
        limits = [limit for limit in (seconds, own) if limit is not None]
        if not verdict:
            result = ToolResult(f"the call was refused: {verdict.reason}", True, "refused")
            self._write(pending, verdict, "refused", None)
        elif planned.error_type:
            result = ToolResult.failure(planned.error_type, planned.error)
            self._write(pending, verdict, planned.error_type, None)
        else:
            if self._audit is not None and self._audit.required:  # no call may run that could not be written down
                self._write(pending, verdict, "started", None)
            started = time.monotonic()
            result = self._called(pending, min(limits) if limits else None)
            self._write(pending, verdict, result.error_type or "ok", time.monotonic() - started)
        return AgentCall(
            planned.tool,
            pending.plain_arguments(),
            result,
            planned.score,
            planned.margin,
            planned.code,
            bool(verdict),
            verdict.rule,
        )

    def _called(self, pending: PendingCall, timeout: float | None) -> ToolResult:
        """Run a call; an executor that breaks its promise and raises is a failure like any other."""
        try:
            return self._executor.call(pending.tool_id, pending.plain_arguments(), timeout=timeout)
        except Exception as error:
            # Without the message: it may quote arguments, which no log shall hold.
            logger.error("the executor raised %s on a call of %r", type(error).__name__, pending.tool_id)
            return ToolResult.failure("tool_error", describe(error))

    def _verdict(self, pending: PendingCall) -> PolicyVerdict:
        if pending.tool_id not in self._allowed:
            return PolicyVerdict(False, f"{pending.tool_id!r} is not among the tools of this run", "allow")
        try:
            now = self._present(pending.tool_id)
            if not _same(pending.document, now):
                return _changed(pending.tool_id)
            verdict = self._session.reserve(pending, now)
            # A person may take minutes to agree: what was agreed to must still be what runs.
            if verdict and self._session.policy.asks:
                now = self._present(pending.tool_id)
                if now is None or not _same(pending.document, now):
                    return _changed(pending.tool_id)
        except ToolscalerError as error:  # a server that died, or a second tool of this id
            return PolicyVerdict(False, f"the tools cannot be listed: {error}", "unknown")
        return verdict

    def _present(self, tool_id: str) -> ToolDocument | None:
        """Give the document that the executor has for a tool now.

        Raises:
            ToolscalerError: The executor cannot list its tools, or has two that differ under this id.
        """
        found = {document for document in self._executor.documents() if document.id == tool_id}
        if len(found) > 1:
            raise DataError(f"two tools have the id {tool_id!r}")
        return found.pop() if found else None

    def _write(self, pending: PendingCall, verdict: PolicyVerdict, outcome: str, seconds: float | None) -> None:
        if pending.document is None:  # no schema says which values are secrets, so none is written
            hidden = {key: f"[{type(value).__name__}]" for key, value in pending.arguments.items()}
            pending = replace(pending, arguments=hidden)
        if self._audit is not None:
            self._audit.record(pending, verdict, query=self._query, outcome=outcome, seconds=seconds)


def sound_call(planned: PlannedCall) -> PlannedCall:
    """Give a planned call whose arguments are plain JSON data; where they are none, one that says so and cannot run."""
    try:
        if not isinstance(planned.arguments, Mapping):
            message = f"expected an object of arguments, got {type(planned.arguments).__name__}"
            raise CheckFailed("invalid_arguments", message)
        return replace(planned, arguments=plain_json(planned.arguments, _MAX_DEPTH, "invalid_arguments"))
    except CheckFailed as error:
        return replace(planned, arguments={}, error_type=error.error_type, error=error.message)


def _same(approved: ToolDocument | None, now: ToolDocument | None) -> bool:
    return approved is None or now is None or approved.content_hash == now.content_hash


def _changed(tool_id: str) -> PolicyVerdict:
    reason = f"the document of {tool_id!r} has changed since the run began; start a new run"
    return PolicyVerdict(False, reason, "hash")
