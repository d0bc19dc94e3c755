"""Messages in, text of a chat model out, each asked for once; one that fails is an error in its place and no other."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tqdm.auto import tqdm

from toolscaler.agent.chat_answers import ChatAnswer
from toolscaler.errors import ArtifactError, ConfigError, DecodingError, EndpointError, ToolscalerError
from toolscaler.evaluation.baselines.cache import ContentCache, content_key

logger = logging.getLogger(__name__)

Messages = Sequence[Mapping[str, Any]]

#: Statuses that say that nobody will be answered: a wrong key or address, no money.
_HOPELESS = frozenset({401, 402, 403, 404, 405})
_THOUGHT = re.compile(r"<think>.*?</think>|^.*?</think>", re.DOTALL)
# What stands before an item of a list: a bullet, a number, a letter in brackets.
_MARK = re.compile(r"^\s*(?:[-*•–]|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)](?=\s))\s*")


@runtime_checkable
class ChatModel(Protocol):
    """Whatever answers messages: :class:`toolscaler.agent.ChatEndpoint`, :class:`LocalChatModel`, or your own."""

    def complete(self, messages: Messages, *, max_tokens: int | None = None) -> ChatAnswer:
        """Give one answer.

        Args:
            messages: Messages with ``role`` and ``content``.
            max_tokens: Tokens of the answer at most.

        Raises:
            ToolscalerError: No usable answer came.
        """
        ...


class LocalChatModel:
    """A causal LM in this process as chat model; greedy, so that the same messages get the same answer.

    Args:
        model: Causal LM in evaluation mode.
        tokenizer: Its tokenizer. Without a chat template messages are written one after another as ``role: content``.
        name: Name for caches and results.

    Attributes:
        name: As given, and a fingerprint of the weights.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = "local") -> None:
        self.model, self.tokenizer = model, tokenizer
        self.name = f"{name}#{_fingerprint(model)}"
        self._lock = threading.Lock()  # one at a time: a device has no use for more

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> LocalChatModel:
        """Load model and tokenizer from a folder or the Hub.

        Args:
            name_or_path: Folder or repo id.
            **kwargs: More arguments of ``AutoModelForCausalLM.from_pretrained``.

        Raises:
            ConfigError: There is no causal LM.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            model = AutoModelForCausalLM.from_pretrained(str(name_or_path), **kwargs)
            tokenizer = AutoTokenizer.from_pretrained(str(name_or_path))
        except (OSError, ValueError) as error:
            raise ConfigError("name_or_path", str(name_or_path), f"a causal language model: {error}") from error
        return cls(model.eval(), tokenizer, str(name_or_path))

    def __repr__(self) -> str:
        return f"LocalChatModel({self.name!r})"

    def complete(self, messages: Messages, *, max_tokens: int | None = None) -> ChatAnswer:
        """Give one answer.

        Args:
            messages: Messages with ``role`` and ``content``.
            max_tokens: Tokens of the answer at most; default: 256.

        Raises:
            DecodingError: The messages leave no room for an answer.
        """
        import torch

        room = 256 if max_tokens is None else max_tokens
        tokenizer = self.tokenizer
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            lines = [f"{message['role']}: {message['content']}" for message in messages]
            ids = tokenizer("\n".join([*lines, "assistant:"]))["input_ids"]
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(longest, int) and len(ids) + room > longest:
            raise DecodingError(
                f"expected messages and answer of {longest} tokens at most, got {len(ids)} and {room}; shorten one"
            )
        given = torch.tensor([ids], device=self.model.device)
        with self._lock, torch.no_grad():
            made = self.model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=room,
                do_sample=False,
                num_beams=1,
                pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            )[0, len(ids) :]
        text = tokenizer.decode(made, skip_special_tokens=True)
        reason = "length" if len(made) == room else "stop"
        return ChatAnswer(content=text, finish_reason=reason, tokens=len(made))


@dataclass(frozen=True)
class FailedAnswer:
    """An answer of a chat model that could not be used, and what was done without it.

    Attributes:
        step: What was asked for: ``queries``, ``intents`` or ``feedback``.
        item: The tool's id or the query.
        error: What is wrong.
        instead: What was used in its place.
    """

    step: str
    item: str
    error: str
    instead: str


class CachedChat:
    """Asks a chat model many things at once, and nothing twice.

    Args:
        model: The model.
        cache: A file that keeps answers (:class:`~toolscaler.evaluation.baselines.ContentCache`), or such a cache;
            ``None``: in memory. Answers are kept by model, its options, messages and length; failures are not kept.
        max_tokens: Tokens of an answer at most.
        max_parallel: Questions on the way at a time.

    Attributes:
        num_asked: Questions that went to the model.

    Raises:
        ConfigError: A setting is out of range, or the model has no ``complete``.
        ArtifactError: The cache cannot be opened.
    """

    def __init__(
        self,
        model: ChatModel,
        cache: str | Path | ContentCache | None = None,
        *,
        max_tokens: int = 256,
        max_parallel: int = 4,
    ) -> None:
        if not isinstance(model, ChatModel):
            raise ConfigError("chat", model, "an object with complete(messages, *, max_tokens)")
        for key, value in (("max_tokens", max_tokens), ("max_parallel", max_parallel)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(key, value, "a whole number above zero")
        self.model, self.max_tokens, self.max_parallel = model, max_tokens, max_parallel
        self.cache = cache if isinstance(cache, ContentCache) else ContentCache(cache)
        # Temperature, seed and so on shape an answer as much as the model does.
        self.identity = f"{model!r} {json.dumps(getattr(model, '_options', {}), sort_keys=True, default=str)}"
        self.num_asked = 0
        self._lock = threading.Lock()

    def ask(self, questions: Sequence[Messages], *, show_progress: bool = False) -> list[str | ToolscalerError]:
        """Give each question's answer, without a model's thoughts, or what went wrong with it.

        Raises:
            EndpointError: The endpoint refuses everybody: a wrong key or address.
            ArtifactError: The cache is damaged.
        """
        keys = [content_key("chat", self.identity, self.max_tokens, list(map(dict, rows))) for rows in questions]
        found: dict[str, str | ToolscalerError] = {
            key: _decoded(value, self.cache.path) for key, value in self.cache.get(keys).items()
        }
        todo = {key: rows for key, rows in zip(keys, questions, strict=True) if key not in found}
        with ThreadPoolExecutor(self.max_parallel) as pool:
            answers = pool.map(self._answer, todo, todo.values())
            progress = tqdm(zip(todo, answers, strict=True), total=len(todo), desc="ask", disable=not show_progress)
            try:
                found.update(progress)
            finally:  # where one raises, those that wait are not asked any more
                pool.shutdown(wait=True, cancel_futures=True)
        return [found[key] for key in keys]

    def _answer(self, key: str, messages: Messages) -> str | ToolscalerError:
        with self._lock:
            self.num_asked += 1
        try:
            answer = self.model.complete(messages, max_tokens=self.max_tokens)
        except ToolscalerError as error:
            if isinstance(error, EndpointError) and (error.kind == "key" or error.status in _HOPELESS):
                raise
            return error
        text = _THOUGHT.sub("", answer.content).strip()
        if not text:
            return EndpointError("expected an answer in words, got none", kind="invalid_response")
        self.cache.put({key: text.encode("utf-8", "replace")})
        return text


def as_cached(chat: ChatModel | CachedChat, cache: str | Path | ContentCache | None) -> CachedChat:
    """Give a model with a cache.

    Raises:
        ConfigError: ``chat`` has a cache already, and another is given.
    """
    if isinstance(chat, CachedChat):
        if cache is not None:
            raise ConfigError("cache", cache, "None: the CachedChat has its own")
        return chat
    return CachedChat(chat, cache)


def list_items(text: str) -> list[str]:
    r"""Read an answer that is a list: a JSON list of texts, or one item a line, with or without bullets.

    Example:
        >>> list_items("Here are two:\n1. Book a flight\n- find hotels\n")
        ['Book a flight', 'find hotels']
    """
    inner = text.strip().removeprefix("```json").strip("`").strip()
    if inner.startswith("["):
        try:
            given = json.loads(inner)
        except (ValueError, RecursionError):
            given = None
        if isinstance(given, list):
            return _clean(item for item in given if isinstance(item, str))
    # A line that ends with a colon announces what follows.
    return _clean(_MARK.sub("", line) for line in inner.splitlines() if not line.rstrip().endswith(":"))


def _clean(items: Any) -> list[str]:
    return list(dict.fromkeys(text for item in items if (text := item.strip().strip("\"'“”").strip())))


def _decoded(value: bytes, path: Path | None) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError("the cache holds something else than texts; delete it to begin anew", path=path) from error


def _fingerprint(model: Any) -> str:
    """Hash shapes and first numbers of all weights: two trainings of one architecture differ in them."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        first = weight.detach().reshape(-1)[:256].float().cpu().numpy()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + first.tobytes())
    return digest.hexdigest()[:16]
