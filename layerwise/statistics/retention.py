"""Retention: the share of the full model's metric that a compact model keeps, tested without a division."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from layerwise.statistics.base import Effect, Interval, check_level, detectable_distance
from layerwise.statistics.tables import FloatArray, as_table, check_same_shape
from layerwise.statistics.two_way import TwoWay, combine, two_way, variance_parts


@dataclass(frozen=True, eq=False)
class Retention(Effect):
    """Mean of the compact model's metric over the mean of the full model's.

    A retention r is tested in linear form: does compact - r * full, per seed and user, have mean 0? Dividing by
    a noisy mean is thereby avoided. The interval is the set of r that this two-way t test does not reject.

    Args:
        compact: the compact models' metric, shape [seeds, users], finite; at least two users.
        full: the full models' metric for the same seeds and users, same shape.
        metric: its name, such as "NDCG@10".

    References:
        Fieller (1954). Deviation: the variance is that of `two_way`, piecewise quadratic in r, and the degrees
        of freedom change with r, so that the ends are found numerically.
    """

    compact: FloatArray
    full: FloatArray
    metric: str
    unit: str = field(init=False)
    kind: ClassVar[str] = "retention"

    def __post_init__(self) -> None:
        for name in ("compact", "full"):
            object.__setattr__(self, name, as_table(name, getattr(self, name), axes=("seeds", "users")))
        check_same_shape("compact", self.compact, "full", self.full)
        object.__setattr__(self, "unit", f"share of {self.metric}")

    @cached_property
    def estimate(self) -> float:
        """Share kept, 1 for no loss; nan when the full model's mean is not above 0: nothing to keep."""
        if self.full.mean() <= 0:
            return math.nan
        return float(self.compact.mean() / self.full.mean())

    @property
    def num_seeds(self) -> int:
        """Number of seeds, each a pair of full and compact model."""
        return len(self.full)

    @property
    def num_units(self) -> int:
        """Number of users."""
        return int(self.full.shape[1])

    def against(self, edge: float) -> TwoWay:
        """The mean of compact - edge * full, in the metric's unit."""
        return two_way(self.compact - edge * self.full)

    def interval(self, level: float) -> Interval:
        """The shares that the data do not reject.

        The part connected with the estimate; a point when compact is exactly a multiple of full.

        Args:
            level: confidence, between 0 and 1.

        Returns:
            The interval. Where the full model's own mean is not significantly above 0 at this level, shares of
            any size may be true and the ends are infinite; where the estimate is undefined, they are nan.
        """
        check_level(level)
        if math.isnan(self.estimate):
            return Interval(math.nan, math.nan, level)
        if self._shifted(0.0).standard_error == 0:
            return Interval(self.estimate, self.estimate, level)
        full = two_way(self.full)
        if full.mean <= full.margin((1 + level) / 2) * (1 + 1e-9):  # closer to 1, the ends lie far out of range
            return Interval(-math.inf, math.inf, level)
        return Interval(self.estimate + self._reach(-1, level), self.estimate + self._reach(1, level), level)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Smallest detectable distance, as a share of the full model's metric; nan when the estimate is."""
        if math.isnan(self.estimate):
            return math.nan
        return detectable_distance(self._shifted(0.0), alpha, power) / float(self.full.mean())

    def evidence(self) -> dict[str, FloatArray]:
        """The metric of both models per seed and user."""
        return {"compact": self.compact, "full": self.full}

    def text(self) -> dict[str, str]:
        """The metric's name."""
        return {"metric": self.metric}

    def describe(self) -> str:
        """For example "keeps 81.2 % of NDCG@10"."""
        if math.isnan(self.estimate):
            return f"keeps an undefined share of {self.metric} (the full model's mean is not above 0)"
        return f"keeps {self.number(self.estimate)} % of {self.metric}"

    def number(self, value: float) -> str:
        """Per cent, one decimal."""
        return f"{100 * value:.1f}"

    def edge(self, value: float) -> str:
        """For example "88 %"."""
        return f"{100 * value:.10g} %"

    @cached_property
    def _parts(self) -> FloatArray:
        """Variance parts of the loss at the estimate, of it with full, and of full, shape [3, 3]."""
        loss = self.compact - self.estimate * self.full  # around the estimate: small numbers, no cancellation
        pairs = ((loss, loss), (loss, self.full), (self.full, self.full))
        return np.stack([variance_parts(left, right) for left, right in pairs])

    def _shifted(self, shift: float) -> TwoWay:
        """The linear form at estimate + shift, from the quadratic form of its variance."""
        parts = np.array([1.0, -2.0 * shift, shift**2]) @ self._parts
        return combine(-shift * float(self.full.mean()), parts, self.full.shape)

    def _reach(self, sign: int, level: float) -> float:
        """Signed distance from the estimate to an end: outward until rejected, then the root between."""

        def excess(shift: float) -> float:  # above 0 where estimate + shift is not rejected
            form = self._shifted(shift)
            return form.margin((1 + level) / 2) - abs(form.mean)

        step = sign * self._shifted(0.0).standard_error / float(self.full.mean())
        near, far = 0.0, step
        while excess(far) >= 0:
            near, far = far, 2 * far
        return float(brentq(excess, near, far, xtol=1e-12 * abs(step), rtol=1e-14))


def retained(compact: npt.ArrayLike, full: npt.ArrayLike, metric: str) -> Retention:
    """The share of a metric that compact models keep of the full models they came from.

    Args:
        compact: shape [seeds, users]; [values] for one pair of checkpoints.
        full: same seeds and users, same shape.
        metric: its name, such as "NDCG@10".

    Returns:
        The effect, to be judged against a region such as [0.88, inf).

    Raises:
        ValueError: shapes that differ or have other axes, fewer than two users, values that are not finite.
    """
    axes = ("seeds", "users")
    return Retention(as_table("compact", compact, axes), as_table("full", full, axes), metric)
