"""`subsetopt.adapters.skorch`, and our optimizers in skorch nets, where skorch is installed."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from subsetopt.errors import UserError
from subsetopt.optim import KFAC, NewtonCG
from subsetopt.seeding import make_generator

skorch = pytest.importorskip("skorch", reason="skorch is not installed")


def data() -> tuple[Any, Any]:
    x = torch.randn(60, 3, generator=make_generator(0, "x"))
    return x.numpy(), (x.sum(1) > 0).long().numpy()


def net(**settings: Any) -> Any:
    given = {"max_epochs": 3, "lr": 0.01, "batch_size": 16, "train_split": None, "verbose": 0, **settings}
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    return skorch.NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, iterator_train__shuffle=True, **given)


def test_a_net_is_finished_at_the_minimum_of_its_criterion_with_weight_decay() -> None:
    from subsetopt.adapters.skorch import FinishWithLBFGS

    callback = FinishWithLBFGS(300, 1e-4, {"weight_decay": 1e-2})
    fitted = net(callbacks=[("finish", callback)]).fit(*data())
    (found,) = [each for name, each in fitted.callbacks_ if name == "finish"]
    assert found.summary_["stop_reason"] == "gradient" and fitted.history[-1, "lbfgs_loss"] == found.summary_["loss"]
    x, y = (torch.as_tensor(part) for part in data())
    loss = nn.functional.cross_entropy(fitted.module_(x), y)
    gradient = torch.autograd.grad(loss, list(fitted.module_.parameters()))
    total = [g + 1e-2 * p for g, p in zip(gradient, fitted.module_.parameters(), strict=True)]
    assert max(float(g.abs().max()) for g in total) <= 1.1e-4
    assert float(loss.detach()) == pytest.approx(found.summary_["loss"], rel=1e-3)


def test_our_optimizers_are_made_and_stepped_by_skorch() -> None:
    """Reference: both are ahead of the loss at the start; NewtonCG could not be constructed before."""
    for kind in (NewtonCG, KFAC):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = net(optimizer=kind, max_epochs=5, batch_size=-1 if kind is NewtonCG else 16).fit(*data())
        losses = fitted.history[:, "train_loss"]
        assert losses[-1] < 0.7 * losses[0]


def test_mistakes_are_one_line_before_training() -> None:
    from subsetopt.adapters.skorch import FinishWithLBFGS

    with pytest.raises(UserError, match="max_iterations = 0"):
        net(callbacks=[FinishWithLBFGS(0)]).fit(*data())
