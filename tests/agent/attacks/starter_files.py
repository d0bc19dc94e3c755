"""Paths out of the sandbox: no file tool of the starter reads, writes, lists or deletes anything outside it."""

# ruff: noqa: E501

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import tempfile
from pathlib import Path

from agent.attacks.planners import Scripted, call, calls
from agent.attacks.tally import Tally
from agent.attacks.texts import fullwidth
from toolscaler.agent.agent import ToolAgent
from toolscaler.agent.executors.starter import StarterExecutor
from toolscaler.starter.sandbox import sandbox

SECRET = "the secret of the outside"


def paths(outside: Path) -> list[str]:
    """Give spellings of paths that lead out of the folder beside ``outside``."""
    name, whole = f"../{outside.name}", str(outside)
    found = [name, f"../{name}", f"./{name}", f"a/../{name}", f"a/b/../../{name}", whole, f"/{whole}", f"//{whole}",
             f"file://{whole}", f"~/{name}", "~root/x", f"../../../../../../../..{whole}", name.replace("/", "\\"),
             f"{name}\x00.txt", name.replace("..", "%2e%2e"), name.replace("/", "%2f"), name.replace("..", "．．"),
             fullwidth(name), f"..\u2215{outside.name}", "link", "link/secret.txt", "file_link", "dir/../link/secret.txt",
             f"link/../{outside.name}", "/etc/passwd", "/proc/self/environ", "/proc/self/cwd/x", "/dev/null", "..", "../",
             "../*", "**/../..", f"{name}/", "", ".", "\u202e/..", "loop/loop/secret.txt", f"{'a/' * 300}x",
             f"{'../' * 400}etc/passwd", "CON", "x:y", "-rf", "$HOME/x", "`id`", "fifo"]  # fmt: skip
    return [*found, *(f"{item}/secret.txt" for item in found[:20])]


def _state(folder: Path) -> str:
    rows = []
    for place in sorted(folder.rglob("*")):
        kind = place.readlink() if place.is_symlink() else place.read_bytes() if place.is_file() else b""
        rows.append((str(place), kind))
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def traversal(count: int, seed: int = 0) -> Tally:
    """Each text argument of each file tool is tried with each path."""
    tally = Tally("path traversal in the starter's file tools")
    every = StarterExecutor()
    documents = [document for document in every.documents() if _is_file_tool(document)]
    every.close()
    with tempfile.TemporaryDirectory() as name, StarterExecutor([document.id for document in documents]) as executor:
        root = Path(name)
        inside, outside = root / "inside", root / "outside"
        outside.mkdir()
        (outside / "secret.txt").write_text(SECRET)
        cases = [
            (document, key, path)
            for document in documents
            for key, kind in document.parameters["properties"].items()
            if kind.get("type") == "string"
            for path in paths(outside)
        ]
        random.Random(seed).shuffle(cases)
        before = _state(outside)
        for document, key, path in itertools.islice(itertools.cycle(cases), count):
            shutil.rmtree(inside, ignore_errors=True)
            with sandbox(inside):
                _furnish(inside, outside)
                properties = document.parameters["properties"]
                arguments = {
                    other: "x.txt" if kind.get("type") == "string" else True for other, kind in properties.items()
                }
                arguments[key] = path
                run = ToolAgent(Scripted(calls(call(document.id, **arguments))), executor).run("Go.")
            text = "".join(made.result.content for made in run.calls)
            leaked = SECRET in text or "root:" in text or (outside.name in text and outside.name not in path)
            there = sorted(item.name for item in root.iterdir()) == ["inside", "outside"]
            safe = run.outcome == "answer" and not leaked and there and _state(outside) == before
            tally.saw(safe, f"{document.id} {key}={path!r:.100}: {text!r:.200}")
    return tally


def _is_file_tool(document) -> bool:
    return bool({"path", "folder", "source"} & set(document.parameters["properties"]))


def _furnish(inside: Path, outside: Path) -> None:
    """Put a file, a pipe, and links that lead out, into the folder."""
    inside.mkdir(exist_ok=True)
    (inside / "x.txt").write_text("inside")
    for link, target in (("link", outside), ("file_link", outside / "secret.txt"), ("loop", inside)):
        (inside / link).symlink_to(target)
    os.mkfifo(inside / "fifo")
