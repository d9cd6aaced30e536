"""What a report has to say about its machine: `python tests/gpu/environment.py OUT` writes environment.json.

Among it whether gradients of convolutions come out in the same bits every time as torch is set, and under
`torch.backends.cudnn.deterministic`: where cuDNN adds up in varying order, runs with convolutions repeat under the
second alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "pydantic",
    "pydantic-core",
    "safetensors",
    "tomli-w",
    "click",
    "tqdm",
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "triton",
    "matplotlib",
    "joblib",
)
SHAPES = {"3x32x32 to 64": (64, 3, 32, 64), "64x32x32 to 64": (64, 64, 32, 64), "256x8x8 to 256": (64, 256, 8, 256)}
REPEATS = 10


def versions() -> dict[str, str]:
    """Versions of the packages that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def repeats(deterministic: bool) -> dict[str, bool]:
    """Whether float32 weight gradients of convolutions are equal in `REPEATS` calls."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = deterministic
    told = {}
    for name, (n, channels, side, out) in SHAPES.items():
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(n, channels, side, side, generator=draw).cuda()
        weight = torch.randn(out, channels, 3, 3, generator=draw).cuda().requires_grad_()
        slope = torch.randn(n, out, side, side, generator=draw).cuda()
        gradients = [torch.autograd.grad(F.conv2d(x, weight, padding=1), weight, slope)[0] for _ in range(REPEATS)]
        told[name] = all(torch.equal(gradients[0], other) for other in gradients[1:])
    torch.backends.cudnn.deterministic = before
    return told


def gpu() -> dict[str, Any]:
    """The card, its driver, and what torch was built with."""
    card = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    told: dict[str, Any] = {
        "name": card.name,
        "capability": f"{card.major}.{card.minor}",
        "processors": card.multi_processor_count,
        "memory_gib": round(total / 2**30, 1),
        "free_gib": round(free / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else None,
        "gradients_of_convolutions_repeat": repeats(False),
        "gradients_of_convolutions_repeat_under_cudnn_deterministic": repeats(True),
    }
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        told["driver_clock_power"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return told


def environment() -> dict[str, Any]:
    """Everything, as one document."""
    import subsetopt

    return {
        "subsetopt": subsetopt.__version__,
        "source": str(Path(subsetopt.__file__).parent),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "compiler": shutil.which("cc") or shutil.which("gcc"),
        "packages": versions(),
        "gpu": gpu() if torch.cuda.is_available() else None,
    }


if __name__ == "__main__":
    document = json.dumps(environment(), indent=1)
    (Path(sys.argv[1]) / "environment.json").write_text(document + "\n")
    print(document)
