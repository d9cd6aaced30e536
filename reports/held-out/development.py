"""Development cells that resemble, by kind, the held-out ones on which kfac-stream had lost; see `stream-cells.md`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from stream import Made, arrays, table

from subsetopt.data import Dataset, dataset_from_arrays


def glyphs(n: int, seed: int, classes: int = 30, d: int = 14) -> Dataset:
    """A table of small integers, three places per class in eight hidden variables: many classes, little noise."""
    g = np.random.default_rng(seed)
    places = g.standard_normal((classes, 3, 8))
    y, place = g.integers(0, classes, n + 4000), g.integers(0, 3, n + 4000)
    z = places[y, place] + 0.38 * g.standard_normal((n + 4000, 8))
    w, b = g.standard_normal((8, 40)) / 8**0.5 * 1.3, g.standard_normal(40)
    x = np.tanh(z @ w + b) @ (g.standard_normal((40, d)) / 40**0.5)
    x = (x - x.mean(0)) / x.std(0)
    x = np.clip(np.round(7.5 + 2.5 * x + 0.3 * g.standard_normal(x.shape)), 0, 15)
    return arrays(x.astype(np.float32), y, n, task="classification")


def drawn(n: int, seed: int) -> Dataset:
    """scikit-learn's digits, turned, moved and enlarged to 28 x 28: wide inputs; test digits are others."""
    bunch, g = load_digits(), np.random.default_rng(seed)
    x, y = torch.tensor(bunch.images / 16.0, dtype=torch.float32), torch.tensor(bunch.target)
    order, parts = g.permutation(len(x)), []
    for rows, count in ((order[:1300], n), (order[1300:], 3000)):
        picked = g.choice(rows, count)
        angle, scale = g.uniform(-0.25, 0.25, count), g.uniform(1.15, 1.5, count)
        c, s = np.cos(angle) * scale, np.sin(angle) * scale
        turn = np.zeros((count, 2, 3), dtype=np.float32)
        turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = c, -s, s, c
        turn[:, :, 2] = g.uniform(-0.2, 0.2, (count, 2))
        grid = F.affine_grid(torch.tensor(turn), [count, 1, 28, 28], align_corners=False)
        images = F.grid_sample(x[picked][:, None], grid, align_corners=False)
        parts += [((images * 1.3).clamp(0, 1) * 255).round().to(torch.uint8), y[picked]]
    return dataset_from_arrays(*parts)


def census(n: int, seed: int) -> Dataset:
    """Four numbers and nine columns of words, one of 0 and 1 for each word, most of them rare; one label in five."""
    g, rows = np.random.default_rng(seed), n + 5000
    columns, logit, hidden = [], np.zeros(rows), g.standard_normal((rows, 3))
    for words in (9, 14, 7, 12, 6, 5, 2, 36, 3):
        frequent = np.log(1.0 / np.arange(1, words + 1) ** 1.6)
        word = (hidden @ (g.standard_normal((3, words)) * 0.7) + frequent + g.gumbel(size=(rows, words))).argmax(1)
        logit += (g.standard_normal(words) * 0.5)[word]
        columns.append(np.eye(words)[word])
    first = hidden[:, 0] + 0.5 * g.standard_normal(rows)
    second = np.exp(1.2 * (hidden[:, 1] + 0.5 * g.standard_normal(rows))) * (g.random(rows) < 0.1)
    third = np.abs(hidden[:, 2] + 0.3 * g.standard_normal(rows))
    numbers = np.stack([first, second, third, g.standard_normal(rows)], 1)
    logit += 0.8 * first - 0.25 * first**2 + 0.3 * np.log1p(second) + 0.6 * third * first
    logit = 1.3 * (logit - np.quantile(logit, 0.80))
    y = (g.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    return arrays(np.concatenate([numbers, *columns], 1).astype(np.float32), y, n, task="classification")


def pulses(n: int, seed: int, length: int = 96) -> Dataset:
    """Two of four pulses in noise, one in each half of a signal; six classes by which they are."""
    g, t, rows = np.random.default_rng(seed), np.linspace(-2, 2, 17), n + 3000
    wide = np.exp(-2 * t * t)
    shapes = np.stack([wide**2, -t * wide * 2.3, (1 - 4 * t * t) * wide, np.sign(t) * (abs(t) < 1)])
    one, two = g.integers(0, 4, rows), g.integers(0, 4, rows)
    x = 0.45 * g.standard_normal((rows, length))
    for row in range(rows):
        p, q = g.integers(0, length // 2 - 17), g.integers(length // 2, length - 17)
        x[row, p : p + 17] += shapes[one[row]] * g.uniform(0.7, 1.3)
        x[row, q : q + 17] += shapes[two[row]] * g.uniform(0.7, 1.3)
    return arrays(x.astype(np.float32), (one + 2 * two) % 6, n, task="classification")


def more_cells(csvs: Path) -> dict[str, Callable[[], Made]]:
    """Return the makers of these cells by name."""
    relu = {"activation": "relu"}
    return {
        "glyphs": lambda: (glyphs(16000, 11), "mlp", {"widths": (64,)}, 3.0),
        "drawn digits": lambda: (drawn(15000, 12), "mlp", {"widths": (64,), **relu}, 2.0),
        "census": lambda: (census(28000, 13), "mlp", {"widths": (32,)}, 2.0),
        "pulses": lambda: (pulses(15000, 14), "cnn1d", relu, 2.0),
        "spambase": lambda: (table(csvs / "spambase.csv", "class", 3600, 1000), "mlp", {"widths": (32,)}, 3.0),
        "power plant": lambda: (table(csvs / "power_plant.csv", "y", 7500, 2000), "mlp", {"widths": (32, 32)}, 3.0),
    }
