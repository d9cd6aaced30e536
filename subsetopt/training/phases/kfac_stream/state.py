"""What a stream is made of between two steps, and what checkpoints of earlier versions lack of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import PhaseBudget
from subsetopt.training.phases.kfac_stream.fresh_subsets import StreamCursor
from subsetopt.training.phases.kfac_stream.least_damping import LeastDamping
from subsetopt.training.phases.kfac_stream.noise import GradientNoise
from subsetopt.training.phases.kfac_stream.output_change import OutputChange
from subsetopt.training.phases.kfac_stream.plateau import Plateau
from subsetopt.training.phases.kfac_stream.settings import Guard
from subsetopt.training.phases.loss_trend import LossTrend, upgraded_trend


@dataclass
class StreamState:
    """Where a stream is: parameters, momentum and the last good parameters (P,), and the place in the samples.

    `curvature` is v'Fv of the velocity v, computed anew in each step
    where it is not `carried`. `caution` multiplies the rate, and its square divides the damping; `returns` counts the
    returns to a good point. BatchNorm's statistics are taken over `statistics` samples at the end, whose cost is kept
    back from the start; 0 leaves them averages. `by_price` says whether factors keep few eigenvectors where products
    with them are dear, and `by_loss` whether the loss bounds steps, as they do but for streams of earlier versions.
    """

    w: Tensor
    velocity: Tensor
    good: Tensor
    good_buffers: dict[str, Tensor]
    random: dict[str, Tensor]
    generator: torch.Generator
    budget: PhaseBudget
    kfac: Kfac
    guard: Guard = field(default_factory=Guard)
    place: StreamCursor = field(default_factory=StreamCursor)
    change: OutputChange = field(default_factory=OutputChange)
    noise: GradientNoise = field(default_factory=GradientNoise)
    least: LeastDamping = field(default_factory=LeastDamping)
    plateau: Plateau = field(default_factory=Plateau)
    curvature: float = 0.0
    carried: bool = True
    iterations: int = 0
    estimates: int = 0
    estimate_cost: float = 0.0
    returns: int = 0
    loss: float = math.nan
    trend: LossTrend = field(default_factory=LossTrend)
    caution: float = 1.0
    stale: bool = True
    stopped: StopReason | None = None
    statistics: int = 0
    by_price: bool = True
    by_loss: bool = True


BEFORE_NOISE = {
    f"noise.{name}": value for name, value in asdict(GradientNoise(rescaled=False, of_root=0.0)).items()
} | {
    "curvature": 0.0,
    "carried": False,
}
"""What checkpoints lack that are older than the measurement of noise."""

BEFORE_EVIDENCE = {f"least.{name}": value for name, value in asdict(LeastDamping(known=False)).items()} | {
    "noise.of_critical": 0.7
}
"""What checkpoints of earlier versions lack: their streams have dampings by directions alone, and smaller subsets."""

BEFORE_POPULATION = {f"plateau.{name}": value for name, value in asdict(Plateau(known=False)).items()} | {
    "noise.population": 0
}
"""What checkpoints lack of streams that took samples for infinitely many, and knew no plateau of the loss."""

BEFORE_TRIALS = {"noise.rescaled": False, "noise.of_root": 0.0, "change.trials": 0, "by_loss": False}
"""What checkpoints lack of streams whose steps were not tried, nor bounded by the loss, and that could be 48."""


def before_noise(numbers: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint is of a stream whose sizes, trust and momentum were constants."""
    return "carried" not in numbers


def before_evidence(numbers: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint is of a stream whose damping knew no bound by evidence."""
    return "least.known" not in numbers


def upgraded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a checkpoint with what it lacks, so that its stream goes on by the rules it began with."""
    lacking: dict[str, Any] = {"by_price": False, **BEFORE_POPULATION, **BEFORE_TRIALS}
    lacking |= BEFORE_NOISE if before_noise(numbers) else {}
    lacking |= BEFORE_EVIDENCE if before_evidence(numbers) else {}
    return upgraded_trend({**lacking, **numbers})
