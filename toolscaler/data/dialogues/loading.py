"""Dialogues from files or memory: any known format in, trajectories with a report out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from toolscaler.data.dialogues.api_bank import ApiBankReader
from toolscaler.data.dialogues.base import Branches, DialogueReader, Reading
from toolscaler.data.dialogues.conversations import ToolGenReader, ToolLlamaReader
from toolscaler.data.dialogues.glaive import GlaiveReader
from toolscaler.data.dialogues.messages import OpenAIMessagesReader, OwnReader
from toolscaler.data.dialogues.names import NameMatches, catalogue_aliases
from toolscaler.data.dialogues.sequences import NestfulReader, SealToolsReader, UltraToolReader
from toolscaler.data.dialogues.toolalpaca import ToolAlpacaReader
from toolscaler.data.dialogues.toolbench import ToolBenchAnswerReader
from toolscaler.data.dialogues.toolrl import ToolRLReader
from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.base import OnError, ProblemLog, RowProblem
from toolscaler.data.sources.opening import Record, Source, suffix_of
from toolscaler.data.trajectories import Trajectory
from toolscaler.data.trajectory_lists import OnUnknown, TrajectoryList, TrajectoryReport, resolve_tools
from toolscaler.errors import AmbiguousSourceError, ConfigError, DataError

logger = logging.getLogger(__name__)

_READERS: Mapping[str, DialogueReader] = {
    reader.name: reader
    for reader in (
        ToolBenchAnswerReader(),
        ToolLlamaReader(),
        ToolGenReader(),
        ToolAlpacaReader(),
        ApiBankReader(),
        UltraToolReader(),
        SealToolsReader(),
        NestfulReader(),
        GlaiveReader(),
        ToolRLReader(),
        OpenAIMessagesReader(),
        OwnReader(),
    )
}
#: Formats of dialogues.
TRAJECTORY_FORMATS: tuple[str, ...] = tuple(sorted(_READERS))

_SUFFIXES = frozenset({".json", ".jsonl", ".ndjson"})


@dataclass(frozen=True)
class DialogueReport(TrajectoryReport):
    """What became of a source of dialogues.

    Attributes:
        left_out: What was left out on purpose -> how often: failed paths of search trees, rows that a longer row
            repeats.
        ambiguous: Tool name -> ids it may stand for, for names that stand for several tools of the catalogue. They are
            among ``unknown`` too.
    """

    left_out: Mapping[str, int] = field(default_factory=dict)
    ambiguous: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        left_out = "".join(f", {count} {what} left out" for what, count in self.left_out.items())
        return f"{super().__str__()}{left_out}"


def load_trajectories(
    source: Any,
    format: str | None = None,
    *,
    catalogue: Iterable[ToolDocument | str] | None = None,
    aliases: Mapping[str, str] | None = None,
    on_unknown: OnUnknown = "report",
    branches: Branches = "success",
    split: str = "",
    on_error: OnError = "raise",
) -> TrajectoryList:
    """Read tool-use dialogues.

    The format is found from the content; ``format`` names one of :data:`TRAJECTORY_FORMATS`. What the assistant says
    before a call is the Thought; results become ``tool`` messages. Where a format has no results, calls have none.

    Args:
        source: A file (plain or gzip), a folder of such files (read in name order), parsed rows, one row, or a
            ``datasets.Dataset``.
        format: The format; ``None`` finds it.
        catalogue: Documents or their ids. With it every tool gets its id: a plain name that one document has, or
            ToolBench's standardised spelling; names under ``candidate_tools`` in the metadata stay as they are.
        aliases: Name -> id, for names that differ; they count before the standardised spelling.
        on_unknown: What happens to a trajectory that calls a tool the catalogue lacks: ``"raise"``, ``"report"`` (kept
            and counted) or ``"skip"`` (left out and counted).
        branches: Of search trees, ``"success"`` keeps the paths that give an answer, ``"all"`` the failed ones too,
            with ``win`` in the metadata.
        split: Split of trajectories whose source names none.
        on_error: ``"raise"`` stops at the first bad row; ``"skip"`` leaves bad rows (and, in a folder, bad files) out
            and counts them.

    Returns:
        The trajectories in source order, with a :class:`DialogueReport` as ``report``.

    Raises:
        DataError: Nothing there, no format fits, or a bad row; with file and row.
        AmbiguousSourceError: Several formats fit.
        UnknownToolError: ``on_unknown="raise"`` and a tool is not in the catalogue.
        ConfigError: An argument has a value that is not allowed.
    """
    if format is not None and format not in _READERS:
        raise ConfigError("format", format, f"one of {', '.join(TRAJECTORY_FORMATS)}")
    if branches not in get_args(Branches):
        raise ConfigError("branches", branches, "'success' or 'all'")
    if on_unknown not in get_args(OnUnknown):
        raise ConfigError("on_unknown", on_unknown, "'raise', 'report' or 'skip'")
    log = ProblemLog(on_error)
    reading = Reading(branches, split)
    found: list[Trajectory] = []
    formats: Counter[str] = Counter()
    is_folder = isinstance(source, str | Path) and Path(source).is_dir()
    for opened in _files(Path(source), log) if is_folder else [_open(source)]:
        try:
            reader = _READERS[format or _find_format(opened)]
            for trajectory in _read(opened, reader, reading, log):
                found.append(trajectory)
                formats[reader.name] += 1
        except DataError as error:  # the file as a whole, or a bad row that is raised once more
            if not is_folder:
                raise
            log.add(RowProblem(opened.path, error.line, error.message))
    if not found and not log.problems and not reading.left_out:
        path = source if isinstance(source, str | Path) else None
        raise DataError("expected at least one dialogue, found none", path=path)
    trajectories = TrajectoryList(found, log.report(len(found), what="trajectories", formats=formats))
    return _matched(trajectories, catalogue, aliases or {}, on_unknown, reading.left_out)


def _open(source: Any) -> Source:
    if isinstance(source, str | Path):
        return Source.open(source)
    if isinstance(source, Mapping):
        return Source([source])
    if not isinstance(source, Iterable) or isinstance(source, bytes):
        raise DataError(f"expected a path, rows or a dataset, got {type(source).__name__}")
    return Source(list(source))


def _files(folder: Path, log: ProblemLog) -> Iterator[Source]:
    """Open the files of a folder; what cannot be opened is a problem."""
    for file in sorted(item for item in folder.iterdir() if item.is_file() and suffix_of(item) in _SUFFIXES):
        try:
            yield Source.open(file)
        except DataError as error:
            log.add(RowProblem(file, error.line, error.message))


def _find_format(source: Source) -> str:
    if not source.sample:
        raise DataError("expected at least one row, got none that parses", path=source.path)
    fitting = [name for name in TRAJECTORY_FORMATS if _READERS[name].fits(source)]
    if len(fitting) > 1:
        raise AmbiguousSourceError(fitting, path=source.path)
    if not fitting:
        first = source.sample[0]
        got = f"keys {sorted(map(str, first))}" if isinstance(first, Mapping) else type(first).__name__
        known = "; ".join(f"{name} ({_READERS[name].summary})" for name in TRAJECTORY_FORMATS)
        message = f"no format of dialogues fits, got {got:.200}; choose one with format=...: {known}"
        raise DataError(message, path=source.path)
    return fitting[0]


def _read(source: Source, reader: DialogueReader, reading: Reading, log: ProblemLog) -> Iterator[Trajectory]:
    for record in reader.records(source, reading):
        try:
            if record.error:
                raise DataError(record.error)
            trajectory = reader.trajectory(record, reading)
        except (DataError, RecursionError) as error:
            message = error.message if isinstance(error, DataError) else "expected a dialogue, got too deep a nesting"
            log.add(RowProblem(source.path, source.line_of(record), _numbered(source, record, message)))
        else:
            yield trajectory


def _numbered(source: Source, record: Record, message: str) -> str:
    """Put the number of the row before a message: the line says little where a file has its rows on one line."""
    inside = "/".join(str(part) for part in record.pointer[1:])
    if source.path is None or not record.pointer or not isinstance(record.pointer[0], int):
        return message
    return f"row {record.pointer[0] + 1}{f' ({inside})' if inside else ''}: {message}"


def _matched(
    trajectories: TrajectoryList,
    catalogue: Iterable[ToolDocument | str] | None,
    aliases: Mapping[str, str],
    on_unknown: OnUnknown,
    left_out: Mapping[str, int],
) -> TrajectoryList:
    """Name the tools by their ids, where a catalogue is given, and complete the report."""
    matches = NameMatches()
    if catalogue is not None:
        documents = list(catalogue)
        names = (tool for trajectory in trajectories for tool in trajectory.tools if tool not in aliases)
        matches = catalogue_aliases(_not_plain(names, documents), documents)
        trajectories = resolve_tools(trajectories, documents, {**matches.aliases, **aliases}, on_unknown)
    elif aliases:
        raise ConfigError("aliases", dict(aliases), "none without a catalogue")
    before = trajectories.report
    known = {item.name: getattr(before, item.name) for item in fields(TrajectoryReport)}
    ambiguous = {name: ids for name, ids in matches.ambiguous.items() if name in before.unknown}
    report = DialogueReport(**known, left_out=dict(left_out), ambiguous=ambiguous)
    if left_out:
        logger.info("%s", report)
    return TrajectoryList(trajectories, report)


def _not_plain(names: Iterable[str], documents: Iterable[ToolDocument | str]) -> list[str]:
    """Give the names that are not the plain name of exactly one document: those are understood already."""
    plain = Counter(item.name for item in documents if isinstance(item, ToolDocument))
    return [name for name in dict.fromkeys(names) if plain[name] != 1]
