"""What a reader must know before any other figure: a model no better than a constant, a hand-off that did harm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subsetopt.errors import setting
from subsetopt.objective import make_loss
from subsetopt.objective.chunks import PlacedSamples
from subsetopt.objective.evaluation import model_outputs
from subsetopt.objective.weighting import prepared
from subsetopt.training.context import RunContext
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.position import Snapshot
from subsetopt.training.run_model import RunModel, training_loss
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

ERRORS = 2.0  # standard errors that chance explains
WORSE = 1.1  # times the loss before: worse, whatever the sampling noise
NEGLIGIBLE = 1e-3  # of a constant prediction's loss: two good fits, not a good and a bad one

Metrics = Mapping[str, Mapping[str, float]]


def baseline(data: TrainingData, split: SplitName) -> dict[str, float] | None:
    """Return loss and accuracy, or mse, of the best constant prediction of the training data on a split.

    That is the largest class with the class shares for probabilities, or the mean; in the units of the data.
    """
    train, part = data.dataset.train.targets, data.targets(split)
    if part is None:
        return None
    if data.dataset.task == "classification":
        counts = torch.bincount(train, minlength=data.dataset.n_outputs).double()
        shares = counts.clamp_min(0.5) / counts.sum()
        return {
            "loss": float(-shares.log()[part].mean()),
            "accuracy": float((part == int(counts.argmax())).double().mean()),
        }
    by = data.dataset.target_normalization
    squares = (part.double() - train.double().mean(0)).square().mean(0)
    if by is None:
        return {"loss": float(squares.mean()), "mse": float(squares.mean())}
    mse = float((squares * torch.tensor(by.std, dtype=torch.float64, device=squares.device).square()).mean())
    return {"loss": mse, "mse": mse, "standardised_loss": float(squares.mean())}


def assess(
    data: TrainingData,
    run: RunContext,
    final: Snapshot,
    solve: Snapshot | None,
    metrics: Metrics,
    before: Metrics | None,
) -> dict[str, Any]:
    """Return the `assessment` of result.json: the constant predictions, alarms, and what is better than the last model.

    Judged on validation data where there are some, else on test or training data. `better` is "subset minimum" where
    the hand-off ended with a held-out loss that is higher by more than chance explains (two standard errors of the
    paired differences) or by a tenth.
    """
    constants = {name: found for name in metrics if (found := baseline(data, SplitName(name))) is not None}
    judged = next((name for name in ("validation", "test", "train") if name in constants), None)
    if judged is None:
        return {"split": None, "baseline": constants, "alarms": [], "better": None}
    alarms = []
    least = NEGLIGIBLE * training_loss(constants[judged])
    if not isinstance(run.model.loss, str):
        # The best constant for a loss of the user's own is not known, only for the figures beside it.
        least = 0.0
        constants = {name: _comparable(found, metrics[name]) for name, found in constants.items()}
    harm = _harm(data, run, final, solve, judged, metrics, before, least)
    if harm:
        alarms.append(harm)
    trivial = _trivial(data, run, final, judged, metrics[judged], constants[judged], bool(harm))
    if trivial:
        alarms.append(trivial)
    return {"split": judged, "baseline": constants, "alarms": alarms, "better": "subset minimum" if harm else None}


def _harm(
    data: TrainingData,
    run: RunContext,
    final: Snapshot,
    solve: Snapshot | None,
    name: str,
    metrics: Metrics,
    before: Metrics | None,
    least: float,
) -> str | None:
    """Return what to say of a hand-off that left the subset minimum for something worse."""
    if before is None or solve is None or name == "train" or name not in before:
        return None
    earlier, later = training_loss(before[name]), training_loss(metrics[name])
    if math.isfinite(earlier) and math.isfinite(later):
        difference = later - earlier
        if difference <= least or _no_worse(before[name], metrics[name]):
            return None
        if later <= WORSE * earlier and difference <= ERRORS * _paired_error(
            data, run.model, solve, final, SplitName(name)
        ):
            return None
    elif not math.isfinite(earlier) or math.isfinite(later):
        return None
    return (
        f"the hand-off did harm: {name} loss {_shown(metrics[name]['loss'])} at its end, "
        f"{_shown(before[name]['loss'])} at the subset minimum, whose parameters are kept beside the last ones; "
        f"{_remedy_for_harm(run.config, final)}"
    )


def _comparable(constant: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of a constant prediction that do not depend on the loss, where the model has them, too."""
    return {name: value for name, value in constant.items() if name in ("accuracy", "mse") and name in measured}


def _no_worse(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """Whether accuracy has not fallen though the loss has risen: more confident, not worse."""
    return "accuracy" in after and after["accuracy"] >= before["accuracy"]


def _trivial(
    data: TrainingData,
    run: RunContext,
    final: Snapshot,
    name: str,
    metrics: Mapping[str, float],
    constant: Mapping[str, float],
    harmed: bool,
) -> str | None:
    """Return what to say of a model that a constant prediction equals or beats."""
    if "accuracy" in constant and "accuracy" in metrics:
        targets = data.targets(SplitName(name))
        share, count = constant["accuracy"], 1 if targets is None else len(targets)
        chance = ERRORS * math.sqrt(share * (1 - share) / count)
        fits = "loss" in constant and math.isfinite(metrics["loss"]) and metrics["loss"] < constant["loss"]
        if metrics["accuracy"] > share + chance or (fits and metrics["accuracy"] >= share - chance):
            return None
        found = f"{name} accuracy {100 * metrics['accuracy']:.1f} %, always the largest class {100 * share:.1f} %"
        worse = "the model is no better than always predicting the largest class"
        return f"{worse}: {found}; {_remedy(data, run, final, harmed)}"
    if "mse" not in metrics or "mse" not in constant:
        return None
    least = NEGLIGIBLE**2 * data.spread  # targets that do not vary leave nothing to explain
    comparable = "loss" in constant
    own, theirs = ((training_loss(part) if comparable else part["mse"]) for part in (metrics, constant))
    if own <= theirs + least:
        return None
    found = f"{name} mse {_shown(metrics['mse'])}, the mean's {_shown(constant['mse'])}"
    return f"the model is worse than predicting the mean: {found}; {_remedy(data, run, final, harmed)}"


def _remedy_for_harm(config: RunConfig, final: Snapshot) -> str:
    record = final.record
    if config.phase:
        return "lower the lr of its [[phase]], or leave the phase out"
    if record["method"] in OPTIMIZERS:
        rate = record.get("learning_rate") or OPTIMIZERS.get(record["method"]).default_rate()
        return f"try {setting('handoff_lr', _tenth(rate))}, or {setting('handoff', 'full')}"
    return f"try {setting('handoff_stop_at', 'validation')}, or {setting('handoff', 'none')}"


def _remedy(data: TrainingData, run: RunContext, final: Snapshot, harmed: bool) -> str:
    config, record = run.config, final.record
    if data.dataset.normalization is None and not data.preprocess.embedded:
        return f"inputs and targets are not standardised: try {setting('normalize', 'auto')}"
    if harmed:
        return "see the hand-off"
    if config.phase:
        return "change the lr or the epochs of its last [[phase]]"
    if record["method"] in OPTIMIZERS:
        rate = record.get("learning_rate") or OPTIMIZERS.get(record["method"]).default_rate()
        name = {"handoff": "handoff", "warmup": "warmup"}.get(record["role"], "handoff")
        epochs = getattr(config, f"{name}_epochs")
        return f"try {setting(f'{name}_lr', _tenth(rate))}, or {setting(f'{name}_epochs', 4 * epochs)}"
    if not record["converged"] and record["stop_reason"] == "max_iterations" and config.max_iterations:
        return f"the solve is not at its minimum: try {setting('max_iterations', 4 * config.max_iterations)}"
    share = len(data.subset) / data.full_size
    if record["data"] == "subset" and share < 1:
        return f"try a larger subset, {setting('subset_frac', min(1.0, round(4 * share, 3)))}"
    return f"try another {setting('model')}, or {setting('l2', float(f'{config.strengths[-1] / 10:.2g}'))}"


def _paired_error(data: TrainingData, model: RunModel, first: Snapshot, second: Snapshot, split: SplitName) -> float:
    """Return the standard error of the mean difference between the losses of two models on the rows of a split."""
    a, b = (_losses(data, model, snapshot, split) for snapshot in (first, second))
    difference = (b - a).double()
    return float(difference.std() / math.sqrt(len(difference))) if len(difference) > 1 else 0.0


def _losses(data: TrainingData, model: RunModel, snapshot: Snapshot, split: SplitName) -> Tensor:
    tensors, kind, flat = data.tensors(split), make_loss(model.loss), model.flat
    assert tensors is not None, "a split that was measured"
    flat.load_buffers(snapshot.buffers)
    placed = PlacedSamples(tensors[0], None, None, flat.device, flat.dtype, data.preprocess)
    outputs = model_outputs(flat, snapshot.w, placed, meter=model.ledger)
    kind, targets = prepared(kind, tensors[1].to(flat.device), data.weights(split), flat.dtype)
    return kind.per_sample(outputs, targets)


def _tenth(rate: float) -> float:
    return float(f"{rate / 10:.2g}")


def _shown(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
