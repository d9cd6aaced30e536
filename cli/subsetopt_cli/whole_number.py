"""Whole numbers as an option's type: its mistakes are told as those of the settings that pydantic reads."""

from __future__ import annotations

import contextlib
from typing import Any

import click


class WholeNumber(click.IntRange):
    """A whole number within bounds; `2.0` is one, as in a file, and `1e3` is told how to be written."""

    name = "whole number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; raises `click.BadParameter` for another text."""
        written = str(value)
        with contextlib.suppress(ValueError):
            return int(super().convert(int(written.removesuffix(".0")), param, ctx))
        remedy = "for example 10"
        with contextlib.suppress(ValueError, OverflowError):
            if (number := float(written)).is_integer():
                remedy = f"write {int(number)}"
        return self.fail(f"{written!r} is not a valid whole number; {remedy}.", param, ctx)
