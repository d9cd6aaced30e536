"""Resident memory of every rank that solves on a memory-mapped file.

usage: python reports/scaling/resident.py make FILE.npz
       torchrun --nproc-per-node 2 reports/scaling/resident.py FILE.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from subsetopt.distributed import join
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName

SAMPLES, FEATURES, CLASSES = 200_000, 512, 4


def make(path: str) -> None:
    """Write random numbers, 391 MiB of inputs, uncompressed."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    np.savez(path, x_train=x, y_train=draw.integers(0, CLASSES, size=SAMPLES))


def resident() -> dict[str, int]:
    """Return MiB of this process's own memory, and of files mapped into it."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {name: int(size[0]) // 1024 for name, *size in lines if name in ("RssAnon:", "RssFile:")}


def main(path: str) -> None:
    """Print what is resident after each stage, beyond what the empty process has."""
    ranks = join(60.0, "cpu")
    empty = resident()

    def tell(stage: str) -> None:
        for rank, now in enumerate(ranks.gather({name: size - empty[name] for name, size in resident().items()})):
            if ranks.main:
                print(f"{stage:>16} rank {rank}: own {now['RssAnon:']} MiB, of the file {now['RssFile:']} MiB")

    settings = {"subset_frac": 0.5, "validation_fraction": 0.0, "stratify": False, "model": "mlp", "handoff": "none"}
    data, _, run = prepare(make_config(settings, {"dataset": "npz", "data_file": path}), ranks=ranks)
    tell("read and checked")
    for which in (SplitName.TRAIN, SplitName.SUBSET):
        objective = run.model.objective(data, which)
        objective.value_and_gradient(objective.initial())
        tell(f"{which} evaluated")


if __name__ == "__main__":
    make(sys.argv[2]) if sys.argv[1] == "make" else main(sys.argv[1])
