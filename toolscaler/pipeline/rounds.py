"""Post-guided rounds (paper section 4.2): a run after round t - 1 goes in, the same run after round t comes out.

Round t works in the folder ``round-t`` of the run: the compressor is trained with the frozen model that round t - 1
ended with as its guide, the catalogue is encoded and coded anew, that model gets the new codes' rows, and both
supervised stages go on from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler._files import atomic_folder, write_json
from toolscaler.codebook.translation import TRANSLATION_FILE, CodeTranslation
from toolscaler.errors import ConfigError
from toolscaler.pipeline import stages
from toolscaler.pipeline.config import RunConfig, build_section
from toolscaler.pipeline.evaluation import evaluate_stage
from toolscaler.pipeline.round_report import round_report_stage
from toolscaler.pipeline.stages import Run
from toolscaler.pipeline.trajectories import agent_stage, trajectory_stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from toolscaler.codebook import Codebook
    from toolscaler.data.documents import ToolDocument
    from toolscaler.data.queries import ToolQuery
    from toolscaler.data.trajectories import Trajectory


class RoundRun(Run):
    """One post-guided round of a run, as the stages see it: data of the run, results in a folder of its own.

    Args:
        root: The run.
        number: t, at least 1.

    Attributes:
        previous: Folder of round t - 1; for t = 1 the run folder.
    """

    def __init__(self, root: Run, number: int) -> None:
        super().__init__(root.config, round_folder(root.folder, number))
        self.root, self.number = root, number
        self.previous = round_folder(root.folder, number - 1)

    @property
    def documents(self) -> list[ToolDocument]:
        """The run's catalogue."""
        return self.root.documents

    def queries(self, part: str) -> list[ToolQuery]:
        """The run's labelled queries."""
        return self.root.queries(part)

    def trajectories(self) -> list[Trajectory]:
        """The run's training trajectories."""
        return self.root.trajectories()

    def load_base(self) -> tuple[Any, Any]:
        """Load the run's base model and its tokenizer."""
        return self.root.load_base()

    @property
    def tuned(self) -> Path:
        """Folder of theta_{t-1}: what the last supervised stage of the previous round left."""
        return self.previous / ("model" if self.config.data.trajectories is None else "agent_model")


def round_folder(folder: Path, number: int) -> Path:
    """Give the folder of a round; round 0 is the run itself."""
    return folder / f"round-{number}" if number else folder


def check_round_settings(config: RunConfig) -> None:
    """Check the section ``rounds`` before anything runs.

    Raises:
        ConfigError: A value is not allowed.
    """
    section = config.rounds
    if section.count < 1:
        raise ConfigError("rounds.count", section.count, "1 (no post-guided round) or more (paper: 2)")
    if section.count > 1 and config.embedding.init != "reframe":
        raise ConfigError("embedding.init", config.embedding.init, "'reframe' where rounds.count is above 1")
    if config.retrieval.trainer.get("bidirectional_prompts", False):
        for key, wanted in (("rounds.count", config.rounds.count > 1), ("data.trajectories", config.data.trajectories)):
            if wanted:
                raise ConfigError("retrieval.trainer.bidirectional_prompts", True, f"false with {key}, read causally")
    _settings(config, Path(config.output_dir))


def _settings(config: RunConfig, folder: Path) -> Any:
    """Build the trainer's settings: those of the compression stage, and what ``rounds.trainer`` changes."""
    from toolscaler.training.post_guided import PostGuidedConfig

    values = {"seed": config.seed, "scale": config.embedding.scale, **config.compression.trainer}
    return stages.trainer_settings(
        PostGuidedConfig, {**values, **config.rounds.trainer}, "rounds.trainer", output_dir=str(folder / "checkpoints")
    )


def refine_stage(run: RoundRun) -> dict[str, Any]:
    """Train the round's compressor with theta_{t-1} as its guide (paper section 4.2)."""
    from transformers import AutoModelForCausalLM

    from toolscaler.data import AgentProtocol
    from toolscaler.tokenization import ToolscalerTokenizer
    from toolscaler.training.checkpoints import last_whole_checkpoint
    from toolscaler.training.compression import finalize
    from toolscaler.training.post_guided import post_guided_trainer
    from toolscaler.training.post_guided_data import guiding_rows

    config, folder = run.config, run.folder / "compression"
    settings = _settings(config, folder)
    compressor, tokenizer, codebook = _start(run)
    tuned_tokenizer = ToolscalerTokenizer.from_pretrained(str(run.tuned))
    rows = guiding_rows(
        tuned_tokenizer,
        run.documents,
        run.trajectories() if config.data.trajectories is not None else None,
        run.queries("train"),
        use_queries=config.rounds.queries,
        max_length=settings.max_length,
        truncation=settings.truncation,
        protocol=build_section(AgentProtocol, config.trajectory.protocol, "trajectory.protocol"),
    )
    trainer = post_guided_trainer(
        compressor,
        tokenizer,
        AutoModelForCausalLM.from_pretrained(run.tuned, **config.base.model_kwargs),
        tuned_tokenizer,
        run.documents,
        rows,
        settings,
        codebook_options=codebook_options(config),
        first_codebook=codebook,
        queries=run.queries("train") if config.compression.generate_queries else None,
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder / "checkpoints"))
    history = trainer.state.log_history
    write_json(folder / "history.json", history)
    trained = finalize(trainer)
    with atomic_folder(folder / "model") as target:
        trained.save_pretrained(target, save_base=True)
        tokenizer.save_pretrained(target)
    parts = {key: entry[key] for entry in history for key in ("tool_loss", "trajectory_loss") if key in entry}
    return {"rows": len(rows), "steps": trainer.state.global_step, **{k: round(v, 4) for k, v in parts.items()}}


def _start(run: RoundRun) -> tuple[Any, Any, Codebook | None]:
    """Give the compressor that the round trains, its tokenizer, and the codebook that fits its gists already."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from toolscaler.codebook import Codebook
    from toolscaler.compression import GistForToolCompression
    from toolscaler.data.documents import TASK_FIELDS

    section, source = run.config.compression, run.previous / "compression" / "model"
    if run.config.rounds.start_from == "compressor":
        model = GistForToolCompression.from_pretrained(source)
        return model, AutoTokenizer.from_pretrained(source), Codebook.from_pretrained(run.previous / "codebook")
    if run.config.rounds.start_from == "tuned":
        base = AutoModelForCausalLM.from_pretrained(run.tuned, **run.config.base.model_kwargs)
        tokenizer = AutoTokenizer.from_pretrained(source)
    else:
        base, tokenizer = run.load_base()
    tasks = [*TASK_FIELDS, "query"] if section.generate_queries else list(TASK_FIELDS)
    model = GistForToolCompression.from_base_model(base, num_gist_tokens=section.num_gist_tokens, task_names=tasks)
    return model, tokenizer, None


def codebook_options(config: RunConfig) -> dict[str, Any]:
    """Give the arguments of :meth:`toolscaler.Codebook.fit` that the run file names."""
    return config.to_dict()["codebook"]


def round_vocabulary_stage(run: RoundRun) -> dict[str, Any]:
    """Give theta_{t-1} the new codes in place of its old ones (paper section 4.2, reframe embedding)."""
    section = run.config.embedding
    tokenizer, translation = renew_codes(
        run.tuned,
        run.folder / "compression" / "model",
        run.folder / "vocabulary",
        codebook=run.load_codebook(),
        embeddings=run.load_embeddings(),
        document_hashes={document.id: document.content_hash for document in run.documents},
        retrieval_template=section.retrieval_template,
        scale=section.scale,
        model_kwargs=run.config.base.model_kwargs,
    )
    return {"vocabulary": len(tokenizer), "tools": len(translation), "changed": int(translation.changed.sum())}


def renew_codes(
    tuned: str | Path,
    base_tokenizer: str | Path,
    output_dir: str | Path,
    *,
    codebook: Codebook,
    embeddings: np.ndarray,
    document_hashes: Mapping[str, str | None] | None = None,
    retrieval_template: str | None = None,
    scale: str = "match",
    model_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Any, CodeTranslation]:
    """Put a new codebook's codes in place of a tuned model's old ones.

    Args:
        tuned: Folder of theta_{t-1} with its tokenizer.
        base_tokenizer: Folder of the tokenizer without codes.
        output_dir: Folder for the model with new rows, its tokenizer and the translation of old codes.
        codebook: The new codebook.
        embeddings: The gist outputs it was fitted on, (N, V, D).
        document_hashes: Content hash of each tool's document.
        retrieval_template: As in :meth:`toolscaler.ToolscalerTokenizer.from_tokenizer`.
        scale: As in :func:`toolscaler.initialize_code_embeddings`.
        model_kwargs: More arguments for loading the model.

    Returns:
        The tokenizer with the new codes, and the translation.

    Raises:
        CodebookError: The tools of both codebooks differ.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from toolscaler.embedding import initialize_code_embeddings
    from toolscaler.tokenization import ToolscalerTokenizer

    old = ToolscalerTokenizer.from_pretrained(str(tuned))
    tokenizer = ToolscalerTokenizer.from_tokenizer(
        AutoTokenizer.from_pretrained(base_tokenizer),
        codebook,
        document_hashes=document_hashes,
        retrieval_template=retrieval_template,
    )
    translation = CodeTranslation.between(old.tool_index, tokenizer.tool_index)
    model = AutoModelForCausalLM.from_pretrained(tuned, **(model_kwargs or {}))
    initialize_code_embeddings(model, tokenizer, embeddings, scale=scale)
    with atomic_folder(output_dir) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        translation.save(folder / TRANSLATION_FILE)
    return tokenizer, translation


_RoundStage = Callable[[RoundRun], dict[str, Any]]

# Stage of a round -> what it does, which sections of the config it reads, and the folders that it fills.
_ROUND: dict[str, tuple[_RoundStage, tuple[str, ...], tuple[str, ...]]] = {
    "compress": (refine_stage, ("compression", "rounds", "seed"), ("compression",)),
    "encode": (stages.encode_stage, (), ("embeddings",)),
    "codebook": (stages.codebook_stage, ("codebook",), ("codebook",)),
    "vocabulary": (round_vocabulary_stage, ("embedding",), ("vocabulary",)),
    "retrieval": (stages.retrieval_stage, ("retrieval", "seed"), ("retrieval", "model")),
    "evaluate": (evaluate_stage, ("evaluation",), ("evaluation",)),
    "trajectory": (trajectory_stage, ("trajectory", "seed"), ("trajectory", "agent_model")),
    "agent": (agent_stage, ("agent",), ("agent",)),
    "report": (round_report_stage, (), ("report",)),
}


def round_stages(count: int) -> dict[str, tuple[Callable[[Run], dict[str, Any]], Sequence[str], Sequence[str]]]:
    """Give the stages of all post-guided rounds of a run, in order.

    Args:
        count: Rounds of the whole pipeline, round 0 among them.

    Returns:
        ``round-1/compress`` and so on -> work on the run, sections, and folders inside the run folder.
    """
    table: dict[str, tuple[Callable[[Run], dict[str, Any]], Sequence[str], Sequence[str]]] = {}
    for number in range(1, count):
        for name, (work, sections, folders) in _ROUND.items():
            place = f"round-{number}"
            table[f"{place}/{name}"] = (_of_round(work, number), sections, [f"{place}/{child}" for child in folders])
    return table


def _of_round(work: _RoundStage, number: int) -> Callable[[Run], dict[str, Any]]:
    return lambda run: work(RoundRun(run, number))
