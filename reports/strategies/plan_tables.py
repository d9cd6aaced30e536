"""What the table of `plan_laws.py` makes: `python plan_tables.py TABLE` prints the entries of laws.toml.

`python plan_tables.py TABLE page` prints the table of `plan-laws.md`, in epoch-equivalents, and `python plan_tables.py
CHECKS checks` its table of what `plan_check.py` found.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from plan_laws import FIRST_ORDER, LEVELS, PROBLEMS, STRATEGIES, rows_of

PAGE = "reports/strategies/plan-laws.md"
SHARES = ("lbfgs@0.1+full", "grow", "lbfgs@residual", "kfac-stream+lbfgs")
NAMES = {"digits": "digits", "mlp": "MNIST, 12 000", "mnist": "MNIST, 54 000"}


def laws_of(table: Path) -> str:
    """Return the entries of laws.toml: of each strategy, problem and strength the lowest and highest of the seeds."""
    rows, entries = rows_of(table), []
    base = {_run(row): row for row in rows if row["strategy"] == "lbfgs"}
    for strategy in STRATEGIES[:-1]:
        own = [row for row in rows if row["strategy"] == strategy]
        for problem, l2 in dict.fromkeys((row["problem"], row["l2"]) for row in own):
            seeds = [row for row in own if (row["problem"], row["l2"]) == (problem, l2)]
            against = [base[_run(row)] if strategy in SHARES else None for row in seeds]
            costs = [_costs(row, scratch) for row, scratch in zip(seeds, against, strict=True)]
            entries.append(_entry(strategy, problem, seeds, costs))
    return "\n".join([*entries, _pilot_entry(rows, base)])


def _run(row: dict[str, str]) -> tuple[str, str, str]:
    return row["problem"], row["l2"], row["seed"]


def _costs(row: dict[str, str], scratch: dict[str, str] | None) -> list[float | None]:
    """Return the cost of a row to each level, or its share of L-BFGS from scratch."""
    pairs = [(row[f"to {level:g}"], scratch[f"to {level:g}"] if scratch else "1") for level in LEVELS]
    return [float(own) / float(other) if own and other else None for own, other in pairs]


def _entry(strategy: str, problem: str, seeds: list[dict[str, str]], costs: list[list[float | None]]) -> str:
    bounds = [[(None if None in part else pick(part)) for part in zip(*costs, strict=True)] for pick in (min, max)]
    lines = [
        "[[law]]",
        f'strategy = "{strategy}"',
        f"samples = {seeds[0]['samples']}",
        f"l2 = {seeds[0]['l2']}",
        f'unit = "{"share" if strategy in SHARES else "units"}"',
        *(f"{name} = [{', '.join(map(_number, part))}]" for name, part in zip(("low", "high"), bounds, strict=True)),
    ]
    calls = [float(row["calls"]) for row in seeds if row["calls"]]
    if calls:
        lines.append(f"calls = {statistics.median(calls):.3g}")
    tuned = f", best of {len(PROBLEMS[problem].rates[strategy])} rates" if strategy in FIRST_ORDER else ""
    count = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    lines.append(f'source = "{PROBLEMS[problem].title}, l2 {float(seeds[0]["l2"]):g}{tuned}, {count} ({PAGE})"')
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return '"-"' if value is None else f"{value:.3g}"


def _pilot_entry(rows: list[dict[str, str]], base: dict[tuple[str, str, str], dict[str, str]]) -> str:
    """Print by how much L-BFGS on all data exceeds the pilot's evaluations."""
    ratios = [_costs(base[_run(row)], row) for row in rows if row["strategy"] == "pilot"]
    lines = [
        f"{name} = [{', '.join(_number(pick(x for x in part if x is not None)) for part in zip(*ratios, strict=True))}]"
        for name, pick in (("low", min), ("high", max))
    ]
    return "\n".join(["[pilot]", *lines, f'source = "digits and MNIST, {len(ratios)} runs ({PAGE})"'])


def page_of(table: Path) -> str:
    """Return the table of the page: the lowest and highest cost of the seeds to each level."""
    rows = rows_of(table)
    lines = [
        "| strategy | data | l2 | seeds | " + " | ".join(f"to {100 * level:g} %" for level in LEVELS) + " |",
        "|---|---|---:|---:|" + "---:|" * len(LEVELS),
    ]
    for strategy in STRATEGIES:
        own = [row for row in rows if row["strategy"] == strategy]
        for problem, l2 in dict.fromkeys((row["problem"], row["l2"]) for row in own):
            seeds = [row for row in own if (row["problem"], row["l2"]) == (problem, l2)]
            shown = [_span([row[f"to {level:g}"] for row in seeds]) for level in LEVELS]
            name = "pilot, evaluations" if strategy == "pilot" else f"`{strategy}`"
            lines.append(f"| {name} | {NAMES[problem]} | {float(l2):g} | {len(seeds)} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def checks_of(table: Path) -> str:
    """Return the table of what was measured (and predicted), by case and strategy; bold outside of the prediction."""
    rows = rows_of(table)
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    lines = ["| data | N | P | `plan` says, by units | " + " | ".join(f"`{name}`" for name in names) + " |"]
    lines.append("|---|---:|---:|---|" + "---:|" * len(names))
    for case in dict.fromkeys(row["case"] for row in rows):
        own = {row["strategy"]: row for row in rows if row["case"] == case}
        first = own[names[0]]
        start = [case, first["samples"], first["parameters"], f"`{first['by units']}`"]
        lines.append("| " + " | ".join([*start, *(_checked(own[name]) for name in names)]) + " |")
    return "\n".join(lines)


def _checked(row: dict[str, str]) -> str:
    low, high, measured = row["low"], row["high"], row["measured"]
    if not low:
        return measured or "–"
    if not measured:
        return f"– ({low}–{high})"
    inside = float(low) <= float(measured) <= float(high)
    return f"{measured if inside else f'**{measured}**'} ({low}–{high})"


def _span(costs: list[str]) -> str:
    """Return the lowest and highest of the costs, or in how many of the runs the level was reached."""
    known = [float(cost) for cost in costs if cost]
    if len(known) < len(costs):
        return "–" if not known else f"{len(known)} of {len(costs)}"
    low, high = (f"{pick(known):.3g}" for pick in (min, max))
    return low if low == high else f"{low}–{high}"


if __name__ == "__main__":
    kinds = {"page": page_of, "checks": checks_of}
    print(kinds.get("".join(sys.argv[2:]), laws_of)(Path(sys.argv[1])))
