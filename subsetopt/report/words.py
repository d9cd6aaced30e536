"""Plain words for why a phase stopped, and what the reader can do about it."""

from __future__ import annotations

from typing import NamedTuple


class StopWords(NamedTuple):
    """A phrase for a progress line, and advice for the summary (empty where there is nothing to do)."""

    phrase: str
    advice: str = ""


ROLES = {"warmup": "warm-up", "grow": "growing stage", "solve": "subset solve", "handoff": "hand-off"}
_COUPLED, _DECOUPLED, _STREAMS = ("sgd", "adam"), ("adamw", "muon"), ("kfac-stream",)


def role_words(role: str, data: str) -> str:
    """Return the name of a phase; a solve is one of the subset only where it is on the subset."""
    return "solve" if role == "solve" and data == "full" else ROLES.get(role, role)


def is_mini_batch(method: str) -> bool:
    """Return whether the recorded loss of `method` is a mean over mini-batches, not the loss on all its data."""
    return method in (*_COUPLED, *_DECOUPLED)


def loss_words(method: str, data: str, role: str = "", several: bool = False) -> str:
    """Return what the loss is that a phase records in metrics.jsonl; `several` disjoint subsets come one by one."""
    where = "the subset" if data == "subset" else "the full training set"
    if is_mini_batch(method):
        penalty = "with L2" if method in _COUPLED else "without weight decay"
        return f"mean over the latest mini-batches of {where}, {penalty}"
    if method in _STREAMS:
        return "loss on each fresh subset before its step, with L2"
    if several:
        return "loss on one of the subsets after the other, with L2"
    return f"loss on {'the subset of the stage' if role == 'grow' else where}, with L2"


_STOP = {
    "gradient": StopWords("minimum reached: max|g| fell below gtol x the loss's scale"),
    "noise": StopWords("sampling noise reached: further steps would only fit this one subset"),
    "validation": StopWords("held-out loss stopped improving; the best point was kept"),
    "precision_floor": StopWords(
        "no further decrease can be represented in this precision",
        "As low as this precision goes; --dtype float64 goes further, a larger --gtol accepts this point.",
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
        "The loss may have kinks (ReLU) or be badly scaled: try --dtype float64, a larger --l2, or --solver newton-cg.",
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
