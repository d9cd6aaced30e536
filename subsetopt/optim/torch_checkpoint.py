"""The curvature in a checkpoint of `torch.optim.LBFGS`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from subsetopt.errors import UserError
from subsetopt.optim.flat import FlatParameters
from subsetopt.solvers.curvature_pairs import CurvaturePairs

CURVATURE = ("d", "t", "old_dirs", "old_stps", "prev_flat_grad")

_REMEDY = "give one of subsetopt.optim.LBFGS or torch.optim.LBFGS"


def solver_entry(state_dict: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what `state_dict`, ours or torch's, holds for the first parameter, where all of the state is.

    Raises `UserError` for the state of an optimizer on another solver than `name`, or of several parameter groups.
    """
    entries, groups = state_dict.get("state"), state_dict.get("param_groups")
    if not isinstance(entries, Mapping) or not isinstance(groups, Sequence) or len(groups) != 1:
        raise UserError(f"state_dict: it is no state of one parameter group; {_REMEDY}")
    known: Mapping[str, Any] = entries.get(0, {})
    if set(entries) - {0} or (known and not {"n_iter", "func_evals"} <= set(known)):
        raise UserError(f"state_dict: it is another optimizer's; {_REMEDY}")
    if "solver" in state_dict:  # where version 0.1 had it
        numbers = state_dict["solver"]["numbers"] if state_dict["solver"] else {}
        counts = {"n_iter": numbers.get("iterations", 0), "func_evals": numbers.get("evaluations", 0)}
        return {**counts, "solver": state_dict["solver"]} if numbers else {}
    foreign = name != "lbfgs" and "n_iter" in known and "solver" not in known
    if foreign or known.get("solver", {}).get("name", name) != name:
        raise UserError(f"state_dict: it is not one of solver {name}; give one of the same optimizer")
    return known


def torch_pairs(
    saved: Mapping[str, Any], parameters: Sequence[Tensor], flat: FlatParameters, m: int, gradient: Tensor
) -> CurvaturePairs:
    """Return the newest m pairs of torch's state, oldest first, and the one that torch would make of `gradient` next.

    torch keeps y in `old_dirs` and s in `old_stps`, over all parameters, and learns a step t d only at the start of
    the next iteration, from the gradient there. Raises `UserError` where sizes do not fit `parameters`.
    """

    def here(vector: Tensor) -> Tensor:
        part = flat.selected(vector, parameters)
        if part is None:
            raise UserError(
                f"state_dict: it holds vectors of shape {tuple(vector.shape)}, which are not of these parameters; "
                "give the checkpoint of this model"
            )
        return part

    ys, ss = saved.get("old_dirs") or [], saved.get("old_stps") or []
    pairs = [(here(s), here(y)) for s, y in zip(ss, ys, strict=True)]
    if saved.get("d") is not None and saved.get("prev_flat_grad") is not None:
        step = torch.as_tensor(saved["t"], device=flat.device).to(flat.dtype)
        pairs.append((here(saved["d"]) * step, gradient - here(saved["prev_flat_grad"])))
    ring = CurvaturePairs.of(pairs, m, gradient)
    ring.meet(gradient)
    return ring
