"""Weighted samples against repeated rows: value, gradient, products, metrics, noise, parts, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from subsetopt.data.weights import checked_weights
from subsetopt.errors import DataError, UserError
from subsetopt.objective import CrossEntropy, FlatModel, Objective, evaluate_split
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.output_noise import output_noise
from subsetopt.objective.weighting import WeightedLoss, WeightedTargets
from subsetopt.seeding import make_generator, seeded_globals

N, M = 24, 3
G = make_generator(0, "sample weight")
X = torch.randn(N, 4, generator=G, dtype=torch.float64)
CLASSES = torch.arange(N) % M
VALUES = torch.randn(N, M, generator=G, dtype=torch.float64)
REPEATS = torch.randint(0, 4, (N,), generator=G)
ROWS = torch.arange(N).repeat_interleave(REPEATS)


def model() -> nn.Module:
    with seeded_globals(0, "sample weight"):
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, M)).double()


LOSSES: dict[str, tuple[Any, torch.Tensor]] = {
    "cross_entropy": ("cross_entropy", CLASSES),
    "mse": ("mse", VALUES),
    "class weights": (nn.CrossEntropyLoss(torch.tensor([1.0, 5.0, 0.2]), ignore_index=2), CLASSES),
    "own": (lambda z, y: F.smooth_l1_loss(z, y, reduction="none").mean(1), VALUES),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_a_weight_is_worth_as_many_rows(name: str, chunk_size: int | None) -> None:
    loss, targets = LOSSES[name]
    weighted = Objective(model(), X, targets, loss, 0.1, sample_weight=0.3 * REPEATS, chunk_size=chunk_size)
    repeated = Objective(model(), X, targets, loss, 0.1, indices=ROWS)
    w = weighted.initial()
    v = torch.randn(len(w), generator=make_generator(1, "v"), dtype=torch.float64)
    for a, b in zip(weighted.value_and_gradient(w), repeated.value_and_gradient(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    for kind in ("hvp", "ggnvp"):
        products = [getattr(objective.linearise(w), kind)(v) for objective in (weighted, repeated)]
        torch.testing.assert_close(*products, rtol=1e-10, atol=1e-13)
    assert weighted.identity != repeated.identity


@pytest.mark.parametrize("name", LOSSES)
def test_metrics_of_a_split_are_weighted(name: str) -> None:
    loss, targets = LOSSES[name]
    objective = Objective(model(), X, targets, loss)
    w = objective.initial()
    weights = checked_weights(REPEATS, N)
    weighted = evaluate_split(objective.flat, w, X, targets, loss, chunk_size=5, sample_weight=weights)
    repeated = evaluate_split(objective.flat, w, X, targets, loss, indices=ROWS)
    if name == "class weights":
        weighted.pop("accuracy")  # unweighted
    for key, value in weighted.items():
        assert value == pytest.approx(repeated[key], rel=1e-10), key


def test_rows_keep_their_weights_in_a_subset() -> None:
    rows = torch.tensor([20, 3, 3, 7])
    weights = torch.rand(N, generator=G, dtype=torch.float64)
    objective = Objective(model(), X, CLASSES, indices=rows, sample_weight=weights)
    with torch.no_grad():
        losses = F.cross_entropy(model()(X[rows]), CLASSES[rows], reduction="none")
    expected = (weights[rows] * losses).sum() / weights[rows].sum()
    torch.testing.assert_close(objective.value(objective.initial()), expected, rtol=1e-12, atol=0)


def test_other_weights_are_another_objective() -> None:
    def of(weights: Any) -> Objective:
        return Objective(model(), X, CLASSES, sample_weight=weights)

    assert of(REPEATS).identity == of(REPEATS.numpy()).identity == of(2 * REPEATS).identity
    assert of(REPEATS).identity != of(REPEATS + 1).identity
    assert of(torch.ones(N)).value(of(None).initial()) == of(None).value(of(None).initial())


@pytest.mark.parametrize("exponent", [-1060, -400, 400, 1010])
def test_weights_of_any_size_count_by_their_ratios(exponent: int) -> None:
    scaled = Objective(model(), X, CLASSES, sample_weight=REPEATS.double() * 2.0**exponent)
    same = Objective(model(), X, CLASSES, sample_weight=REPEATS.double())
    assert scaled.value(scaled.initial()) == same.value(same.initial())


def test_noise_of_curvature_has_the_weighted_hessian_as_its_covariance() -> None:
    z = torch.randn(1, M, generator=G, dtype=torch.float64)
    y, factor = torch.tensor([1]), torch.tensor([2.5], dtype=torch.float64)
    loss, targets = WeightedLoss(CrossEntropy()), WeightedTargets(y, factor)
    generator = make_generator(3, "noise")
    draws = [output_noise(loss, z, targets, "curvature", generator)[0] for _ in range(4000)]  # type: ignore[arg-type]
    covariance = torch.stack(draws).T @ torch.stack(draws) / len(draws)
    expected = torch.stack([loss.output_hessian(z, targets)(e[None])[0] for e in torch.eye(M, dtype=torch.float64)])
    torch.testing.assert_close(covariance, expected, rtol=0.15, atol=0.02)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(N - 1), r"float32 of shape \(23,\).*shape \(24,\)"),
        (torch.ones(N, 1), r"shape \(24, 1\)"),
        (-torch.ones(N), "-1 in row 0"),
        (torch.where(torch.arange(N) == 5, torch.nan, 1.0), "nan in row 5"),
        (torch.where(torch.arange(N) == 6, torch.inf, 1.0), "inf in row 6"),
        (torch.zeros(N), "all 24 weights are 0"),
        (["a"] * N, "is a list; give one number per sample"),
        ("balanced", "one number per sample"),
        (torch.ones(N) * 1j, "one real number per sample"),
    ],
)
def test_weights_that_are_none_are_refused_in_one_line(weights: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Objective(model(), X, CLASSES, sample_weight=weights)
    assert "\n" not in str(caught.value)


def test_weights_need_losses_per_sample() -> None:
    with pytest.raises(UserError, match="losses per sample"):
        Objective(model(), X, VALUES, lambda z, y: F.mse_loss(z, y), sample_weight=REPEATS)
    with pytest.raises(DataError, match="all are 0"):
        Objective(model(), X, CLASSES, indices=(REPEATS == 0).nonzero().flatten(), sample_weight=REPEATS)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_kfac_factors_are_those_of_repeated_rows(kind: str) -> None:
    net, x = model(), X
    if kind == "convolution":
        with seeded_globals(0, "sample weight"):
            net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(2, M)).double()
        x = X.view(N, 1, 2, 2)
    flat = FlatModel(net)
    w, scale = flat.initial(), REPEATS.double() * (N / int(REPEATS.sum()))
    v = torch.randn(len(w), generator=make_generator(1, "v"), dtype=torch.float64)
    weighted = Kfac(flat, WeightedLoss(CrossEntropy()), draw="empirical")
    weighted.update(w, x, WeightedTargets(CLASSES, scale), make_generator(2, "k"))  # type: ignore[arg-type]
    repeated = Kfac(flat, CrossEntropy(), draw="empirical")
    repeated.update(w, x[ROWS], CLASSES[ROWS], make_generator(2, "k"))
    torch.testing.assert_close(weighted.product(v), repeated.product(v), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(weighted.apply(v, 0.1), repeated.apply(v, 0.1), rtol=1e-8, atol=1e-10)
