"""ToolBench's APIs through StableToolBench's virtual server, which answers from a cache or a simulating model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from toolscaler.agent.executors.background import BackgroundLoop
from toolscaler.agent.executors.base import ToolResult
from toolscaler.agent.executors.checking import CheckFailed, json_text
from toolscaler.agent.executors.guarded import Attempt, CallableTool, GuardedExecutor
from toolscaler.agent.executors.hosts import HostGuard
from toolscaler.agent.executors.http_client import Credentials, HttpAnswer, HttpClient, HttpRequest, TransferFailed
from toolscaler.agent.executors.limits import ExecutorLimits
from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.toolbench import FINISH, standardize_name
from toolscaler.errors import DataError

#: API names that are words of Python; ToolBench's own code puts ``is_`` in front.
_RESERVED = frozenset({"and", "class", "false", "from", "id", "return", "true"})


class StableToolBenchExecutor(GuardedExecutor):
    """Calls ToolBench APIs by the protocol of ``POST /virtual``.

    The request is a JSON object with ``category``, ``tool_name``, ``api_name``, ``tool_input``, ``strip`` and
    ``toolbench_key``; the answer one with ``error`` and ``response``. Names are sent in ToolBench's standard spelling.

    Args:
        documents: ToolBench's tools; ``provider`` is the tool's name, ``name`` the API's. ``Finish`` is no API, and is
            left out.
        url: The server's URL, for example ``http://localhost:8080/virtual``. The caller names it, so it may lead to a
            private address.
        key: The ToolBench key; empty for servers that need none.
        strip: How the server shortens answers, for example ``truncate``; empty for not at all.
        idempotent: Whether the server only simulates, so that a failed call may be tried again.
        limits: Time, sizes and retries.

    Raises:
        DataError: Two tools have one id, or a tool has no provider.
        ConfigError: ``url`` is no http(s) URL.
    """

    def __init__(
        self,
        documents: Iterable[ToolDocument],
        url: str,
        *,
        key: str = "",
        strip: str = "",
        idempotent: bool = False,
        limits: ExecutorLimits | None = None,
    ) -> None:
        super().__init__(limits)
        self._url, self._key, self._strip = url, key, strip
        self._tools: dict[str, CallableTool] = {}
        for document in documents:
            if document.id == FINISH:
                continue
            if document.id in self._tools or not document.provider:
                wrong = "this id twice" if document.provider else "no tool name (provider)"
                raise DataError(f"{document.id}: expected each API once and with its tool's name, got {wrong}")
            self._tools[document.id] = self._callable(document, idempotent, _names(document))
        self._client = HttpClient(HostGuard([url], allow_private=True), self.limits.max_result_bytes)
        self._background = BackgroundLoop("toolscaler-toolbench")

    def documents(self) -> list[ToolDocument]:
        """Give the documents of the APIs."""
        return [tool.document for tool in self._tools.values()]

    def _find(self, tool: str, deadline: float) -> CallableTool | None:
        return self._tools.get(tool)

    def _attempt(self, tool: CallableTool, arguments: dict[str, Any], deadline: float) -> Attempt:
        payload = {**tool.target, "tool_input": arguments, "strip": self._strip, "toolbench_key": self._key}
        headers = {"content-type": "application/json"}
        request = HttpRequest("POST", self._url, headers=headers, body=json_text(payload).encode())
        credentials = Credentials({"toolbench_key": self._key} if self._key else {})
        try:
            answer = self._background.run(self._client.send(request, lambda url: credentials), deadline)
            return _judged(answer)
        except TransferFailed as error:
            return Attempt(ToolResult.failure(error.error_type, error.message), True)
        except CheckFailed as error:
            return Attempt(ToolResult.failure(error.error_type, error.message))

    def close(self) -> None:
        """Cancel running requests and close the connections."""
        super().close()
        self._background.close(self._client.close)


def _names(document: ToolDocument) -> dict[str, str]:
    api = standardize_name(document.name)
    category = document.category
    for mark in (" ", ",", "/"):
        category = category.replace(mark, "_")
    while "__" in category:
        category = category.replace("__", "_")
    return {
        "category": category,
        "tool_name": standardize_name(document.provider),
        "api_name": f"is_{api}" if api in _RESERVED else api,
    }


def _judged(answer: HttpAnswer) -> Attempt:
    facts = {"status_code": answer.status}
    if answer.status != 200:
        message = f"the ToolBench server answered HTTP {answer.status}"
        transient = answer.status == 429 or answer.status >= 500
        return Attempt(ToolResult.failure("tool_error", message, **facts), transient, answer.retry_after)
    try:
        data = json.loads(answer.text())
    except (ValueError, RecursionError) as error:
        data, reason = None, f" ({error})"[:200]
    else:
        reason = ""
    if not isinstance(data, dict) or not {"error", "response"} <= set(data):
        message = f"expected an object with 'error' and 'response' from the ToolBench server{reason}"
        return Attempt(ToolResult.failure("invalid_response", message, **facts))
    text = data["response"] if isinstance(data["response"], str) else json.dumps(data["response"], ensure_ascii=False)
    if data["error"]:
        return Attempt(ToolResult.failure("tool_error", f"{data['error']!s}\n{text}".strip(), **facts))
    return Attempt(ToolResult(text, metadata=facts))
