"""Contract: whenever a change is killed, artefact and log are the old ones or the new ones, together; and a catalogue
is published, pulled, extended, pruned and rolled back through the Hub's own client.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_change_leaves_the_old_state_or_the_new_one(folder):
    command = [sys.executable, str(Path(__file__).parent / "kills.py"), "12", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(done.stdout.split("REPORT ")[1])
    assert report["killed"] == 12
    assert report["whole"]
    assert report["left"] == []


@pytest.mark.slow
def test_a_catalogue_is_pulled_changed_published_and_rolled_back_elsewhere(saved, tmp_path):
    command = [sys.executable, str(Path(__file__).parent / "life.py"), str(saved), str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    report = json.loads(done.stdout.split("REPORT ")[1])
    assert "tools pull" in report.pop("refused")
    verbs = ["start", "add", "remove", "rollback"]
    assert report == {"mine": 17, "theirs": 18, "verbs": verbs, "same_log": True, "last": 18, "documents": 18}
