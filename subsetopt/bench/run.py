"""One run of the benchmarks: what to measure, in which order, and the document that comes out."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from subsetopt.bench.timing import CLOCKS, ClockName
from subsetopt.errors import SettingError, unknown_name

Part = Literal["solvers", "products", "overhead", "time", "algebra", "scaling"]
ALL_PARTS: tuple[Part, ...] = get_args(Part)
PARTS: tuple[Part, ...] = ALL_PARTS[:4]
"""What is measured unless asked otherwise: not what fills gigabytes with pairs, or starts other processes."""
IMAGES = 6000
_PEERS = ("torch", "numpy", "scipy", "pytorch-minimize")


@dataclass(frozen=True)
class BenchSettings:
    """What to measure.

    `problems` picks from the problem set and from the problems of `algebra` (empty: all); `parameters` and `pairs` are
    the sizes and numbers of pairs that `algebra` measures (empty: all); `quick` takes small problems for a look;
    `data_dir` is where MNIST is looked for; `clock` is what times are read from (see `timing.CLOCKS`); `processes`
    share the work in the part `scaling`, which reads all clocks.
    """

    parts: Sequence[str] = PARTS
    problems: Sequence[str] = ()
    quick: bool = False
    repeats: int = 3
    data_dir: Path | None = None
    device: str = "auto"
    clock: ClockName = "wall"
    processes: int = 2
    parameters: Sequence[int] = ()
    pairs: Sequence[int] = ()

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in ALL_PARTS:
                raise unknown_name("only", part, ALL_PARTS)
        if self.clock not in CLOCKS:
            raise unknown_name("clock", self.clock, CLOCKS)
        self._check_choice()
        if self.processes < 2:
            raise SettingError("processes", self.processes, "one process has nobody to share with", "use at least 2")
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise SettingError("data_dir", self.data_dir, "is not a directory", "leave it out for synthetic images")
        if self.processes > (most := 8 * (os.cpu_count() or 1)):
            problem = f"this machine has {os.cpu_count()} processors, {most} processes are the most"
            raise SettingError("processes", self.processes, problem, f"use {max(2, os.cpu_count() or 1)}")
        if self.repeats < 1:
            raise SettingError("repeats", self.repeats, "must be at least 1")

    def _check_choice(self) -> None:
        """Raise `SettingError` for problems, sizes or pairs that no measured part has."""
        algebra = "algebra" in self.parts
        for name, values, least in (("parameters", self.parameters, 2), ("pairs", self.pairs, 1)):
            if values and not algebra:
                raise SettingError(name, values[0], "narrows the part 'algebra' only", "measure that part, too")
            if any(value < least for value in values):
                raise SettingError(name, min(values), "is too small", f"use at least {least}")
        if self.problems:
            known = self._known_problems()
            for name in self.problems:
                if name not in known:
                    raise unknown_name("problem", name, known)
        if algebra and (self.parameters or self.pairs):
            from subsetopt.bench.algebra import LARGEST_RING, cells

            if not cells(self.quick, (), self.parameters, self.pairs):
                size = f"pairs of that many parameters take more than {LARGEST_RING // 2**30} GiB"
                name, values = ("parameters", self.parameters) if self.parameters else ("pairs", self.pairs)
                raise SettingError(name, min(values), size, "use smaller ones")

    @property
    def of_problem_set(self) -> tuple[str, ...]:
        """The problems picked that the part `solvers` has."""
        from subsetopt.bench.algebra import PROBLEMS as FORMULAS

        return tuple(name for name in self.problems if name not in FORMULAS)

    def _known_problems(self) -> tuple[str, ...]:
        """Return the problems of the parts that are measured; of the problem set, where no part has a choice."""
        from subsetopt.bench.algebra import PROBLEMS as FORMULAS
        from subsetopt.bench.problems import CNN, PROBLEMS

        own = tuple(FORMULAS) if "algebra" in self.parts else ()
        return (*PROBLEMS, CNN, *own) if "solvers" in self.parts or not own else own


def run_bench(settings: BenchSettings, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure and return one JSON-able document; everything but times and what follows from them is deterministic.

    `progress` is told in words what is being measured. The problem set runs on the CPU in float64; the other parts on
    `settings.device`, in float32. Raises `SettingError` for a device that is not there.
    """
    from subsetopt.bench.algebra import measure_algebra
    from subsetopt.bench.images import mnist_images
    from subsetopt.bench.overhead import measure_overhead
    from subsetopt.bench.products import measure_products
    from subsetopt.bench.race import measure_race
    from subsetopt.bench.scaling import measure_scaling
    from subsetopt.bench.solving import measure_solvers
    from subsetopt.training.resolving import resolve_device

    clock = CLOCKS[settings.clock]
    start = time.perf_counter()
    device = resolve_device(settings.device, "float32")
    images = mnist_images(IMAGES, settings.data_dir)
    repeats, quick = settings.repeats, settings.quick
    document: dict[str, Any] = {
        "version": importlib.metadata.version("subsetopt"),
        "machine": machine(device),
        "data": images.name,
        "quick": quick,
        "repeats": repeats,
        "clock": settings.clock,
    }

    def tell(name: str) -> None:
        progress(f"problem set: {name}")

    def tell_row(line: str) -> None:
        progress(f"algebra: {line}")

    measure: dict[str, Callable[[], Any]] = {
        "solvers": lambda: measure_solvers(images, repeats, quick, clock, tell, settings.of_problem_set),
        "products": lambda: measure_products(images, repeats, quick, device, clock),
        "overhead": lambda: measure_overhead(images, repeats, quick, device, clock),
        "algebra": lambda: measure_algebra(
            repeats, quick, device, clock, tell_row, settings.problems, settings.parameters, settings.pairs
        ),
        "scaling": lambda: measure_scaling(settings.processes, repeats, quick, settings.data_dir, settings.device),
        "time": lambda: measure_race(images, repeats, quick, device, clock),
    }
    for part in ALL_PARTS:
        if part in settings.parts:
            progress(part)
            document[part] = measure[part]()
    document["seconds"] = time.perf_counter() - start
    return document


def machine(device: torch.device) -> dict[str, Any]:
    """Return what a reader must know of the machine to judge the times."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PEERS},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
