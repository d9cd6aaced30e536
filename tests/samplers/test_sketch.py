"""The hash sketch against the exact Nadaraya-Watson estimator."""

import pytest
import torch

from subsetopt.samplers.sketch import (
    draw_hash,
    hash_rows,
    new_table,
    pstable_collision,
    row_statistics,
    sketch_query,
    sketch_update,
)
from subsetopt.seeding import make_generator

CPU = torch.device("cpu")
GENERATOR = make_generator(0, "points")
X = torch.randn(60, 5, generator=GENERATOR)
Q = torch.randn(25, 5, generator=GENERATOR)
SCORES = 1 + X[:, 0].abs() + torch.rand(60, generator=GENERATOR)


def exact_kernel(kind, hashes):
    if kind == "srp":
        normalised = torch.nn.functional.normalize
        angle = (normalised(Q, dim=1) @ normalised(X, dim=1).T).clamp(-1, 1).arccos()
        return (1 - angle / torch.pi) ** hashes
    return pstable_collision(torch.cdist(Q, X), 3.0, hashes)


def estimate(kind, repetitions, hashes, seed):
    hashing = draw_hash(kind, 5, repetitions, hashes, make_generator(seed, "hash"), CPU, width=3.0, buckets=2**15)
    table = new_table(repetitions, hashing.buckets, CPU)
    sketch_update(table, hashing.codes(X), SCORES, torch.ones(60))
    return sketch_query(table, hashing.codes(Q))


@pytest.mark.parametrize("kind", ["srp", "p-stable"])
def test_collisions_have_the_kernel_as_their_probability(kind):
    """Reference: closed-form collision probabilities; 5 binomial standard errors over 1500 pairs."""
    repetitions = 4000
    hashing = draw_hash(kind, 5, repetitions, 2, make_generator(0, "hash"), CPU, width=3.0, buckets=2**15)
    collisions = (hashing.codes(Q)[:, None] == hashing.codes(X)[None]).float().mean(2)
    kernel = exact_kernel(kind, 2)
    error = (kernel * (1 - kernel) / repetitions).sqrt()
    assert ((collisions - kernel).abs() <= 5 * error + 2e-4).all()


@pytest.mark.parametrize("kind", ["srp", "p-stable"])
def test_the_error_falls_like_one_over_the_square_root_of_repetitions(kind):
    """Reference: the exact estimator. Sixteenfold R quarters the error (within 25 %)."""
    kernel = exact_kernel(kind, 2)
    exact = (kernel @ SCORES) / kernel.sum(1)
    errors = []
    for repetitions in (50, 800):
        squares = [(torch.div(*estimate(kind, repetitions, 2, seed)) - exact).square().mean() for seed in range(12)]
        errors.append(float(torch.stack(squares).mean().sqrt()))
    assert errors[1] < 0.05
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.25)


def test_sums_are_those_of_a_loop_over_tables():
    """Reference: the definition, one table and one sample at a time."""
    hashing = draw_hash("srp", 5, 3, 2, make_generator(0, "hash"), CPU)
    codes, table = hashing.codes(X), new_table(3, hashing.buckets, CPU)
    shares = torch.rand(60, generator=make_generator(0, "shares"))
    sketch_update(table, codes, SCORES, shares)
    sums, counts = sketch_query(table, hashing.codes(Q))
    for q, code in enumerate(hashing.codes(Q)):
        hit = (codes == code).float()
        assert float(sums[q]) == pytest.approx(float((hit * (SCORES * shares)[:, None]).sum()), rel=1e-5)
        assert float(counts[q]) == pytest.approx(float((hit * shares[:, None]).sum()), rel=1e-5)


def test_codes_of_rows_do_not_depend_on_chunks_and_repetitions_do_not_share_buckets():
    hashing = draw_hash("srp", 12, 4, 3, make_generator(0, "hash"), CPU)
    rows = torch.randint(0, 256, (5000, 3, 2, 2), dtype=torch.uint8, generator=make_generator(0, "rows"))
    mean, scale = row_statistics(rows)
    flat = rows.flatten(1).float()
    torch.testing.assert_close(mean, flat.mean(0))
    assert float(scale) == pytest.approx(float((flat - flat.mean(0)).square().sum(1).mean().sqrt()), rel=1e-5)
    codes = hash_rows(hashing, rows, mean, scale)
    assert torch.equal(codes[4090:4100], hashing.codes((flat[4090:4100] - mean) / scale))
    assert torch.equal(codes.long() // 8, torch.arange(4).expand(5000, 4))
