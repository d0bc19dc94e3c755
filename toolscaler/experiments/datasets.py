"""A data set's specification goes in, a folder with catalogue, training queries and test sets comes out, with hashes.

Every system of an experiment reads the same folder, so all have the same split. Training sees ``train.jsonl`` and
``validation.jsonl`` alone; the test sets lie in a folder of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from toolscaler._files import atomic_folder, read_json, write_json, write_text
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.splits import split_queries, text_key
from toolscaler.errors import ConfigError, DataError
from toolscaler.experiments.config import patterns, test_set_names
from toolscaler.experiments.specs import DatasetSpec, SplitSpec

# Kept where there are no validation queries: the stages want a part to report on, and it must not be a test set.
_MONITORED = 50
#: Split to train on where a source has no training queries: each tool's own description is a query for it.
DOCUMENTS = "documents"
_DESCRIPTION_WORDS = 40


@dataclass(frozen=True)
class DatasetFolder:
    """A data set as a data job left it.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    @cached_property
    def documents(self) -> list[ToolDocument]:
        """The catalogue, in a fixed order."""
        return [ToolDocument.from_dict(row) for row in _lines(self.folder / "tools.jsonl")]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What ``split.json`` says: counts, hashes, held-out tools, notes."""
        return dict(read_json(self.folder / "split.json", what="the split of a data set"))

    def queries(self, part: str) -> list[ToolQuery]:
        """Give ``train`` or ``validation``."""
        return _queries(self.folder / f"{part}.jsonl")

    def test_set(self, name: str) -> list[ToolQuery]:
        """Give a test set."""
        return _queries(self.folder / "tests" / f"{name}.jsonl")

    @property
    def test_names(self) -> list[str]:
        """Names of the test sets that are not empty, in the order of tables."""
        return [name for name, facts in self.summary["tests"].items() if facts["n"]]

    def domain(self, name: str) -> list[str]:
        """Give the ids of the tools of a test set's domain."""
        return list(read_json(self.folder / "domains.json", what="the domains of the test sets")[name])


def source_digest(spec: DatasetSpec, root: Path) -> str:
    """Give a hash of what a data set is read from: names and content of its files.

    Raises:
        DataError: A file or folder is missing.
    """
    if spec.tools == "starter":
        from toolscaler import __version__

        return f"starter {__version__}"
    places = [_place(root, spec.folder or "") if spec.tools.startswith("bundle:") else _place(root, spec.tools)]
    # Options that name another folder, as those of a bundle may.
    others = [places[0] / value for value in spec.options.values() if isinstance(value, str) and "/" in value]
    places += [other.resolve() for other in others if other.is_dir()]
    places += [_place(root, file) for key, value in spec.queries.items() for file in patterns(value, f"queries.{key}")]
    if spec.trajectories not in (None, "starter"):
        places.append(_place(root, str(spec.trajectories)))
    return hashlib.sha256("\n".join(_digest(str(place)) for place in places).encode()).hexdigest()


def _place(root: Path, name: str) -> Path:
    path = root / name
    if not path.exists():
        raise DataError("expected this file or folder of the experiment's data, found none", path=path)
    return path.resolve()


@lru_cache(maxsize=256)
def _digest(place: str) -> str:
    path = Path(place)
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        with file.open("rb") as opened:
            total.update(f"{name}\0{_stream_digest(opened)}\n".encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def _stream_digest(opened: Any) -> str:
    found = hashlib.sha256()
    while block := opened.read(1 << 20):
        found.update(block)
    return found.hexdigest()


def make_dataset(spec: DatasetSpec, root: Path, share: float, folder: Path) -> dict[str, Any]:
    """Read a data set, take a part of its catalogue, split it, and write all of it.

    Args:
        spec: The data set.
        root: Folder of the data.
        share: Part of the catalogue, above 0 and at most 1. Parts are nested: a smaller one lies in a larger one.
            Queries that name a tool outside the part are left out (paper Appendix E.5).
        folder: Receives ``tools.jsonl``, ``train.jsonl``, ``validation.jsonl``, ``tests/NAME.jsonl``,
            ``domains.json``, ``split.json`` and, with trajectories, ``trajectories.jsonl``.

    Returns:
        What ``split.json`` says.

    Raises:
        DataError: A file is missing or damaged, a label is no tool, or nothing is left to train or test on.
        ConfigError: The split names no split of the source.
    """
    documents, queries, notes = _load(spec, root)
    if spec.split.by == "given":
        _check_names(spec, sorted({query.split for query in queries}))
    documents, queries = _catalogue_part(documents, queries, share, spec)
    train, validation, tests, held_out = _split(spec, queries)
    domains = _domains(spec, queries)
    trajectories = _trajectories(spec, root, documents, notes)
    if trajectories is not None:
        from toolscaler.pipeline.trajectories import with_finish_tool

        documents = with_finish_tool(documents)
    if not train or not any(tests.values()):
        raise DataError(
            f"nothing is left to {'train' if not train else 'test'} on: {len(documents)} tools and {len(queries)} "
            f"labelled queries at a share of {share:g}"
        )
    seen = {tool for query in train for tool in query.tools}
    summary: dict[str, Any] = {
        "tools": len(documents),
        "share": share,
        "queries": len(queries),
        "train": len(train),
        "validation": len(validation),
        "tools_with_training_queries": len(seen),
        "tests": {
            name: {
                "n": len(rows),
                "labels": sum(len(row.tools) for row in rows),
                "unseen_labels": sum(tool not in seen for row in rows for tool in row.tools),
                "domain": len(domains[name]),
                "sha256": _rows_digest(rows),
            }
            for name, rows in tests.items()
        },
        "train_sha256": _rows_digest(train),
        "validation_sha256": _rows_digest(validation),
        "tools_sha256": hashlib.sha256("\n".join(item.content_hash for item in documents).encode()).hexdigest(),
        "unseen_tools": list(held_out),
        "split": asdict(spec.split),
        "notes": notes,
    }
    with atomic_folder(folder) as target:
        _write_lines(target / "tools.jsonl", [document.to_dict() for document in documents])
        _write_lines(target / "train.jsonl", [_row(query, "train") for query in train])
        _write_lines(target / "validation.jsonl", [_row(query, "validation") for query in validation])
        _write_lines(target / "stages.jsonl", _stage_rows(train, validation))
        for name, rows in tests.items():
            _write_lines(target / "tests" / f"{name}.jsonl", [_row(query, query.split) for query in rows])
        if trajectories is not None:
            from toolscaler.data import save_trajectories

            save_trajectories(target / "trajectories.jsonl", trajectories)
        write_json(target / "domains.json", domains, indent=None)
        write_json(target / "split.json", summary)
    return summary


def _load(spec: DatasetSpec, root: Path) -> tuple[list[ToolDocument], list[ToolQuery], dict[str, Any]]:
    """Read tools and labelled queries; queries that no tool answers are counted and left out."""
    from toolscaler.data import load_bundle, load_tool_documents, load_tool_queries

    notes: dict[str, Any] = {}
    if spec.tools == "starter":
        from toolscaler.starter import load_starter_documents, load_starter_queries

        documents, queries = load_starter_documents(), load_starter_queries()
    elif spec.tools.startswith("bundle:"):
        bundle = load_bundle(
            spec.tools.removeprefix("bundle:"), _place(root, spec.folder or ""), **_options(spec.options)
        )
        documents, queries = list(bundle.documents), list(bundle.queries)
        notes["bundle"] = {"counts": dict(bundle.counts), "notes": list(bundle.notes)}
    else:
        read = load_tool_documents(_place(root, spec.tools), format=spec.format, on_error=spec.on_error)
        documents, queries = list(read), []
        notes["skipped_tools"] = read.report.skipped
        for split, files in spec.queries.items():
            for file in patterns(files, f"queries.{split}"):
                rows = load_tool_queries(_place(root, file), spec.query_format, split=split, on_error=spec.on_error)
                queries += [replace(row, split=split) for row in rows]
                notes[f"skipped_queries {file}"] = rows.report.skipped
    queries, dropped = _known_labels(queries, {document.id for document in documents}, spec)
    notes.update(dropped)
    if spec.split.by == "given" and DOCUMENTS in patterns(spec.train, "train"):
        described = _descriptions(documents)
        queries += described
        notes["tools without a description to train on"] = len(documents) - len(described)
    return documents, queries, notes


def _descriptions(documents: Sequence[ToolDocument]) -> list[ToolQuery]:
    """Make a training query of each description: its first words."""
    texts = [(document.id, " ".join(document.description.split()[:_DESCRIPTION_WORDS])) for document in documents]
    return [ToolQuery(text, (tool,), f"{DOCUMENTS}/{tool}", DOCUMENTS) for tool, text in texts if text]


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in options.items()}


def _known_labels(
    queries: Sequence[ToolQuery], names: set[str], spec: DatasetSpec
) -> tuple[list[ToolQuery], dict[str, int]]:
    kept, labels, without = [], 0, 0
    for query in queries:
        known = tuple(tool for tool in query.tools if tool in names)
        if len(known) < len(query.tools):
            if spec.unknown_labels == "raise":
                wrong = next(tool for tool in query.tools if tool not in names)
                raise DataError(
                    f"a label names no tool of the catalogue: {wrong!r} of {query.text!r:.80}; unknown_labels: drop "
                    "leaves such labels out and counts them"
                )
            labels += len(query.tools) - len(known)
        if known:
            kept.append(replace(query, tools=known))
        else:
            without += 1
    return kept, {"unknown_labels_dropped": labels, "queries_without_label": without}


def _catalogue_part(
    documents: list[ToolDocument], queries: list[ToolQuery], share: float, spec: DatasetSpec
) -> tuple[list[ToolDocument], list[ToolQuery]]:
    """Take the first tools, or providers, in an order that the seed sets, so that parts are nested."""
    if share >= 1:
        return documents, queries
    groups: dict[str, list[ToolDocument]] = {}
    for document in documents:
        key = document.provider or document.id if spec.share_by == "provider" else document.id
        groups.setdefault(key, []).append(document)
    wanted, taken = max(1, round(share * len(documents))), set[str]()
    for key in _shuffled(groups, spec.split.seed, "share"):
        if len(taken) >= wanted:
            break
        taken.update(document.id for document in groups[key])
    kept = [query for query in queries if taken.issuperset(query.tools)]
    return [document for document in documents if document.id in taken], kept


def _shuffled(items: Iterable[str], seed: int, what: str) -> list[str]:
    """Order items by a hash, which makes it independent of input order, platform and process."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{what}\0{seed}\0{item}".encode("utf-8", "replace")).digest())


_Parts = tuple[list[ToolQuery], list[ToolQuery], dict[str, list[ToolQuery]], tuple[str, ...]]


def _split(spec: DatasetSpec, queries: list[ToolQuery]) -> _Parts:
    rule = spec.split
    held_out: tuple[str, ...] = ()
    tests: dict[str, list[ToolQuery]] = {}
    if rule.by == "given":
        return _given(spec, queries)
    rest = queries
    if rule.by in ("tool", "both"):
        by_tool = split_queries(rest, "tool", test_size=_size(rule.unseen_tools), seed=rule.seed)
        tests["unseen"], rest, held_out = by_tool.test, by_tool.train, by_tool.test_tools
    if rule.by in ("query", "both"):
        by_query = split_queries(rest, "query", test_size=_size(rule.test_size), seed=rule.seed)
        tests["seen" if rule.by == "both" else "test"], rest = by_query.test, by_query.train
    train, validation = _validation(rest, rule)
    if rule.by == "both":
        tests["seen"], others = _with_trained_tools(tests["seen"], train)
        train = train if rule.max_train_queries is not None else [*train, *others]
    ordered = {name: _limited(tests[name], rule.max_test_queries, rule.seed) for name in test_set_names(spec)}
    return train, validation, ordered, held_out


def _with_trained_tools(
    queries: Sequence[ToolQuery], train: Sequence[ToolQuery]
) -> tuple[list[ToolQuery], list[ToolQuery]]:
    """Part queries into those whose tools all have a training query, and the others; equal texts stay together."""
    trained = {tool for query in train for tool in query.tools}
    lost = {text_key(query.text) for query in queries if not trained.issuperset(query.tools)}
    kept = [query for query in queries if text_key(query.text) not in lost]
    return kept, [query for query in queries if text_key(query.text) in lost]


def _given(spec: DatasetSpec, queries: list[ToolQuery]) -> _Parts:
    def rows_of(value: Any, key: str) -> list[ToolQuery]:
        wanted = patterns(value, key)
        return [query for query in queries if _matches(query.split, wanted)]

    tests = {name: rows_of(value, f"tests.{name}") for name, value in spec.tests.items()}
    texts = {text_key(query.text) for rows in tests.values() for query in rows}
    train = rows_of(spec.train, "train")
    validation = rows_of(spec.validation, "validation") if spec.validation else []
    # Releases that hold the test queries in their training files are known; learning them would be no test.
    train, validation = ([row for row in rows if text_key(row.text) not in texts] for rows in (train, validation))
    tests = {name: _limited(rows, spec.split.max_test_queries, spec.split.seed) for name, rows in tests.items()}
    if not spec.validation:
        train, validation = _validation(train, spec.split)
    else:
        train = _limited(train, spec.split.max_train_queries, spec.split.seed)
    return train, validation, tests, ()


def _check_names(spec: DatasetSpec, names: Sequence[str]) -> None:
    """Check that what names splits of the source finds some; a small part of a catalogue may leave them empty later."""
    named = {"train": spec.train, **{f"tests.{name}": value for name, value in spec.tests.items()}}
    named |= {f"domains.{name}": value for name, value in spec.domains.items()}
    if spec.validation:
        named["validation"] = spec.validation
    for key, value in named.items():
        wanted = patterns(value, key)
        if not any(_matches(name, wanted) for name in names):
            raise ConfigError(key, value, f"splits of the source: {', '.join(names)}")


def _matches(split: str, wanted: Sequence[str]) -> bool:
    return any(split == name or (name.endswith("*") and split.startswith(name[:-1])) for name in wanted)


def _validation(rows: list[ToolQuery], rule: SplitSpec) -> tuple[list[ToolQuery], list[ToolQuery]]:
    rows = _limited(rows, rule.max_train_queries, rule.seed)
    if rule.validation_size <= 0 or len(rows) < 2:
        return rows, []
    parts = split_queries(rows, "query", test_size=0.0, validation_size=_size(rule.validation_size), seed=rule.seed)
    return parts.train, parts.validation


def _size(value: float) -> float | int:
    """Give a share as it is, and a whole number from 1 on as a number of items."""
    return int(value) if value >= 1 and float(value).is_integer() else value


def _limited(rows: list[ToolQuery], limit: int | None, seed: int) -> list[ToolQuery]:
    if limit is None or len(rows) <= limit:
        return rows
    keys = {f"{query.id}\0{query.text}": place for place, query in enumerate(rows)}
    chosen = sorted(keys[key] for key in _shuffled(keys, seed, "limit")[:limit])
    return [rows[place] for place in chosen]


def _domains(spec: DatasetSpec, queries: Sequence[ToolQuery]) -> dict[str, list[str]]:
    every = sorted({tool for query in queries for tool in query.tools})
    found = {}
    for name in test_set_names(spec):
        if name not in spec.domains:
            found[name] = every
            continue
        wanted = patterns(spec.domains[name], f"domains.{name}")
        found[name] = sorted({tool for query in queries if _matches(query.split, wanted) for tool in query.tools})
    return found


def _trajectories(
    spec: DatasetSpec, root: Path, documents: Sequence[ToolDocument], notes: dict[str, Any]
) -> list[Any] | None:
    if spec.trajectories is None:
        return None
    from toolscaler.pipeline.config import DataSection
    from toolscaler.pipeline.trajectories import read_training_trajectories, with_finish_tool

    starter = spec.trajectories == "starter"
    section = DataSection(
        tools=spec.tools,
        trajectories="starter" if starter else str(_place(root, spec.trajectories)),
        unknown_tools=spec.unknown_tools,
        on_error=spec.on_error,
    )
    found, notes["trajectories"] = read_training_trajectories(section, with_finish_tool(documents))
    return found


def _row(query: ToolQuery, split: str) -> dict[str, Any]:
    return {"query": query.text, "tools": list(query.tools), "id": query.id, "split": split}


def _stage_rows(train: Sequence[ToolQuery], validation: Sequence[ToolQuery]) -> list[dict[str, Any]]:
    """What the stages of a run read: their ``test`` part is of validation (or training) queries, never a test set."""
    monitored = (list(validation) or list(train))[:_MONITORED]
    parts = {"train": train, "validation": validation, "test": monitored}
    return [_row(query, part) for part, rows in parts.items() for query in rows]


def _rows_digest(rows: Sequence[ToolQuery]) -> str:
    text = json.dumps([[row.text, sorted(row.tools)] for row in rows], ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _queries(path: Path) -> list[ToolQuery]:
    return [ToolQuery(row["query"], tuple(row["tools"]), row["id"], row["split"]) for row in _lines(path)]
