"""Contract: Re-Invoke and IterFeedback rank as their steps say, ask once, and lose one answer and no more."""

from __future__ import annotations

import re

import numpy as np
import pytest

from agent.servers import chat_server as script
from toolscaler.agent import ChatAnswer, ChatEndpoint
from toolscaler.data import ToolDocument
from toolscaler.decoding import Retriever, reciprocal_rank_fusion
from toolscaler.errors import ConfigError, DecodingError, EndpointError, EvaluationError, UnknownToolError
from toolscaler.evaluation.baselines import (
    BM25Retriever,
    CachedChat,
    ChatModel,
    IterFeedbackRetriever,
    LocalChatModel,
    ReInvokeRetriever,
    document_text,
)
from toolscaler.evaluation.baselines.chat_models import list_items

DOCUMENTS = [
    ToolDocument(name="convert_length", description="Converts between metres and feet."),
    ToolDocument(name="currency", description="Exchange rates of money."),
    ToolDocument(name="weather", description="Forecast of temperature and precipitation."),
    ToolDocument(name="stations", description="Timetables of railways."),
]
IDS = [document.id for document in DOCUMENTS]
# What the scripted model knows of the tools, and what its users mean.
KNOWS = {
    "metres": ["how tall in feet", "inches please"],
    "Exchange": ["dollars for my euros"],
    "Forecast": ["will it rain tomorrow", "do I need an umbrella"],
    "railways": ["next train to Bergen"],
}


class Words:
    """An encoder that needs no download: which of these words a text has."""

    WORDS = "tall feet inches dollars euros rain tomorrow umbrella train bergen metres money temperature railways"

    def encode(self, texts):
        return [[float(word in re.findall(r"\w+", text.lower())) for word in self.WORDS.split()] for text in texts]


def _said(messages):
    return messages[-1]["content"]


def scripted(messages):
    """A model whose answer depends on what it is asked."""
    text = _said(messages)
    if text.startswith("Below is the documentation"):
        known = next(queries for word, queries in KNOWS.items() if word in text)
        return "Here they are:\n" + "\n".join(f"{place}. {query}" for place, query in enumerate(known, start=1))
    query = text.rpartition("\n\n")[2]
    return "\n".join(f"- {part}" for part in query.split(" and "))


class Direct:
    """A chat model in this process, which fails where it is told to."""

    def __init__(self, answer=scripted, fails=()):
        self.answer, self.fails, self.seen = answer, fails, []

    def __repr__(self):
        return "Direct()"

    def complete(self, messages, *, max_tokens=None):
        self.seen.append(_said(messages))
        if any(word in _said(messages) for word in self.fails):
            raise EndpointError("no luck", kind="timeout")
        return ChatAnswer(content=self.answer(messages))


@pytest.fixture
def connect():
    """Give ``connect(answer, *first)`` -> (server, endpoint)."""
    opened = []

    def made(answer, *first):
        server = script.ChatServer(*first, model=lambda request: script.text(answer(request["messages"])))
        endpoint = ChatEndpoint(server.url, "tiny", api_key=lambda: script.KEY, retry_delay=0.001, timeout=20.0)
        opened.extend([server, endpoint])
        return server, endpoint

    yield made
    for item in reversed(opened):
        item.__exit__(None, None, None)


def _names(rankings):
    return [[tool.name for tool in ranking] for ranking in rankings]


@pytest.mark.parametrize("views", ["mean", "max"])
def test_re_invoke_is_its_steps(views):
    retriever = ReInvokeRetriever(DOCUMENTS, Words(), Direct(), views=views)
    assert isinstance(retriever, Retriever)
    assert retriever.synthetic == dict(zip(IDS, KNOWS.values(), strict=True))
    queries = ["will it rain and the train to Bergen", "inches", "euros and metres and umbrella"]
    assert retriever.intents(queries)[0] == ["will it rain", "the train to Bergen"]
    for query, ranking in zip(queries, retriever.retrieve(queries, 4), strict=True):
        best = {}
        for intent in query.split(" and "):
            point = np.array(Words().encode([intent])[0])
            similarity = {}
            for document, made in zip(DOCUMENTS, KNOWS.values(), strict=True):
                vectors = np.array(Words().encode([f"{document_text(document)}\n{query}" for query in made]))
                cosines = vectors @ point / np.linalg.norm(vectors, axis=1) / np.linalg.norm(point)
                similarity[document.id] = cosines.max() if views == "max" else cosines.mean()
            order = sorted(IDS, key=lambda name: -similarity[name])
            for rank, name in enumerate(order, start=1):
                score = (1 + similarity[name]) / 2 - rank
                best[name] = max(best.get(name, -99), score)
        assert [tool.score for tool in ranking] == pytest.approx(sorted(best.values(), reverse=True), abs=1e-5)
        assert all(tool.score == pytest.approx(best[tool.name], abs=1e-5) for tool in ranking)
    assert {tool.name for tool in retriever.retrieve(queries[0], 2)[0]} == {"weather", "stations"}
    assert retriever.failures == []


def test_re_invoke_without_its_model_is_the_encoder():
    chat = Direct()
    plain = ReInvokeRetriever(DOCUMENTS, Words(), chat, num_queries=0, max_intents=0)
    assert chat.seen == []
    assert plain.retrieve("metres", 1)[0][0].name == "convert_length"
    # The premise of the rest: words of the synthetic queries are in no document.
    assert plain.retrieve("umbrella", 1)[0][0].name == "convert_length"
    assert ReInvokeRetriever(DOCUMENTS, Words(), chat).retrieve("umbrella", 1)[0][0].name == "weather"


def test_re_invoke_over_http_and_its_cache(connect, tmp_path):
    server, endpoint = connect(scripted, script.status(503))
    retriever = ReInvokeRetriever(DOCUMENTS, Words(), endpoint, cache=tmp_path / "answers.db")
    found = retriever.retrieve(["umbrella and train", "euros"], 2)
    assert next(set(names) for names in _names(found)) == {"stations", "weather"}
    assert found[1][0].name == "currency"
    assert len(server.requests) == 7  # one was refused and asked again
    again = ReInvokeRetriever(DOCUMENTS, Words(), endpoint, cache=tmp_path / "answers.db")
    assert again.retrieve(["umbrella and train", "euros"], 2) == found
    assert len(server.requests) == 7
    assert again.chat.num_asked == 0
    again.retrieve("something new", 1)
    assert len(server.requests) == 8
    assert "tiny" in again.settings["chat"]
    assert script.KEY.encode() not in (tmp_path / "answers.db").read_bytes()
    # Another temperature is another model.
    warm = ChatEndpoint(server.url, "tiny", api_key=lambda: script.KEY, options={"temperature": 1.0})
    with warm:
        ReInvokeRetriever(DOCUMENTS, Words(), warm, cache=tmp_path / "answers.db")
    assert len(server.requests) == 12


def test_re_invoke_loses_one_answer_and_no_more(caplog):
    chat = Direct(fails=["railways", "dollars"])
    retriever = ReInvokeRetriever(DOCUMENTS, Words(), chat, max_intents=2)
    assert retriever.synthetic["stations"] == []
    assert retriever.synthetic["weather"]
    assert [(failure.step, failure.item) for failure in retriever.failures] == [("queries", "stations")]
    found = retriever.retrieve(["umbrella", "dollars", "railways"], 1)
    assert _names(found) == [
        ["weather"],
        ["currency"],
        ["stations"],
    ]  # the query is its own intent, the document a view
    assert [failure.item for failure in retriever.failures] == ["stations", "dollars", "railways"]
    assert all("no luck" in failure.error for failure in retriever.failures)
    assert "2 of 3 answers (intents) failed" in caplog.text
    assert retriever.settings["failures"] == 3
    # An answer without an item is a failure too; failures are asked for again, for they are not kept.
    chat.fails = ()
    assert retriever.intents(["dollars"]) == [["dollars"]]
    assert len(retriever.failures) == 3
    empty = ReInvokeRetriever(DOCUMENTS, Words(), Direct(lambda messages: "Sure, here they are:"))
    assert {failure.error for failure in empty.failures} == {"no item in it"}
    silent = ReInvokeRetriever(DOCUMENTS, Words(), Direct(lambda messages: "<think>so</think> "))
    assert "expected an answer in words" in silent.failures[0].error


@pytest.mark.parametrize("code", [401, 404])
def test_an_endpoint_that_refuses_everybody(connect, code):
    _, endpoint = connect(scripted, *[script.status(code)] * 9)
    with pytest.raises(EndpointError) as caught:
        ReInvokeRetriever(DOCUMENTS, Words(), endpoint)
    assert caught.value.status == code


def test_requests_and_settings_of_re_invoke():
    retriever = ReInvokeRetriever(DOCUMENTS, Words(), Direct())
    assert retriever.retrieve([], 3) == []
    inside = retriever.retrieve("umbrella and train", 4, tools=["currency", "stations"])
    assert _names(inside) == [["stations", "currency"]]
    with pytest.raises(UnknownToolError):
        retriever.retrieve("x", tools=["nothing"])
    with pytest.raises(ConfigError, match="top_k"):
        retriever.retrieve("x", 0)
    for key, value in (("num_queries", -1), ("max_intents", True), ("views", "sum"), ("chat", object())):
        with pytest.raises(ConfigError, match=key):
            ReInvokeRetriever(DOCUMENTS, Words(), **{"chat": Direct(), key: value})
    with pytest.raises(ConfigError, match="cache"):
        ReInvokeRetriever(DOCUMENTS, Words(), CachedChat(Direct()), cache="x.db")
    for key in ("max_tokens", "max_parallel"):
        with pytest.raises(ConfigError, match=key):
            CachedChat(Direct(), **{key: 0})


# What users say -> how the model words it after reading what was found.
REWORDS = {"brolly weather?": "Refined request: forecast of precipitation", "cash": "exchange rates of money"}


def feedback(messages):
    query = _said(messages).split("\n")[1]
    shown = re.findall(r"^1\. (\S+):", _said(messages), re.MULTILINE)
    wanted = {"brolly weather?": "weather", "cash": "currency", "railways": "stations"}[query]
    return "Done." if shown == [wanted] else REWORDS[query]


def test_iter_feedback_refines_until_done():
    chat = Direct(feedback)
    bm25 = BM25Retriever(DOCUMENTS[:2] + DOCUMENTS[3:] + DOCUMENTS[2:3])
    retriever = IterFeedbackRetriever(bm25, DOCUMENTS, chat, num_rounds=3)
    assert isinstance(retriever, Retriever)
    queries = ["cash", "railways"]
    assert _names(bm25.retrieve(queries, 1)) == [[], ["stations"]]  # the premise
    found = retriever.retrieve(queries, 2)
    assert _names(found) == [["currency"], ["stations"]]
    assert retriever.refined == {"cash": ["exchange rates of money"], "railways": []}
    assert len(chat.seen) == 3  # first round: two queries; second: the one that was not done
    assert "nothing" in chat.seen[0]
    assert any("1. currency: Exchange rates of money." in text for text in chat.seen)
    # A label before the request is no part of it, and the cache knows all of this.
    assert _names(retriever.retrieve(["brolly weather?"], 1)) == [["weather"]]
    asked = len(chat.seen)
    assert retriever.retrieve(queries, 2) == found
    assert len(chat.seen) == asked


def test_iter_feedback_counts_rounds_and_combines():
    endless = Direct(lambda messages: f"metres {len(re.findall('rail', _said(messages)))} money")
    bm25 = BM25Retriever(DOCUMENTS)
    one = IterFeedbackRetriever(bm25, DOCUMENTS, endless, num_rounds=1)
    assert len(one.retrieve("railways", 4)) == 1
    assert one.refined == {"railways": ["metres 2 money"]}
    last = bm25.retrieve("metres 2 money", 4)[0]
    assert one.retrieve("railways", 4)[0] == last
    fused = IterFeedbackRetriever(bm25, DOCUMENTS, endless, num_rounds=1, combine="fuse")
    rounds = [bm25.retrieve("railways", 10)[0], bm25.retrieve("metres 2 money", 10)[0]]
    assert fused.retrieve("railways", 4)[0] == reciprocal_rank_fusion(rounds)
    both = IterFeedbackRetriever(bm25, DOCUMENTS, endless, num_rounds=1, keep_query=True)
    both.retrieve("railways", 4)
    assert both.refined == {"railways": ["railways\nmetres 2 money"]}


def test_iter_feedback_over_http_loses_one_answer_and_no_more(connect):
    def answer(messages):
        return "" if "cash" in _said(messages) else feedback(messages)

    server, endpoint = connect(answer)
    bm25 = BM25Retriever(DOCUMENTS)
    retriever = IterFeedbackRetriever(bm25, DOCUMENTS, endpoint)
    found = retriever.retrieve(["brolly weather?", "cash", "railways"], 1)
    assert _names(found) == [["weather"], [], ["stations"]]
    assert [(failure.step, failure.item, failure.instead) for failure in retriever.failures] == [
        ("feedback", "cash", "what round 1 found")
    ]
    assert retriever.settings["failures"] == 1
    assert server.problems == []


def test_requests_and_settings_of_iter_feedback():
    bm25 = BM25Retriever(DOCUMENTS)
    retriever = IterFeedbackRetriever(bm25, DOCUMENTS, Direct(lambda messages: "money"))
    assert retriever.retrieve([], 3) == []
    assert _names(retriever.retrieve("x", 3, tools=iter(["currency", "weather"]))) == [["currency"]]
    with pytest.raises(UnknownToolError):
        retriever.retrieve("x", tools=["nothing"])
    with pytest.raises(EvaluationError, match="the text 'weather'"):
        retriever.retrieve("x", tools="weather")
    with pytest.raises(EvaluationError, match="documents of all tools"):
        IterFeedbackRetriever(bm25, DOCUMENTS[:1], Direct()).retrieve("money", 1)
    for key, value in (("num_rounds", 0), ("num_shown", 0), ("combine", "best"), ("retriever", object())):
        with pytest.raises(ConfigError, match=key):
            IterFeedbackRetriever(**{"retriever": bm25, "documents": DOCUMENTS, "chat": Direct(), key: value})


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("1. a b\n2) c\n(3) d", ["a b", "c", "d"]),
        ("- a\n* b\n• c\n\n", ["a", "b", "c"]),
        ('["a", "b", 3, "a"]', ["a", "b"]),
        ('```json\n["a"]\n```', ["a"]),
        ("[a] first\nsecond", ["[a] first", "second"]),
        ('"quoted"\n“also”', ["quoted", "also"]),
        ("3 apples for 5 people\nI want it", ["3 apples for 5 people", "I want it"]),
        ("Sure, here:\nx", ["x"]),
        ("", []),
    ],
)
def test_lists_as_models_write_them(text, items):
    assert list_items(text) == items


def test_a_local_model_answers_greedily(make_tiny_model, make_tiny_tokenizer):
    template = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    for chat_template in (None, template):
        tokenizer = make_tiny_tokenizer(chat_template=chat_template)
        chat = LocalChatModel(make_tiny_model("llama", tokenizer), tokenizer)
        assert isinstance(chat, ChatModel)
        message = [{"role": "user", "content": "Count the words."}]
        answer = chat.complete(message, max_tokens=6)
        assert answer == chat.complete(message, max_tokens=6)
        assert 0 < answer.tokens <= 6
        # By hand: the most likely token, again and again.
        import torch

        text = "[user] Count the words.\n" if chat_template else "user: Count the words.\nassistant:"
        ids = tokenizer(text)["input_ids"]
        start = len(ids)
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(chat.model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        assert answer.content == tokenizer.decode(ids[start:], skip_special_tokens=True)
    with pytest.raises(DecodingError, match="512 tokens at most"):
        chat.complete([{"role": "user", "content": "words " * 600}])
    other = LocalChatModel(make_tiny_model("llama", tokenizer, seed=1), tokenizer)
    assert repr(other) != repr(chat)  # other weights, other answers: another place in the cache


def test_re_invoke_with_a_local_model(make_tiny_model, make_tiny_tokenizer, tmp_path):
    tokenizer = make_tiny_tokenizer()
    make_tiny_model("llama", tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    chat = CachedChat(LocalChatModel.from_pretrained(tmp_path), max_tokens=8)
    retriever = ReInvokeRetriever(DOCUMENTS, Words(), chat, num_queries=2, max_intents=1)
    found = retriever.retrieve(["umbrella"], 4)
    assert len(found[0]) == 4
    assert found == retriever.retrieve(["umbrella"], 4)
    assert chat.num_asked == 5
    with pytest.raises(ConfigError, match="causal language model"):
        LocalChatModel.from_pretrained(tmp_path / "nothing")
