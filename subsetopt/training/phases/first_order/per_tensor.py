"""A torch optimizer of a model's parameters in their shapes, as the optimizer of the one flat parameter.

SOAP, Shampoo and Muon precondition matrices, and many others scale by tensor, so they are given views of the vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from subsetopt.errors import SettingError
from subsetopt.models.foreign import one_line
from subsetopt.training.phases.first_order.plain_state import decode, encode, fitted, frozen

Build = Callable[[list[Tensor], float], torch.optim.Optimizer]


class PerTensorOptimizer(torch.optim.Optimizer):
    """Steps what `build` makes of the `views` of `w` (P,), with `weight_decay` times w added to the gradient.

    `param_groups[0]["lr"]` may change between steps; it is the rate of all groups of the optimizer inside.
    """

    def __init__(
        self,
        build: Build,
        views: Callable[[Tensor], list[Tensor]],
        w: Tensor,
        lr: float,
        weight_decay: float,
        name: str,
    ) -> None:
        super().__init__([w], {"lr": lr})
        self._w, self._views, self._decay, self._name = w, views, weight_decay, name
        self._shown = views(w.detach())
        self._parameters = [view.detach().requires_grad_() for view in self._shown]
        self._inner = build(self._parameters, lr)
        self._made = [frozen(group) for group in self._inner.param_groups]
        self._begun = False
        inner = cast(Any, self._inner)
        self._switches = all(callable(getattr(inner, name, None)) for name in ("train", "eval"))
        if self._switches:
            inner.train()

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # torch's may return the closure's loss
        """Take one step along the gradient in `w.grad`; raises `SettingError` where the optimizer inside fails."""
        assert self._w.grad is not None, "a gradient is computed before every step"
        gradient = self._w.grad
        if self._decay:
            gradient = gradient.add(self._w.detach(), alpha=self._decay)
        for parameter, part in zip(self._parameters, self._views(gradient), strict=True):
            parameter.grad = part
        for group in self._inner.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        try:
            self._inner.step()
        except Exception as error:  # whatever their code does
            raise SettingError(
                "optimizer", self._name, f"failed in a step: {one_line(error)}", "use another optimizer or arguments"
            ) from error
        self._begun = True
        self._collect()

    def evaluated(self) -> Tensor:
        """Return the parameters to evaluate at `(P,)`: w, or the averages of an optimizer that has `train` and `eval`.

        w itself keeps its bits: going there and back would round them.
        """
        if not self._switches:
            return self._w.detach()
        kept, inner = self._w.detach().clone(), cast(Any, self._inner)
        inner.eval()
        self._collect()
        averaged = self._w.detach().clone()
        inner.train()
        self._collect()
        self._w.detach().copy_(kept)
        return averaged

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch does for the one parameter: that of the optimizer inside, in plain mappings."""
        inner = self._inner.state_dict()
        for group, made in zip(inner.get("param_groups", ()), self._made, strict=False):
            for key in [key for key in group if key in made and group[key] is made[key]]:
                del group[key]  # as its settings say
        return {**super().state_dict(), "state": {0: {"inner": encode(inner)}} if self._begun else {}}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        entries = state_dict["state"].get(0)
        if not entries:
            return
        saved = decode(entries["inner"])
        for group, made in zip(saved.get("param_groups", ()), self._made, strict=False):
            group.update({key: value for key, value in made.items() if key not in group})
        self._inner.load_state_dict(saved)
        # torch casts all state to the dtype of its parameter, counts and half-precision moments too.
        keys = [parameter for group in self._inner.param_groups for parameter in group["params"]]
        for index, entry in saved.get("state", {}).items():
            if isinstance(index, int) and index < len(keys) and isinstance(entry, Mapping):
                self._inner.state[keys[index]] = fitted(self._inner.state[keys[index]], entry)
        self._begun = True

    def _collect(self) -> None:
        """Bring back into w what was put elsewhere: some optimizers replace `parameter.data`."""
        for shown, parameter in zip(self._shown, self._parameters, strict=True):
            if parameter.data_ptr() != shown.data_ptr():
                shown.copy_(parameter.detach())
                parameter.data = shown
