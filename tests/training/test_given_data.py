"""Runs on data in every form people have: the same parameters, bit for bit, as on the tensors themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from subsetopt import SubsetTrainer, UserError
from subsetopt.analysis.verification import verify_run
from subsetopt.data import as_dataset
from subsetopt.samplers import SAMPLERS

N = 120
G = torch.Generator().manual_seed(0)
X = torch.randn(N, 5, generator=G)
MASK = (torch.arange(6) < torch.randint(1, 7, (N, 1), generator=G)).long()
IDS = torch.randint(1, 20, (N, 6), generator=G) * MASK
Y = (IDS.sum(1) / MASK.sum(1) + 3 * X[:, 0] > 10).long()
BATCH = {"input_ids": IDS, "attention_mask": MASK, "extra": 3 + 2 * X}


class Rows(TorchDataset[Any]):
    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> Any:
        return X[row].numpy(), int(Y[row])


class DictRows(Rows):
    def __getitem__(self, row: int) -> Any:
        return {name: part[row] for name, part in BATCH.items()} | {"labels": Y[row]}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.side, self.head = nn.Embedding(20, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, extra: Tensor) -> Tensor:
        weight = attention_mask.to(extra.dtype).unsqueeze(2)
        return self.head(torch.tanh((self.table(input_ids) * weight).sum(1) / weight.sum(1) + self.side(extra)))


FORMS: dict[str, Callable[[], object]] = {
    "TensorDataset": lambda: TensorDataset(X, Y),
    "loader": lambda: DataLoader(Rows(), 16, shuffle=True),
    "nested": lambda: ConcatDataset([Subset(Rows(), range(50)), Subset(Subset(Rows(), range(20, N)), range(30, 100))]),
    "read by row": lambda: as_dataset(Rows(), max_bytes=0),
    "sparse": lambda: (sparse.csc_matrix(X.numpy()), Y.numpy()),
    "sparse by row": lambda: as_dataset((sparse.csr_matrix(X.numpy()), Y), max_bytes=0),
}
DICTS: dict[str, Callable[[], object]] = {
    "dict": lambda: BATCH | {"labels": Y},
    "samples": DictRows,
    "loader": lambda: DataLoader(DictRows(), 7, shuffle=True),
    "read by row": lambda: as_dataset(DictRows(), max_bytes=0),
    "tuple": lambda: (tuple(BATCH.values()), Y),
}


def _mlp() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def _classifier() -> nn.Module:
    torch.manual_seed(1)
    return Classifier()


def _fitted(model: nn.Module, data: object, **settings: Any) -> tuple[SubsetTrainer, Tensor]:
    trainer = SubsetTrainer(model, data, **({"subset_frac": 0.5, "max_iterations": 3} | settings)).fit()
    return trainer, torch.cat([p.flatten() for p in trainer.model.parameters()]).detach()


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return _fitted(_mlp(), (X, Y), handoff="sgd", handoff_epochs=1)[1]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_trains_as_the_tensors_do(form: str, plain: Tensor) -> None:
    trainer, w = _fitted(_mlp(), FORMS[form](), handoff="sgd", handoff_epochs=1)
    assert torch.equal(w, plain)
    assert np.array_equal(trainer.predict(DataLoader(Rows(), 50)), trainer.predict(X).numpy())


@pytest.fixture(scope="module")
def several() -> Tensor:
    return _fitted(_classifier(), (BATCH, Y), handoff="sgd", handoff_epochs=1)[1]


@pytest.mark.parametrize("form", DICTS)
def test_samples_of_several_inputs_train_save_resume_and_predict(form: str, several: Tensor, tmp_path: Path) -> None:
    data = DICTS[form]()
    trainer, w = _fitted(_classifier(), data, handoff="sgd", handoff_epochs=1, output=tmp_path / "run")
    assert torch.equal(w, several)
    again = SubsetTrainer.resume(tmp_path / "run", model=_classifier(), dataset=data)
    given: Any = tuple(BATCH.values()) if form == "tuple" else BATCH
    assert torch.equal(again.predict(given), trainer.predict(given))
    # Reference: the network by hand, on a vector standardised by hand; whole numbers and masks as they are.
    train = as_dataset(data).train.inputs.part("2" if form == "tuple" else "extra")[:].double()
    extra = ((BATCH["extra"].double() - train.mean(0)) / train.std(0, correction=0)).float()
    expected = trainer.model(IDS, MASK, extra).detach()
    torch.testing.assert_close(trainer.predictor(given).detach(), expected)
    found = trainer.evaluate(given, Y)
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(expected, Y)), rel=1e-5)
    with pytest.raises(UserError, match="data are not those of the run"):
        verify_run(tmp_path / "run", model=_classifier(), dataset=(BATCH, 1 - Y))


def test_other_data_than_those_of_the_run_are_known_by_every_part(tmp_path: Path) -> None:
    _fitted(_classifier(), (BATCH, Y), handoff="none", output=tmp_path / "run")
    assert verify_run(tmp_path / "run", model=_classifier(), dataset=(BATCH, Y)) is not None
    changed = BATCH | {"attention_mask": torch.ones_like(MASK)}
    with pytest.raises(UserError, match="data are not those of the run"):
        verify_run(tmp_path / "run", model=_classifier(), dataset=(changed, Y))


@pytest.mark.parametrize("name", sorted(set(SAMPLERS.names) - {"full"}))
def test_every_sampler_takes_batches_of_dicts_or_says_what_to_set(name: str) -> None:
    settings = {"handoff": name, "handoff_epochs": 1, "subset_frac": 0.5, "max_iterations": 2}
    if name == "nw-sketch":
        with pytest.raises(UserError, match="codes = 'features'"):
            SubsetTrainer(_classifier(), (BATCH, Y), **settings).fit()
        settings["handoff_args"] = {"codes": "features"}
    result = SubsetTrainer(_classifier(), (BATCH, Y), **settings).fit().result
    assert result["handoff"]["method"] == name or name in str(result["handoff"])


@pytest.mark.parametrize("solver", ["newton-cg", "ncg", "kfac-stream"])
def test_every_kind_of_solver_takes_samples_of_several_inputs(solver: str) -> None:
    extra: dict[str, Any] = {"solver_epochs": 4} if solver == "kfac-stream" else {"max_iterations": 2}
    settings = {"solver": solver, "handoff": "none", "subset_frac": 0.5} | extra
    parts = [SubsetTrainer(_classifier(), data, **settings).fit().result["solve"] for data in ((BATCH, Y), DictRows())]
    assert parts[0]["loss"] == parts[1]["loss"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"augment_copies": 1}, "augment_copies.*several"),
        ({"augmentation": "shift", "handoff": "sgd"}, "augmentation"),
        ({"data_dir": "somewhere"}, "data_dir"),
        ({"task": "regression", "loss": "cross_entropy"}, "loss"),
    ],
)
def test_settings_that_need_one_tensor_are_refused_before_any_work(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SubsetTrainer(_classifier(), (BATCH, Y), **settings).fit()


def test_a_model_of_ours_and_a_table_too_small_are_refused_in_one_line() -> None:
    for name in ("auto", "mlp"):
        with pytest.raises(UserError, match="takes one input, the data have several"):
            SubsetTrainer(name, (BATCH, Y)).fit()
    with pytest.raises(UserError, match=r"cannot embed the integers.*input_ids 0 to 97"):
        SubsetTrainer(_classifier(), (BATCH | {"input_ids": IDS.clone().index_fill_(0, torch.tensor(77), 97)}, Y)).fit()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"input_ids": IDS, "extra": X}, "attention_mask is missing"),
        (IDS, "one tensor of shape"),
        (BATCH | {"extra": X[:, :1]}, r"inputs\['extra'\].*shape \(1,\)"),
        ((IDS, MASK, X), "trained on"),
    ],
)
def test_predictions_for_other_inputs_are_refused(given: Any, said: str) -> None:
    trainer, _ = _fitted(_classifier(), (BATCH, Y), handoff="none")
    with pytest.raises(UserError, match=said) as caught:
        trainer.predict(given)
    assert "\n" not in str(caught.value)
    shorter = {name: part[:, :3] if name != "extra" else part for name, part in BATCH.items()}
    assert trainer.predict(shorter).shape == (N,)
