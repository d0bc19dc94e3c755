"""Imports go one way, and `import toolscaler` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "toolscaler"

# Room -> rooms it may import; docs/architecture.md has the same table in words.
_BASE = {"errors", "_optional", "_files", "_tensors", "_configs", "_lazy", "_version"}
ALLOWED = {
    "errors": set(),
    "_optional": {"errors"},
    "_files": {"errors"},
    "_tensors": {"errors", "_files"},
    "_configs": {"errors", "_files"},
    "_lazy": set(),
    "_version": set(),
    "data": _BASE,
    "starter": _BASE | {"data"},
    "compression": _BASE | {"data"},
    "codebook": _BASE,
    "tokenization": _BASE | {"data", "codebook"},
    "embedding": _BASE | {"codebook", "tokenization"},
    "prompt_attention": {"errors"},
    "training": _BASE | {"data", "compression", "codebook", "tokenization", "embedding", "prompt_attention"},
    "hub": _BASE | {"data", "compression", "codebook", "tokenization", "embedding"},
    "decoding": _BASE | {"tokenization", "hub", "prompt_attention"},
    "evaluation": _BASE | {"data", "tokenization", "decoding", "agent"},
    "agent": _BASE | {"data", "starter", "tokenization", "decoding", "prompt_attention"},
    "catalogue": _BASE
    | {"data", "compression", "codebook", "tokenization", "embedding", "training", "hub", "decoding"},
}
_ROOMS = set(ALLOWED)
ALLOWED["pipeline"] = _ROOMS
ALLOWED["experiments"] = _ROOMS | {"pipeline"}
ALLOWED["scripts"] = _ROOMS | {"pipeline", "experiments"}
ALLOWED["cli"] = _ROOMS | {"pipeline", "experiments", "scripts"}
ALLOWED["__init__"] = {"_lazy", "_version"}

# Rooms that must not load these when they are imported.
HEAVY = {"torch", "transformers", "trl", "peft", "sklearn", "datasets", "accelerate"}
LIGHT_ROOMS = {"errors", "_optional", "_files", "_tensors", "_configs", "_lazy", "data", "starter", "codebook"}


def room_of(module: str) -> str:
    """Room of a dotted module name; the package itself is `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Modules that a file imports, with whether the import is at module level (outside TYPE_CHECKING)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: relative import"
                found.extend((f"{child.module}.{alias.name}", top) for alias in child.names)
            guarded = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            )
            visit(child, top and not guarded)

    visit(tree, True)
    return found


def test_every_import_is_in_the_table() -> None:
    problems = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE.parent).with_suffix("")
        own = room_of(".".join(relative.parts))
        assert own in ALLOWED, f"{relative}: room {own!r} is not in the table"
        for module, _ in imports_of(path):
            if module.split(".")[0] != "toolscaler":
                continue
            other = room_of(module)
            if other not in ALLOWED:  # `from toolscaler import name`
                other = "__init__" if module.count(".") <= 1 else other
            if other not in (own, "__init__") and other not in ALLOWED[own]:
                problems.append(f"{relative} imports {module}")
    assert problems == []


def test_light_rooms_load_nothing_heavy_when_imported() -> None:
    problems = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = room_of(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
        if own in LIGHT_ROOMS:
            problems += [f"{path.name}: {m}" for m, top in imports_of(path) if top and m.split(".")[0] in HEAVY]
    assert problems == []


def test_the_table_refuses_a_wrong_import() -> None:
    assert "decoding" not in ALLOWED["training"]
    assert "training" not in ALLOWED["decoding"]
    assert "evaluation" not in ALLOWED["training"]


@pytest.mark.parametrize(
    ("statement", "banned"),
    [
        ("import toolscaler", {"torch", "transformers", "numpy"}),
        ("import toolscaler.data, toolscaler.starter", {"torch", "transformers", "datasets"}),
        ("import toolscaler.agent.executors.base, toolscaler.agent.executors.composite", {"torch", "mcp", "httpx2"}),
        ("from toolscaler import Codebook", {"torch", "sklearn", "transformers"}),
        ("from toolscaler import GenerativeRetriever, ToolscalerTokenizer", {"trl", "peft", "sklearn"}),
    ],
)
def test_imports_stay_light(statement: str, banned: set[str]) -> None:
    code = f"import sys; {statement}; print(*sorted(set(sys.modules) & {banned!r}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []


def test_every_public_name_resolves() -> None:
    import toolscaler

    for name in toolscaler.__all__:
        assert getattr(toolscaler, name) is not None, name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = toolscaler.no_such_name
