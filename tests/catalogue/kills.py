"""Kill changes of a catalogue at random moments: ``kills.py COUNT [ARTEFACT]``. Prints a report as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import catalogue_parts as parts

from toolscaler.catalogue import ToolCatalogue
from toolscaler.hub import Artifact


def change(folder: Path, number: int) -> None:
    """Another kind of change each time."""
    catalogue = ToolCatalogue.open(folder)
    added = [name for name in catalogue.tool_ids if name.startswith("units/extra")]
    if number % 4 == 0:
        catalogue.add(parts.extra_documents(3, f"extra_{number}"), embeddings=parts.gists(3, seed=number))
    elif number % 4 == 1 and len(added) > 3:
        catalogue.remove(added[:2])
    elif number % 4 == 2 and added:
        catalogue.update([parts.document(added[0].partition("/")[2], f"v{number}")], embeddings=parts.gists(1, number))
    else:
        catalogue.rollback(len(catalogue.log) // 2) or catalogue.rename({catalogue.tool_ids[0]: f"units/n{number}"})


def kill_child(folder: Path, number: int, seconds: float) -> bool:
    """Run a change in a fork; say whether it was killed before its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            change(folder, number)
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError(f"change {number} failed")
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork knows one thread
    count, scratch = int(sys.argv[1]), tempfile.TemporaryDirectory()
    folder = Path(scratch.name) / "artefact" if len(sys.argv) < 3 else Path(sys.argv[2])
    if len(sys.argv) < 3:
        parts.make_artefact(folder, with_compressor=False)
    draw = random.Random(0)
    begun = time.monotonic()
    kill_child(folder, 0, 60.0)
    usual = time.monotonic() - begun
    old = ToolCatalogue.open(folder)
    killed, number, outcomes = 0, 0, {"old": 0, "new": 0}
    while killed < count:
        number += 1
        was_killed = kill_child(folder, number, draw.random() * usual)
        killed += was_killed
        now = ToolCatalogue.open(folder)  # compares log, index and sums with each other
        Artifact.from_pretrained(folder)  # and every other sum
        grown = len(now.log) - len(old.log)
        if grown not in (0, 1) or now.log[: len(old.log)] != old.log[:] or (not was_killed and grown != 1):
            raise RuntimeError(f"after change {number} the log grew by {grown}")
        if grown == 0 and now.index != old.index:
            raise RuntimeError("the index changed without an entry")
        outcomes["new" if grown else "old"] += was_killed
        old = now
    index = (folder / "tool_index.json").read_bytes()
    whole = old.log[-1].index_sha256 == hashlib.sha256(index).hexdigest()
    litter = [path for path in folder.parent.iterdir() if path.name.startswith(".")]
    for path in litter:  # as if an hour had passed
        os.utime(path, (time.time() - 3600,) * 2)
    change(folder, 4000)
    left = [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
    print("REPORT " + json.dumps({"killed": killed, **outcomes, "whole": whole, "litter": len(litter), "left": left}))


if __name__ == "__main__":
    main()
