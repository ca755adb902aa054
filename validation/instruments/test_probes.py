"""States at the asked position, linear probes, and the information they read."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from sklearn.linear_model import LogisticRegression, Ridge

from layerwise.importance.information import mutual_information
from layerwise.importance.probes import logistic_head, logistic_probe, ridge_probe
from layerwise.importance.states import asked_states
from layerwise.models.families import FAMILIES, Shape
from layerwise.models.layers import stacks_of
from layerwise.models.recommender import build_recommender

HISTORIES = [np.array(items) for items in ([0, 1, 2], [3], [4, 5], [6, 7, 8, 9], [10, 11, 0, 1, 2, 3, 4])]


def rng(seed=0):
    return np.random.default_rng(seed)


def made(family):
    return build_recommender(family, 12, 5, Shape(4, 16, 24, 2), seed=0).eval()


# States


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_that_leave_the_layers_where_the_recommender_asks(family):
    recommender = made(family)

    found = asked_states(recommender, HISTORIES, batch_size=2)

    assert found.shape == (4, 5, 16)
    for row, history in enumerate(HISTORIES):
        batch = recommender.batch([history])
        last, seen, hooks = int(batch["last"][0]), [], []
        for layers in stacks_of(recommender).values():
            place = last if family != "t5" or layers is list(stacks_of(recommender).values())[1] else -1
            for layer in layers:

                def keep(_, inputs, output, place=place, seen=seen):
                    state = output[0] if isinstance(output, tuple) else output
                    seen.append(state[0, place].detach().numpy())

                hooks.append(layer.register_forward_hook(keep))
        with torch.inference_mode():
            recommender(**batch)
        for hook in hooks:
            hook.remove()
        np.testing.assert_allclose(found[:, row], seen, atol=1e-5)


def test_states_need_a_history():
    with pytest.raises(ValueError, match=r"histories are empty: \[1\]"):
        asked_states(made("llama"), [np.array([1]), np.array([], dtype=np.int64)])


# Probes


def test_ridge_equals_scikit_learn_at_the_same_strength():
    states, targets = rng().normal(size=(200, 6)) * [1, 2, 3, 4, 5, 6] + 1, rng(1).normal(size=(200, 2))
    scaled = (states - states.mean(0)) / states.std(0)
    oracle = Ridge(alpha=0.1 * 200).fit(scaled, targets)  # theirs sums over rows, ours is a mean

    np.testing.assert_allclose(ridge_probe(states, targets, states, 0.1), oracle.predict(scaled), atol=1e-8)


def test_logistic_head_equals_scikit_learn_at_the_same_strength():
    labels = rng(1).integers(0, 3, 300)
    states = rng().normal(size=(300, 5)) + labels[:, None] * [1, 0, -1, 0.5, 0]
    scaled = (states - states.mean(0)) / states.std(0)
    rows, classes = np.vstack([scaled, np.zeros((3, 5))]), np.append(labels, [0, 1, 2])
    oracle = LogisticRegression(C=1 / (0.01 * len(rows)), tol=1e-10, max_iter=5000).fit(rows, classes)

    found = logistic_probe(states, labels, states, 3, 0.01)

    np.testing.assert_allclose(found, oracle.predict_log_proba(scaled), atol=2e-3)


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


# Information


def gaussians(rows, seed, distance=2.0):
    labels = rng(seed).integers(0, 2, rows)
    return rng(seed + 100).normal(size=(rows, 1)) + distance * (labels[:, None] - 0.5), labels


def test_information_about_two_gaussians_is_that_of_the_integral():
    def density(x, mean):
        return np.exp(-((x - mean) ** 2) / 2) / np.sqrt(2 * np.pi)

    def integrand(x):
        a, b = density(x, -1), density(x, 1)
        return 0.5 * a * np.log(2 * a / (a + b)) + 0.5 * b * np.log(2 * b / (a + b))

    truth = quad(integrand, -10, 10)[0]
    values = mutual_information(*gaussians(4000, 0), *gaussians(4000, 1), 2)

    assert values.mean() == pytest.approx(truth, abs=3 * values.std() / np.sqrt(len(values)) + 0.005)


def test_information_about_unrelated_labels_is_not_positive_and_of_known_ones_the_entropy():
    states, _ = gaussians(1000, 0)
    others, labels = gaussians(1000, 1)
    unrelated = rng(5).integers(0, 2, 1000)
    values = mutual_information(states, unrelated, others, labels, 2)
    known = mutual_information(np.eye(4)[np.arange(400) % 4], np.arange(400) % 4, np.eye(4), np.arange(4), 4)

    assert values.mean() < 3 * values.std() / np.sqrt(1000)
    assert known.mean() == pytest.approx(np.log(4), abs=0.15)
    assert known.mean() <= np.log(4)


def test_information_is_higher_where_states_say_more():
    near, far = (mutual_information(*gaussians(1500, 0, d), *gaussians(1500, 1, d), 2).mean() for d in (1.0, 3.0))

    assert near < far
