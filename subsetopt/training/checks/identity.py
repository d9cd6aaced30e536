"""What ties a saved file to its run: the settings, the data and the model that it was made with.

The settings are saved as they are, not as a digest, so that the one that differs can be named and a later version may
add some. A model is known by its parameters' names and shapes and by its outputs on a few training samples, which also
tell that the code of a factory has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from subsetopt.errors import ModelError, RunDirectoryError, UserError
from subsetopt.files import MALFORMED
from subsetopt.objective import FlatModel
from subsetopt.training.context import RunContext
from subsetopt.training.going_on import starting_from_a_run
from subsetopt.training.run_directory import RunDirectory
from subsetopt.training.settings.declaration import declaration
from subsetopt.training.settings.phase import PhaseConfig, present_names
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.training_data import TrainingData

T = TypeVar("T")

FREE = frozenset(name for name, field in RunConfig.model_fields.items() if declaration(field).free)
"""Settings that may change between two parts of a run: where things lie, where it computes, how often it records."""

_ROWS, _OUTPUTS = 8, 16
_MODEL_REMEDY = "give the model that the run was started with, or train anew"
_TOLERANCE = 0.02
"""Outputs of the same model agree this well, relatively to the largest, on other devices and in other precision."""
_ROUNDING = {"cpu float32": 1e-4, "cpu float64": 1e-8}
"""On CPUs in the same precision they agree this well: a thousand roundings and more, which layers may amplify."""


class OtherRunError(UserError):
    """Something is not what it was when the file was saved; `str(error)` says what, and the remedy."""


def identity(data: TrainingData, run: RunContext, w: Tensor) -> dict[str, Any]:
    """Return the entries by which `check_identity` knows settings, data and model, whose parameters are w (P,)."""
    return {
        "settings": _settings(run.config),
        "data": data.digest,
        **_own_loss(run),
        "model": {
            "parameters": _architecture(run.model.flat),
            "outputs": _outputs(data, run.model.flat, w),
            "place": _place(run.model.flat),
        },
    }


def check_identity(
    saved: Mapping[str, Any], data: TrainingData, run: RunContext, changed: Sequence[str] = (), other_data: bool = False
) -> bool:
    """Raise `OtherRunError` where settings, data or parameters are not those of `saved`; False where it names none.

    The settings in `changed` were set by the caller; with `other_data` the data may differ.
    """
    if not {"settings", "data", "model"} <= saved.keys():
        return False
    try:
        _check_settings(saved["settings"], run.config, FREE | set(changed))
        if not other_data and saved["data"] != data.digest:
            raise OtherRunError("the data are not those of the run; restore the data, or train anew")
        if saved.get("loss") != _own_loss(run).get("loss"):
            raise OtherRunError("the loss is not that of the run; give the loss object that the run was started with")
        if saved["model"]["parameters"] != _architecture(run.model.flat):
            raise OtherRunError(f"the model has other parameters than that of the run; {_MODEL_REMEDY}")
    except OtherRunError:
        raise
    except MALFORMED as error:
        raise OtherRunError(
            f"what says which run it is of cannot be read ({type(error).__name__}); train anew"
        ) from None
    return True


def _own_loss(run: RunContext) -> dict[str, str]:
    """Return the entry of a loss that was given as an object; none for a loss that the settings name."""
    return {} if isinstance(run.model.loss, str) else {"loss": run.model.loss.name}


def check_outputs(saved: Mapping[str, Any], data: TrainingData, flat: FlatModel, w: Tensor) -> None:
    """Raise `OtherRunError` where the model, with its buffers set, computes at w what it did not when `saved` was."""
    if "model" not in saved:
        return
    try:
        then = saved["model"]["outputs"]
        now = _outputs(data, flat, w)
        if then is None or now is None:
            return
        before, after = (
            torch.tensor(then, dtype=torch.float64, device="cpu"),
            torch.tensor(now, dtype=torch.float64, device="cpu"),
        )
        as_then = saved["model"].get("place") == _place(flat)
        tolerance = _ROUNDING.get(_place(flat), _TOLERANCE) if as_then else _TOLERANCE
        same = not bool(before.isfinite().all()) or bool((after - before).abs().max() <= tolerance * before.abs().max())
    except (*MALFORMED, RuntimeError):
        same = False
    if not same:
        raise OtherRunError(
            f"the model computes other outputs than that of the run (has its code changed?); {_MODEL_REMEDY}"
        )


def fits(directory: RunDirectory, name: str, check: Callable[..., T], *arguments: Any) -> T:
    """Return what `check` does; raises `RunDirectoryError` that names the file where it finds a difference."""
    try:
        return check(*arguments)
    except (OtherRunError, ModelError) as error:
        raise RunDirectoryError(f"run = {str(directory.path)!r}: {name} does not fit: {error}") from None


def _settings(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=set(FREE))


def _check_settings(saved: Mapping[str, Any], config: RunConfig, free: frozenset[str]) -> None:
    saved, _ = present_names(RunConfig, saved)
    now, fields = _settings(config), RunConfig.model_fields
    for name in [name for name in fields if name not in free]:
        # A setting that the version that saved did not have was as its default is now.
        before = saved.get(name, fields[name].get_default(call_default_factory=True, validated_data={}))
        if name == "phase":
            before = [_with_defaults(phase) for phase in before]
        if before != now[name]:
            raise OtherRunError(
                f"it was made with {name} = {_brief(before)}, config.toml has {_brief(now[name])}; "
                f"restore config.toml, or start a new run with other settings ({starting_from_a_run()})"
            )


def _with_defaults(phase: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved settings of a phase, and the defaults of those that the version that saved did not have."""
    fields = PhaseConfig.model_fields
    defaults = {name: field.get_default(call_default_factory=True, validated_data={}) for name, field in fields.items()}
    return {**defaults, **phase}


def _architecture(flat: FlatModel) -> str:
    buffers = [(name, tuple(value.shape)) for name, value in flat.buffers().items()]
    text = repr([*zip(flat.names, map(tuple, flat.shapes), strict=True), *buffers])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _outputs(data: TrainingData, flat: FlatModel, w: Tensor) -> list[list[float]] | None:
    """Return the model's outputs at w on the first training samples; None where it has none on so few."""
    try:
        with torch.no_grad():
            inputs = data.preprocess(data.dataset.train.inputs[:_ROWS].to(data.device))
            outputs = flat.forward(w.to(flat.device, flat.dtype), inputs, "deterministic")
        found: list[list[float]] = outputs.reshape(len(outputs), -1)[:, :_OUTPUTS].double().cpu().tolist()
    except (TypeError, ValueError, RuntimeError):
        return None
    return found


def _place(flat: FlatModel) -> str:
    return f"{flat.device.type} {str(flat.dtype).removeprefix('torch.')}"


def _brief(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
