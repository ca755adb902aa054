"""Ridge regression from sums equals ridge regression on the rows, and takes a map only if held-out rows like it."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

from layerwise.compression.ridge import STRENGTHS, Sums, ridge


def problem(seed=0, rows=60, features=5, targets=3, noise=0.5):
    """Rows that a random map nearly explains, with weights of which some are zero."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, features)) * np.array([3.0, 1.0, 1.0, 0.3, 0.1])[:features] + 0.5
    y = x @ random.normal(size=(features, targets)) + noise * random.normal(size=(rows, targets))
    weights = random.uniform(0, 2, rows) * (random.random(rows) < 0.8)
    return x, y, weights


def sums(x, y, weights):
    return Sums.of(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(weights))


def halves(seed=0, **options):
    """A problem's rows, and its first and second half as sums."""
    rows = problem(seed, **options)
    middle = len(rows[0]) // 2
    first, second = [column[:middle] for column in rows], [column[middle:] for column in rows]
    return first, second, sums(*first), sums(*second)


def penalty(x, weights, strength):
    """The strength in the problem's own units: the mean eigenvalue is the trace over the number of features."""
    return strength * np.sum(weights * np.sum(x**2, axis=1)) / x.shape[1]


def r_squared(x, y, weights, coefficients):
    """Row by row, against predicting 0."""
    residual = total = 0.0
    for row, wanted, weight in zip(x, y, weights, strict=True):
        residual += weight * float(np.sum((wanted - row @ coefficients) ** 2))
        total += weight * float(np.sum(wanted**2))
    return 1 - residual / total


def solved(x, y, weights, alpha):
    """Normal equations as they stand in a textbook."""
    diagonal = np.diag(weights)
    return np.linalg.solve(x.T @ diagonal @ x + alpha * np.eye(x.shape[1]), x.T @ diagonal @ y)


# Sums


def test_sums_are_those_of_the_rows():
    x, y, weights = problem()
    found = sums(x, y, weights)
    gram = sum(w * np.outer(row, row) for row, w in zip(x, weights, strict=True))
    cross = sum(w * np.outer(row, target) for row, target, w in zip(x, y, weights, strict=True))

    np.testing.assert_allclose(found.gram, gram)
    np.testing.assert_allclose(found.cross, cross)
    assert found.total == pytest.approx(sum(w * target @ target for target, w in zip(y, weights, strict=True)))


def test_sums_of_parts_add_up_to_the_sums_of_the_whole():
    first, second, *parts = halves()
    whole = sums(*(np.concatenate(columns) for columns in zip(first, second, strict=True)))
    added = parts[0] + parts[1]

    np.testing.assert_allclose(added.gram, whole.gram)
    np.testing.assert_allclose(added.cross, whole.cross)
    assert added.total == pytest.approx(whole.total)


def test_sums_of_half_precision_rows_are_fp64():
    """In bf16, 1 added to 256 is 256."""
    ones = torch.ones(1000, 1, dtype=torch.bfloat16)
    found = Sums.of(ones, 2 * ones, ones[:, 0])

    assert (found.gram.dtype, found.cross.dtype) == (torch.float64, torch.float64)
    assert (found.gram.item(), found.cross.item(), found.total) == (1000, 2000, 4000)


def test_rows_without_weight_do_not_count():
    x, y, weights = problem()
    changed = np.where((weights == 0)[:, None], 1e6, x), np.where((weights == 0)[:, None], -1e6, y)

    assert (weights == 0).any()
    assert torch.equal(sums(*changed, weights).gram, sums(x, y, weights).gram)
    assert torch.equal(sums(*changed, weights).cross, sums(x, y, weights).cross)


# R squared


def test_explained_equals_r_squared_over_rows():
    x, y, weights = problem()
    guess = np.random.default_rng(1).normal(size=(5, 3))

    assert sums(x, y, weights).explained(torch.from_numpy(guess)) == pytest.approx(r_squared(x, y, weights, guess))
    assert sums(x, y, weights).explained(torch.zeros(5, 3).double()) == 0


def test_explained_of_targets_that_are_zero_is_undefined():
    x, y, weights = problem()

    assert math.isnan(sums(x, 0 * y, weights).explained(torch.ones(5, 3, dtype=torch.float64)))


# The fit


@pytest.mark.parametrize("strength", [1e-8, 1e-2, 0.3, 10.0])
def test_coefficients_are_scikit_learns_on_all_rows(strength):
    first, second, *parts = halves()
    x, y, weights = (np.concatenate(columns) for columns in zip(first, second, strict=True))
    alpha = penalty(x, weights, strength)
    outside = SklearnRidge(alpha=alpha, fit_intercept=False).fit(x, y, sample_weight=weights)
    found = ridge(*parts, [strength])

    assert found.strength == strength
    np.testing.assert_allclose(found.coefficients, outside.coef_.T, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.coefficients, solved(x, y, weights, alpha), rtol=1e-6, atol=1e-9)


# Every one of these asks for another strength, smallest first
CASES = {(4, 0.5): 1e-8, (6, 0.5): 1e-3, (5, 0.5): 1e-2, (3, 0.5): 0.1, (6, 5.0): 1.0, (2, 5.0): 10.0}


@pytest.mark.parametrize(("seed", "noise"), CASES)
def test_strength_is_the_one_that_explains_most_of_the_held_out_rows(seed, noise):
    first, second, *parts = halves(seed, rows=16, noise=noise)
    values = {s: r_squared(*second, solved(*first, penalty(first[0], first[2], s))) for s in STRENGTHS}
    found = ridge(*parts)

    assert max(values, key=values.__getitem__) == pytest.approx(CASES[seed, noise])
    assert found.strength == pytest.approx(CASES[seed, noise])
    assert found.explained == pytest.approx(max(values.values()))


def test_map_that_made_the_rows_is_found():
    random = np.random.default_rng(0)
    x, planted = random.normal(size=(40, 5)), random.normal(size=(5, 3))
    found = ridge(sums(x[:30], x[:30] @ planted, np.ones(30)), sums(x[30:], x[30:] @ planted, np.ones(10)))

    np.testing.assert_allclose(found.coefficients, planted, atol=1e-6)
    assert found.explained == pytest.approx(1, abs=1e-12)


def test_features_that_repeat_each_other_do_not_matter():
    """The Gram matrix is singular; its smallest eigenvalues may come out negative."""
    x, y, weights = problem(noise=0.0)
    twice = np.concatenate([x, x, x], axis=1)
    found = ridge(sums(twice[:30], y[:30], weights[:30]), sums(twice[30:], y[30:], weights[30:]))

    np.testing.assert_allclose(twice @ found.coefficients.numpy(), y, atol=1e-3)
    assert found.coefficients.abs().max() < 10


# Nothing to be found


def assert_nothing(found, features=5, targets=3):
    assert torch.equal(found.coefficients, torch.zeros(features, targets, dtype=torch.float64))
    assert (found.strength, found.explained) == (math.inf, 0)


def test_where_the_held_out_rows_say_the_opposite_nothing_is_changed():
    x, y, weights = problem(noise=0.0)

    assert_nothing(ridge(sums(x, y, weights), sums(x, -y, weights)))


def test_targets_of_zero_give_the_map_of_zeros():
    x, y, weights = problem()

    assert_nothing(ridge(sums(x, 0 * y, weights), sums(x, 0 * y, weights)))
    assert_nothing(ridge(sums(x, y, weights), sums(x, 0 * y, weights)))


@pytest.mark.parametrize("empty", ["fitted", "held_out", "both"])
def test_without_rows_nothing_is_changed(empty):
    rows, none = sums(*problem()), sums(*(column[:0] for column in problem()))
    fitted = none if empty in ("fitted", "both") else rows
    held_out = none if empty in ("held_out", "both") else rows

    assert_nothing(ridge(fitted, held_out))


def test_features_of_zero_explain_nothing():
    x, y, weights = problem()

    assert_nothing(ridge(sums(0 * x, y, weights), sums(0 * x, y, weights)))
