"""Random losses: the mean over samples by torch's own reduction, whatever the chunk, or one line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from subsetopt.errors import UserError
from subsetopt.objective import Objective
from subsetopt.seeding import make_generator, seeded_globals

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))

Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Samples, outputs M, kind of targets, seed and dtype of a made-up problem, and how the loss is put together."""

    samples: int
    outputs: int
    dtype: torch.dtype
    base: str
    twist: str
    seed: int


BASES: dict[str, Function] = {
    "cross entropy": lambda z, y: F.cross_entropy(z, y, reduction="none"),
    "smoothed": lambda z, y: F.cross_entropy(z, y, reduction="none", label_smoothing=0.2),
    "margin": lambda z, y: F.multi_margin_loss(z, y, reduction="none") if z.shape[1] > 1 else z.square().mean(1),
    "squares": lambda z, y: (z - y).square().mean(1),
    "huber": lambda z, y: F.huber_loss(z, y, reduction="none", delta=0.3).mean(1),
    "absolute": lambda z, y: (z - y).abs().sum(1),
    "logistic": lambda z, y: F.binary_cross_entropy_with_logits(z, y.sigmoid(), reduction="none").mean(1),
    "linear": lambda z, y: (z * y).sum(1),
    "logarithm": lambda z, y: (1e-3 + (z - y).square().sum(1)).log(),
}
LABELLED = ("cross entropy", "smoothed", "margin")


def _rows(z: Tensor) -> Tensor:
    return torch.linspace(1, 2, len(z), dtype=z.dtype)


TWISTS: dict[str, tuple[bool, Callable[[Function], Function]]] = {
    "per sample": (True, lambda f: f),
    "mean": (True, lambda f: lambda z, y: f(z, y).mean()),
    "scaled mean": (True, lambda f: lambda z, y: 1e5 * f(z, y).mean()),
    "shifted": (True, lambda f: lambda z, y: f(z, y).mean() + 3),
    "sum": (False, lambda f: lambda z, y: f(z, y).sum()),
    "root": (False, lambda f: lambda z, y: (f(z, y).square().mean() + 1e-9).sqrt()),
    "largest": (False, lambda f: lambda z, y: f(z, y).amax()),
    "median": (False, lambda f: lambda z, y: f(z, y).median()),
    "weighted by place": (False, lambda f: lambda z, y: (f(z, y) * _rows(z)).mean()),
    "normalised": (False, lambda f: lambda z, y: f(z, y) / (f(z, y).abs().mean() + 1e-9)),
    "centred": (False, lambda f: lambda z, y: f(z, y) - f(z, y).mean()),
    "column": (False, lambda f: lambda z, y: f(z, y).unsqueeze(1)),
    "noisy": (False, lambda f: lambda z, y: f(z, y) * torch.rand(len(z))),
    "not finite": (False, lambda f: lambda z, y: f(z, y).mean() / 0),
    "detached": (False, lambda f: lambda z, y: f(z.detach(), y)),
    "fails": (False, lambda f: lambda z, y: f(z, y) @ torch.zeros(len(z) + 1)),
    "a number": (False, lambda f: lambda z, y: f(z, y).mean().item()),  # type: ignore[dict-item,return-value]
    "nothing": (False, lambda f: lambda z, y: None),  # type: ignore[dict-item,return-value]
}

CASES = st.builds(
    Case,
    samples=st.integers(2, 70),
    outputs=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    base=st.sampled_from(sorted(BASES)),
    twist=st.sampled_from(sorted(TWISTS)),
    seed=st.integers(0, 2**16),
)


def problem(case: Case) -> tuple[nn.Module, Tensor, Tensor, Function]:
    generator = make_generator(case.seed, "fuzzed losses")
    with seeded_globals(case.seed, "fuzzed losses"):
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, case.outputs)).to(case.dtype)
    x = torch.randn(case.samples, 3, generator=generator, dtype=case.dtype)
    if case.base in LABELLED:
        y = torch.randint(0, case.outputs, (case.samples,), generator=generator).sort().values
    else:
        y = torch.randn(case.samples, case.outputs, generator=generator, dtype=case.dtype)
    return model, x, y, TWISTS[case.twist][1](BASES[case.base])


def check(case: Case) -> None:
    model, x, y, loss = problem(case)
    sound, _ = TWISTS[case.twist]
    chunk_size = max(1, case.samples // 3)
    try:
        objective = Objective(model, x, y, loss, chunk_size=chunk_size)
    except UserError as error:
        assert not sound, f"a mean over samples is refused: {error}"
        assert "\n" not in str(error) and len(str(error)) < 600
        return
    # What was let through must not depend on the chunk, whatever it is called.
    whole = Objective(model, x, y, loss, chunk_size=case.samples)
    w = objective.initial()
    expected = loss(model(x), y)
    tolerance = 1e-9 if case.dtype == torch.float64 else 1e-3
    scale = float(expected.detach().abs().mean()) + float(expected.detach().abs().max()) + 1e-6
    for found in (objective.value(w), whole.value(w)):
        torch.testing.assert_close(found, expected.detach().mean().double(), rtol=tolerance, atol=tolerance * scale)


@QUICK
@given(CASES)
def test_losses_are_right_or_one_line(case: Case) -> None:
    check(case)


@pytest.mark.slow
@LONG
@given(CASES)
def test_many_losses_are_right_or_one_line(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("twist", TWISTS)
@pytest.mark.parametrize("base", ["cross entropy", "squares"])
def test_each_way_to_put_a_loss_together(twist: str, base: str) -> None:
    check(Case(40, 3, torch.float64, base, twist, 0))
