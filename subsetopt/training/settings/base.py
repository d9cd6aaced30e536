"""What all settings share: unknown names, switches for numbers and what is not finite are refused; former names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from subsetopt.errors import FORMER_NAMES, SettingsConflictError, setting
from subsetopt.training.settings.declaration import old_names


def _not_finite(table: Mapping[Any, Any]) -> Any:
    """Return the first key under which a number is NaN or infinite, None where all are finite."""
    return next((key for key, value in table.items() if not _all_finite(value, 8)), None)


def _all_finite(value: Any, depth: int) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, (Mapping, list, tuple)):
        items = value.values() if isinstance(value, Mapping) else value
        return depth > 0 and all(_all_finite(item, depth - 1) for item in items)
    return True


class Settings(BaseModel):
    """Settings that refuse unknown names, numbers that are not finite, and switches for numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Enter former names, by which messages call a setting that was typed so."""
        FORMER_NAMES.update({present: former for former, present in old_names(cls).items()})

    @model_validator(mode="before")
    @classmethod
    def _present_names(cls, given: Any) -> Any:
        """Take settings by the names that they had in former versions."""
        return present_names(cls, given)[0] if isinstance(given, Mapping) else given

    @field_validator("*", mode="after")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        """Refuse what pydantic does not look at: numbers in tables of a model's or a solver's settings."""
        if isinstance(value, Mapping) and (key := _not_finite(value)) is not None:
            raise ValueError(f"{key} = {value[key]} must hold finite numbers, and tables within tables at most 8 deep")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse True and False, also in a list, where pydantic would take them for 1 and 0."""
        values = value if isinstance(value, list | tuple) else (value,)
        switched = next((item for item in values if isinstance(item, bool)), None)
        if switched is not None and info.field_name and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"{switched} is no value of this setting")
        return value


def present_names(model: type[BaseModel], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return `given` with former names of settings replaced, and {present: former} for those that it had.

    Raises `SettingsConflictError` where a setting is given by both names.
    """
    former = {old: new for old, new in old_names(model).items() if old in given}
    for old, new in former.items():
        if new in given:
            raise SettingsConflictError(
                f"{setting(new, given[new])} and {setting(old, given[old])} are the same setting", f"leave {old} out"
            )
    return {former.get(name, name): value for name, value in given.items()}, {new: old for old, new in former.items()}
