"""Code printed in README and reports imports what there is."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in [ROOT / "README.md", *(ROOT / "reports").rglob("*")] if path.suffix in (".md", ".py"))


def imported(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for every import from this package in the code of a page."""
    text = page.read_text(encoding="utf-8")
    for code in [text] if page.suffix == ".py" else re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "subsetopt":
                yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_printed_code_imports_is_there(page: Path) -> None:
    for module, name in imported(page):
        found = importlib.import_module(module)
        assert hasattr(found, name) or importlib.import_module(f"{module}.{name}"), f"{module}.{name}"


def test_there_is_code_to_look_at() -> None:
    assert sum(1 for page in PAGES for _ in imported(page)) > 20
