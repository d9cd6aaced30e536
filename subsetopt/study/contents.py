"""What the cells of a study were computed with: data and models are known again, whatever their files are named.

A cell is named by its settings, which say where data, code and starting point lie, not what they hold.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import torch
from torch import Tensor

from subsetopt.errors import RunDirectoryError, given, setting
from subsetopt.files import file_digest
from subsetopt.objective import FlatModel
from subsetopt.seeding import make_generator
from subsetopt.training.checks.identity import OtherRunError, check_identity, check_outputs, identity
from subsetopt.training.context import PreparedRun
from subsetopt.training.run_directory import MODEL, RunDirectory
from subsetopt.training.settings.declaration import declaration
from subsetopt.training.settings.run import RunConfig

CONTENTS = "contents.json"
_FILES = ("data_file", "test_file", "init_from")  # what they hold is compared, not where they lie
_START = "start"


def require_same(directory: RunDirectory, prepared: PreparedRun) -> None:
    """Record what the cells of a study are computed with; for a study that is continued, require the same.

    Raises `RunDirectoryError` where data, model or starting point have changed: finished cells would be compared with
    cells of another problem. Settings that differ make other cells; each has a record of its own.
    """
    data, _, run = prepared
    known, key, w = _known(directory), _key(run.config), _probe(run.model.flat)
    now: dict[str, Any] = {**identity(data, run, w), _START: _start(run.config)}
    before = known.get(key)
    if before is None:
        directory.write_json(CONTENTS, {**known, key: {name: now[name] for name in now if name != "settings"}})
        return
    try:
        saved = {**before, "settings": now["settings"]}
        check_identity(saved, data, run)
        check_outputs(saved, data, run.model.flat, w)
        if saved.get(_START) != now[_START]:
            raise OtherRunError(f"{setting('init_from')} has other parameters than those of the run")
    except OtherRunError as error:
        changed = str(error).partition(";")[0].replace("of the run", "of its cells")
        raise RunDirectoryError(
            f"{given('output', directory.path)}: {changed}; restore that, or choose another {setting('output')}"
        ) from None


def _known(directory: RunDirectory) -> dict[str, Any]:
    """Return the records of a study by key; none where there are none, as for studies of earlier versions."""
    try:
        return {name: entry for name, entry in directory.read_json(CONTENTS).items() if isinstance(entry, dict)}
    except RunDirectoryError:
        return {}


def _key(config: RunConfig) -> str:
    """Return the name of the problem: its settings of data and model, and the files that cells are named by, too."""
    fields = RunConfig.model_fields
    names = [name for name in fields if declaration(fields[name]).heading in ("Data", "Model")]
    settings = config.model_dump(mode="json", include={*names, "dtype", "seed"} - {*_FILES, "data_dir"})
    files = [None if path is None else file_digest(path) for path in (config.data_file, config.test_file)]
    return hashlib.sha256(json.dumps([settings, files], sort_keys=True).encode()).hexdigest()[:16]


def _start(config: RunConfig) -> str | None:
    path = config.init_from
    return None if path is None else file_digest(path / MODEL if path.is_dir() else path)


def _probe(flat: FlatModel) -> Tensor:
    """Return parameters (P,) that no initialisation of the model's own decides: it may differ from call to call."""
    draw = make_generator(0, "contents")
    scales = [1 / math.sqrt(math.prod(shape[1:])) for shape in flat.shapes]
    parts = [
        torch.randn(math.prod(shape), generator=draw, device="cpu") * scale
        for shape, scale in zip(flat.shapes, scales, strict=True)
    ]
    return torch.cat(parts).to(flat.device, flat.dtype)
