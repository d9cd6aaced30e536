"""Models too large for the zoo, as GPUs train them: ResNet-18 for 32 x 32 images, and a transformer on tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.seeding import seeded_globals

VOCABULARY = 256


class _Block(nn.Module):
    def __init__(self, channels: int, n_filters: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, n_filters, 3, stride=stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(n_filters)
        self.second = nn.Conv2d(n_filters, n_filters, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(n_filters)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != n_filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, n_filters, 1, stride=stride, bias=False), nn.BatchNorm2d(n_filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(residual + self.shortcut(x))


def resnet18(width: int = 64, n_outputs: int = 10, seed: int = 0) -> nn.Module:
    """Return ResNet-18 with a 3 x 3 stem and no first pooling, as is usual on CIFAR: P = 11 173 962 at width 64."""
    with seeded_globals(seed, "init"):
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
        for stage in range(4):
            for block in range(2):
                layers.append(_Block(channels, width << stage, 2 if stage and not block else 1))
                channels = width << stage
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_outputs))


class Transformer(nn.Module):
    """Causal pre-norm transformer: tokens (n, t) -> logits of the token that follows the last one, (n, vocabulary).

    Attention is written out: torch's fused kernels have no second derivative, which Hessian products need.
    """

    def __init__(self, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits after the last position."""
        h = self.tokens(x) + self.places[: x.shape[1]]
        for layer in self.layers:
            h = layer(h)
        logits: Tensor = self.head(self.norm(h[:, -1]))
        return logits


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        n, t, d = h.shape
        q, k, v = self.qkv(self.norm(h)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / math.sqrt(d // self.heads)
        later = torch.ones(t, t, dtype=torch.bool, device=h.device).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        h = h + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        narrowed: Tensor = self.narrow(F.gelu(self.wide(self.mlp_norm(h))))
        return h + narrowed


def transformer(width: int, depth: int, heads: int, length: int, seed: int = 0) -> Transformer:
    """Return a seeded transformer; P = 10 893 312 at width 384, depth 6, length 128."""
    with seeded_globals(seed, "init"):
        return Transformer(width, depth, heads, length)
