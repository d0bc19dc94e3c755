"""Trajectories in, rows of token ids and labels out, with a report of everything that did not fit."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm.auto import tqdm

from toolscaler.data.documents import ToolDocument
from toolscaler.data.protocol import ACTION, AgentProtocol, Turn, documents_by_id, trajectory_turns
from toolscaler.data.trajectories import Trajectory
from toolscaler.errors import ConfigError, TrainingError
from toolscaler.tokenization.conversations import ConversationEncoder, EncodedConversation

if TYPE_CHECKING:
    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100

#: What happens to a trajectory that is too long:
#:
#: - ``drop_turns``: its first steps go, as many as needed; query and last step stay;
#: - ``drop_documentation``: the documentation of its first calls goes, as much as needed;
#: - ``shorten_results``: its longest results are cut to one length;
#: - ``left``: its first tokens go; what is left of a cut turn does not count in the loss;
#: - ``skip``: it is left out;
#: - ``raise``: it is an error.
#:
#: Where the first three do not help, the trajectory is left out; no way ever cuts the last turn of the assistant.
Truncation = Literal["drop_turns", "drop_documentation", "shorten_results", "left", "skip", "raise"]

_FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})
_PART = 1000


@dataclass(frozen=True)
class RowsReport:
    """What became of trajectories.

    Attributes:
        trajectories: How many came.
        rows: How many became rows.
        tokens: Tokens of all rows.
        trained_tokens: Tokens that count in the loss.
        longest: Tokens of the longest row.
        truncated: Rows that were shortened to fit.
        dropped_steps: Steps that went with ``drop_turns``.
        dropped_documents: Documentations that went with ``drop_documentation``.
        shortened_results: Results that were cut with ``shorten_results``.
        dropped_tokens: Tokens that counted in the loss before rows were shortened and are not there any more.
        missing_results: Calls without a result, which show as left out.
        changed_thoughts: Thoughts that held a mark of the protocol, which was taken apart.
        skipped: Number of each trajectory (from 0) that is no row -> why.
    """

    trajectories: int = 0
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    truncated: int = 0
    dropped_steps: int = 0
    dropped_documents: int = 0
    shortened_results: int = 0
    dropped_tokens: int = 0
    missing_results: int = 0
    changed_thoughts: int = 0
    skipped: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.rows} of {self.trajectories} trajectories became rows, {self.truncated} of them shortened "
            f"(steps dropped {self.dropped_steps}, documentations {self.dropped_documents}, results cut "
            f"{self.shortened_results}, trained tokens lost {self.dropped_tokens}), {len(self.skipped)} left out"
        )


@dataclass(frozen=True)
class TrajectoryRows:
    """Rows and what they were made of.

    Attributes:
        dataset: ``input_ids`` and ``labels``, lists of int32; labels are -100 where a token does not count.
        report: Counts.
        sources: For each row, the number of its trajectory.
    """

    dataset: Dataset
    report: RowsReport
    sources: tuple[int, ...]


@dataclass
class _Row:
    """A trajectory on its way to a row."""

    conversation: EncodedConversation
    lost: Counter[str] = field(default_factory=Counter)


def trajectory_rows(
    trajectories: Iterable[Trajectory],
    tokenizer: ToolscalerTokenizer,
    documents: Iterable[ToolDocument] | Mapping[str, ToolDocument],
    *,
    max_length: int | None = 6144,
    truncation: Truncation = "drop_turns",
    protocol: AgentProtocol | None = None,
    train_failed_calls: bool = True,
) -> TrajectoryRows:
    """Make the rows of trajectory training (paper section 4.2): one a trajectory, loss on the assistant's tokens only.

    Args:
        trajectories: Trajectories whose tools are ids of the catalogue (:func:`toolscaler.data.resolve_tools`).
        tokenizer: Tokenizer with codes for every tool, :data:`~toolscaler.data.FINISH_TOOL` among them.
        documents: The catalogue; a tool's documentation stands after its codes.
        max_length: Longest row, in tokens (paper: 6,144); ``None``: no limit.
        truncation: What happens to longer ones (:data:`Truncation`).
        protocol: Text form; default: :class:`~toolscaler.data.protocol.AgentProtocol`.
        train_failed_calls: Whether the arguments of calls whose result is an error count in the loss (paper: all of
            the assistant's tokens do).

    Returns:
        The rows, which ``SFTTrainer`` takes as they are, with a report. What was cut or left out is logged too.

    Raises:
        UnknownToolError: A trajectory calls a tool without codes or without a document.
        TrainingError: There are no trajectories, none became a row, or one is too long with ``truncation="raise"``.
        ConfigError: ``truncation`` or ``max_length`` has a value that is not allowed.
        TokenizationError: The chat template cannot be used (:class:`~toolscaler.tokenization.ConversationEncoder`).
    """
    if truncation not in get_args(Truncation):
        raise ConfigError("truncation", truncation, f"one of {', '.join(get_args(Truncation))}")
    if max_length is not None and max_length < 1:
        raise ConfigError("max_length", max_length, "1 or more, or None")
    maker = _RowMaker(tokenizer, documents_by_id(documents), protocol or AgentProtocol(), train_failed_calls)
    table = _Table()
    sources: list[int] = []
    skipped: dict[int, str] = {}
    counts: Counter[str] = Counter()
    number = -1
    for number, trajectory in enumerate(tqdm(trajectories, "trajectories", disable=None)):
        row = maker.row(trajectory, max_length, truncation, number)
        if isinstance(row, str):
            skipped[number] = row
            continue
        ids, trained = row.conversation.ids, row.conversation.trained
        table.add(ids, [token if counted else IGNORE_INDEX for token, counted in zip(ids, trained, strict=True)])
        sources.append(number)
        counts.update(row.lost)
        counts.update(_facts(trajectory))
        counts.update(tokens=len(ids), trained_tokens=sum(trained))
    report = RowsReport(
        trajectories=number + 1,
        rows=len(sources),
        longest=table.longest,
        skipped=skipped,
        **counts,
    )
    _log(report, max_length, truncation)
    if not sources:
        first = f"; the first: {next(iter(skipped.values()))}" if skipped else ""
        raise TrainingError(f"expected trajectories that become rows, got {number + 1} and no row{first}")
    return TrajectoryRows(table.dataset(), report, tuple(sources))


def first_step_rows(
    trajectories: Iterable[Trajectory],
    tokenizer: ToolscalerTokenizer,
    documents: Iterable[ToolDocument] | Mapping[str, ToolDocument],
    *,
    max_length: int | None = None,
    protocol: AgentProtocol | None = None,
) -> TrajectoryRows:
    """Make rows of trajectories that end after their first call: the shortest way from a query to arguments.

    They may join the rows of retrieval training (not in the paper): a small model learns to copy values out of a query
    where little else stands round it.

    Args:
        trajectories: See :func:`trajectory_rows`.
        tokenizer: Tokenizer with codes for every tool.
        documents: The catalogue.
        max_length: Longest row, in tokens; longer ones are left out.
        protocol: Text form.

    Returns:
        The rows with a report.

    Raises:
        UnknownToolError, TrainingError: See :func:`trajectory_rows`.
    """
    cut = (_until_first_call(trajectory.with_finish()) for trajectory in trajectories)
    return trajectory_rows(
        cut, tokenizer, documents, max_length=max_length, truncation="skip", protocol=protocol, train_failed_calls=False
    )


def _until_first_call(trajectory: Trajectory) -> Trajectory:
    for place, message in enumerate(trajectory.messages):
        if message.tool_calls:
            return replace(trajectory, messages=trajectory.messages[: place + 1])
    return trajectory


class _Table:
    """Rows in packed parts: lists of Python numbers would take ten times the memory."""

    def __init__(self) -> None:
        self.longest = 0
        self._parts: list[Dataset] = []
        self._rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}

    def add(self, input_ids: list[int], labels: list[int]) -> None:
        self.longest = max(self.longest, len(input_ids))
        self._rows["input_ids"].append(input_ids)
        self._rows["labels"].append(labels)
        if len(self._rows["labels"]) == _PART:
            self._close()

    def _close(self) -> None:
        self._parts.append(Dataset.from_dict(self._rows, features=_FEATURES))
        self._rows = {"input_ids": [], "labels": []}

    def dataset(self) -> Dataset:
        if self._rows["labels"]:
            self._close()
        return concatenate_datasets(self._parts)


class _RowMaker:
    def __init__(
        self,
        tokenizer: ToolscalerTokenizer,
        documents: Mapping[str, ToolDocument],
        protocol: AgentProtocol,
        train_failed_calls: bool,
    ) -> None:
        self.encoder = ConversationEncoder(tokenizer, protocol)
        self.documents, self.protocol = documents, protocol
        self.code_text = {name: tokenizer.tool_code_text(name) for name in tokenizer.tool_names}
        self.train_failed_calls = train_failed_calls

    def encode(
        self, trajectory: Trajectory, *, without_documentation: int = 0, result_limit: int | None = None
    ) -> EncodedConversation:
        turns: list[Turn] = trajectory_turns(
            trajectory,
            self.documents,
            self.code_text,
            self.protocol,
            without_documentation=without_documentation,
            result_limit=result_limit,
            train_failed_calls=self.train_failed_calls,
        )
        # What follows the assistant's last turn teaches nothing.
        while turns and turns[-1].role != "assistant":
            turns.pop()
        return self.encoder.encode(turns)

    def row(self, trajectory: Trajectory, max_length: int | None, truncation: Truncation, number: int) -> _Row | str:
        """Give the row of a trajectory, or why there is none."""
        whole = self.encode(trajectory)
        if not any(whole.trained):
            return "the assistant says nothing"
        length = len(whole.ids)
        if max_length is None or length <= max_length:
            return _Row(whole)
        message = f"{length} tokens, expected at most {max_length}"
        if truncation == "raise":
            name = f"{number} ({trajectory.id})" if trajectory.id else number
            raise TrainingError(f"trajectory {name}: {message}; choose another truncation or a larger max_length")
        if truncation == "skip":
            return message
        row = _SHORTEN[truncation](self, trajectory, whole, max_length)
        if row is None or not any(row.conversation.trained):
            return f"{message}, and {truncation} does not make it fit"
        lost = sum(whole.trained) - sum(row.conversation.trained)
        row.lost.update(truncated=1, dropped_tokens=lost)
        return row


def _drop_turns(maker: _RowMaker, trajectory: Trajectory, whole: EncodedConversation, room: int) -> _Row | None:
    for dropped, shorter in enumerate(_without_first_steps(trajectory), 1):
        conversation = maker.encode(shorter)
        if len(conversation.ids) <= room:
            return _Row(conversation, Counter(dropped_steps=dropped))
    return None


def _drop_documentation(maker: _RowMaker, trajectory: Trajectory, whole: EncodedConversation, room: int) -> _Row | None:
    calls = len(trajectory.with_finish().calls)
    fits: Callable[[int], bool] = lambda count: len(maker.encode(trajectory, without_documentation=count).ids) <= room  # noqa: E731
    if not fits(calls):
        return None
    low, high = 0, calls  # low does not fit, high does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return _Row(maker.encode(trajectory, without_documentation=high), Counter(dropped_documents=high))


def _shorten_results(maker: _RowMaker, trajectory: Trajectory, whole: EncodedConversation, room: int) -> _Row | None:
    sizes = [len(message.content) for message in trajectory.messages if message.role == "tool"]
    low, high = 0, max(sizes, default=0)  # low may fit, high does not
    if len(maker.encode(trajectory, result_limit=low).ids) > room:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if len(maker.encode(trajectory, result_limit=middle).ids) <= room:
            low = middle
        else:
            high = middle
    cut = sum(size > low for size in sizes)
    return _Row(maker.encode(trajectory, result_limit=low), Counter(shortened_results=cut))


def _cut_left(maker: _RowMaker, trajectory: Trajectory, whole: EncodedConversation, room: int) -> _Row | None:
    # A start token stays, as in retrieval prompts.
    head = 1 if room > 1 and whole.ids[0] == maker.encoder.tokenizer.bos_token_id else 0
    start = len(whole.ids) - room + head
    trained = list(whole.trained)
    for role, first, last in whole.spans:
        if role == "assistant" and first < start < last:
            trained[start:last] = [False] * (last - start)
    if whole.spans[-1][1] < start:
        return None
    return _Row(EncodedConversation(whole.ids[:head] + whole.ids[start:], trained[:head] + trained[start:]), Counter())


_SHORTEN: Mapping[str, Callable[[_RowMaker, Trajectory, EncodedConversation, int], _Row | None]] = {
    "drop_turns": _drop_turns,
    "drop_documentation": _drop_documentation,
    "shorten_results": _shorten_results,
    "left": _cut_left,
}


def _without_first_steps(trajectory: Trajectory) -> Iterator[Trajectory]:
    """Yield the trajectory without its first step (an assistant message and its results), its first two, and so on."""
    messages = list(trajectory.messages)
    steps = sum(message.role == "assistant" for message in messages)
    for _ in range(steps - 1):
        first = next(place for place, message in enumerate(messages) if message.role == "assistant")
        end = first + 1
        while end < len(messages) and messages[end].role == "tool":
            end += 1
        del messages[first:end]
        yield replace(trajectory, messages=tuple(messages))


def _facts(trajectory: Trajectory) -> Counter[str]:
    last = max((place for place, message in enumerate(trajectory.messages) if message.role == "assistant"), default=0)
    open_steps = [
        sum(result is None for _, result in pairs)
        for message, pairs in zip(trajectory.messages[:last], trajectory.results(), strict=False)
        if pairs and not message.finishes
    ]
    changed = sum(message.role == "assistant" and ACTION in message.content for message in trajectory.messages)
    return Counter(missing_results=sum(open_steps), changed_thoughts=changed)


def _log(report: RowsReport, max_length: int | None, truncation: str) -> None:
    if report.truncated or report.skipped:
        logger.warning("max_length=%s, truncation=%s: %s", max_length, truncation, report)
    if report.missing_results:
        logger.warning("%d calls have no result; their feedback shows as left out", report.missing_results)
