"""Is the result good? Against a constant prediction, and the hand-off against the subset minimum before it."""

from __future__ import annotations

import math

from subsetopt.documents.run import RunDocument
from subsetopt.report.numbers import quality
from subsetopt.report.words import role_words

_ERRORS = 2.0  # standard errors that chance explains


def rating(result: RunDocument) -> str | None:
    """Return one line, None where the result holds no constant prediction to compare with."""
    split = result.assessment.split
    constant = result.assessment.baseline.get(split or "")
    after = result.metrics.get(split or "")
    if split is None or not constant or not after:
        return None
    return f"Result {_against_constant(result, split, constant, after)}.{_better_of_two(result, split)}"


def _against_constant(
    result: RunDocument, split: str, constant: dict[str, float | None], after: dict[str, float | None]
) -> str:
    key = "accuracy" if constant.get("accuracy") is not None else "mse"
    found, least = after.get(key), constant.get(key)
    what = "the largest class" if key == "accuracy" else "the mean"
    figures = f"{split} {key} {quality({key: found})}, always predicting {what} {quality({key: least})}"
    if found is None or least is None or not (found > least if key == "accuracy" else found < least):
        return f"no better than a constant prediction: {figures}"
    if key == "accuracy":
        count = {"validation": result.dataset.validation, "test": result.dataset.test}.get(split, result.dataset.train)
        if found - least <= _ERRORS * math.sqrt(least * (1 - least) / max(count, 1)):
            return f"no better than a constant prediction by more than chance explains: {figures}"
    return f"better than a constant prediction: {figures}"


def _better_of_two(result: RunDocument, split: str) -> str:
    """Return which of solve and hand-off did better on the same data, and where its parameters are."""
    before, after = (result.metrics_before_handoff or {}).get(split), result.metrics.get(split)
    if not before or not after or result.solve is None:
        return ""
    solve = "subset minimum" if result.solve.data == "subset" else role_words("solve", result.solve.data)
    if result.assessment.better is not None:
        return f" The {solve} is better than the hand-off: use model-best.safetensors."
    key = "accuracy" if after.get("accuracy") is not None else "mse"
    earlier, later = before.get(key), after.get(key)
    if later is None:
        return ""
    gain = math.inf if earlier is None else (later - earlier if key == "accuracy" else earlier - later)
    was = f"{quality({key: earlier})} at the {solve}"
    if gain > 0:
        return f" The hand-off improved it: {was}."
    return f" The hand-off did not improve it: {was}."
