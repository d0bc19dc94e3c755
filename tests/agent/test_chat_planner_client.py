"""Contract: a chat endpoint is asked politely, its answers are read whole or not at all, and keys stay secret."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import threading
import time

import pytest

from agent.servers import chat_server as script
from toolscaler.agent.chat_answers import ChatAnswer, ChatCall, StreamedAnswer, read_answer
from toolscaler.agent.chat_client import ChatEndpoint
from toolscaler.agent.executors.checking import CheckFailed
from toolscaler.errors import ConfigError, EndpointError

HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture
def connect():
    """Give ``connect(*answers, **options)`` -> (server, endpoint)."""
    opened = []

    def made(*answers, model=None, key=script.KEY, **options):
        server = script.ChatServer(*answers, model=model)
        opened.append(server)
        options = {"retry_delay": 0.001, "timeout": 5.0, **options}
        endpoint = ChatEndpoint(options.pop("url", server.url), "tiny", api_key=lambda: key, **options)
        opened.append(endpoint)
        return server, endpoint

    yield made
    for item in reversed(opened):
        item.__exit__(None, None, None)


def streamed(endpoint, messages=HELLO, **options):
    pieces, answers = [], endpoint.stream(messages, **options)
    while True:
        try:
            pieces.append(next(answers))
        except StopIteration as end:
            return end.value, pieces


ADD = {
    "type": "function",
    "function": {"name": "add", "description": "", "parameters": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_text_and_calls(connect, streaming):
    said = "Grüße, 世界 😀!"
    made = script.calls(("add", {"a": 1, "b": [2, {"c": "ü"}]}), ("add", '{"a": '), content="Let me see.")
    server, endpoint = connect(script.text(said), made, script.text("cut", finish_reason="length", tokens=3))
    answer, pieces = streamed(endpoint, streaming=streaming)
    assert answer == ChatAnswer(said, (), "stop", "", 7)
    assert "".join(pieces) == said
    assert len(pieces) == (3 if streaming else 1)  # the server sends five characters an event
    answer, _ = streamed(endpoint, streaming=streaming, tools=[ADD], tool_choice="required", max_tokens=9, stop=["x"])
    assert [(call.name, call.arguments) for call in answer.calls] == [
        ("add", '{"a": 1, "b": [2, {"c": "\\u00fc"}]}'),
        ("add", '{"a": '),
    ]
    assert [call.id for call in answer.calls] == [call["id"] for call in made["tool_calls"]]
    assert (answer.content, answer.finish_reason) == ("Let me see.", "tool_calls")
    sent = server.requests[1]
    assert (sent["tools"], sent["tool_choice"], sent["max_tokens"], sent["stop"]) == ([ADD], "required", 9, ["x"])
    assert "tools" not in server.requests[0]
    answer, _ = streamed(endpoint, streaming=streaming)
    assert (answer.finish_reason, answer.tokens) == ("length", 3)
    assert server.problems == []


def test_a_busy_server_is_asked_again(connect, caplog):
    server, endpoint = connect(
        script.status(429, retry_after="0"), script.status(503), script.status(500), script.drop, script.text("here")
    )
    with caplog.at_level(logging.DEBUG):
        assert endpoint.complete(HELLO).content == "here"
    assert len(server.requests) == 5
    assert script.KEY not in caplog.text
    server, endpoint = connect(*[script.status(500)] * 9, max_retries=2)
    with pytest.raises(EndpointError, match="status 500") as error:
        endpoint.complete(HELLO)
    assert (len(server.requests), error.value.kind, error.value.status) == (3, "status", 500)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (script.status(400, {"error": {"message": "no such field"}}), "status", "no such field"),
        (script.status(404), "status", "status 404"),
        (script.status(302, location="http://127.0.0.1:1/"), "status", "status 302"),
        (script.raw(b"<html>"), "invalid_response", "expected JSON"),
        (script.raw(b"[" * 100_000), "invalid_response", "expected JSON"),
        (script.raw(b"[]"), "invalid_response", "JSON object"),
        (script.raw(b'{"choices": []}'), "invalid_response", "choices"),
        (script.raw(b'{"choices": [{}]}'), "invalid_response", "message"),
        (script.raw(b'{"error": "overloaded"}'), "status", "overloaded"),
        (script.raw(b'\xff\xfe{"choices": 1}'), "invalid_response", "UTF-8"),
        (script.raw(gzip.compress(b"{}"), content_encoding="gzip"), "invalid_response", "packed"),
        (script.raw(b"a" * 300_000), "too_large", "200000"),
        (script.raw(b'data: {"error": {"m": 1}}\n\n', content_type="text/event-stream"), "status", "error"),
        (script.raw(b"data: nonsense\n\n", content_type="text/event-stream"), "invalid_response", "expected JSON"),
        (script.endless, "too_large", "200000"),
    ],
    ids=[
        *("refused", "not-found", "redirect", "html", "deep", "list", "no-choice", "no-message", "error", "no-utf8"),
        *("packed", "huge", "stream-error", "stream-nonsense", "endless"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_what_does_not_pass_is_not_tried_again(connect, answer, kind, words, streaming):
    server, endpoint = connect(answer, script.text("second"), max_bytes=200_000)
    with pytest.raises(EndpointError, match=words) as error:
        streamed(endpoint, streaming=streaming)
    assert error.value.kind == kind
    assert len(server.requests) == 1
    assert len(str(error.value)) < 1500


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
def test_a_server_that_hangs(connect, streaming):
    _, endpoint = connect(script.hang, script.hang, script.text("late"), timeout=0.3)
    with pytest.raises(EndpointError) as error:
        streamed(endpoint, streaming=streaming)
    assert error.value.kind == "timeout"
    with pytest.raises(EndpointError) as error:
        streamed(endpoint, streaming=streaming, deadline=time.monotonic() + 0.1)
    assert error.value.kind == "timeout"
    assert endpoint.complete(HELLO).content == "late"  # the endpoint itself is as good as before


def test_no_wait_beyond_the_deadline(connect):
    server, endpoint = connect(script.status(429, retry_after="3600"), script.text("x"), max_retry_delay=3600.0)
    with pytest.raises(EndpointError) as error:
        endpoint.complete(HELLO, deadline=time.monotonic() + 30)
    assert (error.value.status, len(server.requests)) == (429, 1)
    server, endpoint = connect(script.status(429, retry_after="3600"), script.text("x"), max_retry_delay=0.01)
    assert endpoint.complete(HELLO).content == "x"


def test_a_stream_that_breaks(connect):
    server, endpoint = connect(script.cut, script.text("whole"))
    pieces = []
    with pytest.raises(EndpointError) as error:
        pieces.extend(endpoint.stream(HELLO))
    assert (pieces, error.value.kind, len(server.requests)) == (["The answer"], "connection", 1)
    # Whoever stops reading stops the stream.
    server, endpoint = connect(script.endless, script.text("next"))
    stream = endpoint.stream(HELLO)
    next(stream)
    stream.close()
    assert endpoint.complete(HELLO).content == "next"


def test_nobody_is_there():
    with ChatEndpoint("http://127.0.0.1:9/v1", "tiny", max_retries=1, retry_delay=0.0) as endpoint:
        with pytest.raises(EndpointError) as error:
            endpoint.complete(HELLO)
        assert error.value.kind == "connection"
        assert error.value.__cause__ is None or script.KEY not in repr(error.value.__cause__)
    with pytest.raises(EndpointError) as error:
        endpoint.complete(HELLO)
    assert error.value.kind == "cancelled"


def test_closing_ends_what_runs(connect):
    _, endpoint = connect(script.hang)
    found = []

    def ask():
        try:
            endpoint.complete(HELLO)
        except EndpointError as error:
            found.append(error.kind)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    endpoint.close()
    endpoint.close()
    thread.join(10)
    assert found == ["cancelled"]


def test_keys_stay_secret(connect, caplog):
    wrong = "sk-wrong-91Xy77abcdefQ0zzz12"
    with caplog.at_level(logging.DEBUG):
        server, endpoint = connect(script.text("x"), key=wrong)
        with pytest.raises(EndpointError) as error:
            endpoint.complete(HELLO)
        assert error.value.status == 401
        assert "Incorrect API key" in str(error.value)  # the server repeats what it was sent
        assert server.requests == []
        for shown in (str(error.value), repr(error.value), error.value.body, repr(endpoint), caplog.text):
            assert wrong not in shown

        # Also the key of another header, and a short one of no known form.
        def tell(handler, request):
            handler.send(403, json.dumps({"error": "you sent " + handler.headers["x-api-key"]}).encode())

        _, endpoint = connect(tell, headers={"X-Api-Key": "meadow-77"})
        with pytest.raises(EndpointError) as error:
            endpoint.complete(HELLO)
        assert "meadow-77" not in str(error.value)
        assert "you sent" in str(error.value)
    keys = iter(["bad key", "bad\r\nx: y", "", None, "kéy"])
    _, endpoint = connect()
    endpoint._key = lambda: next(keys)
    for _ in range(5):
        with pytest.raises(EndpointError, match="header can hold"):
            endpoint.complete(HELLO)
    with pytest.raises(EndpointError, match="StopIteration") as error:
        endpoint.complete(HELLO)
    assert error.value.kind == "key"


def test_a_key_may_change(connect):
    _, endpoint = connect(script.text("x"), script.text("y"))
    keys = iter(["sk-old-000000000", script.KEY])
    endpoint._key = lambda: next(keys)
    with pytest.raises(EndpointError):
        endpoint.complete(HELLO)
    assert endpoint.complete(HELLO).content == "x"


def test_options_and_addresses(connect):
    server, endpoint = connect(
        script.text("x"), options={"temperature": 0.5, "seed": 3}, length_field="max_completion_tokens"
    )
    endpoint.complete(HELLO, max_tokens=5)
    (sent,) = server.requests
    assert (sent["temperature"], sent["seed"], sent["max_completion_tokens"]) == (0.5, 3, 5)
    assert "max_tokens" not in sent
    for end in ("/", "/chat/completions", "?api-version=1"):
        server, endpoint = connect(script.text("x"))
        _, endpoint = server, ChatEndpoint(server.url + end, "tiny", api_key=lambda: script.KEY)
        with endpoint:
            assert endpoint.complete(HELLO).content == "x"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "ftp://host/v1"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": "http://host:99999/"}, "base_url"),
        ({"base_url": None}, "base_url"),
        ({"base_url": "https://ann:hunter2abc@host/v1"}, "base_url"),
        ({"model": " "}, "model"),
        ({"api_key": "sk-hunter2abc"}, "api_key"),
        ({"timeout": 0}, "timeout"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_bytes": True}, "max_bytes"),
        ({"options": {"stream": True}}, "options"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_out_of_range(options, key):
    with pytest.raises(ConfigError, match=key) as error:
        ChatEndpoint(**{"base_url": "http://localhost/v1", "model": "tiny", **options})
    assert "hunter2abc" not in str(error.value)


def test_strange_answers_are_read_as_far_as_they_go():
    message = {
        "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}, 3],
        "reasoning_content": "hm",
        "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}, "id": 5}, 7, {"function": None}],
    }
    answer = read_answer(json.dumps({"choices": [{"message": message}], "usage": {"completion_tokens": -1}}))
    assert answer.content == "two parts"
    assert answer.calls == (ChatCall("f", '{"a": 1}'), ChatCall("", ""), ChatCall("", ""))
    assert (answer.reasoning, answer.tokens) == ("hm", 5)  # 9 + 2 + 1 + 8 characters, four a token
    with pytest.raises(CheckFailed, match="256"):
        read_answer(json.dumps({"choices": [{"message": {"tool_calls": [{}] * 300}}]}))
    halves = read_answer('{"choices": [{"message": {"content": "a\\ud83d b\\ud83d\\ude00"}}]}').content
    assert halves == "a? b😀"
    halves.encode()


def test_a_stream_with_the_name_in_each_event():
    streamed = StreamedAnswer()
    for piece in ('{"a"', ": 1}"):
        delta = {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": piece}}]}
        streamed.add(json.dumps({"choices": [{"delta": delta}]}))
    assert not streamed.ended
    streamed.add("[DONE]")
    assert streamed.answer().calls == (ChatCall("f", '{"a": 1}', "x"),)
    many = [{"index": number, "function": {"name": "f"}} for number in range(1, 256)]
    streamed.add(json.dumps({"choices": [{"delta": {"tool_calls": many}}]}))
    with pytest.raises(CheckFailed, match="256"):
        streamed.add(json.dumps({"choices": [{"delta": {"tool_calls": [{"index": 256}]}}]}))
    with pytest.raises(CheckFailed, match="numbered"):
        streamed.add(json.dumps({"choices": [{"delta": {"tool_calls": [{"index": [1]}]}}]}))


def test_the_error_keeps_its_parts_when_pickled():
    error = EndpointError("down", kind="status", status=503, body="busy")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.kind, again.status, again.body, again.trajectory) == ("down", "status", 503, "busy", None)
