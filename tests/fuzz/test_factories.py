"""Random modules and factories: loss, gradient and products by torch's autograd, or one line that says why not."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from subsetopt import SubsetTrainer
from subsetopt.data import dataset_from_arrays
from subsetopt.errors import UserError
from subsetopt.models import build_model
from subsetopt.objective import Objective
from subsetopt.seeding import make_generator, seeded_globals

QUICK = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
WIDTH, OUTPUTS, SAMPLES = 4, 2, 22


class Apply(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class Scale(nn.Module):
    """A parameter of some dtype, trainable or not, or shared with nothing."""

    def __init__(self, dtype: torch.dtype, trainable: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH).to(dtype), requires_grad=trainable)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.scale.real if self.scale.is_complex() else self.scale)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(1, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(2)
        return self.attention(tokens, tokens, tokens)[0].squeeze(2)


class Gradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x if x.requires_grad else x.requires_grad_()
            return torch.autograd.grad(self.energy(at).sum(), at, create_graph=True)[0]


def tied() -> nn.Module:
    first, second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


def hooked() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    layer.register_forward_hook(lambda module, inputs, output: output * 2)
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return layer


def recurrent() -> nn.Module:
    cell = nn.GRU(WIDTH, WIDTH, batch_first=True)
    return nn.Sequential(Apply(lambda x: x.unsqueeze(1)), cell, Apply(lambda pair: pair[0][:, 0]))


def linear() -> nn.Module:
    return nn.Linear(WIDTH, WIDTH)


# name -> (usable, module from (n, WIDTH) to (n, WIDTH)); usable: it must not be refused.
PARTS: dict[str, tuple[bool, Callable[[], nn.Module]]] = {
    "linear": (True, linear),
    "tanh": (True, nn.Tanh),
    "relu in place": (True, lambda: nn.ReLU(inplace=True)),
    "dropout": (True, lambda: nn.Dropout(0.5)),
    "layer norm": (True, lambda: nn.LayerNorm(WIDTH)),
    "instance norm": (True, lambda: nn.Sequential(nn.Unflatten(1, (1, WIDTH)), nn.InstanceNorm1d(1), nn.Flatten())),
    "weight norm": (True, lambda: parametrizations.weight_norm(linear())),
    "spectral norm": (True, lambda: parametrizations.spectral_norm(linear())),
    "orthogonal": (True, lambda: parametrizations.orthogonal(linear())),
    "attention": (True, Attention),
    "gradient": (True, Gradient),
    "tied": (True, tied),
    "hooked": (True, hooked),
    "recurrent": (True, recurrent),
    "frozen": (True, lambda: linear().requires_grad_(False)),
    "other precision": (True, lambda: linear().float()),
    "lazy": (False, lambda: nn.LazyLinear(WIDTH)),
    "half": (True, lambda: Scale(torch.bfloat16, trainable=True)),
    "integers": (True, lambda: Scale(torch.int64, trainable=False)),
    "complex": (False, lambda: Scale(torch.complex64, trainable=True)),
    "meta": (False, lambda: linear().to("meta")),
    "in place": (True, lambda: Apply(lambda x: x.mul_(0.5))),
    "batch mean": (False, lambda: Apply(lambda x: x - x.mean(0))),
    "batch size": (False, lambda: Apply(lambda x: x / len(x))),
    "noise": (False, lambda: Apply(lambda x: x + torch.rand_like(x))),
    "nan": (False, lambda: Apply(lambda x: (x - 1e9).log())),
    "detached": (False, lambda: Apply(lambda x: x.detach())),
    "tuple": (False, lambda: Apply(lambda x: (x, x))),
    "nothing": (False, lambda: Apply(lambda x: None)),
    "transposed": (False, lambda: Apply(lambda x: x.T)),
    "fails": (False, lambda: Apply(lambda x: x @ torch.ones(WIDTH + 1, 1, dtype=x.dtype))),
    "exits": (False, lambda: Apply(lambda x: sys.exit(3))),
    "scripted": (False, lambda: torch.jit.script(nn.Sequential(linear()))),
    "generator": (False, lambda: Apply(lambda x, g=(i for i in range(3)): x + next(g))),
}
MODULES = st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=4)


def net(names: list[str], seed: int) -> nn.Module:
    with seeded_globals(seed, "fuzzed modules"):
        parts = [PARTS[name][1]() for name in names]
        return nn.Sequential(nn.Linear(WIDTH, WIDTH).double(), *parts, nn.Linear(WIDTH, OUTPUTS))


def data(seed: int) -> tuple[Tensor, Tensor]:
    generator = make_generator(seed, "fuzzed data")
    x = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    return x, torch.arange(SAMPLES) % OUTPUTS


def reference(model: nn.Module, objective: Objective, w: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient and H w by torch's own `functional_call`, all in double precision."""
    wide = copy.deepcopy(model).double().eval()
    at = w.clone().requires_grad_()
    parameters, start = {}, 0
    for name, shape in zip(objective.flat.names, objective.flat.shapes, strict=True):
        parameters[name] = at[start : start + shape.numel()].view(shape)
        start += shape.numel()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = F.cross_entropy(functional_call(wide, parameters, (x.clone(),)), y)
    (gradient,) = torch.autograd.grad(loss, at, create_graph=True)
    (product,) = torch.autograd.grad(gradient, at, w, materialize_grads=True)
    return loss.detach(), gradient.detach(), product


def check(names: list[str], seed: int) -> None:
    model, (x, y) = net(names, seed), data(seed)
    given = x.clone()
    try:
        objective = Objective(model, x, y, chunk_size=SAMPLES // 3)
        w = objective.initial()
        value, gradient = objective.value_and_gradient(w)
        product = objective.linearise(w).hvp(w)
    except UserError as error:
        require_reason(names, error)
        assert torch.equal(x, given)
        return
    expected = reference(model, objective, w, given, y)
    assert torch.equal(x, given)
    if not all(PARTS[name][0] for name in names):
        # Let through because norms hide the batch's size from the outputs, to more digits than are compared.
        torch.testing.assert_close(value, expected[0], rtol=1e-6, atol=1e-9)
        return
    torch.testing.assert_close(value, expected[0], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-7, atol=1e-10)
    if "weight norm" not in names:  # torch's own second derivative of it is wrong: see tests/objective
        torch.testing.assert_close(product, expected[2], rtol=1e-6, atol=1e-9)


def require_reason(names: list[str], error: UserError) -> None:
    """One line, and not for a model that can be trained."""
    # torch itself refuses to differentiate what a later module has overwritten.
    overwritten = any("in place" in name for name in names) and "modified by an inplace operation" in str(error)
    assert overwritten or not all(PARTS[name][0] for name in names), f"{names} is refused: {error}"
    assert "\n" not in str(error) and len(str(error)) < 600 and "in_shape" not in str(error)


@QUICK
@given(MODULES, st.integers(0, 99))
def test_modules_are_right_or_one_line(names: list[str], seed: int) -> None:
    check(names, seed)


@pytest.mark.slow
@LONG
@given(MODULES, st.integers(0, 2**16))
def test_many_modules_are_right_or_one_line(names: list[str], seed: int) -> None:
    check(names, seed)


@pytest.mark.parametrize("name", PARTS)
def test_each_part_alone(name: str) -> None:
    check([name], 0)


def fit(names: list[str], seed: int) -> None:
    (x, y), model = data(seed), net(names, seed).float() if "meta" not in names else net(names, seed)
    dataset = dataset_from_arrays(x.float().repeat(3, 1), y.repeat(3))
    try:
        SubsetTrainer(model, dataset, subset_frac=0.5, max_iterations=2, handoff="sgd", handoff_epochs=1).fit()
    except UserError as error:
        require_reason(names, error)


@settings(QUICK, max_examples=12)
@given(MODULES, st.integers(0, 99))
def test_trainers_fit_modules_or_say_why_not(names: list[str], seed: int) -> None:
    fit(names, seed)


@pytest.mark.slow
@settings(LONG, max_examples=300)
@given(MODULES, st.integers(0, 2**16))
def test_trainers_fit_many_modules_or_say_why_not(names: list[str], seed: int) -> None:
    fit(names, seed)


KINDS = ("named", "keyword", "default", "absent")
VALUES = st.one_of(st.integers(-2, 9), st.floats(), st.booleans(), st.none(), st.text(max_size=4), st.just("3"))


def factory_of(kinds: dict[str, str], open_ended: bool, typed: bool, passes_on: bool) -> Callable[..., Any]:
    """Write a factory whose signature has `kinds` of parameters; it wants the width and the outputs as integers."""
    written, order = [], sorted(kinds.items(), key=lambda item: KINDS.index(item[1]))
    for name, kind in order:
        hint = ": int" if typed else ""
        if kind == "named":
            written.append(f"{name}{hint}")
    if any(kind in ("keyword", "default") for _, kind in order):
        written.append("*")
    written += [f"{name}" for name, kind in order if kind == "keyword"]
    written += [f"{name}=2" for name, kind in order if kind == "default"]
    written += ["**kwargs"] if open_ended else []
    names = [name for name, kind in order if kind != "absent"]
    passed = [f"{name}={name}" for name in names] + (["**kwargs"] if open_ended and passes_on else [])
    body = f"outer({', '.join(passed)})"
    scope: dict[str, Any] = {"outer": _outer}
    exec(f"def factory({', '.join(written)}): return {body}", scope)
    return scope["factory"]


def _outer(in_shape: Any = (WIDTH,), n_outputs: Any = OUTPUTS, width: Any = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(in_shape[0], width), nn.Linear(width, n_outputs))


def build(
    kinds: dict[str, str], open_ended: bool, typed: bool, passes_on: bool, given_settings: dict[str, Any]
) -> None:
    module = types.ModuleType("fuzzed_zoo")
    module.factory = factory_of(kinds, open_ended, typed, passes_on)  # type: ignore[attr-defined]
    sys.modules["fuzzed_zoo"] = module
    try:
        model = build_model("fuzzed_zoo:factory", in_shape=(WIDTH,), n_outputs=OUTPUTS, **given_settings)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        needs = any(name == "width" and kind in ("named", "keyword") for name, kind in kinds.items())
        assert given_settings or needs, f"{kinds}, **kwargs {open_ended}: {error}"
    else:
        assert model(torch.zeros(3, WIDTH)).shape[0] == 3
    finally:
        del sys.modules["fuzzed_zoo"]


FACTORIES = st.fixed_dictionaries(
    {
        "kinds": st.fixed_dictionaries({name: st.sampled_from(KINDS) for name in ("n_outputs", "width")}).map(
            lambda kinds: {**kinds, "in_shape": "absent"}
        ),
        "open_ended": st.booleans(),
        "typed": st.booleans(),
        "passes_on": st.booleans(),
        "given_settings": st.dictionaries(st.sampled_from(["width", "depth", "num_classes"]), VALUES, max_size=2),
    }
)


@QUICK
@given(FACTORIES)
def test_factories_build_or_say_why_not(factory: dict[str, Any]) -> None:
    build(**factory)


@pytest.mark.slow
@LONG
@given(FACTORIES)
def test_many_factories_build_or_say_why_not(factory: dict[str, Any]) -> None:
    build(**factory)
