"""What effects share that follow from the order of the layers by removal damage: their error over seeds and users."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.stats import rankdata

from layerwise.statistics.base import Effect, Interval, check_level, detectable_distance, symmetric_interval
from layerwise.statistics.bootstrap import drawn_counts, variance_parts_of_draws
from layerwise.statistics.tables import FloatArray
from layerwise.statistics.two_way import TwoWay, combine


class RankEffect(Effect):
    """Mean over seeds of a number that follows from the damage of a seed's layers, itself a mean over users.

    *Pure chance.* A correlation over a few layers takes few values, and five of them agree by chance more often than t
    expects: with scores dealt to eight layers at random, .01 becomes .0115. How such correlations scatter is known,
    however: each has the mean 0 and the variance 1 / (layers - 1) over all orders of the layers, whatever the ties. A
    mean counts as different from 0 only where t says so *and* it lies beyond the normal quantile of that distribution;
    an intersection of tests errs no more often than either. Random scores on 6 to 12 layers are then called better
    than chance 3 to 5 times in 1,000 at .01 and .1 to .2 times at .001 (five seeds; ten: 5 to 6 and .3 to .4; t alone:
    10 to 12 and 1.1 to 1.4). What is found hardly gets less, here on 8 layers at .01:

        mean correlation, five seeds                      .43     .65     .75     .86
        found by t alone                                 43 %  86.7 %  96.8 %  99.8 %
        found by t and chance                            41 %  86.5 %  96.8 %  99.8 %
        found by t with an error not below chance's       7 %    58 %    90 %  99.6 %

    The last, at .001 and five seeds, would find nothing at all: the error of chance is known and needs no t. Its exact
    quantiles differ too little from the normal ones to be worth their tables (.390 and .393 for 8 layers at .01), and
    from .01 outwards the normal ones err on the safe side (exact distributions for 3 to 8 layers and 1 to 10 seeds).
    With ties they may err by a few per cent of the rate, by more only where scores *and* damage have but two values.

    Limit: where all seeds share their scores and no layer's damage stands out of the users' noise, ranks are more
    stable from draw to draw than from sample to sample. The error is then too small: of 800 simulated samples 8 %
    were false alarms at a nominal one-sided 5 %, though only 0.25 % at 1 %.

    The degrees of freedom are at most those of the seeds. With the degrees of `two_way` scores dealt to the layers at
    random were called better than chance 1.8 times in 100 at a nominal 1, before chance had its say.

    References:
        Variance over all orders: Kendall and Gibbons (1990), Rank Correlation Methods, chapter 5.
        The error follows `two_way`, with a bootstrap over users (the same draws for all seeds) in place of user
        means, because a rank correlation is no mean over users.
    """

    bound: ClassVar[float]  # largest size that the effect can have
    damage: FloatArray  # loss in the metric when a layer is bypassed, shape [seeds, layers, users]

    @abstractmethod
    def of_seeds(self, damage: FloatArray) -> FloatArray:
        """The number of every seed, shape [..., seeds]; nan where undefined.

        Args:
            damage: mean over users, shape [..., seeds, layers].
        """

    @property
    @abstractmethod
    def chance_variance(self) -> FloatArray:
        """Variance of every seed's number over all orders of the damage, each as likely as another, shape [seeds]."""

    @cached_property
    def per_seed(self) -> FloatArray:
        """The number of every seed, shape [seeds]; nan where all scores or damages are equal."""
        return self.of_seeds(self.damage.mean(axis=2))

    @property
    def estimate(self) -> float:
        """Mean over seeds; nan as soon as one seed's number is undefined."""
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
        draws = self.of_seeds(resampled_means(self.damage))  # [samples, seeds]
        if np.isnan(draws).any():
            return TwoWay(self.estimate, math.inf, math.inf, 0.0)
        parts = variance_parts_of_draws(self.per_seed, draws)
        whole = combine(self.estimate, parts, (self.num_seeds, self.num_units))
        return replace(whole, df=min(whole.df, self.num_seeds - 1)) if self.num_seeds > 1 else whole

    def against(self, edge: float) -> TwoWay:
        """The mean minus the edge; at 0, where the distribution is known, with the error of pure chance."""
        form = self.summary.minus(edge)
        if edge or math.isnan(self.estimate):
            return form
        return replace(form, chance=math.sqrt(self.chance_variance.sum()) / self.num_seeds)

    def interval(self, level: float) -> Interval:
        """The t interval with two-way variance, cut to what is possible; as wide as the test at 0 if that keeps 0.

        A point when all seeds and draws of users give the same number and chance does not; nan when the estimate is
        undefined.
        """
        at_zero = self.against(0.0)
        zero_is_kept = abs(at_zero.mean) <= at_zero.margin((1 + check_level(level)) / 2)
        ends = symmetric_interval(at_zero if zero_is_kept else self.summary, level)
        low, high = np.clip(ends, -self.bound, self.bound)
        return Interval(float(low), float(high), level)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Smallest detectable distance from 0, in correlations."""
        return detectable_distance(self.against(0.0), alpha, power)

    def text(self) -> dict[str, str]:
        """Nothing: the unit is always the same."""
        return {}

    def edge(self, value: float) -> str:
        """The bound as declared."""
        return f"{value:g}"


def check_layers(name: str, shape: tuple[int, ...], damage: FloatArray) -> None:
    """Raise ValueError unless scores of shape [seeds, layers] go with the damage and can be ranked."""
    if shape != damage.shape[:2]:
        raise ValueError(
            f"{name} [seeds, layers] and damage [seeds, layers, users] must agree in seeds and layers, "
            f"got {shape} and {damage.shape}"
        )
    if shape[1] < 3:
        raise ValueError(f"a rank correlation needs at least 3 layers, got {shape[1]}")


def spearman(left: FloatArray, right: FloatArray) -> FloatArray:
    """Spearman correlation along the last axis, average ranks for ties; nan where one side is constant.

    Args:
        left: shape [..., layers].
        right: a shape that broadcasts with it.

    Returns:
        Correlations, shape [...]. Ranks are multiples of a half and their sums exact: equal orders give equal bits.
    """
    middle = (left.shape[-1] + 1) / 2  # the mean rank, with or without ties
    a, b = (rankdata(side, axis=-1) - middle for side in (left, right))
    scale = np.sqrt(np.square(a).sum(axis=-1) * np.square(b).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        return np.asarray((a * b).sum(axis=-1) / scale, dtype=np.float64)


def standard_ranks(values: FloatArray) -> FloatArray:
    """Ranks along the last axis with mean 0 and length 1, whose products are Spearman correlations; nan if constant."""
    ranks = rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray(ranks / np.sqrt(np.square(ranks).sum(axis=-1, keepdims=True)), dtype=np.float64)


def resampled_means(damage: FloatArray) -> FloatArray:
    """Mean damage over users drawn with replacement, the same users for every seed and layer.

    Args:
        damage: shape [seeds, layers, users].

    Returns:
        Shape [samples, seeds, layers]; the same for the same input. The order of the users decides which of
        them a draw meets: another order is another bootstrap of the same size.
    """
    users = damage.shape[2]
    return np.stack([damage @ (counts / users) for counts in drawn_counts(users)])
