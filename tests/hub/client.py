"""What a publisher and a reader do, through the real client, against the Hub of ``loopback.py``; prints JSON.

Run as a script with one argument, an empty folder. The client reads its address when it is imported, hence a process
of its own.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from loopback import Hub


def main(work: Path) -> dict[str, Any]:
    report: dict[str, Any] = {}
    with Hub() as hub:
        os.environ.update(hub.environment(work / "home"))
        scenario = _Scenario(hub, work)
        for step in _STEPS:
            try:
                report[step.__name__] = step(scenario)
            except BaseException:
                report[step.__name__] = {"failed": traceback.format_exc()}
                if step in _STEPS[:2]:
                    break
    return report


class _Scenario:
    def __init__(self, hub: Hub, work: Path) -> None:
        import parts

        from toolscaler import hub as room

        self.hub, self.work, self.parts, self.room = hub, work, parts, room
        self.codes = parts.tokenizer()
        self.model: Any = None
        self.first: Any = None

    def base(self) -> Any:
        return self.parts.tiny.tiny_model("qwen2", tie=False)

    def fails(self, work: Callable[[], Any]) -> str:
        """The error's class and text."""
        try:
            work()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "no error"


def push_base(s: _Scenario) -> Any:
    s.base().push_to_hub("me/base")
    s.parts.tiny.tiny_tokenizer().push_to_hub("me/base")
    return len(s.hub.commits("me/base"))


def push_model(s: _Scenario) -> Any:
    from transformers import AutoTokenizer

    from toolscaler.compression import GistForToolCompression
    from toolscaler.hub import CardFacts

    s.model = s.parts.with_codes(s.base(), s.codes)
    compressor = GistForToolCompression.from_base_model("me/base")
    facts = CardFacts("me/full", "model", len(s.codes.tool_index), s.codes.code_sizes, "me/base", license="mit")
    before = len(s.hub.repos)
    s.first = s.room.push_to_hub(
        s.model,
        s.codes,
        "me/full",
        card=facts,
        documents=s.parts.documents(),
        compressor=compressor,
        compressor_tokenizer=AutoTokenizer.from_pretrained("me/base"),
    )
    commits = s.hub.commits("me/full")
    return {
        "new_repos": len(s.hub.repos) - before,
        "commits": len(commits),
        "files": sorted(commits[-1]),
        "paths": [n for n, data in commits[-1].items() if str(s.work).encode() in data or b"/tmp" in data],
    }


def load_model(s: _Scenario) -> Any:
    from toolscaler import GenerativeRetriever

    retriever = GenerativeRetriever.from_pretrained("me/full")
    artifact = s.room.Artifact.from_pretrained("me/full")
    compressor, _ = artifact.load_compressor()
    return {
        "same": s.parts.same_weights(retriever.model, s.model),
        "tools": retriever.tokenizer.tool_index == s.codes.tool_index,
        "documents": sorted(d.id for d in artifact.documents()) == sorted(s.codes.tool_names),
        "compressor": compressor.config.weights,
    }


def push_adapter(s: _Scenario) -> Any:
    """Input and untied head; merged, unmerged, and read back by plain peft."""
    adapter = s.parts.adapted(s.base(), s.codes)
    s.room.push_to_hub(adapter, s.codes, "me/small", base_model="me/base", license="mit")
    files = s.hub.commits("me/small")[-1]
    artifact = s.room.Artifact.from_pretrained("me/small")
    apart = artifact.load_model(merge=False)
    merged = artifact.load_model()
    return {
        "kind": artifact.manifest.kind,
        "bytes": sum(len(data) for name, data in files.items() if name.endswith(".safetensors")),
        "base_bytes": sum(len(data) for name, data in s.hub.commits("me/base")[-1].items() if "model" in name),
        "apart": type(apart).__name__,
        "same": s.parts.same_weights(merged, adapter.merge_and_unload()),
    }


def push_again(s: _Scenario) -> Any:
    """A later push is one more commit; it takes old shards away and leaves what others put there."""
    from huggingface_hub import HfApi

    HfApi().upload_file(path_or_fileobj=b"notes", path_in_repo="notes.txt", repo_id="me/full")
    s.room.push_to_hub(s.model, s.codes, "me/full", max_shard_size="20KB")
    sharded = set(s.hub.commits("me/full")[-1])
    fewer = copy.deepcopy(s.codes)
    fewer.remove_tools(fewer.tool_names[:1])
    s.room.push_to_hub(s.model, fewer, "me/full")
    whole = set(s.hub.commits("me/full")[-1])
    newest = s.room.Artifact.from_pretrained("me/full").load_tokenizer()
    older = s.room.Artifact.from_pretrained("me/full", revision=s.first.commit)
    return {
        "shards": len([name for name in sharded if name.startswith("model-")]),
        "left_over": sorted(
            name for name in whole if name.startswith("model-") or ("index" in name and "tool" not in name)
        ),
        "notes": "notes.txt" in whole,
        "tools": [len(newest.tool_index), len(older.load_tokenizer().tool_index)],
    }


def branch_and_subfolder(s: _Scenario) -> Any:
    done = s.room.push_to_hub(s.model, s.codes, "me/many", subfolder="small", revision="v1")
    artifact = s.room.Artifact.from_pretrained("me/many", revision="v1", subfolder="small")
    from toolscaler import GenerativeRetriever

    retriever = GenerativeRetriever.from_pretrained("me/many", revision="v1", subfolder="small")
    return {
        "main": sorted(s.hub.commits("me/many")[-1]),
        "folder": {name.partition("/")[0] for name in s.hub.commits("me/many", "v1")[-1]}
        == {".gitattributes", "small"},
        "loads": s.parts.same_weights(retriever.model, s.model) and artifact.manifest == done.manifest,
        "elsewhere": s.fails(lambda: s.room.Artifact.from_pretrained("me/many", subfolder="small")),
    }


def troubles(s: _Scenario) -> Any:
    """Connections that are cut, and tokens that are wrong: the repository holds the old artefact, or the new one."""
    from toolscaler.hub import Artifact, push_to_hub

    found = {}
    extra = s.parts.with_codes(s.parts.tiny.tiny_model("qwen2", seed=5), s.codes)
    for trouble in ("cut_upload", "cut_commit", "cut_answer"):
        before = len(s.hub.commits("me/full"))
        s.hub.blobs.clear()
        s.hub.trouble = trouble
        text = s.fails(lambda: push_to_hub(extra, s.codes, "me/full", license="other"))
        s.hub.trouble = None
        readable = s.fails(lambda: Artifact.from_pretrained("me/full", force_download=True).load_model())
        found[trouble] = {"error": text, "commits": len(s.hub.commits("me/full")) - before, "readable": readable}
    for name, token in (("wrong", "hf_wrong"), ("none", False)):
        before = len(s.hub.commits("me/full"))
        text = s.fails(lambda token=token: push_to_hub(extra, s.codes, "me/full", token=token))
        found[name] = {"error": text, "commits": len(s.hub.commits("me/full")) - before}
    found["race"] = {"error": s.fails(lambda: _raced(s, extra))}
    return found


def _raced(s: _Scenario, model: Any) -> None:
    """Somebody else commits between the look at the repository and the commit."""
    from huggingface_hub import HfApi

    original = HfApi.create_commit

    def late(self: Any, *args: Any, **keys: Any) -> Any:
        s.hub.repos["me/full"].add("main", {**s.hub.commits("me/full")[-1], "other.md": b"hello"})
        return original(self, *args, **keys)

    HfApi.create_commit = late
    try:
        s.room.push_to_hub(model, s.codes, "me/full", license="other")
    finally:
        HfApi.create_commit = original


def wrong_names(s: _Scenario) -> Any:
    load = s.room.Artifact.from_pretrained
    s.hub.repos["me/full"].branches["damaged"] = []
    files = dict(s.hub.commits("me/full")[-1])
    files["model.safetensors"] = files["model.safetensors"][:-1] + b"x"
    s.hub.repos["me/full"].add("damaged", files)
    return {
        "repo": s.fails(lambda: load("me/nothing")),
        "revision": s.fails(lambda: load("me/full", revision="v9")),
        "no_manifest": s.fails(lambda: load("me/base")),
        "path": s.fails(lambda: load("../me/full")),
        "damaged": s.fails(lambda: load("me/full", revision="damaged")),
        "bad_target": s.fails(lambda: s.room.push_to_hub(s.model, s.codes, "me/full/more")),
        "no_base": s.fails(lambda: s.room.push_to_hub(s.parts.adapted(s.base(), s.codes), s.codes, "me/x")),
        "other_base": s.fails(lambda: _other_base(s)),
        "untouched": "me/x" not in s.hub.repos,
    }


def _other_base(s: _Scenario) -> None:
    other = s.parts.tiny.tiny_model("qwen2", seed=9)
    s.room.push_to_hub(s.parts.adapted(other, s.codes), s.codes, "me/x", base_model="me/base")


def snippets(s: _Scenario) -> Any:
    """The cards' Python blocks in a fresh interpreter; then again without the network."""
    cards = [s.hub.commits(repo)[-1]["README.md"].decode() for repo in ("me/full", "me/small")]
    code = "".join(card.split("```python\n")[1].split("```")[0] for card in cards)
    return {"online": _fresh(code), "offline": _fresh(code, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")}


def _fresh(code: str, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=200
    )
    return done.stdout.splitlines() if done.returncode == 0 else done.stderr[-2000:]


_STEPS = (
    push_base,
    push_model,
    load_model,
    push_adapter,
    push_again,
    branch_and_subfolder,
    troubles,
    wrong_names,
    snippets,
)

if __name__ == "__main__":
    outcome = main(Path(sys.argv[1]))
    print("REPORT " + json.dumps(outcome))
