"""Kinds of values that settings have, and how they are read: lists, sizes, names, words to choose from."""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from subsetopt.training.phases.first_order.inline_arguments import split_arguments
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS

StopAt = Literal["minimum", "noise", "validation"]
Select = Literal["auto", "validation", "train"]
Schedule = Literal["constant", "linear", "cosine", "one-cycle", "wsd"]


_WORDS = {
    "dict_type": "is no table of names and values",
    "tuple_type": "is no list; a list of tables has each of them under [[name]]",
}


def problem_of(error: Mapping[str, Any]) -> str:
    """Return in one line what is wrong, of an entry of pydantic's `ValidationError.errors()`."""
    problem = str(error["msg"]).removeprefix("Value error, ").replace("\n", " ")
    return _WORDS.get(error["type"], problem)


def _auto_or_int(value: Any) -> Any:
    return None if value == "auto" else value


ChunkSize = Annotated[Annotated[int, Field(ge=1)] | Literal["tune"] | None, BeforeValidator(_auto_or_int)]


def _height_and_width(value: Any) -> Any:
    """Take N for a square, (H, W), and `N`, `H,W` or `HxW` as the command line has them."""
    if value is None:
        return None
    parts = value.lower().replace("x", ",").split(",") if isinstance(value, str) else value
    parts = list(parts) if isinstance(parts, (list, tuple)) else [parts]
    sides = [int(part) if isinstance(part, str) and part.strip().isdecimal() else part for part in parts]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides)
    if not whole or len(sides) not in (1, 2):
        raise ValueError("must be one or two whole numbers from 1 (height, width)")
    return (sides[0], sides[-1])


def _names(value: Any) -> Any:
    """Split A,B as a command line has it; a name with a comma stands in double quotes."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(name for name in next(csv.reader([value], skipinitialspace=True, strict=True), []) if name)
    except csv.Error as error:
        raise ValueError(f"is no list of names ({error})") from None


def _strengths(value: Any) -> Any:
    """Take one number, or several as `X,X,...` or a list, which become a tuple from the strongest to the weakest."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        numbers = [float(part) for part in parts if not (isinstance(part, str) and not part.strip())]
    except (TypeError, ValueError):
        raise ValueError("must be a number, or several separated by commas") from None
    if not numbers or not all(0 <= number < math.inf for number in numbers):
        raise ValueError("must be finite numbers from 0")
    different = tuple(sorted(set(numbers), reverse=True))
    if len(different) < len(numbers):
        raise ValueError("has a strength twice")
    if len(different) > MOST_STRENGTHS:
        raise ValueError(f"has {len(different)} strengths, {MOST_STRENGTHS} are the most")
    return different if len(different) > 1 else different[0]


MOST_STRENGTHS = 100
Strengths = Annotated[float | tuple[float, ...], BeforeValidator(_strengths)]
ColumnNames = Annotated[tuple[str, ...], BeforeValidator(_names)]
ImageSize = Annotated[tuple[int, int] | None, BeforeValidator(_height_and_width)]


@dataclass(frozen=True)
class Choices:
    """The words that a setting takes, looked up when they are asked for; the command line offers them."""

    words: Callable[[], tuple[str, ...]]

    def check(self, value: str) -> str:
        """Return `value`; raises `ValueError` where it is none of the words."""
        if value not in self.words():
            close = difflib.get_close_matches(value, self.words(), n=1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"must be one of {', '.join(self.words())}{hint}")
        return value


class OptimizerChoices(Choices):
    """Names of optimizers, and besides the words listed anything of the form `package.module:Class`, with arguments."""

    def check(self, value: str) -> str:
        """Return `value`; raises `ValueError` where it is neither, or its arguments cannot be read."""
        if value in self.words():
            return value
        name, _ = split_arguments(value)
        if name in OPTIMIZERS:
            return value
        try:
            return super().check(name)
        except ValueError as error:
            raise ValueError(f"{error}, or package.module:Class") from None


_OPTIMIZER = OptimizerChoices(lambda: OPTIMIZERS.names)
_WARMUP = OptimizerChoices(lambda: ("none", *OPTIMIZERS.names))
OptimizerName = Annotated[str, AfterValidator(_OPTIMIZER.check), _OPTIMIZER]
WarmupName = Annotated[str, AfterValidator(_WARMUP.check), _WARMUP]
