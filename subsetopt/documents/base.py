"""What all documents share: strict when they are written, tolerant of entries of other versions when they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

_READING = {"reading": True}


def _null_unless_finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**63)]
Finite = Annotated[float | None, BeforeValidator(_null_unless_finite)]
"""A figure that may have overflowed: JSON has neither NaN nor infinities, so that these are written as null."""
Measured = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A figure of a document that is printed, not stored: what is not finite is printed as null and read as NaN."""


class Entry(BaseModel):
    """An entry of a document: an unknown name is refused when it is written and left out when it is read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, content: Any, info: ValidationInfo) -> Any:
        if info.context == _READING and isinstance(content, Mapping) and cls.model_config.get("extra") == "forbid":
            return {name: value for name, value in content.items() if name in cls.model_fields}
        return content

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Self:
        """Return the entry that parsed JSON holds; raises pydantic's `ValidationError`, see `problem`."""
        return cls.model_validate(content, context=_READING)

    def content(self) -> dict[str, Any]:
        """Return JSON-able values; entries that were never set are absent."""
        return self.model_dump(mode="json", exclude_unset=True)


class Document(Entry):
    """A whole document."""

    @classmethod
    def of(cls, content: Mapping[str, Any] | Self) -> Self:
        """Return a document as it is, and parsed JSON as one; raises as `read` does."""
        return cls.read(content) if isinstance(content, Mapping) else content


def problem(error: ValidationError) -> str:
    """Return what is wrong with a document in a few words that begin with the entry."""
    first = error.errors(include_url=False)[0]
    entry = ".".join(str(part) for part in first["loc"]) or "the document"
    text = str(first["msg"]).removeprefix("Value error, ")
    return f"{entry}: {text[:1].lower()}{text[1:]}"
