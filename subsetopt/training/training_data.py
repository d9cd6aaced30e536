"""The data of a run: the data set, the rows of the subset, and the tensors of each split."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from subsetopt.data import Dataset, Preprocess, Split, augmented_copies
from subsetopt.data.digest import dataset_digest
from subsetopt.data.normalization import measure
from subsetopt.data.subset import disjoint, draw_slice
from subsetopt.errors import SettingError, setting
from subsetopt.inputs import LazyRows, Stored, taken
from subsetopt.objective import resident_bytes
from subsetopt.objective.noise import MINIMUM_CHUNKS
from subsetopt.overdetermination import Overdetermination, overdetermination_ratio
from subsetopt.seeding import derive_seed
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.splits import SplitName


@dataclass(eq=False)
class TrainingData:
    """A data set and the subset drawn from it, for computation on `device`.

    `subset` (K,) holds row numbers into `dataset.train`; the subset has `copies` fixed augmented copies of each row
    besides. Regression targets of `dataset` are standardised, as they are trained; `given` has them as they came.
    Subsets are drawn from `seed`, by class with `stratify`.
    """

    dataset: Dataset
    given: Dataset
    preprocess: Preprocess
    device: torch.device
    subset: Tensor
    seed: int
    stratify: bool = False
    copies: int = 0

    def with_subset(self, rows: Tensor) -> TrainingData:
        """Return the same data with other rows in the subset."""
        return replace(self, subset=rows)

    def for_phase(self, config: PhaseConfig) -> TrainingData:
        """Return the data whose subset is that of the phase; raises `SettingError` where it cannot be drawn."""
        if config.subsets > 1:
            return self.with_subset(torch.cat(self.disjoint_subsets(config.subsets)).sort().values)
        if config.share is None:
            return self
        rows = draw_slice(self.full_size, config.share, config.skip, self.seed, stratify=self.strata)
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
        return disjoint(self.full_size, len(self.subset), count, self.seed, stratify=self.strata)

    @property
    def strata(self) -> Tensor | None:
        """The classes (N,) by which subsets are drawn, None where they are not."""
        return strata(self.dataset, self.stratify)

    @cached_property
    def digest(self) -> str:
        """The digest by which a saved file knows its data again; read once, they may be large."""
        return dataset_digest(self.given)

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
        if self.dataset.task == "classification" or self.dataset.target_normalization is not None:
            return 1.0
        std = measure(self.dataset.train.targets).std
        return sum(part * part for part in std) / len(std)

    def samples(self, split: SplitName) -> int:
        """Return the number of samples of a split: K, with its copies, for the subset; 0 where there is none."""
        if split is SplitName.SUBSET:
            return len(self.subset) * (self.copies + 1)
        part = self.dataset.train if split is SplitName.TRAIN else self._held_out(split)
        return 0 if part is None else len(part)

    def tensors(self, split: SplitName) -> tuple[Stored, Tensor] | None:
        """Return inputs and targets of a split, None where the data set has none.

        Training data are on the device; inputs that do not fit there, and held-out data, are where they are stored.
        """
        if split in (SplitName.SUBSET, SplitName.TRAIN):
            return self.trained(split)
        part = self._held_out(split)
        return None if part is None else (part.inputs, part.targets)

    def trained(self, split: SplitName) -> tuple[Stored, Tensor]:
        """Return the tensors that a phase on the subset, with its copies, or on all training data trains on."""
        return self._subset_on_device if split is SplitName.SUBSET else self._train_on_device

    def stored(self, split: SplitName) -> tuple[Stored, Tensor, Tensor | None]:
        """Return the samples of `trained` where they are stored: inputs, targets, and which rows of them (None: all).

        So that of several ranks each copies, and reads from a memory-mapped file, its own rows alone.
        """
        if split is SplitName.SUBSET and self.copies:
            return *self._drawn, None
        train = self.dataset.train
        return train.inputs, train.targets, self.subset if split is SplitName.SUBSET else None

    def stored_inputs(self, split: SplitName) -> Stored:
        """Return all inputs of `trained` where they are stored."""
        return self._drawn[0] if split is SplitName.SUBSET else self.dataset.train.inputs

    def targets(self, split: SplitName) -> Tensor | None:
        """Return the stored targets of a split, those of the subset without its copies; None where it has none."""
        if split is SplitName.SUBSET:
            return self.dataset.train.targets[self.subset]
        part = self.dataset.train if split is SplitName.TRAIN else self._held_out(split)
        return None if part is None else part.targets

    def weights(self, split: SplitName, stored: bool = False) -> Tensor | None:
        """Return the weights of the samples of `tensors`, or with `stored` of all rows of `stored`; None without."""
        if split in (SplitName.VALIDATION, SplitName.TEST):
            part = self._held_out(split)
            return None if part is None else part.weights
        every = self.dataset.train.weights
        if every is None or split is SplitName.TRAIN or (stored and not self.copies):
            return every
        return every[self.subset.cpu()].repeat(self.copies + 1)

    def overdetermination(self, parameters: int) -> tuple[Overdetermination, Overdetermination]:
        """Return the overdetermination of a model on the subset with its copies, and on the full training set."""
        subset, full = self.samples(SplitName.SUBSET), self.full_size
        outputs = self.dataset.n_outputs
        return overdetermination_ratio(parameters, subset, outputs), overdetermination_ratio(parameters, full, outputs)

    def _held_out(self, split: SplitName) -> Split | None:
        part = self.dataset.validation if split is SplitName.VALIDATION else self.dataset.test
        return None if part is None or len(part) == 0 else part

    @cached_property
    def _train_on_device(self) -> tuple[Stored, Tensor]:
        return self._placed(self.dataset.train.inputs), self.dataset.train.targets.to(self.device)

    @cached_property
    def _subset_on_device(self) -> tuple[Stored, Tensor]:
        inputs, targets = self._drawn
        return self._placed(inputs), targets.to(self.device)

    def _placed(self, inputs: Stored) -> Stored:
        limit = resident_bytes(self.device)
        if isinstance(inputs, LazyRows):
            return inputs[:].to(self.device) if inputs.nbytes <= min(limit, inputs.limit) else inputs
        return inputs.to(self.device) if inputs.nbytes <= limit else inputs

    @cached_property
    def _drawn(self) -> tuple[Stored, Tensor]:
        inputs, targets = taken(self.dataset.train.inputs, self.subset), self.dataset.train.targets[self.subset]
        if self.copies:
            inputs = images_of(inputs)
            extra = augmented_copies(inputs, self.copies, derive_seed(self.seed, "augment"))
            inputs = torch.cat([inputs, extra])
            targets = targets.repeat(self.copies + 1, *[1] * (targets.ndim - 1))
        return inputs, targets


def images_of(inputs: Stored) -> Tensor:
    """Return inputs that augmentation can change; raises `SettingError` for several inputs."""
    images = inputs[:] if isinstance(inputs, LazyRows) else inputs
    if isinstance(images, Tensor):
        return images
    raise SettingError("augment_copies", images.keys, "needs images, the inputs are several tensors", "set it to 0")


def strata(dataset: Dataset, stratify: bool) -> Tensor | None:
    """Return the classes by which subsets are drawn, None where they are not."""
    return dataset.train.targets if dataset.task == "classification" and stratify else None
