"""Time and memory of the whole codebook path against the number of tools.

    python -m benchmarks.codebook_fit --curve --quick
    python -m benchmarks.codebook_fit --curve --embeddings RUN/embeddings --output runs/curve

Embeddings are noisy copies of the real ones in ``--embeddings`` (a folder of the encode stage; without it, of a small
mixture): a copy is a real tool moved by shares of the differences of its real neighbours, so that clusters keep their
place and their shape. With ``--structure growing`` a fifth as many centres as tools are made that way, and tools
around them; with ``fixed`` tools crowd around the real ones, which no quantiser of a fixed size can tell apart for
long. 8 % are near and 0.4 % exact copies of another copy. They are written to a memory map and read from it. Each size
runs in a process of its own: fit (PCA, residual k-means, unique codes), then its parts again one by one, the first rows
of the code tokens, statistics, saving, loading, and codes for 1,000 more tools. Memory is what the process owns
(RssAnon, looked at every 10 ms, so a shorter peak is missed); pages of the memory map, which the system may take back
at any time, are not in it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
QUICK = (1_000, 3_000)
NEAR, EXACT, NEIGHBOURS, ADDED, BLOCK = 0.08, 0.004, 8, 1_000, 16_384


class _Moves:
    """Real tools (M, V·D), and how they may be moved: by differences of their nearest real neighbours."""

    def __init__(self, real: np.ndarray) -> None:
        self.flat = real.reshape(len(real), -1).astype(np.float32)
        squares = (self.flat.astype(np.float64) ** 2).sum(axis=1)
        distances = squares[:, None] - 2 * self.flat.astype(np.float64) @ self.flat.T + squares
        self.near = np.argsort(distances, axis=1)[:, 1 : NEIGHBOURS + 1]
        between = np.maximum(np.take_along_axis(distances, self.near, axis=1), 0)
        self.spread = float(np.sqrt(np.median(between) / self.flat.shape[1]))

    def draw(self, origin: np.ndarray, count: int, share: float, rng: np.random.Generator) -> np.ndarray:
        """Sums of ``count`` differences, float32 (B, V·D), for tools near the real ones of these numbers (B,)."""
        moved = np.zeros((len(origin), self.flat.shape[1]), dtype=np.float32)
        for _ in range(count):
            one, two = (self.near[origin, rng.integers(self.near.shape[1], size=len(origin))] for _ in range(2))
            amount = share * rng.standard_normal((len(origin), 1), dtype=np.float32)
            moved += amount * (self.flat[one] - self.flat[two])
        return moved


def write_copies(real: np.ndarray, tools: int, path: Path, *, growing: bool = True, seed: int = 0) -> None:
    """Write float32 (tools + 1,000, V, D): noisy copies of (M, V, D), block by block."""
    rng = np.random.default_rng(seed)
    moves, total = _Moves(real), tools + ADDED
    origins = rng.integers(len(real), size=max(total // 5, 1)) if growing else np.arange(len(real))
    centres = moves.flat[origins]
    if growing:
        for start in range(0, len(centres), BLOCK):
            rows = slice(start, start + BLOCK)
            centres[rows] += moves.draw(origins[rows], 4, 0.5, rng)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(total, *real.shape[1:]))
    for start in range(0, total, BLOCK):
        count = min(BLOCK, total - start)
        chosen = rng.integers(len(centres), size=count)
        block = centres[chosen] + (moves.draw(origins[chosen], 2, 0.35, rng) if growing else 0)
        block = block if growing else block + moves.draw(origins[chosen], 1, 0.7, rng)
        block += (0.15 if growing else 0.3) * moves.spread * rng.standard_normal(block.shape, dtype=np.float32)
        copies = rng.random(count) < NEAR + EXACT
        source = np.flatnonzero(~copies)[rng.integers((~copies).sum(), size=int(copies.sum()))]
        noise = np.float32(0.02 * moves.spread) * rng.standard_normal((len(source), block.shape[1]), dtype=np.float32)
        noise[rng.random(len(source)) < EXACT / (NEAR + EXACT)] = 0
        block[copies] = block[source] + noise
        out[start : start + count] = block.reshape(count, *real.shape[1:])
    out.flush()


def small_mixture(seed: int = 0) -> np.ndarray:
    """Float32 (200, 2, 128) in clusters inside clusters, for where no real embeddings are at hand."""
    rng = np.random.default_rng(seed)
    falling = np.arange(1, 129) ** -0.6
    centres = rng.standard_normal((12, 2, 128))[rng.integers(12, size=50)] + rng.standard_normal((50, 2, 128))
    return ((centres[rng.integers(50, size=200)] + 0.5 * rng.standard_normal((200, 2, 128))) * falling).astype("f4")


class Memory(threading.Thread):
    """Peak of the memory that this process owns, in GB; NaN where the system does not tell."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._file = math.nan, Path("/proc/self/status")
        self.look()

    def look(self) -> float:
        """Look now, and give the peak so far."""
        if self._file.exists():
            line = next(line for line in self._file.read_text().splitlines() if line.startswith("RssAnon"))
            self.peak = np.fmax(self.peak, int(line.split()[1]) * 1024 / 1e9)
        return float(self.peak)

    def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            time.sleep(0.01)


def work(path: Path, folder: Path) -> dict[str, Any]:
    """Measure one size in this process."""
    from toolscaler.codebook import Codebook, codebook_statistics, resolve_collisions

    everything = np.load(path, mmap_mode="r")
    data, added = everything[:-ADDED], everything[-ADDED:]
    parts: dict[str, dict[str, float]] = {}
    memory = Memory()
    memory.start()

    def measured(name: str, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        parts[name] = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "peak_gb": memory.look(),
        }
        return result

    parts["start"] = {"wall": 0.0, "cpu": 0.0, "peak_gb": memory.look()}
    names = [f"tool {row}" for row in range(len(data))]
    codebook = measured("fit", lambda: Codebook.fit(data, names, seed=0))
    reduced = measured("reduce", lambda: codebook.reduce(data))
    nearest = measured("encode", lambda: codebook.encode_reduced(reduced))
    unique = measured("unique codes", lambda: resolve_collisions(nearest, reduced, codebook.quantizers))
    measured("rows", lambda: codebook.level_embeddings(data))
    measured("save", lambda: codebook.save_pretrained(folder))
    measured("load", lambda: Codebook.from_pretrained(folder))
    measured(f"add {ADDED:,}", lambda: codebook.assign(added))
    found = measured("statistics", lambda: codebook_statistics(codebook, data))
    return {
        "tools": len(data),
        "map_gb": data.nbytes / 1e9,
        "file_gb": sum(item.stat().st_size for item in folder.iterdir()) / 1e9,
        "code_sizes": list(codebook.code_sizes),
        "collisions": found.collisions.rate,
        "left": found.remaining_collisions.rate,
        "added_error": unique.added_error,
        "error": found.relative_error,
        "parts": parts,
    }


def slope(rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    """Exponent of growth between the last two sizes a factor of three or more apart."""
    last = rows[-1]
    before = next((row for row in reversed(rows) if row["tools"] * 3 <= last["tools"]), rows[0])
    if before is last:
        return math.nan
    return math.log(value(last) / value(before)) / math.log(last["tools"] / before["tools"])


def markdown(rows: list[dict[str, Any]]) -> str:
    """Table of the curve, and the exponents at its end."""
    names = list(rows[0]["parts"])[1:]
    lines = [
        f"| tools | {' | '.join(f'{name}, s' for name in names)} | peak GB, fit | peak GB, all | map GB | collisions | "
        "added error |",
        "|---:" * (len(names) + 6) + "|",
    ]
    for row in rows:
        seconds = " | ".join(f"{row['parts'][name]['cpu']:.2f}" for name in names)
        peaks = f"{row['parts']['fit']['peak_gb']:.2f} | {row['parts']['statistics']['peak_gb']:.2f}"
        lines.append(
            f"| {row['tools']:,} | {seconds} | {peaks} | {row['map_gb']:.2f} | {100 * row['collisions']:.2f} % | "
            f"{100 * row['added_error']:.2f} % |"
        )
    if len(rows) > 1:
        exponents = [f"{slope(rows, lambda row, n=name: max(row['parts'][n]['cpu'], 1e-4)):.2f}" for name in names]
        lines.append(f"| exponent at the end | {' | '.join(exponents)} | | | | | |")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tools = [row["tools"] for row in rows]
    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for name in list(rows[0]["parts"])[1:]:
        times.plot(tools, [max(row["parts"][name]["cpu"], 1e-3) for row in rows], marker="o", markersize=3, label=name)
    times.set_ylabel("CPU seconds, one thread")
    memory.plot(tools, [row["parts"]["fit"]["peak_gb"] for row in rows], marker="o", markersize=3, label="peak of fit")
    whole = [row["parts"]["statistics"]["peak_gb"] for row in rows]
    memory.plot(tools, whole, marker="o", markersize=3, label="peak of everything")
    memory.plot(tools, [row["map_gb"] for row in rows], linestyle=":", label="embeddings on disk")
    memory.set_ylabel("GB")
    for axes in (times, memory):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("tools")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})


def run_curve(args: argparse.Namespace) -> None:
    """Measure every size that is not there yet; write JSON, table and plot into the output folder."""
    args.output.mkdir(parents=True, exist_ok=True)
    target = args.output / f"curve_{args.structure}{'_quick' if args.quick else ''}.json"
    rows: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8")) if target.exists() else []
    if args.embeddings is None:
        real = small_mixture()
    else:
        from toolscaler.compression import load_embeddings

        real = load_embeddings(args.embeddings)[1]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(args.threads))}
    for size in args.sizes or (QUICK if args.quick else SIZES):
        if any(row["tools"] == size for row in rows):
            continue
        with tempfile.TemporaryDirectory(dir=args.scratch) as name:
            folder = Path(name)
            write_copies(real, size, folder / "data.npy", growing=args.structure == "growing")
            command = [sys.executable, "-m", "benchmarks.codebook_curve", str(folder)]
            subprocess.run(command, check=True, env=environment, cwd=Path(__file__).resolve().parents[1])
            rows.append(json.loads((folder / "result.json").read_text(encoding="utf-8")))
        rows.sort(key=lambda row: row["tools"])
        target.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(next(row for row in rows if row["tools"] == size)), file=sys.stderr, flush=True)
    text = markdown(rows)
    target.with_suffix(".md").write_text(text, encoding="utf-8")
    plot(rows, target.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "codebook").mkdir()
    result = work(place / "data.npy", place / "codebook")
    (place / "result.json").write_text(json.dumps(result), encoding="utf-8")
