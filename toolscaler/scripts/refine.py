"""One post-guided round: ``toolscaler refine`` or ``accelerate launch -m toolscaler.scripts.refine``.

It leaves in ``output_dir`` the compressor, ``embeddings/``, ``codebook/`` and ``vocabulary/``: the tuned model with the
new codes' rows, from which ``toolscaler retrieval`` and ``toolscaler trajectory`` go on, and ``translation.json``: what
became of each tool's old codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import TrlParser

from toolscaler._files import write_json
from toolscaler.codebook import Codebook
from toolscaler.compression import GistForToolCompression, encode_documents
from toolscaler.data import (
    AgentProtocol,
    ToolDocument,
    finish_document,
    load_tool_documents,
    load_tool_queries,
    load_trajectories,
)
from toolscaler.data.documents import TASK_FIELDS
from toolscaler.data.protocol import PROTOCOL_FILE
from toolscaler.data.trajectories import FINISH_TOOL
from toolscaler.errors import ConfigError
from toolscaler.pipeline.rounds import renew_codes
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training.attention import attention_implementation
from toolscaler.training.checkpoints import resume_checkpoint
from toolscaler.training.compression import finalize
from toolscaler.training.partition import whole_weights
from toolscaler.training.post_guided import PostGuidedConfig, PostGuidedTrainer, post_guided_trainer
from toolscaler.training.post_guided_data import guiding_rows


@dataclass
class RefineArguments:
    """What to refine, and by what usage."""

    model: str = field(metadata={"help": "Base causal LM of the fresh compressor: Hub id or folder."})
    tuned: str = field(metadata={"help": "Folder or Hub id of the tuned model, with its ToolscalerTokenizer."})
    tools: str = field(metadata={"help": "The tools, in any format the library reads."})
    train_trajectories: str | None = field(default=None, metadata={"help": "Training trajectories."})
    train_queries: str | None = field(default=None, metadata={"help": "Labelled training queries."})
    use_queries: str = field(
        default="auto", metadata={"help": "Queries as one-step trajectories: auto, always, never."}
    )
    unknown_tools: str = field(default="raise", metadata={"help": "raise, or skip trajectories with unknown tools."})
    num_gist_tokens: int | None = field(default=None, metadata={"help": "Default: that of the tuned model's codebook."})
    num_levels: int | None = field(default=None, metadata={"help": "Default: that of the tuned model's codebook."})
    num_centroids: int | None = field(default=None, metadata={"help": "Default: that of the tuned model's codebook."})
    reduced_dim: int | None = field(default=None, metadata={"help": "Default: that of the tuned model's codebook."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention; default: FlashAttention-2 where it can run, else the model's own."}
    )


def make_parser() -> TrlParser:
    """Make the parser: ``--config FILE.yaml`` plus flags, the settings of ``PostGuidedConfig`` among them."""
    return TrlParser((RefineArguments, PostGuidedConfig), prog="toolscaler refine")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, going on from the last whole checkpoint in ``output_dir``, and give the tuned model its new codes."""
    arguments, config = make_parser().parse_args_and_config(args=None if argv is None else list(argv))
    tuned_tokenizer = ToolscalerTokenizer.from_pretrained(arguments.tuned)
    documents = _documents(arguments, tuned_tokenizer)
    options = _codebook_options(arguments, tuned_tokenizer, config.seed)
    num_gists = options.pop("num_gists")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    attention = attention_implementation(arguments.attn_implementation, bf16=config.bf16)
    with whole_weights():  # no engine trains the guide, and the compressor's rows are drawn from its base's
        compressor = GistForToolCompression.from_base_model(
            AutoModelForCausalLM.from_pretrained(arguments.model, attn_implementation=attention),
            num_gist_tokens=arguments.num_gist_tokens or num_gists,
            task_names=list(TASK_FIELDS),
        )
        tuned = AutoModelForCausalLM.from_pretrained(arguments.tuned, attn_implementation=attention)
    trainer = post_guided_trainer(
        compressor,
        tokenizer,
        tuned,
        tuned_tokenizer,
        documents,
        _rows(arguments, config, tuned_tokenizer, documents),
        config,
        codebook_options=options,
    )
    trainer.train(resume_from_checkpoint=resume_checkpoint(trainer))
    compressor = finalize(trainer)
    if trainer.is_world_process_zero():
        with whole_weights():
            _finish(trainer, compressor, arguments, config, documents, options, tuned_tokenizer)
    trainer.accelerator.wait_for_everyone()


def _documents(arguments: RefineArguments, tokenizer: ToolscalerTokenizer) -> list[ToolDocument]:
    documents = list(load_tool_documents(arguments.tools))
    if FINISH_TOOL in tokenizer.tool_index and all(document.id != FINISH_TOOL for document in documents):
        documents.append(finish_document())
    return documents


def _codebook_options(arguments: RefineArguments, tokenizer: ToolscalerTokenizer, seed: int) -> dict[str, Any]:
    """Take the sizes of the codebook that the tuned model has, where no others are asked for."""
    old, names = tokenizer.codebook, ("num_levels", "num_centroids", "reduced_dim")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if old is None:
        missing = [name for name in ("num_gist_tokens", *names) if getattr(arguments, name) is None]
        if missing:
            raise ConfigError(missing[0], None, "a number: the tuned model has no codebook to take it from")
        return {**given, "num_gists": arguments.num_gist_tokens, "seed": seed}
    sizes = {name: getattr(old, name) for name in names}
    return {**sizes, "collisions": old.collisions, **given, "num_gists": old.num_gists, "seed": seed}


def _rows(
    arguments: RefineArguments, config: PostGuidedConfig, tokenizer: ToolscalerTokenizer, documents: list[ToolDocument]
) -> Any:
    trajectories = None
    if arguments.train_trajectories is not None:
        trajectories = load_trajectories(
            arguments.train_trajectories, catalogue=documents, on_unknown=arguments.unknown_tools
        )
    queries = None if arguments.train_queries is None else list(load_tool_queries(arguments.train_queries))
    protocol = AgentProtocol.load(arguments.tuned) if (Path(arguments.tuned) / PROTOCOL_FILE).is_file() else None
    return guiding_rows(
        tokenizer,
        documents,
        trajectories,
        queries,
        use_queries=arguments.use_queries,  # type: ignore[arg-type]
        max_length=config.max_length,
        truncation=config.truncation,  # type: ignore[arg-type]
        protocol=protocol,
    )


def _finish(
    trainer: PostGuidedTrainer,
    compressor: GistForToolCompression,
    arguments: RefineArguments,
    config: PostGuidedConfig,
    documents: list[ToolDocument],
    options: dict[str, Any],
    tuned_tokenizer: ToolscalerTokenizer,
) -> None:
    """Save the compressor, encode, fit, and write the tuned model with new rows."""
    folder, tokenizer = Path(str(config.output_dir)), trainer.processing_class
    compressor.save_pretrained(folder, save_base=True)
    tokenizer.save_pretrained(folder)
    compressor.to(trainer.args.device)
    embeddings = encode_documents(compressor, tokenizer, documents, folder / "embeddings")
    codebook = Codebook.fit(embeddings, [document.id for document in documents], **options)
    codebook.save_pretrained(folder / "codebook")
    new, translation = renew_codes(
        arguments.tuned,
        folder,
        folder / "vocabulary",
        codebook=codebook,
        embeddings=embeddings,
        document_hashes={document.id: document.content_hash for document in documents},
        retrieval_template=tuned_tokenizer.retrieval_template,
        scale=config.scale,
    )
    write_json(folder / "losses.json", trainer.state.log_history)
    print(f"{int(translation.changed.sum())} of {len(new.tool_index)} tools have new codes -> {folder / 'vocabulary'}")


if __name__ == "__main__":
    main()
