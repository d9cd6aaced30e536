"""Finish a Hugging Face Trainer with L-BFGS on all of its data: one callback (needs the extra `transformers`)."""

from __future__ import annotations

import tempfile

import torch
from transformers import GPT2Config, GPT2ForSequenceClassification, Trainer, TrainingArguments

from subsetopt.adapters.transformers import FinishWithLBFGS


def main() -> None:
    """Fit the head of a small frozen transformer: an epoch of AdamW by the trainer, then L-BFGS."""
    torch.manual_seed(0)
    tokens = torch.randint(3, 11, (60, 7))
    rows = [{"input_ids": row, "labels": int(row[-1] > 6)} for row in tokens]
    model = GPT2ForSequenceClassification(
        GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=1, n_head=2, num_labels=2, pad_token_id=0)
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("score"))
    finish = FinishWithLBFGS(200, 1e-4, weight_decay=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=1, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
        )
        Trainer(model, arguments, train_dataset=rows, callbacks=[finish]).train()
    assert finish.summary is not None  # training came to its end
    print(f"loss after AdamW:  {finish.summary['first_loss']:.3e}")
    print(f"loss after L-BFGS: {finish.summary['loss']:.3e}, stop reason: {finish.summary['stop_reason']}")


if __name__ == "__main__":
    main()
