"""Cells: numbers, dates and truth values in several notations. Reference: Python's own `float` and `datetime`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from subsetopt.data.tables.cells import AmbiguousError, date_format, days_of, number_format, truth_words


@pytest.mark.parametrize(
    ("texts", "separator", "values"),
    [
        (["1", "-2.5", "3e4", ".5"], ",", [1, -2.5, 3e4, 0.5]),
        (["1,234", "1,234,567.5", "12"], ",", [1234, 1234567.5, 12]),
        (["3,14", "-0,5", "12"], ";", [3.14, -0.5, 12]),
        (["1.234,5", "12,25", "7"], ";", [1234.5, 12.25, 7]),
        (["1 234", "5", "-12 345 678"], ";", [1234, 5, -12345678]),
        (["$1,200", "-$3.50"], ",", [1200, -3.5]),
        (["12%", "7.5%"], ",", [12, 7.5]),
    ],
)
def test_numbers_are_read_in_the_notation_of_their_column(
    texts: list[str], separator: str, values: list[float]
) -> None:
    form, share = number_format(texts, separator)
    assert share == 1
    assert [form.parse(text) for text in texts] == values


@pytest.mark.parametrize("text", ["", "abc", "1_000", "0x1f", "inf", "nan", "1,23,456", "1e", "٣", "12 %%", "--5"])
def test_what_no_table_means_by_a_number_is_none(text: str) -> None:
    assert number_format([text], ",")[1] == 0


def test_a_comma_that_may_be_either_is_refused_where_columns_are_separated_otherwise() -> None:
    with pytest.raises(AmbiguousError):
        number_format(["1,234", "5"], ";")
    assert number_format(["1,234", "0,5"], ";")[0].parse("0,5") == 0.5


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["2024-01-31", "1969-12-31 12:00"], "iso"),
        (["31/12/2024", "1/2/2024"], "%d/%m/%Y"),
        (["12/31/2024", "1/2/2024"], "%m/%d/%Y"),
        (["1.2.2024", "3.4.2024"], "%d.%m.%Y"),
        (["red", "2024-01-31"], None),
        (["2024-02-30"], None),
    ],
)
def test_dates_are_read_in_the_one_notation_that_fits_all(texts: list[str], form: str | None) -> None:
    assert date_format(texts) == form


def test_days_count_from_1970_in_universal_time() -> None:
    moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert days_of("2024-05-01T14:00:00+02:00", "iso") == moment.timestamp() / 86400
    with pytest.raises(AmbiguousError, match="day or the month"):
        date_format(["1/2/2024", "3/4/2024"])


def test_pairs_of_words_are_truth_values_in_either_case_and_alone_they_are_not() -> None:
    assert truth_words(["No", "YES"]) == ("no", "yes")
    assert truth_words(["yes"]) is None
    assert truth_words(["yes", "maybe", "no"]) is None
