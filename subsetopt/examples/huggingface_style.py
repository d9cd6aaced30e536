"""Train a model that returns an output object with .loss, the mean over tokens that are not padding."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from subsetopt import Objective, minimize, model_loss

WORDS, LENGTH = 12, 10


class TinyTagger(nn.Module):
    """A token classifier with the arguments and the output of Hugging Face's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(WORDS, 8), nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        """Return logits, and the loss where there are labels."""
        words = self.embed(input_ids) * attention_mask[..., None]
        logits = self.out(torch.tanh(torch.cat([words, words.roll(1, 1)], 2)))
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(logits=logits, loss=loss)


def sentences(count: int) -> dict[str, Tensor]:
    """Return sentences of unequal length whose tags depend on a word and the one before it."""
    ids = torch.randint(0, WORDS, (count, LENGTH))
    mask = (torch.arange(LENGTH) < torch.randint(2, LENGTH + 1, (count, 1))).long()
    tags = (ids % 2 + (ids * mask).roll(1, 1) // 6 * mask).clamp(max=2)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask > 0, tags, -100)}


def main() -> None:
    """Minimise the mean over all tokens of 200 sentences, which are evaluated 64 at a time."""
    torch.manual_seed(0)
    train, test = sentences(200), sentences(200)
    loss = model_loss(
        lambda model, batch: model(**batch).loss,
        count=lambda batch: (batch["labels"] != -100).sum(1),  # what each sentence adds to the mean
    )
    objective = Objective(TinyTagger(), train, loss=loss, l2=1e-4, chunk_size=64)
    result = minimize(objective, max_iterations=200)
    tagger = objective.flat.module(result.x)
    valid = test["labels"] != -100
    right = tagger(test["input_ids"], test["attention_mask"]).logits.argmax(2) == test["labels"]
    print(f"stop reason: {result.stop_reason}, loss {result.loss:.4f}")
    print(f"accuracy on new tokens: {right[valid].double().mean():.3f}")


if __name__ == "__main__":
    main()
