"""A base tokenizer, the code tokens, the codebook and the tool index as one Hugging Face tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from toolscaler.errors import ArtifactError, TokenizationError
from toolscaler.tokenization.code_tokens import (
    all_code_tokens,
    check_code_sizes,
    code_offsets,
    codes_to_text,
    find_codes,
    neutralise_codes,
)
from toolscaler.tokenization.sidecars import load_codebook, save_codebook
from toolscaler.tokenization.tool_index import ToolIndex
from toolscaler.tokenization.wrapping import backend_with_codes, codes_are_contiguous, special_arguments

if TYPE_CHECKING:
    from toolscaler.codebook import Codebook

logger = logging.getLogger(__name__)

#: Files that the tokenizer writes beside ``tokenizer.json``.
CODEBOOK_FILE = "codebook.safetensors"
CODEBOOK_CONFIG_FILE = "codebook_config.json"
TOOL_INDEX_FILE = "tool_index.json"

#: Retrieval prompt of a base tokenizer without a chat template.
DEFAULT_RETRIEVAL_TEMPLATE = "{query}\n"

_QUERY = "{query}"


class ToolscalerTokenizer(PreTrainedTokenizerFast):
    """A fast tokenizer with code tokens (paper, section 4.2) that knows which tool each code sequence names.

    Make one with :meth:`from_tokenizer`; afterwards it is an ordinary ``PreTrainedTokenizerFast``: it goes through
    ``save_pretrained``, ``from_pretrained`` (folder or Hub id), ``push_to_hub``, pickling and ``datasets.map``, and a
    folder that it wrote opens in a plain ``AutoTokenizer``, with the same ids but without the tools.

    Code tokens have the last ids: code ``k`` at position ``p`` is ``first_code_id + sum(code_sizes[:p]) + k``. The ids
    of all other text are those of the base tokenizer. Load with ``ToolscalerTokenizer.from_pretrained``;
    ``AutoTokenizer`` never gives this class.
    """

    vocab_files_names = {  # noqa: RUF012  (a class attribute of the parent, read by transformers)
        **PreTrainedTokenizerFast.vocab_files_names,
        "codebook_file": CODEBOOK_FILE,
        "codebook_config_file": CODEBOOK_CONFIG_FILE,
        "tool_index_file": TOOL_INDEX_FILE,
    }

    # Defaults on the class, and no __init__: with one, from_pretrained would rebuild the backend from vocabulary and
    # merges and lose its pre-tokenizer and decoder.
    _tool_index: ToolIndex | None = None
    _codebook: Codebook | None = None
    _first_code: int = -1
    _retrieval_template: str | None = None

    @classmethod
    def from_tokenizer(
        cls,
        base: Any,
        codebook: Codebook | None = None,
        *,
        codes: Any = None,
        tool_ids: Iterable[str] | None = None,
        document_hashes: Mapping[str, str | None] | Iterable[str | None] | None = None,
        code_sizes: Iterable[int] | None = None,
        collisions: str | None = None,
        retrieval_template: str | None = None,
    ) -> ToolscalerTokenizer:
        r"""Wrap a fast tokenizer; ``base`` stays as it is.

        Args:
            base: Any fast tokenizer. A missing end token becomes the separator, a missing padding token the end token.
            codebook: Quantiser that made the codes. Its sizes, policy, codes and tool ids are the defaults of the rest.
            codes: Integers (N, code_length), ``codebook.codes`` if not given.
            tool_ids: N tool ids, ``codebook.tool_ids`` if not given.
            document_hashes: Content hash of each tool's document, as a mapping from tool id or in the order of
                ``tool_ids``.
            code_sizes: Number of codes at each position; needed where there is no codebook.
            collisions: ``reassign``, ``suffix`` or ``share``; the codebook's if not given, else ``reassign``.
            retrieval_template: Prompt text with ``{query}`` exactly once. By default the chat template of ``base``
                if it has one, else ``"{query}\n"``.

        Returns:
            The tokenizer. A language model needs :func:`toolscaler.initialize_code_embeddings` before it can use it.

        Raises:
            TokenizationError: ``base`` cannot be wrapped, or codes, ids and sizes do not fit together.
        """
        sizes, policy = _layout(codebook, code_sizes, collisions)
        if codebook is not None and tool_ids is None and codes is None:
            tool_ids = codebook.tool_ids
        if codebook is not None and codes is None:
            codes = codebook.codes
        if tool_ids is None and codes is not None and len(codes):
            raise TokenizationError(f"tool_ids: expected an id for each of {len(codes)} code sequences, got none")
        names = [] if tool_ids is None else tool_ids if isinstance(tool_ids, str) else list(tool_ids)
        hashes = [document_hashes.get(n) for n in names] if isinstance(document_hashes, Mapping) else document_hashes
        index = ToolIndex(sizes, names, codes, document_hashes=hashes, collisions=policy)
        chat_template = getattr(base, "chat_template", None)
        if retrieval_template is None and not chat_template:
            retrieval_template = DEFAULT_RETRIEVAL_TEMPLATE
        _check_template(retrieval_template)
        backend, first = backend_with_codes(base, all_code_tokens(sizes))
        tokenizer = cls(tokenizer_object=backend, **special_arguments(base))
        tokenizer.chat_template = chat_template
        tokenizer.name_or_path = getattr(base, "name_or_path", "")
        tokenizer._set_state(index, _without_tools(codebook), first, retrieval_template)
        return tokenizer

    @property
    def tool_index(self) -> ToolIndex:
        """Tool id -> codes. Another object after every change of the catalogue."""
        if self._tool_index is None:
            raise TokenizationError("this tokenizer has no codes; make it with ToolscalerTokenizer.from_tokenizer")
        return self._tool_index

    @property
    def codebook(self) -> Codebook | None:
        """The quantiser (without assignments: these are in :attr:`tool_index`), or ``None``."""
        return self._codebook

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Number of codes at each position."""
        return self.tool_index.code_sizes

    @property
    def code_length(self) -> int:
        """Number of code tokens of every tool."""
        return self.tool_index.code_length

    @property
    def num_code_tokens(self) -> int:
        """Number of code tokens in the vocabulary, ``sum(code_sizes)``."""
        return sum(self.code_sizes)

    @property
    def first_code_id(self) -> int:
        """Id of ``<a_0>``; the other code tokens follow without a gap, up to the end of the vocabulary."""
        _ = self.tool_index  # says what is wrong where there are no codes
        return self._first_code

    @property
    def required_vocab_size(self) -> int:
        """Rows that an embedding matrix needs for every id (``len`` is too small where the base's ids have gaps)."""
        return max(len(self), self.first_code_id + self.num_code_tokens)

    @property
    def tool_names(self) -> list[str]:
        """The tool ids, in index order."""
        return list(self.tool_index.tool_ids)

    @property
    def retrieval_template(self) -> str | None:
        """Prompt text with ``{query}``, or ``None`` for the chat template."""
        return self._retrieval_template

    def tool_token_ids(self) -> np.ndarray:
        """Give the code token ids of all tools.

        Returns:
            int64 (N, code_length), in the order of :attr:`tool_names`.
        """
        index = self.tool_index
        return index.codes.astype(np.int64) + (self.first_code_id + code_offsets(index.code_sizes))

    def encode_tool(self, name: str) -> list[int]:
        """Give the code token ids of a tool.

        Raises:
            UnknownToolError: There is no such tool; the error suggests near names.
        """
        codes = np.array(self.tool_index[name], dtype=np.int64)
        return (codes + code_offsets(self.code_sizes) + self.first_code_id).tolist()

    def tool_code_text(self, name: str) -> str:
        """Give the codes of a tool as text, for example ``<a_282><b_123><c_144><d_204>``.

        Raises:
            UnknownToolError: There is no such tool; the error suggests near names.
        """
        return codes_to_text(self.tool_index[name])

    def decode_tool(self, ids_or_text: str | Sequence[int] | Any) -> list[str]:
        """Give the tools that a piece of output names.

        Args:
            ids_or_text: Text, or token ids (list, array or tensor, one dimension). What is no code token (text, end and
                padding tokens) is passed over.

        Returns:
            Tool names: one, or several where tools share codes; none where the code tokens are not exactly one code
            sequence in the right order, or where no tool has it.
        """
        found = (
            find_codes(ids_or_text, self.code_sizes) if isinstance(ids_or_text, str) else self._codes_of(ids_or_text)
        )
        if [position for position, _ in found] != list(range(self.code_length)):
            return []
        return list(self.tool_index.tools_with(code for _, code in found))

    def add_tools(
        self,
        tool_ids: Iterable[str],
        *,
        codes: Any = None,
        embeddings: np.ndarray | None = None,
        document_hashes: Iterable[str | None] | None = None,
    ) -> np.ndarray:
        """Add tools without any training (paper, appendix A); look-ups know them at once.

        Args:
            tool_ids: M new ids.
            codes: Integers (M, code_length); or
            embeddings: float32 (M, V, D), the new documents' gist outputs, from which the codebook makes codes that are
                unique among the new and the present tools (unless the policy is ``share``).
            document_hashes: M content hashes.

        Returns:
            int32 (M, code_length): the codes of the new tools.

        Raises:
            TokenizationError: An id exists, codes do not fit or collide, not exactly one of ``codes`` and
                ``embeddings`` is given, or there is no codebook to make codes with.
        """
        names = tool_ids if isinstance(tool_ids, str) else list(tool_ids)
        if (codes is None) == (embeddings is None):
            raise TokenizationError("add_tools: expected either codes or embeddings, got both or neither")
        index = self.tool_index
        if embeddings is not None:
            if self._codebook is None:
                raise TokenizationError(
                    "add_tools: this tokenizer has no codebook to make codes from embeddings; give codes"
                )
            codes = self._codebook.assign(embeddings, names, existing_codes=index.codes)
        # The new index is whole before it replaces the old one: a reader in another thread sees one of the two.
        self._tool_index = index.with_tools(names, codes, document_hashes)
        return self._tool_index.codes[len(index) :]

    def remove_tools(self, names: Iterable[str]) -> None:
        """Remove tools; their code sequences are free again at once.

        Raises:
            UnknownToolError: A name is unknown (the error suggests near names); nothing is removed then.
        """
        self._tool_index = self.tool_index.without_tools(names)

    def rename_tools(self, names: Mapping[str, str]) -> None:
        """Rename tools, old name -> new name; their codes stay.

        Raises:
            UnknownToolError: An old name is unknown; nothing is renamed then.
            TokenizationError: Two tools would have the same name.
        """
        self._tool_index = self.tool_index.renamed(names)

    def replace_tool_index(self, index: ToolIndex, codebook: Codebook | None = None) -> None:
        """Put another assignment of codes (and a refitted codebook) in place of the present one.

        Args:
            index: Index with the same code sizes.
            codebook: Codebook that made the codes; without one the present codebook stays.

        Raises:
            TokenizationError: Code sizes or the policy for collisions differ.
        """
        expected = (self.code_sizes, index.collisions)
        for what, got in (("index", index), ("codebook", codebook)):
            if got is not None and (tuple(got.code_sizes), got.collisions) != expected:
                raise TokenizationError(
                    f"{what}: expected code sizes {expected[0]} and policy {expected[1]!r}, got "
                    f"{tuple(got.code_sizes)} and {got.collisions!r}; other sizes need other tokens: use "
                    "from_tokenizer on the base tokenizer"
                )
        if codebook is not None:
            self._codebook = _without_tools(codebook)
        self._tool_index = index

    def format_retrieval_prompt(self, query: str) -> str:
        """Write the text after which the model generates the codes of a tool that answers ``query``.

        Training and decoding both use this text; nothing else says how a query becomes model input. It is the chat
        template with generation prompt, or :attr:`retrieval_template`. Code tokens inside the query are taken apart
        (``<a_1>`` becomes ``< a_1>``), so that the only codes in a sequence are the model's own.

        Args:
            query: The user's words; braces and template marks in them mean nothing.

        Raises:
            TokenizationError: ``query`` is no text, or the tokenizer has lost the chat template that it relies on.
        """
        if not isinstance(query, str):
            raise TokenizationError(f"query: expected text, got {type(query).__name__}")
        text = neutralise_codes(query, self.code_sizes)
        if self._retrieval_template is not None:
            head, _, tail = self._retrieval_template.partition(_QUERY)
            return f"{head}{text}{tail}"
        if not self.chat_template:
            raise TokenizationError(
                "retrieval prompts of this tokenizer use its chat template, but it has none; set chat_template, or "
                "make the tokenizer with retrieval_template="
            )
        turns = [{"role": "user", "content": text}]
        return self.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def encode_retrieval_prompt(self, query: str) -> list[int]:
        """Give the token ids of :meth:`format_retrieval_prompt`, ready for codes to follow.

        The base tokenizer's special tokens at the start are kept and those at its end (an end token or separator) are
        left out; after a chat template, which writes its own, nothing is added. Nothing is truncated.
        """
        text = self.format_retrieval_prompt(query)
        add = self._retrieval_template is not None
        ids, added = self._encode_with_mask(text, add)
        # The mask marks what the post-processor added, not special tokens that stand in the text. Where it added all
        # there is, a letter shows how much of that belongs to the end.
        if ids and all(added):
            added = self._encode_with_mask("a", add)[1]
        ending = next((k for k, mark in enumerate(reversed(added)) if not mark), 0)
        return ids[: len(ids) - ending]

    def _encode_with_mask(self, text: str, add_special_tokens: bool) -> tuple[list[int], list[int]]:
        encoded = self(
            text,
            add_special_tokens=add_special_tokens,
            return_special_tokens_mask=True,
            padding=False,
            truncation=False,
        )
        return list(encoded["input_ids"]), list(encoded["special_tokens_mask"])

    def _codes_of(self, ids: Any) -> list[tuple[int, int]]:
        """Read (position, code) pairs off token ids, other tokens left out."""
        array = np.asarray(ids.tolist() if hasattr(ids, "tolist") else list(ids))
        if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
            raise TokenizationError(f"expected the token ids of one sequence, got shape {array.shape}, {array.dtype}")
        starts = code_offsets(self.code_sizes)
        relative = array.astype(np.int64) - self.first_code_id
        relative = relative[(relative >= 0) & (relative < self.num_code_tokens)]
        positions = np.searchsorted(starts, relative, side="right") - 1
        return list(zip(positions.tolist(), (relative - starts[positions]).tolist(), strict=True))

    def _set_state(self, index: ToolIndex, codebook: Codebook | None, first: int, template: str | None) -> None:
        self._tool_index, self._codebook, self._first_code, self._retrieval_template = index, codebook, first, template

    @classmethod
    def _from_pretrained(cls, resolved_vocab_files: dict[str, Any], *args: Any, **kwargs: Any) -> ToolscalerTokenizer:
        files = dict(resolved_vocab_files)
        index_file = files.pop("tool_index_file", None)
        codebook_files = (files.pop("codebook_file", None), files.pop("codebook_config_file", None))
        if index_file is None:
            raise ArtifactError(
                f"expected {TOOL_INDEX_FILE} beside the tokenizer files, found none; this is an ordinary tokenizer: "
                "load it with AutoTokenizer and wrap it with ToolscalerTokenizer.from_tokenizer",
                path=str(args[0]) if args else None,
            )
        index, extra = ToolIndex.load(index_file)
        template, has_codebook = _own_keys(extra, index_file)
        codebook = load_codebook(*codebook_files, index=index, index_file=index_file) if has_codebook else None
        tokenizer = super()._from_pretrained(files, *args, **kwargs)
        known = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=True)
        if sum(index.code_sizes) > known:  # before the tokens are listed: their number comes from a file
            raise ArtifactError(
                f"the tool index has {sum(index.code_sizes)} codes, tokenizer.json only {known} tokens; the two files "
                "do not belong together: save the tokenizer again",
                path=index_file,
            )
        tokens = all_code_tokens(index.code_sizes)
        first = tokenizer.backend_tokenizer.token_to_id(tokens[0])
        if not codes_are_contiguous(tokenizer.backend_tokenizer, tokens, first):
            raise ArtifactError(
                f"the code tokens of code_sizes {index.code_sizes} are not all in tokenizer.json, one after the other; "
                "the two files do not belong together: save the tokenizer again",
                path=index_file,
            )
        tokenizer._set_state(index, codebook, first, template)
        return tokenizer

    def _save_pretrained(
        self,
        save_directory: Any,
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        written = super()._save_pretrained(
            save_directory=save_directory,
            file_names=file_names,
            legacy_format=legacy_format,
            filename_prefix=filename_prefix,
        )
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        names = [CODEBOOK_FILE, CODEBOOK_CONFIG_FILE, TOOL_INDEX_FILE]
        tensors_file, config_file, index_file = (Path(save_directory) / f"{prefix}{name}" for name in names)
        extra = {"retrieval_template": self._retrieval_template, "has_codebook": self._codebook is not None}
        saved = [index_file]
        if self._codebook is not None:
            save_codebook(self._codebook, tensors_file, config_file)
            saved += [tensors_file, config_file]
        self.tool_index.save(index_file, extra)
        return (*written, *map(str, saved))


def _layout(
    codebook: Codebook | None, code_sizes: Iterable[int] | None, collisions: str | None
) -> tuple[tuple[int, ...], str]:
    """Settle code sizes and collision policy; what is given twice must agree."""
    sizes = None if code_sizes is None else check_code_sizes(code_sizes)
    if codebook is None:
        if sizes is None:
            raise TokenizationError("code_sizes: expected the number of codes at each position, or a codebook")
        return sizes, collisions or "reassign"
    own = check_code_sizes(codebook.code_sizes)
    if sizes is not None and sizes != own:
        raise TokenizationError(f"code_sizes: the codebook has {own}, got {sizes}")
    if collisions is not None and collisions != codebook.collisions:
        raise TokenizationError(f"collisions: the codebook has {codebook.collisions!r}, got {collisions!r}")
    return own, codebook.collisions


def _check_template(template: Any) -> None:
    """Refuse a retrieval template that does not hold ``{query}`` exactly once."""
    if template is not None and (not isinstance(template, str) or template.count(_QUERY) != 1):
        raise TokenizationError(f"retrieval_template: expected text with {_QUERY} exactly once, got {template!r}")


def _own_keys(extra: Mapping[str, Any], index_file: str | Path) -> tuple[str | None, bool]:
    """Read what the tokenizer has added to the file of its tool index: the template, and whether it has a codebook."""
    unexpected = sorted(set(extra) - {"retrieval_template", "has_codebook"})
    if unexpected:
        raise ArtifactError(f"damaged tool index: unexpected keys {unexpected!r:.200}", path=index_file)
    template, has_codebook = extra.get("retrieval_template"), extra.get("has_codebook")
    try:
        _check_template(template)
    except TokenizationError as error:
        raise ArtifactError(f"damaged tool index: {error}", path=index_file) from error
    if not isinstance(has_codebook, bool | None):
        raise ArtifactError(f"damaged tool index: has_codebook is {has_codebook!r:.80}", path=index_file)
    return template, bool(has_codebook)


def _without_tools(codebook: Codebook | None) -> Codebook | None:
    """Leave out the codes of the fitted tools: the tool index holds them, and only it follows the catalogue."""
    return None if codebook is None else codebook.without_tools()
