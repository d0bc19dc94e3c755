"""Fuzz every file kind of an artefact: typed errors or a sound object, never a crash, never much memory.

Run as a script: ``fuzz.py COUNT [--seed N] [--kinds a,b]``. COUNT mutations are spread over the kinds. It prints one
line a kind and exits 1 if anything but a :class:`ToolscalerError` came out. The address space is limited to what the
process has after it has loaded everything once, and one gigabyte more.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
import parts
from mutations import mutate

from toolscaler.errors import ToolscalerError

_ROOM = 1 << 30


@dataclass(frozen=True)
class Kind:
    """A file kind: its folder and name, how it is mutated, what opens it, and its share of the mutations."""

    folder: Path
    file: str
    form: str
    open: Callable[[Path], Any]
    weight: float = 1.0


def make_kinds(root: Path) -> dict[str, Kind]:
    """Save one of everything, and say how it is opened and used."""
    from toolscaler.codebook import Codebook
    from toolscaler.compression import GistForToolCompression
    from toolscaler.data import AgentProtocol
    from toolscaler.decoding import CodeTrie
    from toolscaler.hub import Artifact, save_artifact

    codes = parts.tokenizer()
    model = parts.with_codes(parts.tiny.tiny_model("llama", num_layers=1), codes)
    base = parts.tiny.tiny_model("llama", num_layers=1)
    base_folder = root / "base"
    base.save_pretrained(base_folder)
    keys = {"documents": parts.documents(), "protocol": AgentProtocol()}
    save_artifact(root / "whole", model, codes, **keys)
    save_artifact(root / "small", parts.adapted(parts.tiny.tiny_model("llama", num_layers=1), codes), codes)
    parts.codebook()[0].save_pretrained(root / "plain")
    parts.codebook(encoding="beam", whiten=True, collisions="share")[0].save_pretrained(root / "rich")
    rows = [[1, 2], [1], [3, 4, 5], [3, 4, 6], [3, 4, 6]]
    CodeTrie.from_token_sequences(rows, [f"tool {n} é" for n in range(5)]).save(root / "ragged" / "trie.safetensors")
    even = np.random.default_rng(1).integers(0, 9, (40, 4)) + np.array([400, 409, 418, 427])
    CodeTrie.from_token_sequences(even).save(root / "even" / "trie.safetensors")
    compressor = GistForToolCompression.from_base_model(str(base_folder))
    compressor.save_pretrained(root / "rows", save_base=False)
    parts.tiny.tiny_tokenizer().save_pretrained(root / "rows")
    compressor.save_pretrained(root / "compressor", save_base=True)

    def codebook(folder: Path) -> None:
        book = Codebook.from_pretrained(folder)
        book.quantize(np.zeros((2, *parts.GISTS), np.float32)) if book.hidden_size == parts.GISTS[1] else None

    def trie(folder: Path) -> None:
        found = CodeTrie.load(folder / "trie.safetensors")
        assert len(found.tool_ids) == len(found)
        sequences = found.sequences
        assert sequences.min() >= -1
        found.subset(tools=found.tool_ids[:2])
        assert np.array_equal(CodeTrie.from_token_sequences(sequences).arrays.child_start, found.arrays.child_start)

    def tokenizer(folder: Path) -> None:
        found = _sealed(folder).load_tokenizer()
        found.encode_retrieval_prompt("convert")
        if len(found.tool_index):
            found.decode_tool(found.encode_tool(found.tool_names[0]))

    def whole(folder: Path) -> None:
        artifact = _sealed(folder)
        artifact.documents()
        artifact.protocol()

    def checked(folder: Path) -> None:
        Artifact.from_pretrained(folder)

    def loaded(folder: Path) -> None:
        _sealed(folder).load_model(codes)

    def small(folder: Path) -> None:
        _sealed(folder).load_model(codes, base=parts.tiny.tiny_model("llama", num_layers=1))

    def rows_of(folder: Path) -> None:
        GistForToolCompression.from_pretrained(folder)

    return {
        "manifest": Kind(root / "whole", "toolscaler.json", "json", checked, 4),
        "tool index": Kind(root / "whole", "tool_index.json", "json", tokenizer),
        "codebook arrays": Kind(root / "rich", "codebook.safetensors", "tensors", codebook, 4),
        "codebook config": Kind(root / "rich", "codebook_config.json", "json", codebook, 4),
        "codebook config, plain": Kind(root / "plain", "codebook_config.json", "json", codebook, 2),
        "codebook arrays, resealed": Kind(root / "plain", "codebook.safetensors", "tensors", _resummed(codebook), 4),
        "trie, ragged": Kind(root / "ragged", "trie.safetensors", "tensors", trie, 4),
        "trie, even": Kind(root / "even", "trie.safetensors", "tensors", trie, 4),
        "documents": Kind(root / "whole", "tools.jsonl", "lines", whole, 2),
        "protocol": Kind(root / "whole", "agent_protocol.json", "json", whole, 2),
        "tokenizer": Kind(root / "whole", "tokenizer.json", "json", tokenizer),
        "tokenizer config": Kind(root / "whole", "tokenizer_config.json", "json", tokenizer),
        "model config": Kind(root / "whole", "config.json", "json", loaded, 0.5),
        "weights": Kind(root / "whole", "model.safetensors", "tensors", loaded, 0.5),
        "adapter config": Kind(root / "small", "adapter_config.json", "json", small),
        "adapter": Kind(root / "small", "adapter_model.safetensors", "tensors", small),
        "compressor rows": Kind(root / "rows", "gist_rows.safetensors", "tensors", rows_of, 0.5),
        "compressor config": Kind(root / "rows", "config.json", "json", rows_of, 0.5),
        "whole compressor": Kind(root / "compressor", "model.safetensors", "tensors", rows_of, 0.5),
        "whole compressor config": Kind(root / "compressor", "config.json", "json", rows_of, 0.5),
    }


def _sealed(folder: Path) -> Any:
    """Open an artefact after its sums were made to fit, as somebody would who wants to do harm."""
    from toolscaler.hub import Artifact, seal_artifact

    seal_artifact(folder)
    return Artifact.from_pretrained(folder, verify=False)


def _resummed(work: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same with a codebook's own checksum made to fit."""

    def resum(folder: Path) -> None:
        import json

        from toolscaler._tensors import open_tensors
        from toolscaler.codebook.checks import tensors_sha256

        tensors = open_tensors(folder / "codebook.safetensors").arrays()
        path = folder / "codebook_config.json"
        config = json.loads(path.read_text())
        config["tensors_sha256"] = tensors_sha256(tensors)
        path.write_text(json.dumps(config))
        work(folder)

    return resum


def fuzz(kind: Kind, count: int, seed: str, scratch: Path) -> tuple[Counter[str], list[str]]:
    """Open ``count`` mutations of a file; count what came out, and describe what should not have."""
    folder = scratch / "copy"
    shutil.copytree(kind.folder, folder)
    original = {path.name: path.read_bytes() for path in kind.folder.iterdir() if path.is_file()}
    good, draw = original[kind.file], random.Random(seed)
    kind.open(folder)  # it opens before it is damaged
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(count):
        for name in ("toolscaler.json", "codebook_config.json"):
            if name in original:
                (folder / name).write_bytes(original[name])
        damaged = mutate(good, kind.form, draw)
        (folder / kind.file).write_bytes(damaged)
        try:
            kind.open(folder)
            outcomes["sound"] += 1
        except ToolscalerError as error:
            outcomes[type(error).__name__] += 1
            if not str(error).strip() or len(str(error)) > 4000:
                wrong.append(f"mutation {number}: a message of {len(str(error))} characters")
        except BaseException:
            (scratch / f"failing-{number}").write_bytes(damaged)
            wrong.append(f"mutation {number} ({damaged[:80]!r}): {traceback.format_exc()}")
            if len(wrong) > 3:
                break
    shutil.rmtree(folder)
    return outcomes, wrong


def main() -> int:
    """Fuzz all kinds, or some."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
    kinds = make_kinds(scratch / "parts")
    chosen = {name: kind for name, kind in kinds.items() if not arguments.kinds or name in arguments.kinds.split(",")}
    for name, kind in chosen.items():
        kind.open(shutil.copytree(kind.folder, scratch / "warm" / name.replace(" ", "-")))
    status = Path("/proc/self/status").read_text().splitlines()
    used = int(next(line for line in status if line.startswith("VmSize")).split()[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (used + _ROOM, used + _ROOM))
    total, failed = sum(kind.weight for kind in chosen.values()), 0
    for name, kind in chosen.items():
        begun, count = time.monotonic(), max(1, round(arguments.count * kind.weight / total))
        outcomes, wrong = fuzz(kind, count, f"{name} {arguments.seed}", scratch)
        print(
            f"{name}: {sum(outcomes.values())} mutations, {dict(outcomes)}, {time.monotonic() - begun:.1f} s",
            flush=True,
        )
        failed += len(wrong)
        for text in wrong:
            print(f"WRONG {name}: {text}", flush=True)
    if not failed:
        shutil.rmtree(scratch)
    print(f"{failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
