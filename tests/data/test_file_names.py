"""Files that are named where a data set, or data, are asked for: told by which settings or call they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from subsetopt import Objective, SubsetTrainer
from subsetopt.data import as_dataset, load_dataset
from subsetopt.data.raw_inputs import raw_inputs
from subsetopt.errors import DataError, SettingError

WAYS = [
    ("shop.csv", "dataset='table', data_file='shop.csv', target_column='COLUMN'"),
    ("data/Shop.TSV.gz", "dataset='table', data_file='data/Shop.TSV.gz', target_column='COLUMN'"),
    ("mine.npz", "dataset='npz', data_file='mine.npz'"),
    (".", None),
    ("rows.npy", "save it as .npz"),
    ("no/such/folder", "save it as .npz"),
]


@pytest.mark.parametrize(("name", "words"), WAYS)
def test_a_file_in_place_of_a_data_set_is_told_the_settings_that_read_it(name: str, words: str | None) -> None:
    with pytest.raises(SettingError) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)
    if words is None:
        assert "unknown name" in str(caught.value)  # as good as a slip of the finger
    else:
        assert str(caught.value).startswith(f"dataset = {name!r}: is the name of a file") and words in str(caught.value)


def test_a_folder_is_read_as_images(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"write dataset='image-folder', data_file='{tmp_path}'$"):
        load_dataset(str(tmp_path))


def test_what_is_told_reads_the_file(tmp_path: Path) -> None:
    """The call that the message names is made as it stands."""
    file = tmp_path / "mine.npz"
    np.savez(file, x_train=np.eye(12, 3), y_train=np.arange(12) % 2)
    with pytest.raises(SettingError) as caught:
        as_dataset(file)
    call = str(caught.value).rpartition("; give ")[2]
    assert eval(call, {"load_dataset": load_dataset}).in_shape == (3,)


@pytest.mark.parametrize(
    ("thing", "call"),
    [
        ("shop.csv", "load_dataset('table', data_file='shop.csv', target_column='COLUMN')"),
        (Path("shop.parquet"), "load_dataset('table', data_file='shop.parquet', target_column='COLUMN')"),
        ("digits", "load_dataset('digits')"),
        ("x.pt", "save it as .npz"),
    ],
)
def test_a_name_in_place_of_data_is_told_the_call_that_reads_it(thing: object, call: str) -> None:
    model = torch.nn.Linear(2, 2)
    for take in (as_dataset, lambda data: Objective(model, data)):
        with pytest.raises(SettingError) as caught:
            take(thing)
        assert "is a name, not data" in str(caught.value) and call in str(caught.value)
    with pytest.raises(SettingError):
        SubsetTrainer(model, thing, subset_frac=0.5).fit() if thing != "digits" else as_dataset(thing)


@pytest.mark.parametrize("thing", ["shop.csv", Path("new.npy")])
def test_a_name_in_place_of_inputs_is_told_to_be_read_first(thing: object) -> None:
    with pytest.raises(DataError, match=r"is a name, not data; read the file first, as pandas\.read_csv"):
        raw_inputs(thing, (2,))
