"""Contract: an embeddings endpoint is asked once a text, its vectors are read whole or not at all, keys stay secret."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading

import numpy as np
import pytest

from evaluation.baselines import embedding_server as script
from toolscaler.data import ToolDocument
from toolscaler.errors import ArtifactError, ConfigError, EndpointError
from toolscaler.evaluation.baselines import ContentCache, EmbeddingEndpoint, EmbeddingRetriever

TEXTS = ["count words", "tax rate", "Füße, 東京", "week day", "x"]


@pytest.fixture
def connect():
    """Give ``connect(*answers, **options)`` -> (server, endpoint)."""
    opened = []

    def made(*answers, **options):
        server = script.EmbeddingServer(*answers)
        options = {"retry_delay": 0.001, "timeout": 5.0, "api_key": script.KEY, **options}
        endpoint = EmbeddingEndpoint(options.pop("url", server.url), "tiny", **options)
        opened.extend([server, endpoint])
        return server, endpoint

    yield made
    for item in reversed(opened):
        item.__exit__(None, None, None)


def _expected(texts=TEXTS, size=6):
    return np.array([script.vector(text, size) for text in texts], np.float32)


def test_vectors_are_the_models_in_order(connect):
    server, endpoint = connect(batch_size=2)
    found = endpoint.encode([*TEXTS, TEXTS[1]])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, _expected([*TEXTS, TEXTS[1]]))
    assert [request["input"] for request in server.requests] == [TEXTS[:2], TEXTS[2:4], TEXTS[4:]]  # equal texts: once
    np.testing.assert_array_equal(endpoint.encode(TEXTS[3:]), _expected(TEXTS[3:]))
    assert len(server.requests) == endpoint.num_requests == 3  # from memory
    assert endpoint.encode([]).shape == (0, 0)


def test_answers_in_another_order_and_in_base64(connect):
    _, endpoint = connect(script.shuffled)
    np.testing.assert_array_equal(endpoint.encode(TEXTS), _expected())


def test_the_cache_outlives_the_process_and_knows_what_was_asked(connect, tmp_path):
    path = tmp_path / "deep" / "vectors.db"
    server, endpoint = connect(cache=path, batch_size=3)
    endpoint.encode(TEXTS)
    endpoint.close()
    again = EmbeddingEndpoint(server.url, "tiny", cache=path, api_key="another-key-entirely")
    np.testing.assert_array_equal(again.encode(TEXTS[::-1]), _expected(TEXTS[::-1]))
    assert len(server.requests) == 2
    for other in (
        EmbeddingEndpoint(server.url, "tiny", cache=path, api_key=script.KEY, dimensions=4),
        EmbeddingEndpoint(server.url, "tiny", cache=path, api_key=script.KEY, options={"user": "me"}),
    ):
        with other:
            assert len(other.encode(TEXTS[:1])) == 1
    assert len(server.requests) == 4
    assert server.requests[2]["dimensions"] == 4
    assert server.requests[3]["user"] == "me"
    again.close()
    assert not any(script.KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_failure_keeps_what_came_before(connect, tmp_path):
    ok = script.raw({"data": [{"index": 0, "embedding": script.vector(TEXTS[0])}]})
    server, endpoint = connect(ok, script.status(400), cache=tmp_path / "v.db", batch_size=1, max_retries=0)
    with pytest.raises(EndpointError, match="as asked: 400") as caught:
        endpoint.encode(TEXTS[:2])
    assert (caught.value.kind, caught.value.status) == ("status", 400)
    np.testing.assert_array_equal(endpoint.encode(TEXTS[:2]), _expected(TEXTS[:2]))
    assert [request["input"] for request in server.requests] == [TEXTS[:1], TEXTS[1:2], TEXTS[1:2]]


def test_what_passes_is_tried_again(connect, caplog):
    answers = [script.status(429, retry_after="0"), script.status(503), script.drop, script.status(500)]
    server, endpoint = connect(*answers)
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(endpoint.encode(TEXTS), _expected())
    assert len(server.requests) == 5
    assert "again in" in caplog.text
    _, tired = connect(*[script.status(503)] * 3, max_retries=2)
    with pytest.raises(EndpointError) as caught:
        tired.encode(TEXTS)
    assert caught.value.status == 503


def test_a_silent_server(connect):
    server, endpoint = connect(script.hang, timeout=0.3)
    np.testing.assert_array_equal(endpoint.encode(TEXTS), _expected())
    assert len(server.requests) == 2
    _, tired = connect(script.hang, timeout=0.2, max_retries=0)
    with pytest.raises(EndpointError, match=r"within 0\.2 s") as caught:
        tired.encode(TEXTS)
    assert caught.value.kind == "timeout"
    with EmbeddingEndpoint("http://127.0.0.1:9", "tiny", max_retries=0) as nobody, pytest.raises(EndpointError) as lost:
        nobody.encode(["x"])
    assert lost.value.kind == "connection"


def _rows(*vectors, **more):
    return {"data": [{"index": place, "embedding": vector, **more} for place, vector in enumerate(vectors)]}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (script.raw(b"<html>"), "invalid_response"),
        (script.raw({"data": []}), "invalid_response"),
        (script.raw([1, 2]), "invalid_response"),
        (script.raw(_rows([1.0, 2.0])), "invalid_response"),
        (script.raw(_rows([1.0], [1.0, 2.0])), "invalid_response"),
        (script.raw(_rows([1.0], [2.0], index=0)), "invalid_response"),
        (script.raw(_rows([], [])), "invalid_response"),
        (script.raw(_rows("!!", "!!")), "invalid_response"),
        (script.raw(_rows([[1.0]], [[2.0]])), "invalid_response"),
        (script.raw(_rows(["a"], ["b"])), "invalid_response"),
        (script.raw(_rows([1e39], [1.0])), "invalid_response"),
        (script.raw(b'{"data": [{"embedding": [NaN]}, {"embedding": [1.0]}]}'), "invalid_response"),
        (script.raw(b"{}", content_encoding="gzip"), "invalid_response"),
        (script.raw(b" " * 20_000), "too_large"),
        (script.status(301, location="http://127.0.0.1:9/"), "status"),
        (script.status(404), "status"),
    ],
    ids=[
        "no-json", "no-vectors", "a-list", "too-few", "lengths", "places", "empty", "base64", "nested", "words",
        "overflow", "nan", "packed", "long", "redirect", "missing",
    ],
)  # fmt: skip
def test_an_answer_that_is_none(connect, answer, kind):
    server, endpoint = connect(answer, max_bytes=10_000)
    with pytest.raises(EndpointError) as caught:
        endpoint.encode(TEXTS[:2])
    assert caught.value.kind == kind
    assert len(server.requests) == 1  # it would not be better the next time
    assert len(endpoint.cache) == 0


def test_another_length_than_before(connect, tmp_path):
    server, endpoint = connect(cache=tmp_path / "v.db")
    endpoint.encode(TEXTS[:1])
    server.answers.append(script.raw(_rows([1.0, 2.0])))
    with pytest.raises(EndpointError, match=r"\[2, 6\].*new cache"):
        endpoint.encode(TEXTS[:2])


def test_keys(connect, monkeypatch, caplog):
    _, wrong = connect(api_key="sk-wrong-5Jw8Lq0Zr7Vt2Xy4")
    with caplog.at_level(logging.DEBUG), pytest.raises(EndpointError) as caught:
        wrong.encode(TEXTS)
    assert caught.value.status == 401
    assert "no such key" in str(caught.value)
    assert "5Jw8Lq0Zr7Vt2Xy4" not in f"{caught.value}{caught.value.body}{caplog.text}{wrong!r}"
    _, named = connect(api_key=None, api_key_variable="EMBEDDINGS_TEST_KEY")
    with pytest.raises(EndpointError, match="EMBEDDINGS_TEST_KEY") as missing:
        named.encode(TEXTS)
    assert missing.value.kind == "key"
    monkeypatch.setenv("EMBEDDINGS_TEST_KEY", script.KEY)
    np.testing.assert_array_equal(named.encode(TEXTS), _expected())
    _, broken = connect(api_key="two words")
    with pytest.raises(EndpointError, match="header can hold"):
        broken.encode(TEXTS)
    with pytest.raises(ConfigError, match="not both") as both:
        connect(api_key_variable="X")
    assert script.KEY not in str(both.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("dimensions", 0),
        ("max_retries", -1),
        ("timeout", 0),
        ("options", {"input": "x"}),
        ("url", "ftp://host/v1"),
        ("url", "http://me:secret@host/v1"),
    ],
    ids=str,
)
def test_settings_out_of_range(connect, key, value):
    with pytest.raises(ConfigError, match="base_url" if key == "url" else key) as caught:
        connect(**{key: value})
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="model"):
        EmbeddingEndpoint("http://host/v1", " ")


def test_addresses(connect):
    server, _ = connect()
    for url in (server.url + "/", server.url + "/embeddings?api-version=1"):
        with EmbeddingEndpoint(url, "tiny", api_key=script.KEY) as endpoint:
            endpoint.encode(["x"])
    assert server.paths == ["/v1/embeddings", "/v1/embeddings?api-version=1"]


def test_as_encoder_of_the_retriever(connect):
    _, endpoint = connect()
    documents = [ToolDocument(name=name) for name in ("alpha", "beta", "gamma")]
    found = EmbeddingRetriever(documents, endpoint).retrieve("beta", 3)[0]
    assert found[0].name == "beta"
    assert found[0].score == pytest.approx(1.0, abs=1e-6)


def test_cache_stores_all_or_nothing(tmp_path):
    path = tmp_path / "c.db"
    cache = ContentCache(path)
    cache.put({f"k{place}": bytes([place]) for place in range(200)})
    with pytest.raises(ArtifactError):
        cache.put({"new": b"1", "bad": object()})
    assert len(cache) == 200
    cache.put({"k1": b"later"})
    other = ContentCache(path)  # another process would see the same
    assert other.get(["k1", "k7", "nothing", "k7"]) == {"k1": b"later", "k7": bytes([7])}

    def write(name):
        for place in range(4):
            ContentCache(path).put({f"{name}{place}": b"x"})

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(other) == 212
    cache.close()
    cache.close()
    with pytest.raises(ArtifactError, match="delete it"):
        cache.get(["k1"])


def test_cache_refuses_other_files(tmp_path):
    text = tmp_path / "a.db"
    text.write_text(json.dumps({"not": "a cache"}) * 200)
    foreign = sqlite3.connect(tmp_path / "b.db")
    foreign.execute("CREATE TABLE people (name TEXT)")
    foreign.close()
    newer = sqlite3.connect(tmp_path / "c.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    for name, words in (("a.db", "expected a cache"), ("b.db", "another SQLite file"), ("c.db", "got 99")):
        with pytest.raises(ArtifactError, match=words):
            ContentCache(tmp_path / name)
    with pytest.raises(ArtifactError):
        ContentCache(text / "below")
    assert text.read_text().startswith('{"not"')


def test_a_cache_with_something_else_than_vectors(connect, tmp_path):
    _, endpoint = connect(cache=tmp_path / "v.db")
    endpoint.encode(TEXTS[:1])
    with sqlite3.connect(tmp_path / "v.db") as table:
        table.execute("UPDATE answers SET value = x'0102'")
    with pytest.raises(ArtifactError, match="delete it"):
        endpoint.encode(TEXTS[:1])
