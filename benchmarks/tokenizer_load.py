"""Time and size of a tokenizer with a large vocabulary, 2,048 codes and 47,000 tools.

Run: python benchmarks/tokenizer_load.py [--tools 47000] [--vocabulary 128000] [--width 4096]

The base is a byte-level BPE tokenizer with as many merges as a Llama-3 vocabulary has; its text quality plays no part.
Prints one line a figure: the median of some repetitions in this process, after one that is not counted.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets.fingerprint import Hasher
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from toolscaler.codebook import Codebook
from toolscaler.tokenization import ToolscalerTokenizer


def make_base(size: int) -> PreTrainedTokenizerFast:
    """Build a byte-level BPE tokenizer with ``size`` entries out of pairs and triples of letters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(itertools.product(letters, letters))
    merges += [(a + b, c) for a, b, c in itertools.product(letters[33:90], letters[33:90], letters[33:90])]
    merges = merges[: size - len(letters) - 1]
    words = dict.fromkeys([*letters, *(a + b for a, b in merges), "</s>"])
    backend = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def make_codebook(rng: np.random.Generator, width: int) -> Codebook:
    """Draw a codebook of the paper's size: V = L = 2, K = 512, R = 32."""
    sizes = {
        "pca_mean": (2, width),
        "pca_components": (2, 32, width),
        "pca_explained_variance": (2, 32),
        "pca_explained_variance_ratio": (2, 32),
        "centroids": (2, 2, 512, 32),
    }
    return Codebook(**{name: rng.random(shape, dtype=np.float32) for name, shape in sizes.items()})


def median_seconds(action: Callable[[], object], repetitions: int) -> float:
    action()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=int, default=47_000)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    codebook = make_codebook(rng, options.width)
    chosen = rng.choice(512**4, size=options.tools, replace=False)
    codes = np.stack([chosen // 512**power % 512 for power in (3, 2, 1, 0)], axis=1)
    names = [f"Provider number {k % 3000}/endpoint_{k}_of_the_catalogue" for k in range(options.tools)]
    hashes = [f"{k:064x}" for k in range(options.tools)]
    base = make_base(options.vocabulary)

    def wrap() -> ToolscalerTokenizer:
        return ToolscalerTokenizer.from_tokenizer(base, codebook, codes=codes, tool_ids=names, document_hashes=hashes)

    tokenizer = wrap()
    with tempfile.TemporaryDirectory() as folder:
        base.save_pretrained(Path(folder) / "base")
        ours = Path(folder) / "ours"
        tokenizer.save_pretrained(ours)
        actions: dict[str, Callable[[], object]] = {
            "load the base alone (AutoTokenizer)": lambda: AutoTokenizer.from_pretrained(Path(folder) / "base"),
            "load ToolscalerTokenizer": lambda: ToolscalerTokenizer.from_pretrained(ours),
            "load it as a plain AutoTokenizer": lambda: AutoTokenizer.from_pretrained(ours),
            "wrap": wrap,
            "save": lambda: tokenizer.save_pretrained(ours),
            "pickle and back": lambda: pickle.loads(pickle.dumps(tokenizer)),
            "fingerprint of datasets.map": lambda: Hasher.hash(tokenizer),
            "add and remove a tool": lambda: (
                tokenizer.add_tools(["new"], codes=[[0, 0, 0, 0]]),
                tokenizer.remove_tools(["new"]),
            ),
        }
        print(f"vocabulary {len(tokenizer)}, code tokens {tokenizer.num_code_tokens}, tools {options.tools}")
        for name, action in actions.items():
            print(f"{name:40s} {median_seconds(action, options.repetitions):8.3f} s")
        for path in sorted(ours.iterdir()):
            print(f"{path.name:40s} {path.stat().st_size / 1e6:8.2f} MB")


if __name__ == "__main__":
    main()
