"""The two projections of nn.MultiheadAttention as linear layers that K-FAC has factors for.

torch calls neither as a module. For as long as calls are recorded, self-attention is evaluated between two explicit
projections, with identities in place of its own.
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

_FUNCTION = F.multi_head_attention_forward
_SIGNATURE = inspect.signature(_FUNCTION)


class explicit_projections(TorchFunctionMode):  # noqa: N801 - used as a context manager, like torch.no_grad
    """Tell `record` of the projections of self-attention; attention between different inputs runs as it is."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is _FUNCTION:
            given = _SIGNATURE.bind(*args, **kwargs).arguments
            x = given["query"]
            if x is given["key"] and x is given["value"] and x.ndim == 3 and not given.get("use_separate_proj_weight"):
                return self._between(x, given)
        return func(*args, **kwargs)

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
