"""Every chooser does its paper's job: informative samples and noise are planted, and what is picked is counted.

The planted set: 300 rows of 3 classes, of which a sixth are mislabelled and half are easy (their probabilities are near
their labels); the others are informative. Reference for each method: its paper's own objective, by brute force or
against random subsets of the same size.
"""

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy

from subsetopt.samplers import Scan, make_sampler
from subsetopt.samplers.last_layer import residuals
from subsetopt.samplers.methods.craig import gradient_similarity
from subsetopt.seeding import make_generator

N, CLASSES = 300, 3
EASY, HARD, WRONG = 0, 1, 2


@pytest.fixture(scope="module")
def planted():
    """Return scan, validation scan, what each row is, losses and probabilities."""
    generator = make_generator(0, "planted")
    kind = torch.tensor([EASY] * 150 + [HARD] * 100 + [WRONG] * 50)[torch.randperm(N, generator=generator)]
    true = torch.randint(CLASSES, (N,), generator=generator)
    certainty = torch.where(kind == HARD, 0.3, 6.0)
    outputs = certainty[:, None] * torch.eye(CLASSES)[true] + 0.2 * torch.randn(N, CLASSES, generator=generator)
    targets = torch.where(kind == WRONG, (true + 1) % CLASSES, true)
    probabilities = outputs.softmax(1)
    features = torch.eye(CLASSES)[true] + 0.1 * torch.randn(N, CLASSES, generator=generator)
    # Held-out rows are rightly labelled, and the model is undecided about them, most about class 0.
    held_out = torch.tensor([0] * 60 + [1] * 20 + [2] * 20)
    moderate = (0.5 * torch.eye(CLASSES)[held_out] + 0.1 * torch.randn(100, CLASSES, generator=generator)).softmax(1)
    validation = Scan(residuals(moderate, held_out), torch.eye(CLASSES)[held_out], held_out)
    losses = -probabilities.gather(1, targets[:, None])[:, 0].log()
    return Scan(residuals(probabilities, targets), features, targets), validation, kind, losses, probabilities


def random_subsets(k, repeats, seed=1):
    generator = make_generator(seed, "random subsets")
    return [torch.randperm(N, generator=generator)[:k] for _ in range(repeats)]


def validation_loss_after(scan, validation, rows, eta):
    """Return the held-out loss after the step of the biases along the summed gradients of `rows`."""
    one_hot = torch.eye(CLASSES)[validation.targets]
    outputs = (validation.residuals + one_hot).log() - eta * scan.residuals[rows].sum(0)
    return float(cross_entropy(outputs, validation.targets))


@pytest.mark.parametrize("epsilon", [0.0, 0.01])
def test_glister_lowers_the_validation_loss_below_every_random_subset(planted, epsilon):
    """Reference: 200 random subsets of the same size."""
    scan, validation, *_ = planted
    sampler = make_sampler("glister", N, 10, fraction=0.1, warmup=0, eta=0.05, epsilon=epsilon)
    sampler.refresh(scan, validation)
    loss = validation_loss_after(scan, validation, sampler.subset, 0.05)
    assert len(sampler.subset.unique()) == 30
    assert loss < min(validation_loss_after(scan, validation, rows, 0.05) for rows in random_subsets(30, 200))
    pushed = torch.eye(CLASSES)[scan.targets[sampler.subset]].mean(0)
    assert pushed.argmax() == 0 and pushed[0] < 1  # most of the class that is held out most, never one class alone


def test_glister_avoids_mislabelled_rows_where_they_hurt(planted):
    """Rows of class 0 under the label 1 have gradients that push class 0 down, which is held out most.

    Reference: a random subset has its share of them.
    """
    scan, validation, kind, _, _ = planted
    sampler = make_sampler("glister", N, 10, fraction=0.1, warmup=0, eta=0.01, epsilon=0)
    sampler.refresh(scan, validation)
    hurting = (kind == WRONG) & (scan.targets == 1)
    assert not hurting[sampler.subset].any()
    assert sum(int(hurting[rows].sum()) for rows in random_subsets(30, 20)) > 20


def test_glister_picks_one_at_a_time(planted):
    """Reference: greedy by hand, the Taylor gain of every free row before every pick; bulk picks differ."""
    scan, validation, *_ = planted
    sampler = make_sampler("glister", N, 10, fraction=0.04, warmup=0, eta=0.5, epsilon=0)
    sampler.refresh(scan, validation)
    one_hot = torch.eye(CLASSES)[validation.targets]
    picks, step = [], torch.zeros(CLASSES)
    for _ in range(12):
        outputs = (validation.residuals + one_hot).log() - 0.5 * step
        gains = scan.residuals @ (outputs.softmax(1) - one_hot).mean(0)
        gains[picks] = -torch.inf
        picks.append(int(gains.argmax()))
        step += scan.residuals[picks[-1]]
    assert sampler.subset.tolist() == picks
    first = scan.residuals @ ((validation.residuals + one_hot).softmax(1) - one_hot).mean(0)
    assert set(picks) != set(first.topk(12).indices.tolist())


def test_glister_takes_all_rows_at_a_fraction_of_one(planted):
    scan, validation, *_ = planted
    sampler = make_sampler("glister", N, 10, fraction=1.0, warmup=0)
    sampler.refresh(scan, validation)
    assert sampler.subset.sort().values.tolist() == list(range(N))


def test_craig_is_near_the_best_subset_of_all():
    """Reference: the best of all 220 subsets of 3 of 12 rows; greedy reaches 1 - 1/e of it by theory, more in fact."""
    e = torch.randn(12, 3, generator=make_generator(2, "craig"))
    sampler = make_sampler("craig", 12, 3, fraction=0.25, warmup=0)
    sampler.refresh(Scan(e, torch.zeros(12, 1), torch.zeros(12, dtype=torch.int64)))
    s = gradient_similarity(e)(torch.arange(12))
    value = float(s[sampler.subset].max(0).values.sum())
    best = max(float(s[list(rows)].max(0).values.sum()) for rows in itertools.combinations(range(12), 3))
    assert value >= 0.95 * best
    owners = torch.bincount(s[sampler.subset].argmax(0), minlength=3)
    assert sampler.subset_weights.tolist() == owners.tolist()


@pytest.mark.parametrize("gradients", ["outputs", "last-layer"])
def test_craig_covers_clusters_and_weighs_them_by_their_size(gradients):
    """Reference: five planted clusters of 40, 20, 10, 5 and 1 rows, duplicates among them; one medoid each."""
    generator = make_generator(0, "clusters")
    centres = 5 * torch.randn(5, 4, generator=generator)
    sizes = torch.tensor([40, 20, 10, 5, 1])
    cluster = torch.arange(5).repeat_interleave(sizes)
    e = centres[cluster] + 0.01 * torch.randn(76, 4, generator=generator)
    e[:20] = e[0]
    scan = Scan(e, torch.ones(76, 2), torch.zeros(76, dtype=torch.int64))
    sampler = make_sampler("craig", 76, 5, fraction=5 / 76, warmup=0, gradients=gradients)
    sampler.refresh(scan)
    order = cluster[sampler.subset].argsort()
    assert cluster[sampler.subset][order].tolist() == [0, 1, 2, 3, 4]
    assert sampler.subset_weights[order].tolist() == sizes.tolist()


@pytest.mark.parametrize(("block_rows", "fraction"), [(2, 0.1), (7, 0.3), (40, 0.3), (40, 0.03), (1000, 0.3)])
def test_craig_in_blocks_stands_for_every_row(block_rows, fraction, planted):
    """Weights sum to the size of each class, whatever the blocks; picks are distinct and as many as asked for."""
    scan, *_ = planted
    sampler = make_sampler("craig", N, 10, fraction=fraction, warmup=0, block_rows=block_rows)
    sampler.refresh(scan)
    weights = torch.zeros(CLASSES).index_add_(0, scan.targets[sampler.subset], sampler.subset_weights)
    torch.testing.assert_close(weights, torch.bincount(scan.targets).float())
    assert len(sampler.subset.unique()) == len(sampler.subset) == int(fraction * N + 1e-9)


def test_craig_in_blocks_is_nearly_as_near_as_without(planted):
    """Reference: the mean distance to the nearest pick without blocks, and that of random picks."""
    scan, *_ = planted

    def distance(rows):
        return float(torch.cdist(scan.residuals, scan.residuals[rows]).min(1).values.mean())

    picks = []
    for block_rows in (1000, 25):
        sampler = make_sampler("craig", N, 10, fraction=0.1, warmup=0, block_rows=block_rows)
        sampler.refresh(scan)
        picks.append(distance(sampler.subset))
    at_random = sum(distance(rows) for rows in random_subsets(30, 20)) / 20
    assert picks[0] <= picks[1] < 0.5 * (picks[0] + at_random)


def test_gradmatch_is_nearer_to_the_full_gradient_than_every_random_subset(planted):
    """Reference: the written-out last-layer gradient; 200 random subsets of the same size, weighted N / k."""
    scan, *_ = planted
    g = torch.einsum("nm,nd->nmd", scan.residuals, torch.cat((scan.features, torch.ones(N, 1)), 1)).flatten(1)
    sampler = make_sampler("gradmatch", N, 10, fraction=0.1, warmup=0)
    sampler.refresh(scan)
    assert len(sampler.subset) <= 30

    def error(rows, weights):
        return float((weights @ g[rows] - g.sum(0)).norm() / g.sum(0).norm())

    assert error(sampler.subset, sampler.subset_weights) < 0.1
    assert min(error(rows, torch.full((30,), N / 30)) for rows in random_subsets(30, 200)) > 0.1


def test_gradient_matching_is_nearer_to_the_batch_than_every_random_part(planted):
    """Reference: the mean last-layer gradient of a batch of 60; 200 random quarters of it."""
    scan, _, _, losses, probabilities = planted
    sampler = make_sampler("gradient-matching", N, 60, fraction=0.25)
    batch = sampler.propose()
    i = batch.indices
    kept = sampler.select(batch, losses[i], probabilities[i], scan.features[i], scan.targets[i])
    g = torch.einsum("nm,nd->nmd", scan.residuals, torch.cat((scan.features, torch.ones(N, 1)), 1)).flatten(1)
    mean = g[i].mean(0)
    error = float(((kept.weights[:, None] * g[kept.indices]).mean(0) - mean).norm())
    generator = make_generator(1, "parts")
    parts = [i[torch.randperm(60, generator=generator)[:15]] for _ in range(200)]
    assert set(kept.indices.tolist()) <= set(i.tolist()) and len(kept.indices) <= 15
    assert error < 0.5 * min(float((g[rows].mean(0) - mean).norm()) for rows in parts)


def test_selective_backprop_trains_on_high_losses_at_the_stated_rate(planted):
    """Reference: acceptance u^beta, u the share of losses strictly below; 5 binomial standard errors per kind."""
    _, _, kind, losses, _ = planted
    sampler = make_sampler("selective-backprop", N, 10, fraction=0.5, history=N)
    accepted = torch.zeros(N)
    offered = torch.zeros(N)
    while sampler.epoch < 40:
        batch = sampler.propose()
        if sampler.selection_due:
            offered[batch.indices] += 1
            batch = sampler.select(batch, losses[batch.indices])
            if batch is not None:
                accepted.index_add_(0, batch.indices, torch.ones(len(batch.indices)))
        else:
            sampler.observe(batch.indices, losses[batch.indices])
    below = (losses[:, None] > losses).float().mean(1)
    for each in (EASY, HARD, WRONG):
        rows = kind == each
        rate, count = float(accepted[rows].sum() / offered[rows].sum()), float(offered[rows].sum())
        expected = float(below[rows].mean())
        assert abs(rate - expected) < 5 * (expected * (1 - expected) / count) ** 0.5 + 10 / count
    assert accepted[kind == WRONG].mean() > accepted[kind == HARD].mean() > accepted[kind == EASY].mean()


@pytest.mark.parametrize(
    ("settings", "whole"),
    [({}, 30), ({"total_steps": 30}, 3), ({"total_steps": 60, "warmup": 0.25}, 15), ({"total_steps": 3000}, 30)],
)
def test_selective_backprop_selects_within_a_short_training(settings, whole, planted):
    """The paper's warm-up is an epoch, 30 batches here; a training of one epoch warms up for a tenth of it."""
    *_, losses, _ = planted
    sampler = make_sampler("selective-backprop", N, 10, **settings)
    selected = []
    for _ in range(60):
        batch = sampler.propose()
        selected.append(sampler.selection_due)
        batch = sampler.select(batch, losses[batch.indices])
        if batch is not None:
            sampler.observe(batch.indices, losses[batch.indices])
    assert selected == [False] * whole + [True] * (60 - whole)


@pytest.mark.parametrize(("name", "score"), [("p-sgd", lambda s: s), ("c-sgd", lambda s: s * (1 - s))])
def test_budgeted_importance_draws_by_the_papers_probabilities(name, score, planted):
    """Reference: P_i = (c_i + mean c) / (2 N mean c) by hand, and the share of draws of each kind with replacement."""
    scan, _, kind, losses, probabilities = planted
    sampler = make_sampler(name, N, N, fraction=1.0, replacement=True)
    everything = torch.arange(N)
    sampler.observe(everything, losses, probabilities, targets=scan.targets)
    c = score(1 - probabilities.gather(1, scan.targets[:, None])[:, 0]).double()
    expected = (c + c.mean()) / (2 * N * c.mean())
    torch.testing.assert_close(sampler.probabilities, expected, rtol=1e-4, atol=1e-8)
    drawn = torch.cat([sampler.propose().indices for _ in range(100)])
    for each in (EASY, HARD, WRONG):
        share, p = float((kind[drawn] == each).float().mean()), float(expected[kind == each].sum())
        assert abs(share - p) < 5 * (p * (1 - p) / len(drawn)) ** 0.5
    mean = {each: float(expected[kind == each].mean()) for each in (EASY, HARD, WRONG)}
    dearest = WRONG if name == "p-sgd" else HARD  # a model that is certain and wrong is undecided about nothing
    assert max(mean, key=mean.get) == dearest


def test_nw_sketch_estimates_losses_as_exact_kernel_regression_does():
    """Reference: sum_j k(x, x_j) l_j / sum_j k(x, x_j), k = (1 - angle / pi)^K, over the rows seen (half of them)."""
    generator = make_generator(0, "sketch")
    x = torch.nn.functional.normalize(torch.randn(N, 3, generator=generator), dim=1)
    losses = 1 + x[:, 0].sign() * 0.8  # informative on one side
    sampler = make_sampler("nw-sketch", N, 50, repetitions=512, hashes=4, mixing=0.0, correction="none")
    sampler.bind(x)
    seen = torch.randperm(N, generator=generator)[: N // 2]
    sampler.observe(seen, losses[seen])
    centred = (x - x.mean(0)).double()
    centred = torch.nn.functional.normalize(centred, dim=1)
    kernel = (1 - (centred @ centred[seen].T).clamp(-1, 1).arccos() / torch.pi) ** 4
    exact = kernel @ losses[seen].double() / kernel.sum(1)
    torch.testing.assert_close(sampler.probabilities, exact / exact.sum(), rtol=0.15, atol=0)
    high = losses > 1
    drawn = torch.cat([sampler.propose().indices for _ in range(60)])
    assert high[drawn].double().mean() > high.double().mean() + 0.1
