"""What each stage of a run does: read what earlier stages left in the run folder, do one thing, leave its own there."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolscaler._files import atomic_folder, write_json, write_text
from toolscaler.data.documents import ToolDocument
from toolscaler.data.queries import ToolQuery
from toolscaler.data.trajectories import Trajectory
from toolscaler.errors import CodebookError, ConfigError, DataError
from toolscaler.pipeline.config import RunConfig, build_section, convert_value

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook
    from toolscaler.tokenization import ToolscalerTokenizer

logger = logging.getLogger(__name__)

_PARTS = ("train", "validation", "test")


class Run:
    """A run folder with its settings; the stages' results are read from it on demand.

    Args:
        config: The settings.
        folder: The run folder.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self.config, self.folder = config, folder

    @cached_property
    def documents(self) -> list[ToolDocument]:
        """The catalogue, in a fixed order."""
        return [ToolDocument.from_dict(row) for row in _read_lines(self.folder / "data" / "tools.jsonl")]

    def queries(self, part: str) -> list[ToolQuery]:
        """Labelled queries of ``train``, ``validation`` or ``test``."""
        rows = _read_lines(self.folder / "data" / f"{part}.jsonl")
        return [ToolQuery(row["query"], tuple(row["tools"]), row["id"], row["split"]) for row in rows]

    def load_base(self) -> tuple[Any, Any]:
        """Load the base model and its tokenizer."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        base = self.config.base
        if base.model == "scratch":
            name, revision = str(self.folder / "base" / "model"), None
        else:
            name, revision = base.model, base.revision
        model = AutoModelForCausalLM.from_pretrained(name, revision=revision, **base.model_kwargs)
        return model, AutoTokenizer.from_pretrained(name, revision=revision, **base.tokenizer_kwargs)

    def trajectories(self) -> list[Trajectory]:
        """Read the training trajectories."""
        from toolscaler.data import read_trajectories

        return list(read_trajectories(self.folder / "data" / "trajectories.jsonl"))

    def load_tokenizer(self) -> ToolscalerTokenizer:
        """Load the tokenizer that knows the codes."""
        from toolscaler.tokenization import ToolscalerTokenizer

        return ToolscalerTokenizer.from_pretrained(str(self.folder / "vocabulary"))

    def load_embeddings(self) -> np.ndarray:
        """Load the gist embeddings, float32 (N, V, D), in the order of :attr:`documents`."""
        from toolscaler.compression import load_embeddings

        ids, values = load_embeddings(self.folder / "embeddings")
        if list(ids) != [document.id for document in self.documents]:
            raise DataError("the embeddings are those of another catalogue; redo the encode stage")
        return values

    def load_codebook(self) -> Codebook:
        """Load the fitted codebook with its assignment table."""
        from toolscaler.codebook import Codebook

        return Codebook.from_pretrained(self.folder / "codebook")


def trainer_settings(cls: type[Any], values: Mapping[str, Any], section: str, **fixed: Any) -> Any:
    """Build a Trainer's settings from a run file's ``trainer`` mapping, key by key.

    Raises:
        ConfigError: A key is unknown or set by the run itself, or a value is not allowed.
    """
    taken = sorted(set(values) & set(fixed))
    if taken:
        raise ConfigError(f"{section}.{taken[0]}", values[taken[0]], "nothing here: the run sets it")
    known = {item.name: item for item in fields(cls) if item.init}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{section}.{key}"
        if key not in known:
            build_section(cls, {key: value}, section)  # raises, with the nearest name
        default = known[key].default
        plain = type(default) if isinstance(default, bool | int | float | str) else Any
        # Numbers that upstream types as float may be given as whole numbers, and the other way round.
        checked[key] = convert_value(value, float if plain is int and isinstance(value, float | str) else plain, name)
    try:
        return cls(**checked, **fixed)
    except (ValueError, TypeError) as error:
        raise ConfigError(section, dict(values), f"values that {cls.__name__} takes: {error}") from error


def check_settings(config: RunConfig) -> None:
    """Check the sections that belong to trainers and the quantiser, so that a slip is told at once and not hours later.

    Raises:
        ConfigError: See :func:`trainer_settings`.
    """
    from toolscaler.codebook.quantizers import check_quantizer_options
    from toolscaler.pipeline.rounds import check_round_settings
    from toolscaler.pipeline.tokenization import check_tokenization_settings
    from toolscaler.pipeline.trajectories import check_agent_settings
    from toolscaler.training.compression import CompressionConfig
    from toolscaler.training.retrieval import RetrievalConfig
    from toolscaler.training.scratch import ScratchConfig

    try:
        check_quantizer_options(config.codebook.quantizer, config.codebook.quantizer_options)
    except CodebookError as error:
        raise ConfigError("codebook.quantizer_options", config.codebook.quantizer_options, str(error)) from error
    trainer_settings(CompressionConfig, config.compression.trainer, "compression.trainer", output_dir=config.output_dir)
    trainer_settings(RetrievalConfig, config.retrieval.trainer, "retrieval.trainer", output_dir=config.output_dir)
    build_section(ScratchConfig, config.base.scratch, "base.scratch")
    check_agent_settings(config)
    check_round_settings(config)
    check_tokenization_settings(config)


def data_stage(run: Run) -> dict[str, Any]:
    """Read tools and queries, check every label, split, and write all of it as JSON lines."""
    from toolscaler.data import save_trajectories, split_queries
    from toolscaler.pipeline.trajectories import read_training_trajectories, with_finish_tool

    section = run.config.data
    documents, queries, notes = _load_data(run)
    names = {document.id for document in documents}
    unknown = sorted({tool for query in queries for tool in query.tools} - names)
    if unknown:
        raise DataError(f"{len(unknown)} labels name no tool of the catalogue, for example {unknown[0]!r}")
    labelled = [query for query in queries if query.tools]
    splits = split_queries(
        labelled,
        by=section.split,
        test_size=section.test_size,
        validation_size=section.validation_size,
        seed=section.seed,
    )
    parts = {name: list(getattr(splits, name)) for name in _PARTS}
    limit = section.max_test_queries
    if limit is not None and limit < len(parts["test"]):
        drawn = np.random.default_rng(section.seed).permutation(len(parts["test"]))[:limit]
        parts["test"] = [parts["test"][row] for row in sorted(drawn)]
    for name in ("train", "test"):
        if not parts[name]:
            raise DataError(f"the split leaves no {name} queries; {len(labelled)} labelled queries were read")
    counts = {name: len(rows) for name, rows in parts.items()}
    summary = {"tools": len(documents), "without_label": len(queries) - len(labelled), **counts}
    trajectories = None
    if section.trajectories is not None:
        documents = with_finish_tool(documents)
        trajectories, notes["trajectories"] = read_training_trajectories(section, documents)
        summary |= {"tools": len(documents), "trajectories": len(trajectories)}
    with atomic_folder(run.folder / "data") as folder:
        if trajectories is not None:
            save_trajectories(folder / "trajectories.jsonl", trajectories)
        write_lines(folder / "tools.jsonl", [document.to_dict() for document in documents])
        for name, rows in parts.items():
            lines = [{"query": q.text, "tools": list(q.tools), "id": q.id, "split": q.split} for q in rows]
            write_lines(folder / f"{name}.jsonl", lines)
        write_json(folder / "report.json", {**summary, "notes": notes})
    return summary


def _load_data(run: Run) -> tuple[list[ToolDocument], list[ToolQuery], dict[str, Any]]:
    section = run.config.data
    if section.tools == "starter":
        from toolscaler.starter import load_starter_documents, load_starter_queries

        return load_starter_documents(), load_starter_queries(), {}
    if section.tools.startswith("bundle:"):
        from toolscaler.data import load_bundle

        if section.folder is None:
            raise ConfigError("data.folder", None, "the folder of the bundle's files")
        bundle = load_bundle(section.tools.removeprefix("bundle:"), section.folder, **section.options)
        return list(bundle.documents), list(bundle.queries), dict(bundle.notes)
    from toolscaler.data import load_tool_documents, load_tool_queries

    if section.queries is None:
        raise ConfigError("data.queries", None, "a query file beside the tools")
    documents = load_tool_documents(
        section.tools, format=section.format, columns=section.columns, on_error=section.on_error
    )
    queries = load_tool_queries(
        section.queries, format=section.query_format, columns=section.query_columns, on_error=section.on_error
    )
    return list(documents), list(queries), {"skipped_tools": documents.report.skipped}


def base_stage(run: Run) -> dict[str, Any]:
    """Make a base from scratch out of documents and training queries, or check that the named one loads."""
    from toolscaler.pipeline.trajectories import trajectory_texts
    from toolscaler.training.scratch import ScratchConfig, make_scratch_base

    section = run.config.base
    if section.model != "scratch":
        model, tokenizer = run.load_base()
        return {"model": section.model, "parameters": model.num_parameters(), "vocabulary": len(tokenizer)}
    settings = build_section(ScratchConfig, {"seed": run.config.seed, **section.scratch}, "base.scratch")
    texts = [document.to_text() for document in run.documents] + [query.text for query in run.queries("train")]
    texts += trajectory_texts(run)
    model, tokenizer = make_scratch_base(texts, run.folder / "base" / "work", settings)
    with atomic_folder(run.folder / "base" / "model") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return {"model": "scratch", "parameters": model.num_parameters(), "vocabulary": len(tokenizer)}


def compress_stage(run: Run) -> dict[str, Any]:
    """Train the gist compressor (paper section 4.1)."""
    from toolscaler.compression import GistForToolCompression
    from toolscaler.data.documents import TASK_FIELDS
    from toolscaler.pipeline.tokenization import left_out
    from toolscaler.training.checkpoints import last_whole_checkpoint
    from toolscaler.training.compression import CompressionConfig, compression_trainer, finalize

    if (reason := left_out(run.config, "compress")) is not None:
        return reason
    section, folder = run.config.compression, run.folder / "compression"
    settings = trainer_settings(
        CompressionConfig,
        {"seed": run.config.seed, **section.trainer},
        "compression.trainer",
        output_dir=str(folder / "checkpoints"),
    )
    base, tokenizer = run.load_base()
    tasks = [*TASK_FIELDS, "query"] if section.generate_queries else list(TASK_FIELDS)
    model = GistForToolCompression.from_base_model(base, num_gist_tokens=section.num_gist_tokens, task_names=tasks)
    queries = run.queries("train") if section.generate_queries else None
    trainer = compression_trainer(model, tokenizer, run.documents, settings, queries=queries)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder / "checkpoints"))
    write_json(folder / "history.json", trainer.state.log_history)
    compressor = finalize(trainer)
    with atomic_folder(folder / "model") as target:
        compressor.save_pretrained(target, save_base=True)
        tokenizer.save_pretrained(target)
    return {"steps": trainer.state.global_step, **last_values(trainer.state.log_history)}


def encode_stage(run: Run) -> dict[str, Any]:
    """Export the gist outputs of every tool."""
    from transformers import AutoTokenizer

    from toolscaler.compression import GistForToolCompression, encode_documents
    from toolscaler.pipeline.tokenization import left_out

    if (reason := left_out(run.config, "encode")) is not None:
        return reason
    source = run.folder / "compression" / "model"
    model, tokenizer = GistForToolCompression.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    values = encode_documents(
        model,
        tokenizer,
        run.documents,
        run.folder / "embeddings",
        max_tokens_per_batch=run.config.compression.encode_batch_tokens,
    )
    return {"shape": list(values.shape)}


def codebook_stage(run: Run) -> dict[str, Any]:
    """Fit the codebook and give every tool its code (paper section 4.1)."""
    from toolscaler.codebook import Codebook, codebook_statistics, plot_codebook_usage
    from toolscaler.pipeline.tokenization import left_out

    if (reason := left_out(run.config, "codebook")) is not None:
        return reason
    embeddings = run.load_embeddings()
    ids = [document.id for document in run.documents]
    codebook = Codebook.fit(embeddings, ids, **asdict(run.config.codebook))
    statistics = codebook_statistics(codebook, embeddings, documents=run.documents)
    with atomic_folder(run.folder / "codebook") as folder:
        codebook.save_pretrained(folder)
        write_json(folder / "statistics.json", statistics.to_dict())
        plot_codebook_usage(codebook, folder / "usage.png")
    return {"code_sizes": list(codebook.code_sizes)}


def vocabulary_stage(run: Run) -> dict[str, Any]:
    """Add the codes to the tokenizer and their rows to the model (paper section 4.2, reframe embedding)."""
    from toolscaler.compression import GistForToolCompression
    from toolscaler.embedding import initialize_first_rows
    from toolscaler.pipeline.tokenization import is_default, tokenize_run
    from toolscaler.tokenization.strategies import subtoken_lengths

    section = run.config.embedding
    model, base_tokenizer = run.load_base()
    if section.start_from == "compressor":
        model = GistForToolCompression.from_pretrained(run.folder / "compression" / "model").backbone
    catalogue, embeddings = tokenize_run(run, base_tokenizer)
    tokenizer = catalogue.tokenizer
    initialize_first_rows(model, catalogue, embeddings, scale=section.scale, init=section.init, seed=section.seed)
    with atomic_folder(run.folder / "vocabulary") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    summary: dict[str, Any] = {"vocabulary": len(tokenizer), "code_tokens": tokenizer.num_code_tokens}
    if not is_default(run.config):
        summary |= {"strategy": tokenizer.strategy, "tokens_a_tool": round(subtoken_lengths(tokenizer).mean, 3)}
    return summary


def retrieval_stage(run: Run) -> dict[str, Any]:
    """Train the model to write the code of a fitting tool (paper section 4.2)."""
    from transformers import AutoModelForCausalLM

    from toolscaler.data import document_prompts, retrieval_rows
    from toolscaler.pipeline.trajectories import retrieval_step_rows
    from toolscaler.training.checkpoints import last_whole_checkpoint
    from toolscaler.training.retrieval import RetrievalConfig, retrieval_trainer

    section, folder = run.config.retrieval, run.folder / "retrieval"
    validation = run.queries("validation")
    settings = trainer_settings(
        RetrievalConfig,
        {"seed": run.config.seed, "eval_strategy": "epoch" if validation else "no", **section.trainer},
        "retrieval.trainer",
        output_dir=str(folder / "checkpoints"),
    )
    tokenizer = run.load_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(run.folder / "vocabulary", **run.config.base.model_kwargs)
    hold_written_heads(run, model)
    code_text = {name: tokenizer.tool_code_text(name) for name in tokenizer.tool_names}
    rows = retrieval_rows(run.queries("train"), code_text)
    if section.document_rows:
        for document in run.documents:
            rows += [{"prompt": text, "completion": code_text[document.id]} for text in document_prompts(document)]
    trainer = retrieval_trainer(
        model,
        tokenizer,
        rows,
        settings,
        eval_rows=retrieval_rows(validation, code_text) or None,
        step_rows=retrieval_step_rows(run, tokenizer),
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder / "checkpoints"))
    write_json(folder / "history.json", trainer.state.log_history)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(trained, "merge_and_unload"):
        trained = trained.merge_and_unload()
    with atomic_folder(run.folder / "model") as target:
        trained.save_pretrained(target)
        tokenizer.save_pretrained(target)
        write_lines(target / "tools.jsonl", [document.to_dict() for document in run.documents])
    return {"rows": len(rows), "steps": trainer.state.global_step, **last_values(trainer.state.log_history)}


def hold_written_heads(run: Run, model: Any) -> None:
    """Keep heads that the base was made with, where nothing has trained them before this stage."""
    base = run.config.base
    written = base.model == "scratch" and base.scratch.get("induction_heads", False)
    if written and run.config.embedding.start_from == "base":
        from toolscaler.training.induction import protect_induction_heads

        protect_induction_heads(model)


def last_values(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Give the last logged training and validation loss."""
    found: dict[str, float] = {}
    for entry in history:
        for key in ("loss", "eval_loss"):
            if key in entry:
                found[key] = round(float(entry[key]), 4)
    return found


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
