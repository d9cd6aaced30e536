"""The lists, how evaluations to a goal are counted, and what comes out of a small run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from subsetopt.bench import held_out
from subsetopt.bench.problems_cutest import LOOKED_AT, is_development
from subsetopt.bench.problems_data import DATA_DEVELOPMENT, DATA_HELD_OUT

PROBLEMS_MD = Path(__file__).parents[2] / "reports" / "held-out" / "problems.md"


def test_the_list_written_down_is_the_one_that_the_rule_gives() -> None:
    text = PROBLEMS_MD.read_text(encoding="utf-8")
    development, _, held = text.partition("## Development")[2].partition("## Held out")
    for part, expected, data in ((development, True, DATA_DEVELOPMENT), (held, False, DATA_HELD_OUT)):
        names = part.split("\n\n")[1].replace("\n", " ").split(", ")
        assert len(names) == int(part.removeprefix(":").split()[0])
        assert {is_development(name) for name in names} == {expected}
        assert part.split("\n\n")[2].split() == [f"{name}," for name in data[:-1]] + [data[-1]]
    assert set(LOOKED_AT) <= set(development.replace(",", " ").split())


def test_counts_to_the_gradient_and_to_the_common_loss() -> None:
    solves = {
        "lbfgs": (8, [(1, 10.0), (4, 1e-6), (8, 0.0)]),
        "scipy-10": (None, [(1, 10.0), (5, 1.0)]),
        "torch-10": (16, [(1, 10.0), (3, 2e-5), (5, 0.0)]),
    }
    rows = [
        {"problem": "p", "solver": solver, "reached": reached, "first_loss": 10.0, "lowest": lowest}
        for solver, (reached, lowest) in solves.items()
    ]
    gradient = held_out.summary(held_out.evaluations(rows, by_loss=False))
    loss = held_out.summary(held_out.evaluations(rows, by_loss=True))
    assert gradient == {
        "successes": {"lbfgs": 1, "scipy-10": 0, "torch-10": 1},
        "mean": pytest.approx(0.5),
        "ratios": {"p": 0.5},
    }
    assert loss["ratios"] == {"p": 4 / 5}


def test_a_run_writes_a_line_per_solve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "rows.jsonl"
    monkeypatch.setattr(sys, "argv", ["held_out", str(output), "--problem", "beale"])
    held_out.main()
    rows = {row["solver"]: row for row in map(json.loads, output.read_text().splitlines())}
    assert set(rows) == {*held_out.PEERS, "lbfgs"}
    assert rows["lbfgs"]["reached"] <= min(rows[peer]["reached"] for peer in held_out.PEERS)
    assert all(row["lowest"][-1][1] < 1e-10 for row in rows.values())
    assert "to the common loss" in capsys.readouterr().out


# evaluations of `lbfgs`, and of the best of its four peers (reports/held-out/lbfgs.csv)
HELD_OUT = {
    "softmax-iris-1e-6": (43, 53),
    "softmax-wine-1e-4": (30, 31),
    "huber-diabetes": (24, 23),
    "poisson-diabetes": (36, 29),
    "mlp-tanh-cancer": (121, 91),
}


@pytest.mark.parametrize("name", HELD_OUT)
def test_held_out_counts_do_not_grow(name: str) -> None:
    pytest.importorskip("sklearn", reason="the tables are scikit-learn's")
    row = held_out.solved(held_out.problem(name), held_out.solvers()["lbfgs"])
    assert row["reached"] <= HELD_OUT[name][0]
