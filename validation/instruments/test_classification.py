"""Classification metrics: by hand at the edges, by scikit-learn elsewhere."""

import math

import numpy as np
import pytest
from sklearn import metrics as sklearn

from layerwise.evaluation.classification import METRICS, classification_metrics
from layerwise.statistics.classification_gain import metric_of


def test_metrics_by_hand():
    """Called: examples 0, 1, 2, of which 0 and 2 are likes; of 2 x 2 pairs 3 are in order and one is tied."""
    found = classification_metrics([0.9, 0.7, 0.7, 0.2], [1, 0, 1, 0])

    assert found == {"accuracy": 3 / 4, "precision": 2 / 3, "recall": 1, "f1": 4 / 5, "auc-roc": 3.5 / 4}


def test_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    chances, labels = rng.integers(0, 40, 500) / 39, rng.random(500) < 0.4

    found = classification_metrics(chances, labels)

    called = chances > 0.5
    assert found == pytest.approx(
        {
            "accuracy": sklearn.accuracy_score(labels, called),
            "precision": sklearn.precision_score(labels, called),
            "recall": sklearn.recall_score(labels, called),
            "f1": sklearn.f1_score(labels, called),
            "auc-roc": sklearn.roc_auc_score(labels, chances),
        }
    )


def test_effects_and_tables_compute_the_same_metrics():
    rng = np.random.default_rng(1)
    chances, labels = rng.random(200), (rng.random(200) < 0.6).astype(float)

    found = classification_metrics(chances, labels)

    assert {metric: metric_of(metric, chances, labels) for metric in METRICS} == pytest.approx(found)


@pytest.mark.parametrize(
    ("chances", "labels", "undefined"),
    [
        ([0.1, 0.2], [1, 0], {"precision"}),
        ([0.1, 0.2], [0, 0], {"precision", "recall", "f1", "auc-roc"}),
        ([0.9, 0.2], [1, 1], {"auc-roc"}),
    ],
)
def test_what_divides_by_nothing_is_undefined(chances, labels, undefined):
    found = classification_metrics(chances, labels)

    assert {name for name, value in found.items() if math.isnan(value)} == undefined


def test_one_half_says_no():
    assert classification_metrics([0.5], [0])["accuracy"] == 1


@pytest.mark.parametrize(
    ("chances", "labels", "error"),
    [
        ([], [], "one probability per label"),
        ([0.1], [1, 0], "one probability per label"),
        ([float("nan")], [1], "must lie in"),
        ([1.1], [1], "must lie in"),
        ([0.1], [2], "labels must be 0 or 1, got"),
    ],
)
def test_what_cannot_be_judged_is_refused(chances, labels, error):
    with pytest.raises(ValueError, match=error):
        classification_metrics(chances, labels)
