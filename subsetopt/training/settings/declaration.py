"""Where a setting belongs, beside its type, default and range; read by planning, `compare`, command line and saving.

A setting is declared once, as a field whose `json_schema_extra` is `declared(...)`: one of a phase in `PhaseConfig`
(the run then has it under a prefix, such as `handoff_lr`), one of the whole run in `RunFields`. No other file lists it.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

Heading = Literal["Data", "Model", "Subset", "Solve", "Strategy", "Warm-up", "Hand-off", "Run"]
HEADINGS: tuple[Heading, ...] = get_args(Heading)
Owner = Literal["shared", "method", "study"]
Role = Literal["warmup", "stream", "grow", "drawn", "solve", "handoff", "full"]

PREFIXES: dict[Role, Heading] = {"warmup": "Warm-up", "handoff": "Hand-off"}
"""Roles whose settings a run has under the role's name, and where the help shows them."""


@dataclass(frozen=True)
class Declaration:
    """Where a setting belongs.

    heading: section of the command line's help.
    owner: in a comparison, whether all runs share it, each method has its own, or the study sets it.
    roles: the phases that it is passed to: warm-up, stream, growing stage, solve on drawn samples, solve, first-order
        hand-off (`handoff`) and hand-off to a solver (`full`).
    key: its name in `PhaseConfig`, where that is another.
    metavar: its value in the help.
    old: the name that it had before, which is still taken.
    free: whether it may change between two parts of a run.
    """

    heading: Heading = "Run"
    owner: Owner = "shared"
    roles: tuple[Role, ...] = ()
    key: str | None = None
    metavar: str | None = None
    old: str | None = None
    free: bool = False


def declared(
    heading: Heading,
    owner: Owner = "shared",
    *roles: Role,
    key: str | None = None,
    metavar: str | None = None,
    old: str | None = None,
    free: bool = False,
) -> dict[str, Any]:
    """Return a `Declaration` in the form that pydantic's `Field` keeps as `json_schema_extra`."""
    return {"declaration": asdict(Declaration(heading, owner, roles, key, metavar, old, free))}


def declaration(field: FieldInfo) -> Declaration:
    """Return what `field` says of itself; a field that says nothing is a setting of the run that all methods share."""
    extra = field.json_schema_extra
    kept: Any = extra.get("declaration", {}) if isinstance(extra, dict) else {}
    return Declaration(**kept)


def names_of(model: type[BaseModel], heading: Heading | None = None, owner: Owner | None = None) -> tuple[str, ...]:
    """Return the settings of `model` under `heading` and of `owner`, in the order of their declaration."""
    found = ((name, declaration(field)) for name, field in model.model_fields.items())
    return tuple(name for name, own in found if heading in (None, own.heading) and owner in (None, own.owner))


def names_in_phase(model: type[BaseModel], role: Role) -> dict[str, str]:
    """Return the settings of `model` that phases of this role get, as {key in `PhaseConfig`: name in `model`}."""
    found = ((name, declaration(field)) for name, field in model.model_fields.items())
    return {own.key or name: name for name, own in found if role in own.roles}


def old_names(model: type[BaseModel]) -> dict[str, str]:
    """Return the former names of settings of `model`, as {former: present}."""
    found = ((name, declaration(field).old) for name, field in model.model_fields.items())
    return {old: name for name, old in found if old is not None}


def prefixed(phase: type[BaseModel], base: type[BaseModel]) -> type[BaseModel]:
    """Return a subclass of `base` with the settings of `phase` that a run has under a prefix, such as `handoff_lr`."""
    fields: dict[str, Any] = {}
    for role, heading in PREFIXES.items():
        for key, name in names_in_phase(phase, role).items():
            field = copy.copy(phase.model_fields[name])
            field.json_schema_extra = declared(heading, declaration(field).owner, role, key=key)
            fields[f"{role}_{name}"] = (field.annotation, field)
    return create_model("PrefixedSettings", __base__=base, __module__=__name__, **fields)
