"""The summary at the end of a run: what happened, what it means, and what to do next."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subsetopt.report.subsets_words import subsets_words
from subsetopt.report.table import text_table
from subsetopt.report.words import is_mini_batch, role_words, stop_advice, stop_phrase

_WIDTH = 96
_SPLITS = ("subset", "train", "validation", "test")
_PURPOSES = {
    "train": "loss and gradient",
    "line_search": "line search",
    "product": "curvature products",
    "selection": "choosing samples and stopping",
    "calibration": "calibration",
    "evaluation": "evaluation (not counted)",
}
_FILES = {
    "result.json": "every number above",
    "loss.png": "training loss against cost",
    "metrics.jsonl": "the course of every phase, line by line",
    "model.safetensors": "the trained parameters, last",
    "model-best.safetensors": "the better parameters, of the subset minimum",
    "config.toml": "all settings, for --config",
}


def summary(result: Mapping[str, Any], directory: Path | None) -> str:
    """Return the summary of a run as text for people.

    `result` is the content of `result.json`; `directory` is where the run lies, None for a run kept in memory.
    """
    blocks = [_alarms(result), _opening(result), _ratio(result), _course(result), _quality(result), _cost(result)]
    blocks.append(_warnings(result))
    blocks.append(_whereabouts(directory))
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _alarms(result: Mapping[str, Any]) -> list[str]:
    """Return what must be known before any figure: harm done by the hand-off, a model no better than a constant."""
    alarms = (result.get("assessment") or {}).get("alarms") or []
    if not alarms:
        return []
    lines = ["CHECK FIRST", *[line for text in alarms for line in _wrapped(f"{text}.", hanging=4)]]
    kept = (result.get("models") or {}).get("best")
    return [*lines, *_wrapped(f"{kept} has the better parameters, model.safetensors the last.")] if kept else lines


def _opening(result: Mapping[str, Any]) -> list[str]:
    data, model = result["dataset"], result["model"]
    counts = ", ".join(f"{data[split]} {split}" for split in ("train", "validation", "test") if data.get(split))
    line = (
        f"{data['name']} ({counts}), model {model['name']} with {model['parameters']} parameters, seed {result['seed']}"
    )
    return [line]


def _ratio(result: Mapping[str, Any]) -> list[str]:
    facts = result["overdetermination"]
    copies = f" (each with {facts['augment_copies']} augmented copies)" if facts.get("augment_copies") else ""
    heading = (
        f"Overdetermination ratio Q = K·M/P = {facts['samples']} samples{copies} x {facts['outputs']} outputs / "
        f"{facts['parameters']} parameters = {facts['ratio']:.3g}"
    )
    return [heading, *_wrapped(str(facts["verdict"]))]


def _course(result: Mapping[str, Any]) -> list[str]:
    lines = ["What happened"]
    for number, phase in enumerate(result["phases"], start=1):
        if phase["role"] == "grow":
            lines += _stage(number, phase)
            continue
        role = role_words(phase["role"], phase["data"])
        where = "the subset" if phase["data"] == "subset" else "the full training set"
        facts = [f"{phase['iterations']} {'steps' if is_mini_batch(phase['method']) else 'iterations'}"]
        if phase["loss"] is not None:
            mean = "mean loss of the last mini-batches" if is_mini_batch(phase["method"]) else "objective"
            facts.append(f"{mean} {phase['loss']:.4g}")
        if phase["gradient_norm"] is not None:
            facts.append(f"max|g| {phase['gradient_norm']:.1e}{_test(phase)}")
        facts.append(f"{phase['epoch_equivalents']:.3g} epoch-equivalents in {_duration(phase['seconds'])}")
        head = f"{number}. {role}: {phase['method']} on {where} ({phase['samples']} samples)"
        lines += _wrapped(f"{head} - {stop_phrase(phase['stop_reason'])}.", hanging=5)
        lines += _wrapped(", ".join(facts) + ".", indent=5)
        lines += [line for text in subsets_words(phase) for line in _wrapped(text, indent=5)]
        if stop_advice(phase["stop_reason"]):
            lines += _wrapped(stop_advice(phase["stop_reason"]), indent=5)
    return lines


def _test(phase: Mapping[str, Any]) -> str:
    """Return the gradient test that the phase made, in the units of its loss."""
    test = phase.get("gradient_test")
    return f" (test: {test['gtol']:g} x {test['loss_scale']:.3g}, the loss's scale)" if test else ""


def _stage(number: int, phase: Mapping[str, Any]) -> list[str]:
    """Return a stage of growing subsets in a line or two: it is one of many, and its end needs no advice."""
    loss = "" if phase["loss"] is None else f" to objective {phase['loss']:.4g}"
    text = (
        f"{number}. growing: {phase['method']} on {phase['samples']} samples, {phase['iterations']} iterations{loss}, "
        f"{phase['epoch_equivalents']:.3g} epoch-equivalents; {stop_phrase(phase['stop_reason']).partition(':')[0]}"
    )
    return _wrapped(f"{text}.", hanging=5)


def _quality(result: Mapping[str, Any]) -> list[str]:
    after, before = result["metrics"], result.get("metrics_before_handoff")
    measure = "accuracy" if any("accuracy" in values for values in after.values()) else "mse"
    solve = role_words("solve", (result.get("solve") or {}).get("data", "subset"))
    stages = [(f"{solve}: ", before), ("hand-off: ", after)] if before else [("", after)]
    rows = [["data", *[heading for title, _ in stages for heading in (f"{title}loss", measure)]]]
    for split in _SPLITS:
        if split in after:
            rows.append([split, *[cell for _, metrics in stages for cell in _cells((metrics or {}).get(split))]])
    title = {"accuracy": "Loss and accuracy", "R²": "Loss and R²"}.get(measure, "Loss and mean squared error")
    when = f" after the {solve} and after the hand-off" if before else ""
    units = ""
    if result.get("target_normalization"):
        units = ", in the units of the data; objectives above are those of standardised targets"
    heading = textwrap.wrap(f"{title}{when} (loss without its L2 term{units})", _WIDTH, subsequent_indent="  ")
    return [*heading, *text_table(rows), *_constants(result)]


def _constants(result: Mapping[str, Any]) -> list[str]:
    """Return what the best constant prediction does on held-out data."""
    assessment = result.get("assessment") or {}
    split = assessment.get("split")
    found = assessment.get("baseline", {}).get(split)
    if not found:
        return []
    if "accuracy" in found:
        return _wrapped(f"Always the largest class: {100 * found['accuracy']:.2f} % on {split} data.")
    return _wrapped(f"Always the mean: mse {found['mse']:.4g} on {split} data.")


def _cells(metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None:
        return ["-", "-"]
    loss = "not finite" if metrics.get("loss") is None else f"{metrics['loss']:.4g}"
    if metrics.get("accuracy") is not None:
        return [loss, f"{100 * metrics['accuracy']:.2f} %"]
    quality = metrics.get("r2", metrics.get("mse"))
    return [loss, "-" if quality is None else f"{quality:.4g}"]


def _cost(result: Mapping[str, Any]) -> list[str]:
    cost = result["cost"]
    opening = (
        f"Cost: {cost['epoch_equivalents']:.3g} epoch-equivalents in {_duration(cost['seconds'])} "
        f"(1 = a forward and backward pass over all {result['dataset']['train']} training samples)"
    )
    rows = [["for", "epochs", "calls"]]
    for purpose, title in _PURPOSES.items():
        entry = cost["by_purpose"].get(purpose)
        if entry:
            rows.append([title, f"{entry['epoch_equivalents']:.3g}", f"{entry['calls']:.0f}"])
    return [opening, *text_table(rows)]


def _warnings(result: Mapping[str, Any]) -> list[str]:
    alarms = (result.get("assessment") or {}).get("alarms") or []
    warnings = [text for text in result.get("warnings") or [] if text not in alarms]
    return ["Warnings", *[line for text in warnings for line in _wrapped(str(text), hanging=4)]] if warnings else []


def _whereabouts(directory: Path | None) -> list[str]:
    if directory is None:
        return []
    present = {name: use for name, use in _FILES.items() if (directory / name).exists()}
    files = text_table([[name, use] for name, use in present.items()], left=2) if present else []
    next_steps = text_table(
        [
            [f"subsetopt evaluate {directory}", "measure the saved model again"],
            [f"subsetopt predict {directory} --data-file NEW.npz", "predict new data"],
            ["subsetopt train --subset-frac 0.2 ...", "a larger subset: what does it buy?"],
            ["subsetopt ratio --help", "how large a subset this model needs"],
        ],
        left=2,
    )
    return [f"Files in {directory}", *files, "", "Next", *next_steps]


def _wrapped(text: str, *, indent: int = 2, hanging: int | None = None) -> list[str]:
    first = " " * (indent if hanging is None else 2)
    rest = " " * (indent if hanging is None else hanging)
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
