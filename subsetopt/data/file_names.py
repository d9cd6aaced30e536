"""How a file is read that was named where a data set, or data, was asked for."""

from __future__ import annotations

from pathlib import Path

from subsetopt.data.names import printable
from subsetopt.data.tables.files import ENDINGS
from subsetopt.errors import SettingError, together


def named_as_file(name: object) -> bool:
    """Tell a name that can only be that of a file or folder: it has an ending, or a separator."""
    text = str(name)
    return "/" in text or "\\" in text or Path(text).suffix != ""


def file_instead_of_name(name: str) -> SettingError:
    """Return the error for a file that was given as the name of a data set, with the settings that read it."""
    settings = _settings(name)
    remedy = f"write {together(settings)}" if settings else _unread()
    return SettingError("dataset", name, "is the name of a file, not of a data set", remedy)


def call_that_reads(name: object) -> str:
    """Return, as a remedy in Python, the call that reads a file of this name, or the data set of this name."""
    if not named_as_file(name):
        return f"give load_dataset({printable(str(name))!r})"
    settings = _settings(str(name))
    if not settings:
        return _unread()
    kind = settings.pop("dataset")
    return f"give load_dataset({', '.join([repr(kind), *(f'{key}={value!r}' for key, value in settings.items())])})"


def _settings(name: str) -> dict[str, str]:
    """Return the settings that read a file or folder; none for a file that is not read as it is."""
    text = name.lower()
    if text.endswith(".npz"):
        return {"dataset": "npz", "data_file": printable(name)}
    if text.removesuffix(".gz").endswith(ENDINGS):
        return {"dataset": "table", "data_file": printable(name), "target_column": "COLUMN"}
    return {"dataset": "image-folder", "data_file": printable(name)} if Path(name).is_dir() else {}


def _unread() -> str:
    return f"save it as .npz (arrays x_train and y_train) or as one of {', '.join(ENDINGS)}, or name a folder of images"
