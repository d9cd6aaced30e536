"""Gradient matching on batches: the Gram form against gradients written out, and the weights that reach the loop."""

import pytest
import torch

from subsetopt.errors import SettingError
from subsetopt.samplers import make_sampler
from subsetopt.samplers.last_layer import gram, inner_with, residuals
from subsetopt.samplers.methods.gradient_matching import match_mean_gradient


def last_layer_gradients(problem):
    """Reference: torch autograd through a last layer with bias, one sample at a time."""
    rows = []
    for h, p, y in zip(problem.features, problem.probabilities, problem.targets, strict=True):
        outputs = p.log()
        weight, bias = torch.zeros(3, 4, requires_grad=True), torch.zeros(3, requires_grad=True)
        loss = torch.nn.functional.cross_entropy((outputs + weight @ h + bias)[None], y[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, (weight, bias))]))
    return torch.stack(rows)


def test_inner_products_are_those_of_autograd_gradients(problem):
    g = last_layer_gradients(problem)
    e = residuals(problem.probabilities, problem.targets)
    torch.testing.assert_close(gram(e, problem.features), g @ g.T, atol=1e-5, rtol=1e-4)
    direction = torch.randn(15, generator=torch.Generator().manual_seed(0))
    inner = inner_with(e, problem.features, direction[:12].view(3, 4), direction[12:])
    torch.testing.assert_close(inner, g @ direction, atol=1e-5, rtol=1e-4)


def test_residuals_of_regression_are_output_minus_target():
    torch.testing.assert_close(residuals(torch.ones(2, 1), torch.tensor([0.5, 3.0])), torch.tensor([[0.5], [-2.0]]))


def select(sampler, problem):
    batch = sampler.propose()
    i = batch.indices
    chosen = sampler.select(batch, problem.losses[i], problem.probabilities[i], problem.features[i], problem.targets[i])
    return batch, chosen


def test_weighted_mean_of_the_kept_rows_matches_the_batch_gradient(problem, bound):
    """The loop's mean of w_i g_i approaches the mean gradient of the candidates; keeping the lot reproduces it."""
    g = last_layer_gradients(problem)
    errors = []
    for fraction in (0.1, 0.2, 1.0):
        batch, chosen = select(bound("gradient-matching", problem, 30, fraction=fraction, ridge=0.0), problem)
        target = g[batch.indices].mean(0)
        assert set(chosen.indices.tolist()) <= set(batch.indices.tolist())
        assert len(chosen.indices) <= 30 * fraction
        errors.append(float(((chosen.weights[:, None] * g[chosen.indices]).mean(0) - target).norm() / target.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_matching_beats_a_random_part_of_the_batch(problem):
    g, e = last_layer_gradients(problem), residuals(problem.probabilities, problem.targets)
    support, w = match_mean_gradient(e, problem.features, 9, 1e-6)
    matched = (torch.as_tensor(w).float()[:, None] * g[torch.as_tensor(support)]).sum(0)
    generator = torch.Generator().manual_seed(0)
    random = torch.stack([g[torch.randperm(90, generator=generator)[:9]].mean(0) for _ in range(100)])
    assert (matched - g.mean(0)).norm() < (random - g.mean(0)).norm(dim=1).min()


def test_renormalised_weights_have_mean_one(problem, bound):
    _, chosen = select(bound("gradient-matching", problem, 30, renormalise=True), problem)
    assert chosen.weights.mean() == pytest.approx(1.0, abs=1e-6)


def test_a_batch_without_gradient_gives_nothing_to_train_on(problem):
    sampler = make_sampler("gradient-matching", 90, 30)
    batch = sampler.propose()
    certain = torch.nn.functional.one_hot(problem.targets[batch.indices], 3).float()
    features = problem.features[batch.indices]
    assert sampler.select(batch, torch.zeros(30), certain, features, problem.targets[batch.indices]) is None


def test_missing_features_are_told(problem):
    sampler = make_sampler("gradient-matching", 90, 30)
    with pytest.raises(SettingError, match="features"):
        sampler.select(sampler.propose(), torch.zeros(30))
