"""Trajectories as lists with a report: saved as JSON lines, read back, and their tools matched with a catalogue."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from toolscaler._files import atomic_path
from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.base import OnError, ProblemLog, ReadReport, RowProblem
from toolscaler.data.sources.opening import Source
from toolscaler.data.trajectories import FINISH_TOOL, ToolCall, Trajectory
from toolscaler.errors import ConfigError, DataError, UnknownToolError

logger = logging.getLogger(__name__)

#: What happens to a trajectory that calls a tool the catalogue lacks: an error, kept and counted, or left out and
#: counted.
OnUnknown = Literal["raise", "report", "skip"]

_SUGGESTED = 5


@dataclass(frozen=True)
class TrajectoryReport(ReadReport):
    """What became of a source of trajectories.

    Attributes:
        unknown: Tool name -> number of calls, for names that are no tool of the catalogue.
        suggestions: Unknown name -> nearest ids of the catalogue, best first; for the first five.
        affected: Number of trajectories with an unknown tool, whether kept or left out.
    """

    unknown: Mapping[str, int] = field(default_factory=dict)
    suggestions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    affected: int = 0

    def __str__(self) -> str:
        unknown = f", {len(self.unknown)} unknown tools in {self.affected} trajectories" if self.unknown else ""
        return f"{super().__str__()}{unknown}"


class TrajectoryList(list[Trajectory]):
    """A list of trajectories with the report of how it was read.

    Args:
        trajectories: The trajectories.
        report: How they were read; default: all of them, nothing skipped.

    Attributes:
        report: How they were read. Slices and copies are plain lists.
    """

    def __init__(self, trajectories: Iterable[Trajectory] = (), report: ReadReport | None = None) -> None:
        super().__init__(trajectories)
        if report is None:
            report = TrajectoryReport(read=len(self))
        elif not isinstance(report, TrajectoryReport):
            report = TrajectoryReport(report.read, report.skipped, report.problems, report.formats)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return (TrajectoryList, (list(self), self.report))


def save_trajectories(path: str | Path, trajectories: Iterable[Trajectory]) -> None:
    """Write trajectories as JSON lines, one :meth:`~toolscaler.data.Trajectory.to_dict` a line, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for trajectory in trajectories:
            data = trajectory.to_dict()
            try:
                line = json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
            except UnicodeEncodeError:  # half of a surrogate pair: only an escape can say it
                line = json.dumps(data, allow_nan=False).encode("ascii")
            file.write(line + b"\n")


def read_trajectories(path: str | Path, on_error: OnError = "raise") -> TrajectoryList:
    """Read what :func:`save_trajectories` wrote (plain or gzip).

    Args:
        path: The file.
        on_error: ``"raise"`` stops at the first bad line; ``"skip"`` leaves bad lines out and counts them.

    Raises:
        DataError: There is no such file, or a line is no trajectory; with file and line.
    """
    source = Source.open(path)
    log = ProblemLog(on_error)
    found: list[Trajectory] = []
    for record in source.records():
        try:
            if record.error:
                raise DataError(record.error)
            found.append(Trajectory.from_dict(record.data))
        except DataError as error:
            log.add(RowProblem(source.path, source.line_of(record), error.message))
    return TrajectoryList(found, log.report(len(found), what="trajectories", formats={"trajectories": len(found)}))


def resolve_tools(
    trajectories: Iterable[Trajectory],
    catalogue: Iterable[ToolDocument | str],
    aliases: Mapping[str, str] | None = None,
    on_unknown: OnUnknown = "raise",
) -> TrajectoryList:
    """Give the trajectories with every tool named by its id in a catalogue.

    A name is, in this order: an id; a key of ``aliases``; the plain name of exactly one document.
    :data:`~toolscaler.data.FINISH_TOOL` always stays as it is.

    Args:
        trajectories: Trajectories; the report of a :class:`TrajectoryList` is carried on.
        catalogue: The documents, or their ids.
        aliases: Name -> id, for names that differ.
        on_unknown: ``"raise"``: an unknown tool is an error. ``"report"``: the trajectory is kept as it is and the
            name counted. ``"skip"``: the trajectory is left out and the name counted.

    Returns:
        The trajectories in order; ``report.unknown`` has every name that was not found.

    Raises:
        UnknownToolError: ``on_unknown="raise"``, for the first unknown tool; the nearest ids are suggested.
        ConfigError: ``on_unknown`` is none of the three, or an alias leads to no tool of the catalogue.
    """
    if on_unknown not in ("raise", "report", "skip"):
        raise ConfigError("on_unknown", on_unknown, "'raise', 'report' or 'skip'")
    before = trajectories.report if isinstance(trajectories, TrajectoryList) else TrajectoryReport()
    names = _names(catalogue, aliases or {})
    ids = sorted(set(names.values()))
    kept: list[Trajectory] = []
    problems: list[RowProblem] = []
    unknown: Counter[str] = Counter()
    affected = 0
    for number, trajectory in enumerate(trajectories, 1):
        missing = [call.tool for call in trajectory.calls if call.tool not in names]
        if missing and on_unknown == "raise":
            raise UnknownToolError(missing[0], ids)
        unknown.update(missing)
        affected += bool(missing)
        if missing and on_unknown == "skip":
            label = f" {trajectory.id!r}" if trajectory.id else ""
            tools = ", ".join(map(repr, dict.fromkeys(missing)))
            problems.append(RowProblem(None, number, f"trajectory{label}: the catalogue lacks {tools}"))
        else:
            kept.append(_renamed(trajectory, names))
    suggestions = {name: tuple(get_close_matches(name, ids, n=3, cutoff=0.6)) for name in list(unknown)[:_SUGGESTED]}
    report = TrajectoryReport(
        read=len(kept),
        skipped=before.skipped + len(problems),
        problems=(*before.problems, *problems),
        formats=before.formats,
        unknown=dict(unknown),
        suggestions=suggestions,
        affected=affected,
    )
    if unknown:
        logger.warning("%s; the first: %s", report, ", ".join(map(repr, list(unknown)[:_SUGGESTED])))
    return TrajectoryList(kept, report)


def _names(catalogue: Iterable[ToolDocument | str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Map every name that is understood to an id."""
    items = list(catalogue)
    ids = {item if isinstance(item, str) else item.id for item in items}
    plain = Counter(item.name for item in items if isinstance(item, ToolDocument))
    names = {item.name: item.id for item in items if isinstance(item, ToolDocument) and plain[item.name] == 1}
    for alias, target in aliases.items():
        if target not in ids and target != FINISH_TOOL:
            raise ConfigError(f"aliases.{alias}", target, "the id of a tool of the catalogue")
    return {**names, **aliases, **{name: name for name in ids}, FINISH_TOOL: FINISH_TOOL}


def _renamed(trajectory: Trajectory, names: Mapping[str, str]) -> Trajectory:
    if all(names.get(call.tool, call.tool) == call.tool for call in trajectory.calls):
        return trajectory

    def renamed(call: ToolCall) -> ToolCall:
        return replace(call, tool=names.get(call.tool, call.tool))

    messages = tuple(
        replace(message, tool_calls=tuple(map(renamed, message.tool_calls))) if message.tool_calls else message
        for message in trajectory.messages
    )
    return replace(trajectory, messages=messages)
