"""Tensors and the state beside them as one safetensors file whose digest tells when a bit of either has changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from subsetopt.errors import UserError
from subsetopt.files import DIGEST, MALFORMED, reason

_STATE = "state"
_KNOWN = {"settings", "data", "model"}  # entries that come with a digest
_SEALED = re.compile(rf'(\{{.*?)(?:, )?"{DIGEST}": "([0-9a-f]{{64}})"\}}', re.DOTALL)


class DamagedError(UserError):
    """A file that does not hold what was written; `str(error)` says how, without naming the file."""


def to_bytes(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return a safetensors file, and the JSON text of `state` with the digest that its header holds.

    There is one entry of metadata, because safetensors writes several in no fixed order and equal runs write equal
    bytes.
    """
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    bare = json.dumps(state)
    text = f'{bare[:-1]}{", " if state else ""}"{DIGEST}": "{_digest(owned, bare)}"}}'
    return safetensors.torch.save(owned, metadata={_STATE: text}), text


def from_file(path: Path, *, own: bool = True) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return tensors and state of a file; None where it holds tensors alone, as those of other programs do.

    Raises `DamagedError` where it is no such file, or not as it was written; with `own`, also where its header is not
    ours. What an earlier version wrote has no digest and is not checked.
    """
    if not path.is_file():
        raise DamagedError("is no regular file" if path.exists() else "is missing")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # A clone has torch's own alignment in memory; sums over it round as they did before it was saved.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
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


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    sha = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"\0{name}\0{tensor.dtype}{tuple(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
