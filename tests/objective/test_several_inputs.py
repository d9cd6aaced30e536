"""Objectives on several input tensors, against torch's autograd on `model(**batch)` written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, Dataset, TensorDataset

from subsetopt import Objective, minimize
from subsetopt.analysis.sample_jacobians import sample_jacobians
from subsetopt.errors import DataError, ModelError, UserError
from subsetopt.inputs import LazyRows, Parts
from subsetopt.objective import FlatModel, calibrate_prices, evaluate_split, tuned_chunk_size

K, LENGTH, CLASSES = 37, 6, 3


class Tagger(nn.Module):
    """Tokens with a mask, and a vector beside them, as a model of Hugging Face takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.side, self.head = nn.Embedding(11, 5), nn.Linear(4, 5), nn.Linear(5, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, extra: Tensor) -> Tensor:
        weight = attention_mask.to(extra.dtype).unsqueeze(2)
        mean = (self.table(input_ids) * weight).sum(1) / weight.sum(1)
        return self.head(torch.tanh(mean + self.side(extra)))


class OfBatch(Tagger):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]  # that is what is tested
        return super().forward(**batch)


class OfPair(Tagger):
    def forward(self, pair: tuple[Tensor, Tensor, Tensor]) -> Tensor:  # type: ignore[override]  # as above
        return super().forward(*pair)


def _data() -> tuple[dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(1)
    mask = torch.arange(LENGTH) < torch.randint(1, LENGTH + 1, (K, 1), generator=g)
    ids = torch.randint(1, 11, (K, LENGTH), generator=g) * mask
    batch = {"input_ids": ids, "attention_mask": mask.long(), "extra": torch.randn(K, 4, generator=g).double()}
    return batch, torch.randint(0, CLASSES, (K,), generator=g)


def _model(kind: type[Tagger] = Tagger) -> Tagger:
    torch.manual_seed(0)
    return kind().double()


def _reference(w: Tensor, batch: dict[str, Tensor], y: Tensor, l2: float = 1e-2) -> Tensor:
    model = _model()
    names, shapes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    parts = w.split([shape.numel() for shape in shapes])
    own = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
    return nn.functional.cross_entropy(functional_call(model, own, (), batch), y) + l2 / 2 * w @ w


@pytest.mark.parametrize("chunk_size", [None, 8, 1])
@pytest.mark.parametrize("form", ["dict", "tuple", "list", "Parts", "whole dict", "whole tuple", "lazy"])
def test_value_gradient_and_products_equal_those_of_the_model_called_by_hand(form: str, chunk_size: int | None) -> None:
    batch, y = _data()
    kind = {"whole dict": OfBatch, "whole tuple": OfPair}.get(form, Tagger)
    read = Parts.of(batch)
    given: Any = {
        "tuple": tuple(batch.values()),
        "list": list(batch.values()),
        "Parts": read,
        "whole tuple": tuple(batch.values()),
        "lazy": LazyRows(lambda rows: read[torch.tensor(rows)], torch.arange(K), read[:1], limit=0),
    }.get(form, batch)
    objective = Objective(_model(kind), given, y, l2=1e-2, chunk_size=chunk_size)
    w = objective.initial()
    v = torch.randn(len(w), generator=torch.Generator().manual_seed(2), dtype=w.dtype)
    loss, gradient = objective.value_and_gradient(w)
    exact = torch.autograd.functional.hvp(lambda w: _reference(w, batch, y), w, v)[1]
    at = w.clone().requires_grad_()
    expected = _reference(at, batch, y)
    (slope,) = torch.autograd.grad(expected, at)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(objective.value(w), expected.detach(), rtol=1e-12, atol=1e-12)
    products = objective.linearise(w)
    torch.testing.assert_close(products.hvp(v), exact, rtol=1e-9, atol=1e-11)
    assert float(v @ products.ggnvp(v)) > 0


def test_subsets_and_outputs_are_rows_of_every_part() -> None:
    batch, y = _data()
    rows = torch.tensor([3, 3, 30, 7])
    objective = Objective(_model(), batch, y, indices=rows)
    own = {name: part[rows] for name, part in batch.items()}
    assert float(objective.value(objective.initial())) == pytest.approx(
        float(_reference(objective.initial(), own, y[rows], 0.0)), rel=1e-12
    )
    torch.testing.assert_close(objective.outputs(objective.initial(), own), _model()(**own).detach())
    torch.testing.assert_close(objective.outputs(objective.initial()), _model()(**own).detach())


def test_identity_differs_by_any_part_and_not_by_where_rows_are_read() -> None:
    batch, y = _data()
    read = Parts.of(batch)
    lazy = LazyRows(lambda rows: read[torch.tensor(rows)], torch.arange(K), read[:1], limit=0)
    same = Objective(_model(), batch, y).identity
    assert Objective(_model(), lazy, y).identity == same
    assert Objective(_model(), batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}, y).identity != same


def test_evaluation_prices_chunk_sizes_and_jacobians_take_several_inputs() -> None:
    batch, y = _data()
    flat = FlatModel(_model())
    w = flat.initial()
    found = evaluate_split(flat, w, batch, y)
    assert found["loss"] == pytest.approx(float(_reference(w, batch, y, 0.0)), rel=1e-12)
    assert set(calibrate_prices(flat, Parts.of(batch), y)) >= {"gradient", "hvp"}
    assert tuned_chunk_size(flat, Parts.of(batch), y) >= 1
    u = torch.randn(5, CLASSES, dtype=w.dtype)
    few = Parts.of(batch)[:5]
    rows = sample_jacobians(flat, w, few).pull_back(u)
    for index in range(5):
        one = flat.leaves(w)
        (flat.call(one, few[index : index + 1], "deterministic") @ u[index]).sum().backward(inputs=one)
        torch.testing.assert_close(rows[index], torch.cat([p.grad.reshape(-1) for p in one if p.grad is not None]))


@pytest.mark.parametrize("method", ["lbfgs", "newton-cg"])
def test_solvers_reach_a_minimum_on_a_dict_with_kfac_and_without(method: str) -> None:
    batch, y = _data()
    objective = Objective(_model(), batch, y, l2=1e-1)
    result = minimize(objective, objective.initial(), method=method, gtol=1e-8)
    assert result.converged
    factors = objective.preconditioner("kfac")
    factors.update(result.x, *objective.chunk(0), torch.Generator(), None)
    assert bool(factors.apply(result.x, 1e-2).isfinite().all())


def test_a_module_that_works_in_place_leaves_the_parts_alone() -> None:
    class InPlace(Tagger):
        def forward(self, input_ids: Tensor, attention_mask: Tensor, extra: Tensor) -> Tensor:
            return super().forward(input_ids, attention_mask, extra.mul_(2))

    batch, y = _data()
    before = batch["extra"].clone()
    objective = Objective(_model(InPlace), batch, y)
    w = objective.initial()
    expected = _reference(w, batch | {"extra": 2 * before}, y, 0.0)
    assert float(objective.value(w)) == pytest.approx(float(expected), rel=1e-12)
    assert float(objective.value(w)) == pytest.approx(float(expected), rel=1e-12)
    torch.testing.assert_close(batch["extra"], before, rtol=0, atol=0)


def test_a_single_part_reaches_a_model_that_has_another_name_for_it() -> None:
    x, y = torch.randn(20, 4), torch.randint(0, 2, (20,))
    plain, named = (Objective(nn.Linear(4, 2), given, y).samples.data for given in (x, {"features": x}))
    torch.testing.assert_close(plain.inputs(0, 20), named.inputs(0, 20), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ids": torch.zeros(4, 2), "mask": torch.zeros(3, 2)}, "'mask' has shape"),
        ({}, "without entries"),
        ((), "without entries"),
        ({"ids": [1, 2]}, "holds a list"),
        ([1.0, 2.0], "holds a float"),
        ("text", "is a str"),
    ],
)
def test_what_are_no_tensors_of_equal_length_is_refused_in_one_line(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        Objective(nn.Linear(2, 2), given, torch.zeros(4, dtype=torch.int64))
    assert "\n" not in str(caught.value)


def test_parts_that_forward_does_not_name_are_refused_with_its_arguments() -> None:
    batch, y = _data()
    with pytest.raises(ModelError, match=r"forward takes \(input_ids, attention_mask, extra\).*named input_ids, x"):
        Objective(_model(), {"input_ids": batch["input_ids"], "x": batch["extra"]}, y)
    with pytest.raises(ModelError, match="2 tensors"):
        Objective(_model(), (batch["input_ids"], batch["extra"]), y)


def test_nan_in_a_part_is_told_with_its_name() -> None:
    batch, y = _data()
    batch["extra"][5, 1] = torch.nan
    with pytest.raises(DataError, match="row 5 of 'extra'"):
        Objective(_model(), batch, y)


class _Samples(Dataset[Any]):
    def __init__(self) -> None:
        self.batch, self.y = _data()

    def __len__(self) -> int:
        return K

    def __getitem__(self, row: int) -> Any:
        return {name: part[row] for name, part in self.batch.items()} | {"labels": self.y[row]}


def test_data_sets_and_loaders_are_read_where_no_targets_stand_beside_them() -> None:
    batch, y = _data()
    expected = float(_reference(_flat(), batch, y, 0.0))
    for given in (_Samples(), DataLoader(_Samples(), 5), (batch, y), {**batch, "labels": y}):
        objective = Objective(_model(), given)
        assert float(objective.value(objective.initial())) == pytest.approx(expected, rel=1e-12)
    plain = Objective(nn.Linear(4, 3).double(), TensorDataset(batch["extra"], y))
    assert plain.n_samples == K and plain.n_outputs == 3
    with pytest.raises(UserError, match="targets: is None"):
        Objective(nn.Linear(4, 3).double(), batch["extra"])
    with pytest.raises(UserError, match="only be iterated"):
        Objective(nn.Linear(4, 3).double(), iter([1]))


def test_a_loss_that_calls_the_model_gets_whole_samples_of_a_loader() -> None:
    def own(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        inputs = {name: part for name, part in batch.items() if name != "labels"}
        return nn.functional.cross_entropy(model(**inputs), batch["labels"])

    batch, y = _data()
    objective = Objective(_model(), DataLoader(_Samples(), 5), loss=own)
    expected = float(_reference(_flat(), batch, y, 0.0))
    assert float(objective.value(objective.initial())) == pytest.approx(expected, rel=1e-12)


def _flat() -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in _model().parameters()])
