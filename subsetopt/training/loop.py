"""The one loop: runs a list of phases, records, saves, resumes and stops on request."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.saving import without_copies
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.checks.affordable import no_better
from subsetopt.training.checks.identity import check_identity, check_outputs
from subsetopt.training.context import PreparedRun
from subsetopt.training.observers import Observed, stop_asked
from subsetopt.training.phases.protocol import Phase
from subsetopt.training.position import Held, Position, Snapshot, pack, unpack
from subsetopt.training.progress import Progress
from subsetopt.training.reopening import LIMITS
from subsetopt.training.run_directory import LOG, METRICS, RunDirectory, finite
from subsetopt.training.splits import SplitName
from subsetopt.training.stop_request import StopRequest

SAVING_SHARE = 0.02
"""How much of the time checkpoints may take: large ones are written less often."""


class Loop:
    """Runs `phases`; `directory` None keeps everything in memory."""

    def __init__(
        self,
        prepared: PreparedRun,
        phases: Sequence[Phase],
        directory: RunDirectory | None,
        progress: Progress,
        save_at_once: bool = True,
    ) -> None:
        self._prepared = prepared
        self._data, self._budget, self._run = prepared
        self._model, self._ranks = self._run.model, self._run.ranks
        self._phases = phases
        self._directory = directory
        self._progress = progress
        self._stop = StopRequest(progress, relayed=self._ranks.size > 1)
        self._save_at_once = save_at_once
        self._last_save, self._save_seconds = time.monotonic(), 0.0

    def start(self) -> Position:
        """Return the position before the first phase."""
        return Position(self._model.flat.initial())

    def begin_again(self) -> Position:
        """Return the position before the first phase of a run that was stopped before its first checkpoint."""
        if self._directory is not None:
            self._directory.cut_metrics(0, self._progress.warn)
        return self.start()

    def run(self, position: Position) -> bool:
        """Go on from `position` to the end; returns False when interrupted, with everything saved."""
        self._budget.clock.start(position.seconds)
        with self._stop.listening():
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
            if reason is None and self._budget.clock.over:
                reason = StopReason.BUDGET
            if reason is not None:
                break
            if self._agreed_to_stop(position):
                self._progress.phase_ended(StopReason.INTERRUPTED)
                self.save(position)
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
        ledger = self._budget.ledger
        position.phase_start = (ledger.cost, self._seconds(position))
        spent, begin = (position.phase_start[0], 0.0) if phase.config.cumulative else (0.0, position.phase_start[1])
        ledger.open_phase(None if phase.config.epochs is None else phase.config.epochs - spent)
        self._budget.clock.open_phase(begin, phase.config.seconds)
        try:
            position.state = phase.start(position.w)
        except BudgetExhausted:
            return StopReason.BUDGET
        self._note(phase, position)
        return None

    def _end(self, phase: Phase, position: Position, reason: StopReason) -> None:
        ledger = self._budget.ledger
        if reason is not StopReason.BUDGET:
            position.held = None
        if position.state is not None:
            self._hold(phase, position, reason)
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
            "loss_of": str(phase.loss_of),
            "gradient_norm": record["gradient_norm"],
            "iterations": record["iteration"],
            "counts": {"evaluations": record["evaluations"], "products": record["products"]},
            "epoch_equivalents": ledger.cost - cost,
            "seconds": self._seconds(position) - seconds,
            **phase.details(),
        }
        position.snapshots.append(Snapshot(summary, position.w.detach().clone(), self._model.flat.buffers()))
        position.state = None
        self._progress.phase_ended(reason)
        if isinstance(self._progress, Observed):
            self._progress.phase_done(summary)
        self._log(f"{phase.title}: {reason} after {record['iteration']} iterations, loss {record['loss']}")
        for text in no_better([summary]):
            self._log(text)
        last = len(position.snapshots) == len(self._phases)
        at_once = self._save_at_once and (last or self._affordable())
        if at_once or self._ranks.size > 1 or self._save_due():
            self.save(position)

    def _hold(self, phase: Phase, position: Position, reason: StopReason) -> None:
        """Keep the state of a solver that a limit stopped, where no other phase goes on from its end to speak of."""
        index, ledger = len(position.snapshots), self._budget.ledger
        whole = reason is StopReason.BUDGET and (phase.config.epochs is None or ledger.limit >= ledger.budget)
        last = index == len(self._phases) - 1 and reason in LIMITS
        if phase.fixed_length is None and (whole or last) and phase.record(position.state)["iteration"]:
            # Nobody goes on from the state of the last phase; that of another might lend its memory to the next.
            with without_copies() if index == len(self._phases) - 1 else nullcontext():
                position.held = Held(index, position.phase_start, *phase.save(position.state))

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
            "loss_of": str(phase.loss_of),
            "epoch_equivalents": self._budget.ledger.cost,
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
            self._stop.asked or stop_asked(self._progress), self._save_due(), figure=math.nan if loss is None else loss
        )
        if save and not stop:
            self.save(position)
        return stop

    def _save_due(self) -> bool:
        if self._directory is None:
            return False
        interval = self._run.config.checkpoint_seconds
        return time.monotonic() - self._last_save >= interval and (interval == 0 or self._affordable())

    def _affordable(self) -> bool:
        """Return whether a checkpoint that takes as long as the last one would keep within its share of the time."""
        return time.monotonic() - self._last_save >= self._save_seconds * (1 / SAVING_SHARE - 1)

    def _fraction(self, phase: Phase, position: Position, of_iterations: float | None) -> float | None:
        """Return the larger share used up of the phase's limits, iterations or cost; None without limits."""
        start, epochs = position.phase_start[0], phase.config.epochs
        of_cost = None if epochs is None else (self._budget.ledger.cost - start) / epochs
        limit, begin = self._budget.clock.limit, position.phase_start[1]
        of_time = None if math.isinf(limit) else (position.seconds - begin) / max(limit - begin, 1e-9)
        shares = [share for share in (of_iterations, of_cost, of_time) if share is not None]
        return max(shares, default=None)

    def _seconds(self, position: Position) -> float:
        position.seconds = self._budget.clock.seconds
        return position.seconds

    def _held_out(self, phase: Phase, position: Position) -> dict[str, Any]:
        """Return the held-out metrics of the current iterate when another interval has passed, else nothing."""
        every = self._run.config.track_validation
        if every is None or (looks := int(self._budget.ledger.cost / every)) <= position.looks:
            return {}
        position.looks = looks
        with self._budget.clock.stopped():
            return {"validation": self._model.evaluate(self._data, phase.iterate(position.state), SplitName.VALIDATION)}

    def save(self, position: Position) -> None:
        """Write a checkpoint; every rank takes part."""
        if self._directory is None and self._ranks.size == 1:
            return
        began = time.monotonic()
        with without_copies():  # nothing steps before all is written
            # On every rank: a part of the state may be spread over them.
            packed = pack(position, self._prepared, self._phases)
            if self._directory is not None:
                self._directory.save_checkpoint(*packed)
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - began

    def check(self, state: Mapping[str, Any], changed: Sequence[str] = ()) -> None:
        """Raise `OtherRunError` for the checkpoint of another run; warn where an earlier version left that unsaid.

        The settings in `changed` may differ.
        """
        if not check_identity(state, self._data, self._run, changed):
            self._progress.warn("the checkpoint is of an earlier version: that settings and data fit is not checked")

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Position:
        """Return the position that a checkpoint holds, and set ledger, buffers and metrics back to it.

        The position takes over `tensors`, uncopied. Raises `OtherRunError` where the model computes something else than
        then, before anything is written.
        """
        with without_copies():
            position = unpack(tensors, state, self._prepared, self._phases)
        check_outputs(state, self._data, self._model.flat, position.w)
        if self._directory is not None:
            position.metrics_bytes = self._directory.cut_metrics(position.metrics_bytes, self._progress.warn)
        return position

    def _log(self, text: str) -> None:
        if self._directory is not None:
            self._directory.append(LOG, f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {text}")
