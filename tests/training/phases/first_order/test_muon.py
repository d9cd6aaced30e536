"""Muon on the flat vector against torch.optim.Muon and AdamW on a module's own parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from subsetopt.compare.knobs import Knob, knob_of
from subsetopt.compare.methods import parse_method
from subsetopt.errors import SettingError
from subsetopt.objective import FlatModel
from subsetopt.seeding import seeded_globals
from subsetopt.training.phases.first_order.muon import Muon, check_muon, matrices
from subsetopt.training.settings.run import make_config

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")


def network() -> nn.Module:
    with seeded_globals(0, "init"):
        return nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.Tanh(),
            nn.Conv2d(4, 5, 2),
            nn.Flatten(),
            nn.Linear(20, 6),
            nn.Tanh(),
            nn.Linear(6, 3),
        )


def loss(model: Callable[[Tensor], Tensor], step: int) -> Tensor:
    x = torch.randn(7, 2, 5, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return model(x).square().mean()


def test_the_trajectory_is_that_of_torch_on_the_modules_own_parameters() -> None:
    """Reference: torch.optim.Muon on the linear weight inside, and on the convolution as a matrix (5, 16)."""
    module, rates = network().double(), (0.02, 0.01, 0.03)
    flat = FlatModel(module)
    w = flat.initial().requires_grad_()
    optimizer = Muon(flat, w, 0.02, 0.1)
    convolution = module[2].weight.detach().flatten(1).clone().requires_grad_()
    inner = torch.optim.Muon([convolution, module[4].weight], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    rest = [p for name, p in module.named_parameters() if name not in ("2.weight", "4.weight")]
    adamw = torch.optim.AdamW(rest, weight_decay=0.1)
    for step, rate in enumerate(rates):
        module.zero_grad()
        loss(module, step).backward()
        convolution.grad = module[2].weight.grad.flatten(1)
        inner.param_groups[0]["lr"] = adamw.param_groups[0]["lr"] = rate
        inner.step()
        adamw.step()
        module[2].weight.data = convolution.detach().view(5, 4, 2, 2).clone()
        (w.grad,) = torch.autograd.grad(loss(lambda x: flat.forward(w, x, "train"), step), w)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    expected = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    assert torch.allclose(w.detach(), expected, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(w.detach(), flat.initial(), atol=1e-2)


@pytest.mark.parametrize(
    ("layers", "taken"),
    [
        ([nn.Linear(4, 3)], []),
        ([nn.Linear(4, 5), nn.Linear(5, 3)], [0]),
        ([nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)], [2]),
        ([nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.Conv1d(3, 3, 2), nn.Flatten(), nn.Linear(6, 3)], [4]),
    ],
)
def test_muon_takes_the_matrices_inside(layers: list[nn.Module], taken: list[int]) -> None:
    flat = FlatModel(nn.Sequential(*layers))
    assert matrices(flat) == taken
    if not taken:
        with pytest.raises(SettingError, match="no matrix before its last layer; use adamw"):
            check_muon(flat)


def test_a_torch_without_muon_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(SettingError, match=r"has no Muon; install torch 2\.9, or use adamw"):
        check_muon(FlatModel(network()))


def test_a_comparison_tunes_its_learning_rate() -> None:
    method = parse_method("srs@0.3/muon")
    assert method.settings["handoff_optimizer"] == "muon"
    phases = make_config(parse_method("muon").settings).phases()
    assert knob_of(phases, 0.5) == Knob("lr", 1e-2)
    assert make_config({"warmup": "muon"}).phases()[0].method == "muon"
