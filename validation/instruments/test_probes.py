"""Linear probes equal scikit-learn's, are chosen by held-out rows, and say what planted states say."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from layerwise.importance import probes
from layerwise.importance.probes import LOGISTIC_STRENGTHS, RIDGE_STRENGTHS, logistic_head, logistic_probe, ridge_probe


def rng(seed=0):
    return np.random.default_rng(seed)


def test_ridge_equals_scikit_learn_at_the_same_strength():
    states, targets = rng().normal(size=(200, 6)) * [1, 2, 3, 4, 5, 6] + 1, rng(1).normal(size=(200, 2))
    scaled = (states - states.mean(0)) / states.std(0)
    oracle = Ridge(alpha=0.1 * 200).fit(scaled, targets)  # theirs sums over rows, ours is a mean

    np.testing.assert_allclose(ridge_probe(states, targets, states, 0.1), oracle.predict(scaled), atol=1e-8)


@pytest.mark.parametrize("strength", LOGISTIC_STRENGTHS)
def test_logistic_head_equals_scikit_learn_at_the_same_strength(strength):
    labels = rng(1).integers(0, 3, 300)
    states = (rng().normal(size=(300, 5)) + labels[:, None] * [1, 0, -1, 0.5, 0]) * [1, 1e-3, 1e3, 1, 1] + 5
    mean, scale = states.mean(0), states.std(0)
    rows, classes = np.vstack([(states - mean) / scale, np.zeros((3, 5))]), np.append(labels, [0, 1, 2])
    oracle = LogisticRegression(C=1 / (strength * len(rows)), tol=1e-10, max_iter=5000).fit(rows, classes)

    head = logistic_head(states, labels, 3, strength)
    weight, bias = head.weight * scale, head.bias + head.weight @ mean

    # up to what all classes share, which softmax does not see and a weak penalty hardly decides
    np.testing.assert_allclose(weight - weight.mean(0), oracle.coef_, atol=1e-3)
    np.testing.assert_allclose(bias - bias.mean(), oracle.intercept_ - oracle.intercept_.mean(), atol=1e-3)
    np.testing.assert_allclose(
        logistic_probe(states, labels, states, 3, strength), oracle.predict_log_proba(rows[:-3]), atol=1e-4
    )


def test_a_head_reads_states_as_they_are():
    labels = rng(1).integers(0, 3, 200)
    states = 7 * rng().normal(size=(200, 4)) + 30
    head = logistic_head(states, labels, 3, 0.1)

    np.testing.assert_allclose(
        head.log_probabilities(states), logistic_probe(states, labels, states, 3, 0.1), atol=1e-12
    )
    np.testing.assert_allclose(head.logits(states), states @ head.weight.T + head.bias, atol=1e-9)


def test_separable_classes_are_told_apart_and_useless_states_give_the_shares():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    useful = np.eye(3)[labels] + 0.01 * rng().normal(size=(100, 3))
    useless = np.zeros((100, 3))

    assert (logistic_probe(useful, labels, useful, 4).argmax(1) == labels).all()
    np.testing.assert_allclose(
        np.exp(logistic_probe(useless, labels, useless[:1], 4)[0]), np.array([61, 31, 11, 1]) / 104, atol=1e-4
    )


def test_strengths_are_chosen_by_held_out_rows():
    """Noise asks for a strong penalty: a chosen strength foretells new rows better than a weak one."""
    train, test = rng(0).normal(size=(80, 40)), rng(1).normal(size=(500, 40))
    truth = np.eye(40)[:, :1]
    targets, wanted = (x @ truth + 2 * rng(2).normal(size=(len(x), 1)) for x in (train, test))

    chosen, weak = (np.square(ridge_probe(train, targets, test, s) - wanted).mean() for s in (None, 1e-6))

    assert chosen < weak


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, -1, 1, 0]])
def test_labels_outside_the_classes_are_an_error(labels):
    with pytest.raises(ValueError, match="labels within"):
        logistic_head(np.eye(4), np.array(labels), 3)


def test_without_a_strength_the_best_on_held_out_rows_is_fitted_to_all_rows():
    """Among the candidates, by a search of our own over the same fifth of the rows."""
    labels = rng(1).integers(0, 2, 60)
    states = rng(4).normal(size=(60, 20)) + 0.5 * labels[:, None]
    out = rng(0).permutation(60) < 12
    scaled = (states - states.mean(0)) / states.std(0)

    def log_loss(strength):
        told = logistic_probe(scaled[~out], labels[~out], scaled[out], 2, strength)
        return -told[np.arange(12), labels[out]].mean()

    best = min(LOGISTIC_STRENGTHS, key=log_loss)
    assert min(LOGISTIC_STRENGTHS) < best < max(LOGISTIC_STRENGTHS)
    np.testing.assert_array_equal(
        logistic_probe(states, labels, states, 2), logistic_probe(states, labels, states, 2, best)
    )


def test_useless_states_predict_nearly_the_mean_of_the_targets():
    states, targets, new = rng().normal(size=(400, 30)), rng(2).normal(size=(400, 4)), rng(3).normal(size=(50, 30))
    mean = np.tile(targets.mean(0), (50, 1))

    unpenalised = ridge_probe(states, targets, new, min(RIDGE_STRENGTHS))
    assert np.abs(unpenalised - mean).max() > 0.5
    np.testing.assert_allclose(ridge_probe(states, targets, new), mean, atol=0.1)
    np.testing.assert_allclose(ridge_probe(states, targets, new, np.inf), mean)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_planted_linear_targets_are_found(dtype):
    states = rng().normal(size=(200, 6)).astype(dtype) * [1, 10, 0.1, 1, 1, 1] + 3
    weight = rng(1).normal(size=(6, 3))

    found = ridge_probe(states[:150], states[:150] @ weight + 2, states[150:])
    np.testing.assert_allclose(found, states[150:] @ weight + 2, rtol=1e-4, atol=1e-4)


def test_constant_dimension_is_not_read():
    """It has no spread to be standardised by; in new rows it may vary."""
    labels = rng(1).integers(0, 2, 100)
    states = np.column_stack([rng().normal(size=100) + labels, np.full(100, 0.1)])
    new = states + np.array([0, 1e6])

    for probe, targets, rest in ((ridge_probe, np.eye(2)[labels], ()), (logistic_probe, labels, (2,))):
        without = probe(states[:, :1], targets, new[:, :1], *rest, strength=0.1)
        np.testing.assert_allclose(probe(states, targets, new, *rest, strength=0.1), without, atol=1e-3)


def test_nearly_collinear_states_converge():
    states = np.repeat(rng().normal(size=(500, 1)), 32, axis=1) + 1e-6 * rng(1).normal(size=(500, 32))
    labels = (states[:, 0] > 0).astype(int)

    assert (logistic_probe(states, labels, states, 2).argmax(1) == labels).mean() > 0.95


def test_same_rows_give_the_same_bytes():
    labels, states = rng(1).integers(0, 3, 90), rng().normal(size=(90, 8)).astype(np.float32)

    assert logistic_head(states, labels, 3).weight.tobytes() == logistic_head(states, labels, 3).weight.tobytes()


@pytest.mark.parametrize(
    ("states", "labels", "strength", "message"),
    [
        (np.full((3, 2), np.nan), [0, 1, 1], None, "finite, got 6 values"),
        (np.eye(3), [0, 1], None, "got 2 for 3"),
        (np.eye(1), [0], None, "got 1 for 1"),
        (np.eye(3), [0, 1, 1], 0.0, "above 0, got 0.0"),
        (np.eye(3), [0, 1, 1], np.inf, "finite strength, got inf"),
    ],
)
def test_what_cannot_be_fitted_is_an_error(states, labels, strength, message):
    with pytest.raises(ValueError, match=message):
        logistic_head(states, np.array(labels), 2, strength)


def test_fit_that_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr(probes, "GRADIENT_TOLERANCE", 1e-30)  # finer than fp64

    with pytest.raises(RuntimeError, match="stopped at a gradient"):
        logistic_head(rng().normal(size=(90, 8)), rng(1).integers(0, 3, 90), 3, 0.01)
