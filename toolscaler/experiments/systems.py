"""The registry of systems: a name and a job's context go in, a retriever that was trained or loaded comes out.

A kind of system is registered once, by :func:`register_system`; an experiment file then names it. The built-in kinds
are registered when they are first asked for.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolscaler.errors import ConfigError
from toolscaler.experiments.datasets import DatasetFolder

if TYPE_CHECKING:
    from toolscaler.agent.executors.base import ToolExecutor
    from toolscaler.agent.planning import Planner
    from toolscaler.evaluation.retrieval import Retriever
    from toolscaler.experiments.specs import SystemSpec

# Modules that register the built-in kinds.
_BUILT_IN = tuple(f"toolscaler.experiments.{name}" for name in ("baselines", "trained", "combined", "chat"))


@dataclass(frozen=True)
class LoadedSystem:
    """A system that is ready to be asked.

    Attributes:
        retriever: Ranks tools.
        options: Keywords of every call of ``retriever.retrieve``.
        facts: What the record should say of it: parameters, code lengths, model name.
    """

    retriever: Retriever
    options: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobContext:
    """What a job gives to a system.

    Attributes:
        folder: Where the system may write; a train job's folder is what ``load`` reads later.
        data: Catalogue and queries. A train job must not read the test sets.
        spec: What the job says of the system: ``kind``, ``options``, ``run``, ``budget``, ``seed``, ``parts``.
        places: Where models lie: ``base``, and each of the kind's ``model_options``.
        needs: Role -> output folder of a job that came first: ``data``, ``prepare``, ``train``.
        evaluation: ``beams``, ``batch_size``, ``scores`` where they are set.
    """

    folder: Path
    data: DatasetFolder
    spec: Mapping[str, Any]
    places: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, Path] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The training seed."""
        return int(self.spec.get("seed", 0))

    @cached_property
    def options(self) -> dict[str, Any]:
        """The kind's options, models replaced by where they lie."""
        return {key: self.places.get(key, value) for key, value in self.spec.get("options", {}).items()}

    def part(self, role: str) -> JobContext:
        """Give the context of a part.

        Raises:
            ConfigError: There is no part of this role.
        """
        parts = self.spec.get("parts", {})
        if role not in parts:
            raise ConfigError("parts", sorted(parts), f"a part {role!r}")

        def inside(values: Mapping[str, Any]) -> dict[str, Any]:
            return {key.removeprefix(f"{role}."): value for key, value in values.items() if key.startswith(f"{role}.")}

        spec = dict(parts[role])
        return JobContext(
            self.folder, self.data, spec, inside(self.places), {"data": self.needs["data"], **inside(self.needs)},
            self.evaluation,
        )  # fmt: skip

    def load_part(self, role: str) -> LoadedSystem:
        """Load a part.

        Raises:
            ConfigError: There is no part of this role.
        """
        return load_system(self.part(role))


@dataclass(frozen=True)
class SystemKind:
    """A kind of system.

    Attributes:
        name: What an experiment file calls it.
        load: Makes the retriever in an evaluate job; ``None``: it ranks no tools.
        planner: Makes the agent's planner in an answer job, from the setting and the tools that can run; ``None``: it
            calls no tools.
        train: Trains it in a train job, which comes first; gives facts for the record (``steps``, ``examples``,
            ``tokens``, ``trainable_parameters``). Must be resumable: a killed job runs it again in the same folder.
        uses_base: Whether it is made from a base model.
        uses_seed: Whether chance has a part in it; others run once.
        pipeline: Whether the train job is a run of the pipeline.
        gists: Whether that run starts from gist embeddings, which are then prepared once for all.
        run: Sections of the run file that belong to the kind.
        options: Names of the options it takes.
        model_options: Those of them that name a model.
        chat: Whether it asks the chat model of the grid.
        roles: Parts that it must have; ``None``: any number, of any name.
        sections_of: Options -> further sections of the run file.
    """

    name: str
    load: Callable[[JobContext], LoadedSystem] | None
    train: Callable[[JobContext], Mapping[str, Any]] | None = None
    uses_base: bool = False
    uses_seed: bool = False
    pipeline: bool = False
    gists: bool = False
    run: Mapping[str, Any] = field(default_factory=dict)
    options: Sequence[str] = ()
    model_options: Sequence[str] = ()
    chat: bool = False
    planner: Callable[[JobContext, str, ToolExecutor], Planner] | None = None
    roles: Sequence[str] | None = ()
    sections_of: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def sections(self, system: SystemSpec) -> Mapping[str, Any]:
        """Give the sections of the run file that the system's options mean."""
        return {} if self.sections_of is None else self.sections_of(system.options)

    def check(self, key: str, system: SystemSpec) -> None:
        """Check a system's specification.

        Raises:
            ConfigError: An option is unknown, a part is missing, or the kind has no run file.
        """
        for option in system.options:
            if option not in self.options:
                near = difflib.get_close_matches(option, self.options, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                allowed = ", ".join(self.options) or "none"
                raise ConfigError(f"{key}.options.{option}", system.options[option], f"no such option{hint}: {allowed}")
        if system.run and not self.pipeline:
            raise ConfigError(f"{key}.run", sorted(system.run), f"nothing: {self.name} is no run of the pipeline")
        wanted = set(self.roles or ())
        if wanted - set(system.parts) or (self.roles is not None and set(system.parts) - wanted):
            raise ConfigError(f"{key}.parts", dict(system.parts), f"parts for: {', '.join(sorted(wanted)) or 'none'}")
        if self.roles is None and len(system.parts) < 2:
            raise ConfigError(f"{key}.parts", dict(system.parts), "at least two parts")


_KINDS: dict[str, SystemKind] = {}


def register_system(kind: SystemKind) -> SystemKind:
    """Add a kind of system; one of the same name is replaced.

    Jobs run in processes of their own: a kind of your own must be registered there too, by a module that the
    environment variable ``TOOLSCALER_SYSTEMS`` names (several: separated by commas).
    """
    _KINDS[kind.name] = kind
    return kind


def system_kinds() -> dict[str, SystemKind]:
    """Give every kind by name."""
    import os

    own = [name for name in os.environ.get("TOOLSCALER_SYSTEMS", "").split(",") if name.strip()]
    for module in (*_BUILT_IN, *own):
        importlib.import_module(module.strip())
    return dict(sorted(_KINDS.items()))


def find_system(name: str) -> SystemKind:
    """Give the kind of this name.

    Raises:
        ConfigError: There is none.
    """
    kinds = system_kinds()
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError("kind", name, f"one of {', '.join(kinds)}{hint}")
    return kinds[name]


def load_system(context: JobContext) -> LoadedSystem:
    """Make the retriever of a system.

    Raises:
        ConfigError: Its kind ranks no tools.
    """
    kind = find_system(str(context.spec["kind"]))
    if kind.load is None:
        raise ConfigError("kind", kind.name, "a kind of system that ranks tools")
    return kind.load(context)


@contextmanager
def registered(kind: SystemKind) -> Iterator[SystemKind]:
    """Add a kind for as long as the block runs."""
    before = system_kinds().get(kind.name)
    try:
        yield register_system(kind)
    finally:
        del _KINDS[kind.name]
        if before is not None:
            register_system(before)
