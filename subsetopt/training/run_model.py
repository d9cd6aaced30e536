"""The model of a run: the functions of its parameters that phases minimise and measure, charged to the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from subsetopt.distributed import Ranks
from subsetopt.objective import FlatModel, Loss, Objective, evaluate_split, update_batch_norm
from subsetopt.objective.memory import MemoryLimits
from subsetopt.objective.protocol import Purpose
from subsetopt.training.ledger import Ledger
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

Objectives = WeakKeyDictionary[TrainingData, dict[tuple[SplitName, bool], Objective]]


@dataclass
class RunModel:
    """A model with its loss and L2 strength, and how its objectives are computed; w are its flat parameters (P,).

    `origin` are the model's initial parameters where the run starts from others (`init_from`).
    """

    flat: FlatModel
    loss: str | Loss
    l2: float
    ledger: Ledger
    ranks: Ranks = field(default_factory=Ranks)
    origin: Tensor | None = None
    chunk_size: int | None = None
    compile: bool = False
    cuda_graphs: bool = False
    memory_limits: MemoryLimits = field(default_factory=MemoryLimits)
    _objectives: Objectives = field(default_factory=WeakKeyDictionary, repr=False)

    def charged_to(self, ledger: Ledger, ranks: Ranks) -> RunModel:
        """Return the same model whose calls are charged to another ledger, and shared by other ranks."""
        return replace(self, ledger=ledger, ranks=ranks, _objectives=WeakKeyDictionary())

    @property
    def initial(self) -> Tensor:
        """The parameters (P,) that the model was made with, whatever the run starts from."""
        return self.flat.initial() if self.origin is None else self.origin

    def choose_l2(self, l2: float) -> None:
        """Set another L2 strength; objectives that were built get it with the data that they hold."""
        if l2 == self.l2:
            return
        self.l2 = l2
        for built in self._objectives.values():
            for kind, objective in built.items():
                built[kind] = objective.with_l2(l2)

    def recall_l2(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Set the strength that a finished phase has chosen, by the records of the finished phases."""
        for record in records:
            if path := record.get("l2_path"):
                self.choose_l2(path["chosen"])

    def objective(self, data: TrainingData, split: SplitName, track_noise: bool = False) -> Objective:
        """Return the full-batch objective on the subset or on all training data; built and checked once."""
        built = self._objectives.setdefault(data, {})
        if (split, track_noise) not in built:
            built[split, track_noise] = self._new_objective(data, split, track_noise)
        return built[split, track_noise]

    def drawn(self, data: TrainingData, factors: Tensor) -> Objective:
        """Return the objective on the subset of `data`, in which row i of all counts `factors[i]`; a new one each time.

        `factors` (N,) have the user's weights in them. Model and loss have been checked on all samples.
        """
        return self._new_objective(data, SplitName.SUBSET, False, factors)

    def _new_objective(
        self, data: TrainingData, split: SplitName, track_noise: bool, factors: Tensor | None = None
    ) -> Objective:
        # One process has the data on its device once, for all uses; of several each takes its part alone.
        alone = self.ranks.size == 1
        inputs, targets, rows = (*data.trained(split), None) if alone else data.stored(split)
        return Objective(
            self.flat,
            inputs,
            targets,
            loss=self.loss,
            l2=self.l2,
            indices=rows,
            chunk_size=self.chunk_size,
            compile=self.compile,
            cuda_graphs=self.cuda_graphs,
            preprocess=data.preprocess,
            meter=self.ledger,
            track_noise=track_noise,
            check_deterministic=factors is None,
            ranks=self.ranks,
            memory_limits=self.memory_limits,
            sample_weight=None if factors is not None else data.weights(split, stored=not alone),
            sample_factor=factors[data.subset.cpu()] if factors is not None and alone else factors,
        )

    def evaluate(
        self, data: TrainingData, w: Tensor, split: SplitName, purpose: Purpose = "evaluation"
    ) -> dict[str, float] | None:
        """Return loss (without L2) and accuracy, or mse and r2, of a split at w; None where there is no such split.

        All in the units of the data; `standardised_loss` beside them is in those of standardised targets.
        """
        rows = None
        if self.ranks.size > 1 and split in (SplitName.SUBSET, SplitName.TRAIN):
            inputs, targets, rows = data.stored(split)
        elif (tensors := data.tensors(split)) is not None:
            inputs, targets = tensors
        else:
            return None
        if self.ranks.size == 1 and split in (SplitName.VALIDATION, SplitName.TEST):
            inputs, targets = inputs.to(data.device), targets.to(data.device)
        by = data.dataset.target_normalization
        return evaluate_split(
            self.flat,
            w,
            inputs,
            targets,
            loss=self.loss,
            preprocess=data.preprocess,
            meter=self.ledger,
            purpose=purpose,
            ranks=self.ranks,
            indices=rows,
            target_std=None if by is None else by.std,
            sample_weight=data.weights(split, stored=rows is not None),
        )

    def held_out_loss(self, data: TrainingData, w: Tensor, purpose: Purpose = "selection") -> float:
        """Return the validation loss at w in the units of the training loss, in which every output column counts."""
        metrics = self.evaluate(data, w, SplitName.VALIDATION, purpose)
        assert metrics is not None, "the configuration refuses to choose by held-out data that are not there"
        return training_loss(metrics)

    def refresh_batch_norm(
        self, data: TrainingData, w: Tensor, split: SplitName, purpose: Purpose = "calibration"
    ) -> None:
        """Set BatchNorm's running statistics to those of the data trained on; nothing happens without BatchNorm."""
        if not self.flat.has_running_statistics:
            return
        inputs = data.trained(split)[0] if self.ranks.size == 1 else data.stored_inputs(split)
        update_batch_norm(self.flat, w, inputs, preprocess=data.preprocess, meter=self.ledger, purpose=purpose)

    def save_memory_limits(self) -> list[dict[str, int | None]]:
        """Return what was found to fit into each rank's memory."""
        return self.ranks.gather(asdict(self.memory_limits))

    def restore_memory_limits(self, saved: Sequence[Mapping[str, int | None]]) -> None:
        """Cut as before, so that a resumed run rounds as before; other numbers of ranks take the tightest limits."""
        own = [saved[self.ranks.rank]] if len(saved) == self.ranks.size else saved
        for name in asdict(self.memory_limits):
            known = [limit for limits in own if (limit := limits[name]) is not None]
            setattr(self.memory_limits, name, min(known, default=None))


def training_loss(metrics: Mapping[str, float]) -> float:
    """Return the loss among `RunModel.evaluate`'s figures in the units in which it is trained."""
    return metrics.get("standardised_loss", metrics["loss"])
