"""The estimators against scikit-learn's own checks, its multilayer perceptron and closed forms."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from subsetopt.models import build_model
from subsetopt.objective import FlatModel, Objective
from subsetopt.sklearn import SubsetClassifier, SubsetClassifierCV, SubsetRegressor, SubsetRegressorCV, l2_path
from subsetopt.sklearn.activations import ACTIVATIONS
from subsetopt.sklearn.network import Network
from subsetopt.sklearn.perceptron import PerceptronObjective, Sample

CHECKS = [
    pytest.param(estimator, check, id=f"{type(estimator).__name__}-{check.func.__name__}")
    for made in (SubsetClassifier(), SubsetRegressor())
    for estimator, check in estimator_checks_generator(made)
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [(), (7,), (7, 5)])
@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_perceptron_written_out_is_the_general_objective(activation, widths, classes, weighted):
    """Rows that stand there as often as their weight says are the reference for weights."""
    generator = torch.Generator().manual_seed(0)
    settings = {"widths": widths, "activation": activation} if widths else {}
    name = "mlp" if widths else "linear"
    flat = FlatModel(build_model(name, in_shape=(4,), n_outputs=3, seed=1, dtype=torch.float64, **settings))
    network = Network.drawn((4, *widths, 3), activation, 1, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(network.start, flat.initial(), rtol=0, atol=0)
    x = torch.randn(50, 4, dtype=torch.float64, generator=generator)
    y = torch.randint(0, 3, (50,), generator=generator) if classes else x[:, :3] ** 2
    times = torch.arange(50) % 3 if weighted else torch.ones(50, dtype=torch.int64)
    general = Objective(
        flat, x.repeat_interleave(times, 0), y.repeat_interleave(times, 0), "cross_entropy" if classes else "mse", 0.1
    )
    own = PerceptronObjective(network, Sample(x, y, times.double() if weighted else None), 0.1, block=70)
    w = flat.initial()
    loss, gradient = general.value_and_gradient(w)
    own_loss, own_gradient = own.value_and_gradient(w)
    torch.testing.assert_close(own_loss, loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(own_gradient, gradient, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(own.value(w), loss, rtol=1e-13, atol=0)
    measured = own.measures_on_host(w, 2 * gradient, "train")
    assert torch.equal(measured[0], own_gradient)
    square, sensitivity = float(gradient @ gradient), float(((gradient * w) ** 2).sum())
    expected = [float(loss), float(gradient.abs().max()), square, sensitivity, 2 * square]
    assert measured[1:] == pytest.approx(expected, rel=1e-12)


def test_without_hidden_layers_it_is_logistic_regression():
    """scikit-learn minimises C sum l + 1/2 ||coef||^2; a column of ones is an intercept with a penalty, as ours has."""
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    ours = SubsetClassifier((), l2=0.1, gtol=1e-9, random_state=0).fit(X, y)
    ones = np.c_[X, np.ones(len(X))]
    theirs = LogisticRegression(C=1 / (0.1 * len(X)), tol=1e-10, max_iter=1000, fit_intercept=False).fit(ones, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(ones), atol=1e-6)
    assert ours.result_.converged


def test_without_hidden_layers_it_is_ridge_regression():
    """Least squares on standardised targets have no intercept to penalise: the same minimum exactly."""
    X, y = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    ours = SubsetRegressor((), l2=0.2, gtol=1e-12, random_state=0).fit(X, y)
    theirs = Ridge(alpha=0.2 * len(X) / 2).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-7)


def test_a_lower_objective_than_scikit_learns_after_as_many_iterations():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    theirs = MLPClassifier((20,), "tanh", solver="lbfgs", alpha=1e-3 * len(X), random_state=0, max_iter=500).fit(X, y)
    ours = SubsetClassifier((20,), l2=1e-3, gtol=1e-6, max_iter=theirs.n_iter_, random_state=0)
    with pytest.warns(ConvergenceWarning) if theirs.n_iter_ < 20 else _quiet():
        ours.fit(X, y)
    assert ours.loss_ <= theirs.loss_ * 1.05


def _quiet():
    import contextlib

    return contextlib.nullcontext()


def test_it_works_where_scikit_learns_estimators_do():
    X, y = load_iris(return_X_y=True)
    model = SubsetClassifier((5,), random_state=0, max_iter=100)
    assert cross_val_score(make_pipeline(StandardScaler(), model), X, y, cv=3).mean() > 0.93
    search = GridSearchCV(model, {"l2": [1e-3, 1e-2]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.93
    calibrated = CalibratedClassifierCV(model, cv=3).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(1), 1.0)
    assert clone(model).get_params() == model.get_params()


def test_it_survives_pickling():
    X, y = load_iris(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    model = SubsetClassifier((5,), random_state=0, warm_start=True).fit(X, names)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert set(again.predict(X)) == {"a", "b", "c"}
    assert again.fit(X, names).n_iter_ <= 2


def test_warm_start_keeps_parameters_and_curvature():
    X, y = load_wine(return_X_y=True)
    cold = SubsetClassifier((10,), l2=1e-2, random_state=0, gtol=1e-6, max_iter=2000).fit(X, y)
    warm = clone(cold).set_params(warm_start=True, l2=3e-2).fit(X, y).set_params(l2=1e-2).fit(X, y)
    assert warm.n_iter_ < cold.n_iter_ / 2


def test_a_subset_is_solved_before_all_rows():
    X, y = load_breast_cancer(return_X_y=True)
    model = SubsetClassifier((3,), subset_frac=0.25, random_state=0, l2=1e-2).fit(X, y)
    assert model.overdetermination_.samples == round(0.25 * len(X))
    assert model.result_.converged
    whole = SubsetClassifier((3,), subset_frac=1.0, random_state=0, l2=1e-2).fit(X, y)
    assert model.loss_ == pytest.approx(whole.loss_, rel=0.05)


def test_sparse_rows_are_the_dense_ones():
    X, y = load_iris(return_X_y=True)
    X = np.where(X > 2, X, 0.0)
    dense = SubsetClassifier((4,), random_state=0).fit(X, y)
    for made in (sparse.csr_matrix, sparse.csc_array, sparse.coo_matrix):
        thin = SubsetClassifier((4,), random_state=0).fit(made(X), y)
        np.testing.assert_array_equal(thin.predict_proba(made(X)), dense.predict_proba(X))


def test_early_stopping_keeps_the_best_held_out_parameters():
    X, y = load_diabetes(return_X_y=True)
    with pytest.warns(ConvergenceWarning):
        long = SubsetRegressor((50,), l2=0, gtol=0, random_state=0).fit(X[:300], y[:300])
    short = SubsetRegressor((50,), l2=0, gtol=0, random_state=0, early_stopping=True).fit(X[:300], y[:300])
    assert short.n_iter_ < long.n_iter_
    assert short.score(X[300:], y[300:]) > long.score(X[300:], y[300:])
    assert min(short.validation_losses_) < short.validation_losses_[-1]


def test_passes_over_parts_approach_the_minimum():
    X, y = load_wine(return_X_y=True)
    model = SubsetClassifier((10,), random_state=0)
    for _ in range(300):
        model.partial_fit(X[::2], y[::2], classes=[0, 1, 2]).partial_fit(X[1::2], y[1::2])
    solved = SubsetClassifier((10,), random_state=0).fit(X, y)
    assert model.score(X, y) > 0.98
    assert solved.loss_ < model.loss_ < model.loss_curve_[0]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("hidden_layer_sizes", (0,)),
        ("hidden_layer_sizes", "100"),
        ("hidden_layer_sizes", (1.5,)),
        ("activation", "sine"),
        ("solver", "adam"),
        ("l2", -1.0),
        ("l2", float("nan")),
        ("subset_frac", 0),
        ("subset_frac", 1.5),
        ("subset_frac", "some"),
        ("subset_frac", 0.001),
        ("gtol", "small"),
        ("max_iter", 0),
        ("standardize", "yes"),
        ("validation_fraction", 1.0),
        ("dtype", "float16"),
        ("device", "abacus"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(setting, value):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match=setting) as failed:
        SubsetClassifier(**{setting: value}).fit(X, y)
    assert "\n" not in str(failed.value)


def test_a_path_ends_where_single_solves_do_at_less_cost():
    X, y = load_wine(return_X_y=True)
    model = SubsetClassifier((), random_state=0, gtol=1e-7, max_iter=1000)
    path = l2_path(model, X, y, [1e-3, 1e-1, 1e-2, 3e-2, 3e-3])
    assert path.l2 == (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
    single = [clone(model).set_params(l2=each).fit(X, y) for each in path.l2]
    np.testing.assert_allclose(path.losses, [each.loss_ for each in single], rtol=1e-6)
    assert sum(path.evaluations) < 0.8 * sum(each.result_.counts["evaluations"] for each in single)
    assert all(path.converged)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_iris, load_diabetes])
def test_a_path_of_eight_strengths_costs_about_twice_the_dearest_one(load):
    """The reference is the cost of single solves; the strength chosen is solved to the estimator's own test."""
    X, y = load(return_X_y=True)
    X, y = X[::2], y[::2]
    model = (SubsetRegressor if load is load_diabetes else SubsetClassifier)((30,), random_state=0)
    path = l2_path(model, X, y, held_out=(X, y))
    dearest = max(clone(model).set_params(l2=each).fit(X, y).result_.counts["evaluations"] for each in path.l2)
    assert sum(path.evaluations) <= 2.3 * dearest
    best = path.best
    assert best.score(X, y) == max(score for score, done in zip(path.scores, path.converged, strict=True) if done)
    assert best.result_.gradient_norm <= model.gtol * best._scale
    assert best.get_params() == model.get_params() | {"l2": best.l2}


def test_estimators_of_a_path_are_independent():
    X, y = load_wine(return_X_y=True)
    model = SubsetClassifier((4,), random_state=0, max_iter=30)
    path = l2_path(model, X, y, [1e-2, 1e-1], held_out=(X, y))
    before = path.estimators[0].predict_proba(X)
    path.estimators[1].fit(X[::2], y[::2])
    path.estimators[1].partial_fit(X, y)
    np.testing.assert_array_equal(path.estimators[0].predict_proba(X), before)
    assert not hasattr(model, "module_")


def test_cross_validation_chooses_a_penalty_that_predicts_better():
    X, y = load_diabetes(return_X_y=True)
    chosen = SubsetRegressorCV((), l2s=[1e-6, 0.3, 1e3], cv=3, random_state=0).fit(X[:300], y[:300])
    assert chosen.scores_.shape == (3, 3)
    assert chosen.l2_ == chosen.l2s_[chosen.scores_.mean(1).argmax()] != 1e3
    alone = SubsetRegressor((), l2=chosen.l2_, random_state=0).fit(X[:300], y[:300])
    np.testing.assert_allclose(chosen.predict(X[300:]), alone.predict(X[300:]), rtol=1e-2)
    classes = SubsetClassifierCV((3,), l2s=[1e-3, 1e-2], cv=2, random_state=0).fit(X, y > 150)
    assert classes.predict_proba(X).shape == (len(X), 2)
    with pytest.raises(ValueError, match="l2 = 'few'"):
        SubsetClassifierCV(l2s="few").fit(X, y > 150)


@pytest.mark.parametrize("labels", [["a", 1], ["a", None], ["a", 1.5, None]])
def test_labels_of_several_types_are_refused_in_one_line(labels):
    with pytest.raises(
        ValueError, match=r"y = \[.*\]: labels of several types; give one type, such as y.astype\(str\)"
    ):
        SubsetClassifier().fit(np.arange(40.0).reshape(20, 2), np.array((labels * 10)[:20], dtype=object))
