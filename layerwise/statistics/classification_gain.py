"""By how many points one classifier is ahead of another, with an error over seeds and users."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.stats import rankdata

from layerwise.statistics.base import Effect, Interval, detectable_distance, symmetric_interval
from layerwise.statistics.bootstrap import drawn_counts, variance_parts_of_draws
from layerwise.statistics.tables import FloatArray, as_table, check_same_shape
from layerwise.statistics.two_way import TwoWay, combine

METRICS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "auc-roc": "AUC-ROC"}
THRESHOLD = 0.5  # a probability above it says yes


@dataclass(frozen=True, eq=False)
class ClassificationGain(Effect):
    """Mean over seeds of a metric of one classifier minus the same of another, in points (100 is a whole metric).

    Users have different numbers of examples, so that accuracy is a ratio of two sums over users; F1 and AUC-ROC are
    no means at all (an AUC-ROC compares the examples of every two users). All are therefore seen through a bootstrap
    over users with all their examples, the same draws for all seeds and both arms, combined with the variance
    between seeds as in `two_way`. The degrees of freedom are Satterthwaite's.

    Args:
        ours: probability of the positive class by the classifier that is ahead, shape [seeds, examples], 0 to 1.
        theirs: by the other one, same shape.
        labels: 1 for a positive example, else 0, shape [examples].
        users: number of the user of each example, any whole numbers, shape [examples]; at least two users.
        metric: one of `METRICS`.
    """

    ours: FloatArray
    theirs: FloatArray
    labels: FloatArray
    users: FloatArray
    metric: str
    kind: ClassVar[str] = "classification-gain"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        for name, axes in (("ours", 2), ("theirs", 2), ("labels", 1), ("users", 1)):
            names = ("seeds", "examples")[-axes:]
            object.__setattr__(self, name, as_table(name, getattr(self, name), axes=names))
        check_same_shape("ours", self.ours, "theirs", self.theirs)
        if not self.ours.shape[1:] == self.labels.shape == self.users.shape:
            shapes = self.ours.shape, self.labels.shape, self.users.shape
            raise ValueError(f"arms, labels and users must agree in examples, got shapes {shapes}")
        for name in ("ours", "theirs"):
            if (values := getattr(self, name)).min() < 0 or values.max() > 1:
                raise ValueError(f"{name} must be probabilities, got {values.min()} to {values.max()}")
        if not np.isin(self.labels, (0.0, 1.0)).all():
            raise ValueError(f"labels must be 0 or 1, got {np.unique(self.labels)[:5].tolist()}")
        if self.num_units < 2:
            raise ValueError("a gain needs examples of at least 2 users to have an error, got 1")

    @property
    def unit(self) -> str:  # type: ignore[override]
        """For example "points of F1"."""
        return f"points of {METRICS[self.metric]}"

    @cached_property
    def per_seed(self) -> FloatArray:
        """The gain of every seed in points, shape [seeds]; nan where the metric is undefined."""
        return 100 * (self._of_all(self.ours) - self._of_all(self.theirs))

    def _of_all(self, arm: FloatArray) -> FloatArray:
        return np.array([metric_of(self.metric, chances, self.labels) for chances in arm])

    @property
    def estimate(self) -> float:
        """Mean over seeds, in points; nan as soon as one seed's is undefined."""
        return float(self.per_seed.mean())

    @property
    def num_seeds(self) -> int:
        """Number of seeds."""
        return len(self.ours)

    @cached_property
    def num_units(self) -> int:
        """Number of users."""
        return len(np.unique(self.users))

    @cached_property
    def summary(self) -> TwoWay:
        """Mean, standard error and degrees of freedom over seeds and users.

        The error is infinite when a bootstrap sample of users leaves the metric undefined.
        """
        if math.isnan(self.estimate):
            return TwoWay(math.nan, math.nan, math.inf, 0.0)
        counts = np.stack(list(drawn_counts(self.num_units))).astype(np.float64)
        draws = np.stack([self._drawn(*arms, counts) for arms in zip(self.ours, self.theirs, strict=True)], axis=1)
        if np.isnan(draws).any():
            return TwoWay(self.estimate, math.inf, math.inf, 0.0)
        parts = variance_parts_of_draws(self.per_seed, draws)
        return combine(self.estimate, parts, (self.num_seeds, self.num_units))

    def _drawn(self, ours: FloatArray, theirs: FloatArray, counts: FloatArray) -> FloatArray:
        """A seed's gain for samples of users, shape [samples]."""
        user = np.unique(self.users, return_inverse=True)[1]
        of = [weighted_metric(self.metric, arm, self.labels, user, counts) for arm in (ours, theirs)]
        return 100 * (of[0] - of[1])

    def against(self, edge: float) -> TwoWay:
        """The mean gain minus the edge."""
        return self.summary.minus(edge)

    def interval(self, level: float) -> Interval:
        """The t interval with two-way variance, cut to what is possible."""
        low, high = np.clip(symmetric_interval(self.summary, level), -100.0, 100.0)
        return Interval(float(low), float(high), level)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Smallest detectable distance, in points."""
        return detectable_distance(self.summary, alpha, power)

    def evidence(self) -> dict[str, FloatArray]:
        """Probabilities of both arms, labels and users."""
        return {"ours": self.ours, "theirs": self.theirs, "labels": self.labels, "users": self.users}

    def text(self) -> dict[str, str]:
        """The metric."""
        return {"metric": self.metric}

    def describe(self) -> str:
        """For example "+4.1 points of accuracy"."""
        if math.isnan(self.estimate):
            return f"gain in {METRICS[self.metric]} undefined (a class is missing, or nothing is called positive)"
        return f"{self.number(self.estimate)} {self.unit}"

    def number(self, value: float) -> str:
        """One decimal with sign."""
        return f"{value:+.1f}"

    def edge(self, value: float) -> str:
        """For example "+3 points"."""
        return f"{value:+g} points"

    def shifted(self, gains: FloatArray) -> ClassificationGain:
        """The same sample with other gains of the seeds, for worlds in which the truth is known.

        The log odds of `ours` move by one amount per seed, towards the label or away from it: examples and users keep
        their differences, and each of the metrics rises with the amount. Gains that no amount gives come as near as
        the number of examples allows.

        Args:
            gains: of every seed in points, shape [seeds].
        """
        margin = 2 * self.labels - 1
        odds = np.log(np.clip(self.ours, 1e-12, 1.0)) - np.log(np.clip(1 - self.ours, 1e-12, 1.0))
        low, high = np.full(self.num_seeds, -60.0), np.full(self.num_seeds, 60.0)
        start = self._of_all(self.theirs)
        for _ in range(50):
            middle = (low + high) / 2
            moved = 1 / (1 + np.exp(-(odds + middle[:, None] * margin)))
            short = 100 * (self._of_all(moved) - start) < gains
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        return replace(self, ours=1 / (1 + np.exp(-(odds + high[:, None] * margin))))


def metric_of(metric: str, chances: FloatArray, labels: FloatArray) -> float:
    """A metric over all examples, 0 to 1; nan where its definition divides by nothing."""
    everyone = np.zeros(len(labels), dtype=np.int64)
    if metric != "auc-roc":
        return float(weighted_metric(metric, chances, labels, everyone, np.ones((1, 1)))[0])
    positives, negatives = labels.sum(), (1 - labels).sum()
    if not positives or not negatives:
        return math.nan
    above = rankdata(chances)[labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def weighted_metric(
    metric: str, chances: FloatArray, labels: FloatArray, user: np.ndarray, counts: FloatArray
) -> FloatArray:
    """A metric for samples of users, each with all examples, shape [samples]; nan where it is undefined.

    Args:
        metric: one of `METRICS`.
        chances: probability of the positive class, shape [examples].
        labels: 0 or 1, shape [examples].
        user: number of the user, 0 to users - 1, shape [examples].
        counts: how often each user is in a sample, shape [samples, users].
    """
    called = (chances > THRESHOLD).astype(np.float64)

    def total(values: FloatArray) -> FloatArray:
        return counts @ np.bincount(user, weights=values, minlength=counts.shape[1])

    positives = total(labels)
    match metric:
        case "accuracy":
            part, whole = total((called == labels).astype(np.float64)), total(np.ones_like(labels))
        case "precision":
            part, whole = total(called * labels), total(called)
        case "recall":
            part, whole = total(called * labels), positives
        case "f1":
            part, whole = 2 * total(called * labels), total(called) + positives
        case _:
            wins = _wins(chances, labels, user, counts.shape[1])
            part, whole = ((counts @ wins) * counts).sum(axis=1), positives * total(1 - labels)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _wins(chances: FloatArray, labels: FloatArray, user: np.ndarray, users: int) -> FloatArray:
    """Pairs in which a positive example of one user is above a negative one of another, ties half; users x users."""
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    order = negative[np.argsort(chances[negative], kind="stable")]
    below = np.zeros((len(order) + 1, users))  # [k, u]: of the k lowest negatives, how many are user u's
    np.add.at(below, (np.arange(1, len(order) + 1), user[order]), 1.0)
    below = below.cumsum(axis=0)
    left, right = (np.searchsorted(chances[order], chances[positive], side=side) for side in ("left", "right"))
    wins = np.zeros((users, users))
    np.add.at(wins, user[positive], (below[left] + below[right]) / 2)
    return wins
