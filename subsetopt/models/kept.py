"""What modules keep between two calls in plain attributes: neither parameters nor buffers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_INTERNAL = {*vars(nn.Module()), "_flat_weights", "_flat_weight_refs", "_all_weights", "_compiled_call_impl"}
_DEPTH = 4


class KeptAttributes:
    """The plain attributes of a model's own modules as they were at one moment, containers by their contents.

    Modules of torch are left out: what they keep they know how to renew. Holds no copy of any tensor.
    """

    def __init__(self, model: nn.Module) -> None:
        """Take note of them."""
        own = [(name, m) for name, m in model.named_modules() if not type(m).__module__.startswith("torch.")]
        self._modules = dict(own)
        self._members = {name: _members(m) for name, m in own}
        self._values = {name: {key: _copy(value) for key, value in _plain(m).items()} for name, m in own}

    def changed(self) -> list[str]:
        """Return the dotted names of attributes that are new, or another object or value, since then."""
        return [
            f"{place}.{key}" if place else key
            for place, module in self._modules.items()
            for key, value in _plain(module).items()
            if key not in self._values[place] or not _same(value, self._values[place][key])
        ]

    def put_back(self) -> None:
        """Give the modules the attributes that they had then, but not one that has made parts of itself since."""
        for place, module in self._modules.items():
            if _members(module) != self._members[place]:
                continue
            own: dict[str, Any] = module.__dict__
            for key in [key for key in _plain(module) if key not in self._values[place]]:
                del own[key]
            own.update({key: _copy(value) for key, value in self._values[place].items()})

    def tensors(self, name: str) -> list[Tensor]:
        """Return the floating tensors in the attribute `name`, as `changed` calls it."""
        place, _, key = name.rpartition(".")
        return [each for each in _tensors_in(_plain(self._modules[place]).get(key)) if each.is_floating_point()]


def derived_attributes(model: nn.Module) -> list[str]:
    """Return the dotted names of plain attributes that hold what was computed from parameters, with its graph."""
    return [
        f"{name}.{key}" if name else key
        for name, module in model.named_modules()
        if not type(module).__module__.startswith("torch.")
        for key, value in _plain(module).items()
        if any(tensor.grad_fn is not None for tensor in _tensors_in(value))
    ]


def _members(module: nn.Module) -> list[str]:
    return [*module._parameters, *module._buffers, *module._modules]


def _tensors_in(value: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and type(value) in (dict, list, tuple):
        for item in value.values() if type(value) is dict else value:
            yield from _tensors_in(item, depth - 1)


def _plain(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key not in _INTERNAL}


def _copy(value: Any, depth: int = _DEPTH) -> Any:
    """Return plain containers anew, with the very objects that are in them."""
    if depth and type(value) is dict:
        return {key: _copy(item, depth - 1) for key, item in value.items()}
    if depth and type(value) in (list, tuple):
        return type(value)(_copy(item, depth - 1) for item in value)
    return set(value) if type(value) is set else value


def _same(now: Any, before: Any, depth: int = _DEPTH) -> bool:
    if now is before:
        return True
    if type(now) is not type(before):
        return False
    if depth and type(now) is dict:
        return now.keys() == before.keys() and all(_same(now[key], before[key], depth - 1) for key in now)
    if depth and type(now) in (list, tuple):
        return len(now) == len(before) and all(_same(*pair, depth - 1) for pair in zip(now, before, strict=True))
    return bool(isinstance(now, bool | int | float | str | bytes | set) and now == before)
