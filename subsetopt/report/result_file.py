"""Reads `result.json`: what a finished run found, in a file that may have been damaged or edited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from subsetopt.errors import RunDirectoryError
from subsetopt.files import read_document

RESULT = "result.json"
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**63)]
_Metrics = dict[str, dict[str, _Number | None]]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Data(_Part):
    name: str
    task: str
    train: _Count
    validation: _Count
    test: _Count


class _Model(_Part):
    name: str
    parameters: _Count


class _Overdetermination(_Part):
    samples: _Count
    outputs: _Count
    parameters: _Count
    ratio: _Number
    verdict: str


class _Phase(_Part):
    role: str
    method: str
    data: str
    samples: _Count
    stop_reason: str
    loss: _Number | None
    gradient_norm: _Number | None
    iterations: _Count
    epoch_equivalents: _Number
    seconds: _Number


class _Purpose(_Part):
    epoch_equivalents: _Number
    calls: _Number


class _Cost(_Part):
    epoch_equivalents: _Number
    seconds: _Number
    by_purpose: dict[str, _Purpose]


class _Result(_Part):
    seed: int
    dataset: _Data
    model: _Model
    overdetermination: _Overdetermination
    phases: Annotated[list[_Phase], Field(min_length=1)]
    metrics: _Metrics
    metrics_before_handoff: _Metrics | None = None
    cost: _Cost
    warnings: list[str] = []


def read_result_file(directory: Path, remedy: str) -> dict[str, Any]:
    """Return the content of a run's `result.json`.

    Raises `RunDirectoryError` in one line that ends with `remedy` where it is missing, damaged, edited, or lacks what
    a run writes.
    """
    subject = f"run = {str(directory)!r}"
    content = read_document(directory / RESULT, subject, remedy)
    try:
        _Result.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        entry = ".".join(str(part) for part in first["loc"])
        problem = str(first["msg"])
        raise RunDirectoryError(f"{subject}: {RESULT}: {entry}: {problem[:1].lower()}{problem[1:]}; {remedy}") from None
    return content
