"""Directions left by a damping against their sum over all eigenvalues, and K-FAC's eigenvalues against dense ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subsetopt.bench.counters import profiled_peak
from subsetopt.objective import FlatModel, make_loss
from subsetopt.objective.host import observe_reads
from subsetopt.objective.kfac import damping as kfac_damping
from subsetopt.objective.kfac.damping import FLOOR, KfacSpectrum
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.seeding import make_generator, seeded_globals


def eigenvalues() -> torch.Tensor:
    return torch.randn(5000, generator=make_generator(0, "rows"), dtype=torch.float64).mul(3).exp()


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_directions_are_the_sum_over_all_eigenvalues(damping):
    f = eigenvalues()
    exact = float((f / (f + damping)).square().sum())
    assert KfacSpectrum.of(f).directions(damping) == pytest.approx(exact, rel=5e-3)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_damping_leaves_the_directions_asked_for_whatever_the_scale(scale):
    f = scale * eigenvalues()
    damping = KfacSpectrum.of(f).damping(100.0)
    assert float((f / (f + damping)).square().sum()) == pytest.approx(100.0, rel=5e-3)


def test_damping_never_falls_below_its_floor():
    f = eigenvalues()
    assert KfacSpectrum.of(f).damping(1e9) == pytest.approx(FLOOR * float(f.mean()))
    for nothing in (torch.zeros(4), torch.zeros(0)):
        assert 0 < KfacSpectrum.of(nothing).damping(1.0) < 1e-300


@pytest.mark.parametrize("counted", [False, True])
def test_a_spectrum_is_taken_in_blocks(counted, monkeypatch):
    f, times = eigenvalues(), 1 + torch.arange(5000) % 3 if counted else None
    expected = KfacSpectrum.of(f if times is None else f.repeat_interleave(times))
    monkeypatch.setattr(kfac_damping, "BLOCK", 999)
    found = KfacSpectrum.of(f, times)
    assert torch.equal(found.counts, expected.counts) and torch.equal(found.values, expected.values)
    assert found.mean == pytest.approx(expected.mean, rel=1e-12)


@pytest.mark.parametrize("block", [100, 999, 1 << 18])
def test_a_spectrum_in_parts_has_the_bits_of_that_in_one_tensor(block, monkeypatch):
    monkeypatch.setattr(kfac_damping, "BLOCK", block)
    f, times = eigenvalues(), 1 + torch.arange(5000) % 3
    times[4000:] = 1
    sizes = [0, 1, 998, 1, 2000, 1000, 1000]
    parts = list(zip(f.split(sizes), times.split(sizes), strict=True))
    found = KfacSpectrum.of_parts([*parts[:-1], (parts[-1][0].view(10, 100), None)])
    expected = KfacSpectrum.of(f, times)
    assert torch.equal(found.counts, expected.counts) and torch.equal(found.values, expected.values)
    assert found.mean == expected.mean


def test_the_spectrum_of_many_diagonal_eigenvalues_takes_blocks_of_memory(monkeypatch):
    """Before, as much as six vectors of the parameters: all eigenvalues in a row, and how often each occurs."""
    with seeded_globals(0, "embedding"):
        flat = FlatModel(nn.Sequential(nn.Embedding(20_000, 16), nn.Flatten(), nn.Linear(64, 2)))
    x, y = torch.arange(32).view(8, 4), torch.arange(8) % 2
    kfac = Kfac(flat, make_loss("cross_entropy"))
    kfac.update(flat.initial(), x, y, make_generator(0, "kfac"))
    monkeypatch.setattr(kfac_damping, "BLOCK", 1 << 14)
    spectrum, peak = profiled_peak(kfac.spectrum)
    assert peak < 4 * flat.size
    assert float(spectrum.counts.sum()) == int((kfac.eigenvalues() > 1e-12 * kfac.eigenvalues().max()).sum())


def test_one_read_of_the_host():
    reads: list[None] = []
    with observe_reads(lambda: reads.append(None)):
        KfacSpectrum.of(eigenvalues())
    assert len(reads) == 1


def test_eigenvalues_are_those_of_the_dense_matrix():
    with seeded_globals(0, "kfac spectrum"):
        flat = FlatModel(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False)).double())
        x, y = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 2
    kfac = Kfac(flat, make_loss("cross_entropy"))
    kfac.update(flat.initial(), x, y, make_generator(0, "kfac"))
    dense = torch.stack([kfac.product(row) for row in torch.eye(flat.size, dtype=torch.float64)])
    found = kfac.eigenvalues().sort().values
    torch.testing.assert_close(found, torch.linalg.eigvalsh(dense), atol=1e-12, rtol=1e-9)
