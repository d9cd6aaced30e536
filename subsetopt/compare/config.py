"""The settings of a comparison, validated before any work: flags and TOML files end here.

A study file holds the study's own settings, the settings of a run that all methods share (data, model, l2, batch size)
and, as `[[method]]` tables, contenders that the short names cannot express.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from subsetopt.errors import SettingError, SettingsConflictError, setting, unknown_name
from subsetopt.training.phases.first_order.inline_arguments import split_list
from subsetopt.training.settings.declaration import declaration, names_of
from subsetopt.training.settings.phase import Settings, present_names
from subsetopt.training.settings.run import RunConfig, make_config

BudgetUnit = Literal["epochs", "seconds"]
MOST_SEEDS = 1000
DEFAULT_METHODS = ("lbfgs@0.1+full", "lbfgs@0.1+srs", "lbfgs", "adam", "sgd", "srs@0.1")

SHARED = names_of(RunConfig, owner="shared")


class StudyConfig(Settings):
    """All settings of one comparison but those that its runs share."""

    title: str = Field("", description="heading of the report", examples=["Digits"])
    methods: tuple[str, ...] = Field(
        DEFAULT_METHODS,
        description="names with commas between, e.g. lbfgs@0.1+srs,adam,srs@0.1",
        examples=["lbfgs@0.1+srs,adam"],
    )
    method: tuple[dict[str, Any], ...] = Field((), description="further methods, as tables with a name")
    budget: tuple[float, ...] = Field((1.0, 3.0, 10.0), description="cost of a run at most", examples=["1,3,10"])
    budget_unit: BudgetUnit = Field(
        "epochs", description="epoch-equivalents, or wall-clock seconds (not reproducible)", examples=["epochs"]
    )
    seeds: tuple[int, ...] = Field(
        (0, 1, 2, 3, 4), description="number of seeds, or their list with commas", examples=["5"]
    )
    tuning_seeds: tuple[int, ...] = Field(
        (1_000_000,), description="number of seeds for tuning, apart from the others, or their list", examples=["1"]
    )
    tune: bool = Field(True, description="tune every method's learning rate, or its own setting, on validation data")
    max_extensions: int = Field(4, ge=0, le=100, description="values that a search may add to its three", examples=[4])
    solve_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the budget that a subset solve may take before a hand-off",
        examples=[0.5],
    )
    solve_stop_at: Literal["minimum", "noise", "validation"] = Field(
        "noise", description="what else ends a subset solve before a hand-off"
    )
    target: tuple[float, ...] = Field(
        (), description="held-out losses to reach [default: the median method's at each budget]", examples=["0.2,0.1"]
    )

    @field_validator("methods", "budget", "target", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Take `a,b`, a list, or a single number."""
        if isinstance(value, str):
            return tuple(split_list(value))
        return value if isinstance(value, (list, tuple)) else (value,)

    @field_validator("seeds", "tuning_seeds", mode="before")
    @classmethod
    def _counted(cls, value: Any, info: Any) -> Any:
        """Take a number n for n seeds, or a list."""
        if isinstance(value, str) and "," in value:
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, (list, tuple)):
            return value
        text = str(value)
        if not (text.isascii() and text.isdigit()) or not 1 <= (count := int(text[:20])) <= MOST_SEEDS:
            raise ValueError(f"must be a number of seeds, at least 1 and at most {MOST_SEEDS}, or their list")
        first = 0 if info.field_name == "seeds" else 1_000_000
        return tuple(range(first, first + count))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("budget", "target"):
            if any(value <= 0 for value in getattr(self, name)):
                raise ValueError(f"{name} must be above 0")
        if not self.budget:
            raise ValueError("budget is empty; for example 1,3,10")
        if not self.methods and not self.method:
            raise ValueError("methods is empty; for example lbfgs@0.1+srs,adam")
        for name in ("seeds", "tuning_seeds", "budget"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} has a value twice")
        if not self.seeds or (self.tune and not self.tuning_seeds):
            raise ValueError("seeds or tuning_seeds is empty; for example 5")
        if any(seed < 0 for seed in (*self.seeds, *self.tuning_seeds)):
            raise ValueError("seeds must not be negative")
        if self.tune and set(self.seeds) & set(self.tuning_seeds):
            raise ValueError("tuning_seeds and seeds overlap; tune on seeds of their own")
        return self


class ValidatedStudy(BaseModel):
    """A validated study: its own settings and those that all its runs share."""

    model_config = ConfigDict(frozen=True)

    config: StudyConfig
    shared: dict[str, Any]

    def to_toml(self) -> dict[str, Any]:
        """Return the flat content of `study.toml`; a study file again."""
        return {**self.shared, **self.config.model_dump(mode="json")}


def make_study(*layers: Mapping[str, Any]) -> ValidatedStudy:
    """Validate the settings of a study, later layers overriding earlier ones; raises `SettingError` in one line."""
    merged: dict[str, Any] = {}
    for given_layer in layers:
        layer, _ = present_names(RunConfig, given_layer)
        for key in layer:
            if key not in StudyConfig.model_fields and key not in SHARED:
                raise _misplaced(key, layer[key])
        merged.update(layer)
    own = {key: value for key, value in merged.items() if key in StudyConfig.model_fields}
    shared = make_config({key: value for key, value in merged.items() if key in SHARED})
    try:
        config = StudyConfig(**own)
    except (ValidationError, ValueError) as error:
        raise _one_line(error, own) from None
    if config.tune and shared.validation_fraction == 0:
        raise SettingError(
            "validation_fraction", 0, "tuning needs held-out data", f"set it above 0, or {setting('tune', False)}"
        )
    given = {key: value for key, value in shared.model_dump(mode="json").items() if key in merged or key == "dataset"}
    return ValidatedStudy(config=config, shared=given)


def table_settings(table: Mapping[str, Any]) -> tuple[str, float | None, dict[str, Any]]:
    """Split a `[[method]]` table into (name, solve_share, settings of a run); raises `SettingError`."""
    settings, _ = present_names(RunConfig, table)
    name, share = settings.pop("name", None), settings.pop("solve_share", None)
    if not isinstance(name, str) or not name.strip():
        raise SettingError("method", dict(table), "has no name", 'give it one: name = "mine"')
    if share is not None and not (isinstance(share, (int, float)) and 0 < share < 1):
        raise SettingError("solve_share", share, f"of method {name!r} does not lie in (0, 1)", "for example 0.5")
    for key in settings:
        if key in _of_study():
            raise SettingError(key, settings[key], f"method {name!r} cannot set it", "it is the study's")
    return name, share, settings


def _of_study() -> set[str]:
    """Return the settings that no method can have its own way."""
    return {*names_of(RunConfig, heading="Data"), *names_of(RunConfig, owner="study")} - {"phase"}


def _misplaced(key: str, value: Any) -> SettingError:
    if key not in RunConfig.model_fields:
        return unknown_name("setting", key, [*StudyConfig.model_fields, *SHARED])
    if declaration(RunConfig.model_fields[key]).owner == "method":
        return SettingError(key, value, "belongs to one method", f'write [[method]] with name = "mine", {key} = ...')
    return SettingError(
        key, value, "is set by the study itself", f"leave it out; see {setting('budget')} and {setting('seeds')}"
    )


def _one_line(error: ValueError, given: Mapping[str, Any]) -> SettingError:
    if not isinstance(error, ValidationError):
        return SettingsConflictError(str(error), "see `subsetopt compare --help`")
    first = error.errors(include_url=False)[0]
    problem = str(first["msg"]).removeprefix("Value error, ").replace("\n", " ")
    if not first["loc"]:
        return SettingsConflictError(problem, "see `subsetopt compare --help`")
    name = str(first["loc"][0])
    examples = StudyConfig.model_fields[name].examples
    remedy = f"for example {examples[0]}" if examples else "see `subsetopt compare --help`"
    return SettingError(name, given.get(name, first.get("input")), problem, remedy)
