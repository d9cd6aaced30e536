"""The settings of a run, validated before any work: flags, TOML files and Python keywords all end here.

`fields.py` and `phase.py` declare them. This file imports neither torch nor any solver, so that `subsetopt train
--help` stays instant.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError, model_validator

from subsetopt.errors import SettingError, SettingsConflictError, command_help, on_command_line, setting, unknown_name
from subsetopt.files import reason
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.settings.declaration import prefixed
from subsetopt.training.settings.fields import RunFields
from subsetopt.training.settings.growth import MOST_STAGES, stage_count
from subsetopt.training.settings.phase import PhaseConfig, Settings, present_names
from subsetopt.training.settings.planning import planned_phases
from subsetopt.training.settings.values import problem_of

LIMITS = ("max_iterations", "max_epochs", "max_seconds", "solver_epochs", "handoff_epochs")
"""Settings that a resumed run may have larger than before."""

DRAW_SETTINGS = ("draw_share", "draw_evaluations", "draw_uniform", "draw_start")
FORMER_DEFAULTS = {"draw_evaluations": 12}  # config.toml of earlier versions has them in every run

if TYPE_CHECKING:

    class _Prefixed(Settings):
        """Settings that `PhaseConfig` declares, by their names in a run."""
else:
    _Prefixed = prefixed(PhaseConfig, Settings)


class RunConfig(_Prefixed, RunFields):
    """All settings of one training run."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.subset_frac is not None and self.subset_size is not None:
            raise ValueError(f"give {setting('subset_frac')} or {setting('subset_size')}, not both")
        stops = {"stop_at": self.stop_at, "handoff_stop_at": self.handoff_stop_at}
        held_out = [name for name, stop in stops.items() if stop == "validation"]
        if self.grow is not None and self.grow_stop == "validation":
            held_out.append("grow_stop")
        if held_out and self.validation_fraction == 0:
            raise ValueError(f"{setting(held_out[0], 'validation')} needs held-out data; {_more_held_out()}")
        self._check_strategy()
        if self.track_validation is not None and self.validation_fraction == 0:
            raise ValueError(f"{setting('track_validation')} needs held-out data; {_more_held_out()}")
        if self.solver == "none" and self.handoff == "none" and self.warmup == "none" and not self.phase:
            raise ValueError("solver, warmup and handoff are all 'none': nothing would be trained")
        if len(self.strengths) > 1:
            self._check_path()
        if self.handoff == "none" and self.handoff_args:
            raise ValueError(
                f"{setting('handoff_args', self.handoff_args)} has no use with {setting('handoff', 'none')}; "
                "leave one of them out"
            )
        return self

    def _check_strategy(self) -> None:
        """Refuse what contradicts growing subsets, or several of them, or draws by residual."""
        self._check_draw()
        strategy = "grow" if self.grow is not None else "subsets" if self.subsets > 1 else None
        if strategy is not None and (self.solver == "none" or self.solver in METHODS):
            raise ValueError(
                f"{setting(strategy)} needs a full-batch solver, such as {setting('solver', 'lbfgs')}, "
                f"not {setting('solver', self.solver)}"
            )
        if self.grow is not None and self.subsets > 1:
            raise ValueError(
                f"{setting('grow', self.grow)} and {setting('subsets', self.subsets)} exclude each other; "
                "give one of them"
            )
        if self.grow is not None and self.subset_size is not None:
            raise ValueError(
                f"{setting('grow')} counts in shares of the data; "
                f"give {setting('subset_frac')} instead of {setting('subset_size')}"
            )
        end = self.subset_frac or 1.0
        if self.grow is not None and self.grow_start >= end:
            raise ValueError(
                f"{setting('grow_start', self.grow_start)} leaves nothing to grow to; "
                f"use less than {end:g}, the share at the end"
            )
        if self.grow is not None and (stages := stage_count(self.grow_start, self.grow, end)) > MOST_STAGES:
            least = float(f"{max(1.05, (end / self.grow_start) ** (1 / 20)):.3g}")
            raise ValueError(
                f"{setting('grow', self.grow)} makes {stages:.3g} stages from "
                f"{setting('grow_start', self.grow_start)}, over {MOST_STAGES}; use {setting('grow', least)} or more"
            )
        if self.grow is not None and self.grow_stop == "cost" and self.grow_epochs is None:
            raise ValueError(
                f"{setting('grow_stop', 'cost')} needs the cost of each stage, "
                f"for example {setting('grow_epochs', 0.5)}"
            )
        if self.subsets > 1 and self.subsets * (share := self.subset_share) > 1 + 1e-9:
            raise ValueError(
                f"{setting('subsets', self.subsets)}: disjoint subsets of {share:g} of the data each do not fit; "
                f"use {setting('subset_frac', float(f'{1 / self.subsets:.3g}'))} or less"
            )
        if self.subsets > 1 and self.subsets_select == "validation" and self.validation_fraction == 0:
            raise ValueError(f"{setting('subsets_select', 'validation')} needs held-out data; {_more_held_out()}")

    def _check_path(self) -> None:
        """Refuse what contradicts several L2 strengths, of which held-out data choose one."""
        given = setting("l2", ",".join(f"{strength:g}" for strength in self.strengths))
        if self.phase:
            raise ValueError(f"{given} is a path of solves, and the phases are listed; give one strength")
        if self.solver == "none" or self.solver in METHODS:
            raise ValueError(
                f"{given} needs a full-batch solver, such as {setting('solver', 'lbfgs')}, "
                f"not {setting('solver', self.solver)}"
            )
        plans = {
            "grow": self.grow is not None,
            "subsets": self.subsets > 1,
            "subset_draw": self.subset_draw != "uniform",
        }
        other = next((name for name, asked in plans.items() if asked), None)
        if other is not None:
            raise ValueError(f"{given} and {setting(other, getattr(self, other))} exclude each other; give one of them")

    def _check_draw(self) -> None:
        """Refuse what contradicts samples drawn by their residuals."""
        drawn = {name: getattr(self, name) for name in DRAW_SETTINGS}
        if self.subset_draw == "uniform":
            unchanged = {name: (RunFields.model_fields[name].default, FORMER_DEFAULTS.get(name)) for name in drawn}
            changed = [name for name, value in drawn.items() if value not in unchanged[name]]
            if changed:
                given, needed = setting(changed[0], drawn[changed[0]]), setting("subset_draw", "residual")
                raise ValueError(f"{given} has no use without {needed}; give both or neither")
            return
        draw = setting("subset_draw", self.subset_draw)
        if self.solver == "none" or self.solver in METHODS:
            raise ValueError(
                f"{draw} needs a full-batch solver, such as {setting('solver', 'lbfgs')}, "
                f"not {setting('solver', self.solver)}"
            )
        others = {"subset_frac": None, "subset_size": None, "grow": None, "subsets": 1, "augment_copies": 0}
        for name, plain in others.items():
            if (value := getattr(self, name)) != plain:
                remedy = f"use {setting('draw_share')} instead" if name.startswith("subset_") else "give one of them"
                raise ValueError(
                    f"{setting(name, value)} and {draw}, which draws from all data, exclude each other; {remedy}"
                )
        if self.warmup != "none" and self.draw_start != RunFields.model_fields["draw_start"].default:
            raise ValueError(
                f"{setting('draw_start', self.draw_start)} and {setting('warmup', self.warmup)} are both a start; "
                "leave one of them out"
            )
        if self.stop_at == "noise":
            raise ValueError(
                f"{setting('stop_at', 'noise')} does not go with {draw}; use {setting('stop_at', 'minimum')}"
            )

    def phases(self) -> tuple[PhaseConfig, ...]:
        """Return the list of phases that this configuration means."""
        if self.phase:
            return self.phase
        return planned_phases(self)


def _more_held_out() -> str:
    return f"set {setting('validation_fraction')} above 0"


def make_config(*layers: Mapping[str, Any]) -> RunConfig:
    """Validate settings, later layers overriding earlier ones; raises `SettingError` in one line."""
    merged: dict[str, Any] = {}
    typed: dict[str, str] = {}
    for given in layers:
        layer, former = present_names(RunConfig, given)
        for key in layer:
            if key not in RunConfig.model_fields:
                raise unknown_name("setting", key, RunConfig.model_fields)
        typed = {name: old for name, old in typed.items() if name not in layer} | former
        if layer.get("subset_size") is not None and layer.get("subset_frac") is None:
            merged.pop("subset_frac", None)
        if layer.get("subset_frac") is not None and layer.get("subset_size") is None:
            merged.pop("subset_size", None)
        merged.update(layer)
    try:
        config = RunConfig(**merged)
        config.phases()  # a flag may be wrong only in the phase that it makes
        return config
    except ValidationError as error:
        raise _one_line(error, merged, typed) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML configuration; raises `SettingError` when it is missing or malformed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows begin a file with a mark
    except FileNotFoundError:
        raise SettingError("config", str(path), "no such file", _presets()) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError("config", str(path), f"cannot be read as TOML ({reason(error)})", "mend the file") from None


def _one_line(error: ValidationError, given: Mapping[str, Any], typed: Mapping[str, str]) -> SettingError:
    first = error.errors(include_url=False)[0]
    problem = problem_of(first)
    location = [str(part) for part in first["loc"]]
    if not location:
        return SettingsConflictError(problem, _explained())
    fields = PhaseConfig.model_fields if location[0] == "phase" else RunConfig.model_fields
    name = next((part for part in reversed(location) if part in fields), location[0])
    field = fields.get(name)
    remedy = f"for example {field.examples[0]!r}" if field and field.examples else _explained(name, first["type"])
    if first["type"] == "extra_forbidden":
        return unknown_name("setting", location[-1], fields)
    location = location[: 1 + max(place for place, part in enumerate(location) if part == name)]  # no words of a union
    location[0] = typed.get(location[0], location[0])
    return SettingError(".".join(location), first.get("input", given.get(name)), problem, remedy)


def _explained(name: str = "", error_type: str = "") -> str:
    """Return where a setting is explained on the command line; in Python the words of the error are the choices."""
    if on_command_line():
        return f"see {command_help()}"
    if name == "loss":
        return "or give a loss of torch.nn, such as loss=torch.nn.HuberLoss()"
    field = RunConfig.model_fields.get(name)
    return "" if field is None or error_type == "literal_error" else f"it means: {field.description}"


def _presets() -> str:
    return "see `subsetopt list presets` for those shipped" if on_command_line() else "give the path of a TOML file"
