"""Tables of the claims' pages, computed from the studies' results.csv.

`python reports/claims/tables.py` writes every block between `<!-- table: KIND ... -->` and `<!-- end -->` again;
`--check` writes nothing and ends with 1 where a page says anything else than the studies. KIND is one of `TABLES`, the
words after it are a study, `budget=B`, `against=METHOD`, `only=METHOD;METHOD` and `seconds`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from claim_five import rows_table
from claim_four import grid_table, held_table, mean_table
from claim_one import budgets_table, effective_table, equal_table, minima_table, tenth_table
from claim_three import overhead_table, pooled_table
from layout import average, given, markdown, shown_interval, test_cells, under_way
from study import STUDIES, mean, read_study

from subsetopt.samplers.coverage import expected_coverage, occupancy_pmf, simulate_coverage
from subsetopt.study.statistics import mean_interval

PAGES = Path(__file__).parent
_PLACE = re.compile(r"<!-- table: ([^\n]*?) -->\n(.*?)<!-- end -->", re.DOTALL)


def compare_table(name: str, *words: str) -> str:
    """One row per method, of those in `only`: accuracy, loss, cost, and the paired difference from `against`."""
    study, options = read_study(name), given(words)
    if not study.rows:
        return under_way(study, name)
    only = options.get("only", "").split(";")
    methods = [method for method in study.methods if only == [""] or method in only]
    budget = float(options["budget"]) if "budget" in options else study.budgets[-1]
    tests = study.tests("test_accuracy", options["against"], budget, methods) if "against" in options else {}
    head = ["method", "test accuracy, %", "95 % interval", "test loss", "cost", "s"]
    if tests:
        head += [f"minus {options['against']}, points", "p", "seen with 80 % power", "difference"]
    columns = {
        key: study.values(key, budget, methods)
        for key in ("test_accuracy", "test_loss", "epoch_equivalents", "seconds")
    }
    ranked = sorted(methods, key=lambda method: -mean(columns["test_accuracy"][method]))
    lines = []
    for method in ranked:
        own = {key: values[method] for key, values in columns.items()}
        interval = mean_interval(list(own["test_accuracy"].values()))
        cells = [f"`{method}`", f"{100 * mean(own['test_accuracy']):.2f}", shown_interval(interval)]
        cells += [
            f"{mean(own['test_loss']):.4f}",
            f"{mean(own['epoch_equivalents']):.3g}",
            f"{mean(own['seconds']):.3g}",
        ]
        lines.append([*cells, *(test_cells(tests.get(method)) if tests else [])])
    return markdown(head, lines)


def coverage_table(name: str, *words: str) -> str:
    """Claim 2: the share of samples trained on by the end: measured, and by closed forms, and what selection cost."""
    study = read_study(name)
    if not study.rows:
        return under_way(study, name)
    head = ["method", "samples trained on, % of N", "by the closed form, %", "rows trained / N", "selection, % of cost"]
    lines = []
    for method in study.methods:
        rows = [row for row in study.sampling if (row["method"], float(row["budget"])) == (method, study.budgets[-1])]
        if not rows:
            continue
        share = average(float(row["unique"]) / float(row["rows"]) for row in rows)
        passes = average(float(row["trained"]) / float(row["rows"]) for row in rows)
        selection = average(float(row["selection"]) / float(row["total"]) for row in rows)
        cells = [f"{100 * share:.2f}", closed_form(method, int(rows[0]["rows"]), passes)]
        lines.append([f"`{method}`", *cells, f"{passes:.2f}", f"{100 * selection:.1f}"])
    return markdown(head, lines)


def closed_form(method: str, samples: int, passes: float) -> str:
    """Return the expected coverage in percent of a uniform sampler after `passes` times N rows; a dash for others."""
    name, _, fraction = method.partition("@")
    if name == "sgd":
        return f"{100 * min(1.0, passes):.2f}"
    if name not in ("rs2", "srs", "fixed-subset"):
        return "–"
    epochs = max(1, round(passes / float(fraction)))
    return f"{100 * expected_coverage(name, samples, float(fraction), epochs):.2f}"


def occupancy_table(*words: str) -> str:
    """Claim 2: visits after some epochs, by the closed form and in one simulation of each sampler."""
    options = given(words)
    n, fraction, epochs = int(options["samples"]), float(options["fraction"]), int(options["epochs"])
    names = ("srs", "rs2", "fixed-subset")
    expected = {name: occupancy_pmf(name, n, fraction, epochs) for name in names}
    counted = {name: simulate_coverage(name, n, fraction, epochs, repeats=1).occupancy[0] for name in names}
    head = ["visits", *(cell for name in names for cell in (f"`{name}`, %", "by the form, %"))]
    lines = []
    for visits in range(6):
        cells = [str(visits)]
        for name in names:
            cells += [_share(numbers, visits) for numbers in (counted[name], expected[name])]
        lines.append(cells)
    return markdown(head, lines)


def _share(shares: Any, visits: int) -> str:
    return f"{100 * float(shares[visits]):.2f}" if visits < len(shares) else "0.00"


def studies_table(*words: str) -> str:
    """Every collected study, finished or not."""
    head = ["study", "cells", "training time of all cells, min", "cost, units", "state"]
    lines = []
    for folder in sorted(path for path in STUDIES.glob("claim-*") if path.is_dir()):
        about = read_study(folder.name).about
        state = "finished" if about["finished"] else "under way"
        cells = f"{about['cells']}" if about["finished"] else f"{about['cells']} of {about['of']}"
        lines.append(
            [f"`{folder.name}`", cells, f"{about['seconds'] / 60:.1f}", f"{about['epoch_equivalents']}", state]
        )
    return markdown(head, lines)


def verdicts_table(*words: str) -> str:
    """The verdict that every page begins with."""
    lines = []
    for page in sorted(PAGES.glob("c[1-5]-*.md")):
        title, verdict = heading(page.read_text(encoding="utf-8"))
        lines.append([f"[{title}]({page.name})", verdict])
    return markdown(["claim", "verdict"], lines).replace("---:", "---")


def heading(text: str) -> tuple[str, str]:
    """Return the title of a page and the sentence after **Verdict:**."""
    title = text.splitlines()[0].lstrip("# ").strip()
    verdict = re.search(r"^\*\*Verdict: (.*?)\*\*(.*?)$", text, re.MULTILINE)
    assert verdict is not None, f"{title} has no verdict"
    return title, f"**{verdict[1]}**{verdict[2]}"


def time_table(*names: str) -> str:
    """What the studies of a page took: training time of all cells, tuning included, on the machine that ran them."""
    finished = [study for study in map(read_study, names) if study.about.get("finished")]
    if not finished:
        return "No study is finished.\n"
    parts = [f"`{s.name}` {s.about['seconds'] / 60:.1f} min ({s.about['cells']} runs)" for s in finished]
    return (
        f"Time it took, all runs with their tuning, added up: {', '.join(parts)}; two shared cores under other load.\n"
    )


def figure(name: str, *words: str) -> str:
    """Show a figure where its studies are finished."""
    return f"![{' '.join(words)}]({name})\n" if (PAGES / name).is_file() else ""


TABLES: dict[str, Callable[..., str]] = {
    "compare": compare_table,
    "minima": minima_table,
    "tenth": tenth_table,
    "equal": equal_table,
    "budgets": budgets_table,
    "coverage": coverage_table,
    "effective": effective_table,
    "time": time_table,
    "figure": figure,
    "held": held_table,
    "grid": grid_table,
    "mean": mean_table,
    "rows": rows_table,
    "overhead": overhead_table,
    "pooled": pooled_table,
    "occupancy": occupancy_table,
    "studies": studies_table,
    "verdicts": verdicts_table,
}


def filled(text: str) -> str:
    """Return a page with every table computed anew."""

    def written(place: re.Match[str]) -> str:
        kind, *words = re.findall(r'(?:[^\s"]|"[^"]*")+', place[1])
        return f"<!-- table: {place[1]} -->\n{TABLES[kind](*(word.replace(chr(34), '') for word in words))}<!-- end -->"

    return _PLACE.sub(written, text)


def write_pages(*, check: bool = False) -> list[str]:
    """Write the pages whose tables changed, or with `check` none; return their names. README, last, has verdicts."""
    changed = []
    for page in [*sorted(PAGES.glob("c[1-5]-*.md")), PAGES / "README.md"]:
        text = page.read_text(encoding="utf-8")
        if (now := filled(text)) != text:
            changed.append(page.name)
            if not check:
                page.write_text(now, encoding="utf-8")
    return changed


if __name__ == "__main__":
    differing = write_pages(check="--check" in sys.argv)
    print(f"differ from the studies: {', '.join(differing)}" if differing else "all tables equal the studies")
    sys.exit(1 if differing and "--check" in sys.argv else 0)
