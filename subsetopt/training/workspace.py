"""Everything a run works on: data, subset, model, ledger, and the objectives made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from subsetopt.data import Dataset, Preprocess, augmented_copies
from subsetopt.data.digest import dataset_digest
from subsetopt.data.normalization import measure
from subsetopt.data.subset import disjoint, draw_slice
from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError, setting
from subsetopt.objective import (
    FlatModel,
    Objective,
    evaluate_split,
    resident_bytes,
    update_batch_norm,
)
from subsetopt.objective.memory import MemoryLimits
from subsetopt.objective.noise import MINIMUM_CHUNKS
from subsetopt.objective.protocol import Purpose
from subsetopt.overdetermination import Overdetermination, overdetermination_ratio, verdict
from subsetopt.seeding import derive_seed
from subsetopt.training.budget import Clock
from subsetopt.training.carry import CarriedCurvature
from subsetopt.training.ledger import Ledger
from subsetopt.training.loss_scale import LossScale
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.run import RunConfig


@dataclass
class Workspace:
    """The objects of one run. `subset` holds row numbers into `dataset.train`; tensors live on `device`.

    Regression targets of `dataset` are standardised, as they are trained; `given` has them as they came. `origin` are
    the model's initial parameters where the run starts from others (`init_from`); `embedded` says that it takes its
    integer inputs as tokens.
    """

    config: RunConfig
    dataset: Dataset
    flat: FlatModel
    loss: str
    preprocess: Preprocess
    device: torch.device
    ledger: Ledger
    subset: Tensor
    clock: Clock = field(default_factory=Clock)
    warnings: list[str] = field(default_factory=list)
    ranks: Ranks = field(default_factory=Ranks)
    memory_limits: MemoryLimits = field(default_factory=MemoryLimits)
    carried: CarriedCurvature = field(default_factory=CarriedCurvature)
    given: Dataset | None = None
    origin: Tensor | None = None
    embedded: bool = False
    scale: LossScale = field(default_factory=LossScale)
    _objectives: dict[tuple[str, bool], Objective] = field(default_factory=dict)

    def with_subset(self, subset: Tensor) -> Workspace:
        """Return the same with other rows in the subset; model and ledger are shared."""
        return replace(self, subset=subset, _objectives={})

    def for_phase(self, config: PhaseConfig) -> Workspace:
        """Return the workspace whose subset is that of the phase; raises `SettingError` where it cannot be drawn."""
        if config.subsets > 1:
            return self.with_subset(torch.cat(self.disjoint_subsets(config.subsets)).sort().values)
        if config.share is None:
            return self
        rows = draw_slice(
            self.full_size, config.share, config.skip, self.config.seed, stratify=strata(self.config, self.dataset)
        )
        least = max(MINIMUM_CHUNKS, self.dataset.n_outputs if self.dataset.task == "classification" else 1)
        if len(rows) < least:
            enough = math.ceil(1000 * least / self.full_size) / 1000
            raise SettingError(
                "grow_start",
                config.share,
                f"is {len(rows)} of {self.full_size} samples, {least} are the least that a "
                "stage of growing subsets needs",
                f"use {setting('grow_start', float(f'{enough:g}'))} or more",
            )
        return self.with_subset(rows)

    def disjoint_subsets(self, count: int) -> tuple[Tensor, ...]:
        """Return the rows of `count` disjoint subsets; the first is the run's own."""
        classes = strata(self.config, self.dataset)
        return disjoint(self.full_size, len(self.subset), count, self.config.seed, stratify=classes)

    @cached_property
    def data_digest(self) -> str:
        """The digest by which a saved file knows its data again; read once, they may be large."""
        return dataset_digest(self.dataset if self.given is None else self.given)

    @property
    def full_size(self) -> int:
        """N, the number of training samples."""
        return len(self.dataset.train)

    @property
    def loss_unit(self) -> float:
        """How large a squared loss of 1 on standardised targets is in the units of the data; 1 for any other loss."""
        by = self.dataset.target_normalization
        return 1.0 if by is None else sum(std * std for std in by.std) / len(by.std)

    @cached_property
    def spread(self) -> float:
        """The size of losses here: 1, but for squared loss on targets that are not standardised their mean variance."""
        if self.loss != "mse" or self.dataset.target_normalization is not None:
            return 1.0
        std = measure(self.dataset.train.targets).std
        return sum(part * part for part in std) / len(std)

    @cached_property
    def training_set(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the full training set, on the device; inputs that do not fit there stay on the host."""
        return self._placed(self.dataset.train.inputs), self.dataset.train.targets.to(self.device)

    @cached_property
    def subset_data(self) -> tuple[Tensor, Tensor]:
        """The same of the subset with its fixed augmented copies."""
        inputs, targets = self._drawn
        return self._placed(inputs), targets.to(self.device)

    def _placed(self, inputs: Tensor) -> Tensor:
        return inputs.to(self.device) if inputs.nbytes <= resident_bytes(self.device) else inputs

    @cached_property
    def _drawn(self) -> tuple[Tensor, Tensor]:
        inputs, targets = self.dataset.train.inputs[self.subset], self.dataset.train.targets[self.subset]
        copies = self.config.augment_copies
        if copies:
            extra = augmented_copies(inputs, copies, derive_seed(self.config.seed, "augment"))
            inputs = torch.cat([inputs, extra])
            targets = targets.repeat(copies + 1, *[1] * (targets.ndim - 1))
        return inputs, targets

    def samples(self, which: str) -> int:
        """Return K for `subset`, with its copies, or N for `full`."""
        return len(self.subset) * (self.config.augment_copies + 1) if which == "subset" else self.full_size

    def stored(self, which: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the samples of `data` where they are stored: inputs, targets, and which rows of them (None: all).

        So that of several ranks each copies, and reads from a memory-mapped file, its own rows alone.
        """
        if which == "subset" and self.config.augment_copies:
            return *self._drawn, None
        train = self.dataset.train
        return train.inputs, train.targets, self.subset if which == "subset" else None

    def data(self, which: str) -> tuple[Tensor, Tensor]:
        """Return the tensors that a phase on `subset` or `full` trains on."""
        return self.subset_data if which == "subset" else self.training_set

    def objective(self, which: str, track_noise: bool = False) -> Objective:
        """Return the full-batch objective on `subset` or `full`, charged to the ledger; built and checked once."""
        if (which, track_noise) not in self._objectives:
            # One process has the data on its device once, for all uses; of several each takes its part alone.
            inputs, targets, rows = (*self.data(which), None) if self.ranks.size == 1 else self.stored(which)
            self._objectives[which, track_noise] = Objective(
                self.flat,
                inputs,
                targets,
                loss=self.loss,
                l2=self.config.l2,
                indices=rows,
                chunk_size=None if self.config.chunk_size == "tune" else self.config.chunk_size,
                compile=self.config.compile,
                cuda_graphs=self.config.cuda_graphs,
                preprocess=self.preprocess,
                meter=self.ledger,
                track_noise=track_noise,
                ranks=self.ranks,
                memory_limits=self.memory_limits,
            )
        return self._objectives[which, track_noise]

    def save_memory_limits(self) -> list[dict[str, int | None]]:
        """Return what was found to fit into each rank's memory."""
        return self.ranks.gather(asdict(self.memory_limits))

    def restore_memory_limits(self, saved: Sequence[Mapping[str, int | None]]) -> None:
        """Cut as before, so that a resumed run rounds as before; other numbers of ranks take the tightest limits."""
        own = [saved[self.ranks.rank]] if len(saved) == self.ranks.size else saved
        for name in asdict(self.memory_limits):
            known = [limit for limits in own if (limit := limits[name]) is not None]
            setattr(self.memory_limits, name, min(known, default=None))

    def split(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return the tensors of subset, train, validation or test; None where the data set has none.

        With several ranks held-out data are where they are stored, since each rank looks at a part.
        """
        if name in ("subset", "train"):
            return self.data("subset" if name == "subset" else "full")
        part = self.dataset.validation if name == "validation" else self.dataset.test
        if part is None or len(part) == 0:
            return None
        where = self.device if self.ranks.size == 1 else part.inputs.device
        return part.inputs.to(where), part.targets.to(where)

    def evaluate(self, w: Tensor, name: str, purpose: Purpose = "evaluation") -> dict[str, float] | None:
        """Return loss (without L2) and accuracy, or mse and r2, of a split at w; None where there is no such split.

        All in the units of the data; `standardised_loss` beside them is in those of standardised targets.
        """
        rows = None
        if self.ranks.size > 1 and name in ("subset", "train"):
            inputs, targets, rows = self.stored("subset" if name == "subset" else "full")
        elif (tensors := self.split(name)) is not None:
            inputs, targets = tensors
        else:
            return None
        return evaluate_split(
            self.flat,
            w,
            inputs,
            targets,
            loss=self.loss,
            preprocess=self.preprocess,
            meter=self.ledger,
            purpose=purpose,
            ranks=self.ranks,
            indices=rows,
            target_std=None if (targets_by := self.dataset.target_normalization) is None else targets_by.std,
        )

    def held_out_loss(self, w: Tensor, purpose: Purpose = "selection") -> float:
        """Return the validation loss at w in the units of the training loss, in which every output column counts."""
        metrics = self.evaluate(w, "validation", purpose)
        assert metrics is not None, "the configuration refuses to choose by held-out data that are not there"
        return training_loss(metrics)

    def refresh_batch_norm(self, w: Tensor, which: str, purpose: Purpose = "calibration") -> None:
        """Set BatchNorm's running statistics to those of the data trained on; nothing happens without BatchNorm."""
        if not self.flat.has_running_statistics:
            return
        inputs = (self._drawn if which == "subset" else self.stored(which))[0]
        inputs = self.data(which)[0] if self.ranks.size == 1 else inputs
        update_batch_norm(self.flat, w, inputs, preprocess=self.preprocess, meter=self.ledger, purpose=purpose)

    @cached_property
    def overdetermination(self) -> tuple[Overdetermination, Overdetermination]:
        """Return the overdetermination of the subset (with its augmented copies) and of the full training set."""
        drawn = len(self.subset) * (self.config.augment_copies + 1)
        outputs = self.dataset.n_outputs
        return (
            overdetermination_ratio(self.flat.size, drawn, outputs),
            overdetermination_ratio(self.flat.size, self.full_size, outputs),
        )

    def describe_overdetermination(self) -> dict[str, Any]:
        """Return the `overdetermination` entry of result.json."""
        subset, full = self.overdetermination
        return {
            "samples": subset.samples,
            "outputs": subset.outputs,
            "parameters": subset.parameters,
            "ratio": subset.ratio,
            "ratio_full": full.ratio,
            "drawn": len(self.subset),
            "augment_copies": self.config.augment_copies,
            "verdict": verdict(subset, full, task=self.dataset.task),
        }


def training_loss(metrics: Mapping[str, float]) -> float:
    """Return the loss among `Workspace.evaluate`'s figures in the units in which it is trained."""
    return metrics.get("standardised_loss", metrics["loss"])


def strata(config: RunConfig, dataset: Dataset) -> Tensor | None:
    """Return the classes by which subsets are drawn, None where they are not."""
    return dataset.train.targets if dataset.task == "classification" and config.stratify else None
