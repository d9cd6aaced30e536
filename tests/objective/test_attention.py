"""Attention between explicit projections is torch's own, and tells of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt.objective.attention import explicit_projections


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"add_bias_kv": True, "add_zero_attn": True}])
def test_explicit_projections_change_nothing_and_are_told(batch_first: bool, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(6, 3, batch_first=batch_first, **options).double()
    x = torch.randn(5, 4, 6, dtype=torch.float64)
    given = x if batch_first else x.transpose(0, 1)
    padded = torch.tensor([[False, False, index > 2, index == 1] for index in range(5)])
    told: list[tuple[Tensor, Tensor, Tensor]] = []
    expected, weights = module(given, given, given, key_padding_mask=padded)
    with explicit_projections(lambda *call: told.append(call)):
        found, found_weights = module(given, given, given, key_padding_mask=padded)
    torch.testing.assert_close((found, found_weights), (expected, weights))
    assert len(told) == 2
    assert told[0][0] is module.in_proj_weight
    assert told[1][0] is module.out_proj.weight
    assert torch.equal(told[0][1], x)
    torch.testing.assert_close(told[1][2], expected if batch_first else expected.transpose(0, 1))


def test_attention_between_two_inputs_runs_as_it_is() -> None:
    module, x, y = nn.MultiheadAttention(4, 2), torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    told: list[Any] = []
    with explicit_projections(lambda *call: told.append(call)):
        found, _ = module(x, y, y)
    assert torch.equal(found, module(x, y, y)[0])
    assert not told
