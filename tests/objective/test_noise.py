"""The noise estimate against the dense covariance of per-sample gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from subsetopt.errors import SettingError
from subsetopt.objective import Objective
from subsetopt.objective.noise import NoiseAccumulator
from subsetopt.seeding import make_generator
from tests.objective.objective_nets import problem


def per_sample_gradients() -> Tensor:
    model, x, y = problem("mlp", 40)
    model.eval()

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    parts = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    return torch.cat([part.flatten(1) for part in parts.values()], 1)


def test_estimate_is_unbiased_over_random_chunkings_of_unequal_size() -> None:
    """Monte Carlo mean over 2000 random partitions = tr(sample covariance) / K, within 4 standard errors."""
    gradients = per_sample_gradients()
    samples, sizes = len(gradients), [2, 3, 4, 4, 5, 6, 7, 9]
    dense = torch.cov(gradients.T).trace() / samples
    generator = make_generator(0, "partitions")
    estimates = []
    for _ in range(2000):
        noise = NoiseAccumulator(sizes, torch.float64)
        for part in gradients[torch.randperm(samples, generator=generator)].split(sizes):
            noise.add(part.sum(0) / samples)
        estimates.append(noise.estimate(gradients.mean(0)))
    values = torch.stack(estimates)
    assert abs(float(values.mean() - dense)) < 4 * float(values.std()) / 2000**0.5
    assert float(values.std()) / 2000**0.5 < 0.02 * float(dense)


def test_objective_leaves_the_estimate_of_its_chunks_without_l2() -> None:
    model, x, y = problem("mlp", 40)
    objective = Objective(model, x, y, l2=3.0, track_noise=True)
    with pytest.raises(SettingError, match="no gradient noise yet"):
        _ = objective.gradient_noise
    plain = Objective(model, x, y, l2=3.0)
    w = objective.initial()
    for a, b in zip(objective.value_and_gradient(w), plain.value_and_gradient(w), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    gradients = per_sample_gradients()[objective.rows]
    means = [gradients[start:stop].mean(0) for start, stop in objective.edges]
    between = sum(
        (stop - start) * (mean - gradients.mean(0)).square().sum()
        for mean, (start, stop) in zip(means, objective.edges, strict=True)
    )
    assert len(means) >= 8
    torch.testing.assert_close(objective.gradient_noise, between / (len(means) - 1) / 40, rtol=1e-9, atol=0)


def test_data_sorted_by_class_do_not_bias_the_estimate() -> None:
    """Contiguous chunks of sorted data would be class-pure and overestimate the noise severalfold."""
    model, x, y = problem("mlp", 640)
    order = y.argsort()
    by_class = Objective(model, x[order] + 3 * y[order, None], y[order], track_noise=True)
    mixed = Objective(
        model, x + 3 * y[:, None], y, track_noise=True, indices=torch.randperm(640, generator=make_generator(5, "o"))
    )
    for objective in (by_class, mixed):
        objective.value_and_gradient(objective.initial())
    ratio = float(by_class.gradient_noise / mixed.gradient_noise)
    assert 0.3 < ratio < 3
