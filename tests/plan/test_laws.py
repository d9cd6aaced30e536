"""The shipped laws are those that the table of measurements makes."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from subsetopt.plan.laws import Range, pilot_range, read_laws, shipped_laws

STRATEGIES = Path(__file__).parents[2] / "reports" / "strategies"
MODULES = ("plan_tables", "plan_laws", "growing")
HERE = "reports/strategies/plan-laws.md"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What the script of the report makes of its table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STRATEGIES))
        for module in MODULES:
            patch.delitem(sys.modules, module, raising=False)
        tables = importlib.import_module("plan_tables")
        text, page = (make(STRATEGIES / "plan-laws.csv") for make in (tables.laws_of, tables.page_of))
        checks = tables.checks_of(STRATEGIES / "plan-check.csv")
    for module in MODULES:
        sys.modules.pop(module, None)
    return {
        "text": "levels = [1.0, 0.1, 0.05, 0.02]\n" + text,
        "table": tomllib.loads(text),
        "page": page,
        "checks": checks,
    }


def test_every_law_is_that_of_the_table(made: dict[str, Any]) -> None:
    own = [law for law in shipped_laws() if HERE in law.source]
    assert own == list(read_laws(made["text"])) and len(own) > 20


def test_the_pilot_is_that_of_the_table(made: dict[str, Any]) -> None:
    low, high = made["table"]["pilot"]["low"], made["table"]["pilot"]["high"]
    for place, excess in enumerate((1.0, 0.1, 0.05, 0.02)):
        assert pilot_range(excess)[0] == pytest.approx(Range(low[place], high[place]))
    assert pilot_range(1e-6)[0] == pytest.approx(Range(low[-1], high[-1])), "below the finest level as there"


def test_the_page_shows_the_table(made: dict[str, Any]) -> None:
    assert made["page"] in (STRATEGIES / "plan-laws.md").read_text(encoding="utf-8")


def test_the_page_shows_what_was_checked(made: dict[str, Any]) -> None:
    assert made["checks"] in (STRATEGIES / "plan-laws.md").read_text(encoding="utf-8")
