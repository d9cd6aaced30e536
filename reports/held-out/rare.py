"""Few rows, noisy labels, rare classes: mean test losses of the stream, Adam and SGD, by `python rare.py [SEEDS]`.

The class is whether a linear function of 20 normal columns, and noise of 0.3 of its size, exceeds a level; see
"Beside the lists" in `stream.md`.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt import SubsetTrainer

LEVELS = {"1 %": 2.3, "5 %": 1.65, "50 %": 0.0}
PASSES = (1, 4, 16)
ROWS, TEST_ROWS = 4000, 20000


def rows(level: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs `(24000, 20)` and labels 0 and 1."""
    draw = torch.Generator().manual_seed(seed)
    x, w = torch.randn(ROWS + TEST_ROWS, 20, generator=draw), torch.randn(20, generator=draw)
    return x, (x @ w / w.norm() + 0.3 * torch.randn(ROWS + TEST_ROWS, generator=draw) > level).long()


def methods(passes: int) -> dict[str, dict[str, Any]]:
    """Return the settings of each method, none of them tuned."""
    found: dict[str, dict[str, Any]] = {
        "kfac-stream": {"solver": "kfac-stream", "solver_epochs": passes, "handoff": "none"}
    }
    for name, rate in (("adam", 0.01), ("sgd", 0.1)):
        found[f"{name}, {rate:g}"] = {
            "solver": "none",
            "handoff": name,
            "handoff_lr": rate,
            "handoff_epochs": passes,
            "handoff_schedule": "linear",
        }
    return found


def test_loss(level: float, seed: int, settings: dict[str, Any]) -> float:
    """Return the cross-entropy on the test rows after a run."""
    x, y = rows(level, seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
    trained = SubsetTrainer(model, (x[:ROWS], y[:ROWS]), l2=1e-4, seed=seed, **settings).fit().model
    assert trained is not None, "a run that ended has one"
    with torch.no_grad():
        return float(nn.functional.cross_entropy(trained(x[ROWS:]), y[ROWS:]))


def main() -> None:
    """Print the table."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
    print("| positives | passes |", " | ".join(methods(1)), "|")
    for share, level in LEVELS.items():
        for passes in PASSES:
            losses = {
                name: sum(test_loss(level, seed, settings) for seed in seeds) / len(seeds)
                for name, settings in methods(passes).items()
            }
            print(f"| {share} | {passes} |", " | ".join(f"{loss:.4f}" for loss in losses.values()), "|", flush=True)


if __name__ == "__main__":
    main()
