"""Documents and queries in, training rows as plain data out: the retrieval rows and the compression rows.

Rows are lists of dictionaries of text, so that ``datasets.Dataset.from_list`` takes them as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypedDict

from toolscaler.data.documents import TASK_FIELDS, ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import ConfigError, DataError, UnknownToolError


class RetrievalRow(TypedDict):
    """One sample of retrieval training: the query, and the code text of one relevant tool."""

    prompt: str
    completion: str


class CompressionRow(TypedDict):
    """One document of compression training: its Content text, and the text of each task."""

    tool: str
    content: str
    targets: dict[str, str]


def retrieval_rows(
    queries: Iterable[ToolQuery], code_text: Mapping[str, str], *, prompt: Callable[[str], str] | None = None
) -> list[RetrievalRow]:
    """Make the rows of retrieval training (paper section 4.2): one for each pair of query and relevant tool.

    Args:
        queries: Labelled queries. One without tools gives no row.
        code_text: Tool id -> code sequence as text (``"<a_12><b_7><c_3><d_40>"``).
        prompt: Makes the model input of a query text, for example ``tokenizer.format_retrieval_prompt``; default:
            the text as it is.

    Returns:
        Rows ``{"prompt", "completion"}`` in query order, then label order.

    Raises:
        UnknownToolError: A label is not in ``code_text``; the nearest names are suggested.
    """
    rows: list[RetrievalRow] = []
    for query in queries:
        text = query.text if prompt is None else prompt(query.text)
        for tool in query.tools:
            if tool not in code_text:
                raise UnknownToolError(tool, code_text)
            rows.append({"prompt": text, "completion": code_text[tool]})
    return rows


def compression_rows(
    documents: Iterable[ToolDocument],
    generation_targets: Mapping[str, Mapping[str, str]] | None = None,
    *,
    fields: Iterable[str] = TASK_FIELDS,
) -> list[CompressionRow]:
    """Make the rows of compression training (paper section 4.1): one a document, with its m targets.

    Args:
        documents: Tool documents.
        generation_targets: Tasks whose target the Content does not hold: task name -> tool id -> text, for example
            ``{"query": example_queries(queries)}``. Ids of tools that are not in ``documents`` are no error.
        fields: Document fields to reconstruct, of :data:`~toolscaler.data.documents.TASK_FIELDS`.

    Returns:
        Rows ``{"tool", "content", "targets"}``. ``targets`` has the same keys in the same order in every row:
        ``fields``, then the generation tasks; the text is empty where a document lacks the field or has no target.

    Raises:
        ConfigError: A field is unknown, or a generation task has a field's name.
        DataError: A generation task has a text for none of the documents.
    """
    chosen = tuple(fields)
    generation = dict(generation_targets or {})
    for name in chosen:
        if name not in TASK_FIELDS:
            raise ConfigError("fields", name, f"some of {TASK_FIELDS}")
    for task in generation:
        if task in chosen:
            raise ConfigError("generation_targets", task, f"a task name other than the fields {chosen}")
    rows: list[CompressionRow] = []
    for document in documents:
        fields_text = document.task_targets()
        targets = {name: fields_text[name] for name in chosen}
        targets.update({task: texts.get(document.id, "") for task, texts in generation.items()})
        rows.append({"tool": document.id, "content": document.to_text(), "targets": targets})
    for task in generation:
        if rows and not any(row["targets"][task] for row in rows):
            raise DataError(
                f"generation task {task!r}: expected a text for some of the {len(rows)} documents, got none; "
                "are its keys the ids of the documents?"
            )
    return rows


def example_queries(queries: Iterable[ToolQuery]) -> dict[str, str]:
    """Give one query a tool, as generation target for :func:`compression_rows`.

    Queries with fewer tools say more about each of them, so the first query with the fewest tools is taken.

    Returns:
        Tool id -> query text.
    """
    best: dict[str, tuple[int, str]] = {}
    for query in queries:
        for tool in query.tools:
            if tool not in best or len(query.tools) < best[tool][0]:
                best[tool] = (len(query.tools), query.text)
    return {tool: text for tool, (_, text) in best.items()}
