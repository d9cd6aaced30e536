"""Build a model by its name, reproducibly, and check that it fits the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from subsetopt.ambient import ordinary_torch
from subsetopt.errors import ModelError, UserError
from subsetopt.inputs import Inputs, Parts, called, describe
from subsetopt.models.arguments import convert_settings, open_ended, supplied_arguments
from subsetopt.models.embedded import behind_embeddings
from subsetopt.models.foreign import (
    current_directory_importable,
    file_name_error,
    is_file_name,
    load_factory,
    one_line,
    own_module_error,
)
from subsetopt.models.kept import KeptAttributes
from subsetopt.registry import Registry
from subsetopt.seeding import derive_seed, seeded_globals

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "subsetopt.models")


def build_model(
    name: str,
    *,
    in_shape: tuple[int, ...] | dict[str, tuple[int, ...]],
    n_outputs: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    embedded: Sequence[tuple[int, int]] = (),
    input_name: str | None = None,
    **settings: Any,
) -> nn.Module:
    """Return the model `name` (or what `package.module:factory` returns), initialised from `seed`, cast to `dtype`.

    `in_shape` excludes the sample axis. Parameters are drawn from the stream "init" in single precision, so a seed
    means the same weights whatever `dtype` and the ambient default; torch's global generator stays untouched. A model
    with complex parameters keeps its own dtypes. Columns of `embedded`, (place, number of codes) each, hold codes of
    words, of which the model gets learnt vectors. `input_name` is that of an only input that came in a dict. Raises
    `SettingError` for an unknown name or setting and a bad value, and `ModelError` for a model that does not fit
    `in_shape` or a factory that yields no trainable module.
    """
    in_shape = dict(in_shape) if isinstance(in_shape, dict) else tuple(in_shape)
    _require_takes(name, in_shape)
    with current_directory_importable():
        factory = load_factory(name, seed) if ":" in name else _ours(name)
        arguments = convert_settings(name, factory, settings)
        facts = {"in_shape": in_shape, "n_outputs": n_outputs}
        with ordinary_torch(), seeded_globals(seed, "init"):

            def made(shape: Any) -> nn.Module:
                own = {**facts, "in_shape": shape}
                given = {**arguments, **supplied_arguments(factory, **own)}
                if open_ended(factory):
                    return _call_open_ended(name, factory, given, own, seed)
                return _call(name, factory, given)

            model = behind_embeddings(made, in_shape, embedded) if embedded else made(in_shape)
            initialise_lazy(model, in_shape, input_name=input_name)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"model {name!r} has no trainable parameters; unfreeze some")
    if any(parameter.is_complex() for parameter in model.parameters()):
        return model
    return model.to(dtype)


def _ours(name: str) -> Callable[..., nn.Module]:
    """Return the factory of this name; raises `SettingError` for others, with how a model of the user's is written."""
    if name not in MODELS:
        if is_file_name(name):
            raise file_name_error(name)
        if error := own_module_error(name):
            raise error
    return MODELS.get(name)


def check_output_shape(model: nn.Module, inputs: Inputs, n_outputs: int | None) -> int:
    """Run some `inputs`, as the model gets them, through `model`; modes, buffers and generators stay as they were.

    Returns the numbers that it gives for a sample. Floating inputs are given in the dtype of its first parameter: a run
    in another precision converts a copy of it. Raises `ModelError` unless the output is a finite floating tensor of
    shape (n, n_outputs), or with `n_outputs` None one with a row for each sample.
    """
    if any(parameter.is_meta or is_lazy(parameter) for parameter in model.parameters()):
        return n_outputs or 1  # it has no values to compute with, as will be said of it
    n = len(inputs)
    outputs = _evaluate(model, _fitting(model, inputs))
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        kind = str(outputs.dtype) if isinstance(outputs, Tensor) else type(outputs).__name__
        own = "" if isinstance(outputs, Tensor) else "; in Python a loss(model, batch) may take it apart"
        raise ModelError(f"model returned {kind} instead of a floating tensor; return the outputs (logits) alone{own}")
    if n_outputs is None:
        if outputs.ndim == 0 or len(outputs) != n or outputs.numel() == 0:
            raise ModelError(f"model returned {tuple(outputs.shape)} for {n} samples; return a row for each sample")
    elif tuple(outputs.shape) != (n, n_outputs):
        raise ModelError(
            f"model returned {tuple(outputs.shape)} for {n} samples but the data set has {n_outputs} outputs; it must "
            f"return ({n}, {n_outputs}): {_shape_remedy(outputs, n, n_outputs)}"
        )
    bad = ~torch.isfinite(outputs).reshape(n, -1).all(1)
    if bool(bad.any()):
        raise ModelError(
            f"model returned NaN or infinity for {int(bad.sum())} of the first {n} training samples, first for row "
            f"{int(bad.nonzero()[0])}; look for log, sqrt or a division that the inputs do not allow, or at its weights"
        )
    return outputs[0].numel()


def _fitting(model: nn.Module, inputs: Inputs) -> Inputs:
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.zeros(()))
    if isinstance(inputs, Tensor) and not inputs.is_floating_point():
        return inputs.to(like.device)
    return inputs.to(like.device, like.dtype)


def _require_takes(name: str, in_shape: tuple[int, ...] | dict[str, tuple[int, ...]]) -> None:
    """Raise `ModelError` for a model of ours, all of which take one tensor, on data with several inputs."""
    if isinstance(in_shape, dict) and ":" not in name:
        raise ModelError(
            f"model {name!r} takes one input, the data have several ({', '.join(in_shape)}); give a torch.nn.Module or "
            "package.module:factory whose forward takes them"
        )


def _shape_remedy(outputs: Tensor, n: int, n_outputs: int) -> str:
    if len(outputs) == n and outputs.numel() == n * n_outputs:
        if outputs.ndim == 1:
            return "leave its squeeze or flatten at the end out, or unsqueeze(1) its outputs"
        return "flatten(1) its outputs"
    if n_outputs == 2 and outputs.numel() == n:
        return (
            "give each class an output of its own; one output for two classes is for Python: "
            "SubsetTrainer(..., loss=nn.BCEWithLogitsLoss()) with the targets y.float().unsqueeze(1)"
        )
    return f"let its factory take n_outputs, or set its width (often num_classes={n_outputs})"


def _call_open_ended(
    name: str, factory: Callable[..., nn.Module], arguments: Mapping[str, Any], facts: Mapping[str, Any], seed: int
) -> nn.Module:
    """Offer `facts` to a factory with **kwargs, which passes on what it gets, and leave out what it complains of."""
    offered, first = dict(facts), None
    while True:
        torch.manual_seed(derive_seed(seed, "init"))
        try:
            return _call(name, factory, {**offered, **arguments})
        except ModelError as error:
            refused = [fact for fact in offered if fact in str(error.__cause__)]
            if not refused:
                raise error if first is None or isinstance(first.__cause__, TypeError) else first from error.__cause__
            first = first or error
            for fact in refused:
                del offered[fact]


def _call(name: str, factory: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        model = factory(**arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"model {name!r} cannot be built: {one_line(error)}; mend the factory or --model-arg"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name!r} returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


def initialise_lazy(
    model: nn.Module,
    in_shape: tuple[int, ...] | dict[str, tuple[int, ...]],
    sample: Inputs | None = None,
    input_name: str | None = None,
) -> None:
    """Give lazy parameters their shapes, so that they can be counted and flattened; floats first, then integers.

    Several inputs need a `sample` of them; without one a lazy model is left as it is. A model that takes its only
    input by its `input_name`, or in a dict, is given it so.
    """
    if not any(is_lazy(parameter) for parameter in model.parameters()):
        return
    if isinstance(in_shape, dict):
        if sample is not None:
            _evaluate(model, _fitting(model, sample))
        return
    for kind in (torch.float32, torch.int64):
        zeros = torch.zeros(2, *in_shape, dtype=kind)
        try:
            _evaluate(model, zeros if input_name is None else Parts([zeros], [input_name]))
            return
        except ModelError:
            if kind is torch.int64 or not any(is_lazy(parameter) for parameter in model.parameters()):
                raise


def _evaluate(model: nn.Module, inputs: Inputs) -> Any:
    """Return the model's outputs in eval mode for a copy of `inputs`; modules get mode and plain attributes back."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not is_lazy(buffer)}
    kept = KeptAttributes(model)
    try:
        with ordinary_torch(), seeded_globals(0, "check"):
            try:
                with torch.no_grad():
                    return called(model.eval(), inputs.clone())
            except RuntimeError:  # it may call autograd itself
                return _detached(called(model, inputs.clone()))
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"model fails on inputs of {describe(inputs)} in eval mode: {one_line(error)}") from error
    finally:
        for module, training in modes.items():
            module.training = training
        kept.put_back()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])


def _detached(outputs: Any) -> Any:
    return outputs.detach() if isinstance(outputs, Tensor) else outputs
