"""Kill -9 at random moments of save, push and run: a reader finds the old artefact or the new one, never between.

Run as a script: ``kills.py save|push|run COUNT [--seed N]``. It prints JSON and exits 1 if a kill left anything else.
``save`` and ``push`` kill children that were forked after everything was imported; ``run`` kills ``toolscaler run``,
looks at every stage that the manifest calls done, and lets the last one go on to the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from loopback import Hub


def kill_child(work: Callable[[], None], seconds: float) -> bool:
    """Fork, work in the child, kill it after some seconds; say whether it was killed before its end."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


class _Pair:
    """Two artefacts of different models, and what their manifests say."""

    def __init__(self, root: Path) -> None:
        import parts

        from toolscaler.hub import ArtifactManifest, save_artifact

        self.codes = parts.tokenizer()
        self.models = [parts.with_codes(parts.tiny.tiny_model("llama", seed=seed), self.codes) for seed in (1, 2)]
        self.documents, self.save = parts.documents(), save_artifact
        self.manifests = []
        for number in (0, 1):
            self.write(root / str(number), number)
            self.manifests.append(ArtifactManifest.load(root / str(number)))

    def write(self, folder: Path, number: int) -> None:
        # Different numbers of files, so that a mixture would be seen by its names too.
        size = "20KB" if number else "5GB"
        self.save(folder, self.models[number], self.codes, documents=self.documents, max_shard_size=size)

    def time_of(self, work: Callable[[], None]) -> float:
        begun = time.monotonic()
        kill_child(work, 60.0)
        return time.monotonic() - begun


def kill_saves(count: int, draw: random.Random, root: Path) -> dict[str, Any]:
    """Replace one artefact by the other, again and again, killed somewhere in between."""
    from toolscaler._files import recover_folder
    from toolscaler.hub import Artifact

    pair, target = _Pair(root), root / "target"
    pair.write(target, 0)
    usual = pair.time_of(lambda: pair.write(target, 1))
    killed, number, found = 0, 0, [0, 0]
    while killed < count:
        number += 1
        killed += kill_child(lambda n=number: pair.write(target, n % 2), draw.random() * usual)
        recover_folder(target)
        manifest = Artifact.from_pretrained(target).manifest  # every sum is compared
        found[pair.manifests.index(manifest)] += 1
    pair.write(target, 0)
    litter = [path.name for path in root.iterdir() if path.name.startswith(".")]
    for name in litter:  # as if an hour had passed
        os.utime(root / name, (time.time() - 3600,) * 2)
    pair.write(target, 1)
    left = [path.name for path in root.iterdir() if path.name.startswith(".")]
    return {"killed": killed, "found": found, "litter": len(litter), "swept": not left}


def kill_pushes(count: int, draw: random.Random, root: Path) -> dict[str, Any]:
    """Push one artefact over the other, killed somewhere in between."""
    with Hub() as hub:
        os.environ.update(hub.environment(root / "home"))
        from toolscaler.hub import Artifact, push_folder

        pair = _Pair(root)
        push_folder(root / "0", "me/one")
        usual = pair.time_of(lambda: _quiet(lambda: push_folder(root / "1", "me/one")))
        killed, number, found = 0, 0, [0, 0]
        while killed < count:
            number += 1
            work = lambda n=number: _quiet(lambda: push_folder(root / str(n % 2), "me/one"))  # noqa: E731
            killed += kill_child(work, draw.random() * usual)
            time.sleep(0.01)
            artifact = Artifact.from_pretrained("me/one", cache_dir=root / f"cache-{number}")
            found[pair.manifests.index(artifact.manifest)] += 1
            shutil.rmtree(root / f"cache-{number}")
    return {"killed": killed, "found": found}


def _quiet(work: Callable[[], Any]) -> None:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    work()


# Enough of everything to pass through every stage, and of training to be killed inside.
_RUN = {
    "data": {"test_size": 0.2, "validation_size": 0.1},
    "base": {
        "model": "scratch",
        "scratch": {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    },
    "compression": {"trainer": {"train_base": True, "num_train_epochs": 2}},
    "embedding": {"start_from": "compressor"},
    "retrieval": {
        "trainer": {"num_train_epochs": 10, "gradient_accumulation_steps": 1, "save_strategy": "steps", "save_steps": 5}
    },
    "evaluation": {"baselines": ["bm25"], "num_beams": 4},
}


def kill_runs(count: int, draw: random.Random, root: Path) -> dict[str, Any]:
    """Kill a small run, look at what it calls done, and go on; at the end it must be whole."""
    config, folder = root / "run.yaml", root / "run"
    names = [(verb, thing) for verb in ("open", "close", "paint", "sell") for thing in ("door", "lamp", "gate", "box")]
    tools = [{"name": f"{v}_{t}", "description": f"Will {v} the {t}.", "parameters": {}} for v, t in names]
    rows = [{"query": f"{v} the {t} {end}", "tools": [f"{v}_{t}"]} for v, t in names for end in ("now", "soon", "!")]
    (root / "tools.json").write_text(json.dumps(tools))
    (root / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {**_RUN["data"], "tools": str(root / "tools.json"), "queries": str(root / "queries.jsonl")}
    config.write_text(json.dumps({**_RUN, "data": data, "output_dir": str(folder)}))
    command = [sys.executable, "-m", "toolscaler.cli", "run", "--config", str(config)]
    begun = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    usual, expected = time.monotonic() - begun, _sums(folder / "model")
    shutil.rmtree(folder)
    killed = finished = 0
    while killed < count:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=draw.random() * usual)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        else:
            if process.returncode:
                raise RuntimeError(f"a resumed run failed with status {process.returncode}")
        done = _done_stages(folder)
        if process.returncode == 0 or "report" in done:
            finished += 1
            if _sums(folder / "model") != expected:
                raise RuntimeError("a run that was killed and resumed gives another model")
            shutil.rmtree(folder)
    subprocess.run(command, check=True, capture_output=True)
    return {"killed": killed, "finished": finished, "same": _sums(folder / "model") == expected}


def _done_stages(folder: Path) -> set[str]:
    """Open what each stage that is done has left."""
    path = folder / "manifest.json"
    if not path.exists():
        return set()
    done = set(json.loads(path.read_text())["stages"])
    from toolscaler.codebook import Codebook
    from toolscaler.hub.model_files import check_model_files
    from toolscaler.tokenization import ToolscalerTokenizer

    if "codebook" in done:
        Codebook.from_pretrained(folder / "codebook")
    for stage, name in (("vocabulary", "vocabulary"), ("retrieval", "model")):
        if stage in done:
            check_model_files(folder / name)
            ToolscalerTokenizer.from_pretrained(folder / name)
    return done


def _sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def main() -> int:
    """Kill what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["save", "push", "run"])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork knows one thread
    root = Path(tempfile.mkdtemp(prefix="kills-"))
    works = {"save": kill_saves, "push": kill_pushes, "run": kill_runs}
    report = works[arguments.what](arguments.count, random.Random(arguments.seed), root)
    shutil.rmtree(root, ignore_errors=True)
    print("REPORT " + json.dumps(report), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
