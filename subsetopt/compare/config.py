"""The settings of a comparison, validated before any work: flags and TOML files end here.

A study file holds the study's own settings, the settings of a run that all methods share (data, model, l2, batch size)
and, as `[[method]]` tables, contenders that the short names cannot express.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from subsetopt.errors import SettingError, SettingsConflictError, command_help, on_command_line, setting, unknown_name
from subsetopt.study.seeds import MOST_SEEDS, SEEDS_EXAMPLE, read_seeds, seed_count
from subsetopt.training.phases.first_order.inline_arguments import split_list
from subsetopt.training.settings.declaration import declaration, declared, names_of
from subsetopt.training.settings.phase import Settings, present_names
from subsetopt.training.settings.run import RunConfig, make_config
from subsetopt.training.settings.values import problem_of

BudgetUnit = Literal["epochs", "seconds"]
DEFAULT_METHODS = ("lbfgs@0.1+full", "lbfgs@0.1+srs", "lbfgs", "adam", "sgd", "srs@0.1")

SHARED = names_of(RunConfig, owner="shared")
TuningSearch = Literal["rate", "l2"]
FIRST_TUNING_SEED = 1_000_000


def _searches(value: Any) -> Any:
    """Take `rate`, `rate,l2` or `none`, and lists of these words."""
    parts = value.split(",") if isinstance(value, str) else value
    words = (
        [part.strip() if isinstance(part, str) else "" for part in parts] if isinstance(parts, (list, tuple)) else [""]
    )
    if not words or words == ["none"]:
        return ()
    if len(set(words)) < len(words) or not {"rate"} <= set(words) <= {"rate", "l2"}:
        raise ValueError("must be rate, or rate,l2, or none")
    return ("rate", "l2")[: len(words)]


def _tuning_seeds(value: Any) -> Any:
    """Keep a number of seeds, check a list of them."""
    count = seed_count(value)
    return read_seeds(value) if count is None else count


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
    seeds: Annotated[tuple[int, ...], BeforeValidator(read_seeds)] = Field(
        (0, 1, 2, 3, 4),
        description="number of seeds, or which ones, e.g. 11-13 or 1,2,5-7",
        examples=[SEEDS_EXAMPLE],
        json_schema_extra=declared("Run", metavar="N|LIST"),
    )
    tune: Annotated[tuple[TuningSearch, ...], BeforeValidator(_searches)] = Field(
        ("rate",),
        description="search on validation data for every method: rate (its learning rate, else its own setting), or "
        "rate,l2 (the strength of its regularisation beside it)",
        examples=["rate,l2"],
    )
    tuning_seeds: Annotated[int | tuple[int, ...], BeforeValidator(_tuning_seeds)] = Field(
        1,
        description="seeds for tuning, apart from the others: so many for each seed of the comparison, or their list",
        examples=[1],
        json_schema_extra=declared("Run", metavar="N|LIST"),
    )
    max_extensions: int = Field(
        4, ge=0, le=100, description="trials of every search after its grid of three values per setting", examples=[4]
    )
    baseline: str | None = Field(
        None,
        description="test all others against this method alone, instead of all pairs",
        examples=["adam"],
    )
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
        (),
        description="held-out losses to reach [default: the median method's at each budget]",
        examples=["0.2,0.1"],
        json_schema_extra=declared("Run", metavar="X[,X]"),
    )

    @model_validator(mode="before")
    @classmethod
    def _switched(cls, given: Any) -> Any:
        """Take `tune` as a switch too, which it was: on is the search of the rate alone."""
        if isinstance(given, Mapping) and isinstance(given.get("tune"), bool):
            return {**given, "tune": "rate" if given["tune"] else "none"}
        return given

    @field_validator("methods", "budget", "target", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Take `a,b`, a list, or a single number."""
        if isinstance(value, str):
            return tuple(split_list(value))
        return value if isinstance(value, (list, tuple)) else (value,)

    @field_validator("target", mode="before")
    @classmethod
    def _no_column(cls, value: Any) -> Any:
        """Refuse the name of a column, which `target` means in a training run."""
        for word in value.split(",") if isinstance(value, str) else ():
            try:
                float(word or "0")
            except ValueError:
                raise ValueError(
                    f"held-out losses are asked for; the column of a table to predict is "
                    f"{setting('target_column', value)}"
                ) from None
        return value

    @field_validator("budget", "target")
    @classmethod
    def _positive(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        """Refuse what is no cost and no loss, what is there twice, and a study without a budget."""
        if any(value <= 0 for value in values):
            raise ValueError("must be above 0")
        if len(set(values)) < len(values):
            raise ValueError("has a value twice")
        if not values and info.field_name == "budget":
            raise ValueError("is empty")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.methods and not self.method:
            raise SettingError("methods", "", "is empty", "for example lbfgs@0.1+srs,adam")
        if self.tune:
            self._check_tuning_seeds()
        return self

    def _check_tuning_seeds(self) -> None:
        if isinstance(self.tuning_seeds, tuple) and len(self.tuning_seeds) % len(self.seeds):
            raise ValueError(
                f"{setting('tuning_seeds')} lists {len(self.tuning_seeds)} for {len(self.seeds)} seeds; each of these "
                "is tuned on seeds of its own, else the tests miss the luck of tuning: list as many, or a multiple, or "
                f"give how many for each, {setting('tuning_seeds', 1)}"
            )
        used = {seed for own in self.seeds for seed in self.seeds_to_tune_on(own)}
        if common := sorted(used.intersection(self.seeds)):
            raise ValueError(
                f"{setting('tuning_seeds')} and {setting('seeds')} overlap in {common[0]}; tune on seeds of their own, "
                "not on what is compared"
            )

    @property
    def trials(self) -> int:
        """The number of trials of every search: a grid of three values per setting, and what is added to it."""
        grid: int = 3 ** len(self.tune)
        return grid + self.max_extensions

    def seeds_to_tune_on(self, seed: int) -> tuple[int, ...]:
        """Return the seeds of the search that is made for `seed` of the comparison; no other search has them."""
        if not isinstance(self.tuning_seeds, tuple):
            first = FIRST_TUNING_SEED + MOST_SEEDS * seed
            return tuple(range(first, first + self.tuning_seeds))
        place = self.seeds.index(seed)
        share = len(self.tuning_seeds) // len(self.seeds)
        return self.tuning_seeds[share * place : share * (place + 1)]


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
        # A study's own settings go by their names, were one the former name of a run's.
        study = {key: value for key, value in given_layer.items() if key in StudyConfig.model_fields}
        layer, _ = present_names(RunConfig, {key: given_layer[key] for key in given_layer if key not in study})
        layer |= study
        for key in layer:
            if key not in StudyConfig.model_fields and key not in SHARED:
                raise _misplaced(key, layer[key])
        merged.update(layer)
    own = {key: value for key, value in merged.items() if key in StudyConfig.model_fields}
    shared = make_config({key: value for key, value in merged.items() if key in SHARED})
    if len(shared.strengths) > 1:
        remedy = f"give one, or let every method tune its own by {setting('tune', 'rate,l2')}"
        raise SettingError("l2", list(shared.strengths), "are several strengths, and a comparison needs one", remedy)
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
        return SettingsConflictError(str(error), _explained())
    first = error.errors(include_url=False)[0]
    problem = problem_of(first)
    if not first["loc"]:
        return SettingsConflictError(problem, _explained())
    name = str(first["loc"][0])
    examples = StudyConfig.model_fields[name].examples
    remedy = f"for example {examples[0]}" if examples else _explained()
    return SettingError(name, given.get(name, first.get("input")), problem, remedy)


def _explained() -> str:
    return f"see {command_help()}" if on_command_line() else ""
