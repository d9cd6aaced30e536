"""The one loop: runs a list of phases, records, saves, resumes and stops on request."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch import Tensor

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.phases import Phase
from subsetopt.training.progress import Progress
from subsetopt.training.run_directory import LOG, METRICS, RunDirectory, finite
from subsetopt.training.workspace import Workspace

FORMAT = 1


@dataclass
class Snapshot:
    """The model after a finished phase: its record for result.json, parameters and buffers."""

    record: dict[str, Any]
    w: Tensor
    buffers: dict[str, Tensor]


@dataclass
class Position:
    """Where a run is: the finished phases, and the state of the current one."""

    w: Tensor
    snapshots: list[Snapshot] = field(default_factory=list)
    state: Any = None
    seconds: float = 0.0
    phase_start: tuple[float, float] = (0.0, 0.0)  # cost and seconds when the current phase began
    metrics_bytes: int = 0
    looks: int = -1  # how many intervals of `track_validation` had passed at the last look at held-out data


class Loop:
    """Runs `phases` in `workspace`; `directory` None keeps everything in memory."""

    def __init__(
        self, workspace: Workspace, phases: Sequence[Phase], directory: RunDirectory | None, progress: Progress
    ) -> None:
        self._workspace = workspace
        self._phases = phases
        self._directory = directory
        self._progress = progress
        self._ranks = workspace.ranks
        self._stop_requested = False
        self._last_save: float | None = None

    def start(self) -> Position:
        """Return the position before the first phase."""
        return Position(self._workspace.flat.initial())

    def run(self, position: Position) -> bool:
        """Go on from `position` to the end; returns False when interrupted, with everything saved."""
        self._workspace.clock.start(position.seconds)
        with self._interruptible():
            while len(position.snapshots) < len(self._phases):
                if not self._run_phase(position):
                    return False
        return True

    def _run_phase(self, position: Position) -> bool:
        index = len(position.snapshots)
        phase = self._phases[index]
        self._progress.phase_started(index, len(self._phases), phase.config, phase.title)
        reason = self._begin(phase, position) if position.state is None else None
        while reason is None:
            reason = phase.terminate(position.state)
            if reason is None and self._workspace.clock.over:
                reason = StopReason.BUDGET
            if reason is not None:
                break
            if self._agreed_to_stop(position):
                self._progress.phase_ended(StopReason.INTERRUPTED)
                self._save(position)
                return False
            try:
                position.state = phase.step(position.state)
            except BudgetExhausted:
                reason = StopReason.BUDGET
            else:
                self._note(phase, position)
        self._end(phase, position, reason)
        return True

    def _begin(self, phase: Phase, position: Position) -> StopReason | None:
        """Evaluate at the start; a budget that does not even admit this ends the phase at once."""
        ledger = self._workspace.ledger
        position.phase_start = (ledger.cost, self._seconds(position))
        spent, begin = (position.phase_start[0], 0.0) if phase.config.cumulative else (0.0, position.phase_start[1])
        ledger.open_phase(None if phase.config.epochs is None else phase.config.epochs - spent)
        self._workspace.clock.open_phase(begin, phase.config.seconds)
        try:
            position.state = phase.start(position.w)
        except BudgetExhausted:
            return StopReason.BUDGET
        self._note(phase, position)
        return None

    def _end(self, phase: Phase, position: Position, reason: StopReason) -> None:
        ledger = self._workspace.ledger
        ledger.limit = math.inf  # what finishes a phase (BatchNorm statistics, a last held-out check) is never cut off
        record: dict[str, Any] = {"iteration": 0, "loss": None, "gradient_norm": None, "evaluations": 0, "products": 0}
        if position.state is not None:
            record = phase.record(position.state)
            position.w, record["loss"], record["gradient_norm"] = phase.finish(position.state)
        ledger.open_phase(None)
        cost, seconds = position.phase_start
        summary = {
            "role": phase.config.role,
            "method": phase.config.method,
            "data": phase.config.data,
            "samples": phase.samples,
            "stop_reason": str(reason),
            "converged": reason.converged,
            "loss": record["loss"],
            "gradient_norm": record["gradient_norm"],
            "iterations": record["iteration"],
            "counts": {"evaluations": record["evaluations"], "products": record["products"]},
            "epoch_equivalents": ledger.cost - cost,
            "seconds": self._seconds(position) - seconds,
            **phase.details(),
        }
        position.snapshots.append(Snapshot(summary, position.w.detach().clone(), self._workspace.flat.buffers()))
        position.state = None
        self._progress.phase_ended(reason)
        self._log(f"{phase.title}: {reason} after {record['iteration']} iterations, loss {record['loss']}")
        self._save(position)

    def _note(self, phase: Phase, position: Position) -> None:
        """Record the current state, and save it when enough time has passed."""
        record = phase.record(position.state)
        fraction = record.pop("fraction")
        index = len(position.snapshots)
        line = {
            "phase": index,
            "role": phase.config.role,
            "method": phase.config.method,
            "data": phase.config.data,
            **record,
            "epoch_equivalents": self._workspace.ledger.cost,
            "seconds": self._seconds(position),
            **self._held_out(phase, position),
        }
        self._progress.update({**line, "fraction": self._fraction(phase, position, fraction)})
        if self._directory is None:
            return
        position.metrics_bytes = self._directory.append(METRICS, json.dumps(finite(line)))

    def _agreed_to_stop(self, position: Position) -> bool:
        """Save where rank 0 finds it due, and return whether any rank was asked to stop: one small collective."""
        loss = self._phases[len(position.snapshots)].record(position.state)["loss"]
        stop, save = self._ranks.agree(
            self._stop_requested, self._save_due(), figure=math.nan if loss is None else loss
        )
        if save and not stop:
            self._save(position)
        return stop

    def _save_due(self) -> bool:
        if self._directory is None:
            return False
        waited = None if self._last_save is None else time.monotonic() - self._last_save
        return waited is None or waited >= self._workspace.config.checkpoint_seconds

    def _fraction(self, phase: Phase, position: Position, of_iterations: float | None) -> float | None:
        """Return the larger share used up of the phase's limits, iterations or cost; None without limits."""
        start, epochs = position.phase_start[0], phase.config.epochs
        of_cost = None if epochs is None else (self._workspace.ledger.cost - start) / epochs
        limit, begin = self._workspace.clock.limit, position.phase_start[1]
        of_time = None if math.isinf(limit) else (position.seconds - begin) / max(limit - begin, 1e-9)
        shares = [share for share in (of_iterations, of_cost, of_time) if share is not None]
        return max(shares, default=None)

    def _seconds(self, position: Position) -> float:
        position.seconds = self._workspace.clock.seconds
        return position.seconds

    def _held_out(self, phase: Phase, position: Position) -> dict[str, Any]:
        """Return the held-out metrics of the current iterate when another interval has passed, else nothing."""
        every = self._workspace.config.track_validation
        if every is None or (looks := int(self._workspace.ledger.cost / every)) <= position.looks:
            return {}
        position.looks = looks
        with self._workspace.clock.stopped():
            return {"validation": self._workspace.evaluate(phase.iterate(position.state), "validation")}

    def _save(self, position: Position) -> None:
        if self._directory is None and self._ranks.size == 1:
            return
        packed = self._pack(position)  # on every rank: a part of the state may be spread over them
        if self._directory is not None:
            self._directory.save_checkpoint(*packed)
        self._last_save = time.monotonic()

    def _pack(self, position: Position) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"w": position.w}
        tensors |= {f"buffer/{name}": value for name, value in self._workspace.flat.buffers().items()}
        for index, snapshot in enumerate(position.snapshots):
            tensors[f"done/{index}/w"] = snapshot.w
            tensors |= {f"done/{index}/buffer/{name}": value for name, value in snapshot.buffers.items()}
        numbers = None
        if position.state is not None:
            phase_tensors, numbers = self._phases[len(position.snapshots)].save(position.state)
            tensors |= {f"phase/{name}": value for name, value in phase_tensors.items()}
        carried_tensors, carried = self._workspace.carried.save()
        tensors |= {f"carried/{name}": value for name, value in carried_tensors.items()}
        return tensors, {
            "format": FORMAT,
            "carried": carried,
            "phase_state": numbers,
            "records": [snapshot.record for snapshot in position.snapshots],
            "ledger": self._workspace.ledger.save(),
            "seconds": self._seconds(position),
            "phase_start": list(position.phase_start),
            "metrics_bytes": position.metrics_bytes,
            "looks": position.looks,
            "memory_limits": self._workspace.save_memory_limits(),
        }

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Position:
        """Return the position that a checkpoint holds, and set ledger, buffers and metrics back to it."""
        device = self._workspace.device
        snapshots = [
            Snapshot(record, tensors[f"done/{index}/w"].to(device), _under(f"done/{index}/buffer/", tensors))
            for index, record in enumerate(state["records"])
        ]
        self._workspace.flat.load_buffers(_under("buffer/", tensors))
        if self._directory is not None:
            self._directory.truncate(METRICS, state["metrics_bytes"])
        position = Position(
            tensors["w"].to(device),
            snapshots,
            seconds=state["seconds"],
            phase_start=(state["phase_start"][0], state["phase_start"][1]),
            metrics_bytes=state["metrics_bytes"],
            looks=state.get("looks", -1),
        )
        phase = self._phases[len(snapshots)].config if len(snapshots) < len(self._phases) else None
        self._workspace.clock.start(position.seconds)
        begin = 0.0 if phase and phase.cumulative else position.phase_start[1]
        self._workspace.clock.open_phase(begin, phase.seconds if phase else None)
        if state["phase_state"] is not None:
            position.state = self._phases[len(snapshots)].restore(_under("phase/", tensors), state["phase_state"])
        on_device = {name: tensor.to(device) for name, tensor in _under("carried/", tensors).items()}
        self._workspace.carried.restore(on_device, state.get("carried"))
        self._workspace.restore_memory_limits(state.get("memory_limits", []))
        # Last, because rebuilding an objective charges a calibration that the checkpoint has already.
        self._workspace.ledger.restore(state["ledger"])
        return position

    def _log(self, text: str) -> None:
        if self._directory is not None:
            self._directory.append(LOG, f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}")

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Turn the first Ctrl-C or termination signal into a request to stop after the current step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        asked = -math.inf

        def request(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            # A launcher passes on to its ranks what the terminal has sent them already.
            again, asked = self._ranks.size == 1 or time.monotonic() - asked > 2.0, time.monotonic()
            if self._stop_requested and again:
                raise KeyboardInterrupt
            self._stop_requested = True
            self._progress.message("stopping after this step; once more to stop at once")

        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
