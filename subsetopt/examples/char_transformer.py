"""Train a character transformer with KFAC on mini-batches: 200 kB of tinyshakespeare, or text made here."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.optim import KFAC

CONTEXT, WIDTH = 32, 32


class CharTransformer(nn.Module):  # one causal block
    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, letters)

    def forward(self, tokens: Tensor) -> Any:
        """Return logits (n, CONTEXT, letters)."""
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        hidden = self.letters(tokens) + self.places(torch.arange(CONTEXT))
        return self.head(self.block(hidden, src_mask=mask, is_causal=True))


def text() -> str:
    """Return 200 kB of tinyshakespeare from $SUBSETOPT_DATA, else a made text of the same length."""
    files = sorted(Path(os.environ.get("SUBSETOPT_DATA", "data")).rglob("*shakespeare*.txt"))
    if files:
        return files[0].read_text(encoding="utf-8")[:200_000]
    return "the quick brown fox jumps over the lazy dog, and then it sleeps; " * 3000


def main() -> None:
    """Take 120 steps of KFAC; print the loss in nats per character beside that of letters alone."""
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # KFAC names attention's in_proj, which takes Adam steps
    alphabet = sorted(set(written := text()))
    codes = torch.tensor([alphabet.index(letter) for letter in written])
    print(f"{len(codes)} characters; without context {torch.distributions.Categorical(codes.bincount()).entropy():.3f}")
    model = CharTransformer(len(alphabet))
    optimizer = KFAC(model)
    for step in range(120):
        starts = torch.randint(len(codes) - CONTEXT - 1, (64, 1))
        windows = codes[starts + torch.arange(CONTEXT + 1)]
        optimizer.zero_grad()
        (loss := nn.functional.cross_entropy(model(windows[:, :-1]).mT, windows[:, 1:])).backward()
        optimizer.step()
        if step % 40 == 39:
            print(f"step {step + 1}: loss {float(loss.detach()):.3f}")


if __name__ == "__main__":
    main()
