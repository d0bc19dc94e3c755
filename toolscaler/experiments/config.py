"""The experiment file: a YAML document that says what is compared on what, checked key by key before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from toolscaler.errors import ArtifactError, ConfigError
from toolscaler.experiments.specs import (
    SETTINGS,
    BaseSpec,
    BudgetSpec,
    CallingSpec,
    ChatSpec,
    DatasetSpec,
    EvaluationSpec,
    ReportSpec,
    Setting,
    SystemSpec,
)
from toolscaler.pipeline.config import build_section

_Spec = TypeVar("_Spec")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_NAME = re.compile(r"[\w.+-][\w.+ -]*")


@dataclass
class ExperimentConfig:
    """A grid: data sets x systems x bases x seeds x settings x parts of the catalogue.

    Attributes:
        name: Name of the report; the file's name by default.
        output_dir: Folder of jobs and reports. Files that name the same folder share jobs.
        data_root: Folder of the data; ``${NAME}`` stands for an environment variable.
        datasets, systems, bases: Name -> specification. A data set whose value is null is left out.
        seeds: Training seeds. Systems without chance run once.
        settings: ``multi_domain`` and ``in_domain``; for tool calling ``given`` and ``retrieval``.
        shares: Parts of the catalogue, 1 for all of it.
        task: ``retrieval``, or ``tool_calling`` (paper Tables 2, 4, 8 and 11).
        budget, evaluation, chat, calling, report: See their classes.
        run: Sections of the run file that all trained systems share.
    """

    name: str = "experiment"
    output_dir: str = "runs/experiments"
    data_root: str = ""
    datasets: dict[str, DatasetSpec] = field(default_factory=dict)
    systems: dict[str, SystemSpec] = field(default_factory=dict)
    bases: dict[str, BaseSpec] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    settings: list[Setting] = field(default_factory=lambda: ["multi_domain"])
    shares: list[float] = field(default_factory=lambda: [1.0])
    task: Literal["retrieval", "tool_calling"] = "retrieval"
    budget: BudgetSpec = field(default_factory=BudgetSpec)
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    chat: ChatSpec = field(default_factory=ChatSpec)
    calling: CallingSpec = field(default_factory=CallingSpec)
    report: ReportSpec = field(default_factory=ReportSpec)
    run: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExperimentConfig:
        """Build and check a grid.

        Raises:
            ConfigError: A key is unknown (the nearest one is named), a value is not allowed, or a name leads nowhere.
        """
        plain = _expanded(dict(data), "")
        if plain.get("task") == "tool_calling":
            plain.setdefault("settings", ["retrieval"])
        chosen = plain.pop("datasets", None)
        if isinstance(chosen, Mapping):
            chosen = {name: value for name, value in chosen.items() if value is not None}
        datasets = _named(DatasetSpec, chosen, "datasets")
        systems = _named(SystemSpec, plain.pop("systems", None), "systems")
        bases = _named(BaseSpec, plain.pop("bases", None), "bases")
        for spec in datasets.values():
            for key in ("queries", "tests", "domains"):  # a file that extends another one takes names out with null
                setattr(spec, key, {name: value for name, value in getattr(spec, key).items() if value is not None})
        config = build_section(cls, plain, "")
        config.datasets, config.systems, config.bases = datasets, systems, bases or {"scratch": BaseSpec()}
        check_config(config)
        return config

    @classmethod
    def from_file(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
        """Read an experiment file.

        Args:
            path: A YAML file. ``extends: OTHER.yaml`` at its top takes another file first; mappings are merged.
            overrides: Dotted key -> value, applied over the file.

        Raises:
            ArtifactError: A file is missing or no YAML mapping.
            ConfigError: See :meth:`from_dict`.
        """
        data = _read(Path(path), ())
        data.setdefault("name", Path(path).stem)
        for key, value in (overrides or {}).items():
            *parents, last = key.split(".")
            inner: Any = data
            for parent in parents:
                inner = inner.setdefault(parent, {})
                if not isinstance(inner, dict):
                    raise ConfigError(key, value, f"a key below a section; {parent!r} is a value")
            inner[last] = value
        return cls.from_dict(data)


def check_config(config: ExperimentConfig) -> None:
    """Check what the types alone do not say.

    Raises:
        ConfigError: A list is empty, a number is out of range, or a name leads nowhere.
    """
    _check_numbers(config)
    for name, spec in config.datasets.items():
        _check_dataset(name, spec)
    for name, system in config.systems.items():
        _known(f"systems.{name}.bases", system.bases, config.bases)
        _known(f"systems.{name}.datasets", system.datasets, config.datasets)
        _known(f"systems.{name}.parts", list(system.parts.values()), config.systems)
    _acyclic(config.systems)
    for key, wanted in (("report.baseline", config.report.baseline), ("calling.reference", config.calling.reference)):
        _known(key, [] if wanted is None else [wanted], config.systems)
    if config.task == "tool_calling":
        _check_calling(config)


def _check_numbers(config: ExperimentConfig) -> None:
    for key in ("datasets", "systems", "seeds", "settings", "shares"):
        if not getattr(config, key):
            raise ConfigError(key, getattr(config, key), "at least one")
    for key, values in (("seeds", config.seeds), ("settings", config.settings), ("shares", config.shares)):
        if len(set(values)) < len(values):
            raise ConfigError(key, list(values), "each once")
    for setting in config.settings:
        if setting not in SETTINGS[config.task]:
            expected = f"{' and '.join(SETTINGS[config.task])} with the task {config.task}"
            raise ConfigError("settings", setting, expected)
    for share in config.shares:
        if not 0 < share <= 1:
            raise ConfigError("shares", share, "a part of the catalogue above 0, at most 1")
    if not config.evaluation.ks or min(config.evaluation.ks) < 1:
        raise ConfigError("evaluation.ks", config.evaluation.ks, "whole numbers above zero, at least one")
    for key in ("beams", "batch_size"):
        if getattr(config.evaluation, key) < 1:
            raise ConfigError(f"evaluation.{key}", getattr(config.evaluation, key), "a whole number above zero")


def _check_calling(config: ExperimentConfig) -> None:
    if config.calling.executor == "stabletoolbench" and not config.calling.server:
        raise ConfigError("calling.server", "", "the URL of a StableToolBench server's /virtual")
    if not config.chat.base_url or not (config.calling.judge or config.chat.model):
        raise ConfigError("chat.base_url", config.chat.base_url, "the endpoint of the judge, and its model")
    for key in ("top_k", "samples"):
        if getattr(config.calling, key) < 1:
            raise ConfigError(f"calling.{key}", getattr(config.calling, key), "a whole number above zero")


def _check_dataset(name: str, spec: DatasetSpec) -> None:
    key = f"datasets.{name}"
    if spec.tools.startswith("bundle:") and spec.folder is None:
        raise ConfigError(f"{key}.folder", None, "the folder of the bundle's files")
    by_path = spec.tools != "starter" and not spec.tools.startswith("bundle:")
    if by_path and not spec.queries:
        raise ConfigError(f"{key}.queries", {}, "query files beside the tools: split -> file")
    if spec.split.by == "given" and not (spec.train and spec.tests):
        raise ConfigError(f"{key}.tests", spec.tests, "train and tests, which name splits of the source (by: given)")
    if spec.split.by != "given" and (spec.train or spec.tests or spec.validation):
        raise ConfigError(f"{key}.split.by", spec.split.by, "'given' where train, validation or tests name splits")
    names = test_set_names(spec)
    for domain in spec.domains:
        if domain not in names:
            raise ConfigError(f"{key}.domains", domain, f"test sets: {', '.join(names)}")


def test_set_names(spec: DatasetSpec) -> tuple[str, ...]:
    """Give the names of a data set's test sets, in the order of tables."""
    if spec.split.by == "given":
        return tuple(spec.tests)
    return {"query": ("test",), "tool": ("unseen",), "both": ("seen", "unseen")}[spec.split.by]


def patterns(value: Any, key: str) -> tuple[str, ...]:
    """Read one split name or a list of them.

    Raises:
        ConfigError: It is something else.
    """
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(item, str) for item in names):
        raise ConfigError(key, value, "a name or a list of names")
    return tuple(names)


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings, later ones over earlier ones, mappings inside them too."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            old = result.get(key)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _named(cls: type[_Spec], data: Any, key: str) -> dict[str, _Spec]:
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise ConfigError(key, data, "a mapping of names to settings")
    for name in data:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(key, name, "names of letters, digits, spaces and . _ + -")
    return {name: build_section(cls, {} if value is None else value, f"{key}.{name}") for name, value in data.items()}


def _known(key: str, names: Sequence[str] | None, known: Mapping[str, Any]) -> None:
    for name in names or ():
        if name not in known:
            raise ConfigError(key, name, f"one of {', '.join(known)}")


def _acyclic(systems: Mapping[str, SystemSpec]) -> None:
    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ConfigError(f"systems.{name}.parts", " -> ".join([*above, name]), "parts that do not come back")
        for part in systems[name].parts.values():
            visit(part, (*above, name))

    for name in systems:
        visit(name, ())


def _expanded(value: Any, key: str) -> Any:
    """Put environment variables in for ``${NAME}``."""
    if isinstance(value, Mapping):
        return {name: _expanded(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, key) for item in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(key, value, f"a value; set the environment variable {name}, or give the key on the line")
        return os.environ[name]

    return _VARIABLE.sub(found, value)


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise ArtifactError("expected an experiment file, found nothing", path=path)
    if path.resolve() in above:
        raise ConfigError("extends", str(path), "files that do not extend each other in a circle")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArtifactError(f"expected YAML, got: {' '.join(str(error).split())}", path=path) from error
    if not isinstance(data, dict):
        raise ArtifactError(f"expected a YAML mapping, got {type(data).__name__}", path=path)
    parent = data.pop("extends", None)
    if parent is None:
        return data
    return merged(_read(path.parent / str(parent), (*above, path.resolve())), data)
