"""A model that has no outputs for some samples: said with its cause beside a loss that is no number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subsetopt import SubsetTrainer
from subsetopt.data import dataset_from_arrays
from subsetopt.seeding import make_generator, seeded_globals

X = torch.rand(200, 4, generator=make_generator(0, "non finite")) + 0.1
Y = (X[:, 0] > 0.5).long()


class Logarithm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with seeded_globals(0, "non finite"):
            self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.log())


def warnings_of(x: Tensor, **settings: object) -> list[str]:
    dataset = dataset_from_arrays(x, Y, validation_fraction=0.0, normalize="none")
    trainer = SubsetTrainer(Logarithm(), dataset, subset_frac=0.5, max_iterations=3, **settings)
    return [text for text in trainer.fit().result["warnings"] if "NaN" in text]


def test_the_samples_without_outputs_are_counted_and_the_first_is_named() -> None:
    x = X.clone()
    x[[120, 150], 2] = -1.0
    for settings in ({"handoff": "none"}, {"handoff": "sgd", "handoff_epochs": 1}):
        (text,) = [text for text in warnings_of(x, **settings) if text.startswith("train")]
        assert "for 2 of 200 samples before any training, first for row 120" in text and "\n" not in text


def test_a_run_that_diverged_by_itself_is_not_told_of_its_samples() -> None:
    assert warnings_of(X, handoff="sgd", handoff_epochs=1, handoff_lr=1e30) == []
