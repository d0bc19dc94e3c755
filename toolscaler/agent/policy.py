"""Who may call which tool, how often, and who must agree: tool documents and pending calls in, verdicts out.

A policy is asked twice. :meth:`ToolPolicy.allowed` gives the decoder its allow-list, so that a forbidden tool has
probability zero; :meth:`PolicySession.reserve` decides again when a call is about to run, outside the model.
"""

from __future__ import annotations

import difflib
import logging
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from toolscaler.agent.call_limits import CallLedger, CallLimits, RunCounts
from toolscaler.agent.selection import ToolSelection, says_read_only, selection_of
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import ConfigError, DataError, EmptyCatalogueError, UnknownToolError

logger = logging.getLogger(__name__)


def _read_only(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({str(key): _read_only(item) for key, item in value.items()})
    return tuple(_read_only(item) for item in value) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class PendingCall:
    """A call that is about to run.

    Attributes:
        tool_id: Id of the tool.
        arguments: Arguments, copied and made read-only: what a person confirms is what runs.
        caller: Who asks.
        run_id: The run that the call belongs to; may be empty.
        document: The tool's document, where it is known.
        code: Code sequence that the model wrote; may be empty.
        score: Log-probability of the code sequence, where there is one.
    """

    tool_id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    caller: str = ""
    run_id: str = ""
    document: ToolDocument | None = None
    code: str = ""
    score: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.arguments, Mapping):
            raise DataError(f"arguments of {self.tool_id!r}: expected an object, got {type(self.arguments).__name__}")
        object.__setattr__(self, "arguments", _read_only(self.arguments))

    def plain_arguments(self) -> dict[str, Any]:
        """Give the arguments as new dictionaries and lists, for the executor."""
        return {key: _plain(value) for key, value in self.arguments.items()}


@dataclass(frozen=True)
class PolicyVerdict:
    """What a policy says of a call; true where the call may run.

    Attributes:
        allowed: Whether the call may run.
        reason: One sentence, fit for a log and for the model.
        rule: Which rule decided: ``allow``, ``deny``, ``read_only``, ``approval``, ``hash``, ``identity``, ``unknown``,
            ``rate``, ``tool_rate``, ``run_calls``, ``tool_calls`` or ``confirm``; ``""`` where nothing objected.
    """

    allowed: bool
    reason: str = ""
    rule: str = ""

    def __bool__(self) -> bool:
        return self.allowed


_ALLOWED = PolicyVerdict(True, "no rule objects")


@dataclass(frozen=True, eq=False)
class ToolPolicy:
    """What one caller may do. Deny wins over allow; every rule must agree.

    ``policy & other`` is the policy that allows what both allow.

    Attributes:
        allow: Tools that may be called: a :class:`ToolSelection` or tool ids. ``None`` is every tool; an empty
            collection is none.
        deny: Tools that may not be called, whatever ``allow`` says.
        read_only: Let only tools through that change nothing: those of ``read_only_tools``, and with ``trust_hints``
            also those whose document says so.
        read_only_tools: Tools that the caller knows to change nothing.
        trust_hints: Whose documents are believed where they say that a tool changes nothing (MCP ``readOnlyHint``): a
            hint is the server's own word. ``False``: nobody's; ``True``: everybody's; or a selection of tools, such as
            ``ToolSelection(providers=["my-server"])``. Name servers yourself (``MCPExecutor(name=...)``): the name that
            a server gives itself may be another's.
        approved_hashes: Tool id -> :attr:`ToolDocument.content_hash` that was approved. A document that differs is
            refused, since a description may be changed after it was approved (a "rug pull").
        require_approval: Refuse tools that ``approved_hashes`` does not list.
        limits: How often tools may be called.
        confirm: Hook that is shown each call before it runs; only ``True`` lets it run. It may block; no lock is held.
        confirm_for: Tools whose calls need ``confirm``; ``None`` is every tool.
        ledger: Where calls are counted. Policies share limits by sharing a ledger.

    Raises:
        ConfigError: A field has the wrong type, or ``confirm_for`` is given without ``confirm``.
    """

    allow: ToolSelection | Iterable[str] | None = None
    deny: ToolSelection | Iterable[str] | None = None
    read_only: bool = False
    read_only_tools: ToolSelection | Iterable[str] | None = None
    trust_hints: bool | ToolSelection | Iterable[str] = False
    approved_hashes: Mapping[str, str] | None = None
    require_approval: bool = False
    limits: CallLimits = field(default_factory=CallLimits)
    confirm: Callable[[PendingCall], bool] | None = None
    confirm_for: ToolSelection | Iterable[str] | None = None
    ledger: CallLedger = field(default_factory=CallLedger, repr=False)
    _others: tuple[ToolPolicy, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for key in ("allow", "deny", "read_only_tools", "confirm_for"):
            object.__setattr__(self, key, selection_of(f"ToolPolicy.{key}", getattr(self, key)))
        if self.trust_hints is None:
            raise ConfigError("ToolPolicy.trust_hints", None, "True, False, a ToolSelection or tool ids")
        if not isinstance(self.trust_hints, bool):
            object.__setattr__(self, "trust_hints", selection_of("ToolPolicy.trust_hints", self.trust_hints))
        for key in ("read_only", "require_approval"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError(f"ToolPolicy.{key}", getattr(self, key), "True or False")
        if self.confirm is not None and not callable(self.confirm):
            raise ConfigError("ToolPolicy.confirm", self.confirm, "a function of a PendingCall, or None")
        if self.confirm_for is not None and self.confirm is None:
            raise ConfigError("ToolPolicy.confirm", None, "a function, since confirm_for names tools to confirm")
        if not isinstance(self.limits, CallLimits):
            raise ConfigError("ToolPolicy.limits", self.limits, "CallLimits")
        if self.approved_hashes is not None:
            if not isinstance(self.approved_hashes, Mapping):
                raise ConfigError("ToolPolicy.approved_hashes", self.approved_hashes, "a mapping of tool id to hash")
            object.__setattr__(self, "approved_hashes", MappingProxyType(dict(self.approved_hashes)))
        elif self.require_approval:
            raise ConfigError("ToolPolicy.approved_hashes", None, "a mapping, since require_approval is set")

    @property
    def asks(self) -> bool:
        """Whether a confirm hook may be asked."""
        return any(part.confirm is not None for part in self.parts())

    def __and__(self, other: ToolPolicy) -> ToolPolicy:
        """Give the policy that allows what both allow."""
        if not isinstance(other, ToolPolicy):
            return NotImplemented
        return replace(self, _others=(*self._others, *other.parts()))

    def parts(self) -> tuple[ToolPolicy, ...]:
        """Give the policies that this one is the intersection of; a simple policy is its own only part."""
        return (replace(self, _others=()) if self._others else self, *self._others)

    def check_names(self, documents: Iterable[ToolDocument]) -> None:
        """Refuse a policy that names a tool, provider or category which the catalogue does not have.

        A misspelt name in a deny list would otherwise forbid nothing, in silence.

        Args:
            documents: The whole catalogue.

        Raises:
            UnknownToolError: A tool id is unknown; the nearest are suggested.
            ConfigError: A provider or category is unknown; the nearest is suggested.
        """
        documents = list(documents)
        ids = {document.id for document in documents}
        for part in self.parts():
            for key in ("allow", "deny", "read_only_tools", "trust_hints", "confirm_for"):
                selection = getattr(part, key)
                if isinstance(selection, ToolSelection):
                    selection.check_names(documents, f"ToolPolicy.{key}")
            for name in [*(part.approved_hashes or ()), *part.limits.tool_names()]:
                if name not in ids:
                    raise UnknownToolError(name, ids)

    def allowed(
        self, documents: Iterable[ToolDocument], *, catalogue: Iterable[ToolDocument] | None = None
    ) -> tuple[str, ...]:
        """List the tools that may be called: an allow-list for ``CodeTrie.subset(tools=...)``.

        Limits and confirmation play no part here; they are asked for each call.

        Args:
            documents: The tools to choose among.
            catalogue: The whole catalogue, against which the policy's names are checked; default: ``documents``.

        Returns:
            Tool ids, in the order of ``documents``, each once.

        Raises:
            EmptyCatalogueError: No tool is allowed; an empty list never means "everything".
            UnknownToolError: The policy names a tool that the catalogue does not have.
            ConfigError: The policy names a provider or category that the catalogue does not have.
            DataError: Two documents that differ have one id: one would shadow the other.
        """
        documents = list(documents)
        self.check_names(documents if catalogue is None else catalogue)
        by_id: dict[str, ToolDocument] = {}
        for document in documents:
            if by_id.setdefault(document.id, document) != document:
                raise DataError(f"two documents that differ have the id {document.id!r}; give each an id of its own")
        kept = tuple(name for name, document in by_id.items() if self._static(document))
        if not kept:
            raise EmptyCatalogueError(f"the policy allows none of {len(by_id)} tools; a caller needs at least one")
        return kept

    def check(self, call: PendingCall, document: ToolDocument | None, caller: str | None = None) -> PolicyVerdict:
        """Decide about a call as it stands, without counting it and without asking anyone.

        Args:
            call: The call.
            document: The document that the tool has now, ``None`` where there is no such tool any more.
            caller: Who asks, ``call.caller`` if not given.

        Returns:
            The verdict; of several objections the first.
        """
        if document is None:
            return PolicyVerdict(False, f"there is no tool {call.tool_id!r} in the catalogue", "unknown")
        if document.id != call.tool_id:
            reason = f"the call names {call.tool_id!r}, but the document is that of {document.id!r}"
            return PolicyVerdict(False, reason, "identity")
        if caller is not None and call.caller and caller != call.caller:
            return PolicyVerdict(False, f"the call was made for {call.caller!r}, not for {caller!r}", "identity")
        return self._static(document)

    def session(self, caller: str = "", run_id: str | None = None) -> PolicySession:
        """Open the state of one run.

        Args:
            caller: Who asks; limits a minute are counted for each caller.
            run_id: Name of the run, a random one if not given.
        """
        return PolicySession(self, caller, run_id)

    def _static(self, document: ToolDocument) -> PolicyVerdict:
        for part in self.parts():
            verdict = part._static_alone(document)
            if not verdict:
                return verdict
        return _ALLOWED

    def _static_alone(self, document: ToolDocument) -> PolicyVerdict:
        """Ask the rules that depend on nothing but the document."""
        name = document.id
        if self.deny is not None and _matches(self.deny, document, on_error=True):
            return PolicyVerdict(False, f"the tool {name!r} is denied to this caller", "deny")
        if self.allow is not None and not _matches(self.allow, document, on_error=False):
            return PolicyVerdict(False, f"the tool {name!r} is not among those this caller may use", "allow")
        if self.read_only and not self._changes_nothing(document):
            reason = f"only reading is allowed, and nothing vouches that {name!r} changes nothing"
            return PolicyVerdict(False, reason, "read_only")
        approved = (self.approved_hashes or {}).get(name)
        if approved is None:
            if self.require_approval:
                return PolicyVerdict(False, f"the document of {name!r} was never approved", "approval")
        elif approved != document.content_hash:
            reason = f"the document of {name!r} is no longer the approved one; read it and approve it again"
            return PolicyVerdict(False, reason, "hash")
        return _ALLOWED

    def _changes_nothing(self, document: ToolDocument) -> bool:
        listed = self.read_only_tools is not None and _matches(self.read_only_tools, document, on_error=False)
        if listed or not isinstance(self.trust_hints, ToolSelection):
            return listed or (self.trust_hints is True and says_read_only(document))
        return _matches(self.trust_hints, document, on_error=False) and says_read_only(document)

    def _needs_confirmation(self, document: ToolDocument) -> bool:
        if self.confirm is None:
            return False
        return self.confirm_for is None or _matches(self.confirm_for, document, on_error=True)

    def _confirmed(self, call: PendingCall) -> PolicyVerdict:
        try:
            answer = self.confirm(call) if self.confirm is not None else True
        except Exception as error:
            # Where it raised, but not its message, which may quote arguments: no log shall hold these.
            places = "".join(traceback.format_tb(error.__traceback__))
            name = type(error).__name__
            logger.error("the confirm hook raised %s on a call of %r, which is refused\n%s", name, call.tool_id, places)
            return PolicyVerdict(False, f"the call of {call.tool_id!r} could not be confirmed", "confirm")
        if answer is not True:
            return PolicyVerdict(False, f"the call of {call.tool_id!r} was not confirmed", "confirm")
        return _ALLOWED


def _matches(selection: Any, document: ToolDocument, *, on_error: bool) -> bool:
    return bool(selection.matches(document, on_error=on_error))


class PolicySession:
    """The state of one run under a policy: what was called so far. May be used from several threads.

    Args:
        policy: The policy.
        caller: Who asks.
        run_id: Name of the run, a random one if not given.

    Attributes:
        policy: The policy.
        caller: Who asks.
        run_id: Name of the run.
    """

    def __init__(self, policy: ToolPolicy, caller: str = "", run_id: str | None = None) -> None:
        self.policy, self.caller = policy, caller
        self.run_id = uuid.uuid4().hex if run_id is None else run_id
        self._parts = policy.parts()
        self._counts = RunCounts()
        self._limits: dict[int, tuple[CallLedger, list[CallLimits]]] = {}
        for part in self._parts:  # a ledger that several parts share counts a call once
            self._limits.setdefault(id(part.ledger), (part.ledger, []))[1].append(part.limits)

    def allowed(
        self, documents: Iterable[ToolDocument], *, catalogue: Iterable[ToolDocument] | None = None
    ) -> tuple[str, ...]:
        """List the tools that may be called; see :meth:`ToolPolicy.allowed`."""
        return self.policy.allowed(documents, catalogue=catalogue)

    def reserve(self, call: PendingCall, document: ToolDocument | None) -> PolicyVerdict:
        """Decide about a call that is about to run, count it and have it confirmed.

        To be asked once for each call (and each retry of it), right before it runs. A call that is refused is not
        counted; limits are kept exactly, however many threads reserve at once.

        Args:
            call: The call.
            document: The document that the tool has now; ``None`` where there is none any more.

        Returns:
            The verdict.
        """
        verdict = self.policy.check(call, document, self.caller)
        if not verdict or document is None:
            return verdict
        taken: list[Callable[[], None]] = []
        objection, undo = self._counts.take(
            [limits for _, all_ in self._limits.values() for limits in all_], call.tool_id
        )
        taken.append(undo)
        for ledger, limits in self._limits.values():
            if objection is None:
                objection, undo = ledger.take(limits, self.caller, call.tool_id)
                taken.append(undo)
        if objection is not None:
            verdict = PolicyVerdict(False, objection[1], objection[0])
        if verdict:
            verdict = self._confirm(replace(call, caller=self.caller, run_id=self.run_id, document=document))
        if not verdict:
            for undo in taken:
                undo()
        return verdict

    def _confirm(self, call: PendingCall) -> PolicyVerdict:
        for part in self._parts:
            if call.document is not None and part._needs_confirmation(call.document):
                verdict = part._confirmed(call)
                if not verdict:
                    return verdict
        return _ALLOWED

    def calls(self, tool_id: str | None = None) -> int:
        """Count the calls of this run that were let through, of one tool or of all."""
        return self._counts.calls(tool_id)


class CallerPolicies:
    """Which policy holds for which caller.

    Args:
        policies: Caller -> policy.
        default: Policy of every other caller; without one an unknown caller is an error.

    Raises:
        ConfigError: A value is no :class:`ToolPolicy`.
    """

    def __init__(self, policies: Mapping[str, ToolPolicy], default: ToolPolicy | None = None) -> None:
        for caller, policy in policies.items():
            if not isinstance(policy, ToolPolicy):
                raise ConfigError(f"CallerPolicies.policies[{caller!r}]", policy, "a ToolPolicy")
        if default is not None and not isinstance(default, ToolPolicy):
            raise ConfigError("CallerPolicies.default", default, "a ToolPolicy, or None")
        self._policies, self._default = dict(policies), default

    def of(self, caller: str) -> ToolPolicy:
        """Give the policy of a caller.

        Raises:
            ConfigError: The caller is unknown and there is no default; nobody gets everything by a misspelt name.
        """
        policy = self._policies.get(caller, self._default)
        if policy is None:
            near = difflib.get_close_matches(str(caller), list(self._policies), n=3, cutoff=0.5)
            hint = f"; nearest: {', '.join(map(repr, near))}" if near else ""
            raise ConfigError("caller", caller, f"one of {len(self._policies)} callers with a policy{hint}")
        return policy
