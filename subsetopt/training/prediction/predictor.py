"""A trained network on raw inputs: standardises them, and gives predictions in the units of the data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from subsetopt.ambient import ordinary_torch
from subsetopt.arguments import kind_of
from subsetopt.data import Normalization, Preprocess, Restore, as_batches
from subsetopt.data.raw_inputs import is_of_tensors, raw_inputs
from subsetopt.data.tables.encoding import TableEncoding
from subsetopt.data.tables.table import is_frame, table_of
from subsetopt.errors import DataError, ModelError, RunDirectoryError, SettingError
from subsetopt.inputs import Parts, as_inputs, called
from subsetopt.models import build_model, initialise_lazy
from subsetopt.objective import FlatModel, ModelLoss, evaluate_split, make_loss
from subsetopt.objective.module_call import outputs_of
from subsetopt.objective.weighting import WeightedLoss
from subsetopt.training.checks.run_data import read_normalization, read_normalizations
from subsetopt.training.model_loss_data import BatchPreprocess
from subsetopt.training.run_directory import BEST, CONFIG, MODEL, RunDirectory
from subsetopt.training.settings.run import make_config, read_toml

CHUNK = 512
_LOG = logging.getLogger("subsetopt")
Which = Literal["last", "best"]


class Predictor(nn.Module):
    """Maps raw inputs (n, ...), one tensor or several, as the data set had them, to outputs (n, M).

    For classification these are the network's logits, for regression the targets in the units of the data, float64.
    After a run whose loss calls the model they are what the network returns, or the `logits` in it. `network` alone
    takes standardised inputs. `loss` names a loss that was given as an object. `class_names` name the outputs, where
    the data set has names. `input_name` is that of the only input, for a network that takes it in a dict or by name.
    The methods of a predictor with an `encoding` take data frames (pandas, polars) with the columns of the training
    table, too.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        task: str,
        in_shape: tuple[int, ...] | dict[str, tuple[int, ...]],
        normalization: Normalization | dict[str, Normalization] | None = None,
        target_normalization: Normalization | None = None,
        embedded: bool = False,
        class_names: tuple[str, ...] = (),
        encoding: TableEncoding | None = None,
        columns: tuple[str, ...] = (),
        loss: str | None = None,
        calls_model: bool = False,
        input_name: str | None = None,
    ) -> None:
        super().__init__()
        self.network, self.input_name = network, input_name
        self.loss, self.calls_model = loss, calls_model
        self.task, self.class_names, self.columns = task, tuple(class_names), tuple(columns)
        self.encoding = encoding
        self.in_shape = in_shape if isinstance(in_shape, dict) else tuple(in_shape)
        dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
        self.normalization, self.target_normalization, self.embedded = normalization, target_normalization, embedded
        self._preprocess = Preprocess(normalization, dtype, embedded)
        self._restore = Restore(target_normalization)

    @classmethod
    def of_result(cls, network: nn.Module, result: Mapping[str, Any]) -> Predictor:
        """Return the predictor of a run with this result.json; raises `RunDirectoryError` where that lacks entries."""
        try:
            data = result["dataset"]
            return cls(
                network,
                task=data["task"],
                in_shape=read_shape(data["in_shape"]),
                normalization=read_normalizations(result["normalization"]),
                target_normalization=read_normalization(result.get("target_normalization")),
                embedded=bool(data.get("embedded")),
                class_names=tuple(data.get("class_names") or ()),
                encoding=TableEncoding.of_document(data["encoding"]) if data.get("encoding") else None,
                columns=tuple(data.get("columns") or ()),
                loss=(result.get("loss") or {}).get("name"),
                calls_model=bool((result.get("loss") or {}).get("calls_model")),
                input_name=data.get("input_name"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise RunDirectoryError(
                f"result.json lacks an entry ({type(error).__name__}: {error}); train anew"
            ) from None

    def forward(self, inputs: Any) -> Tensor:
        """Return outputs (n, M) for raw inputs: a tensor (n, ...), or a dict or tuple of several."""
        given: Any = as_inputs(inputs)
        device = next((p.device for p in self.network.parameters()), given.device)
        x = self._preprocess(given.to(device))
        outputs: Any = called(self.network, x if self.input_name is None else Parts([x], [self.input_name]))
        return self._restore(_predictions(outputs) if self.calls_model else outputs)

    @ordinary_torch()
    def predict(self, inputs: Any) -> Any:
        """Return predictions for raw inputs (n, ...): a tensor for tensors, a numpy array for anything else.

        Inputs are given in any form that data may have (see `as_dataset`), with targets beside them or without; of a
        loader in the order of its data set, whatever its own is.

        Classification gives class names, as whole numbers where all of them are, (n,), or class numbers where there
        are no names; regression targets (n,), or (n, M) for several columns. Raises `DataError`.
        """
        outputs = self._outputs(inputs)
        if self.task != "classification":
            return _like(inputs, outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs)
        numbers = outputs.argmax(1)
        if not self.class_names:
            return _like(inputs, numbers)
        if all(_is_number(name) for name in self.class_names):
            return _like(inputs, torch.tensor([int(name) for name in self.class_names], device=numbers.device)[numbers])
        return np.array(self.class_names)[numbers.cpu().numpy()]

    @ordinary_torch()
    def predict_proba(self, inputs: Any) -> Any:
        """Return class probabilities (n, M) for raw inputs, as `predict` does; raises `SettingError` for regression."""
        if self.calls_model:
            raise SettingError("loss", self.loss, "does not tell what the outputs are", "call predict, it returns them")
        if self.task != "classification":
            raise SettingError("task", self.task, "it has no class probabilities", "call predict")
        return _like(inputs, self._outputs(inputs).double().softmax(1))

    @ordinary_torch()
    def evaluate(self, inputs: Any, targets: Any = None, loss: Any = None) -> dict[str, float]:
        """Return {loss, accuracy | mse, r2} on raw inputs and targets, in the units of the data.

        `loss` is that of the run by default; one that was given as an object has to be given again. Where it calls the
        model, `inputs` are samples as the run had them, with `targets` only where these stood beside them. Raises
        `SettingError` without it.
        """
        if loss is None:
            if self.loss is not None:
                raise SettingError("loss", None, f"the run had a loss of its own ({self.loss})", "give loss=...")
            loss = "cross_entropy" if self.task == "classification" else "mse"
        kind = make_loss(loss)
        if isinstance(kind, ModelLoss):
            return self._evaluate_batches(kind, inputs, targets)
        if targets is None:
            raise SettingError("targets", None, "there is nothing to compare with", "give targets")
        flat, by = FlatModel(self.network), self._restore.normalization
        flat = flat if self.input_name is None else flat.given_as(self.input_name)
        y = torch.as_tensor(targets, device="cpu")
        if by is not None:
            columns = y.double().reshape(len(y), -1)
            y = Preprocess(by, torch.float64)(columns)
        x, std = self._checked(inputs), None if by is None else by.std
        return evaluate_split(flat, flat.initial(), x, y, loss=kind, preprocess=self._preprocess, target_std=std)

    def _evaluate_batches(self, loss: ModelLoss, inputs: Any, targets: Any) -> dict[str, float]:
        flat = FlatModel(self.network)
        preprocess: Preprocess | None = self._preprocess
        if targets is None:
            x, y, preprocess = as_batches(inputs), None, None
        else:
            x, y, preprocess = (
                self._checked(inputs),
                torch.as_tensor(targets, device="cpu"),
                BatchPreprocess(self._preprocess),
            )
        binding = loss.bind(x, y, None)
        evaluated = flat.evaluated_by(binding.function)
        counts = binding.targets
        return evaluate_split(
            evaluated, flat.initial(), binding.inputs, counts, loss=WeightedLoss(loss), preprocess=preprocess
        )

    def _checked(self, inputs: Any) -> Any:
        found = raw_inputs(self._encoded(inputs), self.in_shape, self.columns, self._preprocess.embedded)
        if isinstance(found, Tensor) and self._preprocess.embedded and found.is_floating_point():
            raise DataError(f"inputs: {found.dtype}, the model was trained on integers; convert them to int64")
        return found

    def _encoded(self, inputs: Any) -> Any:
        """Return the inputs of a data frame (n, D) by the run's encoding, and anything else as it is."""
        if self.encoding is None or not is_frame(inputs):
            return inputs
        encoded, notes = self.encoding.encode(table_of(inputs))
        for note in notes:
            _LOG.warning("%s", note)
        return encoded

    def _outputs(self, inputs: Any) -> Tensor:
        found, was_training = self._checked(inputs), self.training
        self.eval()
        try:
            with torch.no_grad():
                pieces = range(0, len(found), CHUNK)
                return torch.cat([outputs_of(self, found[start : start + CHUNK]).cpu() for start in pieces])
        finally:
            self.train(was_training)


def _predictions(outputs: Any) -> Tensor:
    """Return the tensor that a model returns, or the `logits` in what it returns; raises `ModelError` for others."""
    found = outputs
    if not isinstance(found, Tensor):
        found = found.get("logits") if isinstance(found, Mapping) else getattr(found, "logits", None)
    if not isinstance(found, Tensor):
        raise ModelError(
            f"model: it returns {kind_of(outputs)} without logits; call trainer.model itself, which returns all of it"
        )
    return found


def load_predictor(path: str | Path, *, model: nn.Module | None = None, which: Which = "last") -> Predictor:
    """Return the trained model of a finished run for raw inputs, in eval mode on the CPU; reads no data set.

    `model` is an untrained module of the same architecture where the run was given one as an object. `which` "best"
    takes the parameters that were better on held-out data, where the run kept others than the last. Raises
    `RunDirectoryError` in one line for an unfinished run.
    """
    directory = RunDirectory.open(Path(path))
    result, config = directory.read_result(), make_config(read_toml(directory.path / CONFIG))
    if which not in ("last", "best"):
        raise SettingError("which", which, "unknown choice", "use last or best")
    file = BEST if which == "best" and (result.get("models") or {}).get("best") else MODEL
    dtype = getattr(torch, config.dtype)
    if model is None:
        if config.model.startswith("("):
            raise RunDirectoryError(
                f"run = {str(directory.path)!r}: its model was a Python object; "
                "give model in Python, as in SubsetTrainer.load(path, model=...)"
            )
        shape, outputs = read_shape(result["dataset"]["in_shape"]), result["dataset"]["n_outputs"]
        encoding = result["dataset"].get("encoding")
        model = build_model(
            config.model,
            in_shape=shape,
            n_outputs=outputs,
            seed=config.seed,
            dtype=dtype,
            embedded=TableEncoding.of_document(encoding).embedded if encoding else (),
            input_name=result["dataset"].get("input_name"),
            **config.model_args,
        )
    initialise_lazy(model, read_shape(result["dataset"]["in_shape"]), input_name=result["dataset"].get("input_name"))
    flat = FlatModel(model, dtype=dtype, device="cpu")
    w = flat.load_state_dict(directory.load_tensors(file)[0])
    return Predictor.of_result(flat.module(w), result).eval()


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and str(int(name)) == name


def _like(inputs: Any, outputs: Tensor) -> Any:
    return outputs if is_of_tensors(inputs) else outputs.numpy()


def read_shape(saved: Any) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """Return the shape of a sample that result.json holds, of several inputs that of each."""
    if isinstance(saved, Mapping):
        return {key: tuple(shape) for key, shape in saved.items()}
    return tuple(saved)
