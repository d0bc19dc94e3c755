"""Contract: whatever a file holds, opening it gives a sound object or a typed error in bounded memory; whenever a save
or a push is killed, the old artefact is there or the new one. ``make fuzz`` does the same with far larger numbers.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import mutate

HERE = Path(__file__).parent
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}


def script(name: str, *words: str) -> str:
    command = [sys.executable, str(HERE / name), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_two_thousand_damaged_files_give_typed_errors():
    lines = re.findall(r"^(.+): (\d+) mutations, (\{.*\}), ", script("fuzz.py", "2000"), re.MULTILINE)
    assert sum(int(count) for _, count, _ in lines) >= 1990
    assert len(lines) >= 18
    for name, count, outcomes in lines:  # the mutations do damage: most are refused
        assert "ArtifactError" in outcomes, name
        if "config" not in name:
            assert json.loads(outcomes.replace("'", '"')).get("sound", 0) < int(count) / 2, name


def test_mutations_are_the_same_for_the_same_seed_and_differ_from_the_original():
    data = json.dumps({"format_version": 1, "files": {"a": [1, 2, {"b": "c"}]}}).encode()
    one, other = ([mutate(data, "json", random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert one == other
    assert sum(mutated != data for mutated in one) > 45


@pytest.mark.slow
@pytest.mark.parametrize(("what", "count"), [("save", 8), ("push", 3)])
def test_a_kill_leaves_the_old_artefact_or_the_new_one(what, count):
    report = json.loads(script("kills.py", what, str(count)).split("REPORT ")[1])
    assert report["killed"] == count
    assert report.get("swept", True)  # what killed saves have left is gone after the next
