"""A trained model as one file for other programs, with standardisation inside, checked before it is written.

The file takes raw inputs (n, ...) in the units of the training data and returns class probabilities (n, M), or
regression targets (n, M) in their units. No format is a pickle: `torch` is a program of `torch.export` (.pt2).
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from subsetopt.data import Normalization
from subsetopt.errors import ModelError, SettingError, UserError, setting, unknown_name
from subsetopt.files import replace_file
from subsetopt.inputs import TRIED, Parts, Style, style_of
from subsetopt.seeding import make_generator
from subsetopt.training.prediction.predictor import Predictor, Which, load_predictor

Format = Literal["torch", "onnx", "torchscript"]
ENDINGS: dict[str, str] = {"torch": ".pt2", "onnx": ".onnx", "torchscript": ".pt"}
TOLERANCE = 1e-6
"""Of probabilities, and of targets in deviations of the training targets."""

FACTS = "subsetopt.json"
"""Name of the facts beside the model: task, shape and type of an input, names of classes and of a table's inputs."""

_ROWS = 16
Run = Callable[[Tensor], NDArray[Any]]


@dataclass(frozen=True)
class Exported:
    """The file, and the largest difference from `predict` on the rows that it was checked on."""

    path: Path
    format: Format
    difference: float
    facts: dict[str, Any]


class Deployed(nn.Module):
    """The predictor as plain arithmetic on buffers: every step of it is in the file."""

    mean: Tensor
    mean_rest: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, predictor: Predictor, rows: Tensor) -> None:
        super().__init__()
        dtype = rows.dtype
        self.network, self.classify = predictor.network, predictor.task == "classification"
        self.dtype = next((p.dtype for p in predictor.network.parameters() if p.is_floating_point()), torch.float32)
        self.working = dtype if predictor.embedded else torch.promote_types(dtype, self.dtype)
        shape = (-1, *[1] * (len(predictor.in_shape) - 1))
        by_inputs = _statistics(predictor)
        self.standardised = by_inputs is not None
        self.embedded, self.name = predictor.embedded, predictor.input_name
        self.style: Style = "bare"
        if self.name is not None:
            few = rows[:TRIED] if self.embedded else rows[:TRIED].to(self.dtype)
            self.style = style_of(self.network, Parts([few], [self.name]))
        if by_inputs is not None:
            exact = torch.tensor([by_inputs.mean, by_inputs.std], dtype=torch.float64, device="cpu")
            mean, std = exact.to(self.working)
            self.register_buffer("mean", mean.view(shape))
            self.register_buffer("mean_rest", (exact[0] - mean.double()).to(self.working).view(shape))
            self.register_buffer("std", std.view(shape))
        by = predictor.target_normalization or Normalization((0.0,), (1.0,))
        self.register_buffer("target_mean", torch.tensor(by.mean, dtype=torch.float64, device="cpu"))
        self.register_buffer("target_std", torch.tensor(by.std, dtype=torch.float64, device="cpu"))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return probabilities or targets, float64 (n, M)."""
        x = inputs
        if self.standardised:
            x = (x.to(self.working) - self.mean - self.mean_rest) / self.std
        x = x if self.embedded else x.to(self.dtype)
        if self.name is None or self.style == "bare":
            outputs: Tensor = self.network(x)
        else:
            outputs = self.network({self.name: x}) if self.style == "whole" else self.network(**{self.name: x})
        outputs = outputs.double()
        return outputs.softmax(1) if self.classify else outputs * self.target_std + self.target_mean


def export_run(
    run: str | Path,
    format: Format,
    output: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    which: Which = "last",
) -> Exported:
    """Write the trained model of a run as one file, `output` or `model.pt2|onnx|pt` in the run, and return facts on it.

    `model` and `which` are those of `load_predictor`. The file is checked against `predict` on 16 rows of noise with
    the training data's mean and deviation, and is not written where a difference is above `TOLERANCE`. Raises
    `UserError` in one line for that, for a format whose packages are missing, and for models that it cannot hold.
    """
    if format not in get_args(Format):
        raise unknown_name("format", str(format), get_args(Format))
    path = Path(run) / f"model{ENDINGS[format]}" if output is None else Path(output)
    if path.exists():
        raise SettingError("output", str(path), "exists already", "choose another name")
    if not path.parent.is_dir() and output is not None:
        raise SettingError("output", str(path), f"there is no folder {path.parent}", "make it first")
    _require_packages(format)
    predictor = load_predictor(run, model=model, which=which)
    _statistics(predictor)
    rows = _rows(predictor)
    deployed = Deployed(predictor, rows).eval()
    facts = _facts(predictor, rows)
    try:
        with torch.no_grad(), _quiet():
            content, run_file = _WRITERS[format](deployed, rows, json.dumps(facts))
            found = [run_file(part) for part in (rows, rows[:1])]
    except UserError:
        raise
    except Exception as error:  # whatever a tracer finds in a user's module
        others = " or ".join(name for name in get_args(Format) if name != format)
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ModelError(f"{setting('format', format)}: cannot hold this model ({reason}); try {others}") from None
    difference = max(_difference(predictor, part, own) for part, own in zip((rows, rows[:1]), found, strict=True))
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{setting('format', format)}: the file differs from predict by {difference:.1g}, more than {TOLERANCE:g}; "
            f"nothing was written: train with {setting('dtype', 'float64')}, or choose another format"
        )
    replace_file(path, content, f"make room, or choose another {setting('output')}")
    return Exported(path, format, difference, facts)


def _rows(predictor: Predictor) -> Tensor:
    """Return raw inputs in the type that the file takes: int64 for tokens, float64 for a table, else the model's."""
    shape, generator = (_ROWS, *predictor.in_shape), make_generator(0, "export")
    if predictor.embedded:
        tables = [module for module in predictor.network.modules() if isinstance(module, nn.Embedding)]
        high = min((module.num_embeddings for module in tables), default=1)
        return torch.randint(0, high, shape, generator=generator)
    dtype = next((p.dtype for p in predictor.network.parameters() if p.is_floating_point()), torch.float32)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    by = _statistics(predictor)
    if by is not None:
        view = (-1, *[1] * (len(predictor.in_shape) - 1))
        mean, std = (torch.tensor(part, dtype=torch.float64, device="cpu").view(view) for part in (by.mean, by.std))
        noise = noise * std + mean
    return noise.to(torch.float64 if predictor.encoding is not None else dtype)


def _statistics(predictor: Predictor) -> Normalization | None:
    """Return how the one input of the predictor is standardised; raises `ModelError` where it has several."""
    if isinstance(predictor.in_shape, dict) or isinstance(predictor.normalization, dict):
        raise ModelError("export: the model has several inputs, a file takes one; use load_predictor(run) in Python")
    return predictor.normalization


def _facts(predictor: Predictor, rows: Tensor) -> dict[str, Any]:
    return {
        "task": predictor.task,
        "in_shape": list(predictor.in_shape),
        "in_dtype": str(rows.dtype).removeprefix("torch."),
        "output": "probabilities" if predictor.task == "classification" else "targets",
        "class_names": list(predictor.class_names),
        "features": [] if predictor.encoding is None else list(predictor.encoding.features),
        "encoding": None if predictor.encoding is None else predictor.encoding.document(),
    }


def _difference(predictor: Predictor, rows: Tensor, found: NDArray[Any]) -> float:
    if predictor.task == "classification":
        return float(np.abs(found - predictor.predict_proba(rows).numpy()).max())
    by = predictor.target_normalization
    std = np.array(1.0 if by is None else by.std)
    expected = predictor.predict(rows).reshape(len(rows), -1).double().numpy()
    scale = std if by is not None else np.maximum(1.0, np.abs(expected))
    return float((np.abs(found - expected) / scale).max())


def _torch(model: nn.Module, rows: Tensor, facts: str) -> tuple[bytes, Run]:
    batch = torch.export.Dim("n", min=1)
    program = torch.export.export(model, (rows,), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={FACTS: facts})
    loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), lambda part: loaded(part).numpy()


def _torchscript(model: nn.Module, rows: Tensor, facts: str) -> tuple[bytes, Run]:
    traced = torch.jit.trace(model, rows)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files={FACTS: facts})
    loaded = torch.jit.load(io.BytesIO(buffer.getvalue()))
    return buffer.getvalue(), lambda part: loaded(part).numpy()


def _onnx(model: nn.Module, rows: Tensor, facts: str) -> tuple[bytes, Run]:
    batch = torch.export.Dim("n", min=1)
    program = torch.onnx.export(
        *(model, (rows,)),
        input_names=["inputs"],
        output_names=["outputs"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = FACTS, facts
    content: bytes = proto.SerializeToString()
    return content, _onnx_runner(content)


def _onnx_runner(content: bytes) -> Run:
    """Return the file run by onnxruntime where there is one, else by onnx's own interpreter."""
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda part: np.asarray(session.run(None, {"inputs": part.numpy()})[0])
    import onnx
    from onnx.reference import ReferenceEvaluator

    interpreter = ReferenceEvaluator(onnx.load_from_string(content))
    return lambda part: np.asarray(interpreter.run(None, {"inputs": part.numpy()})[0])


def _require_packages(format: Format) -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if format == "onnx" and missing:
        raise SettingError("format", format, f"needs {' and '.join(missing)}", "pip install 'subsetopt[onnx]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' own chatter off the terminal: what matters of it ends in an error of ours."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


_WRITERS: dict[str, Callable[[nn.Module, Tensor, str], tuple[bytes, Run]]] = {
    "torch": _torch,
    "onnx": _onnx,
    "torchscript": _torchscript,
}
