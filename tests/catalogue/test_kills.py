"""Contract: whenever a change is killed, artefact and log are the old ones or the new ones, together."""

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
    command = [sys.executable, str(Path(__file__).parent / "kills.py"), str(folder), "12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    report = json.loads(done.stdout.split("REPORT ")[1])
    assert report["killed"] == 12
    assert report["whole"]
    assert report["left"] == []
