"""Small data sets in the published formats, made by the tests themselves."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subsetopt.errors import UserError

Message = Callable[..., str]


@pytest.fixture
def message() -> Message:
    """Return `message(call, *args, **kwargs)`: the one line of the `UserError` that the call raises."""

    def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        with pytest.raises(UserError) as caught:
            function(*args, **kwargs)
        text = str(caught.value)
        assert text and "\n" not in text
        return text

    return call


@pytest.fixture(autouse=True)
def no_data_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the user's own data directory out of the tests, except for `real_data_dir`, which is read before."""
    monkeypatch.delenv("SUBSETOPT_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def idx_bytes(array: np.ndarray) -> bytes:
    """Encode unsigned bytes as idx: 0, 0, 8, axes, big-endian lengths, data."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist_dir(tmp_path: Path) -> Path:
    """Lay out 20 + 6 images of 4x5 pixels in torchvision's layout; pixel = image number, label = number mod 10."""
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, n in (("train", 20), ("t10k", 6)):
        numbers = np.arange(n, dtype=np.uint8)
        images = np.broadcast_to(numbers[:, None, None], (n, 4, 5))
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(numbers % 10)))
    return tmp_path / "data"


def write_cifar(root: Path, kind: str, n: int = 3) -> None:
    """Write CIFAR files (`10-bin`, `10-py`, `100-bin`, `100-py`) with the same seeded pixels and labels in both."""
    hundred, binary = kind.startswith("100"), kind.endswith("bin")
    names = ["train", "test"] if hundred else [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    folder = {
        "10-bin": "cifar-10-batches-bin",
        "10-py": "cifar-10-batches-py",
        "100-bin": "cifar-100-binary",
        "100-py": "cifar-100-python",
    }[kind]
    (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        pixels = rng.integers(0, 256, (n, 3072), np.uint8)
        fine, coarse = rng.integers(0, 100 if hundred else 10, n, np.uint8), rng.integers(0, 20, n, np.uint8)
        if binary:
            columns = [coarse, fine, pixels] if hundred else [fine, pixels]
            (root / folder / f"{name}.bin").write_bytes(np.column_stack(columns).tobytes())
        else:
            labels = {b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
            payload = {b"data": pixels, **(labels if hundred else {b"labels": fine.tolist()})}
            (root / folder / name).write_bytes(pickle.dumps(payload, protocol=2))


@pytest.fixture
def cifar_dir(tmp_path: Path) -> Callable[..., Path]:
    """Return `cifar_dir(kind)`: a data directory with one kind of CIFAR files."""

    def make(kind: str) -> Path:
        write_cifar(tmp_path / kind, kind)
        return tmp_path / kind

    return make
