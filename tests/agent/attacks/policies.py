"""Races on limits, hooks that fail, logs that cannot be written, secrets that must not be written, crosstalk."""

# ruff: noqa: E501

from __future__ import annotations

import itertools
import json
import logging
import os
import tempfile
import threading
from pathlib import Path

from agent.attacks.planners import Scripted, call, calls, code_planner
from agent.attacks.tally import Tally
from toolscaler.agent import AuditLog, CallLedger, CallLimits, PythonExecutor, ToolAgent, ToolPolicy, read_audit
from toolscaler.agent.config import AgentConfig
from toolscaler.agent.executors import ExecutorLimits
from toolscaler.data.documents import ToolDocument
from toolscaler.data.trajectories import FINISH_TOOL
from toolscaler.errors import ArtifactError

EMPTY = {"type": "object", "properties": {}}


def _counting() -> tuple[PythonExecutor, list[str]]:
    ran: list[str] = []
    documents = [ToolDocument("spend", "Spend.", parameters=EMPTY), ToolDocument("look", "Look.", parameters=EMPTY)]
    functions = {"spend": lambda **_: ran.append("spend"), "look": lambda **_: ran.append("look")}
    return PythonExecutor(functions, documents=documents), ran


def _together(work, threads: int = 50) -> list[BaseException]:
    """Run ``work(number)`` in many threads that start at once."""
    gate, errors = threading.Barrier(threads), []

    def body(number: int) -> None:
        gate.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    started = [threading.Thread(target=body, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return errors


def races(count: int, seed: int = 0) -> Tally:
    """Fifty runs at once share the limits of one caller: never one call more than is allowed."""
    tally = Tally("limits and confirmation raced by 50 threads")
    for number in range(count):
        executor, ran = _counting()
        most = 1 + number % 7
        yes = threading.Semaphore(most)
        kinds = {
            "a minute": ToolPolicy(limits=CallLimits(per_minute=most)),
            "of a tool": ToolPolicy(limits=CallLimits(tool_per_minute={"spend": most})),
            "confirmed": ToolPolicy(confirm=lambda call, yes=yes: yes.acquire(blocking=False)),
            "shared": ToolPolicy(limits=CallLimits(per_minute=most)) & ToolPolicy(limits=CallLimits(per_minute=most + 3)),
            "raises": ToolPolicy(limits=CallLimits(per_minute=most), confirm=_sometimes()),
            "ledger": ToolPolicy(limits=CallLimits(per_minute=most), ledger=CallLedger()),
        }  # fmt: skip
        kind = list(kinds)[number % len(kinds)]
        policy = kinds[kind]
        agent_of = {}

        def work(place, executor=executor, policy=policy, agent_of=agent_of):
            agent_of[place] = ToolAgent(Scripted(calls(call("spend"), call("spend"))), executor, policy=policy).run(
                "Go.", caller="one"
            )

        errors = _together(work)
        got = len(ran)
        safe = got <= most if kind == "raises" else got == most
        tally.saw(safe and not errors and len(agent_of) == 50, f"{kind}: {got} of {most}, {errors[:1]}")
        executor.close()
    return tally


def _sometimes():
    turns = itertools.count()

    def confirm(call):
        if next(turns) % 2:
            raise RuntimeError("the window was closed")
        return True

    return confirm


def _unwritable(folder: Path, kind: str) -> Path:
    if kind == "full":
        return Path("/dev/full")
    if kind == "a folder":
        return folder
    (folder / "file").write_text("")
    return folder / "file" / "audit.jsonl"


def audit_that_fails(count: int, seed: int = 0) -> Tally:
    """No call runs that a required log cannot hold; without that the run goes on, and failures are counted."""
    tally = Tally("audit log that cannot be written")
    cases = itertools.product(("full", "a folder", "under a file", "closed", "replaced"), (True, False))
    for kind, required in itertools.islice(itertools.cycle(cases), count):
        executor, ran = _counting()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                if kind in ("closed", "replaced"):
                    log = AuditLog(folder / "audit.jsonl", required=required)
                    os.close(log._file)  # as another part of the program may do
                    if kind == "replaced":
                        log._file = os.open("/dev/full", os.O_WRONLY)
                else:
                    log = AuditLog(_unwritable(folder, kind), required=required)
                run = ToolAgent(Scripted(calls(call("spend"))), executor, audit=log).run("Go.")
                outcome, failures = run.outcome, log.failures
            except ArtifactError:
                outcome, failures = "error", 1
            if kind == "replaced":
                os.close(log._file)
            log_kept = log if "log" in locals() else None
            if log_kept is not None:
                log_kept._file = -1
        safe = (outcome == "error" and not ran) if required else (outcome == "answer" and ran == ["spend"])
        tally.saw(safe and failures > 0, f"{kind} required={required}: {outcome}, ran {ran}, {failures} failures")
        executor.close()
    return tally


class _Everything(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("toolscaler") or record.levelno >= logging.INFO:
            self.lines.append(self.format(record))


def _secret_case(kind: str, secret: str):
    """Give the schema, the arguments, and what the tool does with them."""
    long = f"sk-{secret}{'A1b2' * 6}"
    cases = {
        "key": ({"password": {"type": "string"}}, {"password": secret}),
        "nested key": ({"login": {"type": "object"}}, {"login": {"apiKey": secret, "list": [{"token": secret}]}}),
        "format": ({"word": {"type": "string", "format": "password"}}, {"word": secret}),
        "write only": ({"word": {"type": "string", "writeOnly": True}}, {"word": secret}),
        "reference": ({"word": {"$ref": "#/$defs/w"}}, {"word": secret}),
        "form": ({"text": {"type": "string"}}, {"text": f"use {long} now"}),
        "bearer": ({"text": {"type": "string"}}, {"text": f"Bearer {secret}abcdef"}),
        "address": ({"url": {"type": "string"}}, {"url": f"https://ann:{secret}@example.com/x?token={secret}"}),
        "key in key": ({"text": {"type": "object"}}, {"text": {f"sk-{secret}{'A1b2' * 6}": 1}}),
    }
    properties, arguments = cases[kind]
    schema = {"type": "object", "properties": properties, "$defs": {"w": {"type": "string", "format": "password"}}}
    return schema, arguments


KINDS = ("key", "nested key", "format", "write only", "reference", "form", "bearer", "address", "key in key")
ENDS = ("ok", "raises", "refused", "hook raises", "invalid", "unknown", "hang", "process", "rate", "broken executor")


def secrets(count: int, seed: int = 0) -> Tally:
    """Secrets in arguments are in no audit log and in no line of any logger, however the call ends."""
    tally, handler = Tally("secrets in the audit log and in logging"), _Everything()
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        for number, (kind, end) in enumerate(itertools.islice(itertools.cycle(itertools.product(KINDS, ENDS)), count)):
            secret = f"hunter{number:04d}zebra"
            handler.lines.clear()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "audit.jsonl"
                problem = _one_secret(kind, end, secret, path)
                written = path.read_text() if path.exists() else ""
            shown = "\n".join(handler.lines)
            safe = secret not in written and secret not in shown and not problem and '"tool_id"' in written
            where = "log" if secret in shown else "audit"
            tally.saw(safe, f"{kind} {end}: {where} {problem} {written[-200:] if where == 'audit' else shown[-200:]}")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return tally


def _one_secret(kind: str, end: str, secret: str, path: Path) -> str:
    schema, arguments = _secret_case(kind, secret)

    def act(**given):
        if end == "raises":
            raise ValueError(f"cannot do {given}")
        if end == "hang":
            threading.Event().wait(0.3)
        return str(given)

    def hook(pending):
        if end == "hook raises":
            raise RuntimeError(f"no screen for {pending}")
        return end != "refused"

    if end == "invalid":
        schema = {**schema, "properties": {**schema["properties"], "n": {"type": "integer"}}, "required": ["n"]}
    executor = PythonExecutor({"act": act}, documents=[ToolDocument("act", "Act.", parameters=schema)],
                              limits=ExecutorLimits(timeout=0.1 if end == "hang" else 5.0))  # fmt: skip
    if end == "broken executor":

        def broken(*_, **__):
            raise KeyError(f"broken with {arguments}")

        executor.call = broken
    if end == "process":  # what the executor does not expect
        executor._attempt = lambda tool, given, deadline: {}[str(given)]
    limits = CallLimits(per_run=0) if end == "rate" else CallLimits()
    policy = ToolPolicy(confirm=hook, limits=limits)
    log = AuditLog(path)
    tool = "ac" if end == "unknown" else "act"
    try:
        agent = ToolAgent(Scripted(calls(call(tool, **arguments))), executor, policy=policy, audit=log)
        run = agent.run(f"My word is {secret}.", caller="ann")
        return "" if run.outcome == "answer" else run.outcome
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        log.close()
        executor.close()


def crosstalk(count: int, seed: int = 0) -> Tally:
    """Many agents at once on one model: each sees its own query, tools, results and log lines, and nothing else."""
    tally = Tally("agents at once on one model")

    def note(text: str = "") -> str:
        return f"noted {text}"

    schema = {"type": "object", "properties": {"text": {"type": "string", "maxLength": 6}}}
    names = [f"tool{number}" for number in range(8)]
    documents = [ToolDocument(name, f"Do {name}.", parameters=schema) for name in names]
    executor = PythonExecutor(dict.fromkeys(names, note), documents=documents)
    planner = code_planner(names, seed, max_thought_tokens=2, max_argument_tokens=3, max_parallel_calls=1)
    twin = code_planner(names, seed, max_thought_tokens=2, max_argument_tokens=3, max_parallel_calls=1)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder) / "audit.jsonl", required=True)
        config = AgentConfig(max_steps=1)

        def allowed(number: int) -> list[str]:
            return [names[number % 8], names[(number * 3 + 1) % 8]]

        def work(number: int, planner=planner, audit=log):
            agent = ToolAgent(planner, executor, config=config, audit=audit)
            policy = ToolPolicy(allow=allowed(number))
            run = agent.run(f"Secret {number:05d}q: note it.", caller=f"c{number}", policy=policy, run_id=f"r{number}")
            if audit is not None:
                runs[number] = run
            return run

        errors = _together(work, count)
        records = read_audit(Path(folder) / "audit.jsonl")
        log.close()
    alone = set(range(0, count, max(1, count // 8)))
    for number in range(count):
        run = runs.get(number)
        if run is None:
            tally.saw(False, f"{number}: {errors[:1]}")
            continue
        text = json.dumps(run.to_dict())
        foreign = [other for other in range(count) if other != number and f"{other:05d}q" in text]
        named = {made.tool for made in run.calls} - {FINISH_TOOL}
        mine = [record for record in records if record.run_id == f"r{number}"]
        # The log holds two lines a call: before and after.
        listed = [record.tool_id for record in mine if record.outcome != "started"]
        right = named <= set(allowed(number)) and listed == [
            made.tool for made in run.calls if made.tool != FINISH_TOOL
        ]
        right &= {record.caller for record in mine} <= {f"c{number}"} and f"{number:05d}q" in text
        if number in alone:  # what it did is what it does alone, on a model that nobody else uses
            other = work(number, twin, None)
            right &= [(made.tool, made.arguments) for made in other.calls] == [
                (made.tool, made.arguments) for made in run.calls
            ]
            right &= [step.thought for step in other.steps] == [step.thought for step in run.steps]
        tally.saw(
            right and not foreign and run.caller == f"c{number}", f"{number}: foreign {foreign[:3]}, named {named}"
        )
    executor.close()
    return tally
