"""The bound on mutual information: what it is in known cases, and that it finds nothing where there is nothing."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from layerwise.importance.information import information_about, mutual_information


def rng(seed):
    return np.random.default_rng(seed)


def gaussians(rows, seed, distance=2.0, hidden=1):
    """Two equally frequent classes around two means, `distance` standard deviations apart in the first direction."""
    labels = rng(seed).integers(0, 2, rows)
    states = rng(seed + 10_000).normal(size=(rows, hidden))
    states[:, 0] += distance * (labels - 0.5)
    return states, labels


def between_gaussians(distance):
    """I(S; Y) in nats by numerical integration: log 2 minus the mean entropy of the posterior."""

    def integrand(x):
        densities = norm.pdf(x, [-distance / 2, distance / 2])
        return sum(d / 2 * np.log(d / densities.mean()) for d in densities)

    return quad(integrand, -12, 12)[0]


def standard_error(values):
    return values.std(ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0, 4.0])
def test_information_about_two_gaussians_is_that_of_the_integral(distance):
    """Their posterior is logistic in the state, so the bound is tight but for what 5,000 rows leave to be learned."""
    values = mutual_information(*gaussians(5000, 0, distance), *gaussians(20_000, 1, distance), 2)

    assert values.mean() == pytest.approx(between_gaussians(distance), abs=4 * standard_error(values) + 0.002)


def test_information_that_is_not_linear_is_not_found():
    """A bound from below: the label is the size of the state, and a linear classifier cannot read it."""
    (states, _), (others, _) = gaussians(4000, 0, distance=0), gaussians(4000, 1, distance=0)
    labels, asked = (np.abs(s[:, 0]) > norm.ppf(0.75) for s in (states, others))
    linear = mutual_information(states, labels.astype(int), others, asked.astype(int), 2)
    squared = mutual_information(states**2, labels.astype(int), others**2, asked.astype(int), 2)

    assert linear.mean() < 0.005
    assert squared.mean() > 0.5


def test_unrelated_states_are_not_found_informative_more_often_than_the_level_says():
    """One-sided at 2.5 %: of 40 draws, 5 or more would come with a chance of .3 %."""
    found = 0
    for seed in range(40):
        (states, _), (others, labels) = gaussians(300, 2 * seed, hidden=8), gaussians(300, 2 * seed + 1, hidden=8)
        values = mutual_information(
            states, rng(seed).integers(0, 2, 300), others, rng(900 + seed).permutation(labels), 2
        )
        found += values.mean() > 1.96 * standard_error(values)

    assert found < 5


@pytest.mark.parametrize("num_classes", [2, 4, 8])
def test_label_that_the_state_gives_away_has_the_information_of_its_entropy(num_classes):
    labels = np.arange(4000) % num_classes
    values = mutual_information(
        np.eye(num_classes)[labels], labels, np.eye(num_classes), np.arange(num_classes), num_classes
    )

    assert values.mean() == pytest.approx(np.log(num_classes), abs=0.02)
    assert values.mean() < np.log(num_classes)


def test_class_that_was_never_seen_has_a_finite_value():
    states, labels = gaussians(200, 0)
    values = mutual_information(states, labels, np.zeros((1, 1)), np.array([2]), 3)

    assert np.isfinite(values).all()


def test_values_by_hand():
    """Training labels 0, 0, 1 of three classes: shares 3/6, 2/6, 1/6 with one row added of each."""
    told = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]])
    found = information_about(told, np.array([0, 2, 1]), np.array([0, 0, 1]))

    np.testing.assert_allclose(found, np.log([0.5 / (3 / 6), 0.8 / (1 / 6), 0.05 / (2 / 6)]))


def test_wrong_labels_and_rows_are_errors():
    states, labels = gaussians(20, 0)
    with pytest.raises(ValueError, match=r"test labels must lie within \[0, 2\)"):
        mutual_information(states, labels, states, labels + 1, 2)
    with pytest.raises(ValueError, match="got 19 for 20"):
        mutual_information(states, labels, states, labels[1:], 2)
