"""`full_batch_closure` against the loss and gradient of all rows at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset, WeightedRandomSampler

from subsetopt.errors import UserError
from subsetopt.optim import LBFGS, full_batch_closure
from subsetopt.seeding import make_generator, seeded_globals

ROWS = 23


def net(*extra: nn.Module, outputs: int = 3) -> nn.Module:
    with seeded_globals(0, "init"):
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *extra, nn.Linear(6, outputs)).double()


def rows() -> tuple[Tensor, Tensor]:
    draw = make_generator(0, "data")
    return torch.randn(ROWS, 4, generator=draw, dtype=torch.float64), torch.randint(3, (ROWS,), generator=draw)


def loader(batch: int, **settings: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*rows()), batch_size=batch, **settings)


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


def dense(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], count: int = ROWS) -> tuple[Tensor, Tensor]:
    x, y = rows()
    value = loss(model(x[:count]), y[:count])
    grads = torch.autograd.grad(value, list(model.parameters()))
    return value.detach(), torch.cat([g.reshape(-1) for g in grads])


@pytest.mark.parametrize("batch", [1, 2, 7, 23, 50])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_and_gradient_are_those_of_all_rows_whatever_the_batch_size(batch: int, reduction: str) -> None:
    model = net()
    value, grads = dense(model, nn.functional.cross_entropy)
    closure = full_batch_closure(model, nn.CrossEntropyLoss(reduction=reduction), loader(batch))
    for _ in range(2):  # the second call clears what the first has left
        torch.testing.assert_close(closure(), value, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient(model), grads, rtol=1e-10, atol=1e-14)


def test_shuffled_batches_give_the_same_numbers() -> None:
    model = net()
    value, grads = dense(model, nn.functional.cross_entropy)
    closure = full_batch_closure(model, nn.functional.cross_entropy, loader(5, shuffle=True))
    for _ in range(3):
        torch.testing.assert_close(closure(), value, rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient(model), grads, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("count", [1, 7, 10, 23, 99])
def test_max_samples_takes_the_first_rows(count: int) -> None:
    model = net()
    value, grads = dense(model, nn.functional.cross_entropy, count)
    closure = full_batch_closure(model, nn.functional.cross_entropy, loader(7), max_samples=count)
    torch.testing.assert_close(closure(), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(model), grads, rtol=1e-10, atol=1e-14)


class Molecules(NamedTuple):
    x: Tensor
    y: Tensor


@pytest.mark.parametrize("form", [dict, Molecules])
def test_batches_of_any_form_go_to_the_loss_with_the_model(form: Any) -> None:
    model = net()
    value, grads = dense(model, nn.functional.cross_entropy)
    x, y = rows()
    batches = [form(x=a, y=b) for a, b in zip(x.split(6), y.split(6), strict=True)]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        parts = batch if isinstance(batch, dict) else batch._asdict()
        return nn.functional.cross_entropy(model(parts["x"]), parts["y"])

    closure = full_batch_closure(model, loss, batches)
    torch.testing.assert_close(closure(), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(model), grads, rtol=1e-10, atol=1e-14)


def test_it_drives_lbfgs_to_the_minimum_of_all_rows() -> None:
    model = net()
    x, y = rows()

    def ridge(model: nn.Module, batch: Any) -> Tensor:
        penalty = torch.stack([(p * p).sum() for p in model.parameters()]).sum()
        return nn.functional.cross_entropy(model(batch["x"]), batch["y"]) + 0.1 * penalty

    batches = [{"x": a, "y": b} for a, b in zip(x.split(5), y.split(5), strict=True)]
    optimizer = LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-8)
    optimizer.step(full_batch_closure(model, ridge, batches))
    whole = ridge(model, {"x": x, "y": y})
    grads = torch.autograd.grad(whole, list(model.parameters()))
    assert max(float(g.abs().max()) for g in grads) < 1e-7


def test_unused_and_frozen_parameters_are_left_alone() -> None:
    model = net()
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    first = next(next(model.children()).parameters())
    first.requires_grad_(False)
    full_batch_closure(model, nn.functional.cross_entropy, loader(5))()
    assert first.grad is None and isinstance(model.unused, nn.Parameter)
    assert model.unused.grad is not None and not model.unused.grad.any()


def _weighted(outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, y, torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64))


def _ignoring(outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, y, ignore_index=1)


WEIGHTS = torch.tensor([1.0, 1.0, 1.001], dtype=torch.float64)


def _nearly_alike(outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, y, WEIGHTS)


def _last_ignored() -> tuple[Tensor, Tensor]:
    """Return rows of a later batch, one of which has no label."""
    x, y = rows()
    return x, torch.where(torch.arange(len(y)) == len(y) - 1, -100, y)


def _root(outputs: Tensor, y: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs[:, 0], y.double()).sqrt()


class Doubling(nn.Module):
    """Keeps how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.factor *= 2
        return x * self.factor


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: full_batch_closure(net(), _weighted, loader(23))(), "no mean over samples"),
    (lambda: full_batch_closure(net(), _ignoring, loader(10))(), "no mean over samples"),
    (lambda: full_batch_closure(net(), _root, loader(10))(), "no mean over samples"),
    (lambda: full_batch_closure(net(), nn.CrossEntropyLoss(WEIGHTS), loader(5)), "no mean over samples"),
    (lambda: full_batch_closure(net(), _nearly_alike, loader(23))(), "no mean over samples"),
    (lambda: full_batch_closure(net(), nn.CrossEntropyLoss(), [rows(), _last_ignored()])(), "no mean over samples"),
    (lambda: full_batch_closure(net(nn.Dropout()), nn.functional.cross_entropy, loader(9))(), "model.eval"),
    (lambda: full_batch_closure(net(), lambda out, y: out, loader(9))(), "loss: it returns shape"),
    (lambda: full_batch_closure(net(), lambda out, y: 1.0, loader(9))(), "loss: it returns float"),
    (lambda: full_batch_closure(net(), nn.functional.cross_entropy, [])(), "no samples"),
    (
        lambda: full_batch_closure(net(), nn.functional.cross_entropy, [(x[:0], y[:0]) for x, y in [rows()]])(),
        "no samp",
    ),
    (
        lambda: full_batch_closure(net(), nn.functional.cross_entropy, DataLoader(TensorDataset(*rows()), None))(),
        "single rows",
    ),
    (lambda: full_batch_closure(net(), nn.functional.cross_entropy, [("a", "b")])(), "holds no tensors"),
    (lambda: full_batch_closure(net(), nn.functional.cross_entropy, [(rows()[0], rows()[1][:2])])(), "lengths [2, 23]"),
    (lambda: full_batch_closure(net(), nn.functional.cross_entropy, 42), "loader = 'int'"),
    (lambda: full_batch_closure(net(), nn.functional.cross_entropy, loader(5), max_samples=0), "max_samples = 0"),
    (lambda: full_batch_closure(net(), nn.functional.cross_entropy, loader(5, shuffle=True), max_samples=9), "shuffle"),
    (
        lambda: full_batch_closure(net(), nn.functional.cross_entropy, loader(5, shuffle=True, drop_last=True)),
        "shuffle",
    ),
    (lambda: full_batch_closure(lambda x: x, nn.functional.cross_entropy, loader(5)), "model = <function"),
    (lambda: full_batch_closure(nn.Linear, nn.functional.cross_entropy, loader(5)), "is a class, not a model"),
    (lambda: full_batch_closure(net().to("meta"), nn.functional.cross_entropy, loader(5)), "on the meta device"),
    (
        lambda: full_batch_closure(net(), lambda out, y: nn.functional.cross_entropy(out.detach(), y), loader(5))(),
        "does not depend on a parameter",
    ),
    (lambda: full_batch_closure(net(Doubling()), nn.functional.cross_entropy, loader(5))(), "nor change its inputs"),
    (lambda: full_batch_closure(net().requires_grad_(False), nn.functional.cross_entropy, loader(5)), "unfreeze"),
    (
        lambda: full_batch_closure(
            net(),
            nn.functional.cross_entropy,
            loader(5, sampler=DistributedSampler(range(ROWS), num_replicas=2, rank=0)),
        ),
        "repeats rows",
    ),
]


class Jitter(torch.utils.data.Dataset[Any]):
    """Rows with a random transform, as for augmentation."""

    def __init__(self, size: float) -> None:
        self.size = size

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> Any:
        x, y = rows()
        return x[row] + self.size * torch.rand(()).double(), y[row]


def test_samples_that_differ_from_call_to_call_are_refused() -> None:
    for size in (1.0, 1e-3):
        closure = full_batch_closure(net(), nn.functional.cross_entropy, DataLoader(Jitter(size), batch_size=5))
        closure()
        with pytest.raises(UserError, match=r"two calls gave other samples \(random transforms\?\)"):
            closure()
        closure = full_batch_closure(net(), nn.functional.cross_entropy, list(DataLoader(Jitter(size), batch_size=5)))
        assert closure() == closure() == closure()


def test_an_empty_batch_counts_nothing() -> None:
    x, y = rows()
    value, _ = dense(net(), nn.functional.cross_entropy)
    for batches in ([(x[:0], y[:0]), (x, y)], [(x[:9], y[:9]), (x[:0], y[:0]), (x[9:], y[9:])]):
        torch.testing.assert_close(full_batch_closure(net(), nn.functional.cross_entropy, batches)(), value)


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_mistakes_are_one_line(case: int) -> None:
    make, said = REFUSED[case]
    with pytest.raises(UserError) as caught:
        make()
    assert said in str(caught.value) and "\n" not in str(caught.value)


class Tagger(nn.Module):
    """As Hugging Face's models: keyword arguments in, an object with `.loss`, a mean over tokens, and `.logits` out."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
        logits = self.head(self.table(input_ids))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return SimpleNamespace(loss=loss, logits=logits)


def tagged() -> tuple[Tagger, Tensor, Tensor]:
    draw = make_generator(0, "tags")
    with seeded_globals(0, "init"):
        model = Tagger().double()
    tokens = torch.randint(0, 9, (23, 6), generator=draw)
    labels = torch.where(torch.rand(23, 6, generator=draw) < 0.4, -100, tokens % 3)
    return model, tokens, labels


def tag_rows(tokens: Tensor, labels: Tensor, size: int) -> DataLoader[Any]:
    data = [{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)]
    return DataLoader(data, batch_size=size)  # type: ignore[arg-type]  # a list is a map-style data set


@pytest.mark.parametrize("size", [4, 10, 23])
def test_dictionaries_count_by_the_weights_that_the_loss_gives(size: int) -> None:
    """Reference: one call on all rows; the mean over the tokens that have a label."""
    model, tokens, labels = tagged()

    def loss(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        count = (batch["labels"] != -100).sum()
        return model(**batch).loss * count, count

    found = full_batch_closure(model, loss, tag_rows(tokens, labels, size))()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    whole = model(tokens, labels).loss
    wanted = torch.autograd.grad(whole, list(model.parameters()))
    torch.testing.assert_close(found, whole.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in wanted]), rtol=1e-10, atol=1e-14)


def test_a_mean_over_tokens_is_refused_with_the_pair_as_the_way_out() -> None:
    model, tokens, labels = tagged()
    with pytest.raises(UserError, match=r"tokens\?.*return \(sum of losses, sum of weights\)"):
        full_batch_closure(model, lambda model, batch: model(**batch).loss, tag_rows(tokens, labels, 10))()
    plain = full_batch_closure(model, lambda model, batch: model(**batch).loss, tag_rows(tokens, tokens % 3, 10))()
    torch.testing.assert_close(plain, model(tokens, tokens % 3).loss.detach(), rtol=1e-12, atol=0)


def test_batch_norm_in_training_mode_is_warned_of_and_weighted_sampling_refused() -> None:
    data = TensorDataset(torch.randn(12, 3), torch.randn(12, 1))
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    with pytest.warns(UserWarning, match=r"BatchNorm is in training mode.*model\.eval\(\)"):
        full_batch_closure(model, nn.functional.mse_loss, DataLoader(data, batch_size=4))()
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full_batch_closure(model, nn.functional.mse_loss, DataLoader(data, batch_size=4))()
    sampler = WeightedRandomSampler([1.0] * 12, 12)
    with pytest.raises(UserError, match="WeightedRandomSampler"):
        full_batch_closure(model, nn.functional.mse_loss, DataLoader(data, batch_size=4, sampler=sampler))
