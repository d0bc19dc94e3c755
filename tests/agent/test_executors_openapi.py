"""OpenAPI operations against a real server: arguments of every kind, no way out, every failure a result."""

from __future__ import annotations

import copy
import json
import socket
import threading

import pytest

from agent.servers.http_service import Service
from toolscaler.agent import Credentials, ExecutorLimits, OpenAPIExecutor, RetryPolicy
from toolscaler.agent.executors.hosts import HostGuard, is_public, origin_of
from toolscaler.errors import ConfigError, DataError

LIMITS = ExecutorLimits(max_result_bytes=100_000, timeout=20.0, retry=RetryPolicy(base_delay=0.0))


def parameter(name: str, place: str, schema: dict | None = None, **more: object) -> dict:
    return {"name": name, "in": place, "schema": schema or {"type": "string"}, "required": place == "path", **more}


def operation(name: str, *parameters: dict, body: dict | None = None, kind: str = "application/json") -> dict:
    made: dict = {"operationId": name, "parameters": list(parameters), "responses": {"200": {"description": "ok"}}}
    if body is not None:
        made["requestBody"] = {"required": True, "content": {kind: {"schema": body}}}
    return made


STRINGS = {"type": "array", "items": {"type": "string"}}
MAP = {"type": "object", "additionalProperties": {"type": "string"}}
PET = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "name": {"type": "string"}, "tags": STRINGS},
    "required": ["name"],
}


def spec_of(server: str, **paths: dict) -> dict:
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pets", "version": "1"},
        "servers": [{"url": f"{server}/api/"}],
        "components": {
            "schemas": {"Pet": PET},
            "securitySchemes": {"key": {"type": "apiKey", "in": "query", "name": "api_key"}},
        },
        "paths": dict(paths),
    }


def full_spec(url: str) -> dict:
    plain = ("status", "flaky", "drop", "slow", "drip", "endless", "bomb", "packed", "strange", "damaged", "binary")
    plain += ("latin", "unknown", "garbage", "headers", "loop", "cookie", "tell")
    spec = spec_of(
        url,
        **{
            "/pets/{id}": {
                "get": operation(
                    "get",
                    parameter("id", "path"),
                    parameter("id", "query"),
                    parameter("list", "query", STRINGS),
                    parameter("joined", "query", STRINGS, explode=False),
                    parameter("piped", "query", STRINGS, style="pipeDelimited", explode=False),
                    parameter("deep", "query", MAP, style="deepObject"),
                    parameter("flag", "query", {"type": "boolean"}),
                    {"name": "filter", "in": "query", "content": {"application/json": {"schema": MAP}}},
                    parameter("X-Trace", "header"),
                    parameter("X-Forwarded-For", "header"),
                    parameter("Host", "header"),
                    parameter("taste", "cookie"),
                    parameter("api_key", "query"),
                    parameter("spread", "query", MAP),
                ),
                "put": operation("put", parameter("id", "path"), body={"$ref": "#/components/schemas/Pet"}),
            },
            "/styles/{plain}/{label}/{matrix}": {
                "get": operation(
                    "styles",
                    parameter("plain", "path", STRINGS),
                    parameter("label", "path", STRINGS, style="label", explode=True),
                    parameter("matrix", "path", STRINGS, style="matrix", explode=True),
                )
            },
            "/list": {"post": operation("whole", body={"type": "array", "items": {"type": "integer"}})},
            "/boxed": {"post": operation("boxed", body={"type": "object", "properties": {"body": {"type": "string"}}})},
            "/form": {"post": operation("form", body=PET, kind="application/x-www-form-urlencoded")},
            "/image": {"post": operation("image", body=PET, kind="image/png")},
            "/flaky-post": {"post": operation("flaky_post")},
            "/broken": {"get": operation("broken", {"$ref": "#/components/parameters/nowhere"})},
        },
    )
    base = f"{url}/"
    for name in plain:
        spec["paths"][f"/{name}"] = {"servers": [{"url": base}], "get": operation(name)}
        spec["paths"][f"/{name}/post"] = {"servers": [{"url": base}], "post": operation(f"{name}_post")}
    spec["paths"]["/status/{code}"] = {"servers": [{"url": base}], "get": operation("code", parameter("code", "path"))}
    jump = [parameter("to", "query"), parameter("code", "query")]
    spec["paths"]["/redirect"] = {
        "servers": [{"url": base}],
        "get": operation("redirect", *jump),
        "post": operation("redirect_post", *jump, body=PET),
    }
    return spec


@pytest.fixture(scope="module")
def service():
    first, second = Service(), Service()
    first.elsewhere = second.url
    yield first
    first.stop()
    second.stop()


@pytest.fixture(scope="module")
def pets(service):
    with OpenAPIExecutor(full_spec(service.url), limits=LIMITS) as executor:
        yield executor


@pytest.fixture
def call(service, pets):
    service.requests.clear()
    service.counts.clear()

    def run(name: str, /, timeout: float | None = None, **arguments: object):
        return pets.call(f"Pets/{name}", arguments, timeout=timeout)

    return run


def seen(result) -> dict:
    assert not result.is_error, result
    return json.loads(result.content)


def failure(result) -> str:
    assert result.is_error, result
    assert result.content
    return result.error_type


def test_path_query_header_and_cookie_arguments(call, service) -> None:
    result = call(
        "get",
        **{"id": "a/b ü%2F", "query_id": "7", "list": ["x", "y&z"], "joined": ["1", "2"], "piped": ["3", "4"]},
        **{"deep": {"k": "v"}, "flag": True, "filter": {"a": "b"}, "X-Trace": "t", "taste": "sweet; evil=1"},
        spread={"p": "q"},
    )
    got = seen(result)
    assert got["method"] == "GET"
    assert got["path"] == "/api/pets/a%2Fb%20%C3%BC%252F"
    assert got["query"] == [
        ["id", "7"],
        ["list", "x"],
        ["list", "y&z"],
        ["joined", "1,2"],
        ["piped", "3|4"],
        ["deep[k]", "v"],
        ["flag", "true"],
        ["filter", '{"a": "b"}'],
        ["p", "q"],
    ]
    assert got["headers"]["x-trace"] == "t"
    assert got["headers"]["cookie"] == "taste=sweet%3B%20evil%3D1"
    assert got["headers"]["host"] == service.url.removeprefix("http://")
    assert result.metadata["status_code"] == 200


def test_styles_of_path_arguments(call) -> None:
    got = seen(call("styles", plain=["a", "b"], label=["a", "b"], matrix=["a", "b"]))
    assert got["path"] == "/api/styles/a,b/.a.b/;matrix=a;matrix=b"


def test_bodies(call) -> None:
    got = seen(call("put", id="1", name="Rex", tags=["a"], body_id=3))
    assert json.loads(got["body"]) == {"name": "Rex", "tags": ["a"], "id": 3}
    assert got["headers"]["content-type"] == "application/json"
    assert seen(call("whole", body=[1, 2]))["body"] == "[1, 2]"
    assert json.loads(seen(call("boxed", body="text"))["body"]) == {"body": "text"}
    assert seen(call("form", name="R & x", tags=["a", "b"]))["body"] == "name=R+%26+x&tags=a&tags=b"
    assert failure(call("image", name="Rex")) == "invalid_arguments"


def test_arguments_of_the_caller_alone_are_hidden_and_refused(pets, call, service) -> None:
    document = next(item for item in pets.documents() if item.name == "get")
    names = {item.name for item in document.iter_parameters()}
    assert {"api_key", "Host", "X-Forwarded-For"}.isdisjoint(names)
    assert {"X-Trace", "taste", "spread"} <= names
    assert [item.name for item in pets.documents()].count("broken") == 0
    assert any("nowhere" in reason for reason in pets.rejected)
    with OpenAPIExecutor(full_spec(service.url), limits=LIMITS, credentials=_key) as executor:
        arguments = {"id": "1", "taste": "sweet", "spread": {"api_key": "forged", "other": "kept"}}
        assert not executor.call("Pets/get", arguments).is_error
        got = service.requests[-1]
        assert got["query"] == [("other", "kept"), ("api_key", "secret-key")]
        assert got["headers"]["authorization"] == "Bearer secret-token"
        assert got["headers"]["cookie"] == "taste=sweet; sid=secret-sid"


def _key(tool: str, url: str) -> Credentials:
    assert tool.startswith("Pets/")
    assert url.startswith("http://127.0.0.1:")
    return Credentials({"Authorization": "Bearer secret-token"}, {"api_key": "secret-key"}, {"sid": "secret-sid"})


def test_credentials_never_show(service) -> None:
    with OpenAPIExecutor(full_spec(service.url), limits=LIMITS, credentials=_key) as executor:
        result = executor.call("Pets/tell", {})
        assert failure(result) == "tool_error"
        assert "redacted" in result.content
        assert "secret" not in result.content
        assert "secret" not in repr(_key("Pets/x", "http://127.0.0.1:1"))

    def broken(tool: str, url: str) -> Credentials:
        raise KeyError("secret-token")

    for provider in (broken, lambda tool, url: "secret-token"):
        with OpenAPIExecutor(full_spec(service.url), credentials=provider) as executor:
            result = executor.call("Pets/tell", {})
            assert failure(result) == "connection"
            assert "secret" not in result.content


@pytest.mark.parametrize("value", ["..", ".", "", "../admin", "a/../b", "..\\x", "a\x00b"])
def test_path_arguments_cannot_change_the_path(call, service, value) -> None:
    assert failure(call("get", id=value)) == "invalid_arguments"
    assert service.requests == []


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "日本"], ids=["crlf", "lf", "nul", "wide"])
def test_header_arguments_cannot_add_headers(call, service, value) -> None:
    assert failure(call("get", id="1", **{"X-Trace": value})) == "invalid_arguments"
    assert all("x-evil" not in request["headers"] for request in service.requests)


@pytest.mark.parametrize(
    ("name", "error_type"),
    [
        ("endless", "too_large"),
        ("bomb", "too_large"),
        ("strange", "invalid_response"),
        ("damaged", "invalid_response"),
        ("binary", "invalid_response"),
        ("unknown", "invalid_response"),
        ("garbage", "connection"),
        ("headers", "connection"),
        ("loop", "invalid_response"),
    ],
)
def test_bad_answers_are_results(call, name, error_type) -> None:
    assert failure(call(name)) == error_type


@pytest.mark.parametrize("name", ["slow", "drip"])
def test_the_time_limit_holds_while_bytes_keep_coming(call, name) -> None:
    result = call(name, timeout=0.5)
    assert failure(result) == "timeout"
    assert result.seconds < 15


def test_good_answers(call) -> None:
    assert call("packed").content == '"grün"'
    assert call("latin").content == "grün"
    empty = call("code", code="204")
    assert (empty.content, empty.is_error, empty.metadata["status_code"]) == ("", False, 204)


def test_failed_statuses_are_tool_errors(call) -> None:
    result = call("code", code="404")
    assert (failure(result), result.metadata["status_code"], result.metadata["attempts"]) == ("tool_error", 404, 1)
    assert result.content == 'HTTP 404: {"detail": "as asked"}'


def test_only_get_is_tried_again(call, service) -> None:
    result = call("flaky")
    assert (result.content, result.metadata["attempts"]) == ('"up"', 3)
    result = call("drop")
    assert (result.content, result.metadata["attempts"]) == ('"back"', 2)
    result = call("flaky_post")
    assert result.metadata["attempts"] == 1
    assert failure(call("drop_post")) == "connection"
    assert service.counts["/drop/post"] == 1
    result = call("code", code="503")
    assert (failure(result), result.metadata["attempts"]) == ("tool_error", 3)


def test_no_cookie_is_kept_between_calls(call) -> None:
    assert call("cookie").content == "null"
    assert call("cookie").content == "null"


def test_redirects_stay_inside_the_servers(call, service) -> None:
    assert seen(call("redirect", to="/echo?a=1"))["query"] == [["a", "1"]]
    got = seen(call("redirect_post", to="/echo", code="307", name="Rex"))
    assert (got["method"], json.loads(got["body"])) == ("POST", {"name": "Rex"})
    got = seen(call("redirect_post", to="/echo", code="303", name="Rex"))
    assert (got["method"], got["body"]) == ("GET", "")
    port = service.url.rpartition(":")[2]
    service.requests.clear()
    targets = [
        "ELSEWHERE/secret",
        "//ELSEWHERE/",
        "http://169.254.169.254/latest/meta-data",
        f"http://localhost:{port}/",
        f"http://0.0.0.0:{port}/",
        f"http://[::ffff:127.0.0.1]:{port}/",
        f"http://2130706433:{port}/",
        f"http://127.0.0.1:{port}@evil.example/",
        f"http://user:word@127.0.0.1:{port}/",
        f"https://127.0.0.1:{port}/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://127.0.0.1:notaport/",
    ]
    for number, target in enumerate(targets, 1):
        assert failure(call("redirect", to=target)) == "forbidden", target
        assert len(service.requests) == number  # the redirect, and nothing after it


def test_a_dead_server_is_a_result() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with OpenAPIExecutor(spec_of(url, **{"/a": {"get": operation("a")}}), limits=LIMITS) as executor:
            result = executor.call("Pets/a", {})
            assert (failure(result), result.metadata["attempts"]) == ("connection", 3)
    with OpenAPIExecutor(
        spec_of("http://no-such-host.invalid", **{"/a": {"get": operation("a")}}), limits=LIMITS
    ) as executor:
        assert failure(executor.call("Pets/a", {})) == "connection"


def test_closing_cancels_running_calls(service) -> None:
    executor = OpenAPIExecutor(full_spec(service.url), limits=LIMITS)
    results = []
    before = service.counts["/slow"]
    thread = threading.Thread(target=lambda: results.append(executor.call("Pets/slow", {})))
    thread.start()
    while service.counts["/slow"] == before:
        service.leaving.wait(0.01)
    executor.close()
    thread.join(15)
    assert failure(results[0]) == "cancelled"
    assert failure(executor.call("Pets/slow", {})) == "cancelled"
    executor.close()


def test_two_hundred_agents_share_an_executor_without_crosstalk(pets) -> None:
    answers: dict[int, str] = {}

    def agent(number: int) -> None:
        got = json.loads(pets.call("Pets/get", {"id": str(number), "X-Trace": f"t{number}"}).content)
        answers[number] = f"{got['path']} {got['headers']['x-trace']}"

    threads = [threading.Thread(target=agent, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {number: f"/api/pets/{number} t{number}" for number in range(200)}


@pytest.mark.parametrize("change", ["relative", "none", "variable", "server"])
def test_servers_of_a_specification(service, change) -> None:
    spec = copy.deepcopy(spec_of(service.url, **{"/a": {"get": operation("a")}}))
    server = None
    if change == "relative":
        spec["servers"] = [{"url": "/v1"}]
    elif change == "none":
        del spec["servers"]
    elif change == "variable":
        host = service.url.removeprefix("http://")
        spec["servers"] = [{"url": "http://{host}/v2", "variables": {"host": {"default": host}}}]
    else:
        server = f"{service.url}/v3"
        spec["servers"] = [{"url": "https://example.com"}]
    if change in ("relative", "none"):
        with pytest.raises(DataError, match="server="):
            OpenAPIExecutor(spec)
        return
    with OpenAPIExecutor(spec, server=server) as executor:
        assert seen(executor.call("Pets/a", {}))["path"] == ("/v2/a" if change == "variable" else "/v3/a")


def test_link_local_and_rebound_names_are_refused(service) -> None:
    spec = spec_of("http://169.254.169.254", **{"/a": {"get": operation("a")}})
    with OpenAPIExecutor(spec) as executor:
        assert failure(executor.call("Pets/a", {})) == "forbidden"
    name = socket.gethostname()
    try:
        private = not any(is_public(item[4][0]) for item in socket.getaddrinfo(name, None))
    except OSError:
        private = False
    if private and name != "localhost":  # this machine's own name leads to a private address, as an intranet's would
        spec = spec_of(f"http://{name}:{service.server_port}", **{"/a": {"get": operation("a")}})
        with OpenAPIExecutor(spec) as executor:
            assert failure(executor.call("Pets/a", {})) == "forbidden"
    spec = spec_of(f"http://localhost:{service.server_port}", **{"/a": {"get": operation("a")}})
    with OpenAPIExecutor(spec) as executor:
        got = seen(executor.call("Pets/a", {}))
        assert got["headers"]["host"] == f"localhost:{service.server_port}"
    with pytest.raises(ConfigError):
        OpenAPIExecutor(spec, server="ftp://example.com")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:a00:1::", False),
    ],
)
def test_public_addresses(address, public) -> None:
    assert is_public(address) is public


def test_origins() -> None:
    assert origin_of("HTTPS://EXAMPLE.com/a") == ("https", "example.com", 443)
    assert origin_of("http://[::1]:8080") == ("http", "::1", 8080)
    assert origin_of("http://bücher.example") == ("http", "xn--bcher-kva.example", 80)
    for url in ("example.com", "ftp://a", "http://", "http://u@a", "http://a:99999", "//a"):
        with pytest.raises(ValueError):
            origin_of(url)
    guard = HostGuard(["https://api.example.com/v1"])
    assert guard.check("https://api.example.com/other") == ("https", "api.example.com", 443)
