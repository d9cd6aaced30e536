"""Modules that recompute their forward pass in the backward pass (torch.utils.checkpoint): every phase is the same.

Recomputed at the parameters that the module came with, a gradient would be wrong without a word.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from subsetopt import SubsetTrainer
from subsetopt.data import dataset_from_arrays
from subsetopt.errors import ModelError
from subsetopt.objective import FlatModel
from subsetopt.seeding import make_generator


class Net(nn.Module):
    def __init__(self, recomputes: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh())
        self.head = nn.Linear(12, 3)
        self.recomputes = recomputes

    def forward(self, x: Tensor) -> Tensor:
        hidden = checkpoint(self.body, x, use_reentrant=False) if self.recomputes else self.body(x)
        return self.head(hidden)


def net(recomputes: bool) -> Net:
    made = Net(recomputes)
    generator = make_generator(0, "recomputation")
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return made


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(120, 6, generator=make_generator(1, "recomputation"))
    return x, (x[:, :3] * x[:, 3:]).argmax(1)


def test_the_gradient_is_that_at_the_parameters_of_the_call() -> None:
    x, _ = data()
    found = []
    for recomputes in (False, True):
        flat = FlatModel(net(recomputes))
        w = (flat.initial() + 0.5).requires_grad_()
        found.append(flat.gradient(flat.forward(w, x, "train").square().sum(), w, "train"))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "settings",
    [
        {"solver": "none", "handoff": "sgd", "handoff_epochs": 2},
        {"solver": "none", "handoff": "adam", "handoff_epochs": 2},
        {"solver": "none", "handoff": "srs", "handoff_epochs": 2},
        {"solver": "lbfgs", "handoff": "none", "max_iterations": 8},
        {"solver": "lbfgs", "handoff": "none", "max_iterations": 8, "solver_args": {"preconditioner": "diagonal"}},
        {"solver": "lbfgs", "handoff": "none", "max_iterations": 8, "solver_args": {"preconditioner": "kfac"}},
        {"solver": "newton-cg", "handoff": "none", "max_iterations": 2, "solver_args": {"curvature": "ggn"}},
    ],
    ids=lambda settings: "-".join(str(value) for value in settings.values()),
)
def test_a_run_is_that_of_the_same_model_without(settings: dict[str, Any]) -> None:
    found = []
    for recomputes in (False, True):
        trainer = SubsetTrainer(net(recomputes), dataset_from_arrays(*data()), seed=0, dtype="float64", **settings)
        found.append(torch.cat([part.flatten() for part in trainer.fit().model.state_dict().values()]))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


class Reentrant(Net):
    """Checkpointed as it was once the default: of inputs that need no gradient nothing reaches the parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.body, x, use_reentrant=True))


class Frozen(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = self.body(x)
        return self.head(hidden)


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).detach())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("kind", [Reentrant, Frozen, Detached])
@pytest.mark.parametrize(
    "settings", [{"solver": "lbfgs"}, {"solver": "none", "handoff": "sgd"}, {"solver": "kfac-stream"}]
)
def test_parameters_without_a_gradient_that_move_the_outputs_are_refused(kind: type[Net], settings: Any) -> None:
    """They were counted in Q, and L2 alone trained them."""
    with pytest.raises(ModelError, match=r"depend on body\.0\.weight, but no gradient"):
        SubsetTrainer(kind(False), dataset_from_arrays(*data()), **settings).fit()


def test_what_is_frozen_or_not_used_is_taken() -> None:
    frozen, unused = Frozen(False), net(False)
    frozen.body.requires_grad_(False)
    unused.extra = nn.Linear(3, 3)
    for model in (frozen, unused):
        trainer = SubsetTrainer(model, dataset_from_arrays(*data()), handoff="none", max_iterations=3)
        assert trainer.fit().result["solve"]["iterations"] == 3
