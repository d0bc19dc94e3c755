"""Contract: whatever the log and the kept documents hold, opening gives a sound catalogue or a typed error."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from toolscaler.catalogue import ToolCatalogue
from toolscaler.errors import ToolscalerError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))
from mutations import mutate


@pytest.mark.parametrize("name", ["catalogue_log.jsonl", "catalogue_documents.jsonl"])
def test_damaged_files_give_typed_errors(folder, parts, name):
    (folder / "toolscaler.json").unlink()  # nothing vouches for the files
    catalogue = ToolCatalogue.open(folder)
    catalogue.add(parts.extra_documents(2), embeddings=parts.gists(2))
    catalogue.remove(["units/extra_0", "units/count_words"])
    whole = (folder / name).read_bytes()
    draw = random.Random(0)
    outcomes = {"refused": 0, "sound": 0}
    for _ in range(150):
        (folder / name).write_bytes(mutate(whole, "json", draw))
        try:
            opened = ToolCatalogue.open(folder)
            opened._state.archive  # noqa: B018  (read when it is first needed)
            outcomes["sound"] += 1
        except ToolscalerError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100
    (folder / name).write_bytes(whole)
    assert ToolCatalogue.open(folder).rollback(0) is not None
