"""The tables of claim 4: accuracies at all budgets, and what holds of the full budget's at a lower one."""

from __future__ import annotations

from layout import given, markdown, shown_interval, test_cells, under_way
from study import mean, read_study

from subsetopt.study.statistics import compare_all


def grid_table(name: str, *words: str) -> str:
    """Test accuracy of every method at every budget, and its losses at the largest one: how far it overfits."""
    study = read_study(name)
    if not study.rows:
        return under_way(study, name)
    head = ["method", *(f"accuracy at {budget:g}, %" for budget in study.budgets), "train loss at the end", "test loss"]
    lines = []
    for method in study.methods:
        cells = [100 * mean(study.values("test_accuracy", budget)[method]) for budget in study.budgets]
        losses = [mean(study.values(column)[method]) for column in ("train_loss", "test_loss")]
        lines.append([f"`{method}`", *(f"{cell:.2f}" for cell in cells), *(f"{loss:.3f}" for loss in losses)])
    return markdown(head, lines)


def mean_table(name: str, *words: str) -> str:
    """Claim 4: the mean over budgets of every method's accuracy less that of `against`, paired over seeds."""
    study, options = read_study(name), given(words)
    if not study.rows:
        return under_way(study, name)
    at = [study.values("test_accuracy", budget) for budget in study.budgets]
    means = {
        method: {seed: sum(values[method][seed] for values in at) / len(at) for seed in at[0][method]}
        for method in study.methods
    }
    head = ["mean of all budgets", f"minus {options['against']}, points", "95 % interval", "p", "seen with 80 % power"]
    lines = []
    for test in compare_all(means, higher_is_better=True, baseline=options["against"]):
        difference, p, seen, mark = test_cells(test)
        lines.append([f"`{test.a}`", difference, shown_interval(test.interval), p, seen, mark])
    return markdown([*head, "difference"], lines)


def held_table(name: str, *words: str) -> str:
    """Claim 4: every method at the `low` budget less `against` at the `high` one, paired over seeds."""
    study, options = read_study(name), given(words)
    if not study.rows:
        return under_way(study, name)
    low, high, baseline = float(options["low"]), float(options["high"]), options["against"]
    at_low, full = study.values("test_accuracy", low), f"{baseline} at {high:g}"
    values = {**at_low, full: study.values("test_accuracy", high)[baseline]}
    head = [f"method at {low:g}", f"minus {full}, points", "95 % interval", "p", "seen with 80 % power", "difference"]
    lines = []
    for test in compare_all(values, higher_is_better=True, baseline=full):
        difference, p, seen, mark = test_cells(test)
        lines.append([f"`{test.a}`", difference, shown_interval(test.interval), p, seen, mark])
    return markdown(head, lines)
