"""CKA between states, effective rank, and the plane of a picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group

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
    plane = principal_plane(x)

    assert plane.shape == (200, 2)
    correlation = np.corrcoef(np.column_stack([plane, x]).T)
    assert abs(correlation[0, 3]) > 0.99
    assert abs(correlation[1, 5]) > 0.99
    np.testing.assert_allclose(np.abs(principal_plane(-x)), np.abs(plane), atol=1e-8)
    np.testing.assert_array_equal(principal_plane(x), plane)
