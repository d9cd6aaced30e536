"""Real data for the tests that ask for them; everything else makes its own small data."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

# One thread per test process: pytest-xdist fills the cores, and more threads than cores only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

# Files that take the longest, first: what is left for the end must be short, or all but one process wait for it.
LONG = (
    "training/test_charging.py",
    "guide/test_pages.py",
    "training/test_resume.py",
    "training/test_strategy_resume.py",
    "distributed/test_runs.py",
    "objective/test_memory_limits.py",
    "compare/test_run.py",
    "distributed/test_ranks.py",
    "gpu/test_run_script.py",
    "bench/test_gpu.py",
    "fuzz/test_run_files.py",
    "solvers/test_faults.py",
    "bench/test_bench.py",
    "analysis/test_effective_trace.py",
    "training/test_sampler_resume.py",
    "solvers/test_evaluations.py",
    "examples/test_examples.py",
    "cli/test_train.py",
    "optim/test_ranks.py",
)

if importlib.util.find_spec("hypothesis") is not None:  # a machine with a GPU may lack it
    from hypothesis import HealthCheck, settings

    # How long an example takes is the machine's matter: one that others use, too, fails no test.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")

_UNPACK = Path(__file__).resolve().parents[2] / "shared" / "data" / "unpack.py"


@pytest.fixture(scope="session")
def real_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a data directory with MNIST, and CIFAR-10 where it is at hand; skips the test where there is none.

    SUBSETOPT_DATA is used if it holds MNIST; else the data beside the checkout are laid out for this session.
    """
    named = os.environ.get("SUBSETOPT_DATA")
    if named and (Path(named) / "MNIST" / "raw").is_dir():
        yield Path(named)
        return
    if not _UNPACK.is_file():
        pytest.skip("no real data: set SUBSETOPT_DATA to a folder with MNIST/raw")
    folder = tmp_path_factory.mktemp("real-data")
    subprocess.run(
        [sys.executable, str(_UNPACK), str(folder), "--cifar-format", "both"], check=True, stdout=subprocess.DEVNULL
    )
    yield folder
    shutil.rmtree(folder)


def _named_device(kind: str) -> torch.device:
    import torch  # late: it reads the number of threads when it is imported

    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no CUDA device")
    return torch.device(kind)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that a test is to pass on; a test that takes it is marked `gpu`, and collected for all of them."""
    return _named_device(request.param)


@pytest.fixture
def cuda() -> torch.device:
    """The GPU, for what has no meaning elsewhere; a test that takes it is marked `gpu`, too."""
    return _named_device("cuda")


@pytest.fixture(scope="session")
def start_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Return `start(*arguments, **environment) -> warm.Command`: the command line in a process of its own, at once."""
    spec = importlib.util.spec_from_file_location("warm", Path(__file__).with_name("warm.py"))
    assert spec is not None and spec.loader is not None
    warm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(warm)
    interpreter = warm.Interpreter(tmp_path_factory.mktemp("commands"))
    yield interpreter.start
    interpreter.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that run on devices, for `pytest -m gpu`; put the files that take the longest first."""
    for item in items:
        if {"device", "cuda"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.gpu)
    place = {Path(__file__).parent / name: index for index, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


def pytest_collection_finish() -> None:
    """Set aside what was imported and collected: else every collection of garbage looks through all of it anew."""
    gc.collect()
    gc.freeze()
