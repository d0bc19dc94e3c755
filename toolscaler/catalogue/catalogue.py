"""A saved model's tools: open its folder, add, remove, rename, update, compare, follow a source, and go back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from toolscaler.catalogue.difference import CatalogueDiff, DocumentSource, read_documents
from toolscaler.catalogue.editing import CatalogueEditor, id_list
from toolscaler.catalogue.history import index_at, path_between, retired_codes, untrained_tools
from toolscaler.catalogue.log import CatalogueLog, Codes, LogEntry, ToolChange
from toolscaler.catalogue.state import sha256_of_index
from toolscaler.catalogue.store import check_folder, copy_tree
from toolscaler.data.documents import ToolDocument
from toolscaler.errors import CatalogueError
from toolscaler.hub.artifact import Artifact

if TYPE_CHECKING:
    from toolscaler.catalogue.adaptation import Adaptation
    from toolscaler.catalogue.serving import DraftFactory
    from toolscaler.data import ToolQuery
    from toolscaler.decoding import GenerativeRetriever
    from toolscaler.decoding.hybrid import HybridRetriever
    from toolscaler.decoding.result import Retriever
    from toolscaler.tokenization import ToolscalerTokenizer
    from toolscaler.training import RetrievalConfig

Documents = Iterable[ToolDocument] | DocumentSource
Confirm = Callable[[CatalogueDiff], bool]


class ToolCatalogue(CatalogueEditor):
    """The tools of a saved model, and the log of their changes. Make it with :meth:`open`.

    No change touches a weight (paper, appendix A). Each is one entry of ``catalogue_log.jsonl``; index, documents, log
    and the manifest's sums are replaced in one step, so that a kill at any moment leaves the old state or the new one.
    Several processes may open one folder: writers wait for each other, and :meth:`refresh` shows what others did.

    Attributes:
        folder: The folder.
    """

    @classmethod
    def open(cls, folder: str | Path, *, compressor: str | Path | None = None) -> ToolCatalogue:
        """Open an artefact, a saved model with tools, or the run folder that holds one under ``model/``.

        Args:
            folder: The folder. It must be your own: :meth:`pull` makes a copy of a published artefact.
            compressor: Folder of the frozen compressor; default: the artefact's own, or the run's. Needed only to add
                and update tools.

        Raises:
            ArtifactError: There is no tool index, a file is damaged, or the folder is the Hub's download cache.
        """
        path = check_folder(folder)
        inside = path / "model"
        if not (path / "tool_index.json").is_file() and inside.is_dir():
            path = check_folder(inside)
        return cls(path, compressor)

    @classmethod
    def pull(cls, source: str | Path, folder: str | Path, **options: Any) -> ToolCatalogue:
        """Copy a published artefact into a folder of one's own, and open it.

        Args:
            source: Repository id or folder.
            folder: Where to; it must not exist yet.
            **options: Where to find it, as in :meth:`toolscaler.Artifact.from_pretrained`.

        Raises:
            ArtifactError: There is no such artefact, it is damaged, or the folder exists.
        """
        artifact = Artifact.from_pretrained(source, **options)
        copy_tree(artifact.folder, Path(folder))
        return cls.open(folder)

    # ------------------------------------------------------------------ what there is

    @property
    def log(self) -> CatalogueLog:
        """The changes so far, oldest first; empty where none was made."""
        return self._state.log

    @property
    def tool_ids(self) -> tuple[str, ...]:
        """The tool ids, in index order."""
        return self._state.index.tool_ids

    @property
    def untrained(self) -> tuple[str, ...]:
        """Tools that the model was not trained on with their present codes: those added or moved since."""
        return untrained_tools(self._state.index, self._state.log)

    @property
    def retired(self) -> Mapping[Codes, str]:
        """Code sequences that some tool had once and none has now -> the tool that had it last."""
        return retired_codes(self._state.log, self._state.index)

    def __len__(self) -> int:
        return len(self._state.index)

    def __contains__(self, tool_id: object) -> bool:
        return tool_id in self._state.index

    def __repr__(self) -> str:
        return f"ToolCatalogue({str(self.folder)!r}, {len(self)} tools, {len(self.log)} log entries)"

    def document(self, tool_id: str) -> ToolDocument | None:
        """Give the document of a tool; ``None`` where the folder does not hold it.

        Raises:
            UnknownToolError: There is no such tool.
        """
        return self._state.document(tool_id)

    def documents(self) -> list[ToolDocument]:
        """Give the documents that the folder holds, in index order."""
        return [item for item in map(self._state.document, self.tool_ids) if item is not None]

    # ------------------------------------------------------------------ changes

    def add(
        self,
        documents: Documents,
        *,
        embeddings: np.ndarray | None = None,
        keep_codes: int = 1,
        reuse_retired: bool = False,
        note: str = "",
    ) -> LogEntry:
        """Add tools without any training (paper, Algorithm 1); they can be found from the next request on.

        A tool that comes back with the id and document that it had gets the codes that it had.

        Args:
            documents: Documents of new tools.
            embeddings: float32 (n, V, D), their gist outputs, where these are known already; default: the frozen
                compressor makes them.
            keep_codes: See :func:`toolscaler.catalogue.codes.new_codes`.
            reuse_retired: Give codes that belonged to tools which are gone, too. A model that was trained with them
                takes the new tool for the old one until it is adapted.
            note: Words for the log.

        Returns:
            The entry of the log; its ``tools`` have the codes.

        Raises:
            CatalogueError: A tool exists already, or the compressor is not the one of these codes.
            CodeSpaceError: There is no free code for a tool where it belongs; the error has the options.
            ArtifactError: There is no compressor.
        """
        new = read_documents(documents)
        self._keep_gists(new, embeddings)
        self._gists_of([item for item in new if item.id not in self.index])  # before the lock: it takes long
        with self._changing():
            known = [item.id for item in new if item.id in self.index]
            if known:
                raise CatalogueError(
                    f"{len(known)} tools exist already, for example {known[0]!r}; update changes their documents"
                )
            if not new:
                raise CatalogueError("documents: expected at least one, got none")
            changes = self._added(new, self.index.codes, keep_codes, reuse_retired)
            return self._commit("add", changes, {item.id: item for item in new}, note=note)

    def remove(self, tool_ids: Iterable[str], *, note: str = "") -> LogEntry:
        """Remove tools; no later request finds them, and their codes retire.

        Raises:
            UnknownToolError: A tool does not exist; the error suggests near names, and nothing is removed.
            CatalogueError: No tool is named.
        """
        names = id_list(tool_ids)
        with self._changing():
            return self._commit("remove", [self._removed(name) for name in names], {}, note=note)

    def rename(self, names: Mapping[str, str], *, note: str = "") -> LogEntry:
        """Give tools other ids; their codes stay, so that the model needs no training. Swaps are allowed.

        The document's own ``name``, by which its server calls the tool, stays as it is.

        Args:
            names: Old id -> new id.
            note: Words for the log.

        Raises:
            UnknownToolError: A tool does not exist; nothing is renamed.
            TokenizationError: Two tools would have one id, or an id is empty.
        """
        with self._changing():
            self.index.renamed(names)  # its errors name the ids
            moved = {old: new for old, new in names.items() if old != new}
            changes, documents = [], {}
            for old, new in moved.items():
                document = self.document(old)
                if document is not None:
                    documents[new] = replace(document, id=new)
                codes, before = self.index[old], self._state.index.document_hash(old)
                after = documents[new].content_hash if document is not None and before is not None else None
                changes.append(ToolChange(new, old, self.index.row(old), codes, codes, before, after))
            return self._commit("rename", changes, documents, note=note)

    def update(
        self,
        documents: Documents,
        *,
        embeddings: np.ndarray | None = None,
        keep_codes: int = 1,
        reuse_retired: bool = False,
        note: str = "",
    ) -> LogEntry | None:
        """Give tools new documents and encode them again.

        ``tool.distance`` and ``tool.prefix_kept`` of the entry's tools say how codes moved.

        Args:
            documents: New documents of tools that exist. Those that are as before are passed over.
            embeddings: As in :meth:`add`.
            keep_codes: As in :meth:`add`.
            reuse_retired: As in :meth:`add`.
            note: Words for the log.

        Returns:
            The entry of the log; ``None`` where no document differs.

        Raises:
            UnknownToolError: A tool does not exist.
            CodeSpaceError: As :meth:`add`.
        """
        new = read_documents(documents)
        self._keep_gists(new, embeddings)
        self._gists_of([item for item in new if self._state.hash_of(item.id) != item.content_hash])
        with self._changing():
            changed = [item for item in new if self._state.hash_of(item.id) != item.content_hash]
            if not changed:
                return None
            changes = self._updated(changed, keep_codes, reuse_retired)
            return self._commit("update", changes, {item.id: item for item in changed}, note=note)

    # ------------------------------------------------------------------ sources

    def diff(
        self, documents: Documents, *, providers: Iterable[str] | None = None, whole: bool = False
    ) -> CatalogueDiff:
        """Compare with a source: what it adds, lacks and has changed.

        Args:
            documents: Documents, or whatever lists them (an MCP server's executor, for example), asked now.
            providers: A tool that the source lacks counts as removed if its provider is among these; default: those
                that the source's documents name.
            whole: The source is the whole catalogue: every tool that it lacks counts as removed.

        Raises:
            CatalogueError: The source gives something else than documents, or an id twice.
            ExecutorError: A server does not list its tools.
        """
        return self._compare(read_documents(documents), providers, whole)

    def sync(
        self,
        documents: Documents,
        *,
        confirm: Confirm | Literal[True],
        providers: Iterable[str] | None = None,
        whole: bool = False,
        keep_codes: int = 1,
        reuse_retired: bool = False,
        note: str = "",
    ) -> LogEntry | None:
        """Make the catalogue what a source says, as one change.

        Args:
            documents: As in :meth:`diff`.
            confirm: Asked with the difference before anything is changed; ``True`` agrees unseen, which lets a server
                replace the words that a model and a person trusted.
            providers: As in :meth:`diff`.
            whole: As in :meth:`diff`.
            keep_codes: As in :meth:`add`.
            reuse_retired: As in :meth:`add`.
            note: Words for the log.

        Returns:
            The entry of the log; ``None`` where nothing differs or ``confirm`` says no.

        Raises:
            CatalogueError: The catalogue was changed by another process while ``confirm`` was asked.
            CodeSpaceError: As :meth:`add`.
        """
        listed = read_documents(documents)
        self.refresh()
        found = self._compare(listed, providers, whole)
        if not found or (confirm is not True and not confirm(found)):
            return None
        self._gists_of([*found.added, *found.documents])
        with self._changing():
            if self._compare(listed, providers, whole) != found:
                raise CatalogueError("the catalogue was changed while the difference was looked at; sync again")
            changes = [self._removed(name) for name in found.removed]
            updated = self._updated(list(found.documents), keep_codes, reuse_retired)
            moved = np.array([change.new_codes for change in updated], dtype=np.int32)
            present = np.concatenate([self.index.codes, moved.reshape(-1, self.index.code_length)])
            changes += [*updated, *self._added(list(found.added), present, keep_codes, reuse_retired)]
            new = {item.id: item for item in (*found.added, *found.documents)}
            return self._commit("sync", changes, new, note=note)

    # ------------------------------------------------------------------ back, and into use

    def rollback(self, sequence: int, *, note: str = "") -> LogEntry | None:
        """Bring back the tools as they were after an entry of the log; the rollback is an entry itself.

        ``tool_index.json`` becomes what it was, byte for byte. Weights are not brought back.

        Args:
            sequence: Number of the entry; 0 is the state before the first change.
            note: Words for the log.

        Returns:
            The entry of the log; ``None`` where the tools are in that state.

        Raises:
            CatalogueError: There is no such entry, or the folder's history is damaged.
        """
        with self._changing():
            if path_between(self.log, len(self.log) - 1, sequence) == ([], []):
                return None
            index = index_at(self.index, self.log, sequence)
            if sha256_of_index(index, self._state.extra) != self.log[sequence].index_sha256:
                raise CatalogueError(f"entry {sequence} cannot be made again exactly; restore the folder from a copy")
            return self._commit("rollback", [], {}, target=sequence, index=index, note=note)

    def adapt(
        self,
        rehearsal: Sequence[ToolQuery],
        *,
        queries: Sequence[ToolQuery] = (),
        ratio: float = 1.0,
        config: RetrievalConfig | None = None,
        check_added: Sequence[ToolQuery] = (),
        check_old: Sequence[ToolQuery] = (),
        k: int = 5,
        note: str = "",
    ) -> Adaptation:
        """Train the model a little on :attr:`untrained` tools, with old queries rehearsed; not in the paper.

        Weights, log and sums are replaced in one step. Codes stay as they are. A rollback does not bring weights back.

        Args:
            rehearsal: Labelled queries that the model was trained on.
            queries: Labelled queries for added tools; rows made of their documents are always there.
            ratio: Rehearsal rows for each row of an added tool.
            config: Settings; default: LoRA and code rows, three epochs (``adaptation.default_config``).
            check_added: Held-out queries for added tools, to measure before and afterwards.
            check_old: Held-out queries for the others; they show what was forgotten.
            k: Cut-off of recall.
            note: Words for the log.

        Returns:
            What was done, with both measurements.

        Raises:
            CatalogueError: No tool was added, a document or the rehearsal is missing, the folder holds no whole model,
                or another process changed the tools meanwhile.
        """
        from toolscaler.catalogue.adaptation import adapt_model

        return adapt_model(
            self,
            rehearsal,
            queries=queries,
            ratio=ratio,
            config=config,
            check_added=check_added,
            check_old=check_old,
            k=k,
            note=note,
        )

    def tokenizer(self) -> ToolscalerTokenizer:
        """Load the model's tokenizer; it follows the changes that this object makes or sees in :meth:`refresh`."""
        from toolscaler.tokenization import ToolscalerTokenizer

        tokenizer = ToolscalerTokenizer.from_pretrained(str(self.folder))
        self.attach(tokenizer)
        return tokenizer

    def attach(self, tokenizer: ToolscalerTokenizer) -> None:
        """Let a tokenizer that is in use follow the catalogue: the next request after a change sees it.

        Args:
            tokenizer: A tokenizer of this model, for example that of a retriever or an agent.
        """

        def follow() -> None:
            if tokenizer.tool_index != self.index:
                tokenizer.replace_tool_index(self.index)

        self._followers.append(follow)
        follow()

    def retriever(
        self,
        *,
        hybrid: Retriever | DraftFactory | None = None,
        hybrid_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> GenerativeRetriever | HybridRetriever:
        """Load the model as a retriever that follows the catalogue.

        Args:
            hybrid: A retriever that drafts, or what makes one of documents (``BM25Retriever``), made anew after each
                change. Tools that the model was not trained on (:attr:`untrained`) are then ranked by the draft.
            hybrid_options: More arguments of :class:`toolscaler.decoding.hybrid.HybridRetriever`.
            **kwargs: Arguments of :meth:`toolscaler.GenerativeRetriever.from_pretrained`.
        """
        from toolscaler.catalogue.serving import load_retriever

        return load_retriever(self, hybrid, hybrid_options or {}, kwargs)

    def on_change(self, follow: Callable[[], None]) -> None:
        """Have a function called after each change that this object makes or sees in :meth:`refresh`."""
        self._followers.append(follow)
