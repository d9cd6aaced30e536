"""What result.json says of a run's data: how they were standardised, and whether those at hand are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from subsetopt.data import Dataset, Normalization
from subsetopt.data.catalog import LearntTable
from subsetopt.data.digest import split_digests
from subsetopt.data.tables.encoding import TableEncoding
from subsetopt.errors import RunDirectoryError


def read_normalization(saved: Mapping[str, Any] | None) -> Normalization | None:
    """Return the statistics that result.json holds as {mean, std}."""
    return None if saved is None else Normalization(tuple(saved["mean"]), tuple(saved["std"]))


def read_normalizations(saved: Mapping[str, Any] | None) -> Normalization | dict[str, Normalization] | None:
    """Return the statistics of inputs: one {mean, std}, or one for each of several inputs by name."""
    if saved is None or isinstance(saved.get("mean"), list):
        return read_normalization(saved)
    return {key: Normalization(tuple(own["mean"]), tuple(own["std"])) for key, own in saved.items()}


def standardised_as(dataset: Dataset, result: Mapping[str, Any]) -> Dataset:
    """Return `dataset` standardised as the run of `result` did; raises `RunDirectoryError` where that does not fit."""
    try:
        inputs, targets = read_normalizations(result["normalization"]), result.get("target_normalization")
        targets = read_normalization(targets)
    except (KeyError, TypeError) as error:
        raise RunDirectoryError(f"result.json lacks an entry ({type(error).__name__}: {error}); train anew") from None
    sized = [(targets, dataset.n_outputs, "targets"), *_sized_inputs(dataset, inputs)]
    for statistics, size, what in sized:
        if statistics is not None and len(statistics.mean) != size:
            raise RunDirectoryError(
                f"{dataset.name}: {what} have {size} columns, those of the run had {len(statistics.mean)}; "
                "restore the data, or train anew"
            )
    return replace(dataset, normalization=inputs, target_normalization=targets)


def _sized_inputs(
    dataset: Dataset, by: Normalization | dict[str, Normalization] | None
) -> list[tuple[Normalization | None, int, str]]:
    """Return the statistics of each input, the size that they should have, and its name."""
    if isinstance(by, dict) != isinstance(dataset.in_shape, dict) and by is not None:
        raise RunDirectoryError(f"{dataset.name}: the inputs are others than the run had; restore the data")
    if not isinstance(by, dict):
        return [] if isinstance(dataset.in_shape, dict) else [(by, dataset.in_shape[0], "inputs")]
    shapes = {key: dataset.in_shape.get(key, (0,)) for key in by}
    return [(own, (shapes[key] or (1,))[0], f"inputs {key!r}") for key, own in by.items()]


def learnt_table(result: Mapping[str, Any]) -> LearntTable | None:
    """Return what the run of `result` has learnt of its table; None for other data."""
    data = result.get("dataset") or {}
    if not data.get("encoding"):
        return None
    try:
        classes = data.get("class_names") if data.get("task") == "classification" else None
        return LearntTable(TableEncoding.of_document(data["encoding"]), tuple(classes or ()))
    except (KeyError, TypeError) as error:
        raise RunDirectoryError(f"result.json lacks an entry ({type(error).__name__}: {error}); train anew") from None


def changed_data(result: Mapping[str, Any], dataset: Dataset | None, splits: Sequence[str]) -> list[str]:
    """Return a sentence on the splits asked for that are not those of the run, by their digests in result.json."""
    recorded = (result.get("dataset") or {}).get("digests")
    if dataset is None or not recorded:
        return []
    now = split_digests(dataset)
    needed = dict.fromkeys("train" if name == "subset" else name for name in splits)
    changed = [name for name in needed if recorded.get(name) != now.get(name)]
    if not changed:
        return []
    note = f"the {' and '.join(changed)} data are not those of the run: these figures are of other data than its own"
    if "validation" in changed and recorded.get("train") != now.get("train"):
        note += "; the model may have been trained on some of these validation rows"
    return [note]
