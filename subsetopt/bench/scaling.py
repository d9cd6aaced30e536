"""How evaluations scale over processes: the MNIST CNN shared by ranks against one process, in the same launch.

Strong scaling shares the samples of one process, weak scaling gives every rank as many. The control, "apart", is what
the machine allows: every rank evaluates its own samples at the same time, and nothing is shared or added up. All turns
happen in one launch: while one process measures alone the others wait in a collective, which takes no processor time.
The time of a shared evaluation is that of its slowest rank.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from subsetopt.bench.images import mnist_images
from subsetopt.bench.overhead import image_objective
from subsetopt.bench.timing import CLOCKS, sorted_by_turns, synchronise
from subsetopt.distributed import Ranks, join
from subsetopt.errors import UserError
from subsetopt.objective import Objective

SAMPLES, QUICK_SAMPLES = 6000, 200
TIMEOUT = 600.0
SHARED = ("strong", "weak", "apart")
WORD_BYTES = 8  # the collective adds up in float64


@dataclass(frozen=True)
class ScalingPlan:
    """What every rank is told: samples of one process, turns, where MNIST lies, and the file for the result."""

    samples: int
    repeats: int
    data_dir: str | None
    device: str
    result: str


def measure_scaling(processes: int, repeats: int, quick: bool, data_dir: Path | None, device: str) -> dict[str, Any]:
    """Launch `processes` ranks with one thread each through torchrun and return what they measured.

    Raises `UserError` with the last line of what they said when they fail.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "scaling.json"
        where = None if data_dir is None else str(data_dir.absolute())
        plan = ScalingPlan(QUICK_SAMPLES if quick else SAMPLES, repeats, where, device, str(result))
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*launcher, "-m", "subsetopt.bench.scaling", json.dumps(asdict(plan))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if not result.exists():
            said = [line for line in done.stderr.splitlines() if "Error" in line]
            raise UserError(f"scaling: the ranks failed ({said[0].strip() if said else done.returncode})")
        measured: dict[str, Any] = json.loads(result.read_text())
        return measured


def measure_on_ranks(plan: ScalingPlan, ranks: Ranks) -> dict[str, Any]:
    """Time the four kinds of evaluation by turns; every rank takes part, and returns the same."""
    torch.set_num_threads(1)
    device = torch.device("cuda" if plan.device != "cpu" and torch.cuda.is_available() else "cpu")
    images = mnist_images(plan.samples * ranks.size, plan.data_dir)
    alone = image_objective(images, plan.samples, device)
    kinds = {
        "one": alone,
        "strong": image_objective(images, plan.samples, device, ranks=ranks),
        "weak": image_objective(images, plan.samples * ranks.size, device, ranks=ranks),
        "apart": alone,
    }
    seconds: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for repeat in range(-1, plan.repeats):
        for kind in sorted_by_turns(kinds, repeat):
            slowest = _slowest(kinds[kind], ranks, takes_part=kind != "one" or ranks.main)
            if repeat >= 0:
                seconds[kind].append(slowest)
    return {
        "data": images.name,
        "processes": ranks.size,
        "samples": plan.samples,
        "parameters": alone.size,
        "collective_bytes": WORD_BYTES * (alone.size + 1),
        "rows": [_row(kind, clock, seconds, ranks.size) for clock in range(len(CLOCKS)) for kind in SHARED],
    }


def _slowest(objective: Objective, ranks: Ranks, takes_part: bool) -> list[float]:
    """Return the time of one evaluation on every clock, of the rank that took longest."""
    w = objective.initial()
    ranks.together(lambda: None)  # all begin at once
    synchronise(objective.device)
    before = [clock() for clock in CLOCKS.values()]
    if takes_part:
        objective.value_and_gradient(w)
        synchronise(objective.device)
    spent = [clock() - start for clock, start in zip(CLOCKS.values(), before, strict=True)]
    table = ranks.gather_rows(torch.tensor([spent if takes_part else [0.0] * len(spent)]), ranks.size)
    slowest: list[float] = table.amax(0).tolist()
    return slowest


def _row(kind: str, clock: int, seconds: dict[str, list[list[float]]], processes: int) -> dict[str, Any]:
    one, apart, shared = ([turn[clock] for turn in seconds[name]] for name in ("one", "apart", kind))
    ideal = processes if kind == "strong" else 1
    efficiency = sorted(a / (ideal * b) for a, b in zip(one, shared, strict=True))
    beside_apart = [a / (ideal * b) for a, b in zip(apart, shared, strict=True)]
    return {
        "kind": kind,
        "clock": list(CLOCKS)[clock],
        "seconds_one": median(one),
        "seconds": median(shared),
        "efficiency": median(efficiency),
        "efficiency_least": efficiency[0],
        "efficiency_most": efficiency[-1],
        "of_what_the_machine_allows": median(beside_apart),
    }


def main(plan: ScalingPlan) -> None:
    """Measure as one of the ranks; rank 0 writes the result."""
    ranks = join(TIMEOUT, plan.device)
    measured = measure_on_ranks(plan, ranks)
    if ranks.main:
        Path(plan.result).write_text(json.dumps(measured))


if __name__ == "__main__":
    main(ScalingPlan(**json.loads(sys.argv[1])))
