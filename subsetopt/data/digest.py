"""Fingerprints of data: a run says which data it saw, and whoever uses it again learns when they have changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from subsetopt.data.dataset import Dataset, Split
from subsetopt.inputs import LazyRows, Stored, each_part

WHOLE_BYTES = 2**28
"""Tensors up to this size are read in full."""

_BLOCK_BYTES = 2**22
_SAMPLES, _SAMPLE_BYTES = 64, 2**19


def dataset_digest(dataset: Dataset) -> str:
    """Return a sha256 (64 hexadecimal digits) of task, outputs, class names and every split of a data set.

    Equal content has an equal digest in every process and on every machine of the same byte order, wherever the
    tensors lie and however they are strided; the data set's own name and its normalisation do not count. Tensors of
    more than `WHOLE_BYTES` count with shape, dtype and 64 evenly spaced samples of half a MiB, the first and the last
    rows among them: a change between these goes unseen.
    """
    facts = [dataset.task, str(dataset.n_outputs), *dataset.class_names]
    parts = [part for name, digest in split_digests(dataset).items() for part in (name, digest)]
    return _sha256([*facts, *parts])


def split_digests(dataset: Dataset) -> dict[str, str]:
    """Return the digest of each split that there is: {"train" | "validation" | "test": sha256}."""
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {name: _split_digest(split) for name, split in splits.items() if split is not None}


def data_digest(data: Any) -> str:
    """Return the sha256 of a tensor, or of tuples, lists and mappings of tensors (or of anything with a `repr`)."""
    if isinstance(data, Tensor):
        return _tensor_digest(data)
    if isinstance(data, Mapping):
        return _sha256(["mapping", *(text for key in data for text in (str(key), data_digest(data[key])))])
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _sha256(["sequence", *(data_digest(item) for item in data)])
    return _sha256([repr(data)])


def _split_digest(split: Split) -> str:
    weights = [] if split.weights is None else [data_digest(split.weights)]
    return _sha256([_inputs_digest(split.inputs), data_digest(split.targets), *weights])


def _inputs_digest(inputs: Stored) -> str:
    parts = dict(each_part(inputs))
    if None in parts:
        return _tensor_digest(parts[None])
    return _sha256(["mapping", *(text for key, part in parts.items() for text in (str(key), _tensor_digest(part)))])


def _tensor_digest(tensor: Tensor | LazyRows) -> str:
    sha = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    rows = tensor
    if isinstance(tensor, Tensor):
        rows = tensor.detach().reshape(1) if tensor.ndim == 0 else tensor.detach()
    for block in _blocks(rows):
        sha.update(block.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _blocks(tensor: Tensor | LazyRows) -> Iterator[Tensor]:
    """Yield all rows block by block, or evenly spaced blocks of a tensor too large to be read."""
    if tensor.numel() == 0:
        return
    row_bytes = tensor[:1].nbytes
    if len(tensor) * row_bytes <= WHOLE_BYTES:
        rows = max(1, _BLOCK_BYTES // row_bytes)
        starts = list(range(0, len(tensor), rows))
    else:
        rows = min(len(tensor), max(1, _SAMPLE_BYTES // row_bytes))
        last = len(tensor) - rows
        starts = sorted({round(last * sample / (_SAMPLES - 1)) for sample in range(_SAMPLES)})
    for start in starts:
        yield tensor[start : start + rows]


def _sha256(parts: Sequence[str]) -> str:
    """Hash texts so that no two lists of texts read alike: each with its length."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        sha.update(len(data).to_bytes(8, "big") + data)
    return sha.hexdigest()
