"""Run the commands once, in seconds, in whatever environment this is started; in the current, empty folder."""

from __future__ import annotations

import sys
from importlib.metadata import version

from subsetopt_cli.main import run

LINEAR = ["--model", "linear", "--subset-frac", "0.3", "--max-iterations", "15"]
COMMANDS = [
    ["train", *LINEAR, "--handoff", "adam", "--handoff-epochs", "1", "--output", "run", "--quiet"],
    [
        "train",
        "--solver",
        "kfac-stream",
        "--solver-epochs",
        "1",
        "--handoff",
        "srs",
        "--handoff-epochs",
        "1",
        "--output",
        "stream",
        "--quiet",
    ],
    ["resume", "run", "--quiet"],
    ["evaluate", "run", "--json"],
    ["verify", "run", "--json", "--products", "30"],
    ["ratio", "--effective", "run", "--json"],
    ["report", "run"],
    [
        "compare",
        "--model",
        "linear",
        "--methods",
        "lbfgs@0.5+full,adam,sgd",
        "--budget",
        "1",
        "--seeds",
        "3",
        "--tune",
        "--output",
        "study",
        "--quiet",
    ],
    [
        "study",
        "representativeness",
        "--model",
        "linear",
        "--fractions",
        "0.2,0.5",
        "--repeats",
        "2",
        "--max-iterations",
        "15",
        "--output",
        "minima",
        "--quiet",
    ],
    ["report", "study"],
    ["coverage", "--samples", "100", "--epochs", "2"],
    ["list", "samplers", "--json"],
]

print(
    ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "scipy", "pydantic", "filelock", "safetensors"))
)
for command in COMMANDS:
    code = run([*command, "--debug"])
    if code != 0:
        sys.exit(f"subsetopt {' '.join(command)}: exit code {code}")
