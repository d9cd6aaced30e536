"""Linear layers that are no modules: the projections of nn.MultiheadAttention, and calls of F.linear by a module.

torch calls neither projection as a module. For as long as calls are recorded, self-attention is evaluated between two
explicit projections, with identities in place of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Record = Callable[[Tensor, Tensor, Tensor], None]
"""Called with a weight, and with input and output (n, tokens, width) of its projection."""

Applied = Callable[[Tensor, Tensor, Tensor, Tensor | None], bool]
"""Called with weight, inputs, outputs and bias of a call of F.linear; returns whether it keeps the outputs."""

_FUNCTION = F.multi_head_attention_forward
_SIGNATURE = inspect.signature(_FUNCTION)


class explicit_projections(TorchFunctionMode):  # noqa: N801 - used as a context manager, like torch.no_grad
    """Tell `record` of the projections of self-attention; attention between different inputs runs as it is.

    `applied` is told of every other call of F.linear by its weight, inputs, outputs and bias; where it takes one
    (returns True), what follows gets a copy of the outputs, which an activation in place may change.
    """

    def __init__(self, record: Record, applied: Applied | None = None) -> None:
        super().__init__()
        self._record, self._applied = record, applied

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _FUNCTION:
            given = _SIGNATURE.bind(*args, **kwargs).arguments
            x = given["query"]
            if x is given["key"] and x is given["value"] and x.ndim == 3 and not given.get("use_separate_proj_weight"):
                return self._between(x, given)
        outputs = func(*args, **kwargs)
        if func is F.linear and self._applied is not None:
            inputs, weight, bias = linear_arguments(*args, **kwargs)
            return outputs.clone() if self._applied(weight, inputs, outputs, bias) else outputs
        return outputs

    def _between(self, x: Tensor, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Return what attention returns for x (tokens, n, width)."""
        width = x.shape[-1]
        parts = self._projected(x, given["in_proj_weight"], given["in_proj_bias"]).chunk(3, -1)
        identity = torch.eye(width, dtype=x.dtype, device=x.device)
        inner = {
            **given,
            **dict(zip(("query", "key", "value"), parts, strict=True)),
            **dict.fromkeys(("in_proj_weight", "in_proj_bias", "out_proj_bias")),
            **dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj_weight"), identity),
            "use_separate_proj_weight": True,
        }
        attended, weights = _FUNCTION(**inner)
        return self._projected(attended, given["out_proj_weight"], given["out_proj_bias"]), weights

    def _projected(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        inputs = x.transpose(0, 1)
        outputs = F.linear(inputs, weight, bias)
        self._record(weight, inputs, outputs)
        return outputs.transpose(0, 1)


class applications(TorchFunctionMode):  # noqa: N801
    """Tell `seen` of weight and bias of every call of F.linear."""

    def __init__(self, seen: Callable[[Tensor, Tensor | None], None]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            _, weight, bias = linear_arguments(*args, **kwargs)
            self._seen(weight, bias)
        return func(*args, **kwargs)


def linear_arguments(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the arguments of a call of F.linear."""
    return input, weight, bias
