"""torch's optimizers without the import of its compiler.

The methods of `torch.optim.Optimizer` are wrapped for `torch.compile`, and the wrappers import `torch._dynamo` at the
first call: 1.3 CPU seconds, more than many a training takes. Nothing here is compiled, so the methods are called as
they were written.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


@functools.cache
def eager(optimizer: type[torch.optim.Optimizer]) -> type[Any]:
    """Return a subclass with the same arithmetic, state and name whose methods are not wrapped for the compiler."""
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimizer, name)) for name in _WRAPPED}
    methods["step"] = _without_gradient(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), methods)


def _without_gradient(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return `step` without gradients, as torch's wrapper calls it."""

    @functools.wraps(step)
    def plain(self: Any, *given: Any, **named: Any) -> Any:
        with torch.set_grad_enabled(self.defaults.get("differentiable", False)):
            return step(self, *given, **named)

    return plain
