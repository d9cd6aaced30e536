"""Several subset minima in words: how each does on all training data, and what joining them bought."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def subsets_words(phase: Mapping[str, Any]) -> list[str]:
    """Return sentences for a phase of result.json that solved several subsets; nothing for any other phase."""
    joined = phase.get("subsets")
    if not joined:
        return []
    by_training = joined["selected_by"] == "train"
    measure = "objective_full" if by_training else "validation_loss"

    def losses(entry: Mapping[str, Any]) -> str:
        text = f"{_number(entry['objective_full'])} on the full training set"
        return text if by_training else f"{text}, held-out loss {_number(entry[measure])}"

    sentences = []
    for number, (minimum, beaten) in enumerate(zip(joined["minima"], joined["average_beats"], strict=True), start=1):
        sentences.append(
            f"Minimum {number} of {joined['count']}: objective {_number(minimum['loss'])} on its own subset, "
            f"{losses(minimum)}; the average is {'lower' if beaten else 'not lower'}."
        )
    wins, best = sum(joined["average_beats"]), joined["best"] + 1
    sentences.append(
        f"Their average: {losses(joined['average'])}; it beats {wins} of {len(joined['minima'])}. The best is minimum "
        f"{best}. Handed on: {'the average' if joined['then'] == 'average' else f'minimum {best}'}."
    )
    return sentences


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
