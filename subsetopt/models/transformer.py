"""Small transformer encoder on tokens, or on sequences of vectors."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from subsetopt.errors import ModelError, SettingError
from subsetopt.models.build import MODELS
from subsetopt.models.layers import Activation, check_at_least, make_activation


class Shape(NamedTuple):
    """Sizes of the blocks."""

    width: int
    heads: int
    depth: int
    activation: Activation


class Block(nn.Module):
    """Attention and a feed-forward layer, each behind a LayerNorm and beside a skip connection.

    Attention is written out of linear layers: they have K-FAC factors, and it can be differentiated twice.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, width = shape.heads, shape.width
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.forth = nn.Sequential(
            nn.Linear(width, 4 * width), make_activation(shape.activation), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for x (n, T, width)."""
        normed = self.first(x)
        q, k, v = (self._split(part(normed)) for part in (self.query, self.key, self.value))
        mixed = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return cast(Tensor, x + self.forth(self.second(x)))

    def _split(self, x: Tensor) -> Tensor:
        return cast(Tensor, x.unflatten(2, (self.heads, -1))).transpose(1, 2)


class Encoder(nn.Module):
    """Embedding with learned places, blocks, and a linear layer on the mean over the sequence."""

    def __init__(self, length: int, features: int, vocabulary: int, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self._shape = (length,) if vocabulary else (length, features)
        self.embed = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(features, width)
        self.place = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.depth)), nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean over the sequence, (n, width)."""
        hidden = self.embed(x.reshape(len(x), *self._shape))
        places = self.place(torch.arange(self._shape[0], device=x.device).expand(len(x), -1))
        return cast(Tensor, self.blocks(hidden + places)).mean(1)


@MODELS.register("transformer", "small transformer encoder; vocabulary=V for tokens 0 to V - 1")
def transformer(
    in_shape: tuple[int, ...],
    n_outputs: int,
    *,
    vocabulary: int = 0,
    width: int = 32,
    heads: int = 4,
    depth: int = 2,
    activation: Activation = "gelu",
) -> nn.Module:
    """Return a pre-norm encoder of `depth` blocks, and a linear layer on its mean over the sequence.

    With `vocabulary` inputs are whole numbers below it, shape (T,); else the last axis of inputs has the features of
    one element, the others make up the sequence, and (T,) is a sequence of numbers. Raises `SettingError` for bad
    settings and `ModelError` for inputs without an axis.
    """
    for name, value in (("width", width), ("heads", heads), ("depth", depth)):
        check_at_least(name, value, 1)
    check_at_least("vocabulary", vocabulary, 0)
    if width % heads:
        raise SettingError("heads", heads, f"must divide width = {width}", "give for example heads=4")
    if not in_shape:
        raise ModelError("model 'transformer' needs sequences, inputs have no axis; use another model")
    single = vocabulary or len(in_shape) == 1
    length, features = (math.prod(in_shape), 1) if single else (math.prod(in_shape[:-1]), in_shape[-1])
    return nn.Sequential(
        Encoder(length, features, vocabulary, Shape(width, heads, depth, activation)), nn.Linear(width, n_outputs)
    )
