"""Figures and paragraphs as all texts for people show them."""

from __future__ import annotations

import textwrap

WIDTH = 96


def epochs(cost: float) -> str:
    """Return a cost with its unit, e.g. "1 epoch-equivalent"."""
    text = f"{cost:.3g}"
    return f"{text} epoch-equivalent{'' if text == '1' else 's'}"


def counted(number: int, unit: str) -> str:
    """Return a number with its unit, in the singular for 1."""
    return f"{number} {unit}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return seconds as "2.5 s", "1 min 15 s" or "2 h 05 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def loss(value: float | None) -> str:
    """Return a loss, or "not finite"."""
    return "not finite" if value is None else f"{value:.4g}"


def quality(figures: dict[str, float | None]) -> str:
    """Return accuracy in percent, or R², or the mean squared error; "-" where none is known."""
    if (accuracy := figures.get("accuracy")) is not None:
        return f"{100 * accuracy:.2f} %"
    found = figures.get("r2", figures.get("mse"))
    return "-" if found is None else f"{found:.4g}"


def wrapped(text: str, *, indent: int = 2, hanging: int | None = None) -> list[str]:
    """Return lines of at most `WIDTH` characters; with `hanging`, all but the first are indented by so many."""
    first = " " * (indent if hanging is None else 2)
    rest = " " * (indent if hanging is None else hanging)
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False)
