"""Python functions as tools: typed arguments, every failure a result, hung and crashed functions survived."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import pytest

from agent import tool_functions as tools
from toolscaler.agent import CompositeExecutor, ExecutorLimits, PythonExecutor, RetryPolicy, ToolResult
from toolscaler.errors import ConfigError, DataError
from toolscaler.starter import load_starter_documents
from toolscaler.starter.registry import call_starter_tool, starter_function
from toolscaler.starter.sandbox import sandbox

QUICK = ExecutorLimits(retry=RetryPolicy(base_delay=0.0))


@pytest.fixture(scope="module")
def processes():
    functions = [tools.add, tools.crash, tools.segfault, tools.hang, tools.spin, tools.process_id, tools.repeat]
    functions += [tools.hang_with_child, tools.crash_once, tools.fail, tools.days_between]
    with PythonExecutor(functions, isolation="process", max_running=2, limits=QUICK, idempotent={"crash_once"}) as it:
        yield it


def failure(result: ToolResult) -> str:
    assert result.is_error
    assert result.content
    return result.error_type


def test_a_call_gives_json_and_facts() -> None:
    with PythonExecutor(tools.add, provider="math") as executor:
        assert [document.id for document in executor.documents()] == ["math/add"]
        result = executor.call("math/add", {"a": 2, "b": 3})
        assert (result.content, result.is_error, result.error_type) == ("5", False, "")
        assert result.metadata["attempts"] == 1
        assert result.seconds > 0
        assert executor.call("math/add", {"a": 2}).content == "3"


def test_arguments_get_the_types_of_the_hints() -> None:
    with PythonExecutor([tools.days_between, tools.convert]) as executor:
        result = executor.call("days_between", {"start": "2024-02-28", "end": "2024-03-01"})
        assert json.loads(result.content) == {"days": 2, "start": "2024-02-28"}
        result = executor.call("convert", {"value": 1, "unit": "K", "at": {"x": 1, "y": 2}, "tags": ["b", "a"]})
        assert json.loads(result.content) == ["int", "Unit", "Point", "set", ["a", "b"]]
        assert failure(executor.call("days_between", {"start": "the first of May"})) == "invalid_arguments"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "required"),
        ({"a": "2"}, "integer"),
        ({"a": 1, "c": 2}, "unexpected 'c'"),
        ({"a": float("inf")}, "finite"),
        ({"a": "\ud800"}, "surrogate"),
        ({"a": object()}, "JSON"),
        ({1: 2}, "name of each field"),
        ([1], "object of arguments"),
        (None, "object of arguments"),
        ({"a": 10**5000}, "JSON"),
    ],
    ids=["missing", "type", "unknown", "infinite", "surrogate", "object", "key", "list", "none", "digits"],
)
def test_arguments_that_do_not_fit_are_results(arguments, words) -> None:
    with PythonExecutor(tools.add) as executor:
        result = executor.call("add", arguments)
        assert failure(result) == "invalid_arguments"
        assert words in result.content
        assert result.metadata["attempts"] == 0


@pytest.mark.parametrize(
    ("function", "arguments", "error_type"),
    [
        (tools.fail, {"kind": "value"}, "tool_error"),
        (tools.fail, {"kind": "exit"}, "tool_error"),
        (tools.fail, {"kind": "interrupt"}, "tool_error"),
        (tools.fail, {"kind": "deep"}, "tool_error"),
        (tools.fail, {"kind": "unprintable"}, "tool_error"),
        (tools.no_json, {}, "invalid_response"),
        (tools.circular, {}, "invalid_response"),
        (tools.not_a_number, {}, "invalid_response"),
        (tools.repeat, {"text": "ä", "times": 500_001}, "too_large"),
    ],
    ids=["value", "exit", "interrupt", "deep", "unprintable", "no-json", "circular", "nan", "large"],
)
def test_failures_of_a_function_are_results(function, arguments, error_type) -> None:
    with PythonExecutor(function) as executor:
        assert failure(executor.call(function.__name__, arguments)) == error_type


def test_errors_show_the_message_and_no_traceback() -> None:
    with PythonExecutor(tools.fail) as executor:
        assert executor.call("fail", {"kind": "value"}).content == "ValueError: no such city: Atlantis"


def test_the_size_limit_counts_utf8_bytes_exactly() -> None:
    with PythonExecutor(tools.repeat, limits=ExecutorLimits(max_result_bytes=1000)) as executor:
        assert executor.call("repeat", {"text": "ä", "times": 500}).content == "ä" * 500
        assert failure(executor.call("repeat", {"text": "ä", "times": 501})) == "too_large"
    with PythonExecutor(tools.repeat, limits=ExecutorLimits(max_argument_bytes=100)) as executor:
        assert failure(executor.call("repeat", {"text": "x" * 100, "times": 1})) == "too_large"


def test_results_can_always_be_written_as_utf8() -> None:
    with PythonExecutor(tools.surrogate) as executor:
        assert executor.call("surrogate", {}).content == "a?b"


def test_async_functions_run() -> None:
    with PythonExecutor(tools.later) as executor:
        assert executor.call("later", {"value": 4}).content == "4"


def test_a_hung_thread_is_left_behind_and_its_place_stays_taken() -> None:
    with PythonExecutor([tools.hang, tools.add], max_running=2) as executor:
        assert failure(executor.call("hang", {}, timeout=0.05)) == "timeout"
        assert executor.call("add", {"a": 1}).content == "2"
        assert failure(executor.call("hang", {}, timeout=0.05)) == "timeout"
        result = executor.call("add", {"a": 1}, timeout=0.05)
        assert failure(result) == "timeout"
        assert "too many" in result.content


def test_closing_ends_running_calls() -> None:
    executor = PythonExecutor(tools.hang)
    results = []
    thread = threading.Thread(target=lambda: results.append(executor.call("hang", {})))
    thread.start()
    while not executor._threads._calls:
        time.sleep(0.01)
    executor.close()
    thread.join(10)
    assert failure(results[0]) == "cancelled"
    assert failure(executor.call("hang", {})) == "cancelled"
    executor.close()


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "3", True])
def test_a_wrong_time_limit_is_the_callers_error(timeout) -> None:
    with PythonExecutor(tools.add) as executor, pytest.raises(ConfigError, match="timeout"):
        executor.call("add", {"a": 1}, timeout=timeout)


def test_only_marked_functions_are_tried_again(tmp_path) -> None:
    with PythonExecutor(tools.flaky, idempotent=True, limits=QUICK) as executor:
        result = executor.call("flaky", {"folder": str(tmp_path), "failures": 2})
        assert (result.content, result.metadata["attempts"]) == ("done", 3)
        (tmp_path / "count").unlink()
        result = executor.call("flaky", {"folder": str(tmp_path), "failures": 3})
        assert (failure(result), result.metadata["attempts"]) == ("tool_error", 3)
    (tmp_path / "count").unlink()
    with PythonExecutor(tools.flaky, limits=QUICK) as executor:
        result = executor.call("flaky", {"folder": str(tmp_path), "failures": 1})
        assert (failure(result), result.metadata["attempts"]) == ("tool_error", 1)
    with PythonExecutor(tools.fail, idempotent=True, limits=QUICK) as executor:
        assert executor.call("fail", {"kind": "value"}).metadata["attempts"] == 1  # would fail again


def test_processes_answer_crash_and_are_killed(processes) -> None:
    assert processes.call("add", {"a": 2, "b": 5}).content == "7"
    assert json.loads(processes.call("days_between", {"start": "2029-12-31"}).content)["days"] == 1
    first = processes.call("process_id", {}).content
    assert first != str(os.getpid())
    assert failure(processes.call("crash", {})) == "connection"
    assert "exit code 7" in processes.call("crash", {}).content
    assert failure(processes.call("segfault", {})) == "connection"
    assert failure(processes.call("fail", {"kind": "value"})) == "tool_error"
    assert failure(processes.call("repeat", {"text": "a", "times": 2_000_000})) == "too_large"
    assert processes.call("add", {"a": 1}).content == "2"


def test_a_dead_process_is_another_try_for_idempotent_tools(processes, tmp_path) -> None:
    result = processes.call("crash_once", {"folder": str(tmp_path)})
    assert (result.content, result.metadata["attempts"]) == ("done", 2)


def _gone(pid: int) -> bool:
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        # An orphan may wait for its new parent to look at it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_the_time_limit_kills_the_process_and_what_it_started(processes, tmp_path) -> None:
    assert failure(processes.call("spin", {}, timeout=0.3)) == "timeout"
    results = []
    arguments = {"folder": str(tmp_path)}
    call = threading.Thread(target=lambda: results.append(processes.call("hang_with_child", arguments, timeout=2.0)))
    call.start()
    call.join(60)
    assert failure(results[0]) == "timeout"
    own, child = map(int, (tmp_path / "ids").read_text().split())
    until = time.monotonic() + 20
    while not (_gone(own) and _gone(child)) and time.monotonic() < until:
        time.sleep(0.02)
    assert _gone(own)
    assert _gone(child)
    assert processes.call("add", {"a": 1}).content == "2"


def test_closing_kills_a_running_process() -> None:
    executor = PythonExecutor([tools.hang, tools.add], isolation="process", max_running=1)
    assert executor.call("add", {"a": 1}).content == "2"
    results = []
    call = threading.Thread(target=lambda: results.append(executor.call("hang", {})))
    call.start()
    while not executor._processes._busy:
        time.sleep(0.01)
    executor.close()
    call.join(30)
    assert failure(results[0]) == "cancelled"


def test_functions_that_no_process_can_import_are_refused() -> None:
    def local(a: int) -> int:
        """Local."""
        return a

    with pytest.raises(ConfigError, match="local"):
        PythonExecutor(local, isolation="process")


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (ConfigError, {"isolation": "container"}),
        (ConfigError, {"idempotent": {"nosuch"}}),
        (ConfigError, {"idempotent": "add"}),
        (ConfigError, {"max_running": 0}),
        (DataError, {"documents": []}),
    ],
    ids=["isolation", "idempotent", "text", "places", "documents"],
)
def test_wrong_settings_are_refused(error, arguments) -> None:
    with pytest.raises(error):
        PythonExecutor(tools.add, **arguments)


def test_two_functions_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="add"):
        PythonExecutor([tools.add, tools.add])
    with pytest.raises(DataError, match="one function for each"):
        PythonExecutor({"other": tools.add}, documents=PythonExecutor(tools.add).documents())


def test_functions_come_as_a_mapping_or_a_module() -> None:
    with PythonExecutor({"plus": tools.add}) as executor:
        assert executor.call("plus", {"a": 1}).content == "2"
    import textwrap as module

    with PythonExecutor(module) as executor:
        assert executor.call("dedent", {"text": "  a"}).content == "a"


def test_the_starters_tools_run_in_the_callers_sandbox(tmp_path) -> None:
    documents = load_starter_documents()
    with PythonExecutor.from_registry(documents, starter_function) as executor, sandbox(tmp_path):
        assert executor.documents() == documents
        result = executor.call("starter/add_days", {"date": "2024-02-28", "days": 2})
        assert result.content == call_starter_tool("add_days", date="2024-02-28", days=2)
        assert failure(executor.call("starter/read_text_file", {"path": "../etc/passwd"})) in ("tool_error",)
        written = executor.call("starter/write_text_file", {"path": "note.txt", "content": "hi"})
        assert not written.is_error, written
        assert (tmp_path / "note.txt").read_text() == "hi"


def test_two_hundred_agents_share_an_executor_without_crosstalk() -> None:
    with PythonExecutor(tools.add) as executor:
        results: dict[int, str] = {}
        threads = [
            threading.Thread(
                target=lambda i=i: results.__setitem__(i, executor.call("add", {"a": i, "b": 1000 * i}).content)
            )
            for i in range(200)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results == {i: str(1001 * i) for i in range(200)}


def test_a_composite_routes_and_refuses_one_id_twice() -> None:
    first, second = PythonExecutor(tools.add, provider="p"), PythonExecutor(tools.repeat, provider="p")
    with CompositeExecutor([first, second]) as both:
        assert both.call("p/add", {"a": 1}).content == "2"
        assert both.call("p/repeat", {"text": "a", "times": 2}).content == "aa"
        assert failure(both.call("p/nosuch", {})) == "unknown_tool"
    assert failure(first.call("p/add", {"a": 1})) == "cancelled"
    with pytest.raises(DataError, match="p/add"):
        CompositeExecutor([PythonExecutor(tools.add, provider="p"), PythonExecutor(tools.add, provider="p")])
    prefixed = {"one": PythonExecutor(tools.add), "two": PythonExecutor({"add": tools.repeat})}
    with CompositeExecutor(prefixed) as both:
        assert [document.id for document in both.documents()] == ["one/add", "two/add"]
        assert both.call("two/add", {"text": "b", "times": 3}).content == "bbb"
        assert failure(both.call("add", {"a": 1})) == "unknown_tool"
    with pytest.raises(DataError, match="name in front"):
        CompositeExecutor({"": PythonExecutor(tools.add)})
