"""What the average of subset minima is worth: python together.py DATASET MODEL HELD_OUT L2,... SEEDS SHARExCOUNT,...

Prints one JSON line per case: F/F* on all data for the mean of the subset minima, the best of them, and their average.
"""

from __future__ import annotations

import json
import sys

from subsetopt.solvers import minimize
from subsetopt.training.preparation import prepare
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName


def main(dataset: str, model: str, held_out: str, l2s: str, seeds: str, cases: str) -> None:
    """Solve all data once per strength and seed, and then every case."""
    for l2, seed in ((float(l2), int(seed)) for l2 in l2s.split(",") for seed in seeds.split(",")):
        shared = {
            "dataset": dataset,
            "model": model,
            "validation_fraction": float(held_out),
            "seed": seed,
            "l2": l2,
            "handoff": "none",
            "max_iterations": 1500,
        }
        data, _, run = prepare(make_config(shared))
        full = minimize(
            run.model.objective(data, SplitName.TRAIN), run.model.flat.initial(), gtol=1e-5, max_iterations=1500
        )
        for case in cases.split(","):
            share, count = case.split("x")
            config = make_config(shared, {"subset_frac": float(share), "subsets": int(count)})
            joined = train(config, keep=False, splits=("validation",)).result["solve"]["subsets"]
            each = [minimum["objective_full"] for minimum in joined["minima"]]
            held = [minimum["validation_loss"] for minimum in joined["minima"]]
            print(
                json.dumps(
                    {
                        "l2": l2,
                        "seed": seed,
                        "share": float(share),
                        "subsets": int(count),
                        "full": full.loss,
                        "mean": sum(each) / len(each) / full.loss,
                        "best": min(each) / full.loss,
                        "average": joined["average"]["objective_full"] / full.loss,
                        "held_out_mean": sum(held) / len(held),
                        "held_out_average": joined["average"]["validation_loss"],
                        "beats": sum(joined["average_beats"]),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
