"""Fit a codebook on a large synthetic catalogue, against scikit-learn as the paper's released code calls it.

Two catalogues, hierarchical Gaussian mixtures of 46,985 tools x 2 gists x 4,096 dimensions (49 categories > 10,439
collections > APIs): `easy` has APIs far apart (spread 0.6, 1 % near duplicates), `hard` has them close (spread 0.35,
8 % near duplicates, 0.4 % exact ones). Measured, each in a fresh process and alternating:

- ours: `Codebook.fit` with its defaults, and with collisions="share" (PCA and clustering only);
- scikit-learn: PCA(32), then MiniBatchKMeans(n_clusters=512, batch_size=100, random_state=0) level after level;
- once a catalogue, full Lloyd k-means (scikit-learn KMeans) on the vectors that our PCA gives.

Errors are residual over total sum of squares in PCA space, both gists together. CPU time is that of the process, all
threads; on a busy machine it says more than wall time.

    python benchmarks/codebook_fit.py --quick            # under a minute
    python benchmarks/codebook_fit.py --json out.json --markdown out.md
    python benchmarks/codebook_fit.py --million --threads 2     # 1,000,000 tools of 2 x 32 reduced dimensions
    python -m benchmarks.codebook_fit --curve --embeddings RUN/embeddings    # the whole path, 10^3 to 10^6 tools

`--million` fits, codes and makes unique a catalogue that is reduced already, with the mixture of each catalogue above
drawn in 32 dimensions. `--joint` adds, for each catalogue, the jointly optimal reassignment and beam encoding.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CATALOGUES = {
    "easy": {"spread": 0.6, "near": 0.01, "exact": 0.0},
    "hard": {"spread": 0.35, "near": 0.08, "exact": 0.004},
}
FULL = {"tools": 46_985, "hidden": 4096, "categories": 49, "collections": 10_439, "centroids": 512, "reduced": 32}
QUICK = {"tools": 4_000, "hidden": 512, "categories": 20, "collections": 900, "centroids": 128, "reduced": 32}
GISTS, LEVELS, LATENT = 2, 2, 128


def generate(path: Path, size: dict[str, int], spread: float, near: float, exact: float, seed: int = 0) -> None:
    """Write float32 (N, 2, D) block by block: a latent mixture with a falling spectrum, rotated into D, plus noise."""
    rng = np.random.default_rng(seed)
    tools, hidden = size["tools"], size["hidden"]
    spectrum = np.arange(1, LATENT + 1) ** -0.6
    spectrum = np.tile(spectrum / np.sqrt((spectrum**2).mean()), GISTS)
    width = GISTS * LATENT
    category_of = rng.choice(size["categories"], size["collections"], p=rng.dirichlet(np.full(size["categories"], 1.5)))
    weights = rng.pareto(2.5, size["collections"]) + 0.3
    extra = rng.choice(size["collections"], tools - size["collections"], p=weights / weights.sum())
    collection = np.concatenate([np.arange(size["collections"]), extra])
    centres = rng.standard_normal((size["categories"], width))[category_of]
    centres += rng.standard_normal((size["collections"], width))
    latent = (centres[collection] + spread * rng.standard_normal((tools, width))) * spectrum
    shuffled = rng.permutation(tools)
    count_near, count_exact = int(near * tools), int(exact * tools)
    copies, originals = shuffled[: count_near + count_exact], shuffled[count_near + count_exact :]
    source = np.arange(tools)
    source[copies] = rng.choice(originals, len(copies))
    latent = latent[source]
    shift = 0.05 * spread * rng.standard_normal((count_near, width)) * spectrum
    latent[copies[:count_near]] += shift
    rotations = [np.linalg.qr(rng.standard_normal((hidden, LATENT)))[0].T.astype(np.float32) for _ in range(GISTS)]
    mean = rng.standard_normal((GISTS, hidden)).astype(np.float32)
    noise = np.float32(0.35 * np.sqrt(LATENT / hidden))
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(tools, GISTS, hidden))
    near_rows = np.isin(np.arange(tools), copies[:count_near])
    for start in range(0, tools, 2048):
        rows = slice(start, min(start + 2048, tools))
        for gist in range(GISTS):
            part = latent[rows, gist * LATENT : (gist + 1) * LATENT].astype(np.float32)
            out[rows, gist] = part @ rotations[gist] + mean[gist]
        # Noise belongs to the tool, so that copies have their original's.
        for row in range(rows.start, rows.stop):
            own = np.random.default_rng([seed, 1, int(source[row])])
            out[row] += noise * own.standard_normal((GISTS, hidden), dtype=np.float32)
            if near_rows[row]:
                own = np.random.default_rng([seed, 2, row])
                out[row] += 0.05 * noise * own.standard_normal((GISTS, hidden), dtype=np.float32)
    out.flush()


def generate_reduced(tools: int, spread: float, near: float, exact: float, seed: int = 0) -> np.ndarray:
    """Give float32 (N, 2, 32): the same mixture, drawn in 32 dimensions a gist, near and exact copies included."""
    rng = np.random.default_rng(seed)
    width = (GISTS, FULL["reduced"])
    collections = max(tools * FULL["collections"] // FULL["tools"], 1)
    spectrum = (np.arange(1, width[1] + 1) ** -0.6).astype(np.float32)
    category_of = rng.integers(FULL["categories"], size=collections)
    centres = rng.standard_normal((FULL["categories"], *width), dtype=np.float32)[category_of]
    centres += rng.standard_normal((collections, *width), dtype=np.float32)
    collection = rng.integers(collections, size=tools)
    data = np.empty((tools, *width), dtype=np.float32)
    count_near, count_exact = int(near * tools), int(exact * tools)
    originals = tools - count_near - count_exact
    for start in range(0, tools, 65_536):
        stop = min(start + 65_536, tools)
        own = rng.standard_normal((stop - start, *width), dtype=np.float32)
        data[start:stop] = (centres[collection[start:stop]] + np.float32(spread) * own) * spectrum
    data[originals:] = data[rng.integers(originals, size=tools - originals)]
    shift = rng.standard_normal((count_near, *width), dtype=np.float32)
    data[originals : originals + count_near] += np.float32(0.05 * spread) * shift * spectrum
    return data


class Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


def _squares(parts: list[np.ndarray]) -> float:
    return float(sum(np.einsum("i,i->", part.ravel(), part.ravel(), dtype=np.float64) for part in parts))


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _distinct(codes: np.ndarray) -> int:
    return len(np.unique(codes, axis=0))


def work_ours(data: np.ndarray, size: dict[str, int], policy: str, reduced_path: Path | None) -> dict[str, Any]:
    from toolscaler.codebook import Codebook
    from toolscaler.codebook.collisions import count_collisions, squared_errors

    with Clock() as clock:
        codebook = Codebook.fit(
            data, num_centroids=size["centroids"], reduced_dim=size["reduced"], collisions=policy, seed=0
        )
    peak = _peak_gb()
    reduced = codebook.reduce(data)
    total = _squares([reduced[:, gist] for gist in range(GISTS)])
    nearest = codebook.encode_reduced(reduced)
    counts = count_collisions(nearest, data)
    if reduced_path is not None:
        np.save(reduced_path, reduced)
        np.savez(reduced_path.with_suffix(".npz"), reduced=reduced, centroids=codebook.centroids, codes=nearest)
    return {
        "wall": clock.wall,
        "cpu": clock.cpu,
        "peak_gb": peak,
        "retained": float(codebook.pca_explained_variance_ratio.sum(axis=1).mean()),
        "error": float(squared_errors(codebook.codes, reduced, codebook.centroids).sum() / total),
        "nearest_error": float(squared_errors(nearest, reduced, codebook.centroids).sum() / total),
        "left": len(data) - _distinct(codebook.codes),
        "harmful": counts.harmful,
        "duplicate": counts.duplicate,
    }


def work_sklearn(data: np.ndarray, size: dict[str, int]) -> dict[str, Any]:
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    codes, left, total, retained, stages = [], [], 0.0, [], {}
    with Clock() as clock:
        for gist in range(GISTS):
            with Clock() as stage:
                pca = PCA(size["reduced"], random_state=0)
                rest = pca.fit_transform(data[:, gist])
            stages["pca_cpu"] = stages.get("pca_cpu", 0.0) + stage.cpu
            retained.append(float(pca.explained_variance_ratio_.sum()))
            total += _squares([rest])
            for _ in range(LEVELS):
                fitted = MiniBatchKMeans(n_clusters=size["centroids"], batch_size=100, random_state=0).fit(rest)
                labels = fitted.predict(rest)
                rest = rest - fitted.cluster_centers_[labels]
                codes.append(labels)
            left.append(rest)
    return {
        "wall": clock.wall,
        "cpu": clock.cpu,
        **stages,
        "peak_gb": _peak_gb(),
        "retained": statistics.mean(retained),
        "error": _squares(left) / total,
        "left": len(data) - _distinct(np.stack(codes, axis=1)),
    }


def work_lloyd(reduced: np.ndarray, size: dict[str, int]) -> dict[str, Any]:
    from sklearn.cluster import KMeans

    left, codes = [], []
    with Clock() as clock:
        for gist in range(GISTS):
            rest = np.ascontiguousarray(reduced[:, gist])
            for _ in range(LEVELS):
                fitted = KMeans(size["centroids"], n_init=1, random_state=0, algorithm="lloyd").fit(rest)
                rest = rest - fitted.cluster_centers_[fitted.labels_]
                codes.append(fitted.labels_)
            left.append(rest)
    total = _squares([reduced[:, gist] for gist in range(GISTS)])
    return {
        "wall": clock.wall,
        "cpu": clock.cpu,
        "error": _squares(left) / total,
        "left": len(reduced) - _distinct(np.stack(codes, axis=1)),
    }


def work_million(tools: int, catalogue: str) -> dict[str, Any]:
    """Fit, quantise and make unique: residual k-means on vectors that are reduced already."""
    from toolscaler.codebook import Codebook
    from toolscaler.codebook.collisions import squared_errors

    data = generate_reduced(tools, **CATALOGUES[catalogue])
    with Clock() as clock:
        codebook = Codebook.fit(data, num_centroids=FULL["centroids"], projection="none", seed=0)
    peak = _peak_gb()
    reduced = codebook.reduce(data)
    nearest = codebook.encode_reduced(reduced)
    before, after = (squared_errors(codes, reduced, codebook.quantizers).sum() for codes in (nearest, codebook.codes))
    return {
        "tools": tools,
        "wall": clock.wall,
        "cpu": clock.cpu,
        "peak_gb": peak,
        "collisions": 1 - _distinct(nearest) / tools,
        "left": tools - _distinct(codebook.codes),
        "error": float(before / _squares([reduced])),
        "error_added_by_unique_codes": float(after / before - 1),
    }


def work_joint(saved: Path) -> dict[str, Any]:
    """Greedy against joint reassignment, and greedy against beam encoding, on one fitted codebook."""
    from toolscaler.codebook import resolve_collisions
    from toolscaler.codebook.collisions import as_quantizers

    with np.load(saved) as arrays:
        reduced, centroids, codes = arrays["reduced"], arrays["centroids"], arrays["codes"]
    found: dict[str, Any] = {}
    quantizers = as_quantizers(centroids)
    with Clock() as clock:
        parts = [quantizer.quantize(reduced[:, gist], beam_width=8) for gist, quantizer in enumerate(quantizers)]
    found["beam_cpu"] = clock.cpu
    base = resolve_collisions(codes, reduced, centroids, "share").error_before
    for encoding, own in (("greedy", codes), ("beam", np.concatenate(parts, axis=1))):
        for reassignment in ("greedy", "joint"):
            with Clock() as clock:
                done = resolve_collisions(own, reduced, centroids, reassignment=reassignment)
            found[f"{encoding}_{reassignment}"] = {
                "cpu": clock.cpu,
                "left": len(own) - _distinct(done.codes),
                "nearest_error": done.error_before / base - 1,
                "added_error": done.added_error,
                "error_against_greedy_encoding": done.error_after / base - 1,
            }
    return found


def work(args: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in the process that was started for it."""
    size = QUICK if args.quick else FULL
    if args.worker == "generate":
        generate(args.input, size, **CATALOGUES[args.catalogue])
        return {}
    if args.worker == "lloyd":
        return work_lloyd(np.load(args.reduced), size)
    if args.worker == "joint":
        return work_joint(args.reduced)
    if args.worker == "million":
        return work_million(args.tools, args.catalogue)
    data = np.load(args.input)
    if args.worker == "sklearn":
        return work_sklearn(data, size)
    return work_ours(data, size, "share" if args.worker == "ours_share" else "reassign", args.reduced)


def spawn(args: argparse.Namespace, worker: str, catalogue: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", worker, "--catalogue", catalogue]
    command += ["--input", str(folder / f"{catalogue}.npy"), "--result", str(folder / "result.json")]
    if worker in ("ours_share", "lloyd"):
        command += ["--reduced", str(folder / f"{catalogue}_reduced.npy")]
    if worker == "joint":
        command += ["--reduced", str(folder / f"{catalogue}_reduced.npz")]
    command += ["--tools", str(args.tools)]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(args.threads))}
    subprocess.run([*command, *(["--quick"] if args.quick else [])], check=True, env=environment)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        for catalogue in args.catalogues:
            spawn(args, "generate", catalogue, folder)
            runs: dict[str, list[dict[str, Any]]] = {"ours": [], "ours_share": [], "sklearn": []}
            for repeat in range(args.repeats):
                for worker, found in runs.items():
                    found.append(spawn(args, worker, catalogue, folder))
                    print(f"{catalogue} {worker} {repeat}: {json.dumps(found[-1])}", file=sys.stderr, flush=True)
            merged = {
                worker: {key: statistics.median(r[key] for r in rs) for key in rs[0]} for worker, rs in runs.items()
            }
            merged["lloyd"] = spawn(args, "lloyd", catalogue, folder)
            (folder / f"{catalogue}.npy").unlink()
            results[catalogue] = {**merged, "goals": goals(merged)}
            if args.joint:
                results[catalogue]["joint"] = spawn(args, "joint", catalogue, folder)
                print(f"{catalogue} joint: {json.dumps(results[catalogue]['joint'])}", file=sys.stderr, flush=True)
    return {
        "machine": machine(args.threads),
        "size": {**(QUICK if args.quick else FULL), "gists": GISTS, "levels": LEVELS},
        "repeats": args.repeats,
        "catalogues": results,
    }


def measure_million(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        return {
            "machine": machine(args.threads),
            **{catalogue: spawn(args, "million", catalogue, Path(name)) for catalogue in args.catalogues},
        }


def goals(found: dict[str, dict[str, float]]) -> dict[str, float]:
    ours, sklearn, lloyd = found["ours"], found["sklearn"], found["lloyd"]
    return {
        "peak_gb": ours["peak_gb"],
        "cpu_of_sklearn": found["ours_share"]["cpu"] / sklearn["cpu"],
        "wall_of_sklearn": found["ours_share"]["wall"] / sklearn["wall"],
        "cpu_of_sklearn_with_unique_codes": ours["cpu"] / sklearn["cpu"],
        "error_above_lloyd": ours["nearest_error"] / lloyd["error"] - 1,
        "sklearn_error_above_lloyd": sklearn["error"] / lloyd["error"] - 1,
        "error_added_by_unique_codes": ours["error"] / ours["nearest_error"] - 1,
    }


def machine(threads: int) -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = [f"python {platform.python_version()}", f"numpy {np.__version__}"]
    try:
        import sklearn

        versions.append(f"scikit-learn {sklearn.__version__}")
    except ImportError:
        pass
    return f"{model}, {os.cpu_count()} CPUs, {threads} BLAS threads; {', '.join(versions)}"


def markdown(result: dict[str, Any]) -> str:
    size = result["size"]
    lines = [
        f"{size['tools']:,} tools x {size['gists']} gists x {size['hidden']:,}, R {size['reduced']}, "
        f"K {size['centroids']}, L {size['levels']}; median of {result['repeats']}; {result['machine']}",
        "",
        "| catalogue | method | CPU s | wall s | peak RSS GB | variance kept | error | collisions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for catalogue, found in result["catalogues"].items():
        for name, label in (
            ("ours", "ours, unique codes (default)"),
            ("ours_share", "ours, PCA and clustering only"),
            ("sklearn", "scikit-learn PCA + MiniBatchKMeans(100)"),
            ("lloyd", "scikit-learn KMeans (Lloyd) on our PCA, k-means only"),
        ):
            row = found[name]
            peak = f"{row['peak_gb']:.2f}" if "peak_gb" in row else ""
            kept = f"{row['retained']:.4f}" if "retained" in row else ""
            share = f"{100 * row['left'] / size['tools']:.2f} %"
            cells = (
                catalogue,
                label,
                f"{row['cpu']:.1f}",
                f"{row['wall']:.1f}",
                peak,
                kept,
                f"{row['error']:.4f}",
                share,
            )
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| catalogue | " + " | ".join(next(iter(result["catalogues"].values()))["goals"]) + " |"]
    lines.append("|---" * (len(lines[-1].split("|")) - 2) + "|")
    for catalogue, found in result["catalogues"].items():
        lines.append(f"| {catalogue} | " + " | ".join(f"{value:.4f}" for value in found["goals"].values()) + " |")
    return "\n".join(lines) + "\n"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4,000 tools of 512 dimensions, K 128")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads; more than the free cores only disturb")
    parser.add_argument("--catalogues", nargs="+", choices=sorted(CATALOGUES), default=sorted(CATALOGUES))
    parser.add_argument("--scratch", type=Path, help="folder for 1.6 GB of temporary files")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    parser.add_argument("--million", action="store_true", help="only the large catalogue of reduced vectors")
    parser.add_argument("--tools", type=int, default=1_000_000, help="its size")
    parser.add_argument("--curve", action="store_true", help="time and memory against the number of tools")
    parser.add_argument("--embeddings", type=Path, help="real embeddings that the curve's are copies of")
    parser.add_argument("--structure", choices=("growing", "fixed"), default="growing", help="clusters of the curve")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of tools of the curve")
    parser.add_argument("--output", type=Path, default=Path("runs/curve"), help="folder of the curve's results")
    parser.add_argument("--joint", action="store_true", help="also joint reassignment and beam encoding")
    hidden = argparse.SUPPRESS
    parser.add_argument(
        "--worker", choices=("generate", "ours", "ours_share", "sklearn", "lloyd", "joint", "million"), help=hidden
    )
    parser.add_argument("--catalogue", choices=sorted(CATALOGUES), help=hidden)
    parser.add_argument("--input", type=Path, help=hidden)
    parser.add_argument("--reduced", type=Path, help=hidden)
    parser.add_argument("--result", type=Path, help=hidden)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if args.worker:
        args.result.write_text(json.dumps(work(args)), encoding="utf-8")
        return
    if args.curve:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also when this file is run by its path
        from benchmarks.codebook_curve import run_curve

        run_curve(args)
        return
    result = measure_million(args) if args.million else measure(args)
    table = json.dumps(result, indent=2) + "\n" if args.million else markdown(result)
    print(table)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
