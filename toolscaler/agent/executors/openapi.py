"""Operations of an OpenAPI service as tools, over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolscaler.agent.executors.background import BackgroundLoop
from toolscaler.agent.executors.base import ToolResult
from toolscaler.agent.executors.checking import CheckFailed, plain_json
from toolscaler.agent.executors.guarded import Attempt, CallableTool, GuardedExecutor
from toolscaler.agent.executors.hosts import HostGuard
from toolscaler.agent.executors.http_client import Credentials, HttpAnswer, HttpClient, TransferFailed
from toolscaler.agent.executors.limits import ExecutorLimits
from toolscaler.agent.executors.operations import FORBIDDEN_HEADERS, Operation, make_operation, secret_names
from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.loading import load_tool_documents
from toolscaler.data.sources.opening import Source
from toolscaler.errors import DataError, ExecutorError

logger = logging.getLogger(__name__)

#: (tool id, URL of the request) → what proves who calls.
CredentialsProvider = Callable[[str, str], Credentials]

_IDEMPOTENT = frozenset({"GET", "HEAD"})
_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class OpenAPIExecutor(GuardedExecutor):
    """Calls the operations of an OpenAPI 3 service.

    Requests go to the specification's servers and nowhere else, also after redirects; see :class:`HostGuard`.
    Credentials come from the caller: arguments never set the headers, query names or cookies of a security scheme,
    and the values are blotted out where an answer repeats them. GET and HEAD are tried again after a broken
    connection or a passing status (429, 503 and so on); nothing else is.

    Args:
        spec: The specification: parsed, or a JSON or YAML file.
        server: Base URL to use instead of the specification's servers.
        credentials: Gives what to add to a request; asked for each request and each redirect.
        allow_private: Let server names lead to private addresses: for services inside the caller's own network.
        verify: ``True``, or an ``ssl.SSLContext`` with the caller's own certificates.
        limits: Time, sizes and retries.

    Attributes:
        rejected: Operations that cannot be called, with the reason.

    Raises:
        DataError: The specification cannot be read, or none of its operations can be called.
        ConfigError: A server is no http(s) URL.
    """

    def __init__(
        self,
        spec: Mapping[str, Any] | str | Path,
        *,
        server: str | None = None,
        credentials: CredentialsProvider | None = None,
        allow_private: bool = False,
        verify: Any = True,
        limits: ExecutorLimits | None = None,
    ) -> None:
        super().__init__(limits)
        parsed = spec if isinstance(spec, Mapping) else Source.open(spec).value
        read = load_tool_documents(parsed, "openapi", on_error="skip")
        self.rejected: list[str] = [str(problem) for problem in read.report.problems]
        self._credentials = credentials
        self._tools: dict[str, CallableTool] = {}
        secrets = secret_names(parsed)
        for document in read:
            try:
                operation = make_operation(parsed, document, server)
            except (DataError, KeyError, TypeError, AttributeError) as error:
                self.rejected.append(f"{document.id}: {error}")
                continue
            shown, operation = _without_secrets(document, operation, secrets)
            self._tools[document.id] = self._callable(shown, operation.method in _IDEMPOTENT, operation)
        if not self._tools:
            raise DataError(f"expected an operation that can be called, found none: {'; '.join(self.rejected)[:500]}")
        if self.rejected:
            logger.warning("%d operations cannot be called, first: %s", len(self.rejected), self.rejected[0])
        guard = HostGuard([tool.target.server for tool in self._tools.values()], allow_private=allow_private)
        self._client = HttpClient(guard, self.limits.max_result_bytes, verify)
        self._background = BackgroundLoop("toolscaler-http")

    def documents(self) -> list[ToolDocument]:
        """Give the documents of the operations, without arguments that only the caller may set."""
        return [tool.document for tool in self._tools.values()]

    def _find(self, tool: str, deadline: float) -> CallableTool | None:
        return self._tools.get(tool)

    def _attempt(self, tool: CallableTool, arguments: dict[str, Any], deadline: float) -> Attempt:
        request = tool.target.request(arguments)
        secrets: list[str] = []

        def credentials(url: str) -> Credentials:
            given = self._given(tool.document.id, url)
            secrets.extend(given.secrets())
            return given

        try:
            answer = self._background.run(self._client.send(request, credentials), deadline)
        except TransferFailed as error:
            return Attempt(ToolResult.failure(error.error_type, _blotted(error.message, secrets)), True)
        except CheckFailed as error:
            return Attempt(ToolResult.failure(error.error_type, _blotted(error.message, secrets)))
        return _judged(answer, secrets)

    def _given(self, tool: str, url: str) -> Credentials:
        if self._credentials is None:
            return Credentials()
        try:
            given = self._credentials(tool, url)
        except Exception as error:  # its message may hold a secret
            raise ExecutorError(f"the caller's credentials could not be had ({type(error).__name__})") from error
        if not isinstance(given, Credentials):
            raise ExecutorError(f"the caller's provider gave {type(given).__name__}; expected Credentials")
        return given

    def close(self) -> None:
        """Cancel running requests and close the connections."""
        super().close()
        self._background.close(self._client.close)


def _judged(answer: HttpAnswer, secrets: list[str]) -> Attempt:
    """Make a result of an answer: text, or a failure for a status that is none of success."""
    facts = {"status_code": answer.status}
    try:
        text = _blotted(answer.text(), secrets)
    except CheckFailed as error:
        return Attempt(ToolResult.failure(error.error_type, error.message, **facts))
    if 200 <= answer.status < 300:
        return Attempt(ToolResult(text, metadata=facts))
    message = f"HTTP {answer.status}: {text}" if text else f"HTTP {answer.status}"
    failed = ToolResult.failure("tool_error", message, **facts)
    return Attempt(failed, answer.status in _TRANSIENT_STATUS, answer.retry_after)


def _blotted(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return text


def _without_secrets(
    document: ToolDocument, operation: Operation, secrets: set[tuple[str, str]]
) -> tuple[ToolDocument, Operation]:
    """Take arguments away that only the caller may set: API keys, and headers of the connection."""
    hidden = {
        name
        for name, place in operation.places.items()
        if (place.part, place.name.lower()) in secrets
        or (place.part == "header" and place.name.lower() in FORBIDDEN_HEADERS)
    }
    if not hidden:
        return document, operation
    schema = plain_json(document.parameters, 200, "invalid_schema")
    schema["properties"] = {name: item for name, item in schema["properties"].items() if name not in hidden}
    schema["required"] = [name for name in schema.get("required", ()) if name not in hidden]
    places = {name: place for name, place in operation.places.items() if name not in hidden}
    return replace(document, parameters=schema), replace(operation, places=places)
