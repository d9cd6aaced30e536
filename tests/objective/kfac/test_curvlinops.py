"""Our EKFAC against that of curvlinops: the same factors, eigenvalues of the samples, and products.

Of its settings, `kfac_approx="expand"` (its default: positions independent) and `separate_weight_and_bias=False` (the
bias as last column of A) are our conventions. Its Monte-Carlo Fisher draws other labels than ours, so the empirical
Fisher, which draws nothing, is compared. Install `curvlinops-for-pytorch` to run it.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from subsetopt.objective import FlatModel, make_loss
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.seeding import make_generator

curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch (extra [test]) is not installed")

MLP = [nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)]
CNN = [nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, 3)]


@pytest.mark.parametrize(("layers", "shape"), [(MLP, (5,)), (CNN, (2, 4, 4))], ids=["mlp", "cnn"])
def test_products_are_those_of_curvlinops(layers: list[nn.Module], shape: tuple[int, ...]) -> None:
    generator = make_generator(0, "curvlinops")
    model = nn.Sequential(*layers).double()
    x = torch.randn(12, *shape, generator=generator, dtype=torch.float64)
    y = torch.arange(12) % 3
    flat = FlatModel(model)
    ours = Kfac(flat, make_loss("cross_entropy"), draw="empirical")
    ours.update(flat.initial(), x, y, make_generator(1, "positions"))
    theirs = curvlinops.EKFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [(x, y)],
        fisher_type="empirical",
        separate_weight_and_bias=False,
    )
    for _ in range(3):
        v = torch.randn(flat.size, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(ours.product(v), theirs @ v, rtol=1e-9, atol=1e-12)
