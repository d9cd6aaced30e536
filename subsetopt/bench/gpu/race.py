"""Seconds and epoch-equivalents to the test loss of tuned Adam: the stream of K-FAC, Adam, SGD, Muon and SOAP.

The rates are fixed; where each was found stands beside it. The test split is looked at every tenth of an epoch, as the
held-out split of a run, outside its seconds and its cost: no setting is chosen by it here.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from subsetopt.bench.gpu.data import images
from subsetopt.bench.gpu.part import BenchPart, Row
from subsetopt.bench.gpu.soap import run_soap
from subsetopt.data import Dataset
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.progress import Silent
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

LOOK = 0.1  # epochs between looks at the test split
WARM_UP = 0.02  # epochs of an untimed run, in which kernels are loaded and chosen
REFERENCE = "adam"
RESNET_STUDY = "rate of reports/compare-cifar10-resnet, not tuned for this model"

Curve = list[tuple[float, float, float]]
"""(epoch-equivalents, seconds, test loss) at each look; the last is the end."""


@dataclass(frozen=True)
class Entrant:
    """A method, its rate (peak learning rate, or `rate` of the stream), and the page that the rate is taken from."""

    method: str
    rate: float
    source: str


@dataclass(frozen=True)
class Race:
    """A data set, the budget in epoch-equivalents, and who takes part; `REFERENCE` comes first and sets the target."""

    dataset: str
    epochs: float
    entrants: tuple[Entrant, ...]


MNIST, CIFAR = "reports/compare-mnist", "reports/compare-cifar10"
SOAP_MNIST = "search on the held-out split, seed 0: 0.0539 at 0.003, 0.0455 at 0.01, 0.0443 at 0.03; not above"
SOAP_CIFAR = "the middle rate of the search on MNIST, not tuned here"
RACES = (
    Race(
        "mnist",
        3.0,
        (
            Entrant("adam", 0.0316, MNIST),
            Entrant("kfac-stream", 0.0379, MNIST),
            Entrant("sgd", 0.5, MNIST),
            Entrant("muon", 0.01, MNIST),
            Entrant("soap", 0.03, SOAP_MNIST),
        ),
    ),
    Race(
        "cifar10",
        1.0,
        (
            Entrant("adam", 0.01, CIFAR),
            Entrant("kfac-stream", 0.12, CIFAR),
            Entrant("sgd", 0.05, CIFAR),
            Entrant("muon", 0.0316, RESNET_STUDY),
            Entrant("soap", 0.01, SOAP_CIFAR),
        ),
    ),
)


class _Watch(Silent):
    """Keeps the test losses of a run, and ends it with RuntimeError when the part's time is over."""

    def __init__(self, part: BenchPart) -> None:
        self._part = part
        self.curve: Curve = []

    def update(self, record: Mapping[str, Any]) -> None:
        """Keep a look at the test split."""
        if self._part.over:
            raise RuntimeError(f"the part's time was over after {record['epoch_equivalents']:.2g} epochs")
        if "validation" in record:
            loss = record["validation"]["loss"]
            self.curve.append((record["epoch_equivalents"], record["seconds"], loss))


def measure(part: BenchPart) -> None:
    """Add one row per entrant of both races."""
    part.title = "Seconds and epochs to tuned Adam's last test loss; zoo cnn, batch 64, cosine schedule, seed 0"
    labels = []
    for race in RACES:
        whole, label = images(race.dataset, part.tiny)
        labels.append(label)
        dataset = replace(whole, validation=whole.test, test=None)
        target = math.nan
        for entrant in race.entrants:
            names = {"dataset": race.dataset, "method": entrant.method, "rate": entrant.rate}
            row = part.measure(names, partial(_measure_entrant, part, dataset, race, entrant, target))
            if entrant.method == REFERENCE:
                target = row.get("last_test_loss", math.nan)
        part.data = "; ".join(labels)
    part.notes.append(
        "soap: pytorch_optimizer's in a plain loop; its epochs count gradients alone, not its own products"
    )


def _measure_entrant(part: BenchPart, dataset: Dataset, race: Race, entrant: Entrant, target: float, row: Row) -> None:
    if entrant.method == "soap" and importlib.util.find_spec("pytorch_optimizer") is None:
        row["note"] = "left out: pytorch_optimizer is not installed"
        return
    run = run_soap if entrant.method == "soap" else run_ours
    run(part, dataset, entrant.method, entrant.rate, 1.0 if part.tiny else WARM_UP)
    curve = run(part, dataset, entrant.method, entrant.rate, 1.0 if part.tiny else race.epochs)
    epochs, seconds, last = curve[-1]
    row |= {"last_test_loss": last, "seconds": seconds, "epoch_equivalents": epochs}
    row["target"] = last if entrant.method == REFERENCE else target
    reached = next(((e, s) for e, s, loss in curve if loss <= row["target"]), None)
    row["epochs_to_target"], row["seconds_to_target"] = reached or (None, None)
    row["rate_from"] = entrant.source


def run_ours(part: BenchPart, dataset: Dataset, method: str, rate: float, epochs: float) -> Curve:
    """Run one of this project's methods for `epochs` epoch-equivalents and return its test losses."""
    if method in METHODS:
        settings = {"solver": method, "solver_args": {"rate": rate}, "solver_epochs": epochs, "handoff": "none"}
    else:
        settings = {"solver": "none", "handoff": method, "handoff_lr": rate, "handoff_epochs": epochs}
    common = {"model": "cnn", "device": part.device.type, "track_validation": min(LOOK, epochs / 2)}
    config = make_config(settings, common, {"max_epochs": epochs})
    watch = _Watch(part)
    result = train(config, progress=watch, dataset=dataset, keep=False, splits=("validation",), figure=False).result
    cost = result["cost"]
    end = (cost["epoch_equivalents"], cost["seconds"], result["metrics"]["validation"]["loss"])
    return [*watch.curve, end]
