"""`subsetopt.adapters.transformers` with a small model of transformers, where that is installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from subsetopt.errors import UserError
from subsetopt.seeding import make_generator, seeded_globals

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="the trainer of transformers needs accelerate")


def model(kind: str) -> Any:
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=16, n_embd=8, n_layer=1, n_head=2, num_labels=2, pad_token_id=0,
        resid_pdrop=0.1, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with seeded_globals(0, "init"):
        return getattr(transformers, kind)(config)


def rows(kind: str) -> list[dict[str, Any]]:
    tokens = torch.randint(3, 11, (20, 7), generator=make_generator(0, "tokens"))
    if "Sequence" in kind:
        return [{"input_ids": t, "labels": int(t[-1] > 6)} for t in tokens]
    labels = torch.where(tokens > 8, -100, tokens)
    return [{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)]


@pytest.mark.parametrize("kind", ["GPT2ForSequenceClassification", "GPT2LMHeadModel"])
def test_a_trainer_is_finished_on_all_rows(kind: str, tmp_path: Path) -> None:
    """Reference: the loss of all rows in one batch."""
    from subsetopt.adapters.transformers import FinishWithLBFGS

    network, callback = model(kind), FinishWithLBFGS(15, 1e-4)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=8, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    data = rows(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers.Trainer(network, arguments, train_dataset=data, callbacks=[callback]).train()
    whole = transformers.default_data_collator(data)
    with torch.no_grad():
        loss = float(network.eval()(**whole).loss)
        start = float(model(kind).eval()(**whole).loss)
    assert callback.summary is not None and loss < 0.9 * start
    assert loss == pytest.approx(callback.summary["loss"], rel=5e-2)


def test_half_precision_is_refused() -> None:
    from subsetopt.adapters.transformers import FinishWithLBFGS

    class Half:
        fp16, bf16 = False, True

    with pytest.raises(UserError, match="bf16 = True"):
        FinishWithLBFGS().on_train_end(Half(), None, None)
