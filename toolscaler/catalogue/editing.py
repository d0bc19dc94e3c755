"""What a change of a catalogue consists of: tools go in, codes and hashes come out, and into the folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toolscaler.catalogue.codes import moved_codes, new_codes
from toolscaler.catalogue.difference import CatalogueDiff, compare_document, hidden_characters
from toolscaler.catalogue.encoding import DocumentEncoder
from toolscaler.catalogue.history import change_index, retired_codes, untrained_tools
from toolscaler.catalogue.log import Codes, LogEntry, ToolChange, Verb, check_note
from toolscaler.catalogue.state import CatalogueState, sha256_of_index, stamp_of
from toolscaler.catalogue.store import exclusive, replace_files
from toolscaler.errors import CatalogueError
from toolscaler.tokenization.sidecars import load_codebook

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook
    from toolscaler.data.documents import ToolDocument
    from toolscaler.tokenization.tool_index import ToolIndex

logger = logging.getLogger(__name__)


class CatalogueEditor:
    """The working part of :class:`toolscaler.catalogue.ToolCatalogue`.

    Args:
        folder: The folder.
        compressor: Folder of the compressor; default: the folder's own.
    """

    def __init__(self, folder: Path, compressor: str | Path | None = None) -> None:
        self.folder = folder
        self._state = CatalogueState.load(folder)
        self._encoder = DocumentEncoder(folder, compressor)
        self._own_codebook: Codebook | None = None
        self._checked = False
        self._gists: dict[str, np.ndarray] = {}  # content hash -> float32 (V, D), between encoding and commit
        self._followers: list[Callable[[], None]] = []

    @property
    def index(self) -> ToolIndex:
        """Tools and codes; another object after every change."""
        return self._state.index

    @property
    def codebook(self) -> Codebook:
        """The saved quantiser.

        Raises:
            CatalogueError: The tokenizer has none (its codes come from another strategy).
        """
        if self._own_codebook is None:
            if not self._state.extra.get("has_codebook"):
                raise CatalogueError("this tokenizer has no codebook to code new tools with; train it anew with them")
            arrays, config = (str(self.folder / name) for name in ("codebook.safetensors", "codebook_config.json"))
            path = self.folder / "tool_index.json"
            self._own_codebook = load_codebook(arrays, config, index=self._state.index, index_file=path)
        return self._own_codebook

    def refresh(self) -> bool:
        """Read the folder again if another process has changed it; say whether it has."""
        if stamp_of(self.folder) == self._state.stamp:
            return False
        self._take(CatalogueState.load(self.folder))
        return True

    def _take(self, state: CatalogueState) -> None:
        self._state = state
        for follow in self._followers:
            follow()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other writers out, and see what they did before."""
        with exclusive(self.folder):
            self.refresh()
            yield

    # ------------------------------------------------------------------ gists

    def _keep_gists(self, documents: Sequence[ToolDocument], embeddings: np.ndarray | None) -> None:
        """Take gist outputs that the caller has made."""
        if embeddings is None:
            return
        values = np.asarray(embeddings)
        wanted = (len(documents), self.codebook.num_gists, self.codebook.hidden_size)
        if values.shape != wanted or not np.issubdtype(values.dtype, np.floating):
            raise CatalogueError(f"embeddings: expected floats of shape {wanted}, got {values.dtype} {values.shape}")
        for document, value in zip(documents, values, strict=True):
            self._gists[document.content_hash] = np.asarray(value, dtype=np.float32)

    def _gists_of(self, documents: Sequence[ToolDocument]) -> np.ndarray:
        """Give float32 (n, V, D); what was encoded before in this change is not encoded again."""
        codebook = self.codebook
        fresh = [item for item in documents if item.content_hash not in self._gists]
        if fresh:
            if not self._checked:
                known = self._known_documents()
                self._encoder.check(codebook, self._state.index, known)
                self._checked = True
            values = self._encoder(fresh, show_progress=len(fresh) > 200)
            self._gists.update((item.content_hash, value) for item, value in zip(fresh, values, strict=True))
        shape = (0, codebook.num_gists, codebook.hidden_size)
        found = [self._gists[item.content_hash] for item in documents]
        return np.stack(found) if found else np.zeros(shape, dtype=np.float32)

    def _known_documents(self) -> list[ToolDocument]:
        """Give the documents of some tools, spread over those that were there in training."""
        added = set(untrained_tools(self._state.index, self._state.log))
        # Added tools crowd together, so that many were moved to free codes: they say less about the compressor.
        names = [name for name in self._state.index if name not in added]
        picked = names[:: max(1, len(names) // 64)]
        return [item for item in map(self._state.document, picked) if item is not None]

    # ------------------------------------------------------------------ changes of single tools

    def _added(
        self, documents: Sequence[ToolDocument], present: np.ndarray, keep_codes: int, reuse_retired: bool
    ) -> list[ToolChange]:
        """Give codes to new tools; ``present`` (N, P) are those that no new tool may get."""
        retired = retired_codes(self._state.log, self._state.index)
        taken = set(map(tuple, present.tolist()))
        back = {} if self._state.index.collisions == "share" else self._earlier_codes(documents, set(retired) - taken)
        fresh = [item for item in documents if item.id not in back]
        codes: dict[str, Codes] = dict(back)
        if fresh:
            occupied = np.concatenate(
                [present, np.array([*back.values()], dtype=np.int32).reshape(-1, present.shape[1])]
            )
            found = new_codes(
                self.codebook,
                self._gists_of(fresh),
                [item.id for item in fresh],
                occupied,
                () if reuse_retired else retired.keys() - taken,
                keep_codes=keep_codes,
            )
            codes.update((item.id, tuple(row)) for item, row in zip(fresh, found.tolist(), strict=True))
        return [ToolChange(item.id, new_codes=codes[item.id], new_document=item.content_hash) for item in documents]

    def _earlier_codes(self, documents: Sequence[ToolDocument], free: set[Codes]) -> dict[str, Codes]:
        """Find the codes that tools had when they were here with the same document, where these are still free."""
        wanted = {(item.id, item.content_hash) for item in documents}
        found: dict[str, Codes] = {}
        for entry in self._state.log:
            for change in entry.tools:
                old = (change.old_id or change.id, change.old_document)
                for key, codes in ((old, change.old_codes), ((change.id, change.new_document), change.new_codes)):
                    if key in wanted and codes in free:
                        found[str(key[0])] = codes
        return found

    def _updated(self, documents: Sequence[ToolDocument], keep_codes: int, reuse_retired: bool) -> list[ToolChange]:
        """Code changed documents again."""
        if not documents:
            return []
        state = self._state
        names = [item.id for item in documents]
        rows = [state.index.row(name) for name in names]
        found = moved_codes(
            self.codebook,
            self._gists_of(documents),
            names,
            rows,
            state.index.codes,
            () if reuse_retired else retired_codes(state.log, state.index).keys(),
            keep_codes=keep_codes,
        )
        return [
            ToolChange(
                item.id,
                None,
                row,
                state.index[item.id],
                tuple(codes),
                state.index.document_hash(item.id),
                item.content_hash,
            )
            for item, row, codes in zip(documents, rows, found.tolist(), strict=True)
        ]

    def _removed(self, name: str) -> ToolChange:
        index = self._state.index
        return ToolChange(name, None, index.row(name), index[name], None, index.document_hash(name), None)

    def _compare(self, listed: Sequence[ToolDocument], providers: Iterable[str] | None, whole: bool) -> CatalogueDiff:
        """See :meth:`toolscaler.catalogue.ToolCatalogue.diff`."""
        state = self._state
        if isinstance(providers, str):
            raise CatalogueError(f"providers: expected a list, got the text {providers!r}")
        scope = {item.provider for item in listed} if providers is None else set(providers)
        given = {item.id for item in listed}
        absent = (name for name in state.index if name not in given)
        removed = tuple(name for name in absent if whole or state.provider(name) in scope)
        added = tuple(item for item in listed if item.id not in state.index)
        differing = []
        for item in listed:
            if item.id in state.index and state.hash_of(item.id) != item.content_hash:
                differing.append(item)
        changed = tuple(compare_document(item, state.document(item.id), state.hash_of(item.id)) for item in differing)
        hidden = {item.id: names for item in added if (names := hidden_characters(item))}
        unchanged = len(listed) - len(added) - len(changed)
        return CatalogueDiff(added, removed, changed, tuple(differing), unchanged, hidden)

    # ------------------------------------------------------------------ into the folder

    def _commit(
        self,
        verb: Verb,
        changes: Sequence[ToolChange],
        documents: Mapping[str, ToolDocument],
        *,
        note: str = "",
        target: int | None = None,
        index: ToolIndex | None = None,
        files: Mapping[str, Path] | None = None,
        gone: Sequence[str] = (),
    ) -> LogEntry:
        """Write a change: index, documents, log and sums in one step."""
        if not changes and verb not in ("rollback", "adapt"):
            raise CatalogueError(f"{verb}: expected at least one tool, got none")
        state = self._state
        check_note(note)
        after = index if index is not None else change_index(state.index, changes)
        log = state.log
        if not log:
            log = log.appended(
                "start", num_tools=len(state.index), index_sha256=sha256_of_index(state.index, state.extra)
            )
        log = log.appended(
            verb,
            num_tools=len(after),
            index_sha256=sha256_of_index(after, state.extra),
            tools=changes,
            target=target,
            note=note,
        )
        replace_files(self.folder, {**state.contents_after(after, log, documents), **(files or {})}, gone)
        self._gists.clear()
        self._take(CatalogueState.load(self.folder))
        logger.info("%s: %d tools changed, %d tools now", verb, len(changes), len(after))
        return log[-1]

    def commit_weights(
        self, files: Mapping[str, Path], gone: Sequence[str], trained: ToolIndex, *, note: str = ""
    ) -> LogEntry:
        """Put newly trained weights into the folder, as an entry ``adapt`` of the log.

        Args:
            files: File name -> file that is moved there.
            gone: Patterns of the old weights' files.
            trained: The tools that the weights were trained on.
            note: Words for the log.

        Raises:
            CatalogueError: The tools have changed since.
        """
        with self._changing():
            if self.index != trained:
                raise CatalogueError("the tools were changed while the model was trained on them; adapt again")
            return self._commit("adapt", [], {}, files=files, gone=gone, note=note)


def id_list(tool_ids: Iterable[str]) -> list[str]:
    """Check ids to remove.

    Raises:
        CatalogueError: It is a bare text, whose letters would be taken for ids, or an id comes twice.
    """
    if isinstance(tool_ids, str):
        raise CatalogueError(f"tool ids: expected a list of ids, got the text {tool_ids!r}; write [{tool_ids!r}]")
    names = list(tool_ids)
    if len(set(names)) != len(names):
        raise CatalogueError(f"tool ids: expected each id once, got {sorted(map(str, names))!s:.200}")
    return names
