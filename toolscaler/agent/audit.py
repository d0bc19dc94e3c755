"""The audit log: each decision about a tool call as one line of JSON, secrets left out."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from toolscaler.agent.policy import PendingCall, PolicyVerdict
from toolscaler.agent.redaction import MAX_TEXT, redact, redact_text
from toolscaler.errors import ArtifactError, ConfigError, DataError

logger = logging.getLogger(__name__)


def query_hash(query: str) -> str:
    """Give the SHA-256 (hex) of a query's UTF-8: the log can be matched with a query, and does not hold it."""
    return hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class AuditRecord:
    """One line of an audit log.

    Attributes:
        time: When, UTC, ISO 8601 with microseconds.
        run_id: The run.
        caller: Who asked.
        query_sha256: Hash of the query (:func:`query_hash`); empty where there was none.
        code: The code sequence that the model wrote.
        tool_id: The tool.
        document_sha256: Content hash of the document that was used; empty where there was none.
        score: Log-probability of the code sequence.
        allowed: The policy's verdict.
        rule: The rule that decided.
        reason: The verdict's reason.
        arguments: Arguments without secrets (:func:`redact`).
        outcome: What became of the call, for example ``ok``, ``error``, ``refused``.
        seconds: How long the call ran.
        extra: Whatever else the writer adds.
    """

    time: str
    run_id: str = ""
    caller: str = ""
    query_sha256: str = ""
    code: str = ""
    tool_id: str = ""
    document_sha256: str = ""
    score: float | None = None
    allowed: bool = False
    rule: str = ""
    reason: str = ""
    arguments: Any = None
    outcome: str = ""
    seconds: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class AuditLog:
    """Appends records to a file of JSON lines; threads and processes may share the file.

    Each record is one ``write`` to a file opened for appending, so lines never mix. The file is readable and writable
    by its owner only.

    Args:
        path: The file; its folder is made if it does not exist. A relative path is taken from the working folder of
            now: a later change of that folder does not move the log.
        fsync: Wait for the disk after each record.
        required: Raise where a record cannot be written, so that no call runs unrecorded. Otherwise a failure is
            logged, and counted in :attr:`failures`.

    Attributes:
        path: The file, as an absolute path.
        failures: Records that could not be written.

    Raises:
        ArtifactError: The file cannot be opened, and ``required`` is set.
    """

    def __init__(self, path: str | Path, *, fsync: bool = False, required: bool = False) -> None:
        for key, value in (("fsync", fsync), ("required", required)):
            if not isinstance(value, bool):
                raise ConfigError(f"AuditLog.{key}", value, "True or False")
        self.path, self.fsync, self.required, self.failures = Path(path).absolute(), fsync, required, 0
        self._file = -1
        try:
            self._open()
        except OSError as error:
            self._failed(error)

    def record(
        self,
        call: PendingCall,
        verdict: PolicyVerdict,
        *,
        query: str = "",
        outcome: str = "",
        seconds: float | None = None,
        **extra: Any,
    ) -> AuditRecord | None:
        """Write one decision.

        Args:
            call: The call; its document gives the hash and the schema that marks secrets.
            verdict: What the policy said.
            query: The user's words; only their hash is written.
            outcome: What became of the call.
            seconds: How long it ran.
            extra: More fields, written without secrets.

        Returns:
            The record, or ``None`` where it could not be written.

        Raises:
            ArtifactError: It could not be written, and the log is ``required``.
        """
        try:
            made = self._make(call, verdict, query, outcome, seconds, extra)
            # ASCII: no reader takes a character of a value for a line break, and hidden characters are seen.
            line = json.dumps(vars(made), ensure_ascii=True, allow_nan=False, separators=(",", ":")) + "\n"
            self._write(line.encode("ascii"))
        except Exception as error:  # whatever a caller's value does: the agent goes on without its log line
            self._failed(error)
            return None
        return made

    def close(self) -> None:
        """Close the file; another record opens it again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> AuditLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _write(self, data: bytes) -> None:
        if self._file < 0:
            self._open()
        written = os.write(self._file, data)
        if written != len(data):  # a full disk: close the broken line, so that the next one can be read
            os.write(self._file, b"\n")
            raise OSError(f"only {written} of {len(data)} bytes were written")
        if self.fsync:
            os.fsync(self._file)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        message = f"expected to write an audit record, got {type(error).__name__}: {error}"
        if self.required:
            raise ArtifactError(message, path=self.path) from error
        logger.error("%s: %s", self.path, message)

    @staticmethod
    def _make(
        call: PendingCall,
        verdict: PolicyVerdict,
        query: str,
        outcome: str,
        seconds: float | None,
        extra: Mapping[str, Any],
    ) -> AuditRecord:
        document = call.document
        return AuditRecord(
            time=datetime.now(timezone.utc).isoformat(timespec="microseconds"),
            run_id=_text(call.run_id),
            caller=_text(call.caller),
            query_sha256=query_hash(query) if query else "",
            code=_text(call.code),
            tool_id=_text(call.tool_id),
            document_sha256=document.content_hash if document is not None else "",
            score=_number(call.score),
            allowed=verdict.allowed,
            rule=_text(verdict.rule),
            reason=redact_text(_text(verdict.reason)),
            arguments=redact(call.arguments, document.parameters if document is not None else None),
            outcome=redact_text(_text(outcome)),
            seconds=_number(seconds),
            extra=redact(extra),
        )


def _text(value: Any) -> str:
    return str(value)[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")


def _number(value: Any) -> float | None:
    number = None if value is None else float(value)
    return number if number is None or math.isfinite(number) else None


def read_audit(path: str | Path, *, strict: bool = True) -> list[AuditRecord]:
    """Read an audit log.

    Args:
        path: The file.
        strict: Raise at a line that is no record. Otherwise it is passed over, with a warning that counts these.

    Returns:
        The records, in the order of the file.

    Raises:
        ArtifactError: There is no such file.
        DataError: A line is no record; the error names file and line.
    """
    try:
        lines: Iterable[bytes] = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise ArtifactError("expected an audit log here, found none that can be read", path=path) from error
    found, bad = [], 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_parsed(line))
        except (ValueError, TypeError, RecursionError) as error:
            if strict:
                raise DataError(f"expected an audit record, got {line[:80]!r}", path=path, line=number) from error
            bad += 1
    if bad:
        logger.warning("%s: %d lines are no audit records and were passed over", path, bad)
    return found


def _parsed(line: bytes) -> AuditRecord:
    data = json.loads(line)
    names = {item.name for item in fields(AuditRecord)}
    if not isinstance(data, dict) or not set(data) <= names:
        raise ValueError("not the fields of a record")
    return AuditRecord(**data)
