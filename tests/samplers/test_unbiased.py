"""Monte-Carlo unbiasedness: the mean weighted batch gradient against the full gradient, 4 standard errors."""

import pytest
import torch

from subsetopt.samplers import SAMPLERS, make_sampler
from subsetopt.samplers.draws import draw_with_replacement
from subsetopt.samplers.methods.selective_backprop import acceptance_probability, mean_acceptance
from subsetopt.seeding import make_generator

N, B = 60, 6
UNIFORM = ["full", "rs2", "srs", "random-minibatch"]
CORRECTED = [
    ("p-sgd", {"correction": "importance"}),
    ("p-sgd", {"correction": "importance", "replacement": True}),
    ("c-sgd", {"correction": "importance"}),
    ("c-sgd", {"correction": "importance", "replacement": True}),
    ("nw-sketch", {"correction": "importance"}),
    ("nw-sketch", {"correction": "importance", "hash": "p-stable"}),
]


def gradients():
    """Per-sample gradients `(N, 3)` that correlate with the scores, so that a missing weight shows as bias."""
    generator = make_generator(0, "gradients")
    p = torch.rand(N, generator=generator)
    g = torch.randn(N, 3, generator=generator) * 0.2 + torch.stack((1 - p, p * (1 - p), p), 1) * 3
    return p, g.double()


def mean_batch_gradient(sampler, g, epochs):
    estimates = []
    while sampler.epoch < epochs:
        indices, weights = sampler.propose()
        w = torch.ones(len(indices)) if weights is None else weights
        if len(indices) == B or sampler.rows_per_proposal != B:
            estimates.append((w[:, None] * g[indices]).mean(0))
    stacked = torch.stack(estimates)
    return stacked.mean(0), stacked.std(0) / len(stacked) ** 0.5


def prepared(name, seed=0, **settings):
    p, g = gradients()
    sampler = make_sampler(name, N, B, seed=seed, **({} if name == "full" else {"fraction": 0.3}), **settings)
    sampler.bind(g.float())
    if name != "full":
        everyone = torch.arange(N)
        for _ in range(3):
            sampler.observe(everyone, -p.log(), torch.stack((p, 1 - p), 1), None, torch.zeros(N, dtype=torch.int64))
    return sampler, g


@pytest.mark.parametrize(("name", "settings"), [*((name, {}) for name in UNIFORM), *CORRECTED])
def test_weighted_batch_gradients_are_unbiased(name, settings):
    sampler, g = prepared(name, **settings)
    assert sampler.unbiased
    mean, error = mean_batch_gradient(sampler, g, 1500)
    assert ((mean - g.mean(0)).abs() <= 4 * error).all()


@pytest.mark.parametrize("name", ["p-sgd", "c-sgd", "nw-sketch"])
def test_the_papers_originals_are_biased_and_say_so(name):
    """Without correction the mean gradient is off by far more than 4 standard errors."""
    sampler, g = prepared(name, correction="none")
    assert not sampler.unbiased
    mean, error = mean_batch_gradient(sampler, g, 1500)
    assert ((mean - g.mean(0)).abs() > 6 * error).any()


@pytest.mark.parametrize("name", ["p-sgd", "nw-sketch"])
def test_self_normalised_weights_have_mean_one_in_every_batch(name):
    sampler, _ = prepared(name, correction="self-normalised")
    for _ in range(20):
        assert sampler.propose().weights.mean() == pytest.approx(1.0, abs=1e-6)


def test_accepted_samples_of_selective_backprop_are_unbiased_against_a_stationary_history():
    """Candidates distributed like the history, accepted with p, weighted c / p: the mean is the full mean."""
    generator = make_generator(1, "t")
    losses = torch.rand(512, generator=generator)
    g = losses.double() ** 2
    candidates = draw_with_replacement(torch.ones(512), 400_000, generator)
    p = acceptance_probability(losses[candidates], losses, 3.0, 0.05)
    accepted = torch.rand(len(p), generator=generator) < p
    estimates = mean_acceptance(512, 3.0, 0.05) / p[accepted] * g[candidates[accepted]]
    assert (estimates.mean() - g.mean()).abs() <= 4 * estimates.std() / len(estimates) ** 0.5


def test_every_sampler_that_claims_to_be_unbiased_is_tested_above():
    claims = {entry.name for entry in SAMPLERS if make_sampler(entry.name, N, B).unbiased}
    assert claims <= set(UNIFORM) | {name for name, _ in CORRECTED}
