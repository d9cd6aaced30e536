"""Predictions of a finished run for a file of inputs, and the files that they are written to."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.tables.files import ENDINGS, read_table, table_pieces
from subsetopt.errors import DataError, SettingError, UserError, setting
from subsetopt.files import replace_file
from subsetopt.training.prediction.predictor import Predictor, Which, load_predictor

_INPUTS = ("x", "x_test")
_KINDS = (".csv", ".npz")


@dataclass(frozen=True)
class Predictions:
    """Predictions (n,) or (n, M) for n rows; `probabilities` (n, M) and `class_names` (M,) for classification.

    `notes` are for the user: what new data have that training had not.
    """

    predictions: NDArray[Any]
    probabilities: NDArray[Any] | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "rows": len(self.predictions),
            "predictions": self.predictions.tolist(),
            "probabilities": None if self.probabilities is None else self.probabilities.tolist(),
            "class_names": list(self.class_names),
        }


def predict_file(run: str | Path, file: str | Path, *, which: Which = "last") -> Predictions:
    """Return the predictions of a run for the inputs in a .npy or .npz file, or for the rows of a table.

    Raises `UserError` in one line.
    """
    predictor = load_predictor(run, which=which)
    parts, shares, notes = [], [], []
    for inputs, said in _inputs_of(predictor, Path(file)):
        notes.append(said)
        try:
            parts.append(np.asarray(predictor.predict(inputs)))
            if predictor.task == "classification":
                shares.append(predictor.predict_proba(inputs))
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
    predictions, probabilities = np.concatenate(parts), np.concatenate(shares) if shares else None
    names = predictor.class_names
    if probabilities is not None and not names:
        names = tuple(str(number) for number in range(probabilities.shape[1]))
    return Predictions(predictions, probabilities, names, _notes(predictor, Path(file), notes))


def _notes(predictor: Predictor, path: Path, by_piece: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the notes on a file from those on its pieces; where these count rows, read the file whole to count."""
    found = dict.fromkeys(note for notes in by_piece for note in notes)
    if len(by_piece) < 2 or all("training had no such column" in note for note in found):
        return tuple(found)
    assert predictor.encoding is not None, "only tables come in pieces"
    table = read_table(path)
    return (*table.notes, *predictor.encoding.encode(table)[1])


def _inputs_of(predictor: Predictor, path: Path) -> Iterator[tuple[NDArray[Any], tuple[str, ...]]]:
    """Yield the inputs (n, ...) in a file, a table in pieces by the run's encoding, and notes on their values."""
    arrays = path.suffix.lower() in (".npy", ".npz")
    if predictor.encoding is None:
        if path.suffix.lower() in ENDINGS:
            raise DataError(f"{path}: is a table, the run was trained on arrays; give a .npz or .npy file")
        yield read_inputs(path), ()
        return
    if arrays:
        raise DataError(f"{path}: the run was trained on a table; give one of {', '.join(ENDINGS)}")
    for table in table_pieces(path):
        inputs, notes = predictor.encoding.encode(table)
        yield inputs, (*table.notes, *notes)


def read_inputs(path: Path) -> NDArray[Any]:
    """Return the array of a .npy file, or `x`, else `x_test`, else the only array of a .npz file; never unpickles."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a .npz or .npy file with {setting('data_file')}")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = list(content.files)
            name = next((name for name in _INPUTS if name in names), names[0] if len(names) == 1 else None)
            if name is None:
                raise DataError(f"{path}: has arrays {', '.join(names) or 'none'}, none of them x; name the inputs x")
            array: NDArray[Any] = content[name]
            return array
    except UserError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        MemoryError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        SyntaxError,
        TypeError,
        OverflowError,
    ) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"{path}: cannot be read ({reason}); write it with numpy.savez(FILE, x=...)") from None


def check_output(path: Path | None) -> None:
    """Raise `SettingError` for a file of another kind than .csv and .npz, and for one that is there."""
    if path is None:
        return
    if path.suffix.lower() not in _KINDS:
        raise SettingError("output", str(path), "is neither .csv nor .npz", "give one of these endings")
    if path.exists():
        raise SettingError("output", str(path), "exists already", "choose another name")
    if not path.parent.is_dir():
        raise SettingError("output", str(path), f"there is no folder {path.parent}", "make it first")


def write_predictions(path: Path, found: Predictions) -> None:
    """Write a .npz file with predictions, probabilities and class_names, or a .csv file with a row for each."""
    check_output(path)
    data = _npz(found) if path.suffix.lower() == ".npz" else _csv(found)
    replace_file(path, data, f"make room, or choose another {setting('output')}")


def _npz(found: Predictions) -> bytes:
    arrays: dict[str, NDArray[Any]] = {"predictions": found.predictions}
    if found.probabilities is not None:
        arrays |= {"probabilities": found.probabilities, "class_names": np.array(found.class_names)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # its keywords are arrays, which the stub takes for a flag
    return buffer.getvalue()


def _csv(found: Predictions) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = found.predictions.reshape(len(found.predictions), -1)
    wide = columns.shape[1]
    heads = ["prediction"] if wide == 1 else [f"prediction_{column}" for column in range(wide)]
    writer.writerow(["row", *heads, *(f"p_{name}" for name in found.class_names if found.probabilities is not None)])
    for row, values in enumerate(columns.tolist()):
        shares = [] if found.probabilities is None else found.probabilities[row].tolist()
        writer.writerow([row, *values, *shares])
    return text.getvalue().encode("utf-8", "surrogateescape")
