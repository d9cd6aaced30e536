"""SOAP of pytorch_optimizer in a plain loop, for the race."""

from __future__ import annotations

import importlib
import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.bench.gpu.part import BenchPart
from subsetopt.bench.timing import synchronise
from subsetopt.data import Dataset, Preprocess
from subsetopt.models import build_model
from subsetopt.seeding import make_generator
from subsetopt.training.phases.first_order.schedules import rate_factor

BATCH, L2, LOOKS = 64, 1e-3, 0.1
CHUNK = 5000


def run_soap(
    part: BenchPart, dataset: Dataset, method: str, rate: float, epochs: float
) -> list[tuple[float, float, float]]:
    """Return (epochs, seconds, test loss) every tenth of an epoch and at the end; looks are outside the seconds.

    Model, initial weights, batch size, L2 (in the gradient) and schedule are those of the other methods; decoupled
    decay is off. Raises ImportError where pytorch_optimizer is missing, RuntimeError when the part's time is over.
    """
    optimizers: Any = importlib.import_module("pytorch_optimizer")
    device, train, test = part.device, dataset.train, dataset.validation
    assert test is not None, "the race puts the test split here"
    model = build_model("cnn", in_shape=dataset.in_shape, n_outputs=dataset.n_outputs).to(device)
    optimizer = optimizers.SOAP(model.parameters(), lr=rate, weight_decay=0.0)
    preprocess = Preprocess(dataset.normalization, torch.float32)
    inputs, targets = train.inputs.to(device), train.targets.to(device)
    held_out = test.inputs.to(device), test.targets.to(device)
    steps = max(1, math.floor(epochs * len(targets) / BATCH))
    every = max(1, round(LOOKS * len(targets) / BATCH))
    generator = make_generator(0, "soap")
    order = torch.cat([torch.randperm(len(targets), generator=generator) for _ in range(math.ceil(epochs))]).to(device)
    curve, spent, start = [], 0.0, time.perf_counter()
    for step in range(1, steps + 1):
        rows = order[(step - 1) * BATCH : step * BATCH]
        now = rate * rate_factor("cosine", (step - 1) / steps)
        _step(model, optimizer, now, preprocess(inputs[rows]), targets[rows])
        if step % every == 0 or step == steps:
            synchronise(device)
            spent += time.perf_counter() - start
            if part.over:
                raise RuntimeError(f"the part's time was over after {step} of {steps} steps")
            curve.append((step * BATCH / len(targets), spent, _loss(model, preprocess, *held_out)))
            start = time.perf_counter()
    return curve


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    penalty = torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()
    (F.cross_entropy(model(x), y) + 0.5 * L2 * penalty).backward()
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()


def _loss(model: nn.Module, preprocess: Preprocess, inputs: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        pieces = zip(inputs.split(CHUNK), targets.split(CHUNK), strict=True)
        losses = [F.cross_entropy(model(preprocess(x)), y, reduction="sum") for x, y in pieces]
        return float(torch.stack(losses).sum()) / len(targets)
