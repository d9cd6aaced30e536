"""A user's own table. Reference: scikit-learn's imputer and one-hot encoder, and files written by the csv module."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder

from subsetopt.data import load_dataset
from subsetopt.data.tables.encoding import TableEncoding
from subsetopt.data.tables.files import read_table
from subsetopt.data.tables.table import table_of
from subsetopt.errors import DataError, UserError

HEAD = ["area", "town", "garden", "built", "price"]


def _rows(count: int = 40) -> list[list[Any]]:
    rng = np.random.default_rng(0)
    towns, gardens = rng.choice(["Aachen", "Bonn", "Celle", ""], count), rng.choice(["yes", "no"], count)
    areas = [f"{value:.3f}" if place % 7 else "" for place, value in enumerate(rng.normal(100, 20, count))]
    return [[areas[i], towns[i], gardens[i], f"2020-01-{i % 28 + 1:02d}", f"{rng.normal():.4f}"] for i in range(count)]


def _write(path: Path, rows: Sequence[Sequence[Any]], head: Sequence[str] = HEAD, **dialect: Any) -> Path:
    encoding = dialect.pop("encoding", "utf-8")
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, **dialect).writerows([head, *rows])
    return path


def _load(path: Path, target: str = "price", **settings: Any) -> Any:
    return load_dataset("table", data_file=path, target_column=target, **{"validation_fraction": 0.25, **settings})


def test_columns_are_encoded_as_scikit_learn_does_it_on_the_training_rows(tmp_path: Path) -> None:
    rows = _rows()
    data = _load(_write(tmp_path / "a.csv", rows))
    kept = [rows[i] for i in data.train.rows.tolist()]
    area = np.array([[float(row[0] or "nan")] for row in kept])
    towns = [[row[1]] for row in kept]
    imputed = SimpleImputer(strategy="median", add_indicator=True).fit_transform(area)
    words = OneHotEncoder(categories=[["Aachen", "Bonn", "Celle", ""]], sparse_output=False).fit_transform(towns)
    truths = np.array([[float(row[2] == "yes")] for row in kept])
    days = np.array([[float((np.datetime64(row[3]) - np.datetime64("1970-01-01")).astype(int))] for row in kept])
    columns = "area|area missing|town=Aachen|town=Bonn|town=Celle|town missing|garden|built"
    assert data.encoding.features == tuple(columns.split("|"))
    np.testing.assert_array_equal(data.train.inputs.numpy(), np.hstack([imputed, words, truths, days]))
    np.testing.assert_array_equal(data.train.targets[:, 0].numpy(), [float(row[4]) for row in kept])


def test_validation_rows_teach_the_encoding_nothing(tmp_path: Path) -> None:
    rows = _rows()
    before = _load(_write(tmp_path / "a.csv", rows))
    for place in before.validation.rows.tolist():
        rows[place][0], rows[place][1] = "1e9", "Dresden"
    after = _load(_write(tmp_path / "b.csv", rows))
    assert after.encoding == before.encoding
    assert any("Dresden" in note for note in after.notes)


def test_zeros_and_ones_are_not_standardised_and_numbers_are(tmp_path: Path) -> None:
    data = _load(_write(tmp_path / "a.csv", _rows()))
    flags = np.array(data.encoding.indicators)
    mean, std = np.array(data.normalization.mean), np.array(data.normalization.std)
    assert (mean[flags] == 0).all()
    assert (std[flags] == 1).all()
    np.testing.assert_allclose(std[~flags], data.train.inputs.numpy()[:, ~flags].std(0))


@pytest.mark.parametrize(
    "dialect",
    [
        {"lineterminator": "\r\n"},
        {"delimiter": ";"},
        {"delimiter": "\t"},
        {"quoting": csv.QUOTE_ALL},
        {"encoding": "utf-8-sig"},
        {"encoding": "utf-16"},
    ],
)
def test_every_dialect_is_the_same_table(tmp_path: Path, dialect: dict[str, Any]) -> None:
    plain = _load(_write(tmp_path / "a.csv", _rows()))
    other = _load(_write(tmp_path / "b.csv", _rows(), **dialect))
    assert other.encoding == plain.encoding
    np.testing.assert_array_equal(other.train.inputs.numpy(), plain.train.inputs.numpy())


def test_comments_and_blank_lines_are_no_rows_and_quoted_fields_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('# made by hand\n\na,word,y\n1,"x, ""y""\nz",0.5\n\n2,#b,1.5\n# the end\n3,"x, ""y""\nz",2.5\n')
    table = read_table(path)
    assert table.rows == 3
    assert list(table.columns["word"]) == ['x, "y"\nz', "#b", 'x, "y"\nz']
    assert table.lines is not None
    assert table.lines.tolist() == [4, 7, 9]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg"], ("neg", "pos")),
        (["1", "3"], ("1", "3")),
        (["007", "008"], ("007", "008")),
        (["True", "False"], ("False", "True")),
        (["None", "mild"], ("None", "mild")),
        (["<=50K", ">50K"], ("<=50K", ">50K")),
    ],
)
def test_labels_keep_their_names(tmp_path: Path, labels: list[str], names: tuple[str, ...]) -> None:
    rows = [[*row[:4], labels[i % 2]] for i, row in enumerate(_rows())]
    data = _load(_write(tmp_path / "a.csv", rows))
    assert (data.task, data.class_names) == ("classification", names)


def test_rows_without_a_target_are_left_out_and_keep_their_number(tmp_path: Path) -> None:
    rows = _rows()
    rows[3][4], rows[5][4] = "", "NA"
    data = _load(_write(tmp_path / "a.csv", rows), validation_fraction=0)
    assert data.train.rows.tolist() == [i for i in range(40) if i not in (3, 5)]
    assert any("2 of 40 rows have no price, first in line 5" in note for note in data.notes)


def test_a_test_file_is_encoded_as_the_training_rows_are(tmp_path: Path) -> None:
    head = ["price", "built", "garden", "town", "area"]
    test = _write(tmp_path / "t.csv", [row[::-1] for row in _rows()], head)
    data = _load(_write(tmp_path / "a.csv", _rows()), test_file=test, validation_fraction=0)
    np.testing.assert_array_equal(data.test.inputs.numpy(), data.train.inputs.numpy())
    np.testing.assert_array_equal(data.test.targets.numpy(), data.train.targets.numpy())


def test_useless_columns_are_left_out_and_the_rest_of_many_words_is_shared(tmp_path: Path) -> None:
    rows = [[i, "same", f"row {i}", f"w{min(i % 90, i % 70)}", "", i / 7] for i in range(400)]
    head = ["customer_id", "constant", "name", "many", "void", "y"]
    encoding = _load(_write(tmp_path / "a.csv", rows, head), "y").encoding
    kinds = {column.name: column.kind for column in encoding.columns}
    unused = dict.fromkeys(["customer_id", "constant", "name", "void"], "unused")
    assert kinds == unused | {"many": "words"}
    assert len(encoding.features) == 64
    assert encoding.features[-1] == "many=(other)"
    assert "63 most frequent of" in "\n".join(encoding.lines())


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "is empty"),
        ("a,price\n", {}, "no rows"),
        ("1,2\n3,4\n5,6\n", {}, "first line must name the columns"),
        ("a,Price\n1,2.5\n", {}, "did you mean 'Price'"),
        ("a,a,price\n1,1,2.5\n2,1,3.5\n", {}, "several columns of the same name: a"),
        ("a,price\n1,2.5\n1,2,3\n", {}, "line 3 has 3 fields, the header 2"),
        ('a,price\n1,2.5\n"1,2\n', {}, "mend its quotes"),
        ("a,price\n1,\n2,\n", {}, "no value"),
        ("a,price\n1,2.5\n2,3.5\n", {"drop": ("b",)}, "drop = 'b': "),
        ("a,price\n1,2.5\n2,3.5\n", {"drop": ("price",)}, "is the target"),
        ("a,price\n1,2.5\n1,3.5\n", {}, "no column to learn from"),
        ("a,price\n1,2.5\n2,three\n", {"task": "regression"}, "'three' in line 3, no number"),
        ("a,price\n" + "".join(f"{i},2.5\n" for i in range(200)) + "x1,3.5\n", {}, "'x1' in line 202 is no finite"),
        ("a;price\n1,234;2\n2,345;3\n", {}, "decimal comma"),
        ("a,price\n" + "1/2/2024,2.5\n3/4/2024,3.5\n" * 9, {}, "day or the month first"),
        ("a,price\0\n", {}, "no text file"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, settings: dict[str, Any], message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        _load(tmp_path / "a.csv", **{"validation_fraction": 0, **settings})
    assert "\n" not in str(caught.value)


def test_settings_of_tables_are_refused_elsewhere_and_asked_for_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no use with the data set digits"):
        load_dataset("digits", target_column="y")
    with pytest.raises(UserError, match="needs the column to predict"):
        load_dataset("table", data_file=_write(tmp_path / "a.csv", _rows()))
    with pytest.raises(UserError, match="a file of yours"):
        load_dataset("table", target_column="y")


class Frame:
    """As little as pandas and polars have in common."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns, self.columns = columns, list(columns)
        self.shape = (len(next(iter(columns.values()))), len(columns))

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def __len__(self) -> int:
        return self.shape[0]


def test_a_frame_is_encoded_as_its_file_and_the_encoding_survives_json(tmp_path: Path) -> None:
    rows = _rows()
    path = _write(tmp_path / "a.csv", rows)
    encoding = TableEncoding.of_document(json.loads(json.dumps(_load(path).encoding.document())))
    area, town, garden, built, _ = zip(*rows, strict=True)
    frame = Frame(
        {
            "garden": np.array([word == "yes" for word in garden]),
            "built": np.array(built, dtype="datetime64[D]"),
            "town": np.array([word or None for word in town], dtype=object),
            "area": np.array([float(value or "nan") for value in area]),
        }
    )
    expected, notes = encoding.encode(read_table(path))
    assert notes == []
    np.testing.assert_array_equal(encoding.encode(table_of(frame))[0], expected)


def test_new_words_and_new_gaps_are_said_and_a_missing_column_is_refused(tmp_path: Path) -> None:
    encoding = _load(_write(tmp_path / "a.csv", _rows())).encoding
    rows = [["1", "Dresden", "", "2020-01-01"]]
    found, notes = encoding.encode(read_table(_write(tmp_path / "n.csv", rows, HEAD[:4])))
    assert found[0, 2:6].tolist() == [0, 0, 0, 0]
    assert "Dresden" in notes[0]
    assert "'garden': 1 missing, none was in training" in notes[1]
    with pytest.raises(UserError, match="lacks 1 of the 4 columns of the training data: town; is 'towm' meant"):
        encoding.encode(read_table(_write(tmp_path / "m.csv", rows, ["area", "towm", "garden", "built"])))
    with pytest.raises(UserError, match="column 'area': 'big' in line 2 is no finite number"):
        encoding.encode(read_table(_write(tmp_path / "w.csv", [["big", *rows[0][1:]]], HEAD[:4])))


def test_arff_is_read_with_its_gaps(tmp_path: Path) -> None:
    body = "".join(f"{i if i % 5 else '?'},{'xy?'[i % 3]},{i / 7}\n" for i in range(30))
    text = "@relation r\n@attribute a numeric\n@attribute c {x,y}\n@attribute y numeric\n@data\n" + body
    (tmp_path / "a.arff").write_text(text)
    data = _load(tmp_path / "a.arff", "y", validation_fraction=0)
    assert data.encoding.features == ("a", "a missing", "c=x", "c=y", "c missing")
    assert data.train.inputs[3].tolist() == [3, 0, 1, 0, 0]


def _read(path: Path) -> dict[str, list[Any]]:
    table = read_table(path)
    return {name: np.asarray(column).tolist() for name, column in table.columns.items()}


def test_arff_has_sparse_rows_quotes_text_and_dates(tmp_path: Path) -> None:
    """Reference: the same rows written densely."""
    head = (
        "% a comment\n@RELATION 'of two words'\n@attribute 'my area' REAL\n@attribute \"a\\'b\" {'x, y', z}\n"
        "@attribute text string\n@attribute day date 'yyyy-MM-dd'\n@data\n"
    )
    (tmp_path / "dense.arff").write_text(head + "1.5,'x, y','it\\'s',2024-01-02\n0,z,?,?\n0, 'x, y',\"q\",2024-01-03\n")
    (tmp_path / "sparse.arff").write_text(
        head + "{0 1.5, 2 'it\\'s', 3 2024-01-02}\n\n{1 z,2 ?,3 ?}\n{2 q ,3 2024-01-03}\n"
    )
    dense = _read(tmp_path / "dense.arff")
    assert dense == _read(tmp_path / "sparse.arff")
    assert dense["my area"] == [1.5, 0.0, 0.0] and dense["a'b"] == ["x, y", "z", "x, y"]
    assert dense["text"] == ["it's", "", "q"] and dense["day"] == ["2024-01-02", "", "2024-01-03"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no @data"),
        ("@relation r\n@data\n1\n", "no @attribute before"),
        ("@attribute a numeric\n@data\n1,2\n", "line 3 has 2 values for 1 attributes"),
        ("@attribute a numeric\n@data\nx\n", "'x' in line 3 is no finite number"),
        ("@attribute a numeric\n@data\ninf\n", "'inf' in line 3 is no finite number"),
        ("@attribute a {b,c}\n@data\nb\nd\n", "'d' in line 4 is no value of it"),
        ("@attribute a {b,c\n@data\nb\n", "line 1: the values of 'a' are not closed"),
        ("@attribute a relational\n@data\nb\n", "line 1: the type of 'a' is none of"),
        ("@attribute a numeric\n@data\n{3 1}\n", "line 3: '3 1' is no entry"),
        ("@attribute a numeric\n@data\n{0 1\n", "sparse row is not closed"),
        ("@attribute a string\n@data\n'b\n", "line 3: .* mend its quotes"),
        ("@attribute a numeric\n@data\n", "has no rows"),
        ("a,b\n1,2\n", "line 1 is none of @relation"),
    ],
)
def test_an_arff_that_is_none_is_refused_by_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.arff").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_table(tmp_path / "a.arff")
    assert "\n" not in str(caught.value)


def test_a_packed_text_file_is_the_file_that_was_packed(tmp_path: Path) -> None:
    content = "\ufeffa;b\n" + "".join(f"{i},5;w{i % 3}\n" for i in range(500))
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    packed = gzip.compress(content.encode())
    (tmp_path / "t.csv.gz").write_bytes(packed)
    assert _read(tmp_path / "t.csv.gz") == _read(tmp_path / "t.csv")
    for name, damaged in (("cut", packed[: len(packed) // 2]), ("plain", content.encode())):
        (tmp_path / f"{name}.csv.gz").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be unpacked"):
            read_table(tmp_path / f"{name}.csv.gz")
    with pytest.raises(DataError, match="its ending is none of"):
        (tmp_path / "t.parquet.gz").write_bytes(packed)
        read_table(tmp_path / "t.parquet.gz")


@pytest.mark.parametrize("number", ["9" * 400, "1e306"])
def test_a_number_beyond_the_range_is_refused_by_column_and_line(number: str, tmp_path: Path) -> None:
    rows = "".join(f"{i},{i % 2}\n" for i in range(60))
    (tmp_path / "t.csv").write_text(f"a,y\n{rows}{number},1\n")
    with pytest.raises(DataError, match=r"column 'a': .* in line 62 is"):
        _load(tmp_path / "t.csv", "y", validation_fraction=0)
