"""ToolBench: RapidAPI tools, of which each API function is one tool. Five forms of the same documentation.

- ``api_list`` records, one an API (``tool_name``, ``api_name``, ``api_description``, ``required_parameters``, ...);
- tools with their APIs: ``tools.json`` (a list) or one JSON file a tool in a folder named after the category;
- query files, whose ``api_list`` fields document the APIs that a query may need;
- DRAFT's ``{number: {"tool_name", "tool_guidelines": {API: ...}}}``;
- ``virtual_tokens.txt``: names only, one ``<<tool&&api>>`` a line.

A tool's identity is (tool name, API name); names are never stripped, since some differ in nothing but blanks.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from toolscaler.data.documents import ToolDocument
from toolscaler.data.schema import normalize_schema
from toolscaler.data.sources.base import ReadOptions, SourceReader, expect_mapping, expect_name, text_of
from toolscaler.data.sources.opening import Record, Source
from toolscaler.errors import ConfigError, DataError

#: What makes an API the same: its tool and name, or its category, tool and name.
Identity = Literal["tool", "category"]
#: (tool name, API name), exactly as the source spells them.
ApiKey = tuple[str, str]

#: Name of the tool that ends a ToolBench trajectory; it belongs to no provider.
FINISH = "Finish"
_TOKEN = re.compile(r"<<(.+)>>", re.DOTALL)
_NAMED_LENGTH = 64


def toolbench_id(tool: str, api: str, category: str = "", *, identity: Identity = "tool") -> str:
    """Give the id of an API: ``tool/api``, or ``category/tool/api`` with ``identity="category"``.

    Without a category, as in ``virtual_tokens.txt``, it is ``tool/api`` either way.
    """
    return f"{category}/{tool}/{api}" if identity == "category" and category else f"{tool}/{api}"


def parse_virtual_token(token: str) -> ApiKey:
    """Read ToolGen's token of an API: ``<<tool&&api>>``, split at the first ``&&``.

    Returns:
        Tool name and API name; ``("", "Finish")`` for ``<<Finish>>``.

    Raises:
        DataError: The text is no such token.
    """
    match = _TOKEN.fullmatch(token)
    inner = "" if match is None else match.group(1)
    tool, separator, api = inner.partition("&&")
    if inner == FINISH:
        return "", FINISH
    if not separator or not tool.strip() or not api.strip():
        raise DataError(f"expected a token <<tool&&api>>, got {token!r:.120}")
    return tool, api


def finish_document() -> ToolDocument:
    """Give the document of ``Finish``, the tool that ends a trajectory (paper section 4.2)."""
    properties = {
        "return_type": {"type": "string", "enum": ["give_answer", "give_up_and_restart"]},
        "final_answer": {"type": "string", "description": "The answer; needed with give_answer."},
    }
    schema = {"type": "object", "properties": properties, "required": ["return_type"]}
    return ToolDocument(FINISH, "End the task: give the final answer, or give up.", parameters=schema)


class ToolBenchReader(SourceReader):
    """Reads every form of ToolBench documentation (see the module's text).

    Args:
        identity: ``"tool"``: ids are ``tool/api``. ``"category"``: ids are ``category/tool/api``, for sources in which
            tools of two categories share both names.
        finish: Whether ``<<Finish>>`` in a token file is a tool too.

    Raises:
        ConfigError: ``identity`` is neither.
    """

    name = "toolbench"
    summary = "ToolBench api_list records, tool files, query files or <<tool&&api>> lines"

    def __init__(self, identity: Identity = "tool", *, finish: bool = True) -> None:
        if identity not in ("tool", "category"):
            raise ConfigError("identity", identity, "'tool' or 'category'")
        self.identity = identity
        self.finish = finish

    def sniff(self, source: Source) -> bool:
        """Say whether the source is ToolBench documentation."""
        if source.kind == "text":
            return bool(source.sample) and all(_is_token(line) for line in source.sample)
        if _is_draft(source.value):
            return True
        return bool(source.sample) and all(_form(item) != "" for item in source.sample)

    def records(self, source: Source, options: ReadOptions) -> Iterator[Record]:
        """Yield one record an API; an API that several queries list in the same words comes once."""
        if source.kind == "text":
            yield from (
                record for record in source.records() if self.finish or record.error or record.data != f"<<{FINISH}>>"
            )
            return
        if _is_draft(source.value):
            yield from _draft_records(source.value)
            return
        folder_category = _category_of_folder(source.path)
        listed: set[str] = set()
        for record in source.records():
            form = "" if record.error else _form(record.data)
            if form in ("tool", "query"):
                for part in _api_records(record, form, folder_category):
                    if form == "query" and _seen(part.data, listed):
                        continue
                    yield part
            else:
                yield record

    def document(self, record: Record, options: ReadOptions) -> ToolDocument:
        """Make the document of one API.

        Raises:
            DataError: A name is missing, or a field has the wrong type.
        """
        if isinstance(record.data, str):
            tool, api = parse_virtual_token(record.data)
            if not tool:
                return finish_document()
            return ToolDocument(api, provider=tool, category=options.category, id=toolbench_id(tool, api))
        data = expect_mapping(record.data)
        context = record.context or {}
        data = {**context, **data} if context else data
        return api_document(data, identity=self.identity, category=options.category, provider=options.provider)


def api_document(
    data: Mapping[str, Any],
    *,
    identity: Identity = "tool",
    category: str = "",
    provider: str = "",
    tool_description: str = "",
) -> ToolDocument:
    """Make the document of an API record in any of ToolBench's spellings.

    Args:
        data: ``tool_name``, ``api_name`` (or ``name``), ``api_description`` (or ``description``), ``category_name`` (or
            ``category``), ``required_parameters``, ``optional_parameters``, ``tool_description``; ``code`` or else
            ``template_response`` becomes the document's code.
        identity: See :func:`toolbench_id`.
        category: Category where the record names none.
        provider: Tool name where the record names none.
        tool_description: Description of the whole tool where the record has none; it follows the API's own.

    Raises:
        DataError: A name is missing, or a field has the wrong type.
    """
    api = expect_name(data, "api_name" if "api_name" in data else "name")
    tool = expect_name(data, "tool_name") if "tool_name" in data or not provider else provider
    category = text_of(data, "category_name") or text_of(data, "category") or category
    text = text_of(data, "api_description" if "api_description" in data else "description")
    return ToolDocument(
        name=api,
        description=describe_api(text, tool, text_of(data, "tool_description") or tool_description),
        provider=tool,
        category=category,
        parameters=_parameters(data),
        code=_code(data),
        id=toolbench_id(tool, api, category, identity=identity),
    )


def describe_api(text: str, tool: str, tool_text: str) -> str:
    """Join the description of an API and that of its tool: the API's own words first."""
    text, tool_text = text.strip(), tool_text.strip()
    if not tool_text or tool_text == text:
        return text
    about = f"{tool.strip()}: {tool_text}"
    return f"{text}\n{about}" if text else about


def _parameters(data: Mapping[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required: list[str] = []
    for key in ("required_parameters", "optional_parameters"):
        items = data.get(key) or []
        if not isinstance(items, list | tuple):
            raise DataError(f"expected a list under {key!r}, got {type(items).__name__}")
        for item in items:
            if not isinstance(item, Mapping) or not isinstance(item.get("name"), str) or not item["name"]:
                raise DataError(f"{key}: expected a parameter with a name, got {item!r:.80}")
            if item["name"] in properties:
                continue  # listed as required already
            properties[item["name"]] = _parameter(item, key == "required_parameters")
            if key == "required_parameters":
                required.append(item["name"])
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return normalize_schema(schema)


def _parameter(item: Mapping[str, Any], required: bool) -> dict[str, Any]:
    kind = item.get("type") or "any"
    if not isinstance(kind, str):
        raise DataError(f"parameter {item['name']!r}: expected the name of a type, got {kind!r:.80}")
    schema: dict[str, Any] = {"type": kind}
    if item.get("description"):
        schema["description"] = item["description"]
    default = item.get("default")
    if default is not None and default != "":
        # The "default" of a required parameter is a value to try, which is what ToolBench uses it for.
        schema.update({"examples": [default]} if required else {"default": default})
    return schema


def _code(data: Mapping[str, Any]) -> str:
    code = text_of(data, "code")
    if code:
        return code
    response = data.get("template_response")
    if response is None or response == "":
        return ""
    return response if isinstance(response, str) else json.dumps(response, ensure_ascii=False, sort_keys=True)


def _is_token(line: Any) -> bool:
    if not isinstance(line, str):
        return False
    try:
        parse_virtual_token(line)
    except DataError:
        return False
    return True


def _is_draft(value: Any) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    first = list(value.values())[:20]
    return all(isinstance(item, Mapping) and isinstance(item.get("tool_guidelines"), Mapping) for item in first)


def _form(item: Any) -> Literal["", "api", "tool", "query"]:
    """Tell which of the JSON forms a record has; empty for none."""
    if not isinstance(item, Mapping):
        return ""
    if isinstance(item.get("api_list"), list):
        if "query" in item:
            return "query"
        return "tool" if "tool_name" in item else ""
    return "api" if "api_name" in item and "tool_name" in item else ""


def _category_of_folder(path: Path | None) -> str:
    """Give the category of a per-tool file: its folder, where that stands in a folder ``tools`` or ``toolenv...``."""
    if path is None:
        return ""
    parents = path.absolute().parents
    return path.absolute().parent.name if len(parents) > 1 and parents[1].name.lower().startswith("tool") else ""


def _api_records(record: Record, form: str, folder_category: str) -> Iterator[Record]:
    data = record.data
    context: dict[str, Any] = {}
    if form == "tool":
        category = data.get("category_name") or data.get("category") or folder_category
        description = data.get("tool_description")
        context = {"tool_name": data["tool_name"], "category_name": category, "tool_description": description}
    for index, item in enumerate(data["api_list"]):
        yield Record(item, record.line, (*record.pointer, "api_list", index), context=context)


def _draft_records(value: Mapping[str, Any]) -> Iterator[Record]:
    for key, tool in value.items():
        guidelines = tool.get("tool_guidelines") if isinstance(tool, Mapping) else None
        if not isinstance(guidelines, Mapping):
            yield Record(tool, pointer=(key,), error="expected a tool with 'tool_guidelines'")
            continue
        context = {name: tool.get(name) for name in ("tool_name", "category", "tool_description")}
        for name, item in guidelines.items():
            yield Record(item, pointer=(key, "tool_guidelines", name), context=context)


def _seen(item: Any, listed: set[str]) -> bool:
    key = json.dumps(item, ensure_ascii=False, sort_keys=True)
    if key in listed:
        return True
    listed.add(key)
    return False


def standardize_name(name: str) -> str:
    """Spell a name as ToolBench trajectories do: lower case, each run of other characters one ``_``.

    Underscores at the edges go; a name that starts with a digit gets ``get_`` before it.
    """
    plain = re.sub(r"[^0-9a-z\u4e00-\u9fa5]+", "_", name.lower()).strip("_")
    return f"get_{plain}" if plain[:1].isdigit() else plain


def function_name(tool: str, api: str) -> str:
    """Give the name under which trajectories call an API: ``<api>_for_<tool>`` standardised, its last 64 characters."""
    return f"{standardize_name(api)}_for_{standardize_name(tool)}"[-_NAMED_LENGTH:]


class StandardNames:
    """The way back from standardised names to APIs. It is not always unique, so all candidates are given.

    Args:
        keys: Tool name and API name of every API.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        by_names: dict[ApiKey, list[ApiKey]] = defaultdict(list)
        by_function: dict[str, list[ApiKey]] = defaultdict(list)
        for tool, api in dict.fromkeys(keys):
            by_names[standardize_name(tool), standardize_name(api)].append((tool, api))
            by_function[function_name(tool, api)].append((tool, api))
        self._by_names = dict(by_names)
        self._by_function = dict(by_function)

    def find(self, tool: str, api: str) -> tuple[ApiKey, ...]:
        """Give every API whose names, standardised, are these (in any spelling); empty when there is none."""
        return tuple(self._by_names.get((standardize_name(tool), standardize_name(api)), ()))

    def find_function(self, name: str) -> tuple[ApiKey, ...]:
        """Give every API that trajectories call by this name (its last 64 characters count)."""
        return tuple(self._by_function.get(name[-_NAMED_LENGTH:], ()))
