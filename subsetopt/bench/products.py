"""What curvature products cost in gradients, at fixed w with the graphs stored."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

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
    models: list[tuple[str, nn.Module, Images, int]] = [
        ("mlp", _of_zoo("mlp", images), images, small),
        ("cnn", _of_zoo("cnn", images), images, small),
        ("resnet", _of_zoo("resnet", coloured), coloured, large),
        ("resnet, GroupNorm, GELU", _of_zoo("resnet", coloured, norm="group", activation="gelu"), coloured, large),
        ("transformer", _of_zoo("transformer", images), images, large),
        ("transformer, width 64", _Rows(_encoder(images.inputs.shape[-1])), images, large),
        ("LSTM", _Rows(_Recurrent(images.inputs.shape[-1])), images, large),
    ]
    return [_row(*model, repeats, device, clock) for model in models]


def _of_zoo(name: str, images: Images, **settings: Any) -> nn.Module:
    return build_model(name, in_shape=tuple(images.inputs.shape[1:]), n_outputs=10, **settings)


class _Rows(nn.Module):
    """A model of sequences (n, T, features) on images, whose rows are the sequence."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (n, M)."""
        return cast(Tensor, self.inner(x.flatten(1, -2)))


class _Recurrent(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.inner, self.head = nn.LSTM(features, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.inner(x)[0][:, -1]))


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def _encoder(features: int, width: int = 64) -> nn.Module:
    """Return two layers of torch's own encoder, with fused attention."""
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, activation="gelu", batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(features, width), encoder, _Mean(), nn.Linear(width, 10))


def _row(
    name: str, model: nn.Module, images: Images, samples: int, repeats: int, device: torch.device, clock: Clock
) -> dict[str, Any]:
    inputs, targets = images.inputs[:samples].to(device), images.targets[:samples].to(device)
    objective = Objective(model.to(device), inputs, targets, l2=1e-3)
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
