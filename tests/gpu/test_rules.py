"""What can be said of devices without one: where tensors and generators are made, and where the host reads.

Read from the source: a tensor that is made without a device is made on the CPU, and meets those of a GPU at run time
only, in whichever branch that is.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.samplers.draws import wide_dtype

PACKAGE = Path(__file__).parents[2] / "subsetopt"
COMPUTING = [
    *(PACKAGE / name for name in ("objective", "solvers", "samplers", "training", "distributed")),
    PACKAGE / "optim",
    PACKAGE / "data" / "batch_augmentation.py",
]
FACTORIES = {
    "arange",
    "as_tensor",
    "empty",
    "eye",
    "full",
    "linspace",
    "logspace",
    "normal",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "tensor",
    "zeros",
}


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


def files() -> list[Path]:
    return sorted(file for place in COMPUTING for file in (place.rglob("*.py") if place.is_dir() else [place]))


def of_torch(call: ast.Call, names: set[str]) -> bool:
    function = call.func
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "torch"
        and function.attr in names
    )


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_tensor_is_made_on_a_device_that_is_named(path: Path) -> None:
    """By `device=`, or by `generator=`, which lives on the CPU and draws there, the same for every device."""
    nowhere = [
        f"line {call.lineno}: {ast.unparse(call)}"
        for call in calls(path)
        if of_torch(call, FACTORIES) and not {"device", "generator"} & {word.arg for word in call.keywords}
    ]
    assert not nowhere


def test_generators_are_made_on_the_cpu_but_for_those_of_dropout() -> None:
    """Numbers drawn on a GPU are others than those drawn on a CPU."""
    elsewhere = [
        f"{path.name}:{call.lineno}"
        for path in files()
        for call in calls(path)
        if of_torch(call, {"Generator"}) and (call.args or call.keywords)
    ]
    assert not elsewhere
    named = [
        f"{path.name}"
        for path in files()
        for call in calls(path)
        if isinstance(call.func, ast.Name)
        and call.func.id == "make_generator"
        and len(call.args) + len(call.keywords) > 2
    ]
    assert named == ["random_streams.py"]


@pytest.mark.parametrize("folder", ["solvers"])
def test_solvers_read_by_host_read_alone(folder: str) -> None:
    """No .item(), .tolist() or .cpu() of a tensor; scipy's reference methods compute on the host, and
    a ring made of a checkpoint's pairs reads its products once, and short vectors in the host's memory are numpy's."""
    reading = {"item", "tolist", "cpu"}
    found = [
        f"{path.name}:{call.lineno}"
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        for call in calls(path)
        if isinstance(call.func, ast.Attribute) and call.func.attr in reading and not call.args
    ]
    assert {each.partition(":")[0] for each in found} <= {
        "scipy_reference.py",
        "curvature_pairs.py",
        "inner_products.py",
    }


def test_there_is_no_float64_on_mps() -> None:
    mps = torch.device("mps")
    assert accumulation_dtype(mps) == wide_dtype(mps) == torch.float32
    assert accumulation_dtype(torch.device("cuda")) == wide_dtype(torch.device("cuda")) == torch.float64
