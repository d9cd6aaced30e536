"""Adapters in two gloo processes, each with its part of the rows, against the closed form of a linear regression."""

from __future__ import annotations

import importlib.util
import os
import socket
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt.seeding import make_generator, seeded_globals

RANKS = 2
PACKAGES = {"lightning": ["lightning"], "accelerate": ["accelerate"], "transformers": ["transformers", "accelerate"]}


def data() -> TensorDataset:
    """Return 21 rows, which no two processes have equal parts of."""
    x = torch.randn(21, 3, generator=make_generator(0, "x"))
    return TensorDataset(x, torch.sin(x.sum(1, keepdim=True)))


def start() -> nn.Linear:
    with seeded_globals(0, "init"):
        return nn.Linear(3, 1)


def solution() -> Tensor:
    """Return weights and bias of least squares."""
    x, y = (part.double() for part in data().tensors)
    return torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1), y).solution.flatten()


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def by_lightning(folder: Path) -> tuple[Tensor, int]:
    import lightning

    from subsetopt.adapters.lightning import FinishWithLBFGS

    class Module(lightning.LightningModule):  # type: ignore[misc]  # the base is known when Lightning is installed
        def __init__(self) -> None:
            super().__init__()
            self.net = start()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2)

    model, callback = Module(), FinishWithLBFGS(50, 1e-5)
    lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=RANKS,
        strategy="ddp",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        callbacks=[callback],
    ).fit(model, DataLoader(data(), batch_size=4, shuffle=True))
    assert callback.summary is not None
    return parameters(model), int(callback.summary["iterations"])


def by_accelerate(folder: Path) -> tuple[Tensor, int]:
    import accelerate

    from subsetopt.adapters.accelerate import accelerated_closure
    from subsetopt.optim import LBFGS

    accelerator = accelerate.Accelerator(cpu=True)
    assert accelerator.num_processes == RANKS
    model, loader = accelerator.prepare(start(), DataLoader(data(), batch_size=4, shuffle=True))
    closure = accelerated_closure(accelerator, model, nn.functional.mse_loss, loader)
    optimizer = LBFGS(accelerator.unwrap_model(model).parameters(), max_iter=50, tolerance_grad=1e-5)
    optimizer.step(closure)
    return parameters(model), int(optimizer.state_dict()["state"][0]["n_iter"])


def by_transformers(folder: Path) -> tuple[Tensor, int]:
    import transformers

    from subsetopt.adapters.transformers import FinishWithLBFGS

    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = start()

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            z = self.net(x)
            loss = None if labels is None else nn.functional.mse_loss(z, labels)
            return transformers.modeling_outputs.SequenceClassifierOutput(loss=loss, logits=z)

    model, callback = Regression(), FinishWithLBFGS(50, 1e-5)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=1, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    rows = [{"x": x, "labels": y} for x, y in zip(*data().tensors, strict=True)]
    transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    assert callback.summary is not None
    return parameters(model), int(callback.summary["iterations"])


TASKS: dict[str, Callable[[Path], tuple[Tensor, int]]] = {
    "lightning": by_lightning,
    "accelerate": by_accelerate,
    "transformers": by_transformers,
}


def installed(name: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES[name])


def work(rank: int, port: int, folder: str, results: Any) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test")  # as torchrun sets them
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, timeout=timedelta(seconds=120))
    for name in filter(installed, TASKS):
        results[name, rank] = TASKS[name](Path(folder) / name)
    dist.barrier()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Any]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with mp.Manager() as manager:
        shared = manager.dict()
        mp.spawn(work, (port, str(tmp_path_factory.mktemp("two")), shared), nprocs=RANKS)
        return dict(shared)


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_end_in_the_minimum_of_all_rows(name: str, results: dict[Any, Any]) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    (first, steps), (second, others) = results[name, 0], results[name, 1]
    assert torch.equal(first, second) and steps == others > 0
    torch.testing.assert_close(first, solution(), rtol=0, atol=2e-4)
