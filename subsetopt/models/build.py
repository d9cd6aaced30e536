"""Build a model by its name, reproducibly, and check that it fits the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from subsetopt.errors import ModelError, UserError
from subsetopt.models.foreign import current_directory_importable, load_factory, one_line
from subsetopt.models.settings import convert_settings, supplied_arguments
from subsetopt.registry import Registry
from subsetopt.seeding import make_generator, seeded_globals

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "subsetopt.models")


def build_model(
    name: str,
    *,
    in_shape: tuple[int, ...],
    n_outputs: int,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> nn.Module:
    """Return the model `name` (or what `package.module:factory` returns), initialised from `seed`, cast to `dtype`.

    `in_shape` excludes the sample axis. Parameters are drawn from the stream "init" in single precision, so a seed
    means the same weights whatever `dtype` and the ambient default; torch's global generator stays untouched. A model
    with complex parameters keeps its own dtypes. Raises `SettingError` for an unknown name or setting and a bad value,
    and `ModelError` for a model that does not fit `in_shape` or a factory that yields no trainable module.
    """
    in_shape = tuple(in_shape)
    with current_directory_importable():
        factory = load_factory(name, seed) if ":" in name else MODELS.get(name)
        arguments = convert_settings(name, factory, settings)
        arguments |= supplied_arguments(factory, in_shape=in_shape, n_outputs=n_outputs)
        with seeded_globals(seed, "init"), _default_dtype(torch.float32):
            model = _call(name, factory, arguments)
            initialise_lazy(model, in_shape)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(f"model {name!r} has no trainable parameters; unfreeze some")
    if any(parameter.is_complex() for parameter in model.parameters()):
        return model
    return model.to(dtype)


def check_output_shape(
    model: nn.Module, in_shape: tuple[int, ...], n_outputs: int, tokens: Tensor | None = None
) -> None:
    """Run two made-up samples through `model` in eval mode; modes, buffers and generators are left as they were.

    The samples have the dtype of its first parameter: a run in another precision converts a copy of the model.
    A model that embeds integers is given two rows of `tokens` instead.

    Raises `ModelError` unless the output is a finite floating tensor of shape (2, n_outputs).
    """
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.zeros(()))
    inputs = torch.randn(2, *in_shape, generator=make_generator(0, "check"), dtype=like.dtype).to(like.device)
    if tokens is not None:
        inputs = tokens[:1].expand(2, *in_shape).long().to(like.device)
    outputs = _evaluate(model, inputs)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        kind = str(outputs.dtype) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ModelError(f"model returned {kind} instead of a floating tensor; return the outputs (logits) alone")
    if tuple(outputs.shape) != (2, n_outputs):
        raise ModelError(
            f"model returned {tuple(outputs.shape)} for 2 samples but the data set has {n_outputs} outputs; it must "
            f"return (2, {n_outputs}): let the factory take n_outputs"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise ModelError("model returned NaN or infinity for standard normal inputs; check its initialisation")


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


def initialise_lazy(model: nn.Module, in_shape: tuple[int, ...]) -> None:
    """Give lazy parameters their shapes, so that they can be counted and flattened; floats first, then integers."""
    if not any(is_lazy(parameter) for parameter in model.parameters()):
        return
    try:
        _evaluate(model, torch.zeros(2, *in_shape))
    except ModelError:
        if not any(is_lazy(parameter) for parameter in model.parameters()):
            raise
        _evaluate(model, torch.zeros(2, *in_shape, dtype=torch.int64))


def _evaluate(model: nn.Module, inputs: Tensor) -> Any:
    """Return the model's outputs in eval mode; every module gets its own mode back."""
    modes = {module: module.training for module in model.modules()}
    try:
        with seeded_globals(0, "check"), torch.no_grad():
            return model.eval()(inputs)
    except (Exception, SystemExit) as error:
        shape = tuple(inputs.shape)
        raise ModelError(
            f"model fails on inputs of shape {shape}: {one_line(error)}; check in_shape = {shape[1:]}"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    ambient = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(ambient)
