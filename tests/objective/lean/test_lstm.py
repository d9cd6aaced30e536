"""Lean LSTM layers against torch's values, and first and second derivatives against finite differences and torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subsetopt.objective import Objective
from subsetopt.objective.flops import count_flops
from subsetopt.objective.lean.lstm import _Layer
from subsetopt.objective.lean.mode import lean_second_derivatives
from tests.objective.lean.test_mode import randn

OPTIONS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "batch first": {"batch_first": True},
    "without biases": {"bias": False},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True},
    "deep and both ways": {"num_layers": 3, "bidirectional": True, "batch_first": True, "bias": False},
    "dropout, off": {"num_layers": 2, "dropout": 0.5},
    "projected": {"proj_size": 2},
}


def made(options: dict[str, Any]) -> nn.LSTM:
    torch.manual_seed(0)
    return nn.LSTM(2, 3, **options).double().eval()


def second(module: nn.LSTM, inputs: list[Tensor], data: Any, used: tuple[bool, bool, bool]) -> list[Tensor]:
    """Return outputs and a Hessian product of a function of those outputs that are `used`: states, last h, last c."""
    x, *first = inputs
    states, last = module(data(x), tuple(first) if first else None)
    states = states if isinstance(states, Tensor) else states.data
    outputs = [part for part, wanted in zip((states, *last), used, strict=True) if wanted]
    wanted = [part for part in (*inputs, *module.parameters()) if part.requires_grad]
    total = sum(part.sin().sum() for part in outputs)
    gradients = torch.autograd.grad(total, wanted, create_graph=True, materialize_grads=True)
    along = sum((part * torch.linspace(1, 2, part.numel()).view(part.shape)).sum() for part in gradients)
    return [*outputs, *torch.autograd.grad(along, wanted, materialize_grads=True)]


def both_ways(*arguments: Any) -> tuple[list[Tensor], list[Tensor]]:
    with lean_second_derivatives(in_cotangent_only=False):
        found = second(*arguments)
    return found, second(*arguments)


@pytest.mark.parametrize("used", [(True, False, False), (False, True, True), (True, True, True), (False, False, True)])
@pytest.mark.parametrize("name", OPTIONS)
def test_lstm_equals_torch(name: str, used: tuple[bool, bool, bool]) -> None:
    """From a first state that has derivatives of its own; whichever outputs are used."""
    module = made(OPTIONS[name])
    directions = module.num_layers * (2 if module.bidirectional else 1)
    h = randn(directions, 4, module.proj_size or 3, seed=1)
    inputs = [randn(4, 5, 2) if module.batch_first else randn(5, 4, 2), h, randn(directions, 4, 3, seed=2)]
    found, expected = both_ways(module, inputs, lambda x: x, used)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps_of_one_sample_without_a_first_state(steps: int) -> None:
    found, expected = both_ways(made({}), [randn(steps, 2)], lambda x: x, (True, True, True))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", ["input", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0"])
def test_what_is_frozen_changes_no_other(frozen: str) -> None:
    module, x = made({}), randn(4, 3, 2)
    (x if frozen == "input" else getattr(module, frozen)).requires_grad_(False)
    found, expected = both_ways(module, [x], lambda x: x, (True, False, True))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_packed_sequences_are_left_to_torch() -> None:
    module = made({"bidirectional": True})

    def packed(x: Tensor) -> Any:
        return nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3, 1]))

    found, expected = both_ways(module, [randn(5, 3, 2)], packed, (True, True, True))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_derivatives_equal_finite_differences() -> None:
    inputs = [randn(3, 2, 2), randn(2, 3, seed=1), randn(2, 3, seed=2), randn(12, 2, seed=3), randn(12, 3, seed=4)]
    inputs.append(randn(12, seed=5))

    def layer(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        states, c, _ = _Layer.apply(*tensors, False)
        return states, c

    assert torch.autograd.gradcheck(layer, inputs) and torch.autograd.gradgradcheck(layer, inputs)


class Twice(nn.Module):
    """One LSTM called on the sequence and on its own outputs, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.LSTM(3, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, last = self.inner(x)
        return self.head(self.inner(y.tanh(), last)[0][:, -1])


def test_shared_layers_have_products_again_and_again_and_by_turns() -> None:
    """Reference: torch's double backward of the whole loss; H v, G v, H u, H v by turns."""
    torch.manual_seed(0)
    model, x, y = Twice().double(), randn(6, 4, 3).detach(), torch.arange(6) % 2
    objective = Objective(model, x, y, chunk_size=4)
    w = objective.initial()
    parameters = list(model.parameters())

    def hessian(v: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        gradient = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters, create_graph=True)])
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(gradient @ v, parameters)])

    at = objective.linearise(w)
    u, v = torch.linspace(-1, 1, len(w), dtype=w.dtype), torch.linspace(0, 3, len(w), dtype=w.dtype).cos()
    first = at.hvp(v)
    torch.testing.assert_close(first, hessian(v), rtol=0, atol=1e-12)
    curvature = at.ggnvp(v)
    torch.testing.assert_close(at.hvp(u), hessian(u), rtol=0, atol=1e-12)
    assert torch.equal(at.hvp(v), first) and torch.equal(at.ggnvp(v), curvature)
    assert at.note == ""


def test_a_product_of_an_lstm_costs_what_its_matrices_cost() -> None:
    """Per step and sample: W (4H x I) of a first layer twice, U (4H x H) six times; for a gradient both three times."""
    torch.manual_seed(0)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LSTM(5, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)[0][:, -1]

    objective = Objective(Last(), torch.randn(8, 7, 5), torch.arange(8) % 6)
    w = objective.initial()
    at = objective.linearise(w)
    at.hvp(w), at.ggnvp(w)
    step = 2 * 8 * 7 * 24
    # From the zero state on, the first step's product with U is spared on the way forth.
    assert count_flops(lambda: at.hvp(w)) == step * (2 * 5 + 6 * 6) - 2 * 8 * 24 * 6
    assert count_flops(lambda: objective.value_and_gradient(w)) == step * 3 * (5 + 6)
    # A recording makes the products of a gradient, but for that with x, which needs no derivative.
    for kind in ("hvp", "ggnvp"):
        assert count_flops(lambda kind=kind: objective.linearise(w).record(kind)) == step * (2 * 5 + 3 * 6)


@pytest.mark.parametrize(("cotangent_only", "kept"), [(False, 19), (True, 7)])
def test_what_a_graph_keeps(cotangent_only: bool, kept: int) -> None:
    """Numbers (T, n, H): h, four slopes, f and dh/dc; for a Hessian 12 of errors and what their changes take."""
    layer, x = nn.LSTM(3, 64), torch.randn(10, 8, 3)
    with lean_second_derivatives(cotangent_only):
        y = layer(x)[0]
        gradient = torch.autograd.grad(y, layer.weight_hh_l0, torch.ones_like(y, requires_grad=True), create_graph=True)
    node = y.grad_fn
    while not hasattr(node, "state"):
        node = node.next_functions[0][0]
    state = node.state
    assert state.once is None and gradient[0].requires_grad
    records = [state.values] if cotangent_only else [state.values, state.errors]
    numbers = sum(getattr(record, name).numel() for record in records for name in vars(record) if name != "x")
    assert numbers // y.numel() == kept


def test_a_graph_is_not_recorded_twice_with_what_was_freed() -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    with lean_second_derivatives(in_cotangent_only=False):
        y = layer(x)[0]
        torch.autograd.grad(y.sum(), layer.weight_hh_l0, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated twice while its graph is recorded"):
            torch.autograd.grad(y.sum(), layer.weight_hh_l0, create_graph=True)
