"""What a stream takes beside its gradients as networks get wider: operations and memory, counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subsetopt.bench.counters import profiled_peak
from subsetopt.data import dataset_from_arrays
from subsetopt.objective import FlatModel, make_loss, prices
from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.seeding import make_generator
from subsetopt.training import make_config, run_prices, train
from subsetopt.training.phases.kfac_stream import phase as stream_phase


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
    parts = kfac._blocks.counted_eigenvalues()
    numbers = [values.numel() if times is None else int(times.sum()) for values, times in parts]
    assert sum(numbers) == flat.size > 10 * sum(values.numel() for values, _ in parts)
    every = KfacSpectrum.of(kfac.eigenvalues())
    assert torch.equal(kfac.spectrum().counts, every.counts) and torch.equal(kfac.spectrum().values, every.values)
    assert kfac.spectrum().mean == pytest.approx(every.mean, rel=1e-6)


def test_a_product_in_place_takes_no_more_than_twice_the_largest_layer():
    """By layers, each with its bias beside it: before, a second vector of all parameters and three such matrices."""
    kfac, flat = estimated(256)
    v, into = torch.randn(2, flat.size, generator=make_generator(0, "v"))
    largest = 4 * 256 * 785
    assert flat.size > 1.3 * 256 * 785
    for work in (lambda: kfac.apply_(v, 0.1), lambda: kfac.add_applied(into, v, 0.1, 0.5)):
        assert largest <= profiled_peak(work)[1] < 2 * largest


def test_an_estimate_of_a_wide_layer_makes_its_moment_once():
    """Added up in place: the border of the bias took another matrix, the zeros of a new factor one more."""
    flat, x = FlatModel(nn.Linear(1500, 2)), torch.randn(6, 1500, generator=make_generator(0, "x"))
    kfac, moment = Kfac(flat, make_loss("cross_entropy")), 4 * 1501**2
    for _ in range(2):
        peak = profiled_peak(lambda: kfac.update(flat.initial(), x, torch.arange(6) % 2, make_generator(0, "factors")))
        assert moment <= peak[1] < 1.5 * moment


def test_an_estimate_of_convolutions_has_few_patches_at_a_time():
    """Patches of all samples would take nine times the inputs, and as much again with a column of ones beside them."""
    x = torch.randn(128, 8, 32, 32, generator=make_generator(0, "x"))
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    flat = FlatModel(model)
    kfac, w, y = Kfac(flat, make_loss("cross_entropy")), flat.initial(), torch.arange(128) % 2
    _, peak = profiled_peak(lambda: kfac.update(w, x, y, make_generator(0, "factors")))
    assert peak < 1.25 * 9 * x.nbytes, "with inputs, outputs, copies of these and their derivatives"


def test_a_stream_gives_up_its_factors_at_its_end(monkeypatch: pytest.MonkeyPatch):
    """Its phase lives as long as the run: they would lie beside the activations of the evaluation."""
    made = list[Kfac]()
    monkeypatch.setattr(stream_phase, "Kfac", lambda *args, **options: made.append(Kfac(*args, **options)) or made[0])
    data = dataset_from_arrays(torch.randn(300, 5, generator=make_generator(0, "x")), torch.arange(300) % 2)
    settings = {"model": "linear", "solver": "kfac-stream", "solver_epochs": 3, "max_epochs": 3, "handoff": "none"}
    run = train(make_config(settings), dataset=data, keep=False, figure=False)
    assert run.result["phases"][0]["estimates"] > 0
    assert made[0].updates == 0 and not any(t.numel() for t in made[0].state_dict().values() if t.dim())


def test_no_prices_of_products_are_counted_for_a_stream_alone(monkeypatch: pytest.MonkeyPatch):
    """It makes none; the count and its check of symmetry took more memory than everything else."""

    def refused(*_: object) -> dict[str, float]:
        raise AssertionError("counted")

    monkeypatch.setattr(prices, "_product_prices", refused)
    monkeypatch.setattr(run_prices, "_KNOWN_PRICES", {})  # those of models that other tests have counted
    data = dataset_from_arrays(torch.randn(300, 4, generator=make_generator(0, "x")), torch.arange(300) % 2)
    settings = {"model": "linear", "solver": "kfac-stream", "solver_epochs": 3, "max_epochs": 3}
    train(make_config({**settings, "handoff": "none"}), dataset=data, keep=False, figure=False)
    with pytest.raises(AssertionError, match="counted"):
        train(make_config({**settings, "handoff": "full", "handoff_args": {"preconditioner": "kfac"}}), dataset=data)
