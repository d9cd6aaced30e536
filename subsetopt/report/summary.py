"""The summary at the end of a run: what happened, what it means, and what to do next."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subsetopt.documents.run import PhaseEntry, RunDocument
from subsetopt.report.l2_path import path_words
from subsetopt.report.next_steps import next_steps
from subsetopt.report.numbers import WIDTH, counted, duration, epochs, loss, quality, wrapped
from subsetopt.report.rating import rating
from subsetopt.report.subsets_words import subsets_words
from subsetopt.report.table import text_table
from subsetopt.report.words import is_mini_batch, role_words, stop_advice, stop_phrase

_SPLITS = ("subset", "train", "validation", "test")
_PURPOSES = {
    "train": "loss and gradient",
    "line_search": "line search",
    "product": "curvature products",
    "arithmetic": "the method's own arithmetic",
    "selection": "choosing samples and stopping",
    "augmentation": "augmentation (not counted)",
    "calibration": "calibration",
    "evaluation": "evaluation (not counted)",
}
_FILES = {
    "result.json": "all figures above",
    "loss.png": "training loss against cost",
    "l2_path.png": "held-out loss against L2 strength",
    "l2_path.csv": "the minimum of each strength",
    "metrics.jsonl": "loss and gradient of every iteration",
    "model.safetensors": "the trained parameters",
    "model-best.safetensors": "the better parameters, of the subset minimum",
    "config.toml": "all settings, for --config",
}


def summary(result: Mapping[str, Any] | RunDocument, directory: Path | None) -> str:
    """Return the summary of a run as text for people.

    `result` is the content of `result.json`; `directory` is where the run lies, None for a run kept in memory. Raises
    pydantic's `ValidationError`, a `ValueError`, for a mapping that is no result.
    """
    run = RunDocument.of(result)
    blocks = [_alarms(run), _opening(run), _ratio(run), _course(run), _quality(run), _cost(run), _warnings(run)]
    blocks += [] if directory is None else [_files(directory), _next(run, directory)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _alarms(run: RunDocument) -> list[str]:
    """Return what must be known before any figure: harm done by the hand-off, a model no better than a constant."""
    if not run.assessment.alarms:
        return []
    lines = ["CHECK FIRST", *[line for text in run.assessment.alarms for line in wrapped(f"{text}.", hanging=4)]]
    kept = run.models.best if run.models else None
    return [*lines, *wrapped(f"{kept} has the better parameters, model.safetensors the last.")] if kept else lines


def _opening(run: RunDocument) -> list[str]:
    data, model = run.dataset, run.model
    sizes = {"train": data.train, "validation": data.validation, "test": data.test}
    counts = ", ".join(f"{size} {split}" for split, size in sizes.items() if size)
    text = f"{data.name} ({counts}), model {model.name} with {model.parameters} parameters, seed {run.seed}"
    rated = rating(run)
    return [text, *(textwrap.wrap(rated, WIDTH, subsequent_indent="  ") if rated else [])]


def _ratio(run: RunDocument) -> list[str]:
    """Return Q of the subset and what it tells; only Q of all data where no phase works on the subset."""
    facts = run.overdetermination
    if not _has_subset(run):
        if facts.ratio_full is None:
            return []
        return [
            f"Overdetermination ratio of all training data Q = N·M/P = {run.dataset.train} samples x {facts.outputs} "
            f"outputs / {facts.parameters} parameters = {facts.ratio_full:.3g}"
        ]
    copies = f" (each with {facts.augment_copies} augmented copies)" if facts.augment_copies else ""
    heading = (
        f"Overdetermination ratio Q = K·M/P = {facts.samples} samples{copies} x {facts.outputs} outputs / "
        f"{facts.parameters} parameters = {facts.ratio:.3g}"
    )
    return [heading, *wrapped(facts.verdict)]


def _has_subset(run: RunDocument) -> bool:
    return any(phase.data == "subset" for phase in run.phases)


def _course(run: RunDocument) -> list[str]:
    lines = ["What happened"]
    for number, phase in enumerate(run.phases, start=1):
        lines += _stage(number, phase) if phase.role == "grow" else _phase(number, phase)
    return lines


def _phase(number: int, phase: PhaseEntry) -> list[str]:
    where = "the subset" if phase.data == "subset" else "the full training set"
    facts = [counted(phase.iterations, "step" if is_mini_batch(phase.method, phase.loss_of) else "iteration")]
    if phase.loss is not None:
        mean = "mean loss of the last mini-batches" if is_mini_batch(phase.method, phase.loss_of) else "objective"
        facts.append(f"{mean} {loss(phase.loss)}")
    if phase.gradient_norm is not None:
        facts.append(f"max|g| {phase.gradient_norm:.1e}{_test(phase)}")
    facts.append(f"{epochs(phase.epoch_equivalents)} in {duration(phase.seconds)}")
    role = "training" if number == 1 and phase.role == "handoff" else role_words(phase.role, phase.data)
    head = f"{number}. {role}: {phase.method} on {where} ({phase.samples} samples)"
    lines = wrapped(f"{head} - {stop_phrase(phase.stop_reason)}.", hanging=5)
    advice = (
        ""
        if is_mini_batch(phase.method, phase.loss_of) and phase.stop_reason == "budget"
        else stop_advice(phase.stop_reason)
    )
    words = (*subsets_words(phase.model_dump()), *path_words(phase.l2_path), _rounds(phase))
    for text in (", ".join(facts) + ".", *words, advice):
        lines += wrapped(text, indent=5)
    return lines


def _rounds(phase: PhaseEntry) -> str:
    """Return in a sentence what rounds on samples drawn came to; empty where there were none."""
    rounds = (phase.model_extra or {}).get("rounds")
    if not rounds:
        return ""
    fewest, most = (pick(entry["samples"] for entry in rounds) for pick in (min, max))
    many = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    back = sum(not entry["kept"] for entry in rounds)
    taken = f", {back} of them taken back" if back else ""
    return f"{counted(len(rounds), 'round')} on {many} samples drawn by residual{taken}."


def _test(phase: PhaseEntry) -> str:
    """Return the gradient test that the phase made, in the units of its loss."""
    test = phase.gradient_test
    if test is None or test.gtol is None or test.loss_scale is None:
        return ""
    return f" (test: {test.gtol:g} x {test.loss_scale:.3g}, the loss's scale)"


def _stage(number: int, phase: PhaseEntry) -> list[str]:
    """Return a stage of growing subsets in a line or two: it is one of many, and its end needs no advice."""
    reached = "" if phase.loss is None else f" to objective {loss(phase.loss)}"
    text = (
        f"{number}. growing: {phase.method} on {phase.samples} samples, {counted(phase.iterations, 'iteration')}"
        f"{reached}, {epochs(phase.epoch_equivalents)}; {stop_phrase(phase.stop_reason).partition(':')[0]}"
    )
    return wrapped(f"{text}.", hanging=5)


_MEASURES = {"r2": "R²", "accuracy": "accuracy", "mse": "mse"}


def _quality(run: RunDocument) -> list[str]:
    after, before = run.metrics, run.metrics_before_handoff
    known = {name for values in after.values() for name in values}
    measure = next((title for name, title in _MEASURES.items() if name in known), None)  # a loss of one's own has none
    solve = role_words("solve", run.solve.data if run.solve else "subset")
    stages = [(f"{solve}: ", before), ("hand-off: ", after)] if before else [("", after)]
    rows = [["data", *[heading for title, _ in stages for heading in (f"{title}loss", measure) if heading]]]
    for split in _SPLITS if _has_subset(run) else _SPLITS[1:]:
        if split in after:
            cells = [_cells((metrics or {}).get(split))[: 2 if measure else 1] for _, metrics in stages]
            rows.append([split, *[cell for pair in cells for cell in pair]])
    title = "Loss" if measure is None else f"Loss and {'mean squared error' if measure == 'mse' else measure}"
    when = f" after the {solve} and after the hand-off" if before else ""
    units = ""
    if run.target_normalization is not None:
        units = ", in the units of the data; objectives above are those of standardised targets"
    heading = textwrap.wrap(f"{title}{when} (loss without its L2 term{units})", WIDTH, subsequent_indent="  ")
    return [*heading, *text_table(rows)]


def _cells(figures: dict[str, float | None] | None) -> list[str]:
    return ["-", "-"] if figures is None else [loss(figures.get("loss")), quality(figures)]


def _cost(run: RunDocument) -> list[str]:
    cost = run.cost
    opening = (
        f"Cost: {epochs(cost.epoch_equivalents)} in {duration(cost.seconds)} "
        f"(1 = forward and backward pass over all {run.dataset.train} training samples)"
    )
    rows = [["for", "epochs", "calls"]]
    for purpose, title in _PURPOSES.items():
        entry = cost.by_purpose.get(purpose)
        if entry:
            rows.append([title, f"{entry.epoch_equivalents:.3g}", f"{entry.calls:.0f}" if entry.calls else "-"])
    return [opening, *text_table(rows)]


def _warnings(run: RunDocument) -> list[str]:
    warnings = [text for text in run.warnings if text not in run.assessment.alarms]
    return ["Warnings", *[line for text in warnings for line in wrapped(text, hanging=4)]] if warnings else []


def _files(directory: Path) -> list[str]:
    present = [[name, use] for name, use in _FILES.items() if (directory / name).exists()]
    return [f"Files in {directory}", *(text_table(present, left=2) if present else [])]


def _next(run: RunDocument, directory: Path) -> list[str]:
    """Return the next commands, each on a line of its own with its purpose above: commands are long."""
    lines = ["Next"]
    for command, purpose in next_steps(run, directory):
        lines += [f"  {purpose}:", f"    {command}"]
    return lines
