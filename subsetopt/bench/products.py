"""What curvature products cost in gradients, at fixed w with the graphs stored."""

from __future__ import annotations

from typing import Any

import torch

from subsetopt.bench.images import Images, synthetic_images
from subsetopt.bench.timing import Clock, median_seconds
from subsetopt.models import build_model
from subsetopt.objective import CallKind, Objective

CIFAR_SHAPE = (3, 32, 32)
PASSES = 5  # timed passes per repeat; single calls are too short to be timed once


def measure_products(
    images: Images, repeats: int, quick: bool, device: torch.device, clock: Clock
) -> list[dict[str, Any]]:
    """Return one row per model: seconds of a gradient, the ratios to it, and the bytes that stored graphs take.

    `linearise` is the recording of the Hessian's graphs alone, without a product.
    """
    small, large = (64, 16) if quick else (1024, 256)
    coloured = synthetic_images(large, CIFAR_SHAPE)
    return [
        _row(name, data, samples, repeats, device, clock)
        for name, data, samples in (("mlp", images, small), ("cnn", images, small), ("resnet", coloured, large))
    ]


def _row(name: str, images: Images, samples: int, repeats: int, device: torch.device, clock: Clock) -> dict[str, Any]:
    inputs, targets = images.inputs[:samples].to(device), images.targets[:samples].to(device)
    model = build_model(name, in_shape=tuple(inputs.shape[1:]), n_outputs=10).to(device)
    objective = Objective(model, inputs, targets, l2=1e-3)
    w = objective.initial()
    _, v = objective.value_and_gradient(w)
    at = objective.linearise(w)
    seconds = median_seconds(
        {
            "gradient": lambda: objective.value_and_gradient(w),
            "hvp": lambda: at.hvp(v),
            "ggnvp": lambda: at.ggnvp(v),
            "linearise": lambda: objective.linearise(w).record("hvp"),
        },
        repeats * PASSES,
        clock,
        device,
    )
    kinds: tuple[CallKind, ...] = ("hvp", "ggnvp")
    return {
        "model": name,
        "data": images.name,
        "parameters": objective.size,
        "samples": objective.n_samples,
        "chunks": len(objective.edges),
        "gradient_seconds": seconds["gradient"],
        "ratios": {kind: seconds[kind] / seconds["gradient"] for kind in ("hvp", "ggnvp", "linearise")},
        "graph_bytes": {kind: objective.graph_bytes[kind] * objective.n_samples for kind in kinds},
        "all_chunks_stored": all(at.stored_chunks(kind) == len(objective.edges) for kind in kinds),
        "note": at.note,
    }
