"""Where a run is between two steps, and how a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from subsetopt.saving import under
from subsetopt.training.checks.identity import identity
from subsetopt.training.context import PreparedRun
from subsetopt.training.earlier_checkpoints import EARLIER, EARLIER_FORMATS, upgraded
from subsetopt.training.phases.protocol import Phase

FORMAT = 5
"""Of checkpoints; another number says that what a phase saves has another meaning, though it may look the same."""


@dataclass
class Snapshot:
    """The model after a finished phase: its record for result.json, parameters and buffers."""

    record: dict[str, Any]
    w: Tensor
    buffers: dict[str, Tensor]


@dataclass
class Held:
    """A solver that was stopped by a limit, as it was then, to go on under a larger limit."""

    index: int
    start: tuple[float, float]  # cost and seconds when it began
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


@dataclass
class Position:
    """Where a run is: the finished phases, and the state of the current one."""

    w: Tensor
    snapshots: list[Snapshot] = field(default_factory=list)
    state: Any = None
    seconds: float = 0.0
    phase_start: tuple[float, float] = (0.0, 0.0)  # cost and seconds when the current phase began
    metrics_bytes: int = 0
    held: Held | None = None
    looks: int = -1  # how many intervals of `track_validation` had passed at the last look at held-out data


def pack(
    position: Position, prepared: PreparedRun, phases: Sequence[Phase]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return everything that `unpack` needs, as tensors and JSON-able numbers; every rank takes part."""
    data, budget, run = prepared
    tensors = {"w": position.w}
    tensors |= {f"buffer/{name}": value for name, value in run.model.flat.buffers().items()}
    for index, snapshot in enumerate(position.snapshots):
        tensors[f"done/{index}/w"] = snapshot.w
        tensors |= {f"done/{index}/buffer/{name}": value for name, value in snapshot.buffers.items()}
    numbers = None
    if position.state is not None:
        phase_tensors, numbers = phases[len(position.snapshots)].save(position.state)
        tensors |= {f"phase/{name}": value for name, value in phase_tensors.items()}
    held = position.held
    if held is not None:
        tensors |= {f"held/{name}": value for name, value in held.tensors.items()}
    carried_tensors, carried = run.carried.save()
    tensors |= {f"carried/{name}": value for name, value in carried_tensors.items()}
    position.seconds = budget.clock.seconds
    return tensors, {
        "format": FORMAT,
        "carried": carried,
        "phase_state": numbers,
        "held": None if held is None else {"index": held.index, "start": list(held.start), "numbers": held.numbers},
        "records": [snapshot.record for snapshot in position.snapshots],
        "ledger": budget.ledger.save(),
        "seconds": position.seconds,
        "phase_start": list(position.phase_start),
        "metrics_bytes": position.metrics_bytes,
        "looks": position.looks,
        "memory_limits": run.model.save_memory_limits(),
        **(identity(data, run, position.w) if run.ranks.main else {}),
    }


def unpack(
    tensors: Mapping[str, Tensor], state: Mapping[str, Any], prepared: PreparedRun, phases: Sequence[Phase]
) -> Position:
    """Return the position that `pack` has packed, and set buffers, clock and ledger back to it.

    Raises `TypeError` or `KeyError`, before anything is set, for what another version has packed otherwise.
    """
    if state["phase_state"] is not None and state["format"] not in (FORMAT, *EARLIER_FORMATS):
        raise TypeError(f"format {state['format']}, not {FORMAT}")
    data, budget, run = prepared
    device = data.device
    snapshots = [
        Snapshot(record, tensors[f"done/{index}/w"].to(device), under(f"done/{index}/buffer/", tensors))
        for index, record in enumerate(state["records"])
    ]
    run.model.flat.load_buffers(under("buffer/", tensors))
    run.scale.recall(state["records"])
    run.model.recall_l2(state["records"])
    position = Position(
        run.model.flat.check(tensors["w"].to(device)),
        snapshots,
        seconds=state["seconds"],
        phase_start=(state["phase_start"][0], state["phase_start"][1]),
        metrics_bytes=state["metrics_bytes"],
        looks=state.get("looks", -1),
        held=_held(state.get("held"), under("held/", tensors)),
    )
    phase = phases[len(snapshots)] if len(snapshots) < len(phases) else None
    budget.clock.start(position.seconds)
    begin = 0.0 if phase and phase.config.cumulative else position.phase_start[1]
    budget.clock.open_phase(begin, phase.config.seconds if phase else None)
    if phase is not None and state["phase_state"] is not None:
        saved = under("phase/", tensors), state["phase_state"]
        position.state = phase.restore(*(upgraded(*saved) if state["format"] == EARLIER else saved))
    on_device = {name: tensor.to(device) for name, tensor in under("carried/", tensors).items()}
    run.carried.restore(on_device, state.get("carried"))
    run.model.restore_memory_limits(state.get("memory_limits", []))
    # Last, because rebuilding an objective charges a calibration that the checkpoint has already.
    budget.ledger.restore(state["ledger"])
    return position


def _held(saved: Mapping[str, Any] | None, tensors: dict[str, Tensor]) -> Held | None:
    if saved is None:
        return None
    return Held(saved["index"], (saved["start"][0], saved["start"][1]), tensors, saved["numbers"])
