"""Sketch sampling: probabilities from stored codes, decay, refreshed feature codes."""

import pytest
import torch

from subsetopt.errors import DataError, SettingError
from subsetopt.objective.tally import tallied
from subsetopt.samplers import make_sampler
from subsetopt.samplers.sketch import pstable_collision

N = 400


def clusters():
    """Two clusters in opposite directions; the second has ten times the loss."""
    generator = torch.Generator().manual_seed(0)
    side = torch.arange(N) % 2
    x = torch.randn(N, 6, generator=generator) * 0.1
    x[:, 0] += 2.0 * side - 1
    return x, torch.where(side == 1, 1.0, 0.1)


def test_unseen_samples_get_the_estimate_of_their_neighbours():
    """A tenth of the samples is observed; P of all follows their cluster. Reference: losses 1.0 and 0.1 exactly."""
    x, losses = clusters()
    sampler = make_sampler("nw-sketch", N, 10, mixing=0.1, hashes=8)
    sampler.bind(x)
    sampler.observe(torch.arange(40), losses[:40])
    p = sampler.probabilities
    assert p.sum() == pytest.approx(1.0, abs=1e-9)
    expected = 0.9 * losses / losses.sum() + 0.1 / N
    torch.testing.assert_close(p[40:].float(), expected[40:], rtol=0.05, atol=0)


def test_a_draw_needs_no_model_call():
    sampler = make_sampler("nw-sketch", N, 10)
    assert sampler.needs == {"losses"} and not sampler.needs_selection_forward and not sampler.needs_scan


def test_drop_last_leaves_no_short_batch_at_the_end_of_a_block_or_epoch():
    sampler = make_sampler("nw-sketch", N, 32, query_every=2, drop_last=True)
    sampler.bind(clusters()[0])
    assert sampler.steps_per_epoch == 3
    assert {len(sampler.propose().indices) for _ in range(20)} == {32}


def test_weights_are_one_over_n_p():
    x, losses = clusters()
    sampler = make_sampler("nw-sketch", N, 10)
    sampler.bind(x)
    sampler.observe(torch.arange(N), losses)
    p = sampler.probabilities
    indices, weights = sampler.propose()
    torch.testing.assert_close(weights.double(), 1 / (N * p[indices]), rtol=1e-6, atol=0)


def test_tables_decay_once_per_epoch():
    """Reference: gamma^T on every entry."""
    x, losses = clusters()
    sampler = make_sampler("nw-sketch", N, 10, decay=0.5, fraction=0.2, query_every=3)
    sampler.bind(x)
    sampler.observe(torch.arange(N), losses)
    before = sampler.table.clone()
    assert sampler.steps_per_epoch == 8 and sampler.blocks_per_epoch == 3
    for _ in range(8 * 3 + 1):
        sampler.propose()
    assert sampler.epoch == 3
    torch.testing.assert_close(sampler.table, before * 0.125)


def test_old_losses_fade():
    x, losses = clusters()
    sampler = make_sampler("nw-sketch", N, 40, decay=0.3, fraction=0.2, hashes=8)
    sampler.bind(x)
    sampler.observe(torch.arange(N), losses)
    for _ in range(20):
        batch = sampler.propose()
        sampler.observe(batch.indices, torch.full((len(batch.indices),), 0.5))
    p = sampler.probabilities
    assert float(p[1::2].mean() / p[::2].mean()) == pytest.approx(1.0, abs=0.1)


def test_feature_codes_are_refreshed_when_a_sample_is_visited():
    x, losses = clusters()
    sampler = make_sampler("nw-sketch", N, 10, codes="features")
    rows = torch.arange(50)
    sampler.observe(rows, losses[:50], features=x[:50])
    assert sampler.statistics()["coded_samples"] == 50
    first = sampler.codes[:50].clone()
    sampler.observe(rows[:10], losses[:10], features=-x[:10])
    assert not torch.equal(sampler.codes[:10], first[:10]) and torch.equal(sampler.codes[10:50], first[10:])
    with pytest.raises(SettingError, match="features"):
        sampler.observe(rows, losses[:50])


def test_mixtures_add_their_shares():
    """Reference: A and C of each donor's buckets, by hand."""
    x, _ = clusters()
    sampler = make_sampler("nw-sketch", N, 10, repetitions=4)
    sampler.bind(x)
    sampler.observe(torch.tensor([[0, 1]]), torch.tensor([2.0]), weights=torch.tensor([[0.75, 0.25]]))
    expected = torch.zeros_like(sampler.table)
    for donor, share in ((0, 0.75), (1, 0.25)):
        for code in sampler.codes[donor].tolist():
            expected[code] += torch.tensor([2.0 * share, share])
    torch.testing.assert_close(sampler.table, expected)


def test_a_sampler_that_was_not_bound_warns_and_draws_uniformly():
    sampler = make_sampler("nw-sketch", N, 10)
    with pytest.warns(UserWarning, match="bind"):
        _, weights = sampler.propose()
    torch.testing.assert_close(weights, torch.ones(10))
    sampler.observe(torch.arange(10), torch.rand(10, generator=torch.Generator().manual_seed(0)))
    assert not sampler.table.any()


def test_inputs_of_another_length_are_refused():
    with pytest.raises(DataError, match="399"):
        make_sampler("nw-sketch", N, 10).bind(torch.zeros(399, 2))


def test_an_overflowing_loss_does_not_poison_the_sketch():
    x, losses = clusters()
    sampler = make_sampler("nw-sketch", N, 10)
    sampler.bind(x)
    sampler.observe(torch.arange(N), torch.where(torch.arange(N) == 7, torch.inf, losses))
    assert sampler.probabilities.isfinite().all()


@pytest.mark.parametrize("kind", ["srp", "p-stable"])
def test_exact_regression_is_the_limit_of_the_sketch(kind):
    """Reference: the kernel's definition over the rows seen, and a sketch of many tables."""
    x, losses = clusters()
    x, seen = x[:60], torch.arange(25)
    settings = {"hash": kind, "hashes": 3, "width": 2.0, "mixing": 0.0, "correction": "none"}
    exact = make_sampler("nw-sketch", 60, 10, estimator="exact", **settings)
    sketch = make_sampler("nw-sketch", 60, 10, repetitions=4000, **settings)
    for sampler in (exact, sketch):
        sampler.bind(x)
        sampler.observe(seen, losses[seen])
    rows = x.double() - x.double().mean(0)
    rows /= rows.square().sum(1).mean().sqrt()
    if kind == "srp":
        unit = torch.nn.functional.normalize(rows, dim=1)
        kernel = (1 - (unit @ unit.T).clamp(-1, 1).arccos() / torch.pi) ** 3
    else:
        kernel = pstable_collision(torch.cdist(rows, rows), 2.0, 3)
    estimate = kernel[:, seen] @ losses[seen].double() / kernel[:, seen].sum(1)
    torch.testing.assert_close(exact.probabilities, estimate / estimate.sum(), rtol=1e-3, atol=0)
    torch.testing.assert_close(sketch.probabilities, exact.probabilities, rtol=0.15, atol=0)


def test_exact_regression_charges_its_pairs_and_its_questions():
    x, losses = clusters()
    sampler = make_sampler("nw-sketch", N, 10, estimator="exact")
    assert sampler.bind_flops(6) == 2 * N * N * 6
    sampler.bind(x)
    sampler.observe(torch.arange(N), losses)
    with tallied() as tally:
        sampler.propose()
    assert tally.flops == 4 * N * N


def test_exact_regression_compares_inputs_only():
    with pytest.raises(SettingError, match=r"estimator = 'exact': compares inputs.*use 'sketch'"):
        make_sampler("nw-sketch", N, 10, estimator="exact", codes="features")


def test_pairs_that_do_not_fit_into_memory_are_refused_before_any_work():
    with pytest.raises(SettingError, match=r"estimator = 'exact': keeps .* GiB for the pairs of 10000000 samples"):
        make_sampler("nw-sketch", 10_000_000, 10, estimator="exact")


def test_a_state_of_an_earlier_version_which_kept_no_rows_goes_on():
    x, losses = clusters()
    sampler, restored = (make_sampler("nw-sketch", N, 10) for _ in range(2))
    sampler.bind(x)
    sampler.observe(torch.arange(N), losses)
    restored.load_state_dict({name: value for name, value in sampler.state_dict().items() if name != "rows"})
    assert torch.equal(restored.propose().indices, sampler.propose().indices)
