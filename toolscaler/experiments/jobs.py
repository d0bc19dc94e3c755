"""A grid goes in, its jobs come out: each with a fingerprint of all that its result depends on.

Kinds of jobs, in the order in which they need each other:

- ``data``: reads and splits a data set (once for a data set and a part of its catalogue);
- ``prepare``: what trained systems share: the base and, for systems that start from gists, the trained compressor and
  the gist embeddings (once for a data set, base and seed);
- ``train``: trains one system;
- ``evaluate``: measures one system in one setting on every test set;
- ``answer`` and ``judge``, for tool calling: an agent works on every test query, and a judge reads its answers.

Jobs whose fingerprints agree are one job, inside a file and between files that name the same folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from toolscaler.errors import ConfigError
from toolscaler.experiments.config import ExperimentConfig, merged
from toolscaler.experiments.datasets import source_digest
from toolscaler.experiments.models import find_model
from toolscaler.experiments.specs import BaseSpec, SystemSpec
from toolscaler.experiments.stages import calls_tools, last_stage
from toolscaler.experiments.systems import SystemKind, find_system
from toolscaler.pipeline.config import RunConfig
from toolscaler.pipeline.manifest import fingerprint

#: Raised when a job's result would mean something else than before.
FORMAT_VERSION = 1
_MARK = 16

JobKind = Literal["data", "prepare", "train", "evaluate", "answer", "judge"]
#: Sections of a run file that the shared stages read.
_SHARED_SECTIONS = ("seed", "base", "compression")
# Tokens that trainings see are part of a job's record.
_COUNTED = {
    stage: {"trainer": {"include_num_input_tokens_seen": "non_padding"}} for stage in ("retrieval", "trajectory")
}


@dataclass(frozen=True)
class Job:
    """One thing to do.

    Attributes:
        kind: See the module.
        spec: All that the result depends on, as plain data.
        needs: Role -> fingerprint of a job that comes first.
        places: Where data and models lie; no part of the fingerprint.
        labels: What a reader calls it: ``dataset``, ``system``, ``base``, ``seed``, ``share``, ``setting``.
    """

    kind: JobKind
    spec: Mapping[str, Any]
    needs: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash (hex) over kind, specification and the fingerprints of the jobs before it."""
        return fingerprint(FORMAT_VERSION, self.kind, dict(self.spec), dict(self.needs))

    @property
    def name(self) -> str:
        """Name of the job's folder."""
        return job_name(self.kind, self.fingerprint)

    @property
    def title(self) -> str:
        """The labels on one line."""
        words = [f"{key} {value}" if key in ("seed", "share") else str(value) for key, value in self.labels.items()]
        return " / ".join([self.kind, *words])

    def to_dict(self) -> dict[str, Any]:
        """Give plain data; ``Job(**data)`` is the way back."""
        return asdict(self)


def job_name(kind: str, mark: str) -> str:
    """Give the name of a job's folder from its kind and fingerprint."""
    return f"{kind}-{mark[:_MARK]}"


@dataclass(frozen=True)
class Row:
    """One row's worth of results: an evaluate or judge job and its place in the grid.

    Attributes:
        job: The job.
        dataset, system, base, seed, share, setting: Its place; ``base`` and ``seed`` are ``None`` for systems without.
    """

    job: Job
    dataset: str
    system: str
    base: str | None
    seed: int | None
    share: float
    setting: str


@dataclass(frozen=True)
class Plan:
    """The jobs of a grid.

    Attributes:
        jobs: Every job once, those that are needed first.
        rows: The evaluate (or judge) jobs with their places in the grid.
    """

    jobs: Sequence[Job]
    rows: Sequence[Row]


class Planner:
    """Collect the jobs of a grid, each once."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.root = Path(config.data_root)
        self.jobs: dict[str, Job] = {}
        self._digests: dict[str, str] = {}

    def add(self, job: Job) -> Job:
        """Give the job with this fingerprint: the one that is there, or this one."""
        return self.jobs.setdefault(job.fingerprint, job)

    def data(self, dataset: str, share: float) -> Job:
        """The job that splits a data set."""
        spec = self.config.datasets[dataset]
        if dataset not in self._digests:
            self._digests[dataset] = source_digest(spec, self.root)
        plain = asdict(spec)
        # Where files lie does not matter, what is in them does.
        for key in ("folder", *(("tools",) if not _named(spec.tools) else ())):
            plain.pop(key)
        plain["queries"] = list(spec.queries)
        if spec.trajectories not in (None, "starter"):
            plain["trajectories"] = "given"
        places = {"data_root": str(self.root.absolute()), "dataset": dataset}
        labels = {"dataset": dataset, **({} if share == 1 else {"share": share})}
        return self.add(
            Job("data", {"dataset": plain, "source": self._digests[dataset], "share": share}, {}, places, labels)
        )

    def run_sections(self, system: SystemSpec, base: BaseSpec, seed: int, kind: SystemKind) -> dict[str, Any]:
        """Merge what the file says about a trained system into a whole run file.

        Raises:
            ConfigError: A key is unknown or a value is not allowed, with its dotted name.
        """
        budget = self.config.budget
        trainer = {
            **({} if budget.steps is None else {"max_steps": budget.steps}),
            **({} if budget.batch is None else {"per_device_train_batch_size": budget.batch}),
            **({} if budget.batch is None else {"gradient_accumulation_steps": 1}),
        }
        more = {} if budget.trajectory_steps is None else {"max_steps": budget.trajectory_steps}
        own = {"seed": seed, "retrieval": {"trainer": trainer}, "trajectory": {"trainer": more}}
        layers = merged(_COUNTED, self.config.run, base.run, own, kind.run, kind.sections(system), system.run)
        taken = {"data", "evaluation", "output_dir"} & set(layers)
        if taken:
            key = sorted(taken)[0]
            raise ConfigError(f"run.{key}", layers[key], "nothing here: the experiment sets it")
        layers["base"] = {**layers.get("base", {}), "model": find_model(base.model).identity}
        plain = RunConfig.from_dict(layers).to_dict()
        return {key: value for key, value in plain.items() if key not in ("output_dir", "data", "evaluation")}

    def train(self, name: str, dataset: str, base: str, seed: int, share: float, stage: str | None = None) -> Job:
        """The job that trains a system, with those before it; ``stage`` replaces where the system's options end it."""
        config, system = self.config, self.config.systems[name]
        kind, data = find_system(system.kind), self.data(dataset, share)
        spec: dict[str, Any] = {"kind": system.kind, "options": _model_identities(kind, system.options)}
        model = find_model(config.bases[base].model)
        places = {"base": model.location, **_model_places(kind, system.options)}
        needs = {"data": data.fingerprint}
        labels = {"dataset": dataset, "base": base, "seed": seed, **({} if share == 1 else {"share": share})}
        if kind.pipeline:
            sections = self.run_sections(system, config.bases[base], seed, kind)
            given = config.datasets[dataset].trajectories is not None
            ends = last_stage(stage or str(system.options.get("stage", "last")), given)
            # Strategies whose sequences have several lengths make no agents, and cannot read trajectories.
            read = given and (ends == "trajectory" or calls_tools(sections))
            spec = {"kind": system.kind, "options": {"stage": ends}, "run": sections, "trajectories": read}
            if ends == "trajectory":
                needs["before.train"] = self.train(name, dataset, base, seed, share, "retrieval").fingerprint
                labels["stage"] = ends
            else:
                needs["prepare"] = self._shared(sections, kind.gists, read, needs, places, labels)
        else:
            spec.update(budget=asdict(config.budget), seed=seed, base=model.identity)
            if model.identity == "scratch":  # then the base is one that has to be made
                sections = self.run_sections(SystemSpec(), config.bases[base], seed, kind)
                needs["prepare"] = self._shared(sections, False, False, needs, places, labels)
        return self.add(Job("train", spec, needs, places, {"system": name, **labels}))

    def _shared(
        self,
        sections: Mapping[str, Any],
        gists: bool,
        trajectories: bool,
        needs: Mapping[str, str],
        places: Mapping[str, str],
        labels: Mapping[str, Any],
    ) -> str:
        """Add the job of the stages that systems share; gives its fingerprint."""
        shared = {key: sections[key] for key in _SHARED_SECTIONS if gists or key != "compression"}
        # Trajectories matter to a base that is made from its texts, and to no other.
        read = trajectories and shared["base"]["model"] == "scratch"
        spec = {"run": shared, "until": "encode" if gists else "base", "trajectories": read}
        needs = dict(needs)
        if gists and shared["base"]["model"] == "scratch":
            needs["base.prepare"] = self._shared(sections, False, trajectories, needs, places, labels)
        made = {**labels, "makes": "gists" if gists else "base"}
        return self.add(Job("prepare", spec, needs, {"base": places["base"]}, made)).fingerprint

    def resolved(
        self, name: str, dataset: str, base: str | None, seed: int | None, share: float
    ) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
        """Give a system's specification for an evaluate job, the jobs it needs, and its places, its parts' too."""
        system = self.config.systems[name]
        kind = find_system(system.kind)
        spec: dict[str, Any] = {"kind": system.kind, "options": _model_identities(kind, system.options)}
        needs: dict[str, str] = {}
        places = {f"{key}": value for key, value in _model_places(kind, system.options).items()}
        if kind.train is not None and base is not None:
            needs["train"] = self.train(name, dataset, base, seed or 0, share).fingerprint
        if kind.pipeline:
            spec["options"] = {}  # the train job has them
        if kind.uses_seed and seed is not None:
            spec["seed"] = seed
        if kind.chat:
            told, where = self.chat(system)
            spec["options"] = {key: value for key, value in spec["options"].items() if key not in CHAT_OPTIONS}
            spec["chat"] = told
            places.update(where)
        for role, part in system.parts.items():
            inner, part_needs, part_places = self.resolved(part, dataset, base, seed, share)
            spec.setdefault("parts", {})[role] = inner
            needs.update({f"{role}.{key}": value for key, value in part_needs.items()})
            places.update({f"{role}.{key}": value for key, value in part_places.items()})
        return spec, needs, places

    def evaluate(self, name: str, dataset: str, base: str | None, seed: int | None, share: float, setting: str) -> Job:
        """The job that measures a system, with those before it."""
        settings = asdict(self.config.evaluation)
        settings.pop("threads")
        system, needs, places = self.resolved(name, dataset, base, seed, share)
        generative = uses(self.config, name, "pipeline")
        for key in () if generative else ("beams", "scores"):
            settings.pop(key)
        spec = {"system": system, "setting": setting, "evaluation": settings, "task": self.config.task}
        needs = {"data": self.data(dataset, share).fingerprint, **needs}
        labels = _labels(dataset, name, base, seed, share, setting)
        return self.add(Job("evaluate", spec, needs, places, labels))

    def chat(self, system: SystemSpec | None = None) -> tuple[dict[str, Any], dict[str, str]]:
        """Give the chat model of the grid, as a system's options change it: what it is, and where.

        Raises:
            ConfigError: There is none.
        """
        common, own = self.config.chat, {} if system is None else system.options
        model, base_url = own.get("model", common.model), own.get("base_url", common.base_url)
        if not model or not base_url:
            raise ConfigError("chat", {"base_url": base_url, "model": model}, "an endpoint and the name of its model")
        key = own.get("api_key_env", common.api_key_env)
        return {"model": model, "options": dict(common.options)}, {"base_url": base_url, "api_key_env": key}

    def answer(self, name: str, dataset: str, base: str | None, seed: int | None, share: float, setting: str) -> Job:
        """The job in which a system's agent works on the test queries, with those before it."""
        kind, calling = find_system(self.config.systems[name].kind), self.config.calling
        if kind.planner is None:
            raise ConfigError(f"systems.{name}.kind", kind.name, "a kind of system that calls tools")
        system, needs, places = self.resolved(name, dataset, base, seed, share)
        told = {"executor": calling.executor, "agent": calling.agent, "top_k": calling.top_k}
        needs = {"data": self.data(dataset, share).fingerprint, **needs}
        places = {**places, "server": calling.server, "server_key_env": calling.server_key_env}
        labels = _labels(dataset, name, base, seed, share, setting)
        return self.add(Job("answer", {"system": system, "setting": setting, "calling": told}, needs, places, labels))

    def judge(self, name: str, dataset: str, base: str | None, seed: int | None, share: float, setting: str) -> Job:
        """The job in which a judge reads a system's answers, with those before it."""
        config, calling = self.config, self.config.calling
        chat, places = self.chat()
        judge = {**chat, "model": calling.judge or chat["model"], "samples": calling.samples}
        answered = self.answer(name, dataset, base, seed, share, setting)
        needs = {"data": answered.needs["data"], "answer": answered.fingerprint}
        if calling.reference is not None:
            chance = seed if uses(config, calling.reference, "uses_seed") else None
            model = base if uses(config, calling.reference, "uses_base") else None
            other = self.answer(calling.reference, dataset, model, chance, share, "given").fingerprint
            if other != answered.fingerprint:
                needs["reference.answer"] = other
        spec = {
            "judge": judge,
            "setting": setting,
            "seed": config.evaluation.seed,
            "resamples": config.evaluation.resamples,
        }
        return self.add(Job("judge", spec, needs, places, _labels(dataset, name, base, seed, share, setting)))


#: Options of systems that ask a chat model: which one, where the grid's own is not meant.
CHAT_OPTIONS = ("model", "base_url", "api_key_env")


def _labels(dataset: str, name: str, base: str | None, seed: int | None, share: float, setting: str) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "system": name,
        **({} if base is None else {"base": base}),
        **({} if seed is None else {"seed": seed}),
        **({} if share == 1 else {"share": share}),
        **({} if setting == "multi_domain" else {"setting": setting}),
    }


def _named(tools: str) -> bool:
    return tools == "starter" or tools.startswith("bundle:")


def _model_identities(kind: SystemKind, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: find_model(value).identity if key in kind.model_options and isinstance(value, str) else value
        for key, value in options.items()
    }


def _model_places(kind: SystemKind, options: Mapping[str, Any]) -> dict[str, str]:
    found = {key: options[key] for key in kind.model_options if isinstance(options.get(key), str)}
    return {key: find_model(value).location for key, value in found.items()}


def uses(config: ExperimentConfig, name: str, what: str) -> bool:
    """Say whether a system, or one of its parts, has a property of its kind (``uses_base``, ``uses_seed``, ...)."""
    system = config.systems[name]
    return bool(getattr(find_system(system.kind), what)) or any(
        uses(config, part, what) for part in system.parts.values()
    )


def plan_jobs(config: ExperimentConfig) -> Plan:
    """Lay out all jobs of a grid.

    Seeds come one after the other, and inside a seed all systems, so that a stopped comparison is an even one.

    Raises:
        ConfigError: A kind of system is unknown, or an option is not allowed.
        DataError: A file of the data is missing.
    """
    for name, system in config.systems.items():
        find_system(system.kind).check(f"systems.{name}", system)
    planner, rows = Planner(config), []
    for place, seed in enumerate(config.seeds):
        for dataset in config.datasets:
            for share in config.shares:
                for name, system in config.systems.items():
                    if not system.report or (system.datasets is not None and dataset not in system.datasets):
                        continue
                    if not uses(config, name, "uses_seed") and place:
                        continue
                    rows += _rows(planner, dataset, name, seed, share)
    return Plan(list(_ordered(planner.jobs)), rows)


def _rows(planner: Planner, dataset: str, name: str, seed: int, share: float) -> list[Row]:
    config, system = planner.config, planner.config.systems[name]
    own_seed = seed if uses(config, name, "uses_seed") else None
    bases: Sequence[str | None] = [None]
    if uses(config, name, "uses_base"):
        bases = [base for base in config.bases if system.bases is None or base in system.bases]
    found = []
    for base in bases:
        for setting in config.settings:
            plan = planner.judge if config.task == "tool_calling" else planner.evaluate
            job = plan(name, dataset, base, own_seed, share, setting)
            found.append(Row(job, dataset, name, base, own_seed, share, setting))
    return found


def _ordered(jobs: Mapping[str, Job]) -> list[Job]:
    """Give jobs so that needed ones come before, and otherwise in the order in which their results are wanted."""
    done: dict[str, Job] = {}

    def visit(mark: str) -> None:
        if mark in done:
            return
        for needed in jobs[mark].needs.values():
            visit(needed)
        done[mark] = jobs[mark]

    for mark, job in jobs.items():
        if job.kind in ("evaluate", "judge"):
            visit(mark)
    for mark in jobs:
        visit(mark)
    return list(done.values())
