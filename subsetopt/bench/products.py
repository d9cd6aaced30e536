"""What curvature products cost in gradients, at fixed w with the graphs stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.bench.images import Images, synthetic_images
from subsetopt.bench.timing import Clock, median_seconds
from subsetopt.models import build_model
from subsetopt.objective import CallKind, Objective
from subsetopt.objective.flops import count_flops

CIFAR_SHAPE = (3, 32, 32)
PASSES = 5  # timed passes per repeat; single calls are too short to be timed once


def measure_products(
    images: Images, repeats: int, quick: bool, device: torch.device, clock: Clock
) -> list[dict[str, Any]]:
    """Return one row per model: seconds of a gradient, the ratios to it, and the bytes that stored graphs take.

    `linearise` is the recording of the Hessian's graphs alone, without a product: what the first product at a point
    costs beyond later ones. `contractions` are the ratios of counted operations.
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
        ("decoder, RMSNorm, SiLU", _Rows(_Decoder(images.inputs.shape[-1])), images, large),
        ("LSTM", _Rows(_Recurrent(nn.LSTM, images.inputs.shape[-1])), images, large),
        ("LSTM, two layers both ways", _Rows(_Recurrent(nn.LSTM, images.inputs.shape[-1], 2, True)), images, large),
        ("GRU", _Rows(_Recurrent(nn.GRU, images.inputs.shape[-1])), images, large),
        ("CNN, GroupNorm, GELU", _convolutions(lambda c: nn.GroupNorm(4, c), nn.GELU), coloured, large),
        ("CNN, depthwise, BatchNorm", _convolutions(nn.BatchNorm2d, nn.ReLU6, depthwise=True), coloured, large),
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
    def __init__(self, kind: type[nn.RNNBase], features: int, layers: int = 1, both_ways: bool = False) -> None:
        super().__init__()
        recurrent: Any = kind
        self.inner = recurrent(features, 64, layers, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(128 if both_ways else 64, 10)

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


class _Decoder(nn.Module):
    """A causal block with attention and a feed-forward layer, each behind an RMSNorm and beside a skip connection."""

    def __init__(self, features: int, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.head = nn.Linear(features, width), nn.Linear(width, 10)
        self.first, self.second = nn.RMSNorm(width), nn.RMSNorm(width)
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.forth = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.joint(self.first(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return cast(Tensor, self.head((x + self.forth(self.second(x))).mean(1)))


def _convolutions(
    norm: Callable[[int], nn.Module], activation: Callable[[], nn.Module], depthwise: bool = False
) -> nn.Module:
    """Return three layers of convolution, normalisation and activation on images of 3 channels."""
    layers: list[nn.Module] = []
    for channels, filters, stride in ((3, 32, 1), (32, 32, 2), (32, 64, 2)):
        if depthwise:
            layers.append(nn.Conv2d(channels, channels, 3, stride, 1, groups=channels))
        layers.append(nn.Conv2d(channels, filters, 1) if depthwise else nn.Conv2d(channels, filters, 3, stride, 1))
        layers += [norm(filters), activation()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 10))


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
    unit = count_flops(lambda: objective.value_and_gradient(w)) or 1
    contractions = {"hvp": count_flops(lambda: at.hvp(v)) / unit, "ggnvp": count_flops(lambda: at.ggnvp(v)) / unit}
    return {
        "model": name,
        "data": images.name,
        "parameters": objective.size,
        "samples": objective.n_samples,
        "chunks": len(objective.edges),
        "gradient_seconds": seconds["gradient"],
        "ratios": {kind: seconds[kind] / seconds["gradient"] for kind in ("hvp", "ggnvp", "linearise")},
        "contractions": contractions,
        "graph_bytes": {kind: objective.graph_bytes[kind] * objective.n_samples for kind in kinds},
        "all_chunks_stored": all(at.stored_chunks(kind) == len(objective.edges) for kind in kinds),
        "note": at.note,
    }
