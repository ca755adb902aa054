"""Gains in accuracy, F1 and AUC-ROC over seeds and users: values by hand and by scikit-learn, errors by simulation."""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn

from layerwise.statistics import ClassificationGain, MeanDifference, Region, judge
from layerwise.statistics.classification_gain import METRICS, metric_of, weighted_metric
from layerwise.statistics.worlds import world_at

ORACLES = {
    "accuracy": lambda p, y: sklearn.accuracy_score(y, p > 0.5),
    "precision": lambda p, y: sklearn.precision_score(y, p > 0.5),
    "recall": lambda p, y: sklearn.recall_score(y, p > 0.5),
    "f1": lambda p, y: sklearn.f1_score(y, p > 0.5),
    "auc-roc": lambda p, y: sklearn.roc_auc_score(y, p),
}
LABELS, USERS = np.array([1.0, 0, 1, 0]), np.array([7.0, 7, 9, 9])


def sample(rng, seeds=5, users=40, gain=0.0, seed_noise=0.0, user_noise=0.5):
    """Two arms that read the same examples of users with 1 to 12 examples; ours knows more by `gain`.

    Seeds differ by `seed_noise` in what they know, users in how well either arm does on them.
    """
    sizes = rng.integers(1, 13, size=users)
    user = np.repeat(np.arange(users), sizes)
    labels = (rng.random(len(user)) < 0.55).astype(float)
    margin, shared = 2 * labels - 1, rng.normal(size=len(user))
    odds = []
    for knows, by_seed in ((0.4 + gain, seed_noise), (0.4, 0.0)):
        skill = knows + by_seed * rng.normal(size=(seeds, 1)) + user_noise * rng.normal(size=users)[user]
        odds.append(skill * margin + shared + 0.5 * rng.normal(size=(seeds, len(user))))
    ours, theirs = (1 / (1 + np.exp(-values)) for values in odds)
    return ours, theirs, labels, user.astype(float)


def gain(*arrays, metric="accuracy"):
    return ClassificationGain(*arrays, metric)


def test_gains_by_hand():
    """Ours calls both likes and one dislike; theirs one like: 3/4 - 3/4 right, F1 4/5 - 2/3, pairs won 4/4 - 2/4."""
    ours, theirs = [[0.9, 0.6, 0.8, 0.1]], [[0.9, 0.4, 0.3, 0.4]]

    gains = [gain(ours, theirs, LABELS, USERS, metric=metric).estimate for metric in ("accuracy", "f1", "auc-roc")]

    assert gains == pytest.approx([0, 100 * (4 / 5 - 2 / 3), 50])


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_agree_with_scikit_learn_also_with_ties(metric):
    rng = np.random.default_rng(1)
    chances, labels = rng.integers(0, 12, 300) / 11, (rng.random(300) < 0.4).astype(float)

    assert metric_of(metric, chances, labels) == pytest.approx(ORACLES[metric](chances, labels), rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_a_user_drawn_twice_counts_as_two(metric):
    """A sample of users gives what the metric gives on the examples written out as often as their users were drawn."""
    ours, _, labels, users = sample(np.random.default_rng(2), seeds=1, users=12)
    counts = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=4)
    user = users.astype(np.int64)

    found = weighted_metric(metric, ours[0].round(1), labels, user, counts.astype(float))

    for row, draws in zip(found, counts, strict=True):
        copies = np.repeat(np.arange(len(user)), draws[user])
        assert row == pytest.approx(ORACLES[metric](ours[0].round(1)[copies], labels[copies]), rel=1e-12)


def test_with_one_example_per_user_the_error_of_accuracy_is_that_of_a_mean_difference():
    """Only the bootstrap, known to some percent, stands between the two."""
    rng = np.random.default_rng(4)
    labels = (rng.random(400) < 0.5).astype(float)
    ours, theirs = rng.random((5, 400)), rng.random((5, 400))
    right = [((arm > 0.5) == labels).astype(float) for arm in (ours, theirs)]
    plain = MeanDifference(100 * (right[0] - right[1]), "points").summary

    found = gain(ours, theirs, labels, np.arange(400.0)).summary

    assert found.mean == pytest.approx(plain.mean)
    assert found.standard_error == pytest.approx(plain.standard_error, rel=0.15)


def test_examples_of_one_user_are_no_independent_examples():
    """Each user's ten examples are copies of one: the error is that of the users, sqrt(10) times that of examples."""
    rng = np.random.default_rng(5)
    users, once = np.arange(100.0), [rng.random((1, 100)), rng.random((1, 100)), (rng.random(100) < 0.5) * 1.0]
    tenfold = [np.repeat(array, 10, axis=-1) for array in once]

    clustered = gain(*tenfold, np.repeat(users, 10)).summary.standard_error
    naive = gain(*tenfold, np.arange(1000.0)).summary.standard_error

    assert clustered == pytest.approx(gain(*once, users).summary.standard_error, rel=1e-9)
    assert clustered == pytest.approx(math.sqrt(10) * naive, rel=0.15)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auc-roc"])
def test_equal_arms_tie_exactly(metric):
    ours, _, labels, users = sample(np.random.default_rng(6))

    effect = gain(ours, ours, labels, users, metric=metric)

    assert (effect.estimate, effect.summary.standard_error) == (0, 0)
    assert judge(effect, Region(low=0.0, open_low=True), 0.01).outcome == "refuted"


def test_a_metric_that_nothing_defines_is_invalid_and_one_that_a_draw_leaves_undefined_inconclusive():
    flat = [[0.1, 0.1, 0.1, 0.1]]
    never = gain(flat, flat, np.zeros(4), USERS, metric="auc-roc")
    seldom = gain(flat, flat, np.array([1.0, 1, 0, 0]), USERS, metric="auc-roc")

    assert judge(never, Region(low=0.0), 0.01).outcome == "invalid"
    assert judge(seldom, Region(low=0.0), 0.01).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"metric": "lift"}, "metric must be one of accuracy"),
        ({"ours": [[0.5, 0.5, 0.5, 1.5]]}, "ours must be probabilities, got 0.5 to 1.5"),
        ({"labels": [1.0, 2, 0, 0]}, "labels must be 0 or 1"),
        ({"users": [3.0, 3, 3, 3]}, "at least 2 users"),
        ({"labels": [1.0, 0, 0]}, "must agree in examples"),
        ({"theirs": [[0.5, 0.5]]}, "need the same shape"),
    ],
)
def test_evidence_that_cannot_be_compared_is_refused(changes, error):
    good = {"ours": [[0.5] * 4], "theirs": [[0.5] * 4], "labels": LABELS, "users": USERS, "metric": "f1"}

    with pytest.raises(ValueError, match=error):
        ClassificationGain(**{**good, **changes})


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auc-roc"])
@pytest.mark.parametrize("seed_noise", [0.0, 0.3])
def test_claims_that_are_not_true_are_supported_as_rarely_as_declared(metric, seed_noise):
    """No arm is ahead: of 300 samples at most 4.3 % (5 events expected 3, plus three deviations) at alpha 1 %."""
    rng = np.random.default_rng(7)
    region = Region(low=0.0, open_low=True)
    outcomes = [
        judge(gain(*sample(rng, seed_noise=seed_noise), metric=metric), region, 0.01).outcome.value for _ in range(300)
    ]

    assert outcomes.count("supported") <= 8
    assert outcomes.count("refuted") <= 8


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auc-roc"])
def test_intervals_cover_a_real_gain(metric):
    """The truth is the mean over many samples; 95 % of 200 intervals hold it, give or take 3.5 deviations (5.4 %)."""
    rng = np.random.default_rng(8)
    truth = np.mean([gain(*sample(rng, gain=0.5, seed_noise=0.2), metric=metric).estimate for _ in range(3000)])
    intervals = [gain(*sample(rng, gain=0.5, seed_noise=0.2), metric=metric).interval(0.95) for _ in range(200)]

    assert truth > 5
    assert np.mean([one.low <= truth <= one.high for one in intervals]) >= 0.896


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auc-roc"])
@pytest.mark.parametrize("truth", [0.0, 3.0])
def test_worlds_scatter_around_the_truth_that_was_asked_for(metric, truth):
    """With the error that the evidence states; 300 worlds know their mean to 1/17 of it."""
    effect = gain(*sample(np.random.default_rng(9), gain=0.5, seed_noise=0.2, users=80), metric=metric)
    rng = np.random.default_rng(10)

    found = np.array([world_at(effect, truth, rng).estimate for _ in range(300)])

    error = effect.summary.standard_error
    assert found.mean() == pytest.approx(truth, abs=0.25 * error)
    assert found.std() == pytest.approx(error, rel=0.35)


def test_a_world_has_as_many_users_and_its_own_numbers_for_them():
    effect = gain(*sample(np.random.default_rng(11)))

    world = world_at(effect, 0.0, np.random.default_rng(12))

    assert (world.num_units, world.num_seeds) == (effect.num_units, effect.num_seeds)
    assert not np.array_equal(world.ours, effect.ours[:, : world.ours.shape[1]])
