"""The scaling benchmark: what a rank measures, and how it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subsetopt.bench import scaling
from subsetopt.bench.figure import bench_figure
from subsetopt.bench.run import BenchSettings, run_bench
from subsetopt.bench.tables import tables
from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError, UserError


def test_one_rank_is_as_efficient_as_itself(tmp_path: Path) -> None:
    plan = scaling.ScalingPlan(100, 3, str(tmp_path), "cpu", "")
    measured = scaling.measure_on_ranks(plan, Ranks())
    assert (measured["processes"], measured["data"]) == (1, "synthetic")
    assert measured["collective_bytes"] == 8 * (measured["parameters"] + 1)
    kinds = [(row["kind"], row["clock"]) for row in measured["rows"]]
    assert kinds == [(kind, clock) for clock in ("wall", "cpu") for kind in ("strong", "weak", "apart")]
    for row in measured["rows"]:
        assert 0 < row["efficiency_least"] <= row["efficiency"] <= row["efficiency_most"]
    (table,) = tables({"scaling": measured})
    assert table.rows[0][3] == "ms 1 processes" and len(table.rows) == 7
    figure = bench_figure({"scaling": measured})
    assert figure is not None and figure.startswith(b"\x89PNG")


def test_efficiency_is_the_time_of_one_over_that_of_all() -> None:
    turns: dict[str, Any] = {"one": [[4.0, 4.0]], "strong": [[2.5, 2.0]], "weak": [[5.0, 4.0]], "apart": [[4.5, 4.0]]}
    rows = {(kind, clock): scaling._row(kind, clock, turns, 2) for kind in ("strong", "weak") for clock in (0, 1)}
    assert rows["strong", 0]["efficiency"] == rows["weak", 0]["efficiency"] == 0.8
    assert rows["strong", 1]["efficiency"] == rows["weak", 1]["efficiency"] == 1.0
    allowed = {key: row["of_what_the_machine_allows"] for key, row in rows.items()}
    assert allowed == {("strong", 0): 0.9, ("weak", 0): 0.9, ("strong", 1): 1.0, ("weak", 1): 1.0}


def test_ranks_that_fail_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"^scaling: the ranks failed"):
        run_bench(BenchSettings(("scaling",), quick=True))
    with pytest.raises(SettingError, match="processes = 1"):
        BenchSettings(("scaling",), processes=1)
