"""K-FAC factors, their inverses and their damping on every device against float64 on the CPU, from the same draws."""

from __future__ import annotations

import pytest
import torch
from gpu_cases import close
from torch import nn

from subsetopt.objective import FlatModel, make_loss
from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.kfac.factor import RANK, WIDE
from subsetopt.seeding import make_generator, seeded_globals

MODELS = {
    "linear": lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(12, 3)
    ),
    "norms": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)
    ),
    "tokens": lambda: nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), nn.Linear(24, 3)),
    "wide": lambda: nn.Sequential(nn.Linear(WIDE * RANK + 8, 12), nn.Tanh(), nn.Linear(12, 3)),
}
SHAPES = {"linear": (6,), "convolution": (2, 6, 6), "norms": (6,), "wide": (WIDE * RANK + 8,)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("draw", ["curvature", "labels", "empirical"])
@pytest.mark.parametrize("name", MODELS)
def test_factors_and_damped_inverses_are_those_of_the_cpu(
    name: str, draw: str, dtype: torch.dtype, device: torch.device
) -> None:
    """Two estimates, so that factors are averaged, decomposed anew, and a wide one goes on from its last basis."""
    with seeded_globals(0, name):
        model = MODELS[name]()
    data = make_generator(0, "kfac data")
    x = (
        torch.randint(0, 11, (40, 4), generator=data)
        if name == "tokens"
        else torch.randn(40, *SHAPES[name], generator=data)
    )
    y = torch.arange(40) % 3
    results = []
    for place, kind in ((torch.device("cpu"), torch.float64), (device, dtype)):
        flat = FlatModel(model, dtype=kind, device=place)
        kfac = Kfac(flat, make_loss("cross_entropy"), draw=draw)  # type: ignore[arg-type] # pytest gives str
        inputs = (x if name == "tokens" else x.to(kind)).to(place)
        generator = make_generator(0, "draws")
        for scale in (1.0, 0.5):
            kfac.update(scale * flat.initial(), inputs, y.to(place), generator)
        v = torch.linspace(-1, 1, flat.size, dtype=torch.float64).to(place, kind)
        spectrum = KfacSpectrum.of(kfac.eigenvalues())
        assert kfac.product(v).device.type == place.type
        results.append((kfac.product(v), kfac.apply(v, 0.1), spectrum.mean, generator.get_state(), kfac.state_dict()))
    (product, solved, mean, state, _), (there_product, there_solved, there_mean, there_state, saved) = results
    # Eigenvectors of close eigenvalues turn freely, and with them what is diagonal in them; a random part of a float32
    # uniform draw decides labels.
    loose = {"rtol": 1e-2, "atol": 1e-3 * float(product.abs().max())} if dtype == torch.float32 else {}
    if name == "wide" or dtype == torch.float32:
        assert float((there_product.cpu().double() - product).norm() / product.norm()) < 0.05
        assert float((there_solved.cpu().double() - solved).norm() / solved.norm()) < 0.05
    else:
        close(there_product, product, dtype, **loose)
        close(there_solved, solved, dtype, **loose)
    assert there_mean == pytest.approx(mean, rel=1e-2 if dtype == torch.float32 else 1e-6)
    assert torch.equal(state, there_state), "draws do not depend on the device"
    assert all(t.device.type == device.type for n, t in saved.items() if n != "updates")


@pytest.mark.parametrize("name", ["linear", "convolution", "norms"])
def test_factors_go_on_bit_for_bit_from_what_was_saved(name: str, device: torch.device, repeatable: None) -> None:
    with seeded_globals(0, name):
        model = MODELS[name]()
    x = torch.randn(40, *SHAPES[name], generator=make_generator(0, "kfac data")).to(device)
    y = (torch.arange(40) % 3).to(device)
    flat = FlatModel(model, device=device)
    kfac, again = (Kfac(flat, make_loss("cross_entropy")) for _ in range(2))
    generator = make_generator(0, "draws")
    kfac.update(flat.initial(), x, y, generator)
    again.load_state_dict({name: tensor.clone() for name, tensor in kfac.state_dict().items()})
    other = torch.Generator()
    other.set_state(generator.get_state())
    kfac.update(0.5 * flat.initial(), x, y, generator)
    again.update(0.5 * flat.initial(), x, y, other)
    v = torch.linspace(-1, 1, flat.size, device=device)
    assert torch.equal(kfac.apply(v, 0.1), again.apply(v, 0.1))
