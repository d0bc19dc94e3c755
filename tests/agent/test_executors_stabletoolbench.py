"""ToolBench APIs through a server that speaks the virtual protocol."""

from __future__ import annotations

import json

import pytest

from agent.servers.http_service import Service
from toolscaler.agent import ExecutorLimits, RetryPolicy, StableToolBenchExecutor
from toolscaler.data import ToolDocument
from toolscaler.data.sources.toolbench import finish_document
from toolscaler.errors import ConfigError, DataError

LIMITS = ExecutorLimits(retry=RetryPolicy(base_delay=0.0))
SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}


def api(name: str) -> ToolDocument:
    return ToolDocument(name, provider="TheClique v2.0", category="News, Media", parameters=SCHEMA)


DOCUMENTS = [api("Get Players"), api("id"), api("broken"), api("fails"), api("busy"), finish_document()]


@pytest.fixture(scope="module")
def service():
    server = Service()
    yield server
    server.stop()


@pytest.fixture
def executor(service):
    service.requests.clear()
    with StableToolBenchExecutor(
        DOCUMENTS, f"{service.url}/virtual", key="my-key", strip="truncate", limits=LIMITS
    ) as executor:
        yield executor


def test_a_call_sends_the_protocols_fields(executor, service) -> None:
    assert [document.name for document in executor.documents()] == ["Get Players", "id", "broken", "fails", "busy"]
    result = executor.call("TheClique v2.0/Get Players", {"q": "grün"})
    assert json.loads(result.content) == {
        "category": "News_Media",
        "tool_name": "theclique_v2_0",
        "api_name": "get_players",
        "tool_input": {"q": "grün"},
        "strip": "truncate",
        "toolbench_key": "my-key",
    }
    assert service.requests[0]["method"] == "POST"
    assert service.requests[0]["headers"]["toolbench_key"] == "my-key"
    assert json.loads(executor.call("TheClique v2.0/id", {"q": ""}).content)["api_name"] == "is_id"


@pytest.mark.parametrize(
    ("tool", "arguments", "error_type"),
    [
        ("TheClique v2.0/fails", {"q": "a"}, "tool_error"),
        ("TheClique v2.0/broken", {"q": "a"}, "invalid_response"),
        ("TheClique v2.0/Get Players", {}, "invalid_arguments"),
        ("TheClique v2.0/busy", {"q": "a"}, "tool_error"),
        ("Finish", {"return_type": "give_answer"}, "unknown_tool"),
    ],
)
def test_failures_are_results(executor, tool, arguments, error_type) -> None:
    result = executor.call(tool, arguments)
    assert (result.is_error, result.error_type) == (True, error_type)
    assert result.metadata["attempts"] <= 1


def test_a_simulating_server_may_be_asked_again(service) -> None:
    with StableToolBenchExecutor(DOCUMENTS, f"{service.url}/virtual", idempotent=True, limits=LIMITS) as executor:
        result = executor.call("TheClique v2.0/busy", {"q": "again"})
        assert (result.is_error, result.metadata["attempts"]) == (False, 2)


def test_other_answers_are_results(service) -> None:
    for path, error_type in [
        ("binary", "invalid_response"),
        ("status/500", "tool_error"),
        ("echo", "invalid_response"),
    ]:
        with StableToolBenchExecutor(DOCUMENTS, f"{service.url}/{path}", limits=LIMITS) as executor:
            assert executor.call("TheClique v2.0/id", {"q": "a"}).error_type == error_type


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError):
        StableToolBenchExecutor(DOCUMENTS, "localhost:8080/virtual")
    with pytest.raises(DataError, match="twice"):
        StableToolBenchExecutor([api("a"), api("a")], "http://localhost:1/virtual")
    with pytest.raises(DataError, match="provider"):
        StableToolBenchExecutor([ToolDocument("a")], "http://localhost:1/virtual")
