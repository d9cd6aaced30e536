"""Accelerate: `full_batch_closure` for a prepared model and loader, whatever number of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from subsetopt.adapters.finish import all_rows
from subsetopt.errors import SettingError, UserError
from subsetopt.optim import full_batch_closure
from subsetopt.required import require


def accelerated_closure(
    accelerator: Any, model: Any, loss: Callable[[Any, Any], Any], loader: Any, max_samples: int | None = None
) -> Callable[[], Tensor]:
    """Return the closure of `subsetopt.optim.full_batch_closure` for what `accelerator.prepare` has returned.

    `model` is unwrapped, and each process goes through its own rows of the loader's data set, none twice: prepared
    loaders repeat rows to make processes equal. The loss is as in `full_batch_closure`. Give it to an optimizer that
    is not prepared, `subsetopt.optim.LBFGS(accelerator.unwrap_model(model).parameters())`. Raises `UserError` for mixed
    precision and for data without an order.
    """
    accelerate = require("accelerate", "accelerate")
    if not isinstance(accelerator, accelerate.Accelerator):
        raise UserError(f"accelerator: it is {type(accelerator).__name__}; give accelerate.Accelerator()")
    if accelerator.mixed_precision != "no":
        raise SettingError(
            "mixed_precision", accelerator.mixed_precision, "too coarse for a line search", 'use mixed_precision="no"'
        )
    rows = all_rows(getattr(loader, "base_dataloader", loader), accelerator.process_index, accelerator.num_processes)
    return full_batch_closure(accelerator.unwrap_model(model), loss, rows, accelerator.device, max_samples)
