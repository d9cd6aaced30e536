"""Starting from parameters that some earlier training left behind."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from subsetopt.errors import ModelError, SettingError, setting
from subsetopt.objective import FlatModel
from subsetopt.training.run_directory import MODEL
from subsetopt.training.saved_tensors import DamagedError, from_file


def initialised_from(path: Path, flat: FlatModel) -> FlatModel:
    """Return the model with parameters and buffers of a finished run, or of a safetensors file with a state dict.

    Raises `SettingError` in one line where there is none, or where it does not fit the model.
    """
    state = _read(path)
    try:
        w = flat.load_state_dict(state)
    except ModelError as error:
        problem = str(error).removeprefix("state dict: ").rpartition(";")[0]
        raise SettingError(
            "init_from",
            str(path),
            f"does not fit the model ({problem[:160]})",
            f"use its {setting('model')} and {setting('model_args')}",
        ) from None
    return flat.renewed(w)


def _read(path: Path) -> dict[str, Tensor]:
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        problem = f"has no {MODEL}; is the run finished?" if path.is_dir() else "no such run or file"
        raise SettingError("init_from", str(path), problem, "give a finished run's directory or a .safetensors file")
    try:
        tensors, _ = from_file(file, own=False)
    except DamagedError as error:
        raise SettingError(
            "init_from",
            str(path),
            f"is no safetensors file to start from: it {error}",
            "give a finished run's directory",
        ) from None
    broken = next((name for name, value in tensors.items() if not bool(torch.isfinite(value).all())), None)
    if broken is not None:
        raise SettingError("init_from", str(path), f"{broken} is not finite everywhere", "give a run that converged")
    return tensors
