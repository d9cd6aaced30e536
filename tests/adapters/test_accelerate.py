"""`subsetopt.adapters.accelerate`, where Accelerate is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt.errors import UserError
from subsetopt.optim import LBFGS
from subsetopt.seeding import make_generator

accelerate = pytest.importorskip("accelerate", reason="Accelerate is not installed")


def test_the_closure_of_prepared_objects_is_the_loss_of_all_rows_and_trains() -> None:
    from subsetopt.adapters.accelerate import accelerated_closure

    x = torch.randn(21, 3, generator=make_generator(0, "x"))
    y = x.sum(1, keepdim=True)
    accelerator = accelerate.Accelerator(cpu=True)
    plain: nn.Module = nn.Linear(3, 1)
    loader: Any = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    model, loader = accelerator.prepare(plain, loader)
    closure = accelerated_closure(accelerator, model, nn.functional.mse_loss, loader)
    assert float(closure()) == pytest.approx(float(nn.functional.mse_loss(plain(x), y).detach()), rel=1e-5)
    optimizer = accelerator.prepare(LBFGS(accelerator.unwrap_model(model).parameters()))
    optimizer.step(closure)
    assert float(closure()) < 1e-8
    with pytest.raises(UserError, match="accelerator: it is str"):
        accelerated_closure("cpu", model, nn.functional.mse_loss, loader)
