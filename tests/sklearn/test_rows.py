"""Rows, weights and what is said of unusable ones, as users of scikit-learn meet it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import ConvergenceWarning

from subsetopt.sklearn import SubsetClassifier, SubsetClassifierCV, SubsetRegressor, l2_path


def _model(**settings):
    return SubsetClassifier((4,), random_state=0, **{"max_iter": 60, **settings})


@pytest.mark.parametrize("unit", [1e-300, 0.3, 1e307])
def test_the_unit_of_weights_does_not_move_the_penalty(unit):
    X, y = load_iris(return_X_y=True)
    weighted = _model().fit(X, y, sample_weight=np.full(len(y), unit))
    np.testing.assert_allclose(weighted.predict_proba(X), _model().fit(X, y).predict_proba(X), atol=1e-6)


def test_whole_numbers_count_rows():
    X, y = load_iris(return_X_y=True)
    times = np.arange(len(y)) % 3
    weighted = _model(gtol=1e-9, max_iter=2000).fit(X, y, sample_weight=times)
    repeated = _model(gtol=1e-9, max_iter=2000).fit(X.repeat(times, 0), y.repeat(times))
    assert weighted.l2_ == repeated.l2_
    assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-9)


def test_boosting_whose_weights_add_up_to_one():
    X, y = load_iris(return_X_y=True)
    assert AdaBoostClassifier(_model(), n_estimators=2).fit(X, y).score(X, y) > 0.9


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda X, y: _model().fit(np.where(X > 6, np.nan, X), y), "X = 'NaN': has gaps; impute first"),
        (lambda X, y: _model().fit(X, y).predict(X * np.nan), "X = 'NaN': has gaps; impute first"),
        (lambda X, y: _model().fit(np.full(X.shape, "red", dtype=object), y), "X = 'red': is no number; encode first"),
        (lambda X, y: _model().fit(X, np.c_[y, y]), "y = .*MultiOutputClassifier"),
        (
            lambda X, y: _model(early_stopping=True).fit(X[::60], y[::60]),
            "early_stopping = True: .*validation_fraction",
        ),
        (lambda X, y: _model(early_stopping=True, validation_fraction=0.999).fit(X, y), "early_stopping = True"),
        (lambda X, y: SubsetRegressor(early_stopping=True).fit(X[:1], y[:1]), "early_stopping = True"),
        (lambda X, y: SubsetClassifier(random_state=-1).fit(X, y), "random_state = -1"),
        (lambda X, y: SubsetClassifier(random_state="1").fit(X, y), "random_state = '1'"),
    ],
)
def test_data_that_cannot_be_used_are_named_with_a_remedy(mistake, named):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=named) as failed:
        mistake(X, y)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("setting", "value"), [("hidden_layer_sizes", (7,)), ("activation", "relu"), ("standardize", False)]
)
def test_a_fit_that_goes_on_refuses_another_network(setting, value):
    X, y = load_iris(return_X_y=True)
    for going_on in (_model(warm_start=True).fit(X, y).fit, _model().partial_fit(X, y, classes=[0, 1, 2]).partial_fit):
        going_on.__self__.set_params(**{setting: value})
        with pytest.raises(ValueError, match=f"{setting} = .*: the fit to go on from had"):
            going_on(X, y)


def test_a_fit_that_goes_on_takes_another_precision():
    X, y = load_iris(return_X_y=True)
    model = _model(warm_start=True).fit(X, y).set_params(dtype="float32").fit(X, y)
    assert next(model.module_.parameters()).element_size() == 4


def test_numpys_generators_are_seeds():
    X, y = load_iris(return_X_y=True)
    generator = np.random.default_rng(0)
    first, second = (SubsetClassifier((4,), random_state=generator).fit(X, y).loss_ for _ in range(2))
    again = SubsetClassifier((4,), random_state=np.random.default_rng(0)).fit(X, y).loss_
    assert first == again != second


def test_the_choice_of_a_prior_by_held_out_rows():
    """On noise the strongest prior predicts best; where a smooth function is seen without noise, a weak one does."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    noise = SubsetRegressor((10,), random_state=0).fit(X, rng.normal(size=400))
    smooth = SubsetRegressor((10,), random_state=0).fit(X, np.sin(2 * X[:, 0]))
    assert noise.l2_ == 30 / 400
    assert smooth.l2_ <= 3 / 400
    losses = {strength: loss for strength, loss, _ in smooth.l2_choice_}
    assert smooth.l2_ * 400 == pytest.approx(min(losses, key=losses.get))
    assert not hasattr(smooth.set_params(l2=1e-3).fit(X, X[:, 0]), "l2_choice_")


def test_estimators_that_choose_on_folds_have_no_partial_fit():
    assert not hasattr(SubsetClassifierCV(), "partial_fit")
    assert hasattr(SubsetClassifier(), "partial_fit")


def test_a_regressor_takes_targets_in_any_form():
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:60], y[:60]
    model = SubsetRegressor((3,), random_state=0, max_iter=10)
    column = model.fit(X, y[:, None]).predict(X)
    assert column.shape == (60, 1)
    np.testing.assert_array_equal(model.fit(X, y.astype(object)).predict(X), column[:, 0])
    np.testing.assert_allclose(model.fit(X, np.full(60, 7.0)).predict(X), 7.0, atol=1e-2)


def test_a_strong_prior_that_learns_nothing_is_not_gone_on_from():
    """Parameters at 0 are a saddle point of y = x1 x2: every weaker penalty would end there, too."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2500, 5))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    model = SubsetClassifier((10,), random_state=0, max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert model.fit(X, y).score(X, y) > 0.9
        path = l2_path(model, X[:400], y[:400], [1.0, 1e-3], held_out=(X[400:], y[400:]))
    assert path.scores[0] < 0.6
    assert path.best.l2 == 1e-3
    assert path.best.score(X[400:], y[400:]) > 0.8
