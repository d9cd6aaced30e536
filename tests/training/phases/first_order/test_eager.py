"""Optimizers without the compiler's wrappers step, save and go on as torch's own. Reference: torch's, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from subsetopt.training.phases.first_order.eager import eager

KINDS: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (torch.optim.SGD, {"momentum": 0.5, "dampening": 0.1}),
    (torch.optim.Adam, {"weight_decay": 0.01, "amsgrad": True}),
    (torch.optim.AdamW, {"betas": (0.8, 0.95)}),
]


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_steps_and_states_are_those_of_torch(kind: type[Any], settings: dict[str, Any]) -> None:
    gradients = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    w, own = (torch.linspace(-1, 1, 50).requires_grad_() for _ in range(2))
    theirs, ours = kind([w], 0.1, **settings), eager(kind)([own], 0.1, **settings)
    assert isinstance(ours, kind) and type(ours).__name__ == kind.__name__
    for step, gradient in enumerate(gradients):
        theirs.param_groups[0]["lr"] = ours.param_groups[0]["lr"] = 0.1 / (step + 1)
        w.grad, own.grad = gradient.clone(), gradient.clone()
        theirs.step()
        ours.step()
        if step == 2:  # a checkpoint between
            fresh = eager(kind)([own], 0.1, **settings)
            fresh.load_state_dict(copy.deepcopy(ours.state_dict()))
            ours = fresh
    assert torch.equal(w, own) and own.requires_grad and own.grad_fn is None
    for name, value in theirs.state_dict()["state"][0].items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(ours.state_dict()["state"][0][name])), name
