"""Tool-calling tasks: a query, the tools that may be called and the calls that answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import ToolCall
from toolscaler.errors import DataError, EvaluationError, UnknownToolError
from toolscaler.evaluation.tool_calling.ast_match import Language

#: How predictions are compared with references. ``bfcl``: with accepted values (:func:`ast_match`). The others: with a
#: sequence of calls, whose arguments may name former results in the way of the data set; ``sequence``: they do not.
TOOL_CALL_KINDS: tuple[str, ...] = ("api-bank", "bfcl", "nestful", "seal-tools", "sequence", "ultratool")

#: What right behaviour is: the accepted calls; no call at all; or any call.
Expected = Literal["calls", "none", "some"]


@dataclass(frozen=True)
class AcceptedCalls:
    """What BFCL accepts for one row.

    Attributes:
        functions: The row's function documents, as BFCL has them.
        ground_truth: The accepted calls, as BFCL has them.
        language: Language of the category.
        expected: ``calls``: these; ``none``: the row is irrelevant to every function; ``some``: a function must be
            called, and it is not said which.
    """

    functions: Sequence[Mapping[str, Any]]
    ground_truth: Sequence[Mapping[str, Mapping[str, Sequence[Any]]]] = ()
    language: Language = "python"
    expected: Expected = "calls"


@dataclass(frozen=True)
class ToolCallTask:
    """One task.

    Attributes:
        id: Identifier, unique among the tasks of a set. Not empty.
        query: What is asked: a request, or a dialogue so far.
        calls: The reference calls, in order; ids are labels to which later arguments refer. Of a BFCL task one of the
            accepted answers.
        tools: Ids of the tools that the data set offers for this task; empty: the whole catalogue.
        group: The part of the data set that it belongs to, for break-downs; may be empty.
        system: A system message that belongs to the query; may be empty.
        names: Tool id -> the name that references use, where they differ.
        outputs: Tool name -> number of values that it returns, where references count them (Seal-Tools).
        accepted: Of a BFCL task: what is accepted.

    Raises:
        EvaluationError: The id or the query is empty.
    """

    id: str
    query: str
    calls: tuple[ToolCall, ...] = ()
    tools: tuple[str, ...] = ()
    group: str = ""
    system: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)
    accepted: AcceptedCalls | None = None

    def __post_init__(self) -> None:
        if not self.id or not self.query.strip():
            raise EvaluationError(f"expected a task with an id and a query, got {self.id!r} and {self.query!r:.80}")


@dataclass(frozen=True)
class ToolCallTasks:
    """The tasks of a data set and its tools.

    Attributes:
        name: Name of the data set.
        kind: One of :data:`TOOL_CALL_KINDS`.
        documents: The catalogue, each id once.
        tasks: The tasks, each id once.
        counts: What was left out or merged -> how often.

    Raises:
        DataError: An id occurs twice, or the kind is unknown.
        UnknownToolError: A task offers a tool that is not in the catalogue.
    """

    name: str
    kind: str
    documents: list[ToolDocument]
    tasks: list[ToolCallTask]
    counts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in TOOL_CALL_KINDS:
            raise DataError(f"{self.name}: expected a kind of {', '.join(TOOL_CALL_KINDS)}, got {self.kind!r}")
        ids = {document.id for document in self.documents}
        for what, found in (("document", [item.id for item in self.documents]), ("task", [t.id for t in self.tasks])):
            if len(set(found)) < len(found):
                twice = sorted({id for id in found if found.count(id) > 1})
                raise DataError(f"{self.name}: expected each {what} id once, got {twice[:5]} twice")
        for task in self.tasks:
            for tool in task.tools:
                if tool not in ids:
                    raise UnknownToolError(tool, ids)

    def group(self, name: str) -> list[ToolCallTask]:
        """Give the tasks of one group.

        Raises:
            DataError: No task belongs to it; the error names the groups there are.
        """
        found = [task for task in self.tasks if task.group == name]
        if not found:
            groups = list(dict.fromkeys(task.group for task in self.tasks))
            raise DataError(f"{self.name}: expected one of the groups {groups}, got {name!r}")
        return found

    def offered(self, task: ToolCallTask) -> list[ToolDocument]:
        """Give the documents that a task offers: its own tools, or the whole catalogue."""
        if not task.tools:
            return list(self.documents)
        wanted = set(task.tools)
        return [document for document in self.documents if document.id in wanted]
