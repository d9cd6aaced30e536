"""Faster evaluations of the same function, on request: torch.compile, and CUDA graphs of a chunk's launches.

Both are optional and fall back to plain evaluation with one warning. They change rounding, never the function.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.inputs import Inputs, copied_into, describe
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.losses import Loss

Evaluate = Callable[[Inputs], Tensor]
"""Inputs of a chunk -> outputs, with the parameters in place."""

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Something that runs on fixed buffers -> what runs it again."""

GRAPH_WARM_UPS = 3


class CompiledLoss:
    """The summed loss of one chunk, compiled once per chunk shape (near-equal chunks have two), and its gradient.

    When compiling fails, that call and all later ones run as they are, with a warning that says why.
    """

    def __init__(self, flat: FlatModel, loss: Loss, accumulate: torch.dtype) -> None:
        self._loss, self._accumulate = loss, accumulate

        def total(parameters: Sequence[Tensor], x: Inputs, y: Tensor) -> Tensor:
            return loss.total(flat.functional(parameters, x), y, accumulate)

        self._compiled: Callable[[Sequence[Tensor], Inputs, Tensor], Tensor] | None = torch.compile(
            total, dynamic=False
        )

    def __call__(self, evaluate: Evaluate, parameters: Sequence[Tensor], x: Inputs, y: Tensor) -> Tensor:
        """Return the summed loss; `evaluate` is the plain way to the outputs."""
        if self._compiled is not None:
            try:
                return self._compiled(parameters, x, y)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._compiled = None
                warnings.warn(f"compile: not possible here ({_one_line(error)}); running uncompiled", stacklevel=4)
        return self._loss.total(evaluate(x), y, self._accumulate)


@dataclass
class _Recording:
    x: Inputs
    y: Tensor
    replay: Callable[[], None]


class ChunkGraphs:
    """Loss and gradient of a chunk on fixed buffers, recorded by `capture` once per chunk shape and then replayed.

    Replaying spares the host the launch of every kernel, which is what a small model on a GPU waits for.
    """

    def __init__(self, flat: FlatModel, loss: Loss, samples: int, accumulate: torch.dtype, capture: Capture) -> None:
        self._flat, self._loss, self._samples, self._capture = flat, loss, samples, capture
        self._w = flat.initial()
        self._gradient = torch.zeros_like(self._w)
        self._total = torch.zeros((), dtype=accumulate, device=flat.device)
        self._recordings: dict[tuple[str, torch.Size], _Recording] = {}
        self._failed = False

    def sum(self, w: Tensor, gradient: Tensor, pieces: Iterable[tuple[Inputs, Tensor]]) -> Tensor | None:
        """Write the gradient of the mean loss into `gradient` and return that loss; None when recording fails."""
        if self._failed:
            return None
        self._w.copy_(w.detach())
        self._gradient.zero_()
        self._total.zero_()
        try:
            for x, y in pieces:  # one at a time: of data that stream no more is on the device
                recording = self._recording(x, y)
                copied_into(recording.x, x)
                recording.y.copy_(y)
                recording.replay()
        except torch.OutOfMemoryError:
            # Recordings hold memory, and chunks are about to have other shapes.
            self._recordings.clear()
            raise
        except RuntimeError as error:
            self._failed = True
            self._recordings.clear()
            warnings.warn(f"cuda_graphs: not possible here ({_one_line(error)}); running without", stacklevel=3)
            return None
        gradient.copy_(self._gradient)
        return self._total.clone()

    def _recording(self, x: Inputs, y: Tensor) -> _Recording:
        shapes = describe(x), y.shape
        if shapes not in self._recordings:
            own_x, own_y = x.clone(), y.clone()
            sums = self._gradient.clone(), self._total.clone()
            replay = self._capture(lambda: self._step(own_x, own_y))
            # What was run to record it is not part of the sums.
            self._gradient.copy_(sums[0])
            self._total.copy_(sums[1])
            self._recordings[shapes] = _Recording(own_x, own_y, replay)
        return self._recordings[shapes]

    def _step(self, x: Inputs, y: Tensor) -> None:
        leaves = self._flat.leaves(self._w)
        with self._flat.at(leaves, "deterministic") as evaluate:
            part = self._loss.total(evaluate(x), y, self._total.dtype) / self._samples
            # Not .backward(): its accumulation nodes are tied to the stream they were made on.
            parts = torch.autograd.grad(part, leaves, allow_unused=True, materialize_grads=True)
        torch._foreach_add_(self._flat.views(self._gradient), parts)
        self._total.add_(part.detach())


def chunk_graphs(flat: FlatModel, loss: Loss, samples: int, accumulate: torch.dtype) -> ChunkGraphs | None:
    """Return graphs for a model on CUDA; None, with a warning, on any other device."""
    if flat.device.type != "cuda":
        warnings.warn(f"cuda_graphs: the device is {flat.device.type}; running without", stacklevel=4)
        return None
    return ChunkGraphs(flat, loss, samples, accumulate, _capture_cuda)


def _capture_cuda(step: Callable[[], None]) -> Callable[[], None]:
    # Kernels choose algorithms and workspaces at their first launches, which must not be recorded.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(GRAPH_WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # A capture that fails leaves CUDA's random numbers in the state of one under way, in which any later draw raises.
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        with torch.cuda.graph(graph):
            step()
    except BaseException:
        generator.graphsafe_set_state(before)
        raise
    replay: Callable[[], None] = graph.replay
    return replay


def _one_line(error: Exception) -> str:
    lines = f"{error}".strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]
