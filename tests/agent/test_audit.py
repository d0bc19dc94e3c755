"""Contract: each decision is one whole line, whoever writes beside; no secret reaches the file; the agent goes on."""

from __future__ import annotations

import hashlib
import json
import stat
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolscaler.agent.audit import AuditLog, query_hash, read_audit
from toolscaler.agent.policy import PendingCall, PolicyVerdict
from toolscaler.agent.redaction import MAX_ITEMS, MAX_TEXT, REDACTED, is_secret_key, redact, redact_text
from toolscaler.data import ToolDocument
from toolscaler.errors import ArtifactError, ConfigError, DataError

DOCUMENT = ToolDocument(
    "login",
    parameters={
        "type": "object",
        "properties": {"phrase": {"type": "string", "format": "password"}, "user": {"type": "string"}},
    },
)
YES = PolicyVerdict(True, "no rule objects")


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    log = AuditLog("audit.jsonl")
    log.close()
    monkeypatch.chdir(tmp_path / "there")
    log.record(PendingCall("login", document=DOCUMENT), YES)  # opens the file again
    assert log.path == tmp_path / "here" / "audit.jsonl"
    assert len(read_audit(tmp_path / "here" / "audit.jsonl")) == 1
    assert not list((tmp_path / "there").iterdir())


def test_a_record_holds_the_decision(tmp_path) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    call = PendingCall("login", {"user": "ann", "phrase": "s3same"}, "ann", "run 1", DOCUMENT, "<a_1><b_2>", -0.25)
    with AuditLog(path) as log:
        made = log.record(call, YES, query="let me in", outcome="ok", seconds=0.5, step=3)
        log.record(call, PolicyVerdict(False, "denied", "deny"), outcome="refused")
    first, second = read_audit(path)
    assert first == made
    assert (first.run_id, first.caller, first.tool_id, first.code) == ("run 1", "ann", "login", "<a_1><b_2>")
    assert (first.score, first.seconds, first.outcome, first.extra) == (-0.25, 0.5, "ok", {"step": 3})
    assert first.query_sha256 == hashlib.sha256(b"let me in").hexdigest() == query_hash("let me in")
    assert first.document_sha256 == DOCUMENT.content_hash
    assert first.arguments == {"user": "ann", "phrase": REDACTED}
    assert (second.allowed, second.rule, second.reason, second.query_sha256) == (False, "deny", "denied", "")
    age = datetime.now(timezone.utc) - datetime.fromisoformat(first.time)
    assert timedelta(0) <= age < timedelta(minutes=5)
    assert "let me in" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_appends(tmp_path) -> None:
    for n in range(3):
        with AuditLog(tmp_path / "a", fsync=True) as log:
            log.record(PendingCall(f"t{n}"), YES)
    assert [r.tool_id for r in read_audit(tmp_path / "a")] == ["t0", "t1", "t2"]


def test_threads_and_processes_write_whole_lines(tmp_path) -> None:
    path = tmp_path / "a"
    code = (
        "import sys; from toolscaler.agent.audit import AuditLog; from toolscaler.agent.policy import *\n"
        "log = AuditLog(sys.argv[1])\n"
        "for n in range(150): log.record(PendingCall(f'{sys.argv[2]}.{n}', {'text': 'é ' * 1000}), PolicyVerdict(True))"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("p", "q")]
    log = AuditLog(path)

    def work(name):
        for n in range(150):
            log.record(PendingCall(f"{name}.{n}", {"text": "x " * 1000}), YES)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in others] == [0, 0]
    found = [record.tool_id for record in read_audit(path)]
    assert sorted(found) == sorted(f"{name}.{n}" for name in "abcpq" for n in range(150))
    for name in "abcpq":  # each writer's own order is kept
        assert [t for t in found if t[0] == name] == [f"{name}.{n}" for n in range(150)]


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        *[(key, True) for key in ("password", "PASSWORD", "userPassword", "api_key", "apiKey", "APIKey", "x-api-key")],
        *[(key, True) for key in ("Authorization", "accessToken", "client_secret", "card_number", "PIN", "set-cookie")],
        *[(key, False) for key in ("max_tokens", "token_count", "author", "keyboard", "passport", "key", "monkey", "")],
    ],
)
def test_secret_keys(key, secret) -> None:
    assert is_secret_key(key) == secret
    assert redact({"outer": [{key: "v"}]}) == {"outer": [{key: REDACTED if secret else "v"}]}


def test_a_secret_key_hides_whatever_is_under_it() -> None:
    value = {"credentials": {"user": "ann", "lines": ["a", "b"]}, "token": 12345, "secret": None, "auth": True}
    assert redact(value) == {"credentials": REDACTED, "token": REDACTED, "secret": None, "auth": True}


SECRETS = {
    "bearer": "Authorization: Bearer abcdefgh12345678",
    "basic": "Basic dXNlcjpwYXNzd29yZA==",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "model key": "sk-proj-abcdefghijklmnop1234",
    "forge token": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "hub token": "hf_abcdefghijklmnopqrst",
    "cloud key": "AKIAIOSFODNN7EXAMPLE",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----",
    "cut pem": "-----BEGIN PRIVATE KEY-----\nMIIBVAIBADANBg",
    "address": "https://ann:hunter22@example.org/x",
    "query": "https://example.org/x?access_token=hunter22&page=2",
    "hex": "0123456789abcdef0123456789abcdef",
    "mixed": "Zx81kQ0pLm3vB7nT5rY2wE9u",
}


@pytest.mark.parametrize("name", SECRETS)
def test_texts_that_look_like_secrets(name) -> None:
    text = SECRETS[name]
    shown = redact_text(f"before {text} after")
    assert REDACTED in shown
    assert shown.startswith("before ")
    for part in ("hunter22", "abcdefgh", "MIIB", "dXNl", "IOSF", "c2lnbmF0", "0123456789abcdef", "kQ0pLm3v"):
        assert part not in shown


@pytest.mark.parametrize(
    "text",
    [
        "What is the weather in Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogoch?",
        "3fa85f64-5717-4562-b3fc-2c963f66afa6",
        "/srv/reports/2024/annual_report_final_version_02.txt",
        "2024-05-01T12:00:00.000000+00:00",
        "https://example.org/a/b?page=2&sort=name",
        "12345678901234567890123456789012345",
        "the password is not in here",
    ],
    ids=["long word", "uuid", "path", "time", "address", "digits", "sentence"],
)
def test_plain_texts_stay(text) -> None:
    assert redact_text(text) == text


def test_the_schema_says_what_is_secret() -> None:
    schema = {
        "properties": {
            "a": {"$ref": "#/$defs/hidden"},
            "b": {"type": "array", "items": {"type": "object", "properties": {"c": {"writeOnly": True}}}},
            "d": {"anyOf": [{"type": "null"}, {"type": "string", "format": "password"}]},
            "e": {"type": "string"},
        },
        "additionalProperties": {"format": "password"},
        "$defs": {"hidden": {"format": "password"}, "loop": {"$ref": "#/$defs/loop"}},
    }
    value = {"a": "1", "b": [{"c": "2", "x": "3"}], "d": "4", "e": "5", "f": "6"}
    expected = {"a": REDACTED, "b": [{"c": REDACTED, "x": "3"}], "d": REDACTED, "e": "5", "f": REDACTED}
    assert redact(value, schema) == expected
    assert redact("x", {"$ref": "#/$defs/loop", "$defs": schema["$defs"]}) == "x"
    assert redact({"a": "1"}, ToolDocument("t", parameters=schema).parameters) == {"a": REDACTED}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(json_values, st.text(min_size=1))
def test_whatever_the_arguments_a_line_is_written(tmp_path_factory, value, query) -> None:
    path = tmp_path_factory.mktemp("audit") / "a"
    with AuditLog(path, required=True) as log:
        made = log.record(PendingCall("t", {"value": value}, code=str(value)), YES, query=query)
    (line,) = path.read_text("ascii").splitlines()  # a reader that breaks lines at U+2028 sees one line too
    assert json.loads(line)["tool_id"] == "t"
    assert read_audit(path) == [made]
    assert path.read_bytes().count(b"\n") == 1


def test_size_and_depth_are_bounded(tmp_path) -> None:
    deep: object = "x"
    for _ in range(100):
        deep = [deep]
    value = {"text": "y " * 10**6, "deep": deep, "wide": list(range(10**5)), "big": 10**5000, "object": object()}
    with AuditLog(tmp_path / "a") as log:
        assert log.record(PendingCall("t", value), YES) is not None
    (record,) = read_audit(tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 20_000
    assert record.arguments["text"].endswith(f"[{2 * 10**6} characters]")
    assert len(record.arguments["text"]) < MAX_TEXT + 50
    assert len(record.arguments["wide"]) == MAX_ITEMS + 1
    assert record.arguments["object"] == "[object]"


def test_a_failure_does_not_stop_the_agent(tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("x")
    log = AuditLog(tmp_path / "file" / "audit")
    assert log.record(PendingCall("t"), YES) is None
    assert log.failures == 2
    assert "expected to write an audit record" in caplog.text

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no")

    log = AuditLog(tmp_path / "a")
    assert log.record(PendingCall("t"), YES, query="q", outcome=Odd()) is None  # type: ignore[arg-type]
    assert log.record(PendingCall("t"), YES, seconds=float("nan"), score=float("inf")) is not None
    assert log.failures == 1


def test_required_raises(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError):
        AuditLog(tmp_path / "file" / "audit", required=True)
    log = AuditLog(tmp_path / "a", required=True)
    log.close()
    Path(tmp_path / "a").unlink()
    (tmp_path / "a").mkdir()
    with pytest.raises(ArtifactError, match="audit record"):
        log.record(PendingCall("t"), YES)
    with pytest.raises(ConfigError):
        AuditLog(tmp_path / "b", required="yes")  # type: ignore[arg-type]


def test_a_full_disk_is_a_failure() -> None:
    log = AuditLog("/dev/full")
    assert log.record(PendingCall("t"), YES) is None
    assert log.failures == 1


def test_a_line_break_in_a_value_makes_no_line(tmp_path) -> None:
    forged = '\n{"time":"now","tool_id":"forged","allowed":true}\n'
    with AuditLog(tmp_path / "a") as log:
        log.record(PendingCall(forged, {forged: forged}, forged, forged, None, forged), YES, outcome=forged)
    assert [r.tool_id for r in read_audit(tmp_path / "a")] == [forged]


@pytest.mark.parametrize("line", ["x", "[]", '{"time": "t", "other": 1}', "{}", "\\xff"])
def test_reader_names_the_bad_line(tmp_path, line, caplog) -> None:
    with AuditLog(tmp_path / "a") as log:
        log.record(PendingCall("t"), YES)
        with (tmp_path / "a").open("a") as file:
            file.write(line + "\n\n")
        log.record(PendingCall("u"), YES)
    with pytest.raises(DataError, match=":2:"):
        read_audit(tmp_path / "a")
    assert [r.tool_id for r in read_audit(tmp_path / "a", strict=False)] == ["t", "u"]
    assert "1 lines" in caplog.text
    with pytest.raises(ArtifactError):
        read_audit(tmp_path / "none")


def test_hostile_texts_take_no_time() -> None:
    for text in ("a" * 10**5, "eyJ" * 30_000, "-----BEGIN PRIVATE KEY-----" * 3000, "token=" * 20_000, "://" * 30_000):
        redact({"x": text})
