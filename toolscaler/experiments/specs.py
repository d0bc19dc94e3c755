"""What an experiment file may say of data sets, bases, systems, budgets, measures, judges and tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

#: Retrieval: the whole catalogue is allowed (``multi_domain``), or the tools of a test set's domain (``in_domain``).
#: Tool calling: the tools of a query are given (``given``), or to be found in the whole catalogue (``retrieval``).
Setting = Literal["multi_domain", "in_domain", "given", "retrieval"]
#: Task -> its settings.
SETTINGS = {"retrieval": ("multi_domain", "in_domain"), "tool_calling": ("given", "retrieval")}


@dataclass
class SplitSpec:
    """How a data set becomes training, validation and test queries. Every system gets the same split.

    Attributes:
        by: ``query`` (one test set ``test``), ``tool`` (one test set ``unseen``: tools without a training query),
            ``both`` (``unseen``, and ``seen``: all tools of a query have training queries; what was drawn and has
            others goes to training, or with ``max_train_queries`` nowhere) or ``given`` (the source's own splits, see
            :class:`DatasetSpec`).
        test_size: Share or number of query texts held out (``query`` and ``both``).
        unseen_tools: Share or number of tools held out (``tool`` and ``both``).
        validation_size: Share or number of the remaining query texts for the validation loss.
        seed: Seed of every choice here, and of the part of the catalogue.
        max_test_queries: At most this many queries a test set, drawn with ``seed``; default: all.
        max_train_queries: At most this many training queries, drawn with ``seed``; default: all.
    """

    by: Literal["given", "query", "tool", "both"] = "query"
    test_size: float = 0.1
    unseen_tools: float = 0.1
    validation_size: float = 0.05
    seed: int = 0
    max_test_queries: int | None = None
    max_train_queries: int | None = None


@dataclass
class DatasetSpec:
    """A data set: tools, labelled queries and their split.

    Attributes:
        tools: ``starter``, ``bundle:NAME`` (with ``folder``), or a tool source below ``data_root``.
        folder: Folder of a bundle below ``data_root``.
        options: Options of the bundle.
        format: Reader of the tools; default: found from the content.
        on_error: ``raise`` stops at the first bad row, ``skip`` counts it.
        queries: For tools given by path: name of a split -> file or files of queries below ``data_root``.
        query_format: Reader of the queries; default: found from the content.
        unknown_labels: What happens to a label that is no tool: ``raise``, or ``drop`` it, and the query with its last
            one; counted.
        trajectories: Training trajectories: ``starter``, or a file or folder below ``data_root``.
        unknown_tools: What becomes of trajectories that call tools outside the catalogue: ``raise`` or ``skip``.
        split: The split.
        train: With ``split.by: given``: the source's splits to train on (``*`` at the end stands for any end).
            ``documents`` are the first 40 words of each tool's description, for sources without training queries.
        validation: The same for validation; without it, ``split.validation_size`` of the training queries.
        tests: The same: name of a test set -> the source's splits in it.
        domains: Test set -> the source's splits whose labels are its domain's tools (setting ``in_domain``); default:
            the labels of all queries. In ``queries``, ``tests`` and ``domains`` a name with the value null is left
            out.
        share_by: What a part of the catalogue is drawn from: single tools (``tool``) or whole providers (``provider``,
            so that tools used together stay together; paper Appendix E.5).
    """

    tools: str = "starter"
    folder: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    format: str | None = None
    on_error: Literal["raise", "skip"] = "raise"
    queries: dict[str, Any] = field(default_factory=dict)
    query_format: str | None = None
    unknown_labels: Literal["raise", "drop"] = "raise"
    trajectories: str | None = None
    unknown_tools: Literal["raise", "skip"] = "raise"
    split: SplitSpec = field(default_factory=SplitSpec)
    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    tests: dict[str, Any] = field(default_factory=dict)
    domains: dict[str, Any] = field(default_factory=dict)
    share_by: Literal["tool", "provider"] = "tool"


@dataclass
class BaseSpec:
    """A base model of the trained systems.

    Attributes:
        model: ``scratch``, a folder, or a Hub id; ``module:NAME/PATH`` is PATH inside an installed Python package.
        label: Name in tables; default: the base's key.
        run: Sections of the run file (:class:`toolscaler.pipeline.RunConfig`) that go with this base.
    """

    model: str = "scratch"
    label: str | None = None
    run: dict[str, Any] = field(default_factory=dict)


@dataclass
class SystemSpec:
    """A system of the comparison.

    Attributes:
        kind: Name in the registry of systems (:func:`toolscaler.experiments.system_kinds`).
        label: Name in tables; default: the system's key.
        options: What the kind takes.
        run: Sections of the run file that differ from the common ones, for trained systems.
        parts: Roles -> other systems of the file that this one is made of, for ``hybrid`` and ``fusion``.
        bases: Only with these bases; default: all, for kinds that have a base.
        datasets: Only on these data sets; default: all.
        report: Whether it is a row of the tables; ``false`` for systems that only serve as parts.
    """

    kind: str = "toolscaler"
    label: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    bases: list[str] | None = None
    datasets: list[str] | None = None
    report: bool = True


@dataclass
class BudgetSpec:
    """What every trained system may use: the same optimiser steps of the same number of rows.

    Attributes:
        steps: Optimiser steps of the retrieval stage, and of a trained bi-encoder; default: what ``run`` says.
        batch: Rows a step; default: what ``run`` says.
        trajectory_steps: Optimiser steps of the trajectory stage, for systems that have one.
    """

    steps: int | None = None
    batch: int | None = None
    trajectory_steps: int | None = None


@dataclass
class EvaluationSpec:
    """How systems are measured.

    Attributes:
        ks: Cut-offs; all systems are cut at the largest.
        beams: Beam width of generative systems.
        batch_size: Queries a batch.
        scores: ``full`` or ``group``.
        seed: Seed of intervals and tests.
        resamples: Resamples of intervals.
        threads: Threads of a job; default: the environment's.
    """

    ks: list[int] = field(default_factory=lambda: [1, 3, 5])
    beams: int = 10
    batch_size: int = 32
    scores: Literal["full", "group"] = "full"
    seed: int = 0
    resamples: int = 2000
    threads: int | None = None


@dataclass
class ChatSpec:
    """A chat model behind any OpenAI-compatible endpoint, for systems that ask one and for the judge.

    Attributes:
        base_url: For example ``http://localhost:8000/v1``.
        model: Name of the model.
        api_key_env: Environment variable that holds the key; where it is not set, no key is sent.
        options: More fields of each request.
    """

    base_url: str = ""
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class CallingSpec:
    """How agents work on test queries, and who judges them (task ``tool_calling``).

    Attributes:
        executor: ``stabletoolbench`` (a server that speaks its protocol), ``starter`` (the starter's own tools), or
            ``recording`` (calls are written down, nothing runs).
        server: URL of the StableToolBench server's ``/virtual``.
        server_key_env: Environment variable with the ToolBench key; where it is not set, none is sent.
        agent: Fields of :class:`toolscaler.agent.AgentConfig`.
        top_k: Tools that a chat model reads in the setting ``retrieval``.
        judge: Name of the judge's model; default: the chat model's.
        samples: Verdicts of the judge on each question.
        reference: System whose answers, with given tools, the others are compared with (SoWR); default: no SoWR.
    """

    executor: Literal["stabletoolbench", "starter", "recording"] = "stabletoolbench"
    server: str = ""
    server_key_env: str = "TOOLBENCH_KEY"
    agent: dict[str, Any] = field(default_factory=dict)
    top_k: int = 5
    judge: str | None = None
    samples: int = 1
    reference: str | None = None


@dataclass
class ReportSpec:
    """What the tables look like.

    Attributes:
        title: Heading.
        metrics: Columns; default: NDCG at every cut-off; for tool calling SoPR and, with a reference, SoWR.
        blocks: Test sets side by side, one table a block (the paper's I1 I2 I3, then Tool. and Cat.); default: one
            table a data set.
        baseline: System that all others are compared with; default: the first.
        figures: Any of ``ablation`` (Fig. 2), ``subtokens`` (Fig. 3) and ``shares`` (Fig. 4).
    """

    title: str = ""
    metrics: list[str] = field(default_factory=list)
    blocks: list[list[str]] = field(default_factory=list)
    baseline: str | None = None
    figures: list[Literal["ablation", "subtokens", "shares"]] = field(default_factory=list)
