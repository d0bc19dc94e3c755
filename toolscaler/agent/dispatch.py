"""The second gate: a planned call in, the policy asked, the tool run, the decision written down, a result out."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from toolscaler.agent.audit import AuditLog
from toolscaler.agent.executors.base import ToolExecutor, ToolResult
from toolscaler.agent.planning import PlannedCall
from toolscaler.agent.policy import PendingCall, PolicySession, PolicyVerdict
from toolscaler.agent.records import AgentCall
from toolscaler.data.documents import ToolDocument

logger = logging.getLogger(__name__)

#: Failures that may pass by themselves.
_PASSING = ("connection", "timeout")


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

        Args:
            planned: The call.
            seconds: Time that the run has left; the shorter limit holds.
            retries: How often to try again after a failure that may pass.

        Returns:
            The call with its result; a refusal is a result too.

        Raises:
            ArtifactError: The audit log is required and cannot be written. Nothing has run then.
        """
        for attempt in range(retries + 1):
            call = self._once(planned, seconds)
            if call.result.error_type not in _PASSING or attempt == retries:
                break
            logger.info("call of %r failed (%s), trying again", planned.tool, call.result.error_type)
        return call

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
        limits = [limit for limit in (seconds, self._seconds) if limit is not None]
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
            result = self._executor.call(
                planned.tool, pending.plain_arguments(), timeout=min(limits) if limits else None
            )
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

    def _verdict(self, pending: PendingCall) -> PolicyVerdict:
        if pending.tool_id not in self._allowed:
            return PolicyVerdict(False, f"{pending.tool_id!r} is not among the tools of this run", "allow")
        now = self._present(pending.tool_id)
        if now is not None and pending.document is not None and now.content_hash != pending.document.content_hash:
            reason = f"the document of {pending.tool_id!r} has changed since the run began; start a new run"
            return PolicyVerdict(False, reason, "hash")
        return self._session.reserve(pending, now)

    def _present(self, tool_id: str) -> ToolDocument | None:
        """Give the document that the executor has for a tool now."""
        return next((document for document in self._executor.documents() if document.id == tool_id), None)

    def _write(self, pending: PendingCall, verdict: PolicyVerdict, outcome: str, seconds: float | None) -> None:
        if self._audit is not None:
            self._audit.record(pending, verdict, query=self._query, outcome=outcome, seconds=seconds)
