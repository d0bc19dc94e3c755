"""Labelled queries in, training, validation and test part out: as given, by query text, or by tool.

Every split is a function of the *set* of queries and the seed: shuffling the input, or loading it again, changes
nothing. Inside a part the queries keep the order of the input.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from toolscaler.data.queries import ToolQuery
from toolscaler.errors import ConfigError, DataError

#: First word of a source's split name -> part.
_GIVEN_PARTS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "development": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
PART_NAMES: tuple[str, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class QuerySplits:
    """Queries in three parts that share no query text.

    Attributes:
        train: Queries to learn from.
        validation: Queries to stop and choose by; may be empty.
        test: Queries to report on; may be empty.
        validation_tools: Tools held out for validation (``by="tool"`` only), sorted.
        test_tools: Tools held out for test (``by="tool"`` only), sorted.
    """

    train: list[ToolQuery] = field(default_factory=list)
    validation: list[ToolQuery] = field(default_factory=list)
    test: list[ToolQuery] = field(default_factory=list)
    validation_tools: tuple[str, ...] = ()
    test_tools: tuple[str, ...] = ()

    def items(self) -> Iterator[tuple[str, list[ToolQuery]]]:
        """Yield each part's name and queries, ``train`` first."""
        for name in PART_NAMES:
            yield name, getattr(self, name)

    def sizes(self) -> dict[str, int]:
        """Give the number of queries of each part."""
        return {name: len(part) for name, part in self.items()}


def split_queries(
    queries: Iterable[ToolQuery],
    by: Literal["given", "query", "tool"] = "given",
    *,
    test_size: float | int = 0.1,
    validation_size: float | int = 0.0,
    seed: int = 0,
    parts: Mapping[str, str] | None = None,
) -> QuerySplits:
    """Split queries into training, validation and test part.

    - ``by="given"``: as the source says (:attr:`ToolQuery.split`): ``train``, ``validation`` / ``valid`` / ``val`` /
      ``dev`` and ``test`` / ``eval``, also as first word of a finer name (``test_in_domain``); ``parts`` says where
      other names go. Sizes and seed are not used.
    - ``by="query"``: a seeded choice of distinct texts (case and spacing apart). Texts that occur several times,
      for example once per relevant tool, stay together. Sizes count texts.
    - ``by="tool"``: a seeded choice of tools is held out. Every query that names a test tool goes to test, of the
      rest every query that names a validation tool goes to validation: no held-out tool occurs in a training label.
      Sizes count tools. Texts stay together here too; a query without tools goes to training.

    Args:
        queries: The queries.
        by: What must not occur on both sides.
        test_size: A share in [0, 1) or a whole number; a share above 0 holds out at least one.
        validation_size: As ``test_size``.
        seed: Chooses among the splits.
        parts: For ``by="given"``: source split name -> ``"train"``, ``"validation"``, ``"test"`` or ``"drop"``.

    Returns:
        The three parts. Together they are the input (less what ``parts`` drops), and no text occurs in two of them,
        except with ``by="given"``, where the source decides.

    Raises:
        ConfigError: ``by``, a size or a part is not allowed, or nothing is left to train on.
        DataError: ``by="given"``, and a query has no split or one that nobody knows.
    """
    pool = list(queries)
    if by == "given":
        return _split_given(pool, parts or {})
    if parts is not None:
        raise ConfigError("parts", parts, f"None with by={by!r}: the parts are drawn, not given")
    if by == "query":
        return _split_by_query(pool, test_size, validation_size, seed)
    if by == "tool":
        return _split_by_tool(pool, test_size, validation_size, seed)
    raise ConfigError("by", by, "'given', 'query' or 'tool'")


def text_key(text: str) -> str:
    """Give what makes two query texts the same: the words, case and spacing apart."""
    return " ".join(text.split()).casefold()


def _split_given(pool: list[ToolQuery], parts: Mapping[str, str]) -> QuerySplits:
    for name, part in parts.items():
        if part not in (*PART_NAMES, "drop"):
            raise ConfigError(f"parts[{name!r}]", part, "'train', 'validation', 'test' or 'drop'")
    unknown: dict[str, int] = {}
    result = QuerySplits()
    for query in pool:
        first_word = re.split(r"[^a-z]+", query.split.strip().lower(), maxsplit=1)[0]
        goes_to = parts.get(query.split) or _GIVEN_PARTS.get(first_word)
        if goes_to is None:
            unknown[query.split] = unknown.get(query.split, 0) + 1
        elif goes_to != "drop":
            getattr(result, goes_to).append(query)
    if unknown:
        names = ", ".join(f"{name!r} ({count})" for name, count in sorted(unknown.items()))
        raise DataError(
            f"by='given': expected splits such as 'train', 'dev' or 'test', got {names}; say where these queries "
            "go with parts={name: 'train' | 'validation' | 'test' | 'drop'}, or split by='query' or by='tool'"
        )
    return result


def _split_by_query(pool: list[ToolQuery], test_size: float, validation_size: float, seed: int) -> QuerySplits:
    texts = {text_key(query.text) for query in pool}
    test, validation = _draw(texts, test_size, validation_size, seed, what="query texts")

    def part_of(key: str) -> str:
        return "test" if key in test else "validation" if key in validation else "train"

    return _distribute(pool, part_of)


def _split_by_tool(pool: list[ToolQuery], test_size: float, validation_size: float, seed: int) -> QuerySplits:
    tools_of: dict[str, set[str]] = {}
    for query in pool:
        tools_of.setdefault(text_key(query.text), set()).update(query.tools)
    tools = {tool for labels in tools_of.values() for tool in labels}
    test, validation = _draw(tools, test_size, validation_size, seed, what="tools")

    def part_of(key: str) -> str:
        labels = tools_of[key]
        return "test" if labels & test else "validation" if labels & validation else "train"

    result = _distribute(pool, part_of)
    if pool and not result.train:
        raise ConfigError("test_size", test_size, "held-out tools few enough to leave queries to train on")
    return QuerySplits(result.train, result.validation, result.test, tuple(sorted(validation)), tuple(sorted(test)))


def _distribute(pool: list[ToolQuery], part_of: Callable[[str], str]) -> QuerySplits:
    result = QuerySplits()
    for query in pool:
        getattr(result, part_of(text_key(query.text))).append(query)
    return result


def _draw(
    items: set[str], test_size: float, validation_size: float, seed: int, *, what: str
) -> tuple[set[str], set[str]]:
    """Draw the items of the test and of the validation part: the first ones in an order that the seed sets."""
    count = len(items)
    num_test = _resolve_size("test_size", test_size, count)
    num_validation = _resolve_size("validation_size", validation_size, count)
    if count and num_test + num_validation >= count:
        raise ConfigError(
            "test_size + validation_size",
            f"{test_size} + {validation_size}",
            f"less than all {count} {what}, so that some are left to train on",
        )
    # A hash as sort key makes the choice independent of input order, platform and process.
    order = sorted(items, key=lambda item: (_hash(seed, item), item))
    return set(order[:num_test]), set(order[num_test : num_test + num_validation])


def _resolve_size(key: str, size: float, count: int) -> int:
    if isinstance(size, bool) or not isinstance(size, int | float):
        raise ConfigError(key, size, "a share in [0, 1) or a whole number")
    if isinstance(size, int):
        if size < 0:
            raise ConfigError(key, size, "a share in [0, 1) or a whole number of at least 0")
        return size
    if not 0.0 <= size < 1.0:
        raise ConfigError(key, size, "a share in [0, 1) or a whole number")
    return min(count, max(1, round(size * count))) if size > 0 else 0


def _hash(seed: int, item: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{item}".encode("utf-8", "surrogatepass")).digest()
