"""The step of `KFAC`: momentum of the preconditioned gradient, within a bound on the change of the outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from subsetopt.objective.host import host_read
from subsetopt.optim.kfac.blocks import Block, State
from subsetopt.solvers.inner_products import dot

UNSEEN = 16.0  # times s'Fs by which a step really changes the outputs (see `kfac_stream/output_change.py`)
BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam, for parameters without factors


class Update:
    """One step on the gradients as they are; `biases` gives the bias that belongs to the block of each weight.

    `fallback` are the parameters that have neither factors nor a diagonal.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        states: MutableMapping[Tensor, State],
        biases: Mapping[Tensor, Tensor | None],
    ) -> None:
        self._states, self._first = states, groups[0]
        self._group = {p: group for group in groups for p in group["params"] if p.grad is not None}
        self._blocks = [(w, Block(states[w]), _live(b, self._group)) for w, b in biases.items() if w in self._group]
        covered = {id(p) for weight, _, bias in self._blocks for p in (weight, bias)}
        left = [p for p in self._group if id(p) not in covered]
        self._diagonal = [p for p in left if "diagonal" in states[p] and states[p]["diagonal"].shape == p.shape]
        diagonal = {id(p) for p in self._diagonal}
        self.fallback = [p for p in left if id(p) not in diagonal]

    def step(self, damping: float | None) -> bool:
        """Change parameters and their states; return False, with all as it was, for gradients that are not finite."""
        gradients = {p: self._gradient(p) for p in self._group}
        velocities = self._velocities(self._solved(gradients, damping)) if damping is not None else {}
        steps = {p: velocity * self._group[p]["lr"] for p, velocity in velocities.items()}
        figures = [self._curvature(steps), *(gradients[p].sum().double() for p in self.fallback)]
        curvature, *others = host_read(torch.stack([figure.to(figures[0].device) for figure in figures]))
        if not all(map(math.isfinite, (curvature, *others))):
            return False
        length = self._length(curvature)
        for p, step in steps.items():
            self._states[p]["momentum_buffer"] = velocities[p]
            p.sub_(step, alpha=length)
        for p in self.fallback:
            self._adam(p, gradients[p])
        for p in self._group:
            self._states[p]["step"] = int(self._states[p].get("step", 0)) + 1
        return True

    def _gradient(self, p: Tensor) -> Tensor:
        group = self._group[p]
        assert p.grad is not None, "parameters without a gradient were left out"
        gradient = -p.grad if group["maximize"] else p.grad
        return gradient.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else gradient

    def _solved(self, gradients: Mapping[Tensor, Tensor], damping: float) -> dict[Tensor, Tensor]:
        """Return (F + damping I)^-1 g, tensor by tensor."""
        solved = {p: gradients[p] / (self._states[p]["diagonal"] + damping) for p in self._diagonal}
        for weight, block, bias in self._blocks:
            own = gradients[weight], None if bias is None else gradients[bias]
            solved[weight], of_bias = block.spectral(*own, lambda spectrum: 1.0 / (spectrum + damping))
            if bias is not None and of_bias is not None:
                solved[bias] = of_bias
        return solved

    def _velocities(self, solved: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        velocities = {}
        for p, direction in solved.items():
            before = self._states[p].get("momentum_buffer")
            momentum = self._group[p]["momentum"]
            velocities[p] = direction if before is None else direction.add(before, alpha=momentum)
        return velocities

    def _curvature(self, steps: Mapping[Tensor, Tensor]) -> Tensor:
        """Return s'Fs."""
        parts = [(self._states[p]["diagonal"] * steps[p].square()).sum().double() for p in self._diagonal if p in steps]
        for weight, block, bias in self._blocks if steps else ():
            own = steps[weight], None if bias is None else steps[bias]
            products = block.spectral(*own, lambda spectrum: spectrum)
            pairs = [(s, f) for s, f in zip(own, products, strict=True) if s is not None and f is not None]
            parts += [dot(s.flatten(), f.flatten()) for s, f in pairs]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64, device="cpu")

    def _length(self, curvature: float) -> float:
        """Return by what the step is multiplied: less than 1 where it would change the outputs by more than `trust`."""
        scales = [float(state["scale"]) for state in self._states.values() if "scale" in state]
        allowed = self._first["trust"] * max(scales, default=1.0)
        foreseen = UNSEEN * curvature
        return min(1.0, math.sqrt(allowed / foreseen)) if foreseen > 0 else 1.0

    def _adam(self, p: Tensor, gradient: Tensor) -> None:
        """Take a step of Adam (Kingma and Ba 2015), whose rate follows the schedule of `lr`."""
        state, group = self._states[p], self._group[p]
        count = int(state.get("fallback_steps", 0)) + 1
        mean, square = (state.get(name, torch.zeros_like(p)) for name in ("exp_avg", "exp_avg_sq"))
        mean = torch.lerp(mean, gradient, 1 - BETAS[0])
        square = torch.lerp(square, gradient.square(), 1 - BETAS[1])
        state.update(exp_avg=mean, exp_avg_sq=square, fallback_steps=count)
        first = float(group.get("initial_lr", group["lr"]))
        rate = group["fallback_lr"] * (float(group["lr"]) / first if first else 0.0)
        root = (square / (1 - BETAS[1] ** count)).sqrt().add_(EPS)
        p.sub_(mean / (1 - BETAS[0] ** count) / root, alpha=rate)


def _live(bias: Tensor | None, group: Mapping[Tensor, Any]) -> Tensor | None:
    return bias if bias is not None and bias in group else None
