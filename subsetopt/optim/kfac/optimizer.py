"""`KFAC(model)` with `step()` after `backward()`: EKFAC steps on mini-batches, from hooks on the model's layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from subsetopt.distributed import Ranks, initialised
from subsetopt.errors import UserError
from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.optim.kfac.blocks import Block
from subsetopt.optim.kfac.estimator import Estimator
from subsetopt.optim.kfac.settings import check_gradients, check_group, check_parameters
from subsetopt.optim.kfac.update import Update

DIRECTIONS = 1.8  # kept per sample of a batch, which sets the damping (see `kfac-stream`)
NOT_FINITE = "subsetopt.optim.KFAC: a gradient is not finite; its step is left out. Said once."


class KFAC(Optimizer):
    """EKFAC on the mini-batches of a loop of your own: `loss.backward()`, then `step()`, as with Adam.

    `params` is the model itself, or what any torch optimizer takes. A step divides the gradient by the damped Gauss-
    Newton matrix, F + damping I, of which each linear layer and convolution (also transposed) has a block in Kronecker
    form, as have both projections of self-attention and parameters of a module that its forward pass gives to F.linear,
    and each norm layer and embedding a diagonal. Estimates of F come from one more backward pass through the graph of
    every `update_every`-th batch (more often at first), by random noise at the outputs, and keep `memory` of what was
    known. Parameters without factors (LSTM, attention between two inputs, weights tied between modules, ...) take Adam
    steps of rate `fallback_lr`, times what schedulers have made of `lr`; the first step names them in a warning.

    The step is `lr` times the momentum of (F + damping I)^-1 g, shortened where it would change the outputs by more
    than `trust` (nats; for squared loss in mean squared residuals). `damping=None` keeps as many directions as a batch
    can tell from noise; a number is added to the eigenvalues as it is. `weight_decay` adds weight_decay * w to the
    gradient. `loss` is "cross_entropy", "binary_cross_entropy" or "mse": the Hessian of the loss in the outputs; None
    tells it from the first gradient that comes back, and takes any other loss for a squared one. The loss must be a
    mean over the samples of a batch.

    Groups may have their own `lr`, `weight_decay`, `momentum`, `maximize` and `fallback_lr`; the other settings are
    those of the first. On several ranks gradients are those of DistributedDataParallel, and estimates are taken over
    all ranks of `process_group` ("default", a group, or None for ranks that train models of their own). A step whose
    gradient is not finite is left out, with a warning. Raises
    `SettingError` (a `ValueError`) for values out of range and for parameters that are complex, sparse in their
    gradients, or of half precision; `UserError` under autocast or a `GradScaler`.
    """

    _step_supports_amp_scaling = True  # has GradScaler leave its mark on the optimizer, by which `step` can refuse it

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 0.05,
        *,
        momentum: float = 0.5,
        damping: float | None = None,
        trust: float = 0.07,
        weight_decay: float = 0.0,
        maximize: bool = False,
        loss: str | None = None,
        update_every: int = 10,
        memory: float = 0.8,
        fallback_lr: float = 1e-3,
        seed: int = 0,
        process_group: Any = "default",
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "damping": damping,
            "trust": trust,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "loss": loss,
            "update_every": update_every,
            "memory": memory,
            "fallback_lr": fallback_lr,
            "seed": seed,
        }
        check_group(defaults)
        self._process_group = process_group
        self._begin()
        super().__init__(params.named_parameters() if isinstance(params, nn.Module) else params, defaults)

    def _begin(self) -> None:
        """Set what is found again by itself: hooks, the spectrum, warnings."""
        self._estimator = Estimator()
        self._spectrum: tuple[int, KfacSpectrum] | None = None
        self._warned: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_process_group": self._process_group}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                if name != "differentiable":
                    group.setdefault(name, value)
            check_group(group)
        self._begin()
        self._listen()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; raises `SettingError` for what KFAC cannot train, and for settings out of range."""
        super().add_param_group(param_group)
        try:
            check_group(self.param_groups[-1])
            check_parameters(self.param_groups[-1]["params"])
        except UserError:
            self.param_groups.pop()
            raise
        self._listen()

    @property
    def steps(self) -> int:
        """Steps taken."""
        return max((int(state.get("step", 0)) for state in self.state.values()), default=0)

    @property
    def damping(self) -> float | None:
        """What is added to the eigenvalues of F at present; None before the first step."""
        given = self.param_groups[0]["damping"]
        return float(given) if given is not None else self._automatic_damping()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step along the gradients in the parameters; return what `closure` gives, where there is one."""
        self._refuse_scaled()
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        parameters = self._checked()
        if any(p.grad is not None for p in parameters):
            self._estimator.take_in(self.state, self.param_groups[0]["memory"], self._ranks())
            self._advance(parameters)
        self._listen()
        return returned

    def _checked(self) -> list[Tensor]:
        parameters = []
        for group in self.param_groups:
            check_group(group)
            check_gradients(group["params"])
            parameters += group["params"]
        return parameters

    def _listen(self) -> None:
        """Have the hooks stand where the next batch gives an estimate."""
        group = self.param_groups[0]
        trained = {id(p) for each in self.param_groups for p in each["params"] if p.requires_grad}
        estimator = self._estimator
        estimator.loss, estimator.seed = group["loss"], group["seed"]
        estimator.listen(trained, self.steps, self._due(), self._ranks)

    def _due(self) -> bool:
        """Whether the next batch gives an estimate: at first often, as F changes most then."""
        steps, last = self.steps, [int(state["estimated"]) for state in self.state.values() if "estimated" in state]
        return not last or steps - max(last) >= min(self.param_groups[0]["update_every"], 1 + steps // 3)

    def _advance(self, parameters: list[Tensor]) -> None:
        damping = self.damping
        update = Update(self.param_groups, self.state, self._estimator.biases(self.state))
        if not update.step(damping):
            self._warn(NOT_FINITE)
        elif update.fallback:
            names = self._names()
            listed = ", ".join(sorted({names.get(id(p), "?") for p in update.fallback}))
            self._warn(
                f"subsetopt.optim.KFAC: no factors for {listed}; they take Adam steps of fallback_lr = "
                f"{self.param_groups[0]['fallback_lr']:g}. Said once."
            )

    def _names(self) -> dict[int, str]:
        """Return the names of parameters: as they were given, else by the modules that own them."""
        names = self._estimator.names()
        for group in self.param_groups:
            names |= {id(p): name for p, name in zip(group["params"], group.get("param_names", ()), strict=False)}
        return names

    def _warn(self, text: str) -> None:
        kind = text[:40]
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(text, stacklevel=5)

    def _ranks(self) -> Ranks:
        if self._process_group is None:
            return Ranks()
        return initialised(None if self._process_group == "default" else self._process_group)

    def _refuse_scaled(self) -> None:
        marks = [self.__dict__.pop(name, None) is not None for name in ("grad_scale", "found_inf")]
        if any(marks):
            raise UserError("GradScaler: KFAC's factors do not fit scaled gradients; train without it, in float32")

    def _automatic_damping(self) -> float | None:
        states = [state for state in self.state.values() if "estimated" in state]
        if not states:
            return None
        updates = sum(int(state["updates"]) for state in states)
        if self._spectrum is None or self._spectrum[0] != updates:
            parts = [Block(s).spectrum if "a.moment" in s else s["diagonal"].flatten() for s in states]
            self._spectrum = updates, KfacSpectrum.of(torch.cat(parts))
        return self._spectrum[1].damping(DIRECTIONS * max(int(state["rows"]) for state in states))
