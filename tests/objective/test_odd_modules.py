"""Odd modules: loss, gradient and products against torch's autograd in float64, and prices that leave graphs alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from subsetopt.errors import ModelError
from subsetopt.objective import FlatModel, Objective, calibrate_prices, evaluate_split, make_loss
from subsetopt.objective.flops import count_flops
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.seeding import make_generator, seeded_globals
from tests.objective.odd_modules import IN, ODD, OUT, Forces, InPlace

SAMPLES = 23


def problem(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    with seeded_globals(0, name):
        model = ODD[name]()
    # nn.Module.double would drop the imaginary part of a buffer.
    wide = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    model._apply(lambda tensor: tensor.to(wide.get(tensor.dtype, tensor.dtype)))
    generator = make_generator(1, "odd data")
    x = torch.randn(SAMPLES, IN, generator=generator, dtype=torch.float64)
    return model, x, torch.randint(0, OUT, (SAMPLES,), generator=generator)


class WrittenOutWeightNorm(TorchFunctionMode):
    """By its formula: torch 2.13's own fails `torch.autograd.gradgradcheck`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:
            v, g, dim = args
            assert dim == 0
            return v * g / v.square().sum(1, keepdim=True).sqrt()
        return func(*args, **(kwargs or {}))


def dense_outputs(model: nn.Module, flat: FlatModel, w: Tensor, x: Tensor) -> Tensor:
    """Outputs by torch's own `functional_call` on a fresh copy of the inputs."""
    parameters, start = {}, 0
    for name, shape in zip(flat.names, flat.shapes, strict=True):
        parameters[name] = w[start : start + shape.numel()].view(shape)
        start += shape.numel()
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        WrittenOutWeightNorm(),
        torch.enable_grad(),
    ):
        return functional_call(copy.deepcopy(model).eval(), parameters, (x.clone(),))


@pytest.mark.parametrize("name", ODD)
def test_loss_gradient_and_products_equal_those_of_dense_autograd(name: str) -> None:
    model, x, y = problem(name)
    given, parameters = x.clone(), [p.detach().clone() for p in model.parameters()]
    objective = Objective(model, x, y, l2=0.1, chunk_size=7)
    w = objective.initial() + 0.1

    def loss(w: Tensor) -> Tensor:
        return F.cross_entropy(dense_outputs(model, objective.flat, w, x), y) + 0.05 * w.square().sum()

    hessian = torch.autograd.functional.hessian(loss, w)
    jacobian = torch.autograd.functional.jacobian(lambda w: dense_outputs(model, objective.flat, w, x), w)
    p = dense_outputs(model, objective.flat, w, x).detach().softmax(1)
    in_outputs = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    gauss_newton = torch.einsum("nip,nij,njq->pq", jacobian, in_outputs, jacobian) / SAMPLES

    value, gradient = objective.value_and_gradient(w)
    at = w.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(at), at)
    products, v = objective.linearise(w), torch.randn(len(w), generator=make_generator(2, "v"), dtype=torch.float64)
    torch.testing.assert_close(value, loss(w).detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(objective.value(w), value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(products.hvp(v), hessian @ v, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(products.ggnvp(v), gauss_newton @ v + 0.1 * v, rtol=1e-9, atol=1e-12)
    assert not objective.by_differences
    assert torch.equal(x, given) and all(map(torch.equal, model.parameters(), parameters))


@pytest.mark.parametrize("name", ODD)
def test_odd_modules_have_prices_kfac_and_metrics(name: str) -> None:
    model, x, y = problem(name)
    flat, given = FlatModel(model), x.clone()
    prices = calibrate_prices(flat, x[:8], y[:8])
    assert 0 < prices["forward"] < 1 == prices["gradient"] <= prices["hvp"]
    kfac = Kfac(flat, make_loss("cross_entropy"))
    if name == "functional forces":
        with pytest.raises(ModelError, match=r"inside torch.func .* use a solver without K-FAC"):
            kfac.update(flat.initial(), x, y, make_generator(0, "kfac"))
        return
    kfac.update(flat.initial(), x, y, make_generator(0, "kfac"))
    assert bool(torch.isfinite(kfac.apply(flat.initial(), 0.1)).all())
    metrics = evaluate_split(flat, flat.initial(), x, y, chunk_size=6)
    outputs = dense_outputs(model, flat, flat.initial(), x).detach()
    assert metrics["loss"] == pytest.approx(float(F.cross_entropy(outputs, y)), rel=1e-12)
    assert torch.equal(x, given)


def test_counts_are_those_of_torchs_flop_counter() -> None:
    model, x, y = problem("gru")

    def gradient() -> None:
        F.cross_entropy(model(x), y).backward()

    with FlopCounterMode(display=False) as counter:
        gradient()
    assert count_flops(gradient) == counter.get_total_flops() > 0


def test_old_weight_norm_is_copied_and_trained_through() -> None:
    layer = nn.utils.weight_norm(nn.Linear(IN, OUT).double())  # its weight is no leaf from the start
    _, x, y = problem("gru")
    objective = Objective(layer, x, y)
    _, gradient = objective.value_and_gradient(objective.initial())
    F.cross_entropy(layer(x), y).backward()
    expected = torch.cat([parameter.grad.reshape(-1) for _, parameter in layer.named_parameters()])
    torch.testing.assert_close(gradient, expected)
    assert isinstance(objective.flat.module(objective.initial()), nn.Linear)


def test_a_module_under_torch_compile_is_the_module_itself() -> None:
    model, x, y = problem("weight_norm")
    plain = Objective(model, x, y)
    compiled = torch.compile(copy.deepcopy(model))
    nested = nn.Sequential(torch.compile(copy.deepcopy(model)))
    for wrapped in (compiled, nested):
        objective = Objective(wrapped, x, y)
        w = objective.initial() + 0.1
        torch.testing.assert_close(objective.value(w), plain.value(w), rtol=0, atol=0)
        objective.flat.write_back(w, wrapped)
        torch.testing.assert_close(torch.cat([p.detach().reshape(-1) for p in wrapped.parameters()]), w)


class SometimesInPlace(InPlace):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(x if type(self).calls > 4 else x.clone())


def test_a_change_of_inputs_that_comes_later_is_refused() -> None:
    _, x, y = problem("gru")
    objective = Objective(SometimesInPlace().double(), x, y)
    with pytest.raises(ModelError, match=r"changes its inputs in place; start it with x = x.clone\(\)"):
        for _ in range(3):
            objective.value(objective.initial())


def test_forces_are_evaluated_without_gradients_of_parameters() -> None:
    model, x, _ = problem("forces")
    flat = FlatModel(model)
    with torch.no_grad():
        outputs = flat.forward(flat.initial(), x, "eval")
    assert flat.differentiates and not outputs.requires_grad and not x.requires_grad
    assert isinstance(model, Forces)
