"""The Python face of a run: your own module and tensors, fitted as the command line would."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from torch import nn

from subsetopt.arguments import kind_of, refuse_given, require_module
from subsetopt.data import Dataset, require_readable
from subsetopt.data.given.reading import holds_arrays
from subsetopt.errors import SettingError
from subsetopt.objective import ModelLoss, Residuals, make_loss
from subsetopt.training.checks.habits import phase_notes
from subsetopt.training.finishing import Interrupted, RunResult
from subsetopt.training.observers import LOGGER, Callback, Callbacks
from subsetopt.training.prediction.predictor import Predictor, load_predictor
from subsetopt.training.progress import Progress
from subsetopt.training.resume import resume_run
from subsetopt.training.run import train
from subsetopt.training.run_directory import CONFIG, RunDirectory
from subsetopt.training.settings.run import make_config, read_toml
from subsetopt.training.stored_settings import load_config

_NAMED = (
    "data_dir",
    "data_file",
    "target_column",
    "target",
    "test_file",
    "drop",
    "embed_words",
)  # where a data set lies that has a name
_MADE = ("validation_fraction", "normalize")  # how a `Dataset` was made


class SubsetTrainer:
    """Solves a subset to its minimum and hands over, for any `nn.Module` and any `Dataset`.

    `model` is a module (never modified: the fitted copy is `trainer.model`) or a model name; `dataset` a data set name,
    a `Dataset`, or what `as_dataset` makes one of: a pair (x, y) of tensors or arrays, a torch Dataset or DataLoader, a
    Hugging Face Dataset, a frame of pandas. Settings are those of `subsetopt train` with underscores, e.g.
    `subset_frac=0.1, solver="newton-cg", handoff="adam"`. Without `output` nothing is written to disk.
    `Residuals` in place of data make a run on collocation points.
    `loss` may be a loss module of torch.nn, a function (outputs, targets) that returns one loss per sample, or a
    function (model, batch) as `model_loss` describes it: its batches are the samples of the data as they were given, or
    (inputs, targets) of a `Dataset`.
    `on_iteration(record)` and `on_phase_end(record)` are called with what metrics.jsonl and result.json say of an
    iteration and a phase; one that returns True stops the run. The logger `subsetopt` has phases and warnings.
    Raises `UserError` (a `ValueError`) in one line for unusable settings, for those that would have no effect beside
    an object, and for data or a model of another type.
    """

    def __init__(
        self,
        model: nn.Module | str = "auto",
        dataset: object = "digits",
        *,
        progress: Progress | None = None,
        loss: Any = "auto",
        on_iteration: Callback | None = None,
        on_phase_end: Callback | None = None,
        **settings: Any,
    ) -> None:
        names: dict[str, Any] = {}
        if isinstance(model, str):
            names["model"] = model
        else:
            require_module("model", model, " or a model's name")
            refuse_given(settings, ("model_args",), "the model", "set it where the model is made")
        if isinstance(dataset, str):
            names["dataset"] = dataset
        else:
            _require_data(dataset, loss)
            without = _NAMED + (_MADE if isinstance(dataset, Dataset | Residuals) else ())
            refuse_given(settings, without, "the data set", "set it where the data set is made")
        if not (isinstance(loss, str) or callable(loss) or hasattr(loss, "per_sample")):
            raise SettingError("loss", loss, "neither a name nor a function", "leave it out, or give one, or a module")
        if isinstance(loss, str) and loss != "auto":
            names["loss"] = loss
        self.config = make_config(settings, names)
        for note in phase_notes(self.config):
            LOGGER.warning(note)
        self._loss = None if isinstance(loss, str) else loss
        self._model = None if isinstance(model, str) else model
        self._dataset = None if isinstance(dataset, str) else dataset
        self._progress = _checked(progress)
        self._callbacks = Callbacks(on_iteration, on_phase_end)
        self._outcome: RunResult | None = None
        self.stopped = False

    def fit(self) -> Self:
        """Run all phases; `result`, `model` and `directory` hold the outcome.

        Where a callback stops the run, `stopped` is True, and `SubsetTrainer.resume(output)` goes on with it. Raises
        `SettingError` where one does and there is no `output` to save the state in.
        """
        keep = self.config.output is not None
        given: dict[str, Any] = {"model": self._model, "dataset": self._dataset, "loss": self._loss}
        try:
            self._outcome = train(self.config, progress=self._progress, keep=keep, callbacks=self._callbacks, **given)
        except Interrupted as stop:
            if not self._callbacks.stopped:
                raise
            if stop.directory is None:
                raise SettingError(
                    "output", None, "a callback stopped the run, and nothing is saved", "give output"
                ) from stop
            self.stopped = True
        return self

    @classmethod
    def resume(
        cls,
        directory: str | Path,
        *,
        model: nn.Module | None = None,
        dataset: object = None,
        loss: Any = None,
        progress: Progress | None = None,
        on_iteration: Callback | None = None,
        on_phase_end: Callback | None = None,
        max_iterations: int | None = None,
        max_epochs: float | None = None,
        max_seconds: float | None = None,
        solver_epochs: float | None = None,
        handoff_epochs: float | None = None,
    ) -> Self:
        """Go on with an interrupted run; `model`, `dataset` and `loss` again where they were objects.

        With a larger limit, a solver that its limit stopped goes on where it was, as if it had had that limit from the
        start. Raises `UserError` in one line where there is none, or where a phase was planned for its budget.
        """
        if model is not None:
            require_module("model", model)
        if dataset is not None:
            _require_data(dataset, loss)
        limits = {
            "max_iterations": max_iterations,
            "max_epochs": max_epochs,
            "max_seconds": max_seconds,
            "solver_epochs": solver_epochs,
            "handoff_epochs": handoff_epochs,
        }
        callbacks = Callbacks(on_iteration, on_phase_end)
        outcome: RunResult | None = None
        given: dict[str, Any] = {"model": model, "dataset": dataset, "loss": loss, "limits": limits}
        try:
            outcome = resume_run(directory, progress=_checked(progress), callbacks=callbacks, **given)
        except Interrupted:
            if not callbacks.stopped:
                raise
        trainer = cls(
            "auto" if model is None else model,
            "digits" if dataset is None else dataset,
            progress=progress,
            loss="auto" if loss is None else loss,
        )
        trainer.stopped = outcome is None
        # The run's own settings, not the defaults: whatever is asked of the trainer later is computed as the run was.
        trainer.config = load_config(RunDirectory.open(Path(directory)), model, dataset)
        trainer._outcome = outcome
        return trainer

    @classmethod
    def load(cls, directory: str | Path, *, model: nn.Module | None = None) -> Self:
        """Return the trainer of a finished run, fitted; `model` again where it was an object. Reads no data.

        After a run on a table `predict` takes data frames with its columns, in any order, with or without the target.
        Raises `UserError` in one line where there is no finished run.
        """
        if model is not None:
            require_module("model", model)
        run = RunDirectory.open(Path(directory))
        result = run.read_result()
        last = load_predictor(run.path, model=model)
        better = (result.get("models") or {}).get("best")
        best = load_predictor(run.path, model=model, which="best") if better else None
        trainer = cls("auto" if model is None else model)
        trainer.config = make_config(read_toml(run.path / CONFIG))
        trainer._outcome = RunResult(result, run.path, last, best)
        return trainer

    @property
    def result(self) -> dict[str, Any]:
        """The content of result.json."""
        return self._fitted.result

    @property
    def model(self) -> nn.Module:
        """The fitted network, in evaluation mode; it takes standardised inputs: for raw ones see `predictor`."""
        return self._fitted.model

    @property
    def predictor(self) -> Predictor:
        """The fitted model as a module on raw inputs: logits, or regression targets in the units of the data."""
        return self._fitted.predictor

    @property
    def best(self) -> Predictor:
        """The same with the better parameters on held-out data, where the hand-off did harm; else `predictor`."""
        return self._fitted.best or self._fitted.predictor

    @property
    def directory(self) -> Path | None:
        """The run directory, None when nothing was written."""
        return self._fitted.directory

    def predict(self, inputs: Any) -> Any:
        """Return class names (numbers where there are none) or regression targets for raw inputs; see `Predictor`."""
        return self.predictor.predict(inputs)

    def predict_proba(self, inputs: Any) -> Any:
        """Return class probabilities (n, M) for raw inputs."""
        return self.predictor.predict_proba(inputs)

    def evaluate(self, inputs: Any, targets: Any = None, *, loss: Any = None) -> dict[str, float]:
        """Return {loss, accuracy | mse, r2} of the fitted model on raw inputs and targets, in the units of the data.

        The loss is the trainer's own, or `loss` after `load`; see `Predictor.evaluate`.
        """
        return self.predictor.evaluate(inputs, targets, self._loss if loss is None else loss)

    @property
    def _fitted(self) -> RunResult:
        if self.stopped:
            raise SettingError("trainer", "stopped", "a callback stopped the run", "use SubsetTrainer.resume(output)")
        if self._outcome is None:
            raise SettingError("trainer", "not fitted", "there is no result yet", "call fit() first")
        return self._outcome


def _require_data(dataset: object, loss: Any) -> None:
    """Raise `SettingError` for what is no data; a loss that calls the model takes arrays without targets, too."""
    if not isinstance(dataset, Residuals) and not (holds_arrays(dataset) and _calls_model(loss)):
        require_readable(dataset)


def _calls_model(loss: Any) -> bool:
    return (
        (callable(loss) or isinstance(loss, ModelLoss))
        and not isinstance(loss, type)
        and isinstance(make_loss(loss), ModelLoss)
    )


def _checked(progress: Progress | None) -> Progress | None:
    """Return `progress`, which is looked at here, not first in the middle of a run."""
    if progress is None or (isinstance(progress, Progress) and not isinstance(progress, type)):
        return progress
    raise SettingError("progress", progress, f"is {kind_of(progress)}", "give an object with the methods of Progress")
