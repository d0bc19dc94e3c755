"""Systems that ask a chat model: agents that read a list of tools, and the retrieval baselines with an LLM's help."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from toolscaler.experiments.systems import JobContext, LoadedSystem, SystemKind, register_system

if TYPE_CHECKING:
    from collections.abc import Mapping

    from toolscaler.agent.chat_client import ChatEndpoint, KeyProvider
    from toolscaler.agent.executors.base import ToolExecutor
    from toolscaler.agent.planning import Planner

_CHAT = ("model", "base_url", "api_key_env")


def key_from(variable: str) -> KeyProvider | None:
    """Give a function that reads a key from the environment; ``None`` where the variable is not set."""
    return (lambda: os.environ[variable]) if os.environ.get(variable) else None


def endpoint_of(chat: Mapping[str, Any], places: Mapping[str, str]) -> ChatEndpoint:
    """Open the chat model of a job.

    Args:
        chat: ``model`` and ``options``.
        places: ``base_url`` and ``api_key_env``.
    """
    from toolscaler.agent.chat_client import ChatEndpoint

    key = key_from(places["api_key_env"])
    return ChatEndpoint(places["base_url"], chat["model"], api_key=key, options=chat["options"] or None)


def _cache(context: JobContext, name: str) -> str:
    """Give the place of a cache of answers: beside the jobs, since another job may ask the same."""
    return str(context.folder.parents[2] / "cache" / name)


def _re_invoke(context: JobContext) -> LoadedSystem:
    from toolscaler.evaluation.baselines import ReInvokeRetriever

    options = {"encoder": "lsa", **context.options}
    encoder = options.pop("encoder")
    retriever: Any = ReInvokeRetriever(
        context.data.documents,
        encoder,
        endpoint_of(context.spec["chat"], context.places),
        cache=_cache(context, "re_invoke.sqlite"),
        **options,
    )
    return LoadedSystem(retriever, facts={"failed_answers": len(retriever.failures)})


def _iter_feedback(context: JobContext) -> LoadedSystem:
    from toolscaler.evaluation.baselines import IterFeedbackRetriever

    inner = context.load_part("retriever")
    retriever: Any = IterFeedbackRetriever(
        inner.retriever,
        context.data.documents,
        endpoint_of(context.spec["chat"], context.places),
        cache=_cache(context, "iter_feedback.sqlite"),
        **context.options,
    )
    return LoadedSystem(retriever)


def _chat_planner(context: JobContext, setting: str, executor: ToolExecutor) -> Planner:
    from toolscaler.agent.chat_planner import ChatPlanner

    options = dict(context.options)
    tools: Any = context.load_part("retriever").retriever if setting == "retrieval" else "given"
    return ChatPlanner(endpoint_of(context.spec["chat"], context.places), tools=tools, **options)


register_system(
    SystemKind(
        "re_invoke",
        _re_invoke,
        options=(*_CHAT, "encoder", "num_queries", "max_intents", "views", "batch_size"),
        model_options=("encoder",),
        chat=True,
    )
)
register_system(
    SystemKind(
        "iter_feedback",
        _iter_feedback,
        options=(*_CHAT, "num_rounds", "num_shown", "combine", "keep_query"),
        chat=True,
        roles=("retriever",),
    )
)
register_system(
    SystemKind(
        "chat",
        None,
        options=(*_CHAT, "style", "top_k", "system_prompt", "max_tools", "max_answer_tokens", "max_parallel_calls"),
        chat=True,
        planner=_chat_planner,
        roles=("retriever",),
    )
)
