"""Tensors and the state beside them as one safetensors file whose digest tells when a bit of either has changed."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from subsetopt.errors import UserError
from subsetopt.files import DIGEST, MALFORMED, reason

PIECE_BYTES = 16 * 2**20
"""What is copied at a time of tensors that cannot be written from where they are."""

WORTH_BYTES = 1024
"""Of a tensor that is looked for among the others of a checkpoint."""

_STATE = "state"
_KNOWN = {"settings", "data", "model"}  # entries that come with a digest
_SEALED = re.compile(rf'(\{{.*?)(?:, )?"{DIGEST}": "([0-9a-f]{{64}})"\}}', re.DOTALL)


class DamagedError(UserError):
    """A file that does not hold what was written; `str(error)` says how, without naming the file."""


class TensorFile:
    """A safetensors file to be written: no tensor is copied, they must not change before `pieces` is at its end.

    `text` is the JSON text of `state` with the digest that the header holds. There is one entry of metadata, because
    readers of several see them in no fixed order, and tensors lie in a fixed order: equal runs write equal bytes.
    """

    def __init__(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        # Larger numbers first, so that all lie at multiples of their size; readers map them as they are.
        order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
        self._tensors = {name: tensors[name].detach() for name in order}
        bare = json.dumps(state)
        self.text = f'{bare[:-1]}{", " if state else ""}"{DIGEST}": "{_digest(self._tensors, bare)}"}}'

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Yield the file from beginning to end; tensors of a device, or in another order, some MiB at a time."""
        header: dict[str, Any] = {"__metadata__": {_STATE: self.text}}
        end = 0
        for name, tensor in self._tensors.items():
            begin, end = end, end + tensor.nbytes
            header[name] = {"dtype": _name_of(tensor), "shape": list(tensor.shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
        text += b" " * (-len(text) % 8)
        yield struct.pack("<Q", len(text)) + text
        for tensor in self._tensors.values():
            yield from _bytes_of(tensor)


def from_file(path: Path, *, own: bool = True) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return tensors and state of a file; None where it holds tensors alone, as those of other programs do.

    Raises `DamagedError` where it is no such file, or not as it was written; with `own`, also where its header is not
    ours. What an earlier version wrote has no digest and is not checked.
    """
    if not path.is_file():
        raise DamagedError("is no regular file" if path.exists() else "is missing")
    try:
        with safetensors.safe_open(path, framework="pt") as file:  # checks the header, and maps the rest unread
            metadata = file.metadata() or {}
            tensors = _read(path, file)
        if _STATE not in metadata:
            if own and metadata:
                raise DamagedError("is corrupt (its header is none that a run writes)")
            return tensors, None
        state = json.loads(metadata[_STATE])
        said = state.pop(DIGEST, None)
        sealed = _SEALED.fullmatch(metadata[_STATE])
    except DamagedError:
        raise
    except (OSError, safetensors.SafetensorError, *MALFORMED) as error:
        raise DamagedError(f"is corrupt ({reason(error)})") from None
    if said is None and sealed is None and not _KNOWN & state.keys():
        return tensors, state
    if sealed is None or sealed[2] != _digest(tensors, sealed[1] + "}"):
        raise DamagedError("is corrupt (its digest is not that of its content)")
    return tensors, state


def apart(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of which none has the bits and shape of another, and whose bits each of the others has.

    Small ones are all kept: naming another would take as much.
    """
    kept: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    alike: dict[Any, list[str]] = {}
    for name, tensor in sorted(tensors.items()):
        if tensor.nbytes >= WORTH_BYTES and tensor.dtype in _DTYPES:
            bits = tensor.detach().view(_BITS[tensor.element_size()])
            names = alike.setdefault((tensor.dtype, tensor.shape, tensor.device, tuple(_beginning(bits))), [])
            first = next((other for other in names if torch.equal(kept[other].view(bits.dtype), bits)), None)
            if first is not None:
                same[name] = first
                continue
            names.append(name)
        kept[name] = tensor.detach()
    return kept, same


def _beginning(tensor: Tensor) -> list[int]:
    while tensor.ndim > 1:
        tensor = tensor[0]
    begin: list[int] = tensor[:16].tolist()
    return begin


def _read(path: Path, file: Any) -> dict[str, Tensor]:
    """Return the tensors of an open file, read straight to where they stay: a mapped file would be held twice.

    Torch's own memory has torch's alignment; sums over it round as they did before it was saved.
    """
    tensors = {}
    with path.open("rb") as content:
        (length,) = struct.unpack("<Q", content.read(8))
        header = json.loads(content.read(length))
        for name in file.keys():  # noqa: SIM118 (not a dict)
            entry = header[name]
            if entry["dtype"] not in _NAMED:  # of another program
                tensors[name] = file.get_tensor(name).clone()
                continue
            tensor = tensors[name] = torch.empty(entry["shape"], dtype=_NAMED[entry["dtype"]], device="cpu")
            content.seek(8 + length + entry["data_offsets"][0])
            if tensor.numel() and content.readinto(_view(tensor)) != tensor.nbytes:
                raise ValueError(f"{name} is cut off")
    return tensors


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    sha = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"\0{name}\0{tensor.dtype}{tuple(tensor.shape)}\0".encode())
        for piece in _bytes_of(tensor):
            sha.update(piece)
    return sha.hexdigest()


def _bytes_of(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the elements of a tensor in row-major order; copied are those that are not in memory in that order."""
    if not tensor.numel():
        return
    if tensor.device.type == "cpu" and tensor.is_contiguous():
        yield _view(tensor)
    elif tensor.is_contiguous():
        for part in tensor.reshape(-1).split(max(1, PIECE_BYTES // tensor.element_size())):
            yield _view(part.cpu())
    elif tensor.ndim > 1 and tensor.nbytes > PIECE_BYTES:
        for row in tensor.unbind(0):
            yield from _bytes_of(row)
    else:
        yield _view(tensor.cpu().contiguous())


def _view(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _name_of(tensor: Tensor) -> str:
    if tensor.dtype not in _DTYPES:
        raise TypeError(f"a tensor of {tensor.dtype} cannot be saved")
    return _DTYPES[tensor.dtype]


_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of the format."""
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NAMED = {name: dtype for dtype, name in _DTYPES.items()}
