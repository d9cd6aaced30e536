"""The names of methods in a study, e.g. `lbfgs@0.1+srs`, and the settings of a run that each one means.

    SOLVER                       the solver on the full training set
    SOLVER@SHARE                 its minimum on a random subset, and nothing after it
    STREAM[+HANDOFF]             a strategy on fresh mini-batches, e.g. kfac-stream; `+full` is L-BFGS on the full set
    SOLVER@STARTxFACTOR          the solver on subsets growing from START by FACTOR to the full set, e.g. lbfgs@0.01x2
    SOLVER@residual              the solver on samples drawn by their residuals, then on all, e.g. lbfgs@residual
    SOLVER@...+HANDOFF           any of these, then full (the same solver), another solver, or first-order training
    OPTIMIZER (sgd, adam, ...)   first-order training on all samples; also package.module:Class, either with arguments
                                 in parentheses: soap(precondition_frequency=20), torch.optim:SGD(momentum=0.8)
    OPTIMIZER?                   left out, with a warning, where the package that has it is not installed
    SAMPLER[@FRACTION][/OPTIMIZER]   first-order training on what a sampler proposes; the optimizer is sgd by default

A hand-off is one of `full`, SOLVER, STREAM, OPTIMIZER, and SAMPLER[@FRACTION][/OPTIMIZER].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from subsetopt.errors import SettingError, unknown_name
from subsetopt.logs import left_out
from subsetopt.samplers import SAMPLERS
from subsetopt.samplers.factory import default_settings
from subsetopt.solvers import SOLVERS
from subsetopt.training.phases.first_order.inline_arguments import split_at
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.first_order.setup import learning_rate
from subsetopt.training.phases.methods import METHODS, is_stream
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.run import RunConfig

_LOG = left_out()
EXAMPLES = "for example lbfgs@0.1+srs, lbfgs, adam or srs@0.1"


@dataclass(frozen=True)
class Method:
    """One contender: its name, the settings of a run that it means, and its share of the budget for subset solves.

    `solve_share` None takes the study's own.
    """

    name: str
    settings: Mapping[str, Any]
    solve_share: float | None = None


def parse_method(text: str) -> Method:
    """Return the method that `text` names; raises `SettingError` in one line where it names none."""
    text = text.strip()
    head, plus, handoff = split_at(text, "+")
    name = _name(head)
    if is_stream(head):
        return Method(text, {"solver": head, **({"handoff": "none"} if not plus else _handoff_settings(text, handoff))})
    if is_stream(name):
        raise SettingError("methods", text, f"{name} takes fresh subsets of all samples, no share", f"use {name}")
    if name in SOLVERS or name in METHODS:
        return Method(text, _solver_settings(text, head, handoff if plus else None))
    if plus and (name in OPTIMIZERS or name in SAMPLERS):
        raise SettingError("methods", text, f"{name} is no solver and hands nothing over", EXAMPLES)
    if name not in OPTIMIZERS and name not in SAMPLERS:
        raise unknown_name("methods", name, _known())
    return Method(text, {"solver": "none", **_first_order_settings(text, head)})


def parse_methods(names: Iterable[str]) -> list[Method]:
    """Return the methods that `names` name, without those with a `?` behind them whose package is not installed."""
    found = []
    for name in names:
        if name.endswith("?") and _missing(name[:-1]):
            _LOG.warning(f"method {name[:-1]} is left out: pip install 'subsetopt[optimizers]' adds it")
            continue
        found.append(parse_method(name.removesuffix("?")))
    return found


def _missing(optimizer: str) -> bool:
    """Tell whether `optimizer` is one whose package is not installed."""
    target = OPTIMIZERS.get(optimizer) if optimizer in OPTIMIZERS else None
    path = getattr(target, "path", None)
    return path is not None and find_spec(path.partition(":")[0].partition(".")[0]) is None


def describe(config: RunConfig) -> str:
    """Return in words what a run does, phase by phase."""
    phases = config.phases()
    text = ", then ".join(_phase_words(phase, config) for phase in phases if phase.role != "grow")
    return text[0].upper() + text[1:]


def _solver_settings(text: str, head: str, handoff: str | None) -> dict[str, Any]:
    if "/" in head:
        raise SettingError("methods", text, "an optimizer after / belongs to a sampler", EXAMPLES)
    solver, at, share = head.partition("@")
    if not at:
        if handoff is not None:
            raise SettingError("methods", text, "the solver's share of the data is missing", f"{solver}@0.1+{handoff}")
        return {"solver": "none", "handoff": "full", "handoff_solver": solver}
    drawn = share == "residual"
    share, grows, factor = share.partition("x")
    settings: dict[str, Any] = {"solver": solver}
    if drawn:
        settings["subset_draw"] = "residual"
    elif grows:
        settings |= {"grow_start": _share(text, share), "grow": _number(text, factor, "x")}
    else:
        settings["subset_frac"] = _share(text, share)
    return {**settings, **({"handoff": "none"} if handoff is None else _handoff_settings(text, handoff))}


def _handoff_settings(text: str, handoff: str) -> dict[str, Any]:
    if handoff == "full":
        return {"handoff": "full"}
    if handoff in SOLVERS or handoff in METHODS:
        return {"handoff": "full", "handoff_solver": handoff}
    name = _name(handoff)
    if name not in OPTIMIZERS and name not in SAMPLERS:
        raise _in_method(text, unknown_name("hand-off", name, ["full", *_known()]))
    return _first_order_settings(text, handoff)


def _first_order_settings(text: str, part: str) -> dict[str, Any]:
    """Read OPTIMIZER or SAMPLER[@FRACTION][/OPTIMIZER]."""
    left, slash, optimizer = split_at(part, "/")
    name, at, fraction = split_at(left, "@")
    for each in (name, optimizer):
        if each in OPTIMIZERS:
            _check_optimizer(text, each)
    if name in OPTIMIZERS:
        if at or slash:
            raise SettingError("methods", text, f"{name} takes all samples", f"for a share of them rs2@0.1/{name}")
        return {"handoff": name}
    if name == "full":
        raise SettingError("methods", text, "all samples need no sampler", f"use {optimizer or 'sgd'}")
    if slash and optimizer not in OPTIMIZERS:
        raise _in_method(text, OPTIMIZERS.unknown(optimizer))
    settings: dict[str, Any] = {"handoff": name, "handoff_optimizer": optimizer or "sgd"}
    if at:
        if "fraction" not in default_settings(name):
            raise SettingError("methods", text, f"sampler {name} has no fraction", f"use {name}")
        settings["handoff_args"] = {"fraction": _share(text, fraction)}
    return settings


def _name(part: str) -> str:
    """Return what a part begins with, an optimizer's arguments with it."""
    return split_at(split_at(part, "/")[0], "@")[0]


def _check_optimizer(text: str, optimizer: str) -> None:
    """Raise `SettingError` where an optimizer's arguments cannot be read, or its package is not there."""
    try:
        phase = PhaseConfig(method=optimizer, epochs=1)
    except ValidationError as error:
        problem = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
        raise SettingError("methods", text, problem, EXAMPLES) from None
    try:
        method = OPTIMIZERS.get(optimizer)
        learning_rate(phase, "methods")
        method.arguments(phase, "methods")
    except SettingError as error:
        raise _in_method(text, error) from None


def _in_method(text: str, error: SettingError) -> SettingError:
    """Return an error in a part of the method `text`, by the method's name."""
    if error.setting == "methods":
        return error
    return SettingError("methods", text, f"{error.setting} = {error.value!r}: {error.problem}", error.remedy)


def _share(text: str, value: str) -> float:
    share = _number(text, value, "@")
    if not 0 < share <= 1:
        raise SettingError("methods", text, f"the share {value} does not lie in (0, 1]", EXAMPLES)
    return share


def _number(text: str, value: str, after: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise SettingError("methods", text, f"{value!r} after {after} is not a number", EXAMPLES) from None


def _known() -> list[str]:
    return [*OPTIMIZERS.names, *METHODS.names, *(entry.name for entry in SOLVERS), *(entry.name for entry in SAMPLERS)]


def _phase_words(phase: PhaseConfig, config: RunConfig) -> str:
    data = "the full training set" if phase.data == "full" else _subset_words(config)
    if phase.streaming:
        return f"{phase.method} on fresh subsets of {data}"
    if phase.draw == "residual":
        return f"{phase.method} on samples drawn by their residuals, then on {data}"
    if phase.role == "solve" and config.grow is not None:
        data = f"subsets growing from {100 * config.grow_start:g} % by a factor of {config.grow:g} to {data}"
    if phase.subsets > 1:
        how = {"average": "each solved, their average", "best": "each solved, the best", "together": "solved as one"}
        data = f"{phase.subsets} disjoint subsets like {data} ({how[phase.subsets_then]})"
    if not phase.first_order:
        return f"{phase.method} on {data}"
    if phase.sampler == "full":
        return f"{phase.method} on {data}"
    fraction = {**default_settings(phase.sampler), **phase.sampler_settings}.get("fraction")
    detail = "" if fraction is None else f" (fraction {fraction:g})"
    return f"{phase.method} on batches that {phase.sampler} draws from {data}{detail}"


def _subset_words(config: RunConfig) -> str:
    if config.subset_size is not None:
        return f"a random subset of {config.subset_size} samples"
    return f"a random subset of {100 * (config.subset_frac or 0.1):g} %"
