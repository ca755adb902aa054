"""CKA between states, effective rank, and the plane of a picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.decomposition import PCA

from layerwise.importance.similarity import cka_matrix, linear_cka
from layerwise.importance.spectrum import effective_rank, principal_plane

SEEDS = st.integers(0, 2**32 - 1)


def states(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width))


def test_cka_equals_the_form_with_gram_matrices():
    x, y = states(40, 5), states(40, 7, 1) + states(40, 5) @ states(5, 7, 2)
    centre = np.eye(40) - 1 / 40
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre

    assert linear_cka(x, y) == pytest.approx(np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)))


@given(SEEDS)
def test_rotation_scale_and_shift_leave_cka_as_it_is(seed):
    x, y = states(30, 4, seed), states(30, 4, seed + 1)
    turned = 3.5 * x @ ortho_group.rvs(4, random_state=seed % 2**32) + 2

    assert linear_cka(turned, y) == pytest.approx(linear_cka(x, y))
    assert linear_cka(turned, x) == pytest.approx(1)


def test_few_rows_flatter_independent_states_unless_debiased():
    x, y = states(60, 30), states(60, 30, 1)

    assert linear_cka(x, y) > 0.3
    assert abs(linear_cka(x, y, debiased=True)) < 0.1


@pytest.mark.parametrize("rows", [4, 9, 40])
def test_debiased_cka_equals_the_estimator_with_gram_matrices(rows):
    """Song et al. 2012, equation 5: Gram matrices of rows that are not centred, their diagonals set to 0."""

    def hsic(k, m):
        n, ones = len(k), np.ones(len(k))
        k, m = k - np.diag(k.diagonal()), m - np.diag(m.diagonal())
        means = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + means - 2 / (n - 2) * ones @ k @ m @ ones) / (n * (n - 3))

    x = states(rows, 5) + 2
    y = states(rows, 3, 1) + 0.5 * x[:, :3]
    k, m = x @ x.T, y @ y.T

    assert linear_cka(x, y, debiased=True) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def test_debiased_cka_of_independent_states_is_0_on_average_and_the_plain_one_is_not():
    """Of d equally used directions the plain value is about d / (rows + d)."""
    pairs = [(states(100, 25, seed), states(100, 25, 1000 + seed)) for seed in range(50)]
    plain, debiased = ([linear_cka(x, y, choice) for x, y in pairs] for choice in (False, True))

    assert np.mean(plain) == pytest.approx(25 / 125, abs=0.01)
    assert abs(np.mean(debiased)) < 4 * np.std(debiased, ddof=1) / np.sqrt(50)


def test_linear_maps_that_are_no_rotation_change_cka():
    x = states(50, 4)

    assert linear_cka(x * [10, 1, 1, 1], x) < 0.9


def test_wrong_rows_are_errors():
    with pytest.raises(ValueError, match=r"same rows, got \[3, 4\]"):
        linear_cka(states(3, 2), states(4, 2))
    with pytest.raises(ValueError, match="at least 4 rows, got 3"):
        linear_cka(states(3, 2), states(3, 2), debiased=True)


def test_the_matrix_holds_every_pair():
    layers = np.stack([states(30, 4, seed) for seed in range(3)])
    found = cka_matrix(layers)

    np.testing.assert_allclose(found, [[linear_cka(a, b) for b in layers] for a in layers])
    np.testing.assert_allclose(found.diagonal(), 1)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_equal_singular_values_have_their_number_as_effective_rank(rank):
    basis = np.linalg.qr(states(50, rank) - states(50, rank).mean(0))[0]

    assert effective_rank(basis @ np.eye(rank, 6)) == pytest.approx(rank, rel=1e-6)


def test_effective_rank_is_the_exponential_of_the_entropy_of_singular_values():
    values = np.array([4.0, 2.0, 1.0])
    basis = np.linalg.qr(states(50, 3) - states(50, 3).mean(0))[0]
    shares = values / values.sum()

    assert effective_rank(basis * values) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


@given(SEEDS, st.floats(0.01, 100))
def test_rotation_scale_and_shift_leave_effective_rank_as_it_is(seed, scale):
    x = states(30, 5, seed) * [1, 2, 3, 4, 5]
    turned = scale * x @ ortho_group.rvs(5, random_state=seed % 2**32) + 1

    assert effective_rank(turned) == pytest.approx(effective_rank(x))
    assert 1 <= effective_rank(x) <= 5


def test_the_plane_shows_the_two_longest_axes_with_fixed_signs():
    x = states(200, 4) * [1, 10, 0.1, 5]
    plane = principal_plane(x.astype(np.float32))
    centred = x - x.mean(0)

    np.testing.assert_allclose(np.abs(np.corrcoef(plane.T, centred.T)[[0, 1], [3, 5]]), 1, atol=0.01)
    np.testing.assert_allclose(plane, PCA(2, svd_solver="full").fit_transform(x), rtol=1e-4, atol=1e-4)


@given(SEEDS)
def test_each_axis_points_where_its_largest_entry_is_positive(seed):
    x = states(30, 5, seed) * [5, 4, 3, 2, 1]
    plane = principal_plane(x)
    axes = np.linalg.lstsq(plane, x - x.mean(0), rcond=None)[0]  # states follow their coordinates along the axes

    assert all(axis[np.abs(axis).argmax()] > 0 for axis in axes)
    assert np.linalg.norm(plane[:, 0]) >= np.linalg.norm(plane[:, 1])
    np.testing.assert_allclose(principal_plane(x + 7), plane, atol=1e-6)


def test_states_that_are_all_equal_have_no_rank_and_are_like_nothing():
    equal = np.full((10, 3), 0.1)

    assert np.isnan(effective_rank(equal))
    assert np.isnan(linear_cka(equal, states(10, 3)))
