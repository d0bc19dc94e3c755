"""Old codes go in, new codes come out: the same tools before and after a codebook was fitted again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from toolscaler._files import read_json, write_json
from toolscaler._optional import require
from toolscaler.codebook.checks import check_codes, check_tool_ids
from toolscaler.errors import ArtifactError, CodebookError

FORMAT_VERSION = 1
TRANSLATION_FILE = "translation.json"

IntArray = NDArray[np.int32]
_Item = TypeVar("_Item")

_TOKEN = re.compile(r"<([a-z]+)_(0|[1-9][0-9]*)>")
_RUN = re.compile(r"(?:<[a-z]+_(?:0|[1-9][0-9]*)>)+")


@dataclass(frozen=True, eq=False)
class CodeTranslation:
    """The codes of N tools before and after (paper section 4.2: a new codebook replaces the previous one).

    Attributes:
        tool_ids: The N tools.
        old_codes: int32 (N, old code length).
        new_codes: int32 (N, new code length).
        old_sizes: Number of codes of each old position.
        new_sizes: Number of codes of each new position.

    Raises:
        CodebookError: Ids repeat, or codes do not fit the sizes.
    """

    tool_ids: tuple[str, ...]
    old_codes: IntArray
    new_codes: IntArray
    old_sizes: tuple[int, ...]
    new_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tool_ids", tuple(self.tool_ids))
        for name in ("old", "new"):
            sizes = tuple(int(size) for size in getattr(self, f"{name}_sizes"))
            codes = check_codes(np.asarray(getattr(self, f"{name}_codes")), sizes)
            check_tool_ids(self.tool_ids, len(codes))
            codes.setflags(write=False)
            object.__setattr__(self, f"{name}_sizes", sizes)
            object.__setattr__(self, f"{name}_codes", codes)
        table: dict[tuple[int, ...], list[int]] = {}
        for row, key in enumerate(map(tuple, self.old_codes.tolist())):
            table.setdefault(key, []).append(row)
        object.__setattr__(self, "_rows", table)

    @classmethod
    def between(cls, old: Any, new: Any) -> CodeTranslation:
        """Compare two codebooks or tool indexes.

        Args:
            old: Anything with ``tool_ids``, ``codes`` and ``code_sizes``.
            new: The same, of the same tools in any order.

        Raises:
            CodebookError: The tools differ.
        """
        row_of = {name: row for row, name in enumerate(new.tool_ids)}
        differing = sorted(set(old.tool_ids) ^ set(row_of))
        if differing:
            raise CodebookError(
                f"expected the same tools before and after, {len(differing)} differ, for example {differing[0]!r}; "
                "give codes to added tools and drop removed ones first"
            )
        order = [row_of[name] for name in old.tool_ids]
        return cls(tuple(old.tool_ids), old.codes, np.asarray(new.codes)[order], old.code_sizes, new.code_sizes)

    def __len__(self) -> int:
        return len(self.tool_ids)

    @property
    def changed(self) -> NDArray[np.bool_]:
        """Which tools have other codes now, (N,)."""
        if self.old_codes.shape != self.new_codes.shape:
            return np.ones(len(self), dtype=bool)
        return (self.old_codes != self.new_codes).any(axis=1)

    def changed_up_to_names(self) -> NDArray[np.bool_]:
        """Which tools changed more than the names of their codes, (N,).

        The numbers of a fit's clusters mean nothing. Here the new codes of every position are first renamed one to one
        so that as many tools as possible keep their code there; what still differs has moved to another cluster.
        """
        optimize = require("scipy.optimize", extra="train", purpose="matching the codes of two codebooks")

        if self.old_codes.shape[1] != self.new_codes.shape[1]:
            return np.ones(len(self), dtype=bool)
        moved = np.zeros(len(self), dtype=bool)
        for position, (old_size, new_size) in enumerate(zip(self.old_sizes, self.new_sizes, strict=True)):
            old, new = self.old_codes[:, position], self.new_codes[:, position]
            together = np.zeros((new_size, old_size), dtype=np.int64)
            np.add.at(together, (new, old), 1)
            name = np.full(new_size, -1)
            rows, columns = optimize.linear_sum_assignment(together, maximize=True)
            name[rows] = columns
            moved |= name[new] != old
        return moved

    # ---- translating ----

    def tools_with(self, old_codes: Sequence[int]) -> tuple[str, ...]:
        """Give the tools that had these codes: none, one, or several where tools shared codes."""
        return tuple(self.tool_ids[row] for row in self._found(old_codes))

    def translate_codes(self, old_codes: NDArray[np.integer] | Sequence[Any]) -> IntArray:
        """Translate code sequences.

        Args:
            old_codes: Integers (old code length,) or (M, old code length).

        Returns:
            int32 of the same number of dimensions.

        Raises:
            CodebookError: No tool had such codes, or several had, whose new codes differ.
        """
        array = np.asarray(old_codes)
        if array.ndim not in (1, 2) or array.shape[-1] != len(self.old_sizes):
            raise CodebookError(f"expected sequences of {len(self.old_sizes)} codes, got shape {array.shape}")
        rows = [self._one(row) for row in np.atleast_2d(array).tolist()]
        found = self.new_codes[rows] if rows else np.zeros((0, len(self.new_sizes)), dtype=np.int32)
        return found[0] if array.ndim == 1 else found

    def translate_text(self, text: str) -> str:
        """Translate every whole code sequence of a text, such as ``<a_1><b_2>``; other text stays.

        Tokens of codes that are no whole sequence stay too: they name no tool.

        Raises:
            CodebookError: A whole sequence names no tool, or several whose new codes differ.
        """
        return _RUN.sub(lambda match: self._translate_run(match.group(0)), text)

    def translate_data(self, data: Any) -> Any:
        """Translate every text inside JSON data (mappings and lists at any depth, keys left alone)."""
        if isinstance(data, str):
            return self.translate_text(data)
        if isinstance(data, Mapping):
            return {key: self.translate_data(value) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.translate_data(value) for value in data]
        return data

    def translate_trajectories(self, trajectories: Iterable[_Item]) -> list[_Item]:
        """Translate trajectories whose texts or tool names hold codes.

        Trajectories that name tools by id do not depend on codes: they come back as they are, equal to what they were.

        Args:
            trajectories: :class:`toolscaler.data.Trajectory` or anything else with ``to_dict`` and ``from_dict``.
        """
        return [type(item).from_dict(self.translate_data(item.to_dict())) for item in trajectories]  # type: ignore[attr-defined]

    def translate_index(self, index: Any) -> Any:
        """Give a :class:`toolscaler.tokenization.ToolIndex` its new codes; order, hashes and policy stay.

        Raises:
            CodebookError: The index has tools or codes that the old codebook did not have.
        """
        row_of = {name: row for row, name in enumerate(self.tool_ids)}
        rows = [row_of.get(name, -1) for name in index.tool_ids]
        if -1 in rows or not np.array_equal(index.codes, self.old_codes[rows]):
            raise CodebookError("expected an index with the old codes of these tools, got other tools or codes")
        return type(index)(
            self.new_sizes,
            index.tool_ids,
            self.new_codes[rows],
            document_hashes=index.document_hashes,
            collisions=index.collisions,
        )

    def inverse(self) -> CodeTranslation:
        """Give the way back: new codes to old ones."""
        return CodeTranslation(self.tool_ids, self.new_codes, self.old_codes, self.new_sizes, self.old_sizes)

    def _found(self, codes: Sequence[int]) -> list[int]:
        return self._rows.get(tuple(int(code) for code in codes), [])  # type: ignore[attr-defined]

    def _one(self, codes: Sequence[int]) -> int:
        found = self._found(codes)
        if not found:
            raise CodebookError(f"no tool had the codes {list(codes)}")
        if len({tuple(self.new_codes[row].tolist()) for row in found}) > 1:
            names = ", ".join(repr(self.tool_ids[row]) for row in found[:3])
            raise CodebookError(f"{len(found)} tools had the codes {list(codes)} ({names}), and their new codes differ")
        return found[0]

    def _translate_run(self, run: str) -> str:
        tokens = [(match[1], int(match[2])) for match in _TOKEN.finditer(run)]
        length, text, place = len(self.old_sizes), "", 0
        letters = [_letters(position) for position in range(max(length, len(self.new_sizes)))]
        while place < len(tokens):
            part = tokens[place : place + length]
            if [letter for letter, _ in part] == letters[:length]:
                codes = self.new_codes[self._one([code for _, code in part])].tolist()
                text += "".join(f"<{letter}_{code}>" for letter, code in zip(letters, codes, strict=False))
                place += length
            else:
                text += "<{}_{}>".format(*tokens[place])
                place += 1
        return text

    # ---- persistence ----

    def save(self, path: str | Path) -> None:
        """Write JSON: each tool with its old and its new codes."""
        tools = {
            name: [old, new]
            for name, old, new in zip(self.tool_ids, self.old_codes.tolist(), self.new_codes.tolist(), strict=True)
        }
        head = {"format_version": FORMAT_VERSION, "old_sizes": list(self.old_sizes), "new_sizes": list(self.new_sizes)}
        write_json(path, {**head, "tools": tools}, indent=None)

    @classmethod
    def load(cls, path: str | Path) -> CodeTranslation:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: The file is missing, damaged or of another format version.
        """
        data = read_json(path)
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise ArtifactError(f"expected format_version {FORMAT_VERSION}, got {version!r}", path=path)
        try:
            pairs = list(data["tools"].values())
            sizes = (tuple(data["old_sizes"]), tuple(data["new_sizes"]))
            old, new = (
                np.array([pair[side] for pair in pairs], dtype=np.int32).reshape(len(pairs), len(sizes[side]))
                for side in (0, 1)
            )
            return cls(tuple(data["tools"]), old, new, *sizes)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ArtifactError(f"damaged translation: {error}", path=path) from error


def _letters(position: int) -> str:
    """Name a code position as its tokens do: ``a`` to ``z``, then ``aa``; the tokenization room has the other half."""
    letters, number = "", position + 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return letters


def co_used_pairs(groups: Iterable[Iterable[str]], tool_ids: Sequence[str]) -> IntArray:
    """List the pairs of tools that are used together.

    Args:
        groups: Tools of one trajectory or of one query; ids outside ``tool_ids`` are passed over.
        tool_ids: The catalogue.

    Returns:
        int32 (pairs, 2), each pair once, smaller row first, sorted.
    """
    row_of = {name: row for row, name in enumerate(tool_ids)}
    pairs: set[tuple[int, int]] = set()
    for group in groups:
        rows = sorted({row_of[name] for name in group if name in row_of})
        pairs.update((one, other) for place, one in enumerate(rows) for other in rows[place + 1 :])
    return np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)


def pair_distances(
    codes: NDArray[np.integer], pairs: NDArray[np.integer], *, num_random: int = 100_000, seed: int = 0
) -> dict[str, float | int | None]:
    """Compare the Hamming distance of co-used tools with that of random pairs (paper sections 1 and 4.2).

    Args:
        codes: Integers (N, code length).
        pairs: Integers (P, 2) of :func:`co_used_pairs`.
        num_random: Random pairs of two different tools, none of them co-used, drawn at most; small catalogues give
            all of them.
        seed: Seed of the draw.

    Returns:
        ``co_used`` and ``random`` (mean number of differing positions, ``None`` without a pair), ``co_used_pairs`` and
        ``random_pairs``.
    """
    known = {tuple(pair) for pair in np.asarray(pairs).tolist()}
    count = len(codes)
    if count * (count - 1) // 2 <= num_random:
        drawn = np.stack(np.triu_indices(count, 1), axis=1)
    else:
        rng = np.random.default_rng(seed)
        drawn = np.sort(rng.integers(count, size=(num_random, 2)), axis=1)
        drawn = drawn[drawn[:, 0] < drawn[:, 1]]
    others = np.array([pair for pair in drawn.tolist() if tuple(pair) not in known], dtype=np.int64).reshape(-1, 2)
    means = {name: _mean_distance(codes, rows) for name, rows in (("co_used", np.asarray(pairs)), ("random", others))}
    return {**means, "co_used_pairs": len(known), "random_pairs": len(others)}


def _mean_distance(codes: NDArray[np.integer], pairs: NDArray[np.integer]) -> float | None:
    return float((codes[pairs[:, 0]] != codes[pairs[:, 1]]).sum(axis=1).mean()) if len(pairs) else None
