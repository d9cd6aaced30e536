"""Plain words for why a phase stopped, and what the reader can do about it."""

from __future__ import annotations

from typing import NamedTuple

from subsetopt.documents.run import LossOf


class StopWords(NamedTuple):
    """A phrase for a progress line, and advice for the summary (empty where there is nothing to do)."""

    phrase: str
    advice: str = ""


ROLES = {"warmup": "warm-up", "grow": "growing stage", "solve": "subset solve", "handoff": "hand-off"}


def role_words(role: str, data: str) -> str:
    """Return the name of a phase; a solve is one of the subset only where it is on the subset."""
    return "solve" if role == "solve" and data == "full" else ROLES.get(role, role)


# Files of version 0.1 do not say what a loss is; these are the methods of that version whose loss is not the objective.
_OF_OLD_FILES = {
    "sgd": LossOf.MINI_BATCHES,
    "adam": LossOf.MINI_BATCHES,
    "adamw": LossOf.MINI_BATCHES_WITHOUT_DECAY,
    "muon": LossOf.MINI_BATCHES_WITHOUT_DECAY,
    "kfac-stream": LossOf.FRESH_BATCH,
}


def loss_of(method: str, recorded: str | None) -> str:
    """Return what the loss of a phase is, as `recorded` says, or as the method of a file of version 0.1 had it."""
    return _OF_OLD_FILES.get(method, LossOf.OBJECTIVE) if recorded is None else recorded


def is_mini_batch(method: str, recorded: str | None) -> bool:
    """Return whether the recorded loss is a mean over mini-batches, not the loss on all the data of the phase."""
    return loss_of(method, recorded) in (LossOf.MINI_BATCHES, LossOf.MINI_BATCHES_WITHOUT_DECAY)


def loss_words(kind: str, data: str, role: str = "") -> str:
    """Return in words what the loss is that a phase records in metrics.jsonl; `kind` is that of `loss_of`."""
    where = "the subset" if data == "subset" else "the full training set"
    words: dict[str, str] = {
        LossOf.MINI_BATCHES: f"mean over the latest mini-batches of {where}, with L2",
        LossOf.MINI_BATCHES_WITHOUT_DECAY: f"mean over the latest mini-batches of {where}, without weight decay",
        LossOf.FRESH_BATCH: "loss on each fresh mini-batch before its step, with L2",
        LossOf.ONE_SUBSET: "loss on one of the subsets after the other, with L2",
        LossOf.L2_PATH: f"loss on {where}, with L2 of one strength after the other",
        LossOf.DRAWN: "loss estimated on the samples drawn, and then on all, with L2",
        LossOf.OBJECTIVE: f"loss on {'the subset of the stage' if role == 'grow' else where}, with L2",
    }
    return words.get(kind, kind)


_STOP = {
    "gradient": StopWords("minimum reached: max|g| fell below gtol x the loss's scale"),
    "noise": StopWords("sampling noise reached: further steps would only fit this one subset"),
    "validation": StopWords("held-out loss stopped improving; the best point was kept"),
    "precision_floor": StopWords(
        "no step lowers the loss by more than its rounding",
        "Where rounding ends it, --dtype float64 goes further. Where the backward pass is not the gradient of the loss "
        "(straight-through, detach, gradient reversal) or the loss has kinks (ReLU), no precision does. A larger "
        "--gtol accepts this point.",
    ),
    "max_iterations": StopWords(
        "iteration limit reached before the minimum",
        "Raise --max-iterations to come closer to the minimum, or accept this point with a larger --gtol.",
    ),
    "max_evaluations": StopWords(
        "evaluation limit reached before the minimum", "Raise the solver's max_evaluations to come closer."
    ),
    "budget": StopWords(
        "budget spent",
        "More of it (--max-epochs, --solver-epochs, --handoff-epochs, --max-seconds) brings it nearer the minimum.",
    ),
    "line_search": StopWords(
        "no step along the search direction lowers the loss",
        "The loss may have kinks (ReLU) or be badly scaled: try --dtype float64, a larger --l2, or --solver newton-cg. "
        "Nothing helps where the backward pass is not the gradient of the loss (straight-through, detach, reversal).",
    ),
    "wrong_gradient": StopWords(
        "no step lowers the loss: the gradient is not that of the loss, or the loss jumps",
        "Look for a backward pass of its own (straight-through, gradient reversal), detach(), or rounding in the "
        "forward pass: no solver and no precision reach a minimum there. First-order training does not ask for one: "
        "--solver none.",
    ),
    "non_finite": StopWords(
        "the loss or its gradient is not finite",
        "Check the inputs for extreme values (--normalize standard), lower the learning rate, or change the model.",
    ),
    "unbounded": StopWords("the loss falls without limit", "Give --l2 a value above 0, so that a minimum exists."),
    "joined": StopWords(
        "every subset reached its minimum; these were averaged",
        "An average is no minimum itself: --subsets-then resolve continues from it on all the subsets together.",
    ),
    "schedule_end": StopWords("planned steps done"),
    "callback": StopWords("stopped by the callback"),
    "interrupted": StopWords("interrupted", "`subsetopt resume` continues from this checkpoint."),
}


def stop_phrase(reason: str) -> str:
    """Return why a phase stopped, in words; an unknown reason is shown as it is."""
    return _STOP.get(reason, StopWords(reason)).phrase


def stop_advice(reason: str) -> str:
    """Return what the reader can do about it, or an empty string."""
    return _STOP.get(reason, StopWords(reason)).advice
