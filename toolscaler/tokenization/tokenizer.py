"""A base tokenizer, the code tokens, the codebook and the tool index as one Hugging Face tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from toolscaler.errors import ArtifactError, TokenizationError
from toolscaler.tokenization.base_tokens import pieces_to_text, text_to_pieces, vocabulary_size, without_tokens
from toolscaler.tokenization.code_tokens import (
    all_code_tokens,
    code_offsets,
    codes_to_text,
    find_codes,
    neutralise_codes,
)
from toolscaler.tokenization.layout import (
    DEFAULT_STRATEGY,
    QUERY_MARK,
    base_sizes,
    check_template,
    layout,
    one_sequence,
    own_keys,
    without_tools,
)
from toolscaler.tokenization.sidecars import load_codebook, save_codebook
from toolscaler.tokenization.tool_index import NO_CODE, ToolIndex
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


class ToolscalerTokenizer(PreTrainedTokenizerFast):
    """A fast tokenizer with code tokens (paper, section 4.2) that knows which tool each code sequence names.

    Make one with :meth:`from_tokenizer`; afterwards it is an ordinary ``PreTrainedTokenizerFast``: it goes through
    ``save_pretrained``, ``from_pretrained`` (folder or Hub id), ``push_to_hub``, pickling and ``datasets.map``, and a
    folder that it wrote opens in a plain ``AutoTokenizer``, with the same ids but without the tools.

    Code tokens have the last ids: code ``k`` at position ``p`` is ``first_code_id + sum(code_sizes[:p]) + k``. The ids
    of all other text are those of the base tokenizer. Load with ``ToolscalerTokenizer.from_pretrained``;
    ``AutoTokenizer`` never gives this class.

    With *base tokens* (:attr:`base_tokens`) the codes of a tool are ids of the base vocabulary, such as the digits of a
    number or the pieces of a name; there are no code tokens then, and the vocabulary stays as it is.
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
    _base_tokens: bool = False
    _strategy: str = DEFAULT_STRATEGY

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
        ragged: bool = False,
        base_tokens: bool = False,
        strategy: str = DEFAULT_STRATEGY,
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
            ragged: Code sequences may differ in length (:class:`ToolIndex`).
            base_tokens: The codes are token ids of ``base``, and no token is added. ``code_sizes`` is not given then.
            strategy: Name of the tokenization strategy that made the codes; travels with the tokenizer.

        Returns:
            The tokenizer. A language model needs :func:`toolscaler.initialize_code_embeddings` before it can use it.

        Raises:
            TokenizationError: ``base`` cannot be wrapped, or codes, ids and sizes do not fit together.
        """
        if base_tokens:
            code_sizes = base_sizes(base, codes, codebook, code_sizes)
        sizes, policy = layout(codebook, code_sizes, collisions)
        if codebook is not None and tool_ids is None and codes is None:
            tool_ids = codebook.tool_ids
        if codebook is not None and codes is None:
            codes = codebook.codes
        if tool_ids is None and codes is not None and len(codes):
            raise TokenizationError(f"tool_ids: expected an id for each of {len(codes)} code sequences, got none")
        names = [] if tool_ids is None else tool_ids if isinstance(tool_ids, str) else list(tool_ids)
        hashes = [document_hashes.get(n) for n in names] if isinstance(document_hashes, Mapping) else document_hashes
        index = ToolIndex(sizes, names, codes, document_hashes=hashes, collisions=policy, ragged=ragged)
        chat_template = getattr(base, "chat_template", None)
        if retrieval_template is None and not chat_template:
            retrieval_template = DEFAULT_RETRIEVAL_TEMPLATE
        check_template(retrieval_template)
        backend, first = backend_with_codes(base, [] if base_tokens else all_code_tokens(sizes))
        tokenizer = cls(tokenizer_object=backend, **special_arguments(base))
        tokenizer.chat_template = chat_template
        tokenizer.name_or_path = getattr(base, "name_or_path", "")
        tokenizer._set_state(
            index,
            without_tools(codebook),
            first,
            retrieval_template,
            strategy=strategy,
            base_tokens=base_tokens,
        )
        if base_tokens and (index.codes == tokenizer.eos_token_id).any():
            raise TokenizationError(
                f"codes: expected no end token ({tokenizer.eos_token!r}), which ends a sequence, inside of one"
            )
        return tokenizer

    @property
    def strategy(self) -> str:
        """Name of the tokenization strategy that made the codes (paper, appendix C)."""
        return self._strategy

    @property
    def base_tokens(self) -> bool:
        """Whether codes are token ids of the base vocabulary; there are no code tokens then."""
        return self._base_tokens

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
        """Number of code tokens of every tool; of the longest one where they differ."""
        return self.tool_index.code_length

    @property
    def num_code_tokens(self) -> int:
        """Number of code tokens in the vocabulary: ``sum(code_sizes)``, or none with base tokens."""
        return sum(self._token_sizes)

    @property
    def _token_sizes(self) -> tuple[int, ...]:
        """Code tokens of each position; none at all with base tokens."""
        return () if self._base_tokens else self.code_sizes

    @property
    def first_code_id(self) -> int:
        """Id of ``<a_0>``; the other code tokens follow without a gap, up to the end of the vocabulary.

        With base tokens: the first id behind the vocabulary.
        """
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

    def tool_token_ids(self, index: ToolIndex | None = None) -> np.ndarray:
        """Give the token ids of all tools.

        Args:
            index: A state of the catalogue that :attr:`tool_index` gave before; default: the present one.

        Returns:
            int64 (N, code_length), in the order of :attr:`tool_names`; -1 behind shorter sequences.
        """
        index = self.tool_index if index is None else index
        return self._token_ids(index.codes.astype(np.int64))

    def _token_ids(self, codes: np.ndarray) -> np.ndarray:
        """Turn codes int64 (..., code_length) into token ids; what stands behind a sequence stays."""
        if self._base_tokens:
            return codes
        ids = codes + (self.first_code_id + code_offsets(self.code_sizes))[: codes.shape[-1]]
        return np.where(codes == NO_CODE, NO_CODE, ids)

    def encode_tool(self, name: str) -> list[int]:
        """Give the token ids of a tool.

        Raises:
            UnknownToolError: There is no such tool; the error suggests near names.
        """
        return self._token_ids(np.array(self.tool_index[name], dtype=np.int64)).tolist()

    def tool_code_text(self, name: str) -> str:
        """Give the codes of a tool as text: ``<a_282><b_123><c_144><d_204>``, or with base tokens ``0 0 0 0 3``.

        Raises:
            UnknownToolError: There is no such tool; the error suggests near names.
        """
        codes = self.tool_index[name]
        return pieces_to_text(self.backend_tokenizer, codes) if self._base_tokens else codes_to_text(codes)

    def encode_code_text(self, text: str) -> list[int]:
        """Give the token ids of code text, as :meth:`tool_code_text` writes it.

        Raises:
            TokenizationError: The text holds something else than codes, or nothing.
        """
        if self._base_tokens:
            return text_to_pieces(self.backend_tokenizer, text)
        ids = self(text, add_special_tokens=False)["input_ids"]
        if not ids or min(ids) < self.first_code_id:
            raise TokenizationError(f"expected code tokens only, got {text!r:.120}")
        return list(ids)

    def decode_tool(self, ids_or_text: str | Sequence[int] | Any) -> list[str]:
        """Give the tools that a piece of output names.

        Args:
            ids_or_text: Text, or token ids (list, array or tensor, one dimension). What is no code token (text, end and
                padding tokens) is passed over. With base tokens only start, end and padding tokens are.

        Returns:
            Tool names: one, or several where tools share codes; none where the code tokens are not exactly one code
            sequence in the right order, or where no tool has it.
        """
        if self._base_tokens:
            return self._decode_base_tokens(ids_or_text)
        found = (
            find_codes(ids_or_text, self.code_sizes) if isinstance(ids_or_text, str) else self._codes_of(ids_or_text)
        )
        if [position for position, _ in found] != list(range(len(found))):
            return []
        return list(self.tool_index.tools_with(code for _, code in found))

    def _decode_base_tokens(self, ids_or_text: Any) -> list[str]:
        if isinstance(ids_or_text, str):
            try:
                ids = text_to_pieces(self.backend_tokenizer, ids_or_text)
            except TokenizationError:
                return []
        else:
            ids = one_sequence(ids_or_text).tolist()
        around = (self.eos_token_id, self.pad_token_id, self.bos_token_id)
        return list(self.tool_index.tools_with(without_tokens(ids, around)))

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
            self._codebook = without_tools(codebook)
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
        text = neutralise_codes(query, self._token_sizes)
        if self._retrieval_template is not None:
            head, _, tail = self._retrieval_template.partition(QUERY_MARK)
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
        starts = code_offsets(self.code_sizes)
        relative = one_sequence(ids) - self.first_code_id
        relative = relative[(relative >= 0) & (relative < self.num_code_tokens)]
        positions = np.searchsorted(starts, relative, side="right") - 1
        return list(zip(positions.tolist(), (relative - starts[positions]).tolist(), strict=True))

    def _set_state(
        self,
        index: ToolIndex,
        codebook: Codebook | None,
        first: int,
        template: str | None,
        *,
        strategy: str = DEFAULT_STRATEGY,
        base_tokens: bool = False,
    ) -> None:
        self._tool_index, self._codebook, self._first_code, self._retrieval_template = index, codebook, first, template
        self._strategy, self._base_tokens = strategy, base_tokens

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
        template, has_codebook, strategy, base_tokens = own_keys(extra, index_file)
        codebook = load_codebook(*codebook_files, index=index, index_file=index_file) if has_codebook else None
        tokenizer = super()._from_pretrained(files, *args, **kwargs)
        if base_tokens:
            known = vocabulary_size(tokenizer.backend_tokenizer)
            if max(index.code_sizes) > known:
                raise ArtifactError(
                    f"the tool index was made for a vocabulary of {max(index.code_sizes)} tokens, tokenizer.json has "
                    f"{known}; the two files do not belong together: save the tokenizer again",
                    path=index_file,
                )
            tokenizer._set_state(index, codebook, known, template, strategy=strategy, base_tokens=True)
            return tokenizer
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
        tokenizer._set_state(index, codebook, first, template, strategy=strategy)
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
        extra: dict[str, Any] = {
            "retrieval_template": self._retrieval_template,
            "has_codebook": self._codebook is not None,
        }
        if self._strategy != DEFAULT_STRATEGY or self._base_tokens:
            extra |= {"strategy": self._strategy, "base_tokens": self._base_tokens}
        saved = [index_file]
        if self._codebook is not None:
            save_codebook(self._codebook, tensors_file, config_file)
            saved += [tensors_file, config_file]
        self.tool_index.save(index_file, extra)
        return (*written, *map(str, saved))
