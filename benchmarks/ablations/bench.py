"""The bench: a catalogue with its compressor and gist embeddings goes in, one trained and measured cell comes out."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablations.variants import SENTENCES, Variant
from toolscaler.codebook import CatalogueSizeWarning, Codebook, codebook_statistics
from toolscaler.codebook.report_plots import preserved_distances
from toolscaler.data.documents import ToolDocument
from toolscaler.pipeline import RunConfig, run_pipeline
from toolscaler.pipeline.stages import Run

#: Catalogue -> its ``data`` section.
CATALOGUES: dict[str, dict[str, Any]] = {
    "starter": {"tools": "starter", "split": "given"},
    "toole": {"tools": "bundle:toole", "split": "query", "test_size": 0.1},
    "ultratool": {"tools": "bundle:ultratool", "options": {"language": "en"}, "split": "query", "test_size": 0.2},
}


@dataclasses.dataclass(frozen=True)
class Base:
    """A base and how it is trained, written out here so that a recipe may change and finished cells stay comparable.

    Attributes:
        model: The ``base`` section of the run files.
        compression: The trainer of their ``compression`` section.
        start_from: Weights that are tuned where a variant does not say: the base's own, or the compressor's.
        template: How a query becomes a prompt.
        learning_rate: Peak of the retrieval training.
        dropout: ``prompt_token_dropout`` of it.
        weight_decay: Of it.
        bf16: Whether both trainings compute in bfloat16.
    """

    model: Mapping[str, Any]
    compression: Mapping[str, Any]
    start_from: str
    template: str | None
    learning_rate: float
    dropout: float
    weight_decay: float
    bf16: bool


#: As in the recipes ``starter`` and ``toole_minilm``.
BASES = {
    "scratch": Base(
        {"model": "scratch", "scratch": {"num_train_epochs": 0}},
        {"train_base": True, "num_train_epochs": 5, "per_device_train_batch_size": 12},
        "compressor",
        None,
        2e-3,
        0.2,
        0.1,
        False,
    ),
    "minilm": Base(
        {"model_kwargs": {"is_decoder": True}, "tokenizer_kwargs": {"eos_token": "[SEP]"}},
        {"num_train_epochs": 4, "bf16": True},
        "base",
        "{query} =>",
        5e-4,
        0.0,
        0.01,
        True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every cell of a comparison may use: optimiser steps, their batch, and held-out queries."""

    steps: int = 1000
    batch: int = 32
    queries: int = 1500
    beams: int = 10


class Bench:
    """One catalogue. Compressors are trained when a variant first asks for their number of gist tokens.

    Args:
        catalogue: ``starter``, ``toole`` or ``ultratool``.
        data: Folder of the bundle's files; not for ``starter``.
        folder: Folder for run folders, one for each V.
        sentences: Folder or name of the sentence-transformers model.
        base: A name of :data:`BASES`.
    """

    def __init__(self, catalogue: str, data: Path | None, folder: Path, sentences: str, base: str = "scratch") -> None:
        self.catalogue, self.data, self.folder, self.sentences = catalogue, data, folder, sentences
        self.base_name, self.base = base, BASES[base]
        self._run = lru_cache(maxsize=None)(self._made_run)
        self._embeddings = lru_cache(maxsize=None)(self._made_embeddings)

    def _made_run(self, num_gists: int) -> Run:
        data = dict(CATALOGUES[self.catalogue])
        if self.data is not None:
            data["folder"] = str(self.data)
        config = RunConfig.from_dict(
            {
                "output_dir": str(self.folder / f"v{num_gists}"),
                "data": data,
                "base": {"model": self.sentences, **self.base.model},
                "compression": {"num_gist_tokens": num_gists, "trainer": self.base.compression},
            }
        )
        return Run(config, run_pipeline(config, until="encode"))

    @cached_property
    def run(self) -> Run:
        """Data, base, compressor and gist embeddings of the paper's V = 2."""
        return self._run(2)

    @cached_property
    def texts(self) -> tuple[list[dict[str, Any]], list[ToolDocument]]:
        """Training pairs of a text and the ids of its tools, and the documents."""
        from toolscaler.data import document_prompts

        rows = [{"prompt": query.text, "tools": list(query.tools)} for query in self.run.queries("train")]
        for document in self.run.documents:
            rows += [{"prompt": text, "tools": [document.id]} for text in document_prompts(document)]
        return rows, self.run.documents

    def embeddings(self, variant: Variant) -> np.ndarray:
        """Float32 (N, V, D) of a variant, before any shuffling."""
        return self._embeddings(variant.source, variant.num_gists, variant.readout_layers)

    def _made_embeddings(self, source: str, num_gists: int, readout_layers: int) -> np.ndarray:
        from toolscaler.evaluation.baselines import EmbeddingRetriever

        if source == "gists" and readout_layers == 1:
            return self._run(num_gists).load_embeddings()
        if source == "gists":
            return self._read_off(num_gists, readout_layers)
        name = self.sentences if source == SENTENCES else source
        found = EmbeddingRetriever(self.run.documents, name).embeddings
        return _as_wide_as_the_model(found, self._run(2).load_embeddings().shape[2])[:, None]

    def _read_off(self, num_gists: int, readout_layers: int) -> np.ndarray:
        from transformers import AutoTokenizer

        from toolscaler.compression import GistForToolCompression, encode_documents

        run = self._run(num_gists)
        source = run.folder / "compression" / "model"
        model, tokenizer = GistForToolCompression.from_pretrained(source), AutoTokenizer.from_pretrained(source)
        return encode_documents(
            model, tokenizer, run.documents, readout_layers=readout_layers, max_tokens_per_batch=8192
        )

    def start(self, variant: Variant) -> tuple[Any, Any]:
        """The model that is tuned, and the base's tokenizer."""
        from toolscaler.compression import GistForToolCompression

        run = self._run(variant.num_gists)
        model, tokenizer = run.load_base()
        if (variant.start_from or self.base.start_from) == "compressor":
            model = GistForToolCompression.from_pretrained(run.folder / "compression" / "model").backbone
        if variant.untie:
            import torch

            model.config.tie_word_embeddings = False
            model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
        return model, tokenizer


def _as_wide_as_the_model(vectors: np.ndarray, width: int) -> np.ndarray:
    """Float32 (N, D): zeros at the end, or the leading principal axes; rows must be as wide as the model's."""
    if vectors.shape[1] <= width:
        return np.pad(vectors, ((0, 0), (0, width - vectors.shape[1]))).astype(np.float32)
    centre = vectors.mean(axis=0)
    axes = np.linalg.svd(vectors - centre, full_matrices=False)[2][:width]
    found = (vectors - centre) @ axes.T
    return np.pad(found, ((0, 0), (0, width - found.shape[1]))).astype(np.float32)


def fit_codebook(bench: Bench, variant: Variant, seed: int) -> tuple[Codebook, np.ndarray, float]:
    """Fit the variant's codebook; give it, the embeddings that the tools really have, and the seconds of the fit."""
    true = bench.embeddings(variant)
    seen = true
    if variant.shuffle:
        rng = np.random.default_rng([seed, 77])
        rows = rng.permutation(len(true))[: round(variant.shuffle * len(true))]
        seen = true.copy()
        seen[rows] = true[np.roll(rows, 1)]
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CatalogueSizeWarning)
        codebook = Codebook.fit(seen, [d.id for d in bench.run.documents], seed=seed, **variant.codebook)
    return codebook, true, time.perf_counter() - started


def report_figures(codebook: Codebook, embeddings: np.ndarray, documents: list[ToolDocument], seed: int) -> dict:
    """The codebook report as single numbers; prefixes of one code, of half of them, and of all but the last."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CatalogueSizeWarning)
        found = codebook_statistics(codebook, embeddings, documents=documents, reseed=True, seed=seed)
    preserved = preserved_distances(codebook, embeddings, seed=seed)
    content = codebook.num_gists * codebook.num_levels
    places = {"first": 0, "half": max((content + 1) // 2 - 1, 0)}
    figures = {
        "collision rate before": found.collisions.rate,
        "tools moved": found.moved,
        "error": found.relative_error,
        "error before policy": found.nearest_relative_error,
        "error in D dimensions": found.full_relative_error,
        "utilisation": float(np.mean(found.utilisation)),
        "perplexity": float(np.mean(found.perplexity)),
        "perplexity / size": float(np.mean(np.divide(found.perplexity, codebook.code_sizes))),
        "Gini": float(np.mean(found.gini)),
        "Gini, first": found.gini[0],
        "effective codes": found.effective_codes,
        "hit rate": found.hit_rate,
        "code length": codebook.code_length,
        "code tokens": sum(codebook.code_sizes),
        "distance preserved": preserved[-1],
        "distance preserved, first": preserved[0],
    }
    series = {
        "neighbour recall": found.neighbour_recall,
        "prefix perplexity": found.prefix_perplexity,
        "noise stability": found.perturbation_stability,
        "reseed stability": found.reseeding_stability,
        **{f"purity {name}": values for name, values in found.prefix_purity.items()},
    }
    for name, values in series.items():
        figures |= {f"{name}, {where}": values[place] for where, place in places.items() if place < len(values)}
    figures["noise stability, all"] = found.perturbation_stability[-1]
    lift = found.neighbour_recall[0] - found.random_prefix_sharing[0]
    return {**figures, "neighbour recall above chance, first": lift}


def run_cell(bench: Bench, variant: Variant, seed: int, budget: Budget) -> dict[str, Any]:
    """Fit, start, train for the budget's steps, and measure; give what the cell's file holds."""
    from toolscaler.decoding import GenerativeRetriever
    from toolscaler.embedding import initialize_code_embeddings, reframe_vectors
    from toolscaler.evaluation.retrieval import ToolRetrievalEvaluator
    from toolscaler.tokenization import ToolscalerTokenizer

    codebook, embeddings, fit_seconds = fit_codebook(bench, variant, seed)
    figures = report_figures(codebook, embeddings, bench.run.documents, seed)
    model, base_tokenizer = bench.start(variant)
    tokenizer = ToolscalerTokenizer.from_tokenizer(base_tokenizer, codebook, retrieval_template=bench.base.template)
    how = dict(variant.embedding)
    if how.keys() & {"centre", "noise"}:
        rows, centre, noise = reframe_vectors(tokenizer, embeddings), how.pop("centre", False), how.pop("noise", 0.0)
        how["vectors"] = spread_vectors(rows, tokenizer.code_sizes, centre, noise, seed)
    initialize_code_embeddings(model, tokenizer, embeddings, seed=seed, **how)
    started = time.perf_counter()
    loss = _train(bench, variant, model, tokenizer, seed, budget)
    trained = time.perf_counter()
    model.eval()
    queries = held_out(bench, budget.queries)
    evaluator = ToolRetrievalEvaluator(queries, (1, 5))
    result = evaluator(GenerativeRetriever(model, tokenizer), num_beams=budget.beams, batch_size=64)
    return {
        "variant": variant.name,
        "settings": variant.settings(),
        "seed": seed,
        "budget": dataclasses.asdict(budget),
        "base": bench.base_name,
        "catalogue": bench.catalogue,
        "tools": len(codebook),
        "code_sizes": list(codebook.code_sizes),
        "figures": figures,
        "loss": loss,
        "per_query": {name: np.round(result.per_query[name], 6).tolist() for name in ("ndcg@1", "ndcg@5")},
        "queries_sha256": result.queries_sha256,
        "fit_seconds": fit_seconds,
        "train_seconds": trained - started,
        "evaluate_seconds": time.perf_counter() - trained,
    }


def spread_vectors(vectors: np.ndarray, code_sizes: Sequence[int], centre: bool, noise: float, seed: int) -> np.ndarray:
    """Draw reframed rows apart: take each level's mean away, and mix in a direction of its own for each row.

    Args:
        vectors: float32 (rows, D), level after level.
        code_sizes: Rows of each level.
        centre: Whether the mean of a level's rows is taken away.
        noise: Share of a row's squared length that is random, from 0 to 1.
        seed: Of the random directions.
    """
    import torch
    from torch.nn.functional import normalize

    rows = torch.from_numpy(vectors.copy())
    if centre:
        rows = torch.cat([level - level.mean(0) for level in rows.split(list(code_sizes))])
    if noise:
        other = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
        rows = (1 - noise) ** 0.5 * normalize(rows) + noise**0.5 * normalize(other)
    return np.asarray(rows.numpy())


def held_out(bench: Bench, count: int) -> list[Any]:
    """Held-out queries, at most so many, the same for every cell."""
    queries = bench.run.queries("test")
    rows = np.sort(np.random.default_rng(0).permutation(len(queries))[:count])
    return [queries[row] for row in rows]


def training_rows(bench: Bench, several: str, seed: int, count: int) -> list[dict[str, Any]]:
    """Draw training rows: text and tools, one row a relevant tool or one row a query."""
    rng, texts = np.random.default_rng(seed), bench.texts[0]
    if several == "one row each":
        pairs = [{"prompt": row["prompt"], "tools": [tool]} for row in texts for tool in row["tools"]]
    elif several == "one drawn":
        pairs = [{"prompt": row["prompt"], "tools": [row["tools"][rng.integers(len(row["tools"]))]]} for row in texts]
    else:  # "all in order": the completion is every code, one after the other
        pairs = texts
    order = np.concatenate([rng.permutation(len(pairs)) for _ in range(-(-count // len(pairs)))])[:count]
    return [pairs[row] for row in order]


def _train(bench: Bench, variant: Variant, model: Any, tokenizer: Any, seed: int, budget: Budget) -> float:
    """Tune all weights for the budget's steps on rows drawn by the seed; give the last logged loss."""
    from transformers import PrinterCallback
    from transformers.utils import logging as hub_logging

    from toolscaler.training.retrieval import RetrievalConfig, retrieval_trainer

    hub_logging.set_verbosity_error()
    hub_logging.disable_progress_bar()
    logging.getLogger("toolscaler").setLevel(logging.ERROR)
    code = {name: tokenizer.tool_code_text(name) for name in tokenizer.tool_names}
    drawn = training_rows(bench, variant.several, seed, budget.steps * budget.batch)
    rows = [{"prompt": row["prompt"], "completion": "".join(code[tool] for tool in row["tools"])} for row in drawn]
    with tempfile.TemporaryDirectory() as folder:
        settings = RetrievalConfig(
            output_dir=folder,
            max_steps=budget.steps,
            learning_rate=bench.base.learning_rate,
            per_device_train_batch_size=budget.batch,
            gradient_accumulation_steps=1,
            prompt_token_dropout=bench.base.dropout,
            train_sampling_strategy="group_by_length",
            weight_decay=bench.base.weight_decay,
            bf16=bench.base.bf16,
            save_strategy="no",
            logging_steps=max(budget.steps // 10, 1),
            disable_tqdm=True,
            seed=seed,
        )
        trainer = retrieval_trainer(model, tokenizer, rows, settings)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return float([entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1])
