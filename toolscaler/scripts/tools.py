"""The tools of a saved model: ``toolscaler tools add | remove | rename | update | list | diff | sync | log | ...``."""

from __future__ import annotations

import argparse
import json
import logging
import random
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler.errors import ConfigError

if TYPE_CHECKING:
    from toolscaler.catalogue import CatalogueDiff, LogEntry, ToolCatalogue
    from toolscaler.catalogue.checking import CatalogueCheck
    from toolscaler.data import ToolQuery

logger = logging.getLogger(__name__)

_SOURCE = "tools in any format the library reads (file, folder, module:name), `mcp:PROGRAM ARGS`, or `mcp:https://...`"


def make_parser() -> argparse.ArgumentParser:
    """Make the parser."""
    parser = argparse.ArgumentParser(
        prog="toolscaler tools",
        description="Add, remove, rename and update the tools of a trained model. No weight changes; every change is "
        "an entry of a log and can be taken back.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, work: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        child = verbs.add_parser(name, help=text, description=text)
        child.set_defaults(work=work)
        child.add_argument("run", help="run folder, or folder of a model or artefact")
        child.add_argument("--json", action="store_true", help="print JSON")
        return child

    _source_verbs(verb)
    remove = verb("remove", _remove, "remove tools; the next request does not find them")
    remove.add_argument("tools", nargs="+", help="tool ids")
    rename = verb("rename", _rename, "give a tool another id; its codes stay")
    rename.add_argument("old", help="present id")
    rename.add_argument("new", help="new id")
    back = verb("rollback", _rollback, "bring back the tools as they were after an entry of the log")
    back.add_argument("sequence", type=int, help="number of the entry; 0: before the first change")
    for child in (remove, rename, back):
        child.add_argument("--note", default="", help="words for the log")
    listing = verb("list", _list, "list tools with their codes")
    listing.add_argument("--long", action="store_true", help="with document hash, and * for tools not trained on")
    log = verb("log", _log, "list the changes")
    log.add_argument("--tools", action="store_true", help="with the tools of each change")
    _check_verb(verb)
    _adapt_verb(verb)
    pull = verb("pull", _pull, "copy a published artefact into a folder of your own")
    pull.add_argument("folder", help="where to; it must not exist")
    pull.add_argument("--revision", help="branch, tag or commit")
    return parser


def _source_verbs(verb: Callable[..., argparse.ArgumentParser]) -> None:
    add = verb("add", _add, "add tools without any training")
    update = verb("update", _update, "give tools new documents; says how their codes moved")
    diff = verb("diff", _diff, "compare with a source, changed documents with hashes")
    sync = verb("sync", _sync, "make the catalogue what a source says, after a look at the difference")
    for child in (add, update, diff, sync):
        child.add_argument("source", help=_SOURCE)
        child.add_argument("--format", help="name of the source's format, where several fit")
        child.add_argument("--provider", help="provider of tools whose source names none; of a server: its name here")
        child.add_argument("--category", help="category of tools whose source names none")
        child.add_argument("--on_error", choices=["raise", "skip"], default="raise", help="what bad rows do")
    for child in (add, update, sync):
        child.add_argument("--compressor", help="folder of the compressor, where the model's own is not found")
        child.add_argument("--keep_codes", type=int, default=1, help="leading codes that stay the nearest ones")
        child.add_argument("--reuse_retired", action="store_true", help="give codes of tools that are gone, too")
        child.add_argument("--note", default="", help="words for the log")
    for child in (diff, sync):
        child.add_argument("--providers", nargs="+", help="whose tools count as removed when the source lacks them")
        child.add_argument("--whole", action="store_true", help="the source is the whole catalogue")
    sync.add_argument("--yes", action="store_true", help="do not ask")
    sync.add_argument("--follow", action="store_true", help="stay, and sync whenever a server says it has changed")
    sync.add_argument("--every", type=float, help="with --follow: also after so many seconds")


def _check_verb(verb: Callable[..., argparse.ArgumentParser]) -> None:
    check = verb("check", _check, "measure how added tools are found, and what they cost the old ones")
    check.add_argument("--queries", help="labelled queries for added tools; default: made from their documents")
    check.add_argument("--old_queries", help="labelled queries for the others; default: made from their documents")
    check.add_argument("--added", nargs="+", help="ids that count as added; default: those not trained on")
    check.add_argument("--hybrid", metavar="DRAFT", help="what proposes: bm25, lsa, or a sentence encoder")
    check.add_argument("--k", type=int, default=5, help="cut-off of recall")
    check.add_argument("--num_beams", type=int, help="beam width")
    check.add_argument("--per_tool", type=int, default=3, help="synthetic queries a tool")
    check.add_argument("--max_old", type=int, default=2000, help="old queries at most")


def _adapt_verb(verb: Callable[..., argparse.ArgumentParser]) -> None:
    adapt = verb("adapt", _adapt, "train the model a little on added tools, with old queries rehearsed")
    adapt.add_argument("--rehearsal", required=True, help="labelled queries that the model was trained on")
    adapt.add_argument("--queries", help="labelled queries for added tools, beside rows made of their documents")
    adapt.add_argument("--check_queries", help="held-out queries for added tools, to measure before and afterwards")
    adapt.add_argument("--check_old", help="held-out queries for the others: what is forgotten")
    adapt.add_argument("--ratio", type=float, default=1.0, help="rehearsal rows for each row of an added tool")
    adapt.add_argument("--k", type=int, default=5, help="cut-off of recall")
    adapt.add_argument("--epochs", type=float, help="epochs (default: 3)")
    adapt.add_argument("--learning_rate", type=float, help="peak learning rate (default: 3e-4)")
    adapt.add_argument("--note", default="", help="words for the log")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb.

    Raises:
        ToolscalerError: What was asked for cannot be done; nothing was changed.
    """
    arguments = make_parser().parse_args(argv)
    arguments.work(arguments)


# ---- changes ----


def _add(arguments: argparse.Namespace) -> None:
    catalogue = _open(arguments)
    with _documents(arguments) as source:
        _tell(arguments, catalogue.add(source, **_coding(arguments)))


def _update(arguments: argparse.Namespace) -> None:
    catalogue = _open(arguments)
    with _documents(arguments) as source:
        _tell(arguments, catalogue.update(source, **_coding(arguments)))


def _remove(arguments: argparse.Namespace) -> None:
    _tell(arguments, _open(arguments).remove(arguments.tools, note=arguments.note))


def _rename(arguments: argparse.Namespace) -> None:
    _tell(arguments, _open(arguments).rename({arguments.old: arguments.new}, note=arguments.note))


def _rollback(arguments: argparse.Namespace) -> None:
    _tell(arguments, _open(arguments).rollback(arguments.sequence, note=arguments.note))


def _diff(arguments: argparse.Namespace) -> None:
    with _documents(arguments) as source:
        found = _open(arguments).diff(source, providers=arguments.providers, whole=arguments.whole)
    print(json.dumps(found.to_dict(), ensure_ascii=False) if arguments.json else found.to_text())


def _sync(arguments: argparse.Namespace) -> None:
    from toolscaler.catalogue.follow import CatalogueFollower

    catalogue = _open(arguments)
    options = {"providers": arguments.providers, "whole": arguments.whole, **_coding(arguments)}
    confirm = _agreed if arguments.yes else _ask
    if not arguments.follow:
        with _documents(arguments) as source:
            _tell(arguments, catalogue.sync(source, confirm=confirm, **options))
        return
    follower = CatalogueFollower(catalogue, confirm=confirm, on_entry=lambda entry: _tell(arguments, entry), **options)
    with _documents(arguments, on_change=follower.notify) as source:
        if not hasattr(source, "documents"):
            raise ConfigError("--follow", arguments.source, "a source that is asked again: mcp:...")
        try:
            follower.run(source, every=arguments.every)
        except KeyboardInterrupt:
            follower.stop()


# ---- looks ----


def _list(arguments: argparse.Namespace) -> None:
    from toolscaler.tokenization import codes_to_text

    if not Path(arguments.run).is_dir():
        from toolscaler.tokenization import ToolscalerTokenizer

        index, fresh = ToolscalerTokenizer.from_pretrained(arguments.run).tool_index, set()
    else:
        from toolscaler.catalogue.history import untrained_tools
        from toolscaler.catalogue.state import CatalogueState

        state = CatalogueState.load(_model_folder(arguments.run))
        index, fresh = state.index, set(untrained_tools(state.index, state.log))
    for name in index:
        content = index.document_hash(name)
        if arguments.json:
            row = {"id": name, "codes": list(index[name]), "document": content, "trained": name not in fresh}
            print(json.dumps(row, ensure_ascii=False))
        else:
            mark = f"\t{(content or '')[:12]}\t{'*' if name in fresh else ''}" if arguments.long else ""
            print(f"{codes_to_text(index[name])}\t{name}{mark}")


def _log(arguments: argparse.Namespace) -> None:
    for entry in _open(arguments).log:
        if arguments.json:
            print(json.dumps(entry.to_dict(), ensure_ascii=False))
        else:
            print("\n".join(_entry_lines(entry, arguments.tools)))


def _pull(arguments: argparse.Namespace) -> None:
    from toolscaler.catalogue import ToolCatalogue

    options = {} if arguments.revision is None else {"revision": arguments.revision}
    catalogue = ToolCatalogue.pull(arguments.run, arguments.folder, **options)
    print(f"{len(catalogue)} tools -> {arguments.folder}")


def _adapt(arguments: argparse.Namespace) -> None:
    import tempfile

    from toolscaler.catalogue.adaptation import default_config

    catalogue = _open(arguments)
    with tempfile.TemporaryDirectory() as work:
        config = default_config(work)
        for key, value in (("num_train_epochs", arguments.epochs), ("learning_rate", arguments.learning_rate)):
            if value is not None:
                setattr(config, key, value)
        done = catalogue.adapt(
            _queries(arguments.rehearsal, []),
            queries=_queries(arguments.queries, []),
            ratio=arguments.ratio,
            config=config,
            check_added=_queries(arguments.check_queries, []),
            check_old=_queries(arguments.check_old, []),
            k=arguments.k,
            note=arguments.note,
        )
    before = {} if done.before is None else check_rows(done.before)
    after = {} if done.after is None else check_rows(done.after)
    facts = {"tools": len(done.tools), "rows": done.rows, "rehearsal": done.rehearsal, "steps": done.steps}
    if arguments.json:
        print(json.dumps({**facts, "entry": done.entry.sequence, "before": before, "after": after}))
        return
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    for name in after:
        if after[name]["n"] and "before" not in name and "loss" not in name:
            print(f"{name:<36} {before[name]['mean']:7.4f} -> {after[name]['mean']:7.4f}  n = {after[name]['n']}")


def _check(arguments: argparse.Namespace) -> None:
    from toolscaler.catalogue.checking import check_added_tools, synthetic_queries

    catalogue = _open(arguments)
    added = arguments.added or list(catalogue.untrained)
    if not added:
        raise ConfigError("--added", None, "ids, or a catalogue to which tools were added since the training")
    for name in added:
        catalogue.index.row(name)  # a typo is told before anything is loaded
    documents = catalogue.documents()
    new = set(added)
    made = synthetic_queries((item for item in documents if item.id in new), arguments.per_tool)
    made_old = synthetic_queries((item for item in documents if item.id not in new), 1)
    queries = _queries(arguments.queries, made)
    old = _queries(arguments.old_queries, made_old)
    if len(old) > arguments.max_old:  # query files are often sorted by tool
        old = random.Random(0).sample(old, arguments.max_old)
    options = {} if arguments.num_beams is None else {"num_beams": arguments.num_beams}
    retriever: Any
    if arguments.hybrid is None:
        retriever = catalogue.retriever()
    else:
        retriever = catalogue.retriever(hybrid=_draft(arguments.hybrid), hybrid_options=options)
        options = {}
    found = check_added_tools(
        retriever,
        catalogue.tool_ids,
        added,
        queries,
        old,
        k=arguments.k,
        synthetic=arguments.queries is None,
        synthetic_old=arguments.old_queries is None,
        **options,
    )
    _tell_check(arguments, found)


def _tell_check(arguments: argparse.Namespace, found: CatalogueCheck) -> None:
    rows = check_rows(found)
    facts = {
        "added_tools": found.added,
        "synthetic": found.synthetic,
        "synthetic_old": found.synthetic_old,
        "left_out": found.left_out,
        "hybrid": arguments.hybrid,
    }
    if arguments.json:
        print(json.dumps({**facts, "measures": rows}))
        return
    for name, row in rows.items():
        if row["n"]:
            print(f"{name:<36} {row['mean']:7.4f}  [{row['low']:.4f}, {row['high']:.4f}]  n = {row['n']}")
        else:
            print(f"{name:<36}       –  no such queries")
    if found.synthetic or found.synthetic_old:
        kinds = ["added"] * found.synthetic + ["old"] * found.synthetic_old
        print(f"Queries for {' and '.join(kinds)} tools were made from their documents: easier than those of users.")


def check_rows(found: CatalogueCheck) -> dict[str, dict[str, Any]]:
    """Give mean, 95 % bootstrap interval and number of queries of each measure of a check."""
    from toolscaler.evaluation import bootstrap_intervals

    rows: dict[str, dict[str, Any]] = {}
    for name, values in found.values().items():
        rows[name] = {"n": len(values), "mean": None, "low": None, "high": None}
        if len(values):
            low, high = bootstrap_intervals(values)
            rows[name] |= {"mean": float(values.mean()), "low": float(low), "high": float(high)}
    return rows


# ---- helpers ----


def _open(arguments: argparse.Namespace) -> ToolCatalogue:
    from toolscaler.catalogue import ToolCatalogue

    return ToolCatalogue.open(arguments.run, compressor=getattr(arguments, "compressor", None))


def _model_folder(run: str) -> Path:
    inside = Path(run) / "model"
    return inside if inside.is_dir() and not (Path(run) / "tool_index.json").is_file() else Path(run)


def _coding(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"keep_codes": arguments.keep_codes, "reuse_retired": arguments.reuse_retired, "note": arguments.note}


@contextmanager
def _documents(arguments: argparse.Namespace, on_change: Callable[[], None] | None = None) -> Iterator[Any]:
    """Give the source: a list of documents, or a server that lists them when asked."""
    if not arguments.source.startswith("mcp:"):
        from toolscaler.data import load_tool_documents

        yield load_tool_documents(
            arguments.source,
            arguments.format,
            provider=arguments.provider,
            category=arguments.category,
            on_error=arguments.on_error,
        )
        return
    from toolscaler.agent.executors.mcp import MCPExecutor

    where = arguments.source.removeprefix("mcp:").strip()
    options: dict[str, Any] = {"name": arguments.provider or "", "on_change": on_change}
    if where.startswith(("http://", "https://")):
        executor = MCPExecutor.http(where, **options)
    else:
        words = shlex.split(where)
        if not words:
            raise ConfigError("source", arguments.source, "mcp:PROGRAM ARGS or mcp:https://...")
        executor = MCPExecutor.stdio(words[0], words[1:], **options)
    with executor:
        yield executor


def _ask(found: CatalogueDiff) -> bool:
    print(found.to_text())
    if not sys.stdin.isatty():
        raise ConfigError("--yes", False, "--yes where nobody can be asked; look at `toolscaler tools diff` first")
    return input("Take this over? [y/N] ").strip().lower() in ("y", "yes")


def _agreed(found: CatalogueDiff) -> bool:
    logger.info("taken over without a question:\n%s", found.to_text())
    return True


def _queries(path: str | None, made: list[ToolQuery]) -> list[ToolQuery]:
    if path is None:
        return made
    from toolscaler.data import load_tool_queries

    return list(load_tool_queries(path))


def _draft(name: str) -> Any:
    from toolscaler.evaluation.baselines import BM25Retriever, EmbeddingRetriever

    return BM25Retriever if name == "bm25" else lambda documents: EmbeddingRetriever(documents, name)


def _tell(arguments: argparse.Namespace, entry: LogEntry | None) -> None:
    if entry is None:
        print(json.dumps(None) if arguments.json else "nothing was changed", flush=True)
    elif arguments.json:
        print(json.dumps(entry.to_dict(), ensure_ascii=False), flush=True)
    else:
        print("\n".join(_entry_lines(entry, True)), flush=True)


def _entry_lines(entry: LogEntry, tools: bool) -> list[str]:
    from toolscaler.tokenization import codes_to_text

    target = f" to {entry.target}" if entry.target is not None else ""
    note = f"  # {entry.note}" if entry.note else ""
    counts = f", {len(entry.tools)} changed" if entry.tools else ""
    lines = [f"{entry.sequence:>4}  {entry.time}  {entry.verb}{target}: {entry.num_tools} tools{counts}{note}"]
    for change in entry.tools if tools else ():
        old = "" if change.old_codes is None else codes_to_text(change.old_codes)
        new = "" if change.new_codes is None else codes_to_text(change.new_codes)
        moved = new if old in ("", new) else f"{old} -> {new or 'retired'}"
        more = f"  ({change.prefix_kept} leading codes kept, {change.distance} changed)" if change.distance else ""
        name = change.id if change.old_id is None else f"{change.old_id} -> {change.id}"
        sign = {"added": "+", "removed": "-", "renamed": "=", "updated": "~"}[change.kind]
        lines.append(f"      {sign} {moved}\t{name}{more}")
    return lines


if __name__ == "__main__":
    main()
