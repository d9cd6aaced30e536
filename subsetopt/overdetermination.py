"""The overdetermination ratio Q = K·M/P: how many equations a subset sets for each trainable parameter.

K samples with M outputs each set K·M equations for P parameters. For linear least squares with noise variance σ² the
ratio has an exact law (Spörer et al. 2024, arXiv 2410.16523; textbook regression theory): the minimiser's expected
training MSE is σ²(1 - 1/Q) and, for Gaussian inputs, its expected test MSE is σ²(1 + P/(K - P - 1)) per output, which
is σ²(1 + 1/Q) to first order. With M outputs each one has its own P/M parameters, so Q is K over parameters per output.
Softmax classification does not follow that law; `verdict` says what was measured instead.

Importing this module does not import torch.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, SupportsIndex, cast

from subsetopt.errors import ModelError, SettingError, unknown_name

if TYPE_CHECKING:
    from torch import nn

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# Regression: below 2 the law predicts more than twice the attainable loss. Classification: below 1, where the data
# alone no longer determine the minimum; no higher, as Q alone does not decide: at Q = 2 the minimum of a subset has 1.2
# times the full one's objective on digits and 1.8 times on MNIST (reports/representativeness-*).
WARN_BELOW = {"regression": 2.0, "classification": 1.0}


@dataclass(frozen=True)
class Overdetermination:
    """P trainable `parameters`, K `samples`, M `outputs` per sample, and `ratio` = K·M/P."""

    parameters: int
    samples: int
    outputs: int
    ratio: float

    @property
    def equations(self) -> int:
        """K·M, the number of scalar equations that the samples set."""
        return self.samples * self.outputs


@dataclass(frozen=True)
class FractionRow:
    """One row of a table over subset fractions; `relative_excess` is None where Q <= 1 and the law does not hold."""

    fraction: float
    samples: int
    ratio: float
    relative_excess: float | None


def overdetermination_ratio(model: nn.Module | int, samples: int, outputs: int) -> Overdetermination:
    """Return the overdetermination of `model` (or of P parameters) by K `samples` with M `outputs` each.

    Raises `SettingError` where a count is not a whole number of at least 1, and `ModelError` where the model has no
    trainable parameters or some that are not initialised yet.
    """
    if isinstance(model, type):
        raise SettingError("model", model, "is a class", f"give an instance, such as {model.__name__}(...)")
    if hasattr(model, "named_parameters"):
        parameters = count_parameters(cast("nn.Module", model))
        if parameters == 0:
            raise ModelError("the model has no trainable parameters, so there is nothing to determine; unfreeze some")
    else:
        parameters = _count("parameters", model)
    samples, outputs = _count("samples", samples), _count("outputs", outputs)
    return Overdetermination(parameters, samples, outputs, float(Fraction(samples * outputs, parameters)))


def count_parameters(model: nn.Module) -> int:
    """Return P, the number of real trainable parameters: a shared one once, frozen ones never, a complex one as two.

    Raises `ModelError` for lazy parameters without a shape.
    """
    from torch.nn.parameter import is_lazy

    total = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if is_lazy(parameter):
            raise ModelError(f"parameter {name!r} has no shape yet; run one batch through the lazy model first")
        total += parameter.numel() * (2 if parameter.is_complex() else 1)
    return total


def samples_for_ratio(parameters: int, outputs: int, target: float | str | Fraction | Decimal) -> int:
    """Return the smallest K with K·M/P >= `target`, in exact arithmetic; a float means the decimal it prints as."""
    parameters, outputs = _count("parameters", parameters), _count("outputs", outputs)
    return math.ceil(_exact_ratio(target) * parameters / outputs)


def relative_excess(ratio: float) -> float:
    """Return 1/(Q - 1), the excess of the test over the attainable squared loss at a least-squares subset minimum.

    The law P/(K - P - 1) for large K: 1 (twofold loss) at Q = 2, 0.1 at Q = 11, 0.01 at Q = 101. Raises `SettingError`
    for Q <= 1, where the minimum is not determined.
    """
    return 1 / (_determined(ratio) - 1)


def fraction_table(
    parameters: int, outputs: int, samples_full: int, fractions: Iterable[float] = FRACTIONS
) -> tuple[FractionRow, ...]:
    """Return Q and the excess predicted for squared loss over subset fractions; a subset has at least one sample."""
    total = _count("samples", samples_full)
    rows = []
    for fraction in fractions:
        share = _exact_ratio(fraction, "fraction")
        if share > 1:
            raise SettingError("fraction", fraction, "must lie in (0, 1]", "try 0.1")
        over = overdetermination_ratio(parameters, max(1, round(float(share) * total)), outputs)
        excess = relative_excess(over.ratio) if over.ratio > 1 else None
        rows.append(FractionRow(float(share), over.samples, over.ratio, excess))
    return tuple(rows)


def verdict(over: Overdetermination, over_full: Overdetermination | None = None, task: str = "classification") -> str:
    """Return what Q says about the subset minimum, in words: the law for regression, measurements for classification.

    `over_full` is the overdetermination of the full training set. Raises `SettingError` for an unknown task.
    """
    _check_task(task)
    full = "" if over_full is None else f" (Q = {_figure(over_full.ratio)} on the full set)"
    if over.ratio > 1:
        position = f"Q = {_figure(over.ratio)}{full}: the subset sets more equations than there are parameters."
    else:
        how_many = "exactly as many equations as" if over.ratio == 1 else "fewer equations than"
        position = (
            f"Q = {_figure(over.ratio)}{full}: the subset sets {how_many} there are parameters, so a flexible model "
            "can fit it exactly and, without an L2 term, its minimum is not determined."
        )
    return f"{position} {_outlook(over, task)}"


def warning(over: Overdetermination, task: str = "classification") -> str | None:
    """Return one line of warning where Q is below `WARN_BELOW` of the task, else None."""
    _check_task(task)
    threshold = WARN_BELOW[task]
    if over.ratio >= threshold:
        return None
    problem = (
        "the subset sets fewer equations than there are parameters and may be fitted exactly"
        if over.ratio < 1
        else "for squared loss that predicts more than twice the attainable loss at the subset minimum"
    )
    needed = samples_for_ratio(over.parameters, over.outputs, threshold)
    return f"Q = {_figure(over.ratio)}: {problem}; Q = {threshold:g} takes {needed} samples, or use a smaller model"


_CLASSIFICATION = (
    "For classification Q alone does not decide; the number of samples and the L2 strength do. "
    "`subsetopt ratio --effective RUN` measures the ratio that counts at a run's minimum."
)


def _outlook(over: Overdetermination, task: str) -> str:
    if task == "classification":
        return _CLASSIFICATION
    if over.ratio <= 1:
        return (
            "The least-squares law (excess loss 1/(Q - 1)) begins above Q = 1: 100 % at Q = 2, 10 % at 11, 1 % at 101."
        )
    return (
        "For linear least squares the loss at the subset minimum is expected to exceed the attainable one by "
        f"1/(Q - 1) = {100 * relative_excess(over.ratio):.3g} % (100 % at Q = 2, 10 % at 11, 1 % at 101); "
        "for a nonlinear or regularised model this is a guide, not a law."
    )


def _figure(ratio: float) -> str:
    """Three digits, but never a rounded 1 for a ratio that is not 1."""
    short = f"{ratio:.3g}"
    return repr(ratio) if float(short) == 1 and ratio != 1 else short


def _check_task(task: str) -> None:
    if task not in WARN_BELOW:
        raise unknown_name("task", str(task), WARN_BELOW)


def _count(setting: str, value: object) -> int:
    """Return a whole number of at least 1, whichever integer type it comes in."""
    problem = "is not a whole number"
    if not isinstance(value, bool):
        try:
            number = operator.index(cast(SupportsIndex, value))  # a TypeError is the answer for any other type
        except TypeError:
            pass
        else:
            if number >= 1:
                return number
            problem = "is less than 1"
    raise SettingError(setting, value, problem, "give a whole number of at least 1")


def _exact_ratio(value: object, setting: str = "target") -> Fraction:
    """Return a positive finite number exactly; 0.1 means a tenth, not the binary fraction nearest to it."""
    try:
        exact = Fraction(value if isinstance(value, Fraction) else str(value))
    except (ValueError, ZeroDivisionError):  # "nan", "inf", "abc", "1/0"
        raise SettingError(setting, value, "is not a finite number", "give a number above 0") from None
    if exact <= 0:
        raise SettingError(setting, value, "must be above 0", "try 2" if setting == "target" else "try 0.1")
    return exact


def _determined(ratio: float) -> float:
    if not math.isfinite(ratio) or ratio <= 1:
        raise SettingError("ratio", ratio, "the least-squares law holds only above 1", "use more samples")
    return ratio
