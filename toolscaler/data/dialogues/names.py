"""Names of tools as dialogues spell them, and a catalogue, in; the ids that they stand for, out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from toolscaler.data.documents import ToolDocument
from toolscaler.data.sources.toolbench import ApiKey, StandardNames


@dataclass(frozen=True)
class NameMatches:
    """What names stand for.

    Attributes:
        aliases: Name -> id, for names that are spelled otherwise than the id and stand for exactly one tool.
        ambiguous: Name -> ids, for names that may be any of several.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    ambiguous: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def catalogue_aliases(names: Iterable[str], catalogue: Iterable[ToolDocument | str]) -> NameMatches:
    """Find the tools that names stand for by ToolBench's standardised spelling.

    A name is the ``<api>_for_<tool>`` of ToolBench's answers (lower case, runs of other characters as ``_``, the last
    64 characters), or an id ``tool/api`` in other spelling. The way back is not always unique; such names are not
    guessed.

    Args:
        names: Names as the dialogues have them.
        catalogue: The documents, or their ids. Of a bare id each slash may divide tool and API.

    Returns:
        The matches; names that are ids already, or that fit nothing, are in neither.
    """
    keys: dict[ApiKey, list[str]] = defaultdict(list)
    ids: set[str] = set()
    for item in catalogue:
        ids.add(item if isinstance(item, str) else item.id)
        if isinstance(item, ToolDocument):
            keys[item.provider, item.name].append(item.id)
        else:
            for key in _divisions(item):
                keys[key].append(item)
    wanted = [name for name in dict.fromkeys(names) if name not in ids]
    standard = StandardNames(keys) if wanted else StandardNames(())
    aliases: dict[str, str] = {}
    ambiguous: dict[str, tuple[str, ...]] = {}
    for name in wanted:
        found = list(standard.find_function(name))
        if not found and name[:1].isdigit():  # MGToolBench leaves out the get_ that ToolBench puts before digits
            found += standard.find_function(f"get_{name}")
        for tool, api in _divisions(name):
            found += standard.find(tool, api)
        matches = tuple(dict.fromkeys(id for key in found for id in keys[key]))
        if len(matches) == 1:
            aliases[name] = matches[0]
        elif matches:
            ambiguous[name] = matches
    return NameMatches(aliases, ambiguous)


def _divisions(id: str) -> list[ApiKey]:
    """Give every way to divide ``tool/api``; both parts may have slashes of their own."""
    return [(id[:at], id[at + 1 :]) for at, letter in enumerate(id) if letter == "/" and 0 < at < len(id) - 1]
