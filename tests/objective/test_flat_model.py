"""The flat view of a module: counting, tying, modes, buffers, and the user's module left alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from subsetopt.errors import ModelError
from subsetopt.objective import FlatModel, Objective, update_batch_norm
from tests.objective.objective_nets import Tied, problem, resnet


def bits(module: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def test_users_module_stays_bit_identical_through_everything() -> None:
    """Parameters, BatchNorm buffers, .grad, training flags and the identity of the Parameter objects."""
    model, x, y = problem("resnet")
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before, owners = bits(model), [id(parameter) for parameter in model.parameters()]
    objective = Objective(model, x, y, chunk_size=6)
    w = objective.initial() + 0.1
    objective.value_and_gradient(w)
    products = objective.linearise(w)
    products.hvp(w), products.ggnvp(w)
    update_batch_norm(objective.flat, w, x)
    objective.flat.forward(w, x, "train")
    assert all(torch.equal(a, b) for a, b in zip(before, bits(model), strict=True))
    assert owners == [id(parameter) for parameter in model.parameters()]
    assert all(bool((parameter.grad == 7).all()) for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_tied_parameters_count_once_and_frozen_ones_not_at_all() -> None:
    flat = FlatModel(Tied())
    assert flat.names == ("inner.weight", "inner.bias", "again.bias", "head.weight", "head.bias")
    assert flat.size == 36 + 6 + 6 + 18 + 3
    assert flat.offsets == (0, 36, 42, 48, 66)


def test_views_share_memory_with_w_and_initial_is_fresh() -> None:
    flat = FlatModel(resnet())
    w = flat.initial()
    start = w.data_ptr()
    assert [view.data_ptr() - start for view in flat.views(w)] == [4 * offset for offset in flat.offsets]
    w.zero_()
    assert bool(flat.initial().any())


def test_state_dict_round_trip_with_tied_parameters_is_an_ordinary_state_dict() -> None:
    model = Tied()
    flat = FlatModel(model)
    w = torch.randn(flat.size, generator=torch.Generator().manual_seed(1))
    state = flat.state_dict(w)
    assert state.keys() == model.state_dict().keys()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    fresh = copy.deepcopy(model)
    fresh.load_state_dict(state)
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(fresh(x), flat.forward(w, x, "eval"))
    assert torch.equal(flat.load_state_dict(state), w)
    flat.write_back(w, model)
    assert torch.equal(model(x), fresh(x)) and model.again.weight is model.inner.weight
    assert torch.equal(flat.module(w)(x), fresh(x))


def test_load_state_dict_of_another_model_is_refused_and_changes_nothing() -> None:
    flat = FlatModel(resnet())
    buffers = flat.buffers()
    with pytest.raises(ModelError, match="missing"):
        flat.load_state_dict(Tied().state_dict())
    wrong = {name: value + 1 for name, value in resnet().state_dict().items()}
    wrong["7.bias"] = torch.zeros(9)
    with pytest.raises(ModelError, match=r"7\.bias has shape \(9,\)"):
        flat.load_state_dict(wrong)
    assert all(torch.equal(value, buffers[name]) for name, value in flat.buffers().items())


def test_modes_treat_batch_norm_and_dropout_as_documented() -> None:
    torch_norm, x, _ = problem("resnet")
    flat = FlatModel(torch_norm)
    w, before = flat.initial(), flat.buffers()
    flat.forward(w, x, "deterministic")
    flat.forward(w, x, "eval")
    assert all(torch.equal(value, before[name]) for name, value in flat.buffers().items())
    reference = copy.deepcopy(torch_norm).train()
    assert torch.equal(flat.forward(w, x, "train"), reference(x))
    for name, value in reference.named_buffers():
        assert torch.equal(flat.buffers()[name], value)
    flat.load_buffers(before)
    assert all(torch.equal(value, before[name]) for name, value in flat.buffers().items())


def test_update_batch_norm_gives_the_statistics_of_the_data() -> None:
    """One chunk: running mean and unbiased variance equal those computed by hand."""
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.01), nn.Linear(4, 2)).double()
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 5
    flat = FlatModel(model)
    update_batch_norm(flat, flat.initial(), x)
    torch.testing.assert_close(flat.buffers()["0.running_mean"], x.mean(0))
    torch.testing.assert_close(flat.buffers()["0.running_var"], x.var(0))
    assert flat._module[0].momentum == 0.01


def test_forward_is_differentiable_in_w_as_in_the_module() -> None:
    model, x, _ = problem("cnn")
    flat = FlatModel(model)
    w = flat.initial().requires_grad_()
    (got,) = torch.autograd.grad(flat.forward(w, x, "train").square().sum(), w)
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    torch.testing.assert_close(got, torch.cat([part.reshape(-1) for part in expected]))


def test_a_failing_forward_leaves_the_model_as_it_was() -> None:
    flat = FlatModel(resnet())
    with pytest.raises(ModelError, match="expected input"):
        flat.forward(flat.initial() + 1, torch.zeros(2, 5, 8, 8), "deterministic")
    assert flat.buffers().keys() == dict(resnet().named_buffers()).keys()
    assert torch.equal(torch.cat([p.detach().reshape(-1) for p in flat._module.parameters()]), flat.initial())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.LazyLinear(3), "lazy"),
        (nn.Linear(0, 3), "no elements"),
        (nn.Linear(2, 3, dtype=torch.complex64), "complex"),
        (nn.Linear(2, 3).requires_grad_(False), "no trainable"),
        (nn.Linear(2, 3, dtype=torch.float16), "float32 or float64"),
    ],
)
def test_unusable_models_are_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FlatModel(model)


def test_recurrent_and_channels_last_models_work() -> None:
    """An LSTM caches its weights; a channels_last convolution has strided ones. Reference: the modules themselves."""
    lstm = nn.Sequential(nn.LSTM(3, 4, batch_first=True), _Last(), nn.Linear(4, 2))
    conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 2)).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    sequence = torch.randn(5, 6, 3, generator=generator)
    image = torch.randn(5, 3, 6, 6, generator=generator).to(memory_format=torch.channels_last)
    for model, x in ((lstm, sequence), (conv, image)):
        flat = FlatModel(model)
        assert torch.equal(flat.forward(flat.initial(), x, "eval"), model(x))
        shifted = flat.initial() + 0.1
        other = copy.deepcopy(model)
        flat.write_back(shifted, other)
        torch.testing.assert_close(flat.forward(shifted, x, "eval"), other(x))
        value, gradient = Objective(flat, x, torch.tensor([0, 1, 0, 1, 0])).value_and_gradient(shifted)
        loss = nn.functional.cross_entropy(other(x), torch.tensor([0, 1, 0, 1, 0]))
        expected = torch.autograd.grad(loss, list(other.parameters()))
        torch.testing.assert_close(value.float(), loss.detach())
        torch.testing.assert_close(gradient, torch.cat([part.reshape(-1) for part in expected]))


class _Last(nn.Module):
    def forward(self, result: tuple[torch.Tensor, object]) -> torch.Tensor:
        return result[0][:, -1]
