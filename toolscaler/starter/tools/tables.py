"""Tables: records (rows with named columns), CSV and JSON data."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable
from typing import Any, Literal

from toolscaler.starter.registry import starter_tool

_MAX_ROWS = 10_000
_MAX_CHARACTERS = 1_000_000
_NUMBER = re.compile(r"^[+-]?(0|[1-9]\d{0,17})(\.\d{1,17})?$")
_STEP = re.compile(r"\.?([^.\[\]\"'\s][^.\[\]]*)|\[(-?\d{1,9}|\*)\]|\[\"([^\"]*)\"\]|\['([^']*)'\]")

_OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "contains")
_OPERATIONS: dict[str, Callable[[list[Any]], Any]] = {
    "count": len,
    "sum": sum,
    "mean": lambda values: statistics.fmean(values),
    "median": statistics.median,
    "min": min,
    "max": max,
}


def _checked(name: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not isinstance(records, list | tuple) or len(records) > _MAX_ROWS:
        raise ValueError(f"{name}: expected a list of at most {_MAX_ROWS} records")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{name}[{index}]: expected a record (column name to value), got {record!r}")
    return list(records)


def _columns(records: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for record in records for column in record))


def _has_columns(argument: str, columns: Iterable[str], records: list[dict[str, Any]]) -> None:
    known = _columns(records)
    for column in columns:
        if records and column not in known:
            raise ValueError(f"{argument}: there is no column {column!r}; the columns are {known}")


def _delimiter(delimiter: str) -> str:
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ValueError(f"delimiter: expected one character such as ',' or ';', got {delimiter!r}")
    return delimiter


def _key(value: Any) -> str:
    """Give a text that is equal for equal JSON values (1 and 1.0 are equal, 1 and true are not)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True)


def _order(value: Any, where: str) -> tuple[bool, Any]:
    """Give a sort key: nulls last."""
    if value is None:
        return (True, 0)
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{where}: NaN cannot be compared")
    if not isinstance(value, str | int | float):
        raise ValueError(f"{where}: expected texts or numbers to compare, got {value!r}")
    return (False, value)


def _aggregate(operation: str, values: list[Any], column: str) -> Any:
    if operation not in _OPERATIONS:
        raise ValueError(f"operation: expected one of {list(_OPERATIONS)}, got {operation!r}")
    values = [value for value in values if value is not None]
    if operation == "count":
        return len(values)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"column {column!r}: expected numbers to take the {operation} of, got {value!r}")
    if not values:
        return 0 if operation == "sum" else None
    return _OPERATIONS[operation](values)


@starter_tool("Tables")
def parse_csv(text: str, delimiter: str = ",", numbers: bool = True) -> list[dict[str, Any]]:
    """Read CSV text with a header line into records.

    Turns comma-separated (or semicolon- or tab-separated) values, as exported by a spreadsheet, into structured rows
    with named columns. Quoted cells may hold delimiters and line breaks.

    Args:
        text: The CSV text; the first line names the columns.
        delimiter: Character between cells, for example ``,``, ``;`` or a tab.
        numbers: Whether cells that look like numbers become numbers; otherwise every cell stays text.

    Returns:
        One record a row: column name to value; empty cells are null.

    Raises:
        ValueError: No header, a column name twice, a row of another length, or too much text.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"text: at most {_MAX_CHARACTERS} characters, got {len(text)}")
    try:
        reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=_delimiter(delimiter))
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"text: not readable as CSV: {error}") from error
    if not rows:
        raise ValueError("text: expected a header line with column names, got nothing")
    header = [name.strip() for name in rows[0]]
    if len(set(header)) < len(header) or "" in header:
        raise ValueError(f"text: column names must differ and not be empty, got {header}")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise ValueError(f"text: row {number} has {len(row)} cells, the header {len(header)}")
    return [{name: _cell(cell, numbers) for name, cell in zip(header, row, strict=True)} for row in rows[1:]]


def _cell(cell: str, numbers: bool) -> Any:
    stripped = cell.strip()
    if not stripped:
        return None
    if numbers and _NUMBER.match(stripped):
        return float(stripped) if "." in stripped else int(stripped)
    return cell


@starter_tool("Tables")
def records_to_csv(records: list[dict[str, Any]], delimiter: str = ",") -> str:
    """Write records as CSV text with a header line.

    Exports structured rows (a list of JSON objects) in the comma-separated form that Excel and other spreadsheets
    open; cells are quoted where needed.

    Args:
        records: Rows, each a mapping of column name to value; missing cells become empty.
        delimiter: Character between cells, for example ``,``, ``;`` or a tab.

    Returns:
        The CSV text, one line a row, columns in the order in which they first occur.

    Raises:
        ValueError: A record is malformed, or the delimiter is not one character.
    """
    rows = _checked("records", records)
    columns = _columns(rows)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=_delimiter(delimiter), lineterminator="\n")
    writer.writerows([columns, *([_text(row.get(column)) for column in columns] for row in rows)])
    return buffer.getvalue() if columns else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@starter_tool("Tables")
def records_to_markdown(records: list[dict[str, Any]], columns: list[str] | None = None) -> str:
    """Lay records out as a Markdown table.

    Renders rows as a pipe table with a header for a README, wiki page, pull request or chat message. Columns of
    numbers are aligned to the right.

    Args:
        records: Rows, each a mapping of column name to value.
        columns: Columns to show, in this order; null for all.

    Returns:
        The Markdown text of the table.

    Raises:
        ValueError: A record is malformed, there are no columns, or a column is unknown.
    """
    rows = _checked("records", records)
    shown = _columns(rows) if columns is None else columns
    _has_columns("columns", shown, rows)
    if not shown:
        raise ValueError("records: expected at least one column, got none")

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def cell(value: Any) -> str:
        return " ".join(_text(value).replace("|", "\\|").split())

    def rule(column: str) -> str:
        values = [row[column] for row in rows if row.get(column) is not None]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return "---:" if values and numeric else "---"

    head = [line(map(cell, shown)), line(map(rule, shown))]
    return "\n".join(head + [line(cell(row.get(column)) for column in shown) for row in rows])


@starter_tool("Tables")
def filter_records(
    records: list[dict[str, Any]],
    column: str,
    operator: Literal["=", "!=", "<", "<=", ">", ">=", "contains"],
    value: str | float | bool | None,
) -> list[dict[str, Any]]:
    """Keep only the rows of a table that meet a condition on one column.

    Like a WHERE clause or a spreadsheet filter: orders above an amount, customers from a country, rows whose text
    contains a word. All other rows are dropped.

    Args:
        records: Rows, each a mapping of column name to value.
        column: Column to look at.
        operator: Comparison of the cell with the value; ``contains`` looks for text in text without regard to case.
        value: What to compare with: text, number, true, false or null.

    Returns:
        The matching rows, in their old order. Empty cells match only ``=`` null or ``!=`` a value.

    Raises:
        ValueError: A record is malformed, the column or operator is unknown, or a cell cannot be compared.
    """
    rows = _checked("records", records)
    _has_columns("column", [column], rows)
    if operator not in _OPERATORS:
        raise ValueError(f"operator: expected one of {list(_OPERATORS)}, got {operator!r}")
    if operator == "contains" and not isinstance(value, str):
        raise ValueError(f"value: 'contains' needs a text, got {value!r}")
    return [row for row in rows if _matches(row.get(column), operator, value, column)]


def _matches(cell: Any, operator: str, value: Any, column: str) -> bool:
    if operator in ("=", "!="):
        return (_key(cell) == _key(value)) == (operator == "=")
    if cell is None:
        return False
    if operator == "contains":
        return value.casefold() in _text(cell).casefold()
    both_numbers = all(isinstance(item, int | float) and not isinstance(item, bool) for item in (cell, value))
    if not both_numbers and not (isinstance(cell, str) and isinstance(value, str)):
        raise ValueError(f"column {column!r}: {cell!r} cannot be compared with {value!r} by {operator!r}")
    outcomes = {"<": cell < value, "<=": cell <= value, ">": cell > value, ">=": cell >= value}
    return outcomes[operator]


@starter_tool("Tables")
def sort_records(records: list[dict[str, Any]], by: list[str], descending: bool = False) -> list[dict[str, Any]]:
    """Sort the rows of a table by one or more columns.

    Ranks records such as products by price or employees by department and then surname (ORDER BY). Rows that tie keep
    their order; empty cells come last.

    Args:
        records: Rows, each a mapping of column name to value.
        by: Columns to sort by, the most important first.
        descending: Whether the largest or last comes first.

    Returns:
        The rows in the new order.

    Raises:
        ValueError: A record is malformed, no column is given, one is unknown, or its cells cannot be compared.
    """
    rows = _checked("records", records)
    if not by:
        raise ValueError("by: expected at least one column name, got none")
    _has_columns("by", by, rows)
    for column in reversed(by):
        keyed = [(_order(row.get(column), f"column {column!r}"), row) for row in rows]
        filled = [item for item in keyed if not item[0][0]]
        if len({isinstance(key[1], str) for key, _ in filled}) > 1:
            raise ValueError(f"column {column!r}: texts and numbers are mixed and cannot be compared")
        filled.sort(key=lambda item: item[0][1], reverse=descending)
        rows = [row for _, row in filled] + [row for key, row in keyed if key[0]]
    return rows


@starter_tool("Tables")
def aggregate_records(
    records: list[dict[str, Any]],
    group_by: list[str],
    column: str,
    operation: Literal["count", "sum", "mean", "median", "min", "max"] = "sum",
) -> list[dict[str, Any]]:
    """Group the rows of a table and compute a total, count, average, minimum or maximum for each group.

    Like GROUP BY in SQL: sales per region, number of tickets by status, average salary in every department.

    Args:
        records: Rows, each a mapping of column name to value.
        group_by: Columns whose values form the groups; empty for one group of all rows.
        column: Column to summarise.
        operation: How to summarise: count of filled cells, sum, mean, median, min or max. Empty cells are left out.

    Returns:
        One record a group, in order of first appearance: the group's values and the result as ``<operation>_<column>``.

    Raises:
        ValueError: A record is malformed, a column or the operation is unknown, or a cell is no number.
    """
    rows = _checked("records", records)
    _has_columns("group_by", group_by, rows)
    _has_columns("column", [column], rows)
    groups: dict[str, tuple[dict[str, Any], list[Any]]] = {}
    for row in rows:
        labels = {name: row.get(name) for name in group_by}
        _, values = groups.setdefault(_key([_key(label) for label in labels.values()]), (labels, []))
        values.append(row.get(column))
    result = f"{operation}_{column}"
    return [{**labels, result: _aggregate(operation, values, column)} for labels, values in groups.values()]


@starter_tool("Tables")
def join_records(
    left: list[dict[str, Any]],
    right: list[dict[str, Any]],
    on: str,
    how: Literal["inner", "left", "outer"] = "inner",
) -> list[dict[str, Any]]:
    """Join two tables on a column that they share, like a JOIN in SQL or VLOOKUP in a spreadsheet.

    Brings together rows with the same key, for example orders with their customers, so that the columns of both stand
    side by side.

    Args:
        left: Rows of the first table.
        right: Rows of the second table.
        on: Column that both tables have and by which rows are matched.
        how: ``inner`` keeps rows with a partner, ``left`` all rows of the first table, ``outer`` all rows of both.

    Returns:
        The combined rows; a column of the second table whose name the first has too gets the suffix ``_right``.

    Raises:
        ValueError: A record is malformed, the column is missing from a table, or ``how`` is unknown.
    """
    first, second = _checked("left", left), _checked("right", right)
    for rows in (first, second):
        _has_columns("on", [on], rows)
    if how not in ("inner", "left", "outer"):
        raise ValueError(f"how: expected 'inner', 'left' or 'outer', got {how!r}")
    taken = _columns(first)
    others = [column for column in _columns(second) if column != on]
    names = {column: f"{column}_right" if column in taken else column for column in others}
    partners: dict[str, list[int]] = {}
    for index, row in enumerate(second):
        if row.get(on) is not None:
            partners.setdefault(_key(row[on]), []).append(index)
    joined: list[dict[str, Any]] = []
    matched: set[int] = set()
    for row in first:
        found = partners.get(_key(row.get(on)), []) if row.get(on) is not None else []
        matched.update(found)
        for index in found:
            joined.append({**row, **{names[column]: second[index].get(column) for column in others}})
        if not found and how != "inner":
            joined.append({**row, **dict.fromkeys(names.values())})
        if len(joined) > _MAX_ROWS:
            raise ValueError(f"on: the joined table has more than {_MAX_ROWS} rows; is {on!r} a key?")
    if how == "outer":
        for index, row in enumerate(second):
            if index not in matched:
                cells = {names[column]: row.get(column) for column in others}
                joined.append({**dict.fromkeys(taken), on: row.get(on), **cells})
    return joined


@starter_tool("Tables")
def pivot_records(
    records: list[dict[str, Any]],
    row: str,
    column: str,
    value: str,
    operation: Literal["count", "sum", "mean", "median", "min", "max"] = "sum",
) -> list[dict[str, Any]]:
    """Make a pivot table (cross table): the values of one column become rows, those of another become columns.

    Turns a long list into a wide grid, for example sales with products down the side and months across the top.

    Args:
        records: Rows in long form, each a mapping of column name to value.
        row: Column whose values label the rows of the grid.
        column: Column whose values become the grid's columns.
        value: Column that fills the cells.
        operation: How several values in one cell are combined.

    Returns:
        One record a row of the grid, in order of first appearance; cells without data are null.

    Raises:
        ValueError: A record is malformed, a column or the operation is unknown, or a cell is no number.
    """
    rows = _checked("records", records)
    for argument, name in (("row", row), ("column", column), ("value", value)):
        _has_columns(argument, [name], rows)
    headers = list(dict.fromkeys(_text(record.get(column)) for record in rows))
    if row in headers:
        raise ValueError(f"column: {column!r} holds the value {row!r}, which is also the name of the row column")
    grid: dict[str, tuple[Any, dict[str, list[Any]]]] = {}
    for record in rows:
        _, cells = grid.setdefault(_key(record.get(row)), (record.get(row), {}))
        cells.setdefault(_text(record.get(column)), []).append(record.get(value))
    return [
        {row: label, **{name: _aggregate(operation, cells[name], value) if name in cells else None for name in headers}}
        for label, cells in grid.values()
    ]


@starter_tool("Tables")
def select_columns(
    records: list[dict[str, Any]], columns: list[str], rename: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Keep only some columns of a table, in a chosen order, and optionally give them new headings.

    Drops fields that are not needed, reorders the rest, and renames headers; every row stays.

    Args:
        records: Rows, each a mapping of column name to value.
        columns: Names of the columns to keep, in the wanted order.
        rename: New headings: old column name to new name; null to keep the names.

    Returns:
        All rows with the chosen columns; missing cells are null.

    Raises:
        ValueError: A record is malformed, a column is unknown, or two columns get the same name.
    """
    rows = _checked("records", records)
    if not columns:
        raise ValueError("columns: expected at least one column name, got none")
    _has_columns("columns", columns, rows)
    unknown = [name for name in rename or {} if name not in columns]
    if unknown:
        raise ValueError(f"rename: {unknown} are not among the chosen columns {columns}")
    names = {column: (rename or {}).get(column, column) for column in columns}
    if len(set(names.values())) < len(columns):
        raise ValueError(f"columns: two columns would get the same name: {[names[column] for column in columns]}")
    return [{names[column]: record.get(column) for column in columns} for record in rows]


@starter_tool("Tables")
def diff_records(old: list[dict[str, Any]], new: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """Compare two versions of a table and tell which rows were added, removed or changed.

    Matches rows by an identifying column and lists every altered cell with its old and new value, for example between
    last week's and today's price list.

    Args:
        old: Rows of the earlier version.
        new: Rows of the later version.
        key: Column that identifies a row in both versions, for example ``id``.

    Returns:
        Added rows, removed rows, and changed rows with the key's value and the changes (column to [old, new]).

    Raises:
        ValueError: A record is malformed or lacks the key, or a key occurs twice in one version.
    """
    before, after = _indexed("old", old, key), _indexed("new", new, key)
    changed: list[dict[str, Any]] = []
    for name, record in after.items():
        if name in before:
            previous = before[name]
            columns = _columns([previous, record])
            changes = {
                column: [previous.get(column), record.get(column)]
                for column in columns
                if _key(previous.get(column)) != _key(record.get(column))
            }
            if changes:
                changed.append({"key": record[key], "changes": changes})
    return {
        "added": [record for name, record in after.items() if name not in before],
        "removed": [record for name, record in before.items() if name not in after],
        "changed": changed,
    }


def _indexed(argument: str, records: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    index: dict[str, dict[str, Any]] = {}
    for number, record in enumerate(_checked(argument, records)):
        if record.get(key) is None:
            raise ValueError(f"{argument}[{number}]: has no value in the key column {key!r}")
        if _key(record[key]) in index:
            raise ValueError(f"{argument}[{number}]: the key {record[key]!r} occurs twice")
        index[_key(record[key])] = record
    return index


@starter_tool("Tables")
def json_path_lookup(json_text: str, path: str) -> Any:
    """Pull a value out of nested JSON by its path, for example ``orders[0].customer.name``.

    Digs through objects and arrays of an API response or configuration to one field; ``[*]`` collects the field from
    every element of an array.

    Args:
        json_text: The JSON document as text.
        path: Keys joined with dots and array positions in brackets, for example ``users[*].email`` or
            ``config["file.name"]``; negative positions count from the end; a leading ``$`` is allowed.

    Returns:
        The value at the path: text, number, true, false, null, list or object.

    Raises:
        ValueError: The text is no JSON, the path is malformed, or nothing is at that path.
    """
    if len(json_text) > _MAX_CHARACTERS:
        raise ValueError(f"json_text: at most {_MAX_CHARACTERS} characters, got {len(json_text)}")
    try:
        data = json.loads(json_text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"json_text: not JSON: {error}") from error
    values, many, position = [data], False, 0
    steps = path.strip().removeprefix("$")
    while position < len(steps):
        match = _STEP.match(steps, position)
        if not match or (position == 0 and steps.startswith(".") and not path.strip().startswith("$")):
            raise ValueError(f"path: cannot read {steps[position:]!r} in {path!r}; expected e.g. orders[0].customer")
        key, index, *quoted = match.groups()
        many = many or index == "*"
        name = next((part for part in (key, *quoted) if part is not None), None)
        values = [found for value in values for found in _step(value, name, index, steps[: match.end()])]
        position = match.end()
    return values if many else values[0]


def _step(value: Any, key: str | None, index: str | None, where: str) -> list[Any]:
    if key is not None:
        if not isinstance(value, dict) or key not in value:
            known = f"the keys here are {list(value)[:20]}" if isinstance(value, dict) else "this is no object"
            raise ValueError(f"path: there is nothing at {where!r}: {known}")
        return [value[key]]
    if not isinstance(value, list):
        raise ValueError(f"path: there is nothing at {where!r}: this is no array")
    if index == "*":
        return value
    if not -len(value) <= int(index or 0) < len(value):
        raise ValueError(f"path: there is nothing at {where!r}: the array has {len(value)} elements")
    return [value[int(index or 0)]]
