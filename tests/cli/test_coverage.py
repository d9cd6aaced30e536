"""`coverage`: closed forms beside what the samplers really propose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_json_holds_the_closed_forms_and_simulations_that_agree(cli: Any) -> None:
    """References: 1 - (1 - r)^T and 1 - (1 - 1/N)^{mT}; at N = 5000 and 10 repeats 0.01 is over 4 errors."""
    document = cli("coverage", "--samples", 5000, "--fraction", 0.2, "--epochs", 5, "--json").json
    assert (document["samples"], document["epochs"], document["figure"]) == (5000, 5, None)
    rs2, srs = document["samplers"]["rs2"], document["samplers"]["srs"]
    assert rs2["rows_per_epoch"] == srs["rows_per_epoch"] == 1000
    assert rs2["coverage"]["closed_form"] == pytest.approx([1 - 0.8**t for t in range(1, 6)])
    assert srs["coverage"]["closed_form"] == pytest.approx([1 - (1 - 1 / 5000) ** (1000 * t) for t in range(1, 6)])
    for entry in (rs2, srs):
        for quantity in ("coverage", "occupancy"):
            assert entry[quantity]["simulated"] == pytest.approx(entry[quantity]["closed_form"], abs=0.01)
        assert sum(entry["occupancy"]["closed_form"]) == pytest.approx(1, abs=1e-4)
        assert entry["coverage"]["least"][-1] <= entry["coverage"]["simulated"][-1] <= entry["coverage"]["greatest"][-1]


def test_text_shows_first_and_last_epoch_and_every_sampler(cli: Any) -> None:
    out = cli("coverage", "--epochs", 40, "--samples", 200, "--repeats", 2, "--sampler", "rs2, fixed-subset").out
    assert "rs2 60, fixed-subset 60" in out and "fixed-subset never" in out
    rows = [line.split()[0] for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert rows[:9] == ["200", "1", "7", "12", "18", "23", "29", "34", "40"]


def test_seeds_are_frozen(cli: Any) -> None:
    arguments = ("coverage", "--samples", 100, "--epochs", 2, "--repeats", 1, "--json")
    assert cli(*arguments).json == cli(*arguments).json
    assert cli(*arguments).json["samplers"] != cli(*arguments, "--seed", 1).json["samplers"]


def test_the_figure_is_written(cli: Any, tmp_path: Path) -> None:
    outcome = cli("coverage", "--samples", 100, "--epochs", 3, "--repeats", 2, "--output", "coverage.png")
    assert "Figure: coverage.png" in outcome.out
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fraction", "1.5"), "--fraction 1.5"),
        (("--sampler", "sr"), "did you mean 'srs'"),
        (("--sampler", "p-sgd"), "--sampler p-sgd"),
        (("--output", "no/such/folder.png", "--samples", "10"), "--output no/such/folder.png"),
    ],
)
def test_mistakes_end_in_one_line(cli: Any, arguments: tuple[str, ...], message: str) -> None:
    outcome = cli("coverage", *arguments)
    assert outcome.code == 2
    assert message in outcome.line
