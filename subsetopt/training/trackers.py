"""Trackers that a run writes to: TensorBoard and MLflow, each of its own extra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from subsetopt.errors import SettingError
from subsetopt.required import require
from subsetopt.training.run_directory import RunDirectory
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.stored_settings import stored_settings

_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
_LEFT_OUT = ("phase", "iteration", "fraction")


class Tracker(Protocol):
    """Takes the records of a run."""

    def iteration(self, record: Mapping[str, Any]) -> None:
        """One iteration is done."""

    def result(self, result: Mapping[str, Any]) -> None:
        """The run is complete."""

    def close(self) -> None:
        """Write what is held back."""


class TensorBoard:
    """Event files in the run directory, folder `tensorboard`; settings as hyperparameters beside the final metrics."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._settings = _flat(stored_settings(config))
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def iteration(self, record: Mapping[str, Any]) -> None:
        """Write every number under the phase's role, e.g. solve/loss."""
        for name, value in _numbers(record):
            self._writer.add_scalar(f"{record['role']}/{name}", value, int(record["iteration"]))

    def result(self, result: Mapping[str, Any]) -> None:
        """Write settings and final metrics."""
        plain = (bool, int, float, str)
        settings = {name: value if isinstance(value, plain) else str(value) for name, value in self._settings}
        self._writer.add_hparams(settings, dict(_final(result)), run_name=".")

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class MLflow:
    """One run of MLflow's current experiment and tracking server, with settings as parameters."""

    def __init__(self, config: RunConfig, folder: Path | None) -> None:
        self._mlflow = require("mlflow", "mlflow")
        self._run = self._mlflow.start_run(run_name=None if folder is None else folder.name, nested=True)
        settings = [(name, str(value)[:500]) for name, value in _flat(stored_settings(config))]
        for start in range(0, len(settings), 100):  # what its servers take in one request
            self._mlflow.log_params(dict(settings[start : start + 100]))

    def iteration(self, record: Mapping[str, Any]) -> None:
        """Log every number under the phase's role, e.g. solve.loss."""
        values = {f"{record['role']}.{name}": value for name, value in _numbers(record)}
        self._mlflow.log_metrics(values, step=int(record["iteration"]))

    def result(self, result: Mapping[str, Any]) -> None:
        """Log the final metrics."""
        self._mlflow.log_metrics({name.replace("/", "."): value for name, value in _final(result)})

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


def check_tracker(config: RunConfig, keep: bool) -> None:
    """Raise, before any work, `UserError` for a package that is missing, and for event files that have no folder."""
    if config.log_to is None:
        return
    require(_PACKAGES[config.log_to], config.log_to)
    if config.log_to == "tensorboard" and not keep:
        raise SettingError("log_to", config.log_to, "there is no run directory to write to", "give output")


@contextmanager
def tracking(config: RunConfig, directory: RunDirectory | None, main: bool) -> Iterator[Tracker | None]:
    """Open the tracker of `config` on rank 0, None where there is none, and close it at the end."""
    if config.log_to is None or not main:
        yield None
        return
    folder = None if directory is None else directory.path
    if config.log_to == "mlflow":
        tracker: Tracker = MLflow(config, folder)
    else:
        assert folder is not None, "checked before"
        tracker = TensorBoard(config, folder)
    try:
        yield tracker
    finally:
        tracker.close()


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}_{key}", number) for key, number in _numbers(value))
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in _LEFT_OUT:
            yield name, float(value)


def _final(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for split, metrics in result["metrics"].items():
        yield from ((f"final/{split}_{name}", value) for name, value in _numbers(metrics or {}))
    yield from ((f"final/{name}", value) for name, value in _numbers({"cost": result["cost"]["epoch_equivalents"]}))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        flat += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return flat
