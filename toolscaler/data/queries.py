"""A user query and the tools that answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolscaler.errors import DataError


@dataclass(frozen=True)
class ToolQuery:
    """One labelled query.

    Attributes:
        text: What the user says. Not empty.
        tools: Ids of every relevant tool (:attr:`toolscaler.data.ToolDocument.id`), each once, in the source's order
            (call order where the source has one). May be empty: no tool fits.
        id: Identifier inside its source; may be empty.
        split: The source's own split (``train``, ``validation``, ``test``, or a finer name such as ``G1_tool``); may
            be empty.
        metadata: Anything else the source says, plain JSON data.

    Raises:
        DataError: The text is empty.
    """

    text: str
    tools: tuple[str, ...] = ()
    id: str = ""
    split: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise DataError("ToolQuery.text: expected a query, got nothing")
        object.__setattr__(self, "tools", tuple(dict.fromkeys(self.tools)))
