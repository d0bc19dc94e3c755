"""The command line: ``toolscaler <verb>``."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toolscaler import __version__
from toolscaler.errors import ToolscalerError

#: Verbs that are scripts of their own: verb -> (module, one line of help).
_SCRIPTS = {
    "compress": ("toolscaler.scripts.compress", "train the gist compressor on tool documents"),
    "encode": ("toolscaler.scripts.encode", "export gist embeddings of a catalogue"),
    "codebook": (
        "toolscaler.scripts.codebook",
        "turn gist embeddings into codes; `codebook report RUN` measures those of a run",
    ),
    "vocabulary": ("toolscaler.scripts.vocabulary", "add the codes to a base model and its tokenizer"),
    "retrieval": ("toolscaler.scripts.retrieval", "train a model to write the code of a fitting tool"),
    "trajectory": ("toolscaler.scripts.trajectory", "train a model to call tools and answer"),
    "experiment": ("toolscaler.scripts.experiment", "run a grid of systems on data sets and write its tables"),
    "push": ("toolscaler.scripts.push", "publish a run's model with all that belongs to it on the Hub"),
    "plan": ("toolscaler.scripts.plan", "tell what each stage needs, and which accelerate config fits"),
    "refine": ("toolscaler.scripts.refine", "give a tuned model new codes that its usage has shaped"),
    "tools": ("toolscaler.scripts.tools", "add, remove, rename, update, compare and roll back a trained model's tools"),
}


def _override(text: str) -> tuple[str, Any]:
    import yaml

    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, yaml.safe_load(value)


def _run(arguments: argparse.Namespace) -> None:
    from toolscaler.pipeline import RunConfig, run_pipeline

    overrides = dict(arguments.set or [])
    given = (arguments.output_dir, arguments.model, arguments.rounds)
    for key, value in zip(("output_dir", "base.model", "rounds.count"), given, strict=True):
        if value is not None:
            overrides[key] = value
    config = RunConfig.from_file(arguments.config, overrides)
    folder = run_pipeline(
        config, until=arguments.until, only=arguments.only, redo=arguments.redo, on_stage=_report_stage
    )
    table = folder / "evaluation" / "table.md"
    if arguments.until is None and arguments.only is None and table.exists():
        print(f"\n{table.read_text(encoding='utf-8')}")
        _show_tools(folder)
        if config.rounds.count > 1:
            print(f"\nrounds:\n{(folder / 'rounds.md').read_text(encoding='utf-8')}")
    print(f"\nresults: {folder}")


def _report_stage(name: str, event: str, summary: dict[str, Any]) -> None:
    told = ", ".join(f"{key} {value}" for key, value in summary.items())
    line = {"start": f"== {name}", "done": f"   {name}: {told}", "skipped": f"== {name}: done before ({told})"}[event]
    print(line, flush=True)


def _show_tools(folder: Path) -> None:
    """Print a few tools with their codes, and a few held-out queries with the tools they became."""
    path = folder / "evaluation" / "examples.json"
    if not path.exists():
        return
    examples = json.loads(path.read_text(encoding="utf-8"))
    print("tools became codes:")
    for tool in examples["tools"]:
        print(f"  {tool['codes']:<40} {tool['name']}")
    print("held-out queries became tools:")
    for row in examples["queries"]:
        mark = "+" if row["hit"] else "-"
        print(f"  {mark} {row['query']}\n      -> {row['found']}")


def _retrieve(arguments: argparse.Namespace) -> None:
    from toolscaler.decoding import GenerativeRetriever

    retriever = GenerativeRetriever.from_pretrained(_model_folder(arguments.run))
    rankings = retriever.retrieve(
        arguments.query, arguments.top_k, tools=arguments.tools or None, num_beams=arguments.num_beams
    )
    for query, ranking in zip(arguments.query, rankings, strict=True):
        if arguments.json:
            found = [{"name": tool.name, "score": tool.score, "codes": list(tool.codes)} for tool in ranking]
            print(json.dumps({"query": query, "tools": found}, ensure_ascii=False))
            continue
        print(query)
        for tool in ranking:
            print(f"  {tool.score:8.3f}  {retriever.tokenizer.tool_code_text(tool.name):<40} {tool.name}")


def _agent(arguments: argparse.Namespace) -> None:
    from toolscaler.agent.agent import ToolAgent
    from toolscaler.agent.config import AgentConfig
    from toolscaler.agent.executors.starter import StarterExecutor
    from toolscaler.pipeline import RunConfig
    from toolscaler.pipeline.trajectories import show_run

    folder = Path(arguments.run) / "agent_model"
    config = AgentConfig(strategy=arguments.strategy, max_steps=arguments.max_steps)
    # A run's agent decides here as it did in the run's own evaluation.
    settings = Path(arguments.run) / "config.yaml"
    options = RunConfig.from_file(settings).agent.planner if settings.is_file() else {}
    with StarterExecutor() as executor:
        agent = ToolAgent.from_pretrained(
            folder if folder.is_dir() else arguments.run, executor, config=config, planner_options=options
        )
        for query in arguments.query:
            done = agent.run(query, candidate_tools=arguments.tools or None)
            print(json.dumps(done.to_dict(), ensure_ascii=False) if arguments.json else show_run(done))


def _model_folder(run: str) -> str:
    """Give the model folder of a run folder; anything else is a model folder or Hub id itself."""
    inside = Path(run) / "model"
    return str(inside) if inside.is_dir() else run


def _evaluate(arguments: argparse.Namespace) -> None:
    from toolscaler.evaluation.command import evaluate

    print(json.dumps(evaluate(arguments).to_dict(), indent=2))


def _env(_: argparse.Namespace) -> None:
    from toolscaler.pipeline.manifest import environment
    from toolscaler.scripts.launch import config_names

    for key, value in environment().items():
        print(f"{key}: {value}")
    print(f"accelerate configs: {', '.join(config_names())}")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of every verb but the scripts, which have their own."""
    from toolscaler.evaluation.command import add_arguments as add_evaluation

    parser = argparse.ArgumentParser(prog="toolscaler", description="Tools as semantic codes that a model generates.")
    parser.add_argument("--version", action="version", version=f"toolscaler {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log what the library does")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, work: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        child = verbs.add_parser(name, help=text, description=text)
        child.set_defaults(work=work)
        return child

    run = verb("run", _run, "all stages into one run folder, resumable")
    run.add_argument("--config", default="starter", help="YAML file, or a recipe's name (default: starter)")
    run.add_argument("--output_dir", help="run folder")
    run.add_argument("--model", help="base model: a Hub id, a folder, or scratch")
    run.add_argument("--rounds", type=int, help="rounds of the pipeline; the later ones are post-guided (paper: 2)")
    run.add_argument("--set", action="append", type=_override, metavar="KEY=VALUE", help="change one key of the config")
    run.add_argument("--until", metavar="STAGE", help="stop after this stage")
    run.add_argument("--only", metavar="STAGE", help="run this stage alone")
    run.add_argument("--redo", metavar="STAGE", help="throw away this stage and the later ones, and run them again")

    retrieve = verb("retrieve", _retrieve, "rank tools for queries")
    retrieve.add_argument("run", help="run folder, model folder or Hub id")
    retrieve.add_argument("query", nargs="+", help="what a user says")
    retrieve.add_argument("--top_k", type=int, default=5)
    retrieve.add_argument("--num_beams", type=int)
    retrieve.add_argument("--tools", nargs="+", help="allow only these tools")
    retrieve.add_argument("--json", action="store_true", help="one JSON object a query")

    agent = verb("agent", _agent, "questions in, starter tools really called, answers out")
    agent.add_argument("run", help="run folder whose trajectory stage is done, or a model folder")
    agent.add_argument("query", nargs="+", help="questions")
    agent.add_argument("--tools", nargs="+", help="only these tools may be called")
    agent.add_argument("--strategy", choices=("chain", "dfsdt"), default="chain", help="how to search")
    agent.add_argument("--max_steps", type=int, default=12, help="most steps of a branch")
    agent.add_argument("--json", action="store_true", help="one JSON object a question")

    add_evaluation(verb("evaluate", _evaluate, "measure retrieval on labelled queries"))

    verb("env", _env, "print versions and machine")
    for name, (_, text) in _SCRIPTS.items():
        verbs.add_parser(name, help=text, add_help=False)
    return parser


def _run_script(verb: str, argv: list[str]) -> None:
    """Run a stage's script here, or under ``accelerate launch`` where ``--accelerate_config`` asks for it."""
    from toolscaler.scripts.launch import launch, split_arguments

    module = _SCRIPTS[verb][0]
    config, options, rest = split_arguments(argv)
    if config is None:
        importlib.import_module(module).main(argv)
    else:
        launch(module, config, rest, options)


def _log(level: int) -> None:
    """Log to standard error; the handler has the level, since some libraries set their own loggers to DEBUG."""
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.setLevel(level)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; default: those of this process.

    Returns:
        Exit status: 0, or 2 for an error that the library raised on purpose (one line on standard error).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in _SCRIPTS:
            _log(logging.WARNING)
            _run_script(words[0], words[1:])
            return 0
        arguments = make_parser().parse_args(words)
        _log(logging.INFO if arguments.verbose else logging.WARNING)
        arguments.work(arguments)
    except ToolscalerError as error:
        print(f"toolscaler: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
