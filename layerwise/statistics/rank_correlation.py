"""Rank correlation of layer scores with removal damage, with an error over seeds and users."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.stats import rankdata

from layerwise.statistics.base import Effect, Interval, detectable_distance, symmetric_interval
from layerwise.statistics.tables import FloatArray, as_table
from layerwise.statistics.two_way import TwoWay, combine

BOOTSTRAP_SAMPLES = 400  # the standard error is then known to about 4 %
BOOTSTRAP_SEED = 20_260_117  # fixed: the same evidence gives the same interval


@dataclass(frozen=True, eq=False)
class RankCorrelation(Effect):
    """Mean over seeds of the Spearman correlation between a score per layer and the layer's removal damage.

    Seeds and users are samples; layers are not: the claim is about the layers of this architecture. Damage is
    a mean over users, and its noise pulls the correlation towards 0, less so with more users; the interval is
    about the correlation at this number of users. It keeps its level where the correlation is 0, the edge that
    claims are tested against; between seeds that differ widely around a high correlation, Spearman is skewed, and
    five seeds cover 93 % at nominal 95 %.

    Args:
        scores: importance of every layer, shape [seeds, layers], at least three layers, finite.
        damage: loss in the metric when a layer is bypassed, shape [seeds, layers, users], at least two users.

    References:
        Spearman (1904), average ranks for ties. The error follows `two_way`, with a bootstrap over users (the
        same draws for all seeds) in place of user means, because a rank correlation is no mean over users.
    """

    scores: FloatArray
    damage: FloatArray
    unit: str = field(init=False, default="Spearman correlation")
    kind: ClassVar[str] = "rank-correlation"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", as_table("scores", self.scores, axes=("seeds", "layers")))
        object.__setattr__(self, "damage", as_table("damage", self.damage, axes=("seeds", "layers", "users")))
        if self.scores.shape != self.damage.shape[:2]:
            raise ValueError(
                "scores [seeds, layers] and damage [seeds, layers, users] must agree in seeds and layers, "
                f"got {self.scores.shape} and {self.damage.shape}"
            )
        if self.scores.shape[1] < 3:
            raise ValueError(f"a rank correlation needs at least 3 layers, got {self.scores.shape[1]}")

    @cached_property
    def per_seed(self) -> FloatArray:
        """Spearman correlation of every seed, shape [seeds]; nan where all scores or damages are equal."""
        return spearman(self.scores, self.damage.mean(axis=2))

    @property
    def estimate(self) -> float:
        """Mean of the seeds' correlations, -1 to 1; nan as soon as one seed's is undefined."""
        return float(self.per_seed.mean())

    @property
    def num_seeds(self) -> int:
        """Number of seeds."""
        return len(self.damage)

    @property
    def num_units(self) -> int:
        """Number of users."""
        return int(self.damage.shape[2])

    @cached_property
    def summary(self) -> TwoWay:
        """Mean, standard error and degrees of freedom over seeds and users.

        The error is infinite when a bootstrap sample of users leaves a correlation undefined: then the damage
        was hardly measured.
        """
        if math.isnan(self.estimate):
            return TwoWay(math.nan, math.nan, math.inf, 0.0)
        draws = spearman(self.scores, resampled_means(self.damage))  # [samples, seeds]
        if np.isnan(draws).any():
            return TwoWay(self.estimate, math.inf, math.inf, 0.0)
        return combine(self.estimate, self._variance_parts(draws), (self.num_seeds, self.num_units))

    def _variance_parts(self, draws: FloatArray) -> FloatArray:
        """Variance of the mean correlation from seeds, from users and from their interaction, shape [3]."""
        users = draws.mean(axis=1).var(ddof=1)
        if self.num_seeds == 1:
            return np.array([0.0, users, 0.0])
        seeds = self.per_seed.var(ddof=1) / self.num_seeds
        within = draws.var(axis=0, ddof=1).mean()  # holds the interaction in full, `users` 1 / num_seeds of it
        return np.array([seeds, users, (within - users) / (self.num_seeds - 1)])

    def against(self, edge: float) -> TwoWay:
        """The mean correlation minus the edge."""
        return self.summary.minus(edge)

    def interval(self, level: float) -> Interval:
        """The t interval with two-way variance, cut to [-1, 1].

        A point when all seeds and draws of users give the same correlation; nan when the estimate is undefined.
        """
        low, high = np.clip(symmetric_interval(self.summary, level), -1.0, 1.0)
        return Interval(float(low), float(high), level)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Smallest detectable distance between correlations."""
        return detectable_distance(self.summary, alpha, power)

    def evidence(self) -> dict[str, FloatArray]:
        """Scores and damages."""
        return {"scores": self.scores, "damage": self.damage}

    def text(self) -> dict[str, str]:
        """Nothing: the unit is always the same."""
        return {}

    def describe(self) -> str:
        """For example "Spearman 0.42"."""
        if math.isnan(self.estimate):
            return "Spearman undefined (all scores or all damages of a seed are equal)"
        return f"Spearman {self.number(self.estimate)}"

    def number(self, value: float) -> str:
        """Two decimals."""
        return f"{value:.2f}"

    def edge(self, value: float) -> str:
        """The bound as declared."""
        return f"{value:g}"


def spearman(left: FloatArray, right: FloatArray) -> FloatArray:
    """Spearman correlation along the last axis, average ranks for ties; nan where one side is constant.

    Args:
        left: shape [..., layers].
        right: a shape that broadcasts with it.

    Returns:
        Correlations, shape [...].
    """
    middle = (left.shape[-1] + 1) / 2  # the mean rank, with or without ties
    a, b = (rankdata(side, axis=-1) - middle for side in (left, right))
    scale = np.sqrt(np.square(a).sum(axis=-1) * np.square(b).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        return np.asarray((a * b).sum(axis=-1) / scale, dtype=np.float64)


def resampled_means(damage: FloatArray) -> FloatArray:
    """Mean damage over users drawn with replacement, the same users for every seed and layer.

    Args:
        damage: shape [seeds, layers, users].

    Returns:
        Shape [samples, seeds, layers]; the same for the same input. The order of the users decides which of
        them a draw meets: another order is another bootstrap of the same size.
    """
    users = damage.shape[2]
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    chances = np.full(users, 1 / users)
    return np.stack([damage @ (rng.multinomial(users, chances) / users) for _ in range(BOOTSTRAP_SAMPLES)])
