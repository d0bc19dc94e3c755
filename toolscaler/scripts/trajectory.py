"""Train on trajectories: ``toolscaler trajectory`` or ``accelerate launch -m toolscaler.scripts.trajectory``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers import AutoModelForCausalLM
from trl import TrlParser

from toolscaler._files import write_json
from toolscaler.data import (
    FINISH_TOOL,
    AgentProtocol,
    ToolDocument,
    TrajectoryList,
    finish_document,
    load_tool_documents,
    load_trajectories,
)
from toolscaler.data.protocol import SYSTEM_PROMPT
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training.attention import attention_implementation
from toolscaler.training.checkpoints import resume_checkpoint
from toolscaler.training.trajectory import TrajectoryConfig, trajectory_trainer


@dataclass
class TrajectoryArguments:
    """What to train on."""

    model: str = field(metadata={"help": "Folder or Hub id of a model of the retrieval stage, with its tokenizer."})
    train_trajectories: str = field(metadata={"help": "Trajectories, in any format the library reads."})
    documents: str = field(metadata={"help": "The tools, in any format the library reads."})
    validation_trajectories: str | None = field(
        default=None, metadata={"help": "Trajectories for the validation loss."}
    )
    unknown_tools: str = field(default="raise", metadata={"help": "raise, or skip trajectories with unknown tools."})
    system_prompt: str = field(default=SYSTEM_PROMPT, metadata={"help": "System turn; empty: none."})
    finish_documentation: bool = field(default=True, metadata={"help": "Show the documentation of Finish too."})
    tool_documentation: bool = field(
        default=True, metadata={"help": "Show a chosen tool's documentation (paper: yes)."}
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention; default: FlashAttention-2 where it can run, else the model's own."}
    )


def make_parser() -> TrlParser:
    """Make the parser: ``--config FILE.yaml`` plus flags, the settings of ``TrajectoryConfig`` among them."""
    return TrlParser((TrajectoryArguments, TrajectoryConfig), prog="toolscaler trajectory")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, going on from the last whole checkpoint in ``output_dir``, and save model, tokenizer and report there."""
    arguments, config = make_parser().parse_args_and_config(args=None if argv is None else list(argv))
    tokenizer = ToolscalerTokenizer.from_pretrained(arguments.model)
    attention = attention_implementation(arguments.attn_implementation, bf16=config.bf16)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, attn_implementation=attention)
    documents: list[ToolDocument] = list(load_tool_documents(arguments.documents))
    if all(document.id != FINISH_TOOL for document in documents):
        documents.append(finish_document())
    evaluation = None
    if arguments.validation_trajectories is not None:
        evaluation = _read(arguments.validation_trajectories, documents, arguments)
    trainer = trajectory_trainer(
        model,
        tokenizer,
        _read(arguments.train_trajectories, documents, arguments),
        documents,
        config,
        protocol=AgentProtocol(
            arguments.system_prompt, arguments.finish_documentation, documentation=arguments.tool_documentation
        ),
        evaluation=evaluation,
    )
    trainer.train(resume_from_checkpoint=resume_checkpoint(trainer))
    trainer.save_model(config.output_dir)
    if trainer.is_world_process_zero():
        write_json(Path(config.output_dir) / "losses.json", trainer.state.log_history)
        if trainer.rows_report is not None:
            report = {key: value for key, value in asdict(trainer.rows_report).items() if key != "skipped"}
            skipped = {str(key): why for key, why in trainer.rows_report.skipped.items()}
            write_json(Path(config.output_dir) / "rows.json", {**report, "skipped": skipped})
    trainer.accelerator.wait_for_everyone()


def _read(path: str, documents: list[ToolDocument], arguments: TrajectoryArguments) -> TrajectoryList:
    return load_trajectories(path, catalogue=documents, on_unknown=arguments.unknown_tools)


if __name__ == "__main__":
    main()
