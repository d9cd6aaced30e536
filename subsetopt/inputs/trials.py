"""Calls of a model that only show in which way it can be called."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from subsetopt.seeding import seeded_globals

Way = TypeVar("Way", bound=str)
Call = tuple[tuple[Any, ...], Mapping[str, Any]]


def those_that_work(module: nn.Module, calls: Mapping[Way, Call]) -> tuple[list[Way], dict[Way, str], bool]:
    """Call `module` in eval mode in each way; return those that work, why others fail, and whether outputs agree.

    Modes, buffers and random generators stay as they were.
    """
    outputs: dict[Way, list[Any]] = {}
    reasons: dict[Way, str] = {}
    for way, (arguments, named) in calls.items():
        with _left_alone(module), seeded_globals(0, "calling"), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a call does that is not meant
            try:
                outputs[way] = [_plain(leaf) for leaf in tree_leaves(module(*arguments, **named))]
            except torch.OutOfMemoryError:
                raise
            except (Exception, SystemExit) as error:
                reasons[way] = " ".join(f"{type(error).__name__}: {error}".split())[:100]
    first = next(iter(outputs.values()), [])
    return list(outputs), reasons, all(_same(first, other) for other in outputs.values())


def _plain(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else None


def _same(first: list[Any], other: list[Any]) -> bool:
    return len(first) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b
        for a, b in zip(first, other, strict=True)
    )


@contextmanager
def _left_alone(module: nn.Module) -> Iterator[None]:
    modes = {each: each.training for each in module.modules()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers() if not is_lazy(buffer)}
    try:
        module.eval()
        yield
    finally:
        for each, training in modes.items():
            each.training = training
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in buffers and not is_lazy(buffer) and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])
