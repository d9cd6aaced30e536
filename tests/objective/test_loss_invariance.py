"""One function whatever the chunks and ranks: every kind of loss, with weights of samples, against repeated rows.

Reference: the objective of rows that are repeated as often as their weights say, in one chunk, by one process. That
this is torch's own value is tested where each loss is (`test_torch_losses.py`, `test_losses.py`, `test_model_loss.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt import model_loss
from subsetopt.distributed import Ranks
from subsetopt.objective import FlatModel, Objective, make_loss
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.sharding import SampleShare
from subsetopt.objective.weighting import prepared
from subsetopt.seeding import make_generator, seeded_globals

N, C, T = 17, 4, 3
G = make_generator(0, "loss invariance")
X = torch.randn(N, 3, generator=G, dtype=torch.float64)
CLASSES = torch.randint(0, C, (N,), generator=G)
CLASS_WEIGHT = torch.rand(C, generator=G, dtype=torch.float64) + 0.1
IGNORED = torch.where(torch.arange(N) % 3 == 0, -100, CLASSES)
TOKENS = torch.where(torch.rand(N, T, generator=G) < 0.4, -100, torch.randint(0, C, (N, T), generator=G))
VALUES = torch.randn(N, C, generator=G, dtype=torch.float64)
LABELS = (VALUES > 0).double()
REPEATS = torch.randint(0, 4, (N,), generator=G)
ROWS = torch.arange(N).repeat_interleave(REPEATS)


def network(*end: nn.Module, outputs: int = C) -> nn.Module:
    with seeded_globals(0, "loss invariance"):
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs), *end).double()


def own(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().pow(1.5).mean(1)


def of_model(model: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y, reduction="none") + 0.1 * model(x).square().sum(1)


def of_tokens(model: Any, batch: Any) -> Any:
    x, y = batch
    return SimpleNamespace(loss=F.cross_entropy(model(x), y))


def counted(batch: Any) -> Tensor:
    return (batch[1] != -100).sum(1)


COUNTED = model_loss(of_tokens, count=counted)
POSITIONS = nn.Unflatten(1, (C, T))
CASES: dict[str, tuple[nn.Module, Any, Tensor]] = {
    "cross entropy by name": (network(), "cross_entropy", CLASSES),
    "squared error by name": (network(), "mse", VALUES),
    "BCE": (network(nn.Sigmoid()), nn.BCELoss(), LABELS),
    "BCE with logits": (network(outputs=1), nn.BCEWithLogitsLoss(), LABELS[:, :1]),
    "multi-label": (network(), nn.BCEWithLogitsLoss(CLASS_WEIGHT, pos_weight=CLASS_WEIGHT), LABELS),
    "soft margin": (network(), nn.MultiLabelSoftMarginLoss(CLASS_WEIGHT), LABELS),
    "Huber": (network(), nn.HuberLoss(delta=0.5), VALUES),
    "class weights": (network(), nn.CrossEntropyLoss(CLASS_WEIGHT), CLASSES),
    "label smoothing": (network(), nn.CrossEntropyLoss(CLASS_WEIGHT, label_smoothing=0.2), CLASSES),
    "ignore_index": (network(), nn.CrossEntropyLoss(CLASS_WEIGHT, ignore_index=-100, label_smoothing=0.1), IGNORED),
    "tokens": (network(POSITIONS, outputs=C * T), nn.CrossEntropyLoss(CLASS_WEIGHT, label_smoothing=0.1), TOKENS),
    "negative log-likelihood": (network(nn.LogSoftmax(1)), nn.NLLLoss(CLASS_WEIGHT), IGNORED),
    "own": (network(), own, VALUES),
    "loss(model, batch)": (network(), of_model, CLASSES),
}
MEANS = {"mean over tokens by the model": (network(POSITIONS, outputs=C * T), COUNTED, TOKENS)}
CALL_THE_MODEL = ("loss(model, batch)",)


class ThreadRanks(Ranks):
    """One of several ranks in threads of one process."""

    def __init__(self, rank: int, size: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, size
        self._table, self._barrier = table, barrier

    def gather(self, value: Any) -> list[Any]:
        self._table[self.rank] = value
        self._barrier.wait(60)
        found = list(self._table)
        self._barrier.wait(60)
        return found

    def sum_(self, *tensors: Tensor) -> None:
        found = self.gather([tensor.detach().double().clone() for tensor in tensors])
        for place, tensor in enumerate(tensors):
            tensor.copy_(torch.stack([own[place] for own in found]).sum(0))

    def broadcast(self, value: Any, rank: int = 0) -> Any:
        return self.gather(value)[rank]

    def broadcast_tensors(self, tensors: Any, rank: int) -> dict[str, Tensor]:
        return {key: tensor.clone() for key, tensor in self.gather(dict(tensors))[rank].items()}

    def exchange(self, row: Tensor) -> Tensor:
        return torch.stack(self.gather(row.clone()))

    def agree(self, *wishes: bool, figure: float = 0.0) -> list[bool]:
        return [any(column) for column in zip(*self.gather(wishes), strict=True)]


def on_two_ranks(work: Callable[[Ranks], Any]) -> list[Any]:
    """Return what `work` gives on each of two ranks; raises what it raises."""
    table, barrier, results, errors = [None, None], threading.Barrier(2), [None, None], list[BaseException]()

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRanks(rank, 2, table, barrier))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def figures(objective: Objective) -> dict[str, Any]:
    """Return value, gradient, products and what they were charged."""
    w = objective.initial()
    v = torch.randn(len(w), generator=make_generator(1, "v"), dtype=torch.float64)
    value, gradient = objective.value_and_gradient(w)
    products = objective.linearise(w)
    found = {"value": value, "gradient": gradient, "hvp": products.hvp(v), "ggnvp": products.ggnvp(v)}
    meter: Any = objective.meter
    return {**found, "charged": {kind: meter.samples[kind] for kind in ("gradient", "hvp", "ggnvp")}}


def require_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in ("value", "gradient", "hvp", "ggnvp"):
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.filterwarnings("ignore:curvature products")
@pytest.mark.parametrize("name", [*CASES, *MEANS])
def test_no_cut_and_no_rank_changes_the_function(name: str) -> None:
    model, loss, targets = {**CASES, **MEANS}[name]
    weights = (
        None if name in MEANS else 0.7 * REPEATS.double()
    )  # a mean has no loss of one sample that a weight could change
    rows = None if weights is None else ROWS
    expected = figures(Objective(model, X, targets, loss, 0.1, indices=rows, chunk_size=len(ROWS)))
    charged = []
    for chunk_size in (None, 1, 7):
        found = figures(Objective(model, X, targets, loss, 0.1, sample_weight=weights, chunk_size=chunk_size))
        require_same(found, expected)
        charged.append(found["charged"])
    assert charged[0] == charged[1] == charged[2], "the ledger counts samples, not chunks"

    def shared(ranks: Ranks) -> dict[str, Any]:
        return figures(Objective(model, X, targets, loss, 0.1, sample_weight=weights, chunk_size=4, ranks=ranks))

    first, second = on_two_ranks(shared)
    require_same(first, expected)
    assert all(torch.equal(first[key], second[key]) for key in ("value", "gradient", "hvp", "ggnvp"))
    assert first["charged"] == charged[0], "each rank is charged for the whole"


@pytest.mark.parametrize("name", [name for name in CASES if name not in CALL_THE_MODEL])
def test_factors_of_weighted_samples_are_those_of_repeated_rows_on_one_rank_and_two(name: str) -> None:
    model, loss, targets = CASES[name]
    flat, kind = FlatModel(model), make_loss(loss)
    w = flat.initial()
    v = torch.randn(len(w), generator=make_generator(1, "v"), dtype=torch.float64)

    def factors(x: Tensor, y: Tensor, weights: Tensor | None, ranks: Ranks | None = None) -> Tensor:
        own = FlatModel(model)  # one for each thread
        both, values = prepared(kind, y, weights, torch.float64)
        share = None
        if ranks is not None:
            start, stop = ranks.share(len(x))
            share = SampleShare(len(x), torch.arange(start, stop), ranks)
            x, values = x[start:stop], values[start:stop]
        kfac = Kfac(own, both, draw="empirical")
        kfac.update(w, x, values, make_generator(2, "k"), share=share)
        return kfac.apply(v, 0.1)

    expected = factors(X[ROWS], targets[ROWS], None)
    found = factors(X, targets, REPEATS.double())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    for part in on_two_ranks(lambda ranks: factors(X, targets, REPEATS.double(), ranks)):
        torch.testing.assert_close(part, found, rtol=1e-8, atol=1e-10)
