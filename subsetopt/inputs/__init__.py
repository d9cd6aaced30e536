"""The inputs of samples: one tensor or several, in memory or read row by row, and how a model is called with them."""

from subsetopt.inputs.calling import (
    TRIED,
    Arguments,
    Style,
    arguments_of,
    called,
    describe,
    fitted_to,
    style_of,
    takes_tensor,
)
from subsetopt.inputs.parts import Inputs, Parts, copied_into
from subsetopt.inputs.rows import Given, LazyRows, Stored, as_inputs, cut, each_part, joined, part_of, taken, version_of

__all__ = [
    "TRIED",
    "Arguments",
    "Given",
    "Inputs",
    "LazyRows",
    "Parts",
    "Stored",
    "Style",
    "arguments_of",
    "as_inputs",
    "called",
    "copied_into",
    "cut",
    "describe",
    "each_part",
    "fitted_to",
    "joined",
    "part_of",
    "style_of",
    "taken",
    "takes_tensor",
    "version_of",
]
