"""The model card: facts of a run go in, the text of ``README.md`` comes out; nothing in it is written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolscaler._version import __version__

#: The paper that the method is from.
CITATION = """\
@article{su2025toolscaler,
  title  = {Toolscaler: Scalable Generative Tool Calling via Structure-Aware Semantic Tokenization},
  author = {Su, Yunyue and Zhang, Jingshuai and Fang, Bowen and Ye, Wen and Zhang, Jinghao and Song, Bowen and
            Wang, Weiqiang and Liu, Qiang and Wang, Liang}
}"""
_TAGS = ("toolscaler", "tool-retrieval", "tool-calling", "function-calling", "generative-retrieval")
_MARKS = re.compile(r"([\\`*_{}\[\]<>|#~$!])")
_HEADLINE = 8


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        repo_id: Where the model is published; the usage snippet loads it from there.
        kind: ``model`` or ``adapter``.
        num_tools: Tools of the catalogue.
        code_sizes: Number of codes at each position.
        base_model: Hub id of the base; ``None``: made from scratch.
        revision: Revision that the snippet loads; ``None`` for the newest.
        subfolder: Folder in the repository.
        license: Identifier as the Hub knows it, for example ``apache-2.0``.
        datasets: Names of the training data.
        settings: How it was trained: name -> value, shown as a table.
        statistics: Health of the codebook, as ``CodebookStatistics.to_dict`` gives it.
        metrics: Retrieval on held-out queries, as the run's ``evaluation/metrics.json`` holds it.
        agent_metrics: The same of ``agent/metrics.json``.
        examples: Queries for the usage snippet; the first is used.
        has_documents: Whether the documents of the tools are part of it.
        has_compressor: Whether the compressor is.
        notes: More paragraphs in Markdown, by the publisher.
    """

    repo_id: str
    kind: str
    num_tools: int
    code_sizes: tuple[int, ...]
    base_model: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    license: str | None = None
    datasets: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    agent_metrics: Mapping[str, Any] | None = None
    examples: tuple[str, ...] = ()
    has_documents: bool = False
    has_compressor: bool = False
    notes: str = ""


def make_card(facts: CardFacts) -> str:
    """Write a model card.

    Args:
        facts: See :class:`CardFacts`. Texts from data (queries, names) are escaped: they cannot become markup.

    Returns:
        Markdown with the Hub's YAML header.
    """
    parts = [
        _header(facts),
        f"# {_plain(facts.repo_id.rpartition('/')[2])}\n",
        _summary(facts),
        "## Use\n\n```sh\npip install toolscaler\n```\n\n" + usage_snippet(facts),
        _contents(facts),
        _training(facts),
        _codebook(facts),
        _evaluation(facts),
        _agents(facts),
        f"{facts.notes.strip()}\n" if facts.notes.strip() else "",
        _limits(),
        _license(facts),
        f"## Citation\n\n```bibtex\n{CITATION}\n```\n",
        f"\nWritten by toolscaler {__version__} from the files of the run.\n",
    ]
    return "\n".join(part for part in parts if part)


def usage_snippet(facts: CardFacts) -> str:
    """Write the Python block of the card; it runs as it stands once the model is published."""
    where = [json.dumps(facts.repo_id)]
    where += [f"{key}={json.dumps(value)}" for key in ("revision", "subfolder") if (value := getattr(facts, key))]
    query = facts.examples[0] if facts.examples else "which tool answers this?"
    lines = [
        "from toolscaler import GenerativeRetriever",
        "",
        f"retriever = GenerativeRetriever.from_pretrained({', '.join(where)})",
        f"for tool in retriever.retrieve({json.dumps(query)}, top_k=3)[0]:",
        '    print(f"{tool.score:8.3f}  {tool.name}")',
    ]
    return "```python\n" + "\n".join(lines) + "\n```\n"


def _header(facts: CardFacts) -> str:
    import yaml

    values: dict[str, Any] = {"library_name": "toolscaler", "pipeline_tag": "text-generation", "tags": list(_TAGS)}
    if facts.license:
        values["license"] = facts.license
    if facts.base_model:
        values["base_model"] = facts.base_model
        values["base_model_relation"] = "adapter" if facts.kind == "adapter" else "finetune"
    results = _index(facts)
    if results:
        values["model-index"] = [{"name": facts.repo_id.rpartition("/")[2], "results": results}]
    return "---\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120) + "---\n"


def _index(facts: CardFacts) -> list[dict[str, Any]]:
    """Give the metrics in the form that the Hub's tables read."""
    ours = _own_result(facts.metrics)
    if ours is None:
        return []
    name = ", ".join(facts.datasets) or "held-out queries"
    found = [
        {"type": metric, "value": round(value["mean"], 4), "name": metric}
        for metric, value in _headline(ours["metrics"]).items()
    ]
    dataset = {"name": name, "type": re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "queries"}
    return [{"task": {"type": "tool-retrieval", "name": "Tool retrieval"}, "dataset": dataset, "metrics": found}]


def _summary(facts: CardFacts) -> str:
    base = f"on {_link(facts.base_model)}" if facts.base_model else "on a base made from scratch"
    form = "A LoRA adapter with rows for the code tokens" if facts.kind == "adapter" else "A language model"
    return (
        f"{form}, {base}, that answers a query by writing the code of a fitting tool out of {facts.num_tools:,}. Every "
        f"tool is a sequence of {len(facts.code_sizes)} codes ({' × '.join(map(str, facts.code_sizes))}), and decoding "
        "is held to the codes that exist, so that it never names a tool that is not in the catalogue.\n"
    )


def _contents(facts: CardFacts) -> str:
    rows = [
        "LoRA matrices and code rows; the base is fetched by its name and its weights are checked"
        if facts.kind == "adapter"
        else "all weights",
        "tokenizer with codes, codebook and tool index",
    ]
    if facts.has_documents:
        rows.append("documents of the tools (`tools.jsonl`)")
    if facts.has_compressor:
        rows.append("the gist compressor, which codes new tools without training (`compressor/`)")
    listed = "".join(f"- {row}\n" for row in rows)
    return (
        f"## What is in it\n\n{listed}\nEvery file is JSON or safetensors; `toolscaler.json` has their SHA-256 sums.\n"
    )


def _training(facts: CardFacts) -> str:
    text = (
        "## Method\n\nToolscaler (Su et al.): tool documents are compressed into gist embeddings, residual clustering "
        "turns these into codes that similar tools share in part, the code tokens get their first rows from the gist "
        "embeddings, and the model is trained to write codes.\n"
    )
    rows = [("base", facts.base_model or "made from scratch")]
    rows += [("data", ", ".join(facts.datasets))] if facts.datasets else []
    rows += list(facts.settings.items())
    return text + "\n" + _table(("setting", "value"), [(key, _value(value)) for key, value in rows])


def _codebook(facts: CardFacts) -> str:
    values = facts.statistics
    if not values:
        return ""
    collisions = values.get("collisions", {})
    rows = [
        ("tools", values.get("num_tools")),
        ("codes used, by position", values.get("utilisation")),
        ("perplexity, by position", values.get("perplexity")),
        ("Gini of code usage, by position", values.get("gini")),
        ("relative quantisation error", values.get("relative_error")),
        ("tools moved to keep codes unique", values.get("moved")),
        ("rate of collisions before that", collisions.get("rate") if isinstance(collisions, Mapping) else None),
        ("nearest neighbours that share a prefix, by length", values.get("neighbour_prefix_sharing")),
        ("random pairs that do", values.get("random_prefix_sharing")),
    ]
    return "## Health of the codebook\n\n" + _table(
        ("what", "value"), [(name, _value(value)) for name, value in rows if value is not None]
    )


def _evaluation(facts: CardFacts) -> str:
    results = [row for row in (facts.metrics or {}).get("results", []) if row.get("metrics")]
    ours = _own_result(facts.metrics)
    if ours is None or facts.metrics is None:
        return ""
    columns = list(_headline(ours["metrics"]))
    rows = [(row["name"], *(_interval(row["metrics"].get(column)) for column in columns)) for row in results]
    about = [f"n = {ours.get('n', facts.metrics.get('n'))} held-out queries"]
    for key, text in (
        ("catalogue_size", "{} tools"),
        ("num_beams", "{} beams"),
        ("scores", "scores {}"),
        ("seed", "seed {}"),
    ):
        if facts.metrics.get(key) is not None:
            about.append(text.format(_plain(facts.metrics[key])))
    share = facts.metrics.get("confidence", 0.95)
    interval = f"{100 * share:g} % bootstrap intervals" if isinstance(share, int | float) else "bootstrap intervals"
    return f"## Retrieval\n\n{', '.join(about)}; {interval} in parentheses.\n\n" + _table(("system", *columns), rows)


def _agents(facts: CardFacts) -> str:
    found = _own_result(facts.agent_metrics) or facts.agent_metrics
    metrics = found.get("metrics") if isinstance(found, Mapping) else None
    if not isinstance(metrics, Mapping) or not metrics or found is None:
        return ""
    rows = [(name, _interval(value)) for name, value in metrics.items()]
    return f"## Agent\n\nn = {found.get('n', '?')} tasks.\n\n" + _table(("metric", "value"), rows)


def _limits() -> str:
    return (
        "## Limits\n\nIt knows the tools of its catalogue and the kind of queries it was trained on. A tool that fits "
        "badly is still a tool: check scores before calling anything that matters, and enforce permissions where tools "
        "are run. Text of tools and results is data from strangers.\n"
    )


def _license(facts: CardFacts) -> str:
    if facts.license:
        return (
            f"## Licence\n\n{_plain(facts.license)}; the terms of the base and of the training data apply beside it.\n"
        )
    return "## Licence\n\nNot stated by the publisher; the terms of the base and of the training data apply.\n"


def _own_result(metrics: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    results = (metrics or {}).get("results") or []
    named = [row for row in results if row.get("name") == "toolscaler"]
    row = (named or results or [None])[0]
    return row if isinstance(row, Mapping) and row.get("metrics") else None


def _headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {name: value for name, value in metrics.items() if name.startswith(("ndcg@", "recall@", "completeness@"))}
    return dict(list((wanted or dict(metrics)).items())[:_HEADLINE])


def _interval(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _value(value)
    low, high = value.get("low"), value.get("high")
    text = f"{value['mean']:.4f}"
    return text if low is None or high is None else f"{text} ({low:.4f} to {high:.4f})"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return "–" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(map(_plain, head)) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _plain(text: Any) -> str:
    """Escape what Markdown or HTML would read as markup; one line, 200 characters at most."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split())[:200])


def _link(name: str) -> str:
    return f"[{_plain(name)}](https://huggingface.co/{name})"
