"""`subsetopt.adapters.lightning` in real Lightning runs, where Lightning is installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt.errors import UserError
from subsetopt.seeding import make_generator, seeded_globals

lightning = pytest.importorskip("lightning", reason="Lightning is not installed")


def data(n: int = 50) -> TensorDataset:
    x = torch.randn(n, 3, generator=make_generator(0, "x"))
    return TensorDataset(x, torch.sin(x.sum(1, keepdim=True)))


def module() -> Any:
    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]  # the base is known when it runs
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))
            self.steps = 0

        def training_step(self, batch: Any, index: int) -> dict[str, Tensor]:
            x, y = batch
            self.steps += self.training
            loss = nn.functional.mse_loss(self.net(x), y)
            self.log("loss", loss)
            return {"loss": loss}

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2)

    with seeded_globals(0, "init"):
        return Module()


def trainer(root: Path, callback: Any, epochs: int = 2, **settings: Any) -> Any:
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=root,
        callbacks=[callback],
        **settings,
    )


def loader() -> DataLoader[Any]:
    return DataLoader(data(), batch_size=8, shuffle=True, drop_last=True)


def mean_loss(model: Any) -> float:
    x, y = data().tensors
    model.eval()
    return float(nn.functional.mse_loss(model.net(x), y).detach())


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_adam_then_lbfgs_on_all_rows_to_the_gradient_test(tmp_path: Path) -> None:
    """Reference: the loss of all 50 rows at once, although the loader shuffles and drops the last two."""
    from subsetopt.adapters.lightning import FinishWithLBFGS

    model, callback = module(), FinishWithLBFGS(400, 1e-3)
    trainer(tmp_path, callback).fit(model, loader())
    summary = callback.summary
    assert summary is not None and summary["stop_reason"] == "gradient" and summary["gradient_norm"] <= 1e-3
    x, y = data().tensors
    model.eval()
    loss = nn.functional.mse_loss(model.net(x), y)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(summary["loss"], rel=1e-2)
    assert max(float(p.grad.abs().max()) for p in model.parameters()) <= 1.1e-3
    assert model.steps == 12, "Adam's two epochs of six batches"


def test_a_checkpoint_in_mid_solve_goes_on_exactly(tmp_path: Path) -> None:
    from subsetopt.adapters.lightning import FinishWithLBFGS

    whole = module()
    with seeded_globals(0, "fit"):
        trainer(tmp_path, FinishWithLBFGS(20, 0.0)).fit(whole, loader())
    half, file = module(), tmp_path / "finish.ckpt"
    callback = FinishWithLBFGS(20, 0.0, checkpoint=file, save_every=8)
    with seeded_globals(0, "fit"):
        run = trainer(tmp_path, callback)
        save = run.save_checkpoint

        def once(path: Any) -> None:
            save(path)
            raise KeyError("the machine goes down")

        run.save_checkpoint = once
        with pytest.raises(KeyError):
            run.fit(half, loader())
    torch.load(file, weights_only=True)["callbacks"]
    again = module()
    callback = FinishWithLBFGS(20, 0.0, checkpoint=file, save_every=8)
    trainer(tmp_path, callback).fit(again, loader(), ckpt_path=file)
    assert callback.summary is not None and callback.summary["iterations"] == 20
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_subset_minimum_before_the_modules_own_training(tmp_path: Path) -> None:
    from subsetopt.adapters.lightning import SubsetThenFinetune

    model, callback = module(), SubsetThenFinetune(0.5, 300, 1e-3)
    start = mean_loss(module())
    trainer(tmp_path, callback, epochs=1).fit(model, loader())
    summary = callback.summary
    assert summary is not None and summary["loss"] < 0.1 * start and model.steps == 6
    with pytest.raises(UserError, match=r"fraction = 1\.5"):
        SubsetThenFinetune(1.5)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    from subsetopt.adapters.lightning import FinishWithLBFGS

    with pytest.raises(UserError, match="precision"):
        trainer(tmp_path, FinishWithLBFGS(), 1, precision="bf16-mixed").fit(module(), loader())
    with pytest.raises(UserError, match="max_iterations = 0"):
        FinishWithLBFGS(0)
    with pytest.raises(UserError, match="lr = -1"):
        FinishWithLBFGS(lr=-1)


def test_a_module_that_takes_its_own_steps_is_refused_before_any(tmp_path: Path) -> None:
    """Each evaluation of the solve would have moved the parameters."""
    from subsetopt.adapters.lightning import FinishWithLBFGS, SubsetThenFinetune

    for callback in (FinishWithLBFGS(), SubsetThenFinetune(0.5)):
        manual = module()
        manual.automatic_optimization = False
        before = [p.clone() for p in manual.parameters()]
        with pytest.raises(UserError, match="automatic_optimization is False"):
            trainer(tmp_path, callback, 1).fit(manual, loader())
        assert all(torch.equal(p, old) for p, old in zip(manual.parameters(), before, strict=True))
