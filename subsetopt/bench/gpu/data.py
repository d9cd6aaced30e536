"""Data of the benchmark: the publishers' files in SUBSETOPT_DATA, or made-up data of the same shape without them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from subsetopt.data import Dataset, dataset_from_arrays, load_dataset
from subsetopt.data.dataset import Split
from subsetopt.errors import UserError
from subsetopt.seeding import make_generator

SHAPES = {"mnist": ((1, 28, 28), 60000, 10000), "cifar10": ((3, 32, 32), 50000, 10000)}
TINY_ROWS = 400


def images(name: str, tiny: bool) -> tuple[Dataset, str]:
    """Return `name` ("mnist" or "cifar10") with its test split, and what it is: the files' own, or made up and why.

    Of the training rows 10 % are held out, as in this project's studies. `tiny` keeps the first 400 rows.
    """
    try:
        dataset, label = load_dataset(name), name
    except UserError as error:
        dataset, label = _made_up(name, tiny), f"made up in the shape of {name} ({str(error)[:80]})"
    return (_first(dataset, TINY_ROWS), f"{label}, first {TINY_ROWS} rows") if tiny else (dataset, label)


def _made_up(name: str, tiny: bool) -> Dataset:
    """Ten prototypes under noise: learnable, so that losses fall, but no benchmark of accuracy."""
    shape, train, test = SHAPES[name]
    train, test = (2 * TINY_ROWS, TINY_ROWS) if tiny else (train, test)
    generator = make_generator(0, name)
    coarse = torch.rand(10, shape[0], 7, 7, generator=generator)
    prototypes = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    parts: list[Tensor] = []
    for count in (train, test):
        labels = torch.randint(10, (count,), generator=generator)
        noisy = prototypes[labels] + 0.5 * torch.randn(count, *shape, generator=generator)
        parts += [(noisy.clamp(0, 1) * 255).to(torch.uint8), labels]
    return dataset_from_arrays(*parts, name=f"made-up-{name}", normalize="standard")


def _first(dataset: Dataset, rows: int) -> Dataset:
    return replace(
        dataset,
        train=_cut(dataset.train, rows),
        validation=_cut(dataset.validation, rows // 4),
        test=_cut(dataset.test, rows),
    )


def _cut(split: Split | None, rows: int) -> Split:
    assert split is not None, "both data sets have all splits"
    return Split(split.inputs[:rows], split.targets[:rows], split.rows[:rows])
