"""A model behind embeddings of the columns whose numbers are codes of words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from subsetopt.errors import SettingError, setting


def embedding_width(codes: int) -> int:
    """Return ceil(codes^(1/4)), TensorFlow's rule of thumb: 3 for 64 codes, 6 for a thousand, 10 for ten thousand."""
    root: float = codes**0.25
    return math.ceil(root)


class WordEmbeddings(nn.Module):
    """Replaces the columns `places` of inputs (n, D), codes from 0, by a learnt vector each, behind the other columns.

    `codes` are how many each column has; what is none of them counts as the nearest one.
    """

    others: Tensor

    def __init__(self, inputs: int, places: Sequence[int], codes: Sequence[int]) -> None:
        super().__init__()
        others = [place for place in range(inputs) if place not in {*places}]
        self.places, self.codes = tuple(places), tuple(codes)
        self.register_buffer("others", torch.tensor(others, dtype=torch.int64), persistent=False)
        tables = [nn.Embedding(count, embedding_width(count)) for count in codes]
        for table in tables:
            # As long as the one 0/1 input of a word that is one-hot encoded.
            nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)
        self.tables = nn.ModuleList(tables)
        self.width = len(others) + sum(embedding_width(count) for count in codes)

    def forward(self, x: Tensor) -> Tensor:
        """Return inputs (n, `width`)."""
        vectors = [
            table(x[:, place].long().clamp(0, count - 1))
            for place, table, count in zip(self.places, self.tables, self.codes, strict=True)
        ]
        return torch.cat([x[:, self.others], *vectors], dim=1)


def behind_embeddings(
    make: Callable[[tuple[int, ...]], nn.Module], in_shape: object, embedded: Sequence[tuple[int, int]]
) -> nn.Module:
    """Return `make(shape)` behind embeddings of the columns `embedded`, (place, codes) each; raises `SettingError`."""
    if not isinstance(in_shape, tuple) or len(in_shape) != 1:
        raise SettingError(
            "embed_words", True, "is for rows of columns", f"leave {setting('embed_words')} out, which tables have"
        )
    first = WordEmbeddings(in_shape[0], [place for place, _ in embedded], [codes for _, codes in embedded])
    return nn.Sequential(first, make((first.width,)))
