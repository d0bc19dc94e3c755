"""MGToolBench: training queries of ToolBench's third set (G3), labelled with the calls of an answer that was found."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from toolscaler.data.bundles.base import find_file, read_objects
from toolscaler.data.queries import ToolQuery
from toolscaler.data.sources.toolbench import ApiKey, StandardNames, toolbench_id
from toolscaler.errors import DataError

#: Test queries of the same set, with the documents of their APIs.
TEST_FILE, TEST_SPLIT = "retrieval/G3_clear/test.json", "G3_instruction"
TRAIN_SPLIT = "G3_train"


def load_mgtoolbench(folder: Path, keys: Iterable[ApiKey]) -> tuple[list[ToolQuery], dict[str, ApiKey], dict[str, int]]:
    """Read the training queries.

    The text is ``original_query``; the other two name the answer. A step is a label where its standardised names are
    those of exactly one API. A search found the answers, so a query may be solved only in part.

    Args:
        folder: Holds ``coarse_instruction/tool_instruction_5000.json`` and ``api_instruction_5000.json``, plain or
            gzipped: the same rows, with the tool and with the API of each step.
        keys: Tool name and API name of every API a step may name.

    Returns:
        Queries of the split ``G3_train``; label -> names of tool and API; what was not resolved.

    Raises:
        DataError: A file is missing, a row does not end in a line of names, or the files do not agree.
    """
    names = StandardNames(keys)
    tools, apis = (_named(find_file(folder, f"coarse_instruction/{kind}_instruction_5000.json")) for kind in _KINDS)
    counts = {"steps of unknown APIs": 0, "steps of several APIs": 0, "training queries without labels dropped": 0}
    queries: list[ToolQuery] = []
    labels: dict[str, ApiKey] = {}
    for row, (text, found) in apis.items():
        providers = tools.get(row, ("", []))[1]
        if len(providers) != len(found):
            raise DataError(f"{row}: expected as many tools as APIs ({len(found)}), got {len(providers)}", path=folder)
        candidates = [names.find(*step) for step in zip(providers, found, strict=True)]
        counts["steps of unknown APIs"] += sum(not keys for keys in candidates)
        counts["steps of several APIs"] += sum(len(keys) > 1 for keys in candidates)
        named = {toolbench_id(*keys[0]): keys[0] for keys in candidates if len(keys) == 1}
        if not named:
            counts["training queries without labels dropped"] += 1
            continue
        labels.update(named)
        queries.append(ToolQuery(text, tuple(named), f"{TRAIN_SPLIT}/{row}", TRAIN_SPLIT))
    return queries, labels, counts


_KINDS = ("tool", "api")


def _named(path: Path) -> dict[str, tuple[str, list[str]]]:
    """Give text and names of each row; the names are the last line of ``query``: ``API: one, two.``."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for number, row in enumerate(read_objects(path, "query", "original_query", "path"), 1):
        _, separator, line = str(row["query"]).rpartition("\n")
        _, colon, listed = line.partition(": ")
        if not (separator and colon):
            raise DataError(f"record {number}: expected a last line such as 'API: one, two.', got {line!r}", path=path)
        rows[str(row["path"])] = (str(row["original_query"]).strip(), listed.rstrip(".").split(", "))
    return rows
