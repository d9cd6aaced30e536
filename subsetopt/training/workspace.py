"""Everything a run works on, built and checked before any work starts: data, subset, model, ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.data import Dataset, Preprocess, augmented_copies, draw, load_dataset, require_all_classes
from subsetopt.data.subset import disjoint, draw_slice
from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError
from subsetopt.models import build_model, check_output_shape, refuse_reserved
from subsetopt.objective import (
    FlatModel,
    Objective,
    calibrate_prices,
    evaluate_split,
    resident_bytes,
    tuned_chunk_size,
    update_batch_norm,
)
from subsetopt.objective.noise import MINIMUM_CHUNKS
from subsetopt.objective.protocol import Purpose
from subsetopt.overdetermination import Overdetermination, overdetermination_ratio, verdict, warning
from subsetopt.seeding import derive_seed
from subsetopt.training.carry import CarriedCurvature
from subsetopt.training.clock import Clock
from subsetopt.training.config import PhaseConfig, RunConfig
from subsetopt.training.initialisation import initialised_from
from subsetopt.training.ledger import Ledger

PRICE_SAMPLES = 8


@dataclass
class Workspace:
    """The objects of one run. `subset` holds row numbers into `dataset.train`; tensors live on `device`."""

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
    carried: CarriedCurvature = field(default_factory=CarriedCurvature)
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
            self.full_size, config.share, config.skip, self.config.seed, stratify=_strata(self.config, self.dataset)
        )
        least = max(MINIMUM_CHUNKS, self.dataset.n_outputs if self.dataset.task == "classification" else 1)
        if len(rows) < least:
            enough = math.ceil(1000 * least / self.full_size) / 1000
            raise SettingError(
                "start", config.share, f"is {len(rows)} of {self.full_size} samples, {least} are the least that a "
                "stage of growing subsets needs", f"use --start {enough:g} or more",
            )  # fmt: skip
        return self.with_subset(rows)

    def disjoint_subsets(self, count: int) -> tuple[Tensor, ...]:
        """Return the rows of `count` disjoint subsets; the first is the run's own."""
        strata = _strata(self.config, self.dataset)
        return disjoint(self.full_size, len(self.subset), count, self.config.seed, stratify=strata)

    @property
    def full_size(self) -> int:
        """N, the number of training samples."""
        return len(self.dataset.train)

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

    def stored(self, which: str) -> tuple[Tensor, Tensor]:
        """Return the same tensors as `data`, where they are stored."""
        return self._drawn if which == "subset" else (self.dataset.train.inputs, self.dataset.train.targets)

    def data(self, which: str) -> tuple[Tensor, Tensor]:
        """Return the tensors that a phase on `subset` or `full` trains on."""
        return self.subset_data if which == "subset" else self.training_set

    def objective(self, which: str, track_noise: bool = False) -> Objective:
        """Return the full-batch objective on `subset` or `full`, charged to the ledger; built and checked once."""
        if (which, track_noise) not in self._objectives:
            # One process has the data on its device once, for all uses; of several each takes its part alone.
            inputs, targets = self.data(which) if self.ranks.size == 1 else self.stored(which)
            self._objectives[which, track_noise] = Objective(
                self.flat,
                inputs,
                targets,
                loss=self.loss,
                l2=self.config.l2,
                chunk_size=None if self.config.chunk_size == "tune" else self.config.chunk_size,
                compile=self.config.compile,
                cuda_graphs=self.config.cuda_graphs,
                preprocess=self.preprocess,
                meter=self.ledger,
                track_noise=track_noise,
                ranks=self.ranks,
            )
        return self._objectives[which, track_noise]

    def halved_chunks(self) -> dict[str, list[int]]:
        """Return the chunk sizes, rank by rank, of objectives that had to halve them when memory ran out."""
        found = {}
        for (which, noise), objective in self._objectives.items():
            told = torch.tensor([[objective.chunk_size, objective.halvings]])
            sizes = self.ranks.gather_rows(told, self.ranks.size)
            if int(sizes[:, 1].max()):
                found[f"{which}{' with noise' if noise else ''}"] = sizes[:, 0].tolist()
        return found

    def restore_chunks(self, sizes: Mapping[str, Sequence[int]]) -> None:
        """Cut as before, so that a resumed run rounds as before; other numbers of ranks take the smallest size."""
        for (which, noise), objective in self._objectives.items():
            known = sizes.get(f"{which}{' with noise' if noise else ''}")
            if known:
                objective.cut_to(known[self.ranks.rank] if len(known) == self.ranks.size else min(known))
                objective.halvings += 1

    def split(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return the tensors of subset, train, validation or test; None where the data set has none.

        With several ranks they are where they are stored, since each rank looks at a part.
        """
        if name in ("subset", "train"):
            which = "subset" if name == "subset" else "full"
            return self.data(which) if self.ranks.size == 1 else self.stored(which)
        part = self.dataset.validation if name == "validation" else self.dataset.test
        if part is None or len(part) == 0:
            return None
        where = self.device if self.ranks.size == 1 else part.inputs.device
        return part.inputs.to(where), part.targets.to(where)

    def evaluate(self, w: Tensor, name: str, purpose: Purpose = "evaluation") -> dict[str, float] | None:
        """Return loss (without L2) and accuracy or mse of a split at w; None where the data set has no such split."""
        tensors = self.split(name)
        if tensors is None:
            return None
        return evaluate_split(
            self.flat,
            w,
            *tensors,
            loss=self.loss,
            preprocess=self.preprocess,
            meter=self.ledger,
            purpose=purpose,
            ranks=self.ranks,
        )

    def refresh_batch_norm(self, w: Tensor, which: str) -> None:
        """Set BatchNorm's running statistics to those of the data trained on; nothing happens without BatchNorm."""
        inputs, _ = self.data(which) if self.ranks.size == 1 else self.stored(which)
        update_batch_norm(self.flat, w, inputs, preprocess=self.preprocess, meter=self.ledger)

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


def prepare(
    config: RunConfig,
    model: nn.Module | None = None,
    dataset: Dataset | None = None,
    ranks: Ranks | None = None,
) -> Workspace:
    """Build the workspace of `config`; `model` and `dataset` replace the named ones, `ranks` share the work.

    Raises a `UserError` in one line for anything that would make the run fail later.
    """
    ranks = ranks or Ranks()
    device = resolve_device(config.device, config.dtype)
    dtype = getattr(torch, config.dtype)
    if dataset is None:
        dataset = load_dataset(
            config.dataset,
            data_dir=config.data_dir,
            data_file=config.data_file,
            validation_fraction=config.validation_fraction,
            seed=config.seed,
            normalize=config.normalize,
        )
    loss = resolve_loss(config.loss, dataset)
    subset = _draw_subset(config, dataset)
    if model is None:
        refuse_reserved(config.model_args)
        config = config.model_copy(update={"model": resolve_model(config.model, dataset)})
        model = build_model(
            config.model,
            in_shape=dataset.in_shape,
            n_outputs=dataset.n_outputs,
            seed=config.seed,
            dtype=dtype,
            **config.model_args,
        )
    check_output_shape(model, dataset.in_shape, dataset.n_outputs)
    flat = FlatModel(model, dtype=dtype, device=device)
    if config.init_from is not None:
        flat = initialised_from(config.init_from, flat)
    preprocess = Preprocess(dataset.normalization, dtype)
    ledger = Ledger(len(dataset.train), _prices(flat, dataset, loss, preprocess, device), config.max_epochs)
    workspace = Workspace(config, dataset, flat, loss, preprocess, device, ledger, subset, Clock(config.max_seconds))
    workspace.ranks = ranks
    _check_ratio(workspace)
    if config.chunk_size == "tune":
        # The number goes into the stored configuration, so that a resumed run sums in the same chunks, bit for bit.
        size = tuned_chunk_size(flat, *workspace.subset_data, loss=loss, preprocess=preprocess, meter=ledger)
        # From here on all ranks are known to be well: rank 0's number is everybody's.
        size = ranks.together(lambda: ranks).broadcast(size)
        workspace.config = config.model_copy(update={"chunk_size": size})
    return workspace


def resolve_device(name: str, dtype: str) -> torch.device:
    """Return the device to compute on; raises `SettingError` when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise SettingError("device", name, "this machine has none that torch can use", "use --device cpu")
    if name == "mps" and dtype == "float64":
        raise SettingError("device", name, "it has no float64", "use --dtype float32 or --device cpu")
    return torch.device(name)


def resolve_loss(name: str, dataset: Dataset) -> str:
    """Return the loss that fits the task; raises `SettingError` when the one asked for does not."""
    fitting = "cross_entropy" if dataset.task == "classification" else "mse"
    if name in ("auto", fitting):
        return fitting
    raise SettingError("loss", name, f"{dataset.name} is a {dataset.task} data set", f"use --loss {fitting}")


def resolve_model(name: str, dataset: Dataset) -> str:
    """Return the model meant by `auto`: a small CNN for images of 16 pixels or more, else an MLP."""
    if name != "auto":
        return name
    images = len(dataset.in_shape) == 3 and min(dataset.in_shape[1:]) >= 16
    return "cnn" if images else "mlp"


def _draw_subset(config: RunConfig, dataset: Dataset) -> Tensor:
    subset = draw(
        len(dataset.train),
        fraction=config.subset_share or None,
        size=config.subset_size,
        seed=config.seed,
        stratify=_strata(config, dataset),
    )
    if dataset.task == "classification":
        require_all_classes(dataset.train.targets[subset], dataset.n_outputs)
    return subset


def _strata(config: RunConfig, dataset: Dataset) -> Tensor | None:
    return dataset.train.targets if dataset.task == "classification" and config.stratify else None


def _prices(
    flat: FlatModel, dataset: Dataset, loss: str, preprocess: Preprocess, device: torch.device
) -> dict[str, float]:
    inputs = dataset.train.inputs[:PRICE_SAMPLES].to(device)
    targets = dataset.train.targets[:PRICE_SAMPLES].to(device)
    return calibrate_prices(flat, inputs, targets, loss=loss, preprocess=preprocess)


def _check_ratio(workspace: Workspace) -> None:
    subset, _ = workspace.overdetermination
    required = workspace.config.require_ratio
    if required is not None and subset.ratio < required:
        raise SettingError(
            "require_ratio",
            required,
            f"the subset has Q = K M / P = {subset.ratio:.3g} ({subset.samples} samples x {subset.outputs} outputs "
            f"/ {subset.parameters} parameters)",
            "use a larger --subset-frac, --augment-copies or a smaller model",
        )
    text = warning(subset, task=workspace.dataset.task)
    if text:
        workspace.warnings.append(text)
