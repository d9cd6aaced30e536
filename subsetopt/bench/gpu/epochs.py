"""Seconds per epoch of ResNet-18 under this project's first-order loop, and under a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from statistics import median

import torch
import torch.nn.functional as F

from subsetopt.bench.gpu.clocks import by_turns
from subsetopt.bench.gpu.data import images
from subsetopt.bench.gpu.models import resnet18
from subsetopt.bench.gpu.part import BenchPart, Row
from subsetopt.bench.timing import synchronise
from subsetopt.data import Dataset, Preprocess
from subsetopt.data.dataset import Split
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

ROWS, BATCH, REPEATS = 10_000, 128, 3
LR, MOMENTUM, DECAY = 0.1, 0.9, 5e-4


def measure(part: BenchPart) -> None:
    """Add one row per precision, and one for gradients that repeat bit for bit; both loops by turns, warm."""
    part.title = f"Seconds per epoch of ResNet-18 on {ROWS} images, batch {BATCH}, SGD with momentum, by turns"
    whole, part.data = images("cifar10", part.tiny)
    rows = 64 if part.tiny else ROWS
    dataset = replace(whole, train=_first(whole.train, rows), validation=None, test=None)
    part.notes.append(
        "float32 both with TF32 as torch has it by default; the plain loop has its data on the device, "
        "standardises each batch, and waits for the device once per epoch"
    )
    for precision, repeats_bits in (("float32", False), ("bfloat16", False), ("float32", True)):
        fixed = {"precision": precision, "cudnn_deterministic": repeats_bits}
        part.measure(fixed, partial(_measure_precision, part, dataset, precision == "bfloat16", repeats_bits))


def _first(split: Split, rows: int) -> Split:
    return Split(split.inputs[:rows], split.targets[:rows], split.rows[:rows])


def _measure_precision(part: BenchPart, dataset: Dataset, amp: bool, repeats_bits: bool, row: Row) -> None:
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = repeats_bits
    try:
        _measure_loops(part, dataset, amp, row)
    finally:
        torch.backends.cudnn.deterministic = before


def _measure_loops(part: BenchPart, dataset: Dataset, amp: bool, row: Row) -> None:
    plain, ours = PlainLoop(part, dataset, amp), OurLoop(part, dataset, amp)
    row["parameters"] = sum(p.numel() for p in plain.model.parameters())
    plain()
    ours()
    seconds = by_turns({"plain": plain, "whole": ours}, 1 if part.tiny else REPEATS, part.device, part.deadline, False)
    row |= {
        "plain_s": seconds["plain"],
        "subsetopt_s": median(ours.seconds[1:]),
        "ratio": median(ours.seconds[1:]) / seconds["plain"],
        "plain_images_per_s": len(dataset.train) / seconds["plain"],
        "with_setup_s": seconds["whole"],
    }


class OurLoop:
    """One epoch per call through `train`; `seconds` are those of the phase, without preparing the run."""

    def __init__(self, part: BenchPart, dataset: Dataset, amp: bool) -> None:
        settings = {"solver": "none", "handoff": "sgd", "handoff_epochs": 1.0, "handoff_lr": LR, "device": _kind(part)}
        more = {"handoff_batch_size": batch_size(part.tiny), "handoff_amp": amp, "handoff_schedule": "constant"}
        self._config = make_config(settings, more, {"l2": DECAY, "handoff_momentum": MOMENTUM, "subset_frac": 1.0})
        self._dataset, self._model = dataset, resnet18(4 if part.tiny else 64)
        self.seconds: list[float] = []

    def __call__(self) -> None:
        """Train one epoch."""
        result = train(self._config, model=self._model, dataset=self._dataset, keep=False, splits=(), figure=False)
        self.seconds.append(float(result.result["phases"][-1]["seconds"]))


class PlainLoop:
    """What one would write by hand: the same model, batches of a shuffled epoch, optimizer, precision."""

    def __init__(self, part: BenchPart, dataset: Dataset, amp: bool) -> None:
        self._device, self._amp, self._batch = part.device, amp, batch_size(part.tiny)
        self.model = resnet18(4 if part.tiny else 64).to(part.device)
        self._inputs, self._targets = dataset.train.inputs.to(part.device), dataset.train.targets.to(part.device)
        self._preprocess: Callable[[torch.Tensor], torch.Tensor] = Preprocess(dataset.normalization, torch.float32)
        self._optimizer = torch.optim.SGD(self.model.parameters(), LR, MOMENTUM, weight_decay=DECAY)

    def __call__(self) -> None:
        """Train one epoch, the last rows that fill no batch left out."""
        self.model.train()
        order = torch.randperm(len(self._targets), device=self._device)
        for start, stop in pairwise(range(0, len(order) + 1, self._batch)):
            rows = order[start:stop]
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._amp):
                loss = F.cross_entropy(self.model(self._preprocess(self._inputs[rows])), self._targets[rows])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
        synchronise(self._device)


def batch_size(tiny: bool) -> int:
    """Return the samples per step."""
    return 16 if tiny else BATCH


def _kind(part: BenchPart) -> str:
    return part.device.type
