"""How long ranks that solve subsets of their own wait for one another, in evaluations instead of seconds.

usage: python reports/strategies/dealt_out.py SOLVER SUBSETS RANKS...

Every solve is run here, one after the other; the cost of each of its iterations then tells what keeping step costs.
"""

from __future__ import annotations

import math
import sys
from itertools import chain, zip_longest

from subsetopt.training.phases.subsets.solve import SubsetSolve
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config


def iteration_costs(solver: str, subsets: int) -> list[list[float]]:
    """Return for each subset of 10 % of the digits what every iteration costs, in epoch-equivalents."""
    settings = {"subsets": subsets, "subset_frac": 0.1, "handoff": "none", "solver": solver, "dtype": "float64"}
    data, budget, run = prepare(make_config(settings))
    (config,) = run.config.phases()
    ledger = budget.ledger
    costs: list[list[float]] = []
    for index in range(subsets):
        solve, reason = SubsetSolve(config, data, budget, run, index), None
        solve.charges()
        costs.append([])
        while reason is None:
            reason, before = solve.advance(run.model.flat.initial(), math.inf), ledger.cost
            ledger.add(solve.charges())
            costs[-1].append(ledger.cost - before)
    return costs


def main(solver: str, subsets: str, *sizes: str) -> None:
    """Print for each number of ranks how evenly the work is dealt out, and what is left of that when they keep step."""
    costs = iteration_costs(solver, int(subsets))
    for size in map(int, sizes):
        lanes = [list(chain(*costs[rank::size])) for rank in range(size)]
        total, longest = sum(map(sum, lanes)), max(map(sum, lanes))
        in_step = sum(max(row) for row in zip_longest(*lanes, fillvalue=0.0))
        print(f"{solver}, {subsets} subsets, {size} ranks: balance {total / size / longest:.2f}, ", end="")
        print(f"in step {longest / in_step:.2f}, efficiency {total / size / in_step:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
