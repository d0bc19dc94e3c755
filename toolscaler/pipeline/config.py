"""The run file: one YAML document that says what every stage does, checked key by key before anything starts."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from toolscaler.codebook.collisions import CollisionPolicy
from toolscaler.codebook.settings import EncodingName, MetricName, ProjectionName, QuantizerName, ReassignmentName
from toolscaler.errors import ArtifactError, ConfigError

_Section = TypeVar("_Section")


@dataclass
class DataSection:
    """Where tools and queries come from, and how queries are split.

    Attributes:
        tools: ``starter``, ``bundle:NAME`` (with ``folder``) or the path of a tool source.
        folder: Folder of a bundle.
        queries: Query file, for tools given by path.
        format: Reader of the tools; default: found from the content.
        query_format: Reader of the queries; default: found from the content.
        columns: Column mapping of plain tool files.
        query_columns: Column mapping of plain query files.
        options: Options of the bundle.
        on_error: ``raise`` stops at the first bad row, ``skip`` reports and counts it.
        split: ``given`` (the source's own), ``query`` or ``tool`` (unseen tools).
        test_size: Share of queries (or tools) held out.
        validation_size: Share for the validation loss of the retrieval stage.
        seed: Seed of the split.
        max_test_queries: Evaluate on at most this many held-out queries, drawn with ``seed``; default: all.
        trajectories: Training trajectories: ``starter``, or a file or folder in any format that
            :func:`toolscaler.data.load_trajectories` reads. With them the catalogue gets the tool Finish, with which
            they end; without them the trajectory and agent stages have nothing to do.
        trajectory_variants: Of the starter's trajectories: how often each wording is filled with values.
        unknown_tools: What becomes of trajectories that call tools outside the catalogue: ``raise`` or ``skip``.
    """

    tools: str = "starter"
    folder: str | None = None
    queries: str | None = None
    format: str | None = None
    query_format: str | None = None
    columns: dict[str, str] | None = None
    query_columns: dict[str, str] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    on_error: Literal["raise", "skip"] = "raise"
    split: Literal["given", "query", "tool"] = "query"
    test_size: float = 0.1
    validation_size: float = 0.0
    seed: int = 0
    max_test_queries: int | None = None
    trajectories: str | None = None
    trajectory_variants: int = 1
    unknown_tools: Literal["raise", "skip"] = "raise"


@dataclass
class BaseSection:
    """The base model.

    Attributes:
        model: ``scratch`` (made on the spot from the documents and training queries), or a Hub id or folder.
        revision: Revision of a Hub id.
        model_kwargs: More arguments of ``AutoModelForCausalLM.from_pretrained``.
        tokenizer_kwargs: More arguments of ``AutoTokenizer.from_pretrained``, for example ``eos_token``.
        scratch: Settings of a base made from scratch (:class:`toolscaler.training.scratch.ScratchConfig`).
    """

    model: str = "scratch"
    revision: str | None = None
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    tokenizer_kwargs: dict[str, Any] = field(default_factory=dict)
    scratch: dict[str, Any] = field(default_factory=dict)


@dataclass
class CompressionSection:
    """Semantic compression (paper section 4.1).

    Attributes:
        num_gist_tokens: Gist tokens V a tool.
        encode_batch_tokens: Token budget of a batch when the catalogue is encoded.
        generate_queries: Add one training query a tool as a generation target.
        trainer: Fields of :class:`toolscaler.CompressionConfig`.
    """

    num_gist_tokens: int = 2
    encode_batch_tokens: int = 8192
    generate_queries: bool = False
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass
class CodebookSection:
    """Deep residual clustering (paper section 4.1): every keyword of :meth:`toolscaler.Codebook.fit`, which says more.

    Attributes:
        num_levels: Levels L a gist position.
        num_centroids: Centroids K a level, at most.
        reduced_dim: Dimensions after the projection.
        collisions: ``reassign``, ``suffix`` or ``share``.
        balanced: Cap the size of clusters; the same as ``quantizer: balanced_residual_kmeans``.
        seed: Seed of every random choice.
        max_iterations: Most Lloyd iterations of a k-means run.
        num_restarts: k-means runs a level; the best is kept.
        quantizer: Kind of quantiser.
        quantizer_options: Options of that kind.
        encoding: ``greedy`` or ``beam``.
        beam_width: Prefixes kept a level with ``encoding: beam``.
        reassignment: ``greedy`` or ``joint``.
        projection: ``pca`` or ``none``.
        whiten: Divide reduced dimensions by their standard deviation.
        normalize: Bring embeddings to one length first.
        metric: ``l2`` or ``cosine``.
    """

    num_levels: int = 2
    num_centroids: int = 512
    reduced_dim: int = 32
    collisions: CollisionPolicy = "reassign"
    balanced: bool = False
    seed: int = 0
    max_iterations: int = 100
    num_restarts: int = 1
    quantizer: QuantizerName = "residual_kmeans"
    quantizer_options: dict[str, Any] = field(default_factory=dict)
    encoding: EncodingName = "greedy"
    beam_width: int = 8
    reassignment: ReassignmentName = "greedy"
    projection: ProjectionName = "pca"
    whiten: bool = False
    normalize: bool = False
    metric: MetricName = "l2"


@dataclass
class TokenizationSection:
    """How a tool becomes tokens (paper, appendix C).

    Attributes:
        strategy: ``toolscaler`` (codes of the codebook), or for comparison ``numerical``, ``hierarchical``,
            ``semantic`` or ``atomic`` (ToolGen). Stages that a strategy does not need are left out.
        options: Fields of the strategy's class in :mod:`toolscaler.tokenization.strategies`; ``toolscaler`` has none
            here.
    """

    strategy: Literal["numerical", "hierarchical", "semantic", "atomic", "toolscaler"] = "toolscaler"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class EmbeddingSection:
    """Reframe embedding (paper section 4.2); see :func:`toolscaler.initialize_code_embeddings`.

    Attributes:
        scale: ``match`` or ``none``; strategies other than ``toolscaler`` may have an option for it.
        init: ``reframe`` or ``random`` (the ablation "w/o reframe embedding"), of codes of the codebook.
        seed: Seed of a random start.
        start_from: Weights that the retrieval stage tunes: the ``base`` as it came (the paper), or the ``compressor``'s
            base, for bases that were trained in the compression stage.
        retrieval_template: How a query becomes a prompt; ``{query}`` stands for it. Default: the base's chat template,
            or the query and a line break.
    """

    scale: Literal["match", "none"] = "match"
    init: Literal["reframe", "random"] = "reframe"
    seed: int = 0
    start_from: Literal["base", "compressor"] = "base"
    retrieval_template: str | None = None


@dataclass
class RetrievalSection:
    """The retrieval stage (paper section 4.2).

    Attributes:
        document_rows: Also train on the tool documents as prompts, so that every tool has been seen. Not in the paper.
        first_steps: Also train on the first steps of the trajectories, see :func:`toolscaler.training.first_step_rows`.
            Not in the paper.
        first_step_tokens: Longest such row, in tokens.
        trainer: Fields of :class:`toolscaler.RetrievalConfig`.
    """

    document_rows: bool = False
    first_steps: bool = False
    first_step_tokens: int = 256
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrajectorySection:
    """The trajectory stage (paper section 4.2); left out where ``data.trajectories`` names none.

    Attributes:
        protocol: Fields of :class:`toolscaler.data.AgentProtocol`.
        trainer: Fields of :class:`toolscaler.training.TrajectoryConfig`.
    """

    protocol: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass
class RoundsSection:
    """Rounds of the whole pipeline (paper section 4.2, post-guided training).

    Attributes:
        count: Rounds, the first one among them (the paper's T is 2). 1 stops after it: the ablation "w/o post-guided".
        start_from: What the compressor of a later round is made of: the ``base`` as it came, the ``tuned`` model that
            the round before ended with, or the ``compressor`` of the round before, which then goes on.
        queries: When labelled queries guide as trajectories of one step: ``auto`` (where there are no trajectories),
            ``always`` or ``never``.
        trainer: Fields of :class:`toolscaler.training.PostGuidedConfig` that differ from ``compression.trainer``.
    """

    count: int = 1
    start_from: Literal["base", "tuned", "compressor"] = "base"
    queries: Literal["auto", "always", "never"] = "auto"
    trainer: dict[str, Any] = field(default_factory=dict)


@dataclass
class AgentSection:
    """The agent stage: held-out tasks, really worked on. Only the starter catalogue has such tasks.

    Attributes:
        max_tasks: At most this many tasks, evenly drawn; default: all.
        free_decoding: Also let the same model write codes and arguments without constraints, for comparison.
        config: Fields of :class:`toolscaler.agent.AgentConfig`.
        planner: Settings of :class:`toolscaler.agent.CodePlanner`.
        seed: Seed of the intervals.
    """

    max_tasks: int | None = None
    free_decoding: bool = True
    config: dict[str, Any] = field(default_factory=dict)
    planner: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass
class EvaluationSection:
    """Numbers on the held-out queries.

    Attributes:
        ks: Cut-offs.
        num_beams: Beam width of the generative retriever.
        batch_size: Queries a batch.
        scores: ``full`` or ``group`` (method: what a score is normalised over).
        baselines: Any of ``bm25``, ``lsa`` (TF-IDF and a truncated SVD, no download) and
            ``sentence-transformers:MODEL``.
        seed: Seed of the bootstrap.
    """

    ks: list[int] = field(default_factory=lambda: [1, 3, 5])
    num_beams: int = 10
    batch_size: int = 32
    scores: Literal["full", "group"] = "full"
    baselines: list[str] = field(default_factory=lambda: ["bm25", "lsa"])
    seed: int = 0


@dataclass
class RunConfig:
    """A whole run: every stage's settings and the folder that receives its results.

    Attributes:
        output_dir: The run folder.
        seed: Seed of the trained stages.
        data, base, compression, codebook, tokenization, embedding, retrieval, evaluation, trajectory, agent: The
            stages' sections.
        rounds: How often, and what the later rounds do otherwise.
    """

    output_dir: str = "runs/run"
    seed: int = 0
    data: DataSection = field(default_factory=DataSection)
    base: BaseSection = field(default_factory=BaseSection)
    compression: CompressionSection = field(default_factory=CompressionSection)
    codebook: CodebookSection = field(default_factory=CodebookSection)
    tokenization: TokenizationSection = field(default_factory=TokenizationSection)
    embedding: EmbeddingSection = field(default_factory=EmbeddingSection)
    retrieval: RetrievalSection = field(default_factory=RetrievalSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    trajectory: TrajectorySection = field(default_factory=TrajectorySection)
    agent: AgentSection = field(default_factory=AgentSection)
    rounds: RoundsSection = field(default_factory=RoundsSection)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RunConfig:
        """Build and check a config.

        Raises:
            ConfigError: A key is unknown or a value is not allowed; the message names key, value and what is allowed.
        """
        return build_section(cls, data, "")

    @classmethod
    def from_file(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
        """Read a YAML run file.

        Args:
            path: A file, or the name of a recipe in the package (``starter``).
            overrides: Dotted key → value, applied over the file.

        Raises:
            ArtifactError: The file is missing or no YAML mapping.
            ConfigError: See :meth:`from_dict`.
        """
        data = _read_yaml(path)
        for key, value in (overrides or {}).items():
            _set_dotted(data, key, value)
        return cls.from_dict(data)

    def write(self, path: str | Path) -> None:
        """Write the settings as YAML."""
        from toolscaler._files import write_text

        write_text(path, yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))


def recipe_names() -> list[str]:
    """Give the names of the packaged recipes."""
    folder = resources.files("toolscaler") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def _read_yaml(path: str | Path) -> dict[str, Any]:
    file = Path(path)
    if not file.exists() and str(path) in recipe_names():
        text = (resources.files("toolscaler") / "recipes" / f"{path}.yaml").read_text(encoding="utf-8")
    elif file.is_file():
        text = file.read_text(encoding="utf-8")
    else:
        raise ArtifactError(f"expected a YAML file or one of the recipes {recipe_names()}, found nothing", path=path)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ArtifactError(f"expected YAML, got: {' '.join(str(error).split())}", path=path) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ArtifactError(f"expected a YAML mapping, got {type(data).__name__}", path=path)
    return data


def _set_dotted(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        child = data.setdefault(name, {})
        if not isinstance(child, dict):
            raise ConfigError(key, value, f"a key below a section; {name!r} is a value")
        data = child
    data[last] = value


def build_section(cls: type[_Section], data: Any, prefix: str) -> _Section:
    """Build a dataclass from plain data, key by key.

    Args:
        cls: The dataclass.
        data: A mapping of field names to values.
        prefix: Dotted name of the section, for messages; empty at the top.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(prefix or "run file", data, "a mapping of keys to values")
    known = {item.name for item in fields(cls) if item.init}  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values = {}
    for key, value in data.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            allowed = ", ".join(sorted(known)) if len(known) <= 20 else f"a field of {cls.__name__}"
            raise ConfigError(name, value, f"no such key{hint}; allowed: {allowed}")
        hint_type = hints[key]
        if is_dataclass(hint_type):
            values[key] = build_section(hint_type, {} if value is None else value, name)  # type: ignore[arg-type]
        else:
            values[key] = convert_value(value, hint_type, name)
    return cls(**values)


def convert_value(value: Any, hint: Any, name: str) -> Any:
    """Check a value against a type hint; numbers written as text (``4e-5`` is text to YAML) are converted.

    Raises:
        ConfigError: The value does not fit.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in args:
            raise ConfigError(name, value, f"one of {', '.join(map(repr, args))}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, args, name)
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(name, value, "a list")
        return [convert_value(item, args[0], f"{name}[{index}]") for index, item in enumerate(value)]
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise ConfigError(name, value, "a mapping")
        return value
    return _convert_plain(value, hint, name)


def _convert_union(value: Any, options: tuple[Any, ...], name: str) -> Any:
    if value is None and type(None) in options:
        return None
    for option in options:
        if option is type(None):
            continue
        try:
            return convert_value(value, option, name)
        except ConfigError:
            continue
    words = " or ".join(
        "nothing" if option is type(None) else getattr(option, "__name__", "value") for option in options
    )
    raise ConfigError(name, value, words)


def _convert_plain(value: Any, hint: Any, name: str) -> Any:
    if hint is bool:
        if not isinstance(value, bool):
            raise ConfigError(name, value, "true or false")
        return value
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(name, value, "a whole number")
        return value
    if hint is float:
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                raise ConfigError(name, value, "a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(name, value, "a number")
        return float(value)
    if hint is str and not isinstance(value, str):
        raise ConfigError(name, value, "text")
    return value
