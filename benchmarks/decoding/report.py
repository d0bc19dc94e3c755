"""Results of the decoding benchmarks as a page of tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.decoding.masks import FILL, FLOOR, FRESH, REUSED, STATIC, TOOLGEN, TORCH, TRANSFORMERS

Results = dict[str, Any]

ORDER = (FLOOR, FILL, TRANSFORMERS, TOOLGEN, STATIC, FRESH, REUSED, TORCH)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(header)
    lines = ["| " + " | ".join(names) + " |", "|" + "|".join(["---", *["---:"] * (len(names) - 1)]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def tools_text(count: int) -> str:
    return f"{count / 1e6:g} M" if count >= 1_000_000 else f"{count:,}"


def by_size(part: Results) -> list[Results]:
    return sorted(part.values(), key=lambda case: case["tools"])


def case_of(results: Results, part: str, tools: int) -> Results | None:
    return results.get(part, {}).get(str(tools))


def masks(results: Results) -> str:
    parts = ["## The mask of a step\n"]
    cases = by_size(results["masks"])
    first = next(iter(cases[0]["rows"].values()))
    parts.append(
        "Milliseconds of a step over 130,304 float32 scores a row, and in brackets the share of one "
        f"`{FLOOR}`. Mean over the depths 0 to 3 of medians. `toolscaler` gives a new tensor a step; `reuse_buffer` is "
        "the opt-in that refills the last one; the torch path is that of CUDA and compiled models, here on the CPU. "
        f"What `{FLOOR}` costs depends on whether the allocator hands out memory that is mapped already (5 rows, and "
        "more in a process with much free memory) or new pages, so read it beside the fill in place. "
        f"{sum(case['masks_checked'] for case in cases):,} masks were compared with brute force before timing.\n"
    )
    for rows in cases[0]["rows"]:
        names = [name for name in ORDER if name in first]
        body = []
        for name in names:
            cells = [case["rows"].get(rows, {}).get(name) for case in cases]
            body.append(
                [name, *(f"{_number(cell['ms'])} ({_number(cell['share'])})" if cell else "–" for cell in cells)]
            )
        parts.append(_table([f"{rows} rows", *(tools_text(case["tools"]) for case in cases)], body))
    parts.append("Tensor operations that are no views, and waits for or copies to the device, a step:\n")
    last = cases[-1]["rows"]
    body = [
        [name, *(f"{last[rows][name]['operations']} / {last[rows][name]['waits']}" for rows in last)]
        for name in ORDER
        if "operations" in first.get(name, {}) and name not in (FRESH, REUSED)
    ]
    parts.append(_table(["operations / waits", *(f"{rows} rows" for rows in last)], body))
    return "\n".join(parts)


def build(results: Results) -> str:
    cases = by_size(results["build"])
    body = []
    for name in ("toolscaler", "dict trie", "STATIC"):
        if name in cases[0]:
            cells = [f"{_number(case[name]['build_s'])} s, {_number(case[name]['bytes_per_tool'])} B" for case in cases]
            body.append([name, *cells])
    checked = [f"{_number(case['toolscaler']['build_with_checks_and_names_s'])} s" for case in cases]
    body.insert(1, ["toolscaler, with checks and names", *checked])
    return "\n".join(
        [
            "## The index\n",
            "CPU seconds to build from code sequences in no order, and bytes a tool. A dict trie's bytes are what the "
            "process grew by, and its build is without garbage collection; STATIC gets its codes sorted.\n",
            _table(["", *(tools_text(case["tools"]) for case in cases)], body),
        ]
    )


def changes(results: Results) -> str:
    case = by_size(results["changes"])[-1]
    rows = [
        ["allow-list from a mask, first time", f"{_number(case['subset_of_a_mask_ms'])} ms"],
        ["the same allow-list again", f"{_number(case['subset_again_ms'])} ms"],
        [f"{case['changes']:,} changes, half added and half removed", f"{_number(case['changes_s'])} s"],
        ["save", f"{_number(case['save_s'])} s"],
        ["load", f"{_number(case['load_s'])} s"],
        ["file, names included", f"{_number(case['file_bytes_per_tool'])} B a tool"],
    ]
    return "\n".join(["## Allow-lists and changes\n", _table([f"{tools_text(case['tools'])} tools", "CPU time"], rows)])


def retrieval(results: Results) -> str:
    parts = ["## Retrieval end to end\n"]
    for part in ("retrieval", "small"):
        cases = sorted(results.get(part, {}).values(), key=lambda case: case["prompt_tokens"])
        if not cases:
            continue
        case, equal = cases[0], cases[0]["equality"]
        parts.append(
            f"Random {case['dtype']} model of the size of {case['model']} ({case['parameters'] / 1e6:.1f} M "
            f"parameters, vocabulary {case['vocabulary']:,}), {case['tools']:,} tools, top {case['top_k']}, medians "
            f"of {case['rounds']} rounds (a third of them for the slowest). On a small float32 model "
            f"{equal['equal_ranks']:,} of {equal['ranks']:,} ranks equal those of `generate`, scores to "
            f"{equal['largest_difference']:.0e}.\n"
        )
        body = []
        for name in case["systems"]:
            cells = [one["systems"].get(name) for one in cases]
            body.append([name, *(_speed(cell) if cell else "–" for cell in cells)])
        parts.append(_table(["a query", *(f"{one['prompt_tokens']} prompt tokens" for one in cases)], body))
    return "\n".join(parts)


def _speed(cell: Results) -> str:
    return f"{_number(cell['ms_per_query'])} ms ({cell['times_faster']:.2f}×)"


Goal = tuple[str, float, str, bool]


def _most(what: str, value: float, limit: float, unit: str = "") -> Goal:
    return what, value, f"≤ {limit:g}{unit}", value <= limit


def _least(what: str, value: float, limit: float) -> Goal:
    return what, value, f"≥ {limit:g}", value >= limit


def _mask_goals(results: Results) -> Iterator[Goal]:
    small, million, large = (case_of(results, "masks", size) for size in (46_985, 1_000_000, 10_000_000))
    for rows, limit in (("5", 0.5), ("80", 0.05), ("640", 0.04)):
        if million and rows in million["rows"]:
            share = million["rows"][rows][REUSED]["share"]
            yield _most(f"mask at 1 M tools, {rows} rows, share of full_like", share, limit)
    if small and large:
        for rows in small["rows"]:
            ratio = large["rows"][rows][REUSED]["ms"] / small["rows"][rows][REUSED]["ms"]
            yield _most(f"mask, growth from 47 k to 10 M tools, {rows} rows", ratio, 1.5)
    if million and "640" in million["rows"]:
        counted = million["rows"]["640"][TORCH]
        yield _most("torch path, operations a step, 640 rows", counted["operations"], 24)
        yield _most("torch path, waits a step, 640 rows", counted["waits"], 0)


def _index_goals(results: Results) -> Iterator[Goal]:
    for size, seconds in ((1_000_000, 0.1), (10_000_000, 1.5)):
        case = case_of(results, "build", size)
        if case:
            yield _most(f"index at {tools_text(size)} tools, build", case["toolscaler"]["build_s"], seconds, " s")
            yield _most(f"index at {tools_text(size)} tools, bytes a tool", case["toolscaler"]["bytes_per_tool"], 16)
    changed = case_of(results, "changes", 1_000_000)
    if changed:
        yield _most("allow-list at 1 M tools", changed["subset_of_a_mask_ms"], 50, " ms")
        yield _most("1,000 changes at 1 M tools", changed["changes_s"], 1, " s")


def _retrieval_goals(results: Results) -> Iterator[Goal]:
    limits = {
        ("64", "full"): (2.0, 6.0),
        ("64", "group"): (2.8, 9.0),
        ("256", "full"): (3.0, 4.4),
        ("256", "group"): (4.0, 5.0),
    }
    for (length, scores), pair in limits.items():
        systems = results.get("retrieval", {}).get(length, {}).get("systems", {})
        for batch, limit in zip((1, 8), pair, strict=True):
            system = systems.get(f"toolscaler, {scores}, beams 5, batch {batch}")
            if system:
                what = f"{scores} scores, {length} tokens, batch {batch}, times faster"
                yield _least(what, system["times_faster"], limit)
        wide, narrow = (systems.get(f"toolscaler, {scores}, beams {beams}, batch 1") for beams in (20, 5))
        if wide and narrow:
            ratio = wide["ms_per_query"] / narrow["ms_per_query"]
            yield _most(f"{scores} scores, {length} tokens, beam 20 against beam 5", ratio, 1.15)


def goals(results: Results) -> list[Goal]:
    """Compare with what was to be reached: (what, value, goal, whether it is)."""
    return [*_mask_goals(results), *_index_goals(results), *_retrieval_goals(results)]


def markdown(results: Results) -> str:
    """Write the page."""
    machines = [case["machine"] for part in results.values() for case in part.values()]
    machine = machines[-1]
    parts = [
        "# Constrained decoding, measured\n",
        "```sh\npython -m benchmarks.decoding --static CHECKOUT\n```\n",
        "`CHECKOUT` is a checkout of [STATIC](https://github.com/youtube/static-constraint-decoding). Codes are "
        "synthetic: 4 positions of 512, skewed, with a branching of 512 / 64 / 1.4 / 1.04 at 46,985 tools.\n",
        f"Machine: {machine['processor']}, {machine['cpus']} CPUs shared with other work, "
        f"{machine['torch_threads']} torch thread ({machine['cpu_capability']}), device {machine['device']}; torch "
        f"{machine['torch']}, transformers {machine['transformers']}. Times are {machine['clock']}, medians of runs in "
        "one process that take turns.\n",
    ]
    reached = goals(results)
    if reached:
        rows = [[what, _number(value), goal, "yes" if met else "no"] for what, value, goal, met in reached]
        parts += ["## Goals\n", _table(["what", "measured", "goal", "reached"], rows)]
    parts += [make(results) for make in (masks, build, changes) if make.__name__ in results]
    if "retrieval" in results or "small" in results:
        parts.append(retrieval(results))
    return "\n".join(parts)
