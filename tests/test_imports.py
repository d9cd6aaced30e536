"""Imports without the garbage collector: of public names on first use, and of what a registry finds."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import pytest

import subsetopt
from subsetopt.registry import Registry


@pytest.fixture
def collecting(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Return, by module imported, whether the collector was on."""
    seen: dict[str, bool] = {}
    original = importlib.import_module

    def noted(name: str, package: str | None = None) -> Any:
        seen[name] = gc.isenabled()
        return original(name, package)

    monkeypatch.setattr(importlib, "import_module", noted)
    return seen


def test_public_names_are_imported_without_the_collector(collecting: dict[str, bool]) -> None:
    assert gc.isenabled()
    assert subsetopt.SettingError.__name__ == "SettingError"
    assert collecting == {"subsetopt.errors": False}
    assert gc.isenabled()


def test_a_registry_discovers_without_the_collector(collecting: dict[str, bool]) -> None:
    registry: Registry[Any] = Registry("solver", "subsetopt.solvers", group="subsetopt.no_entry_points")
    assert "nothing" not in registry
    assert collecting["subsetopt.solvers.lbfgs"] is False
    assert gc.isenabled()
