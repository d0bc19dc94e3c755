"""Train retrieval: ``toolscaler retrieval`` or ``accelerate launch -m toolscaler.scripts.retrieval``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForCausalLM
from trl import TrlParser

from toolscaler._files import write_json
from toolscaler.data import load_tool_queries, retrieval_rows
from toolscaler.tokenization import ToolscalerTokenizer
from toolscaler.training.attention import attention_implementation
from toolscaler.training.checkpoints import resume_checkpoint
from toolscaler.training.retrieval import RetrievalConfig, retrieval_trainer


@dataclass
class RetrievalArguments:
    """What to train on."""

    model: str = field(metadata={"help": "Folder or Hub id of a causal LM with code rows and its ToolscalerTokenizer."})
    train_queries: str = field(metadata={"help": "Labelled queries in any format the library reads."})
    validation_queries: str | None = field(default=None, metadata={"help": "Labelled queries for the validation loss."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention; default: FlashAttention-2 where it can run, else the model's own."}
    )


def make_parser() -> TrlParser:
    """Make the parser: ``--config FILE.yaml`` plus flags, the settings of ``RetrievalConfig`` among them."""
    return TrlParser((RetrievalArguments, RetrievalConfig), prog="toolscaler retrieval")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, going on from the last whole checkpoint in ``output_dir``, and save model and tokenizer there."""
    arguments, config = make_parser().parse_args_and_config(args=None if argv is None else list(argv))
    tokenizer = ToolscalerTokenizer.from_pretrained(arguments.model)
    attention = attention_implementation(arguments.attn_implementation, bf16=config.bf16)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, attn_implementation=attention)
    code_text = {name: tokenizer.tool_code_text(name) for name in tokenizer.tool_names}
    rows = retrieval_rows(load_tool_queries(arguments.train_queries), code_text)
    eval_rows = None
    if arguments.validation_queries is not None:
        eval_rows = retrieval_rows(load_tool_queries(arguments.validation_queries), code_text)
    trainer = retrieval_trainer(model, tokenizer, rows, config, eval_rows=eval_rows)
    trainer.train(resume_from_checkpoint=resume_checkpoint(trainer))
    trainer.save_model(config.output_dir)
    if trainer.is_world_process_zero():
        write_json(Path(config.output_dir) / "losses.json", trainer.state.log_history)
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
