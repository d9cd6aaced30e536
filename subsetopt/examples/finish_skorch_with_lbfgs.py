"""Finish a skorch net with L-BFGS on all of its data: one callback (needs the extra `skorch`)."""

from __future__ import annotations

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn

from subsetopt.adapters.skorch import FinishWithLBFGS


def main() -> None:
    """Classify tumours: five epochs of Adam by skorch, then L-BFGS until the gradient is small."""
    torch.manual_seed(0)
    x, y = load_breast_cancer(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
    scaler = StandardScaler().fit(x_train)
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 2)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        max_epochs=5,
        train_split=None,
        verbose=0,
        callbacks=[("finish", FinishWithLBFGS(300, 1e-4, {"weight_decay": 1e-2}))],
    )
    net.fit(scaler.transform(x_train).astype("float32"), y_train)
    summary = dict(net.callbacks_)["finish"].summary_
    print(f"loss after Adam:   {summary['first_loss']:.3e}")
    print(f"loss after L-BFGS: {summary['loss']:.3e}, stop reason: {summary['stop_reason']}")
    print(f"test accuracy: {net.score(scaler.transform(x_test).astype('float32'), y_test):.3f}")


if __name__ == "__main__":
    main()
