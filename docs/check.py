"""Checks on the documentation: links lead somewhere, Python blocks run, figures name their command, names are covered.

``python docs/check.py`` prints one line a problem and exits 1 if there is any.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
BLOCK = re.compile(r"^```python(?P<flags>[^\n]*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL)
LOCAL = re.compile(r"/(?:work|root|tmp|home)/\S*")


def broken_links() -> list[str]:
    """Name the relative links that lead to no file."""
    problems = []
    for page in PAGES:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                problems.append(f"{page.relative_to(ROOT)}: link to {target} leads nowhere")
    return problems


def failing_blocks() -> list[str]:
    """Run the Python blocks of each page in one interpreter; a block marked ``no-run`` is only compiled."""
    problems = []
    for page in PAGES:
        runnable = []
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            code = match["code"]
            try:
                ast.parse(code)
            except SyntaxError as error:
                problems.append(f"{page.relative_to(ROOT)}: block does not parse: {error}")
                continue
            if "no-run" not in match["flags"]:
                runnable.append(code)
        if runnable:
            done = subprocess.run(
                [sys.executable, "-c", "\n".join(runnable)], capture_output=True, text=True, cwd=ROOT, timeout=300
            )
            if done.returncode:
                problems.append(f"{page.relative_to(ROOT)}: a block fails: {done.stderr.strip().splitlines()[-1]}")
    return problems


def undocumented_names() -> list[str]:
    """Name the public names that no page of the API overview mentions."""
    tree = ast.parse((ROOT / "toolscaler" / "__init__.py").read_text(encoding="utf-8"))
    public: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "_PUBLIC":
            public = [ast.literal_eval(key) for key in node.value.keys]  # type: ignore[union-attr]
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return [f"docs/api.md: {name} is not mentioned" for name in public if not re.search(rf"\b{name}\b", text)]


def machine_paths() -> list[str]:
    """Name the pages that hold a path of somebody's machine."""
    return [
        f"{page.relative_to(ROOT)}: machine path {found}"
        for page in PAGES
        for found in LOCAL.findall(page.read_text(encoding="utf-8"))
    ]


def figures_without_command() -> list[str]:
    """In docs/results.md every section with a table or a number must name the command that makes it."""
    page = ROOT / "docs" / "results.md"
    problems = []
    for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        if re.search(r"\d", section) and not re.search(r"^```(?:sh|bash)\n", section, re.MULTILINE):
            problems.append(f"docs/results.md: section {title!r} has figures but names no command")
    return problems


def main() -> int:
    """Run every check."""
    problems = [
        *broken_links(),
        *failing_blocks(),
        *undocumented_names(),
        *machine_paths(),
        *figures_without_command(),
    ]
    for problem in problems:
        print(problem)
    print(f"docs: {len(PAGES)} pages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
