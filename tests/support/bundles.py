"""What the tests of the named data sets share: writing small files, reading real ones, and a bundle's promises."""

from __future__ import annotations

import gzip
import json


def put(folder, name, value):
    """Write JSON; a list as JSON lines where the name says so; gzipped where it ends in ``.gz``."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = isinstance(value, list) and (
        ".jsonl" in name or "BFCL" in name or "func_doc" in name or "test.json" in name
    )
    text = value if isinstance(value, str) else "\n".join(map(json.dumps, value)) if lines else json.dumps(value)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def read_lines(path):
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def read_json(path):
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def check_bundle(bundle):
    """What every bundle promises."""
    ids = {document.id for document in bundle.documents}
    assert len(ids) == len(bundle.documents)
    assert {tool for query in bundle.queries for tool in query.tools} <= ids
    assert all(query.text == query.text.strip() for query in bundle.queries)
    assert sum(bundle.split_sizes().values()) == len(bundle.queries)
