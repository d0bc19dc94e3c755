"""Train the gist compressor: ``toolscaler compress`` or ``accelerate launch -m toolscaler.scripts.compress``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import TrlParser

from toolscaler._files import write_json
from toolscaler.compression import GistForToolCompression
from toolscaler.data import load_tool_documents, load_tool_queries
from toolscaler.data.documents import TASK_FIELDS
from toolscaler.training.attention import attention_implementation
from toolscaler.training.checkpoints import resume_checkpoint
from toolscaler.training.compression import CompressionConfig, compression_trainer, finalize
from toolscaler.training.partition import whole_weights


@dataclass
class CompressArguments:
    """What to compress, with which base."""

    model: str = field(metadata={"help": "Base causal LM: Hub id or folder."})
    tools: str = field(metadata={"help": "Tool source: a file or folder in any format the library reads."})
    format: str | None = field(default=None, metadata={"help": "Reader of the tools; default: found from the content."})
    queries: str | None = field(default=None, metadata={"help": "Query file: adds queries as generation targets."})
    num_gist_tokens: int = field(default=2, metadata={"help": "Gist tokens a tool (paper: 2)."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention; default: FlashAttention-2 where it can run, else the model's own."}
    )


def make_parser() -> TrlParser:
    """Make the parser: ``--config FILE.yaml`` plus flags, the settings of ``CompressionConfig`` among them."""
    return TrlParser((CompressArguments, CompressionConfig), prog="toolscaler compress")


def main(argv: Sequence[str] | None = None) -> None:
    """Train, going on from the last whole checkpoint in ``output_dir``, and save the compressor there."""
    arguments, config = make_parser().parse_args_and_config(args=None if argv is None else list(argv))
    documents = load_tool_documents(arguments.tools, format=arguments.format)
    queries = None if arguments.queries is None else load_tool_queries(arguments.queries)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    attention = attention_implementation(arguments.attn_implementation, bf16=config.bf16)
    with whole_weights():
        model = GistForToolCompression.from_base_model(
            AutoModelForCausalLM.from_pretrained(arguments.model, attn_implementation=attention),
            num_gist_tokens=arguments.num_gist_tokens,
            task_names=list(TASK_FIELDS) + (["query"] if queries is not None else []),
        )
    trainer = compression_trainer(model, tokenizer, documents, config, queries=queries)
    trainer.train(resume_from_checkpoint=resume_checkpoint(trainer))
    compressor = finalize(trainer)
    if trainer.is_world_process_zero():
        compressor.save_pretrained(config.output_dir, save_base=True)
        tokenizer.save_pretrained(config.output_dir)
        write_json(Path(str(config.output_dir)) / "losses.json", trainer.state.log_history)
    trainer.accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
