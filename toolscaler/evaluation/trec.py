"""TREC files: rankings and labels out, as run and qrels; run and qrels files in, checked line by line.

A run has lines ``query Q0 tool rank score tag``, a qrels file ``query 0 tool relevance``, columns divided by blanks.
Ids of tools may hold blanks, which these formats cannot say: whitespace, control characters and ``%`` are written as
``%20`` and the like (a percent sign and two hexadecimal digits for each UTF-8 byte), and read back so.

What trec_eval does and these functions guard against: it forgets the rank column, sorts by the score as a 32-bit number
and puts equal scores in the reverse order of their ids. Runs are therefore written with scores that fall strictly.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import unquote

import numpy as np

from toolscaler._files import atomic_path
from toolscaler.decoding.result import RetrievedTool
from toolscaler.errors import ConfigError, DataError, EvaluationError

if TYPE_CHECKING:
    from toolscaler.data.queries import ToolQuery

#: What stands in the score column of a run; see :func:`write_trec_run`.
RunScores = Literal["rank", "model"]

_BLANK = re.compile(r"[\s%\x00-\x1f\x7f]")


def trec_query_ids(queries: Sequence[ToolQuery]) -> list[str]:
    """Give each query an id for TREC files.

    Returns:
        The queries' own ids, if all have one and no two are alike; otherwise ``q1`` to ``qn`` in their order.
    """
    own = [query.id for query in queries]
    return own if all(own) and len(set(own)) == len(own) else [f"q{row + 1}" for row in range(len(own))]


def write_trec_run(
    path: str | Path,
    rankings: Sequence[Sequence[RetrievedTool]],
    query_ids: Sequence[str],
    *,
    tag: str = "toolscaler",
    scores: RunScores = "rank",
) -> None:
    """Write rankings as a TREC run, atomically.

    A tool that comes again in a ranking is dropped, as in the metrics; an empty ranking has no line.

    Args:
        path: File to write.
        rankings: One ranking a query, best first (``EvaluationResult.rankings``).
        query_ids: One id a query, each once; see :func:`trec_query_ids`.
        tag: Name of the system, last column; blanks are escaped.
        scores: ``rank``: whole numbers that fall by one, so that any reader keeps the order, ties of the model
            included; ``model``: the scores of the tools.

    Raises:
        EvaluationError: Ids are missing, repeated or empty; or ``scores`` is ``model`` and a ranking's scores do not
            fall strictly as 32-bit numbers, so that readers would reorder it.
        ConfigError: ``scores`` is unknown.
    """
    if scores not in get_args(RunScores):
        raise ConfigError("scores", scores, f"one of {get_args(RunScores)}")
    ids = _checked_ids(query_ids, len(rankings))
    name = _escaped(tag, "tag")
    lines = []
    for query, ranking in zip(ids, rankings, strict=True):
        first: dict[str, RetrievedTool] = {}
        for tool in ranking:
            first.setdefault(tool.name, tool)
        unique = list(first.values())
        values = [tool.score for tool in unique] if scores == "model" else list(range(len(unique), 0, -1))
        _check_falling(values, query)
        for place, (tool, value) in enumerate(zip(unique, values, strict=True)):
            lines.append(f"{query} Q0 {_escaped(tool.name, 'tool')} {place + 1} {value!r} {name}\n")
    _write(path, lines)


def write_trec_qrels(path: str | Path, queries: Sequence[ToolQuery], query_ids: Sequence[str] | None = None) -> None:
    """Write the labels of queries as TREC qrels with relevance 1, atomically.

    Args:
        path: File to write.
        queries: Labelled queries.
        query_ids: One id a query, each once; default: :func:`trec_query_ids`.

    Raises:
        EvaluationError: A query has no labels, which a qrels file cannot say; or ids are missing, repeated or empty.
    """
    ids = _checked_ids(trec_query_ids(queries) if query_ids is None else query_ids, len(queries))
    bare = [row for row, query in enumerate(queries) if not query.tools]
    if bare:
        raise EvaluationError(
            f"queries: {len(bare)} have no relevant tool (the first is number {bare[0]}); leave them out"
        )
    rows = zip(ids, queries, strict=True)
    _write(path, [f"{name} 0 {_escaped(tool, 'tool')} 1\n" for name, query in rows for tool in query.tools])


def read_trec_run(path: str | Path, *, escaped: bool = True) -> dict[str, tuple[RetrievedTool, ...]]:
    """Read a TREC run.

    Rankings are ordered by score; equal scores keep the order of the rank column, then that of the file (trec_eval
    orders equal scores by id, descending, and so may differ).

    Args:
        path: The file, UTF-8; lines with nothing but blanks are passed over.
        escaped: Whether ``%20`` stands for a blank, as these functions write it.

    Returns:
        Query id -> its tools, best first, with their scores; in the order in which queries first occur.

    Raises:
        DataError: The file cannot be read or is empty; or, with the number of the line: a line has not six columns, a
            rank is no whole number, a score no finite number, a tool comes twice for a query, or a tool of higher score
            has a worse rank.
    """
    found: dict[str, dict[str, tuple[float, int, int]]] = {}
    for line, columns in _lines(path, 6, "query Q0 tool rank score tag", escaped):
        query, _, tool, rank, score, _ = columns
        place = _number(rank, int, "rank: expected a whole number", path, line)
        value = _number(score, float, "score: expected a finite number", path, line)
        if not math.isfinite(value):
            raise DataError(f"score: expected a finite number, got {score!r}", path=path, line=line)
        entry = found.setdefault(query, {})
        if tool in entry:
            raise DataError(
                f"tool {tool!r} comes twice for query {query!r}, first in line {entry[tool][2]}", path=path, line=line
            )
        entry[tool] = (-value, place, line)
    _check_any(found, path)
    run = {}
    for query, entry in found.items():
        ordered = sorted(entry.items(), key=lambda item: item[1])
        for (_, (_, before, _)), (tool, (_, after, line)) in itertools.pairwise(ordered):
            if after < before:
                raise DataError(
                    f"query {query!r}: tool {tool!r} has rank {after} and a score that is not above that of rank "
                    f"{before}; ranks and scores contradict each other",
                    path=path,
                    line=line,
                )
        run[query] = tuple(RetrievedTool(tool, -key[0]) for tool, key in ordered)
    return run


def read_trec_qrels(path: str | Path, *, min_relevance: int = 1, escaped: bool = True) -> dict[str, tuple[str, ...]]:
    """Read TREC qrels; relevance is made binary.

    Args:
        path: The file, UTF-8; lines with nothing but blanks are passed over.
        min_relevance: Least value of the last column that makes a tool relevant.
        escaped: Whether ``%20`` stands for a blank, as these functions write it.

    Returns:
        Query id -> ids of its relevant tools, in the order of the file. A query all of whose tools were judged not to
        be relevant has none; such queries have no metrics and are to be left out.

    Raises:
        DataError: The file cannot be read or is empty; or, with the number of the line: a line has not four columns, a
            relevance is no whole number, or a tool was judged twice for a query.
    """
    found: dict[str, dict[str, tuple[bool, int]]] = {}
    for line, (query, _, tool, relevance) in _lines(path, 4, "query 0 tool relevance", escaped):
        value = _number(relevance, int, "relevance: expected a whole number", path, line)
        entry = found.setdefault(query, {})
        if tool in entry:
            raise DataError(
                f"tool {tool!r} was judged twice for query {query!r}, first in line {entry[tool][1]}",
                path=path,
                line=line,
            )
        entry[tool] = (value >= min_relevance, line)
    _check_any(found, path)
    return {query: tuple(tool for tool, (yes, _) in entry.items() if yes) for query, entry in found.items()}


def run_rankings(
    run: Mapping[str, Sequence[RetrievedTool]], query_ids: Sequence[str]
) -> list[tuple[RetrievedTool, ...]]:
    """Bring a run into the order of queries.

    Args:
        run: What :func:`read_trec_run` gave.
        query_ids: Ids of the queries, in the order wanted.

    Returns:
        One ranking a query; empty for a query that the run lacks, which counts as a miss (trec_eval leaves such queries
        out unless it is called with ``-c``).

    Raises:
        EvaluationError: The run has queries that are not asked for, or none of those that are.
    """
    known = set(query_ids)
    stray = [query for query in run if query not in known]
    if stray or not known.intersection(run):
        raise EvaluationError(
            f"run: expected queries such as {list(query_ids)[:2]}, got {len(stray)} others such as {stray[:2]}; use "
            "the qrels file of the same queries"
        )
    return [tuple(run.get(query, ())) for query in query_ids]


def _lines(path: str | Path, width: int, form: str, escaped: bool) -> Iterator[tuple[int, list[str]]]:
    """Give number and columns of each line that is not blank."""
    try:
        with Path(path).open("rb") as file:
            for number, raw in enumerate(file, start=1):
                columns = raw.split()
                if columns and len(columns) != width:
                    raise DataError(f"expected {width} columns ({form}), got {len(columns)}", path=path, line=number)
                if columns:
                    yield number, [_read_column(column, escaped, path, number) for column in columns]
    except OSError as error:
        raise DataError(f"expected a TREC file here, it cannot be read: {error}", path=path) from error


def _read_column(column: bytes, escaped: bool, path: str | Path, line: int) -> str:
    try:
        text = column.decode("utf-8")
        return unquote(text, errors="strict") if escaped and "%" in text else text
    except UnicodeDecodeError as error:
        raise DataError(f"expected UTF-8, got {column!r:.80}", path=path, line=line) from error


def _number(text: str, kind: Any, expected: str, path: str | Path, line: int) -> Any:
    try:
        if "_" in text:  # Python's own notation, nobody else's
            raise ValueError
        return kind(text)
    except ValueError:
        raise DataError(f"{expected}, got {text!r:.80}", path=path, line=line) from None


def _check_any(found: Mapping[str, Any], path: str | Path) -> None:
    if not found:
        raise DataError("expected at least one line, the file is empty", path=path)


def _check_falling(values: Sequence[float], query: str) -> None:
    try:
        column = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise EvaluationError(f"query {query}: expected scores that are numbers, got {values!r:.80}") from None
    if not np.isfinite(column).all() or (np.diff(column) >= 0).any():
        raise EvaluationError(
            f"query {query}: expected finite scores that fall strictly as 32-bit numbers, got {values!r:.80}; readers "
            "would order equal ones anew: write scores='rank'"
        )


def _checked_ids(query_ids: Sequence[str], count: int) -> list[str]:
    ids = list(query_ids)
    if isinstance(query_ids, str) or len(ids) != count:
        raise EvaluationError(f"query_ids: expected one id for each of {count} queries, got {len(ids)}")
    twice = [name for name, times in Counter(ids).items() if times > 1]
    if twice:
        raise EvaluationError(f"query_ids: expected each once, {twice[0]!r} comes {Counter(ids)[twice[0]]} times")
    return [_escaped(name, "query_ids") for name in ids]


def _escaped(name: str, what: str) -> str:
    if not isinstance(name, str) or not name:
        raise EvaluationError(f"{what}: expected an id, got {name!r}")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise EvaluationError(f"{what}: expected an id that UTF-8 can write, got {name!r}") from None
    return _BLANK.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), name)


def _write(path: str | Path, lines: Iterable[str]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
