"""What curvature products cost in gradients and in memory, in chunks, at one w."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from subsetopt.bench.gpu.clocks import by_turns, peak_bytes, timed
from subsetopt.bench.gpu.models import VOCABULARY, resnet18, transformer
from subsetopt.bench.gpu.part import BenchPart, Row
from subsetopt.models import build_model
from subsetopt.objective import Objective
from subsetopt.seeding import make_generator

REPEATS = 7
GRAPH_SHARE = 0.5  # of the device's memory may hold stored graphs
KINDS: tuple[Literal["hvp", "ggnvp"], ...] = ("hvp", "ggnvp")


@dataclass(frozen=True)
class Case:
    """A model and the data that it sees: `samples` in chunks of `chunk`."""

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    chunk: int
    n_outputs: int = 10
    tokens: bool = False


def cases(tiny: bool) -> list[Case]:
    """Return the four models, from the smallest; `tiny` narrows them."""
    mnist, cifar = (1, 28, 28), (3, 8, 8) if tiny else (3, 32, 32)
    mlp = partial(build_model, "mlp", in_shape=mnist, n_outputs=10, widths=(32,) if tiny else (512, 512))
    cnn = partial(build_model, "cnn", in_shape=mnist, n_outputs=10)
    if tiny:
        small = partial(transformer, 16, 1, 2, 8)
        return [
            Case("mlp", mlp, mnist, 64, 32),
            Case("cnn", cnn, mnist, 32, 16),
            Case("resnet18", partial(resnet18, 4), cifar, 8, 4),
            Case("transformer", small, (8,), 8, 4, VOCABULARY, True),
        ]
    large = partial(transformer, 384, 6, 6, 128)
    return [
        Case("mlp", mlp, mnist, 8192, 2048),
        Case("cnn", cnn, mnist, 8192, 2048),
        Case("resnet18", resnet18, cifar, 1024, 256),
        Case("transformer", large, (128,), 256, 64, VOCABULARY, True),
    ]


def measure(part: BenchPart) -> None:
    """Add one row per model."""
    part.title = "Curvature products: cost in gradients, and peak memory beyond model and data"
    part.data = "made up in the shapes of MNIST, CIFAR-10 and text; float32, no TF32"
    for case in cases(part.tiny):
        part.measure({"model": case.name}, partial(_measure_case, part, case))
        gc.collect()
        if part.device.type == "cuda":
            torch.cuda.empty_cache()


def _measure_case(part: BenchPart, case: Case, row: Row) -> None:
    objective, device = _objective(case, part.device), part.device
    w = objective.initial()
    _, v = objective.value_and_gradient(w)
    row |= {"parameters": objective.size, "samples": objective.n_samples, "chunks": len(objective.edges)}
    row["gradient_peak_MiB"] = _mebibytes(peak_bytes(lambda: objective.value_and_gradient(w), device))
    for kind in KINDS:
        part.save("running")
        row |= _measure_kind(part, objective, w, v, kind, row)
    row["chunks_at_end"] = len(objective.edges)


def _measure_kind(
    part: BenchPart, objective: Objective, w: Tensor, v: Tensor, kind: Literal["hvp", "ggnvp"], row: Row
) -> dict[str, Any]:
    """Return first and later products of `kind`; the gradient's own seconds are those measured beside the Hessian's."""
    device = part.device
    getattr(objective.linearise(w), kind)(v)  # algorithms are chosen, and the graph of a sample is weighed, once
    gc.collect()  # graphs held by cycles would be counted with the next ones
    first = timed(lambda: getattr(objective.linearise(w), kind)(v), device)
    gc.collect()
    at = objective.linearise(w)
    peak = peak_bytes(lambda: getattr(at, kind)(v), device)
    work = {"gradient": lambda: objective.value_and_gradient(w), kind: lambda: getattr(at, kind)(v)}
    seconds = by_turns(work, 2 if part.tiny else REPEATS, device, part.deadline)
    gradient = seconds["gradient"]
    found = {} if "gradient_ms" in row else {"gradient_ms": 1e3 * gradient}
    return (
        found
        | {
            f"{kind}_in_gradients": seconds[kind] / gradient,
            f"first_{kind}_in_gradients": first / gradient,
            f"{kind}_peak_MiB": _mebibytes(peak),
            f"{kind}_stored_chunks": at.stored_chunks(kind),
        }
        | ({"note": at.note} if at.note else {})
    )


def _objective(case: Case, device: torch.device) -> Objective:
    generator = make_generator(0, case.name)
    if case.tokens:
        inputs = torch.randint(VOCABULARY, (case.samples, *case.shape), generator=generator)
    else:
        inputs = torch.randn(case.samples, *case.shape, generator=generator)
    targets = torch.randint(case.n_outputs, (case.samples,), generator=generator)
    memory = 2**30
    if device.type == "cuda":
        memory = int(GRAPH_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return Objective(
        case.model().to(device),
        inputs.to(device),
        targets.to(device),
        l2=1e-3,
        chunk_size=case.chunk,
        linearisation_memory=memory,
    )


def _mebibytes(count: int) -> float:
    return count / 2**20
