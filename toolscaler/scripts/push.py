"""Publish what a run has made: ``toolscaler push RUN REPO``."""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolscaler.agent.abstention import ABSTENTION_FILE
from toolscaler.data import AgentProtocol, ToolDocument
from toolscaler.data.protocol import PROTOCOL_FILE
from toolscaler.errors import ArtifactError, ConfigError
from toolscaler.hub import Artifact, make_card, push_folder, run_facts, save_artifact
from toolscaler.hub.run_folder import base_name, run_config

logger = logging.getLogger(__name__)

# What to publish -> folder of the trained model, and of the checkpoints of its stage.
_STAGES = {"retrieval": ("model", "retrieval"), "trajectory": ("agent_model", "trajectory")}


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog="toolscaler push",
        description="Publish a run's model, tokenizer, codes, documents, compressor and card on the Hub, in one "
        "commit. The token is that of `hf auth login` or HF_TOKEN.",
    )
    parser.add_argument("run", help="run folder")
    parser.add_argument("repo", help="repository, user/name")
    parser.add_argument("--stage", choices=sorted(_STAGES), default="retrieval", help="whose model to publish")
    parser.add_argument(
        "--adapter",
        action="store_true",
        help="publish LoRA and code rows alone; for runs with use_lora on a base that has a name on the Hub",
    )
    parser.add_argument("--no_compressor", action="store_true", help="leave out the compressor, which codes new tools")
    parser.add_argument("--license", help="identifier, for example apache-2.0")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch; made if it does not exist")
    parser.add_argument("--subfolder", help="folder in the repository")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request")
    parser.add_argument("--message", help="commit message")
    parser.add_argument("--save_to", help="write the artefact into this folder and push nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Make the artefact and push it.

    Raises:
        ConfigError: The run has no such stage, or its adapter cannot be published alone.
        ArtifactError: A file of the run is damaged.
        HubError: The push did not go through.
    """
    arguments = make_parser().parse_args(argv)
    run = Path(arguments.run)
    name, stage = _STAGES[arguments.stage]
    if not (run / name / "config.json").is_file():
        raise ConfigError("run", arguments.run, f"a run folder whose {arguments.stage} stage is done ({name}/)")
    if arguments.save_to is not None:
        manifest = _save(run, name, stage, Path(arguments.save_to), arguments)
        print(f"{len(manifest.files)} files -> {arguments.save_to}")
        return
    # Beside the run, where there is room for its weights; the name is one that the run sweeps after a kill.
    scratch = Path(tempfile.mkdtemp(prefix=".push.", suffix=".tmp", dir=run))
    try:
        _save(run, name, stage, scratch / "artifact", arguments)
        done = push_folder(
            scratch / "artifact",
            arguments.repo,
            subfolder=arguments.subfolder,
            revision=arguments.revision,
            create_pr=arguments.create_pr,
            private=arguments.private,
            commit_message=arguments.message,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{len(done.manifest.files)} files in one commit -> {done.url}")


def _save(run: Path, name: str, stage: str, target: Path, arguments: argparse.Namespace) -> Any:
    """Make the artefact of a run."""
    from toolscaler.tokenization import ToolscalerTokenizer

    config, compressor = run_config(run), run / "compression" / "model"
    parts: dict[str, Any] = {"documents": _documents(run)}
    if not arguments.no_compressor and (compressor / "config.json").is_file():
        parts["compressor"] = compressor
    parts["extras"] = [path for path in (run / name / ABSTENTION_FILE,) if path.is_file()]
    if (run / name / PROTOCOL_FILE).is_file():
        parts["protocol"] = AgentProtocol.load(run / name)
    tokenizer = ToolscalerTokenizer.from_pretrained(str(run / name))
    known = {document.id for document in parts["documents"]}
    if known != set(tokenizer.tool_index):
        raise ConfigError("run", str(run), "tools.jsonl with the tools of the trained model; redo the data stage")
    card = make_card(
        run_facts(
            run,
            repo_id=arguments.repo,
            kind="adapter" if arguments.adapter else "model",
            license=arguments.license,
            revision=arguments.revision,
            subfolder=arguments.subfolder,
            has_documents=True,
            has_compressor="compressor" in parts,
        )
    )
    if not arguments.adapter:
        return save_artifact(target, run / name, tokenizer, card=card, **parts)
    base = base_name(config)
    if stage != "retrieval":
        raise ConfigError("--adapter", True, f"stage retrieval; the {stage} stage stands on a model of this run")
    if base is None:
        raise ConfigError("--adapter", True, "a run whose base has a name on the Hub; publish the whole model instead")
    parts |= {"base_model": base, "base_revision": config["base"].get("revision"), "card": card}
    return _save_adapter(run, name, stage, target, tokenizer, parts)


def _save_adapter(run: Path, name: str, stage: str, target: Path, tokenizer: Any, parts: dict[str, Any]) -> Any:
    """Save the adapter of the checkpoint that gave the run's model, found by trying."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    wanted = AutoModelForCausalLM.from_pretrained(str(run / name))
    checkpoints = sorted(
        (run / stage / "checkpoints").glob("checkpoint-*/adapter_config.json"),
        key=lambda path: -int(path.parent.name.rpartition("-")[2]),
    )
    if not checkpoints:
        raise ConfigError("--adapter", True, f"a run whose {stage} stage used LoRA and kept its checkpoints")
    for checkpoint in checkpoints:
        base = AutoModelForCausalLM.from_pretrained(str(run / "vocabulary"))
        adapted = PeftModel.from_pretrained(base, str(checkpoint.parent))
        manifest = save_artifact(target, adapted, tokenizer, **parts)
        merged = dict(adapted.merge_and_unload().named_parameters())
        if all(torch.equal(weight, merged[key]) for key, weight in wanted.named_parameters()):
            try:
                # From its public name, as a reader will load it.
                Artifact.from_pretrained(target).load_model(tokenizer)
            except ArtifactError:
                shutil.rmtree(target, ignore_errors=True)
                raise
            return manifest
        logger.info("%s is not the checkpoint of the run's model", checkpoint.parent.name)
    shutil.rmtree(target, ignore_errors=True)
    raise ConfigError("--adapter", True, f"a checkpoint that gives the weights in {name}/; publish the whole model")


def _documents(run: Path) -> list[ToolDocument]:
    from toolscaler._files import parse_json, read_bytes

    path = run / "data" / "tools.jsonl"
    lines = read_bytes(path, 1 << 32, "the documents of a run").splitlines()
    return [ToolDocument.from_dict(parse_json(line, path)) for line in lines]


if __name__ == "__main__":
    main()
