"""Documents and queries in, the rows of retrieval training as plain data out.

Rows are lists of dictionaries of text, so that ``datasets.Dataset.from_list`` takes them as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.errors import UnknownToolError


class RetrievalRow(TypedDict):
    """One sample of retrieval training: the query, and the code text of one relevant tool."""

    prompt: str
    completion: str


def retrieval_rows(queries: Iterable[ToolQuery], code_text: Mapping[str, str]) -> list[RetrievalRow]:
    """Make the rows of retrieval training (paper section 4.2): one for each pair of query and relevant tool.

    Args:
        queries: Labelled queries. One without tools gives no row.
        code_text: Tool id -> code sequence as text (``"<a_12><b_7><c_3><d_40>"``).

    Returns:
        Rows ``{"prompt", "completion"}`` in query order, then label order.

    Raises:
        UnknownToolError: A label is not in ``code_text``; the nearest names are suggested.
    """
    rows: list[RetrievalRow] = []
    for query in queries:
        for tool in query.tools:
            if tool not in code_text:
                raise UnknownToolError(tool, code_text)
            rows.append({"prompt": query.text, "completion": code_text[tool]})
    return rows


def document_prompts(document: ToolDocument) -> list[str]:
    """Give texts of a document that may stand for a query: its name in words, its description, each sentence of it.

    Rows made of them teach a model tools that no training query asks for. They are not in the paper.

    Returns:
        Distinct texts, none empty.
    """
    words = " ".join(document.name.replace("_", " ").replace("/", " ").split()) or document.name
    description = " ".join(document.description.split())
    sentences = [sentence.strip() for sentence in description.split(". ")]
    texts = [words, description, *sentences, f"{words}: {description}" if description else ""]
    return [text for text in dict.fromkeys(texts) if text]
