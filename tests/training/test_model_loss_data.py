"""Runs whose loss is loss(model, batch), against the objective with that loss on the same samples."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt import Objective, SubsetTrainer, model_loss
from subsetopt.data import Dataset, as_dataset, dataset_from_arrays
from subsetopt.errors import RunDirectoryError, UserError
from subsetopt.seeding import make_generator, seeded_globals
from subsetopt.training.evaluation import evaluate_run

N = 40
G = make_generator(0, "model loss of a run")
X = torch.randn(N, 3, generator=G)
Y = (X[:, 0] > 0).long()
IDS = torch.randint(0, 5, (N, 4), generator=G)
LABELS = torch.where(torch.rand(N, 4, generator=G) < 0.5, -100, IDS)
LABELS[:, 1] = 2  # every sample has something to predict
OF_RUN: dict[str, Any] = {
    "subset_frac": 0.5,
    "l2": 1e-2,
    "dtype": "float64",
    "max_iterations": 4,
    "handoff": "full",
}
SETTINGS = {**OF_RUN, "validation_fraction": 0.0}


class Language(nn.Module):
    """A model like those of Hugging Face: it returns an object with logits, and with labels the mean over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        logits = self.head(torch.tanh(self.table(input_ids)))
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        return SimpleNamespace(logits=logits, loss=loss)


class Two(nn.Module):
    """A model that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.a(x), self.b(x)


def made(kind: type[nn.Module]) -> nn.Module:
    with seeded_globals(0, "model loss of a run"):
        return kind()


def autoencoder() -> nn.Module:
    with seeded_globals(0, "model loss of a run"):
        return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3))


def of_tokens(model: Any, batch: Any) -> Any:
    return model(**batch)


TOKENS = model_loss(of_tokens, count=lambda batch: (batch["labels"] != -100).sum(1))


def of_pair(model: Any, batch: Any) -> Tensor:
    inputs, targets = batch
    a, b = model(inputs)
    return F.cross_entropy(a, targets, reduction="none") + b.square().mean(1)


def reconstruction(model: Any, batch: Any) -> Tensor:
    return (model(batch) - batch).square().mean(1)


def of_entry(model: Any, batch: Any) -> Tensor:
    assert isinstance(batch, dict)
    return reconstruction(model, batch["x"])


def of_first(model: Any, batch: Any) -> Tensor:
    (x,) = batch
    return reconstruction(model, x)


CASES: dict[str, tuple[Any, Any, Any]] = {
    "output object": (lambda: made(Language), {"input_ids": IDS, "labels": LABELS}, TOKENS),
    "tuple": (lambda: made(Two), (X, Y), of_pair),
    "tuple of arrays": (lambda: made(Two), (X.numpy(), Y.numpy()), of_pair),
    "loader": (lambda: made(Two), DataLoader(TensorDataset(X, Y), 7), of_pair),
    "autoencoder": (autoencoder, X, reconstruction),
    "array": (autoencoder, X.numpy(), reconstruction),
    "dict of one": (autoencoder, {"x": X}, of_entry),
    "loader of one": (autoencoder, DataLoader(TensorDataset(X), 7), of_first),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_minimises_the_objective_of_that_loss(case: str) -> None:
    model, data, loss = CASES[case]
    trainer = SubsetTrainer(model(), data, loss=loss, **SETTINGS).fit()
    objective = Objective(trainer.model, data, loss=loss, dtype=torch.float64)
    found = trainer.result["metrics"]["train"]
    assert found == pytest.approx({"loss": float(objective.value(objective.initial()))}, rel=1e-9)
    start = Objective(model(), data, loss=loss, dtype=torch.float64)
    assert found["loss"] < float(start.value(start.initial()))
    assert trainer.evaluate(data) == pytest.approx(found)
    assert trainer.result["dataset"]["train"] == N
    assert trainer.result["overdetermination"]["outputs"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"solver": "none", "handoff": "adam", "handoff_epochs": 10, "batch_size": 7},
        {"solver": "newton-cg"},
        {"grow": 2, "grow_start": 0.25},
        {"solver": "none", "handoff": "selective-backprop", "handoff_epochs": 10, "batch_size": 7},
    ],
)
def test_every_kind_of_phase_takes_it(changes: dict[str, Any]) -> None:
    settings = {name: value for name, value in {**SETTINGS, **changes}.items() if name != "batch_size"}
    trainer = SubsetTrainer(made(Two), (X, Y), loss=of_pair, **settings).fit()
    start = Objective(made(Two), (X, Y), loss=of_pair, dtype=torch.float64)
    assert trainer.result["metrics"]["train"]["loss"] < float(start.value(start.initial()))


def test_predictions_are_what_the_model_returns() -> None:
    trainer = SubsetTrainer(made(Language), {"input_ids": IDS, "labels": LABELS}, loss=TOKENS, **SETTINGS).fit()
    expected = trainer.model(IDS).logits
    for given in ({"input_ids": IDS}, {"input_ids": IDS, "labels": LABELS}, IDS):
        assert torch.equal(trainer.predict(given), expected)
    with pytest.raises(UserError, match="does not tell what the outputs are; call predict"):
        trainer.predict_proba(IDS)
    trainer = SubsetTrainer(autoencoder(), X, loss=reconstruction, **SETTINGS).fit()
    assert torch.equal(trainer.predict(X), trainer.model(X.double()))
    trainer = SubsetTrainer(made(Two), (X, Y), loss=of_pair, **SETTINGS).fit()
    with pytest.raises(UserError, match=r"returns a tuple without logits; call trainer\.model"):
        trainer.predict(X)


def test_inputs_of_a_data_set_are_standardised_as_it_says_and_weighted() -> None:
    weights = torch.arange(N) % 3
    data = as_dataset((10 * X + 5, Y), validation_fraction=0, sample_weight=weights)
    trainer = SubsetTrainer(made(Two), data, loss=of_pair, **OF_RUN).fit()
    mean, std = X.mean(0), X.std(0, correction=0)
    objective = Objective(trainer.model, (X - mean) / std, Y, loss=of_pair, sample_weight=weights, dtype=torch.float64)
    found = trainer.result["metrics"]["train"]["loss"]
    assert found == pytest.approx(float(objective.value(objective.initial())), rel=1e-5)
    everywhere = float(of_pair(trainer.model, (((X - mean) / std).double(), Y)).detach().mean())
    assert trainer.evaluate(10 * X + 5, Y)["loss"] == pytest.approx(everywhere, rel=1e-5)


def test_a_resumed_run_needs_the_same_loss_and_goes_on(tmp_path: Path) -> None:
    output, settings = tmp_path / "run", {**SETTINGS, "handoff": "none", "max_iterations": 2}
    SubsetTrainer(made(Two), (X, Y), loss=of_pair, output=str(output), **settings).fit()
    again: dict[str, Any] = {"model": made(Two), "dataset": (X, Y)}
    with pytest.raises(RunDirectoryError, match="the loss is not that of the run"):
        SubsetTrainer.resume(output, **again, loss=lambda model, batch: of_pair(model, batch), max_iterations=6)
    resumed = SubsetTrainer.resume(output, **again, loss=of_pair, max_iterations=6)
    whole = SubsetTrainer(made(Two), (X, Y), loss=of_pair, **{**settings, "max_iterations": 6}).fit()
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert resumed.evaluate((X, Y)) == whole.evaluate((X, Y))
    found = evaluate_run(output, splits=("train",), loss=of_pair, **again)
    assert found["train"]["loss"] == pytest.approx(resumed.result["metrics"]["train"]["loss"])


def mean_of_pair(model: Any, batch: Any) -> Tensor:
    return of_pair(model, batch).mean()


@pytest.mark.parametrize(
    ("model", "data", "loss", "changes", "message"),
    [
        ("mlp", (X, Y), of_pair, {}, "give the module"),
        (made(Two), (X, Y), None, {}, r"model returned tuple.*a loss\(model, batch\) may take it apart"),
        (made(Two), (X, Y), of_pair, {"normalize": "standard"}, "batches as they are"),
        (made(Two), (X, Y), of_pair, {"task": "classification"}, "batches as they are"),
        (made(Two), (X, Y), of_pair, {"solver": "kfac-stream"}, "the loss calls the model itself"),
        (made(Two), (X, Y), of_pair, {"handoff": "craig"}, "ends in a linear layer"),
        (made(Two), (X, Y), mean_of_pair, {"handoff": "selective-backprop"}, "return one for each"),
        (made(Two), (X, Y), of_pair, {"augment_copies": 1}, "several tensors"),
        (made(Two), (X, Y[:-1]), of_pair, {}, "a row for every sample"),
        (made(Two), (X, Y), lambda model, batch: of_pair(model, batch).sum(), {}, "not the mean over samples"),
        (made(Two), (X, Y), lambda model, batch: of_pair(model, batch)[:, None], {}, r"shape \(16, 1\)"),
        (made(Language), {"input_ids": IDS, "labels": LABELS}, of_tokens, {}, "count="),
        (
            made(Two),
            as_dataset((X, Y), sample_weight=torch.arange(N) % 3),
            mean_of_pair,
            {},
            "needs one loss per sample",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    model: Any, data: Any, loss: Any, changes: dict[str, Any], message: str
) -> None:
    given = {} if loss is None else {"loss": loss}
    settings = OF_RUN if isinstance(data, Dataset) else SETTINGS
    with pytest.raises(UserError, match=message) as caught:
        SubsetTrainer(model, data, **given, **{**settings, **changes}).fit()
    assert "\n" not in str(caught.value)


def test_a_lazy_model_takes_its_shapes_from_a_call_of_the_loss() -> None:
    model = nn.Sequential(nn.LazyLinear(2), nn.Tanh(), nn.LazyLinear(3))
    data = dataset_from_arrays(X, np.arange(N) % 2)

    def first(model: Any, batch: Any) -> Tensor:
        return reconstruction(model, batch[0])

    trainer = SubsetTrainer(model, data, loss=first, **OF_RUN).fit()
    assert trainer.result["model"]["parameters"] == 17
