"""Before any work: a few steps of a foreign optimizer on small tensors, saved, restored and taken again.

So that what needs a closure, second derivatives or sparse gradients, and what cannot be resumed exactly, is refused in
one line, not in the middle of a training.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from subsetopt.errors import SettingError
from subsetopt.saving import join, split
from subsetopt.seeding import make_generator, seeded_globals
from subsetopt.training.phases.first_order.per_tensor import Build, PerTensorOptimizer

BEFORE, AFTER = 4, 8  # steps: many optimizers do their dear work at every tenth
WIDEST = 4  # rows and columns of the stand-ins
ANOTHER = "use another optimizer, such as adam"
NEEDS = {
    "closure": "evaluates the loss itself, by a closure; mini-batches give it one gradient per step",
    "sparse": "takes sparse gradients alone",
    "grad_fn": "needs second derivatives (create_graph), which mini-batch gradients here do not carry",
    "create_graph": "needs second derivatives (create_graph), which mini-batch gradients here do not carry",
    "does not require grad": "needs second derivatives (create_graph), which mini-batch gradients here do not carry",
}


def rehearse(
    build: Build,
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype,
    device: torch.device,
    lr: float,
    named: tuple[str, str],
) -> None:
    """Raise `SettingError` (`named`: the setting and its value) where the optimizer cannot train, or not resume."""
    small = sorted({tuple(min(side, WIDEST) for side in shape) for shape in shapes})
    sizes = [math.prod(shape) for shape in small]

    def views(vector: Tensor) -> list[Tensor]:
        return [part.view(shape) for part, shape in zip(vector.split(sizes), small, strict=True)]

    generator = make_generator(0, "rehearsal")
    start = torch.randn(sum(sizes), generator=generator).to(device, dtype)
    noise = torch.randn(BEFORE + AFTER, sum(sizes), generator=generator).to(device, dtype)
    w = start.clone().requires_grad_()
    optimizer = PerTensorOptimizer(build, views, w, lr, 0.0, named[1])
    required = [
        parameter
        for parameter in inspect.signature(optimizer._inner.step).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if required:
        raise SettingError(*named, NEEDS["closure"], f"{ANOTHER}, or a solver (`subsetopt list solvers`)")
    try:
        with seeded_globals(0, "rehearsal"):
            _steps(optimizer, w, noise[:BEFORE])
            other_w = w.detach().clone().requires_grad_()
            other = PerTensorOptimizer(build, views, other_w, lr, 0.0, named[1])
            _copy_state(optimizer, other)
    except TypeError as error:
        raise SettingError(*named, f"keeps what no checkpoint holds: {error}", ANOTHER) from error
    except SettingError as error:
        raise _explained(error, named) from error
    _compare(optimizer, w, other, other_w, noise[BEFORE:], named)
    if torch.equal(w.detach(), start):
        raise SettingError(*named, "leaves the parameters as they are", ANOTHER)


def _steps(optimizer: PerTensorOptimizer, w: Tensor, noise: Tensor) -> None:
    for part in noise:
        w.grad = w.detach() + 0.1 * part
        optimizer.step()


def _copy_state(optimizer: PerTensorOptimizer, other: PerTensorOptimizer) -> None:
    """Hand the state over as a checkpoint does: tensors row by row, apart from numbers, and these as JSON."""
    tensors, numbers = split({"state": optimizer.state_dict()["state"][0]})
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    other.load_state_dict({"state": {0: join(dict, tensors, json.loads(json.dumps(numbers)))["state"]}})


def _compare(
    optimizer: PerTensorOptimizer,
    w: Tensor,
    other: PerTensorOptimizer,
    other_w: Tensor,
    noise: Tensor,
    named: tuple[str, str],
) -> None:
    try:
        for each, own in ((optimizer, w), (other, other_w)):
            with seeded_globals(1, "rehearsal"):
                _steps(each, own, noise)
    except SettingError as error:
        raise _explained(error, named) from error
    if not torch.equal(w.nan_to_num(), other_w.nan_to_num()):
        problem = "goes on otherwise after it was saved and restored: its state_dict leaves something out"
        raise SettingError(*named, problem, "keep all that changes in its state or param_groups, or " + ANOTHER)


def _explained(error: SettingError, named: tuple[str, str]) -> SettingError:
    text = error.problem.lower()
    known = next((said for mark, said in NEEDS.items() if mark in text), None)
    return SettingError(*named, known or error.problem, ANOTHER)
