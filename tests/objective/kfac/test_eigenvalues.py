"""Eigenvalues in a Kronecker eigenbasis against Fisher blocks that are written out sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from subsetopt.objective import patches as kfac_rows
from subsetopt.objective.kfac import eigenvalues as kfac_eigenvalues
from subsetopt.objective.kfac.eigenvalues import Eigenvalues, product_flops, spectral_product
from subsetopt.objective.kfac.factor import RANK, WIDE, Factor
from subsetopt.objective.patches import patches, sample_rows
from subsetopt.seeding import make_generator

SAMPLES, WIDTH = 6, WIDE * RANK + 8


def random(*shape: int, name: str) -> Tensor:
    return torch.randn(shape, generator=make_generator(3, name), dtype=torch.float64)


def factor(d: int, name: str) -> Factor:
    root = random(d, d, name=name)
    made = Factor.of(root)
    made.moment = root @ root.T
    made.refresh(make_generator(0, "sketch"))
    return made


def whole_basis(made: Factor) -> Tensor:
    """Return the basis, completed by an orthonormal basis of what it leaves out."""
    complete = torch.linalg.qr(torch.cat([made.basis, random(*made.moment.shape, name="more")], 1)).Q
    return torch.cat([made.basis, complete[:, made.basis.shape[1] :]], 1)


def mean_squares(gradients: Tensor, a: Factor, g: Factor) -> Tensor:
    """Return the diagonal of the mean of vec(G_i) vec(G_i)' in the basis U (x) V, as a matrix (o, d)."""
    block = torch.einsum("noa,npb->oapb", gradients, gradients) / len(gradients)
    u, v = whole_basis(g), whole_basis(a)
    return torch.einsum("oapb,oi,pi,aj,bj->ij", block, u, u, v, v)


def assert_are_means_of(values: Eigenvalues, dense: Tensor) -> None:
    """Kept pairs have their own value, the others the mean of those that share one."""
    kept, rank = values.both.shape
    torch.testing.assert_close(values.both, dense[:kept, :rank])
    for found, rows in ((values.left, dense[:kept, rank:]), (values.right, dense[kept:, :rank].T)):
        torch.testing.assert_close(found, rows.mean(1) if rows.shape[1] else torch.zeros(len(rows)).double())
    rest = dense[kept:, rank:]
    assert float(values.rest) == pytest.approx(float(rest.mean()) if rest.numel() else 0.0)
    assert float(values.all(*dense.shape).sum()) == pytest.approx(float(dense.sum()))


@pytest.mark.parametrize("positions", [1, 5])
@pytest.mark.parametrize(("d", "o"), [(7, 4), (WIDTH, 4), (7, WIDTH)])
def test_they_are_the_mean_squares_of_rotated_sample_gradients(positions: int, d: int, o: int) -> None:
    inputs, outputs = random(SAMPLES, positions, d, name="inputs"), random(SAMPLES, positions, o, name="outputs")
    a, g = factor(d, "A"), factor(o, "G")
    pieces = ((inputs[k : k + 4], outputs[k : k + 4]) for k in (0, 4))
    values = Eigenvalues.of(pieces, a, g, SAMPLES)
    assert_are_means_of(values, mean_squares(torch.einsum("nto,ntd->nod", outputs, inputs), a, g))


@pytest.mark.parametrize("positions", [1, 5])
def test_where_both_factors_are_wide(positions: int) -> None:
    inputs, outputs = random(2, positions, WIDTH, name="inputs"), random(2, positions, WIDTH + 1, name="outputs")
    a, g = factor(WIDTH, "A"), factor(WIDTH + 1, "G")
    values = Eigenvalues.of(iter([(inputs, outputs)]), a, g, 2)
    gradients = torch.einsum("nto,ntd->nod", outputs, inputs)
    dense = (whole_basis(g).T @ gradients @ whole_basis(a)).square().mean(0)
    assert_are_means_of(values, dense)


def test_rounding_leaves_no_negative_one() -> None:
    """Of inputs within the basis of a wide factor nothing is left out: squares cancel, to either side of zero."""
    a, g = factor(WIDTH, "A"), factor(3, "G")
    inputs = random(50, 1, RANK, name="within") @ a.basis.T
    values = [
        Eigenvalues.of(iter([(inputs[k : k + 1], random(1, 1, 3, name=str(k)))]), a, g, 1).left for k in range(50)
    ]
    assert torch.cat(values).min() >= 0
    assert torch.cat(values).max() < 1e-12


def test_no_samples_have_no_share() -> None:
    values = Eigenvalues.of(iter(()), factor(3, "A"), factor(2, "G"), 5)
    assert not values.all(2, 3).any()


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(20, 10), (WIDTH, 3), (4, WIDTH), (WIDTH, WIDTH + 1)])
def test_a_spectral_product_is_that_of_the_dense_block(inputs: int, outputs: int, earlier: bool) -> None:
    """Both orders of the products: of an earlier version's factors, whose whole moments say so, and of ours."""
    a, g = factor(inputs, "A"), factor(outputs, "G")
    if earlier:
        a, g = (Factor(each.moment, each.moment, each.basis) for each in (a, g))
    rank, kept = a.basis.shape[1], g.basis.shape[1]
    values = Eigenvalues(*(random(*shape, name=str(shape)).square() for shape in ((kept, rank), (kept,), (rank,), ())))
    matrix, u, v = random(outputs, inputs, name="matrix"), whole_basis(g), whole_basis(a)
    dense = values.rest.expand(outputs, inputs).clone()
    dense[:kept, :rank], dense[:kept, rank:], dense[kept:, :rank] = values.both, values.left[:, None], values.right
    for function in (lambda s: s, lambda s: 1.0 / (s + 0.01)):
        expected = u @ (function(dense) * (u.T @ matrix @ v)) @ v.T
        with FlopCounterMode(display=False) as counter:
            found = spectral_product(a, g, values, matrix.clone(), function)
        torch.testing.assert_close(found, expected)
        assert counter.get_total_flops() <= product_flops(a, g)
        assert earlier or counter.get_total_flops() == product_flops(a, g)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_rows_of_a_convolution_give_the_gradient_of_each_sample(bias: bool, times: int, monkeypatch) -> None:
    monkeypatch.setattr(kfac_rows, "PATCH_BYTES", 2 * times * 2 * 25 * 9 * 8)  # two samples at a time
    module = nn.Conv2d(2, 3, 3, padding=1, bias=bias).double()
    calls = [(random(5, 2, 5, 5, name=f"x{k}"), random(5, 3, 5, 5, name=f"g{k}")) for k in range(times)]
    pieces = list(sample_rows(module, bias, calls))
    assert [len(rows) for rows, _ in pieces] == [2, 2, 1]
    found = torch.cat([g.mT @ rows for rows, g in pieces])
    for index in range(5):
        total = sum((module(x[index : index + 1]) * g[index : index + 1]).sum() for x, g in calls)
        weight, *rest = torch.autograd.grad(total, list(module.parameters()))
        torch.testing.assert_close(found[index][:, :18], weight.flatten(1))
        assert [value.tolist() for value in rest] == ([pytest.approx(found[index][:, 18].tolist())] if bias else [])
    assert patches(module, calls[0][0]).shape == (5, 25, 18)


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": (1, 0, 2), "stride": (1, 2, 1)},
        {"dilation": (2, 1, 1), "padding": "same"},
        {"padding": 1, "padding_mode": "replicate"},
    ],
)
def test_rows_of_a_convolution_in_space_give_the_gradient_of_each_sample(settings) -> None:
    module = nn.Conv3d(2, 3, (2, 3, 1), **settings).double()
    x = random(4, 2, 4, 5, 3, name="x")
    z = module(x)
    g = random(*z.shape, name="g")
    rows, gradients = (torch.cat(parts) for parts in zip(*sample_rows(module, True, [(x, g)]), strict=True))
    for index in range(4):
        total = (module(x[index : index + 1]) * g[index : index + 1]).sum()
        weight, bias = torch.autograd.grad(total, list(module.parameters()))
        expected = torch.cat([weight.flatten(1), bias[:, None]], 1)
        torch.testing.assert_close(gradients[index].T @ rows[index], expected)


@pytest.mark.parametrize("shape", [(6,), (4, 6)])
def test_rows_of_a_linear_layer_give_the_gradient_of_each_sample(shape: tuple[int, ...]) -> None:
    module = nn.Linear(6, 3).double()
    x, g = random(5, *shape, name="x"), random(5, *shape[:-1], 3, name="g")
    ((rows, gradients),) = sample_rows(module, True, [(x, g)])
    for index in range(5):
        total = (module(x[index : index + 1]) * g[index : index + 1]).sum()
        weight, bias = torch.autograd.grad(total, list(module.parameters()))
        torch.testing.assert_close(gradients[index].T @ rows[index], torch.cat([weight, bias[:, None]], 1))


def test_gradients_of_samples_are_made_a_few_at_a_time(monkeypatch) -> None:
    """The same means as of all at once, which checkpoints of earlier versions go on with; the most at a time counts."""
    a, g = factor(20, "A"), factor(10, "G")
    x, y = random(7, 3, 20, name="x"), random(7, 3, 10, name="y")
    expected = Eigenvalues.of(iter([(x, y)]), a, g, 7, bounded=False)
    seen, made = [], kfac_eigenvalues._any_rank
    monkeypatch.setattr(kfac_eigenvalues, "GRADIENT_BYTES", 3 * 20 * 10 * 8)
    monkeypatch.setattr(kfac_eigenvalues, "_any_rank", lambda z, *rest: seen.append(len(z)) or made(z, *rest))
    for one, other in zip(Eigenvalues.of(iter([(x, y)]), a, g, 7).tensors, expected.tensors, strict=True):
        torch.testing.assert_close(one, other)
    assert seen == [3, 3, 1]
    Eigenvalues.of(iter([(x, y)]), a, g, 7, bounded=False)
    assert seen[3:] == [7], "those of earlier versions round as they did"
