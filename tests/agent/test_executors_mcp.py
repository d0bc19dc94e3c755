"""MCP servers as real programs: the official SDK's over both transports, and a wire that misbehaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from toolscaler.agent import ExecutorLimits, MCPExecutor, RetryPolicy, ToolPolicy, ToolSelection
from toolscaler.errors import ConfigError, EmptyCatalogueError, ExecutorError

SERVERS = Path(__file__).parent / "servers"
LIMITS = ExecutorLimits(max_result_bytes=100_000, timeout=60.0, retry=RetryPolicy(base_delay=0.0))


def program(folder: Path, **options: object) -> MCPExecutor:
    options = {"name": "srv", "limits": LIMITS, "start_timeout": 60.0, **options}
    return MCPExecutor.stdio(sys.executable, [str(SERVERS / "mcp_server.py"), "stdio", str(folder)], **options)


def raw(mode: str, **options: object) -> MCPExecutor:
    options = {"limits": LIMITS, "start_timeout": 60.0, **options}
    return MCPExecutor.stdio(sys.executable, [str(SERVERS / "raw_mcp_server.py"), mode], **options)


class HTTPServer:
    """The SDK's server behind a URL, as a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = "0"
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        (self.folder / "port").unlink(missing_ok=True)
        arguments = [sys.executable, str(SERVERS / "mcp_server.py"), "http", str(self.folder), self.port]
        self.process = subprocess.Popen(arguments)
        wait_for(lambda: (self.folder / "port").exists())
        self.port = (self.folder / "port").read_text()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"


def wait_for(condition, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def failure(result) -> str:
    assert result.is_error, result
    assert result.content
    return result.error_type


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().split()


@pytest.fixture(scope="module", params=["stdio", "http"])
def served(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "stdio":
        with program(folder) as executor:
            yield executor, folder
        return
    server = HTTPServer(folder)
    try:
        headers = {"Authorization": "Bearer secret"}
        with MCPExecutor.http(server.url, headers=lambda: headers, name="srv", limits=LIMITS) as executor:
            yield executor, folder
    finally:
        server.stop()


def test_every_page_of_the_listing_is_read(served) -> None:
    executor, folder = served
    documents = {document.id: document for document in executor.documents()}
    names = [
        "echo",
        "structured",
        "fail",
        "refuse",
        "crash",
        "crash_once",
        "hang",
        "freeze",
        "big",
        "mixed",
        "grow",
        "pid",
        "hostile",
    ]
    assert set(documents) >= {f"srv/{name}" for name in names}
    assert {"srv/deep", "srv/broken"}.isdisjoint(documents)
    assert [reason.split(":")[0] for reason in executor.rejected] == ["'deep'", "'broken'"]
    assert documents["srv/echo"].description == "Give the text back."
    # What the server says of its tools is kept, and believed only where the caller says so.
    assert documents["srv/crash_once"].parameters["x-annotations"] == {"readOnlyHint": True}
    assert [executor.idempotent(f"srv/{name}") for name in ("crash_once", "crash", "nosuch")] == [True, False, False]
    catalogue = list(documents.values())
    trusting = ToolPolicy(read_only=True, trust_hints=ToolSelection(providers=["srv"]))
    assert trusting.allowed(catalogue) == ("srv/crash_once",)
    with pytest.raises(EmptyCatalogueError):
        ToolPolicy(read_only=True).allowed(catalogue)
    if (folder / "token").exists():
        assert (folder / "token").read_text() == "Bearer secret"


def test_results_of_all_kinds(served) -> None:
    executor, _ = served
    assert executor.call("srv/echo", {"text": "grüß\u2028 <a_1>"}).content == "grüß\u2028 <a_1>"
    result = executor.call("srv/structured", {})
    assert not result.is_error  # and the server's hostile output schema was not run
    assert result.metadata["structured"] == {"value": "x" * 5000}
    assert executor.call("srv/mixed", {}).content.split("\n") == [
        "first",
        "[image, image/png]",
        "inner text",
        "[resource file:///b, application/pdf]",
        "[resource file:///c]",
    ]


def test_failures_are_results(served) -> None:
    executor, _ = served
    result = executor.call("srv/fail", {})
    assert (failure(result), result.content) == ("tool_error", "no such city")
    assert failure(executor.call("srv/refuse", {})) == "tool_error"
    assert failure(executor.call("srv/big", {})) == "too_large"
    assert failure(executor.call("srv/echo", {"text": 3})) == "invalid_arguments"
    assert failure(executor.call("srv/hostile", {"value": "x" * 5000})) == "invalid_schema"
    assert failure(executor.call("srv/nosuch", {})) == "unknown_tool"
    assert executor.call("srv/echo", {"text": "still there"}).content == "still there"


def test_a_call_over_its_time_is_cancelled_at_the_server(served) -> None:
    executor, folder = served
    result = executor.call("srv/hang", {}, timeout=1.0)
    assert failure(result) == "timeout"
    wait_for(lambda: (folder / "cancelled").exists())
    assert executor.call("srv/echo", {"text": "next"}).content == "next"


def test_new_tools_are_found_when_the_server_says_so(served) -> None:
    executor, _ = served
    before = {document.id for document in executor.documents()}
    name = executor.call("srv/grow", {}).content
    assert f"srv/{name}" not in before
    wait_for(lambda: not executor.call(f"srv/{name}", {}).is_error)  # listed again without being asked
    assert {document.id for document in executor.documents()} == {*before, f"srv/{name}"}


def test_many_agents_share_an_executor_without_crosstalk(served) -> None:
    executor, _ = served
    answers: dict[int, str] = {}
    threads = [
        threading.Thread(
            target=lambda i=i: answers.__setitem__(i, executor.call("srv/echo", {"text": f"t{i}"}).content)
        )
        for i in range(200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {i: f"t{i}" for i in range(200)}


def test_a_server_that_dies_is_started_again(tmp_path) -> None:
    with program(tmp_path) as executor:
        first = executor.call("srv/pid", {}).content
        result = executor.call("srv/crash", {})
        assert (failure(result), result.metadata["attempts"]) == ("connection", 1)
        assert calls(tmp_path).count("crash") == 1  # not marked as idempotent: never sent twice
        second = executor.call("srv/pid", {}).content
        assert second != first
        (tmp_path / "crashed").unlink()
        result = executor.call("srv/crash_once", {})
        assert (result.content, result.metadata["attempts"]) == ("done", 2)
        os.kill(int(executor.call("srv/pid", {}).content), signal.SIGKILL)  # between two calls
        wait_for(lambda: not executor.call("srv/echo", {"text": "a"}).is_error, 30)


def test_a_listing_without_end_is_an_error_and_a_frozen_server_is_given_up(tmp_path) -> None:
    (tmp_path / "endless").touch()
    with program(tmp_path) as executor:
        with pytest.raises(ExecutorError, match="does not end"):
            executor.documents()
        assert failure(executor.call("srv/echo", {"text": "a"})) == "connection"
        (tmp_path / "endless").unlink()
        first = int(executor.call("srv/pid", {}).content)
        assert failure(executor.call("srv/freeze", {}, timeout=0.5)) == "timeout"
        assert executor.call("srv/echo", {"text": "again"}).content == "again"
        assert int(executor.call("srv/pid", {}).content) != first


def test_a_restarted_http_server_is_found_again(tmp_path) -> None:
    server = HTTPServer(tmp_path)
    try:
        with MCPExecutor.http(server.url, limits=LIMITS) as executor:
            assert executor.documents()[0].id == "test server/echo"
            assert executor.call("test server/echo", {"text": "a"}).content == "a"
            server.stop()
            result = executor.call("test server/echo", {"text": "b"})
            assert failure(result) == "connection"
            server.start()
            assert executor.call("test server/echo", {"text": "c"}).content == "c"
    finally:
        server.stop()


def test_closing_ends_the_process_and_running_calls(tmp_path) -> None:
    heard = threading.Event()
    executor = program(tmp_path, on_change=heard.set)
    executor.call("srv/grow", {})
    assert heard.wait(30)  # the callback hears of changes
    pid = int(executor.call("srv/pid", {}).content)
    results = []
    call = threading.Thread(target=lambda: results.append(executor.call("srv/hang", {})))
    call.start()
    wait_for(lambda: (tmp_path / "hanging").exists())
    executor.close()
    call.join(30)
    assert failure(results[0]) == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert failure(executor.call("srv/echo", {"text": "a"})) == "cancelled"
    executor.close()


@pytest.mark.parametrize(
    ("mode", "content", "error_type"),
    [
        ("bytes", "a\ufffd\ufffdb", ""),
        ("noise", "after the noise", ""),
        ("no-result", "no result", "invalid_response"),
        ("forged", "busy", "connection"),
        ("long", "longer than 700000 bytes", "too_large"),  # and the connection stays
        ("endless", "ended the connection", "connection"),  # a line that never ends is not collected
    ],
)
def test_a_wire_that_misbehaves(mode, content, error_type) -> None:
    with raw(mode) as executor:
        assert [document.id for document in executor.documents()] == ["raw/act"]
        assert "twice" in executor.rejected[0]
        for _ in range(2):
            result = executor.call("raw/act", {})
            assert result.error_type == error_type
            assert content in result.content


@pytest.mark.parametrize("mode", ["silent", "gone", "no-list"])
def test_a_server_that_does_not_start(mode) -> None:
    with raw(mode, start_timeout=1.0 if mode == "silent" else 60.0) as executor:
        with pytest.raises(ExecutorError, match="cannot be listed"):
            executor.documents()
        assert failure(executor.call("raw/act", {}, timeout=1.0)) == "connection"


def test_a_program_or_url_that_is_not_there() -> None:
    for missing in ("/no/such/program", "no-such-program-at-all"):
        with (
            MCPExecutor.stdio(missing, limits=LIMITS) as executor,
            pytest.raises(ExecutorError, match=r"did not start: FileNotFoundError: no such program.*no.such.program"),
        ):
            executor.documents()
    with MCPExecutor.http("http://127.0.0.1:9/mcp", limits=LIMITS) as executor:
        assert failure(executor.call("a/b", {})) == "connection"
    with pytest.raises(ConfigError):
        MCPExecutor.stdio("x", start_timeout=0)
