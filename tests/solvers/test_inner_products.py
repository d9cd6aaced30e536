"""Inner products of float32 vectors, against exact sums of float64 products."""

from __future__ import annotations

import math

import pytest
import torch

from subsetopt.seeding import make_generator
from subsetopt.solvers.inner_products import LONG, dot, point_numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 1000, LONG, 2 * LONG + 3])
def test_products_of_a_gradient_are_those_of_exact_arithmetic(size: int, dtype: torch.dtype) -> None:
    draw = make_generator(1, "products")
    g, w, d = (1e-22 * torch.randn(size, generator=draw).to(dtype) for _ in range(3))  # squares leave float32's range
    expected = [math.fsum(a * b for a, b in zip(*pair, strict=True)) for pair in _pairs(g, w, d)]
    loss, largest, *numbers = point_numbers(torch.tensor(3.0, dtype=dtype), g, w, d)
    assert numbers == pytest.approx(expected, rel=1e-3 if dtype.itemsize == 2 else 1e-6, abs=0)
    assert (loss, largest) == (3.0, float(g.abs().max()))
    assert float(dot(g, d)) == pytest.approx(expected[2], rel=1e-9, abs=0)
    assert len(point_numbers(torch.tensor(3.0, dtype=dtype), g, w, None)) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_in_any_part_of_a_long_gradient_shows_in_its_largest_entry(value: float) -> None:
    for place in (0, 2 * LONG, 4 * LONG - 1):
        g = torch.ones(4 * LONG)
        g[place] = value
        _, largest, *_ = point_numbers(torch.tensor(1.0), g, torch.ones_like(g), None)
        assert largest == pytest.approx(value, nan_ok=True)


def _pairs(g: torch.Tensor, w: torch.Tensor, d: torch.Tensor) -> list[tuple[list[float], list[float]]]:
    a, b, c = (vector.double().tolist() for vector in (g, w, d))
    scaled = [x * y for x, y in zip(a, b, strict=True)]
    return [(a, a), (scaled, scaled), (a, c)]
