"""Makes `gpu_cases`, and the small modules of the tests of objectives, importable; leaves the device as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "objective")]


@pytest.fixture
def repeatable() -> Iterator[None]:
    """Let cuDNN choose among algorithms that add up in one order, the setting that makes runs with convolutions repeat.

    Its fastest gradients of convolutions use atomic additions, whose order varies; nothing else of a run does.
    """
    import torch

    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
