"""What a stream takes beside its gradients as networks get wider: operations and memory, counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subsetopt.objective import FlatModel, make_loss
from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.seeding import make_generator


def estimated(width: int) -> tuple[Kfac, FlatModel]:
    """The curvature of a network 784-width-width-10, from few samples; a sketch and bases are as large as ever."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
        flat, x = FlatModel(nn.Sequential(*layers)), torch.randn(12, 784)
    kfac = Kfac(flat, make_loss("cross_entropy"))
    kfac.update(flat.initial(), x, torch.arange(12) % 10, make_generator(0, "factors"))
    return kfac, flat


@pytest.mark.parametrize(("width", "samples"), [(64, 125), (256, 110), (640, 75)])
def test_a_step_costs_as_much_as_a_bounded_number_of_samples_and_no_more_memory_than_soap(width, samples):
    """SOAP keeps two moments and two bases of every matrix (Vyas et al. 2024), and two vectors of Adam's."""
    kfac, flat = estimated(width)
    sample = 2 * 3 * flat.size - 2 * 784 * width  # forward, both products backward, but none with the inputs
    assert kfac.product_flops / sample < samples
    sides = [(784, width), (width, width), (width, 10)]
    soap = 2 * sum(o * o + i * i for i, o in sides) + 2 * flat.size
    tensors = {t.data_ptr(): t.numel() for t in kfac.state_dict().values() if t.numel()}
    assert sum(tensors.values()) + 2 * flat.size < soap, "with the velocity and the last good parameters"


def test_the_spectrum_of_a_wide_network_is_that_of_all_its_eigenvalues_from_a_fraction_of_them():
    kfac, flat = estimated(256)
    values, times = kfac._counted_eigenvalues()
    assert int(times.sum()) == flat.size > 10 * len(values)
    every = KfacSpectrum.of(kfac.eigenvalues())
    assert torch.equal(kfac.spectrum().counts, every.counts) and torch.equal(kfac.spectrum().values, every.values)
    assert kfac.spectrum().mean == pytest.approx(every.mean, rel=1e-6)
