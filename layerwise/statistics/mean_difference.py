"""Mean of paired differences over seeds and users."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from layerwise.statistics.base import Effect, Interval, detectable_distance, symmetric_interval
from layerwise.statistics.tables import FloatArray, as_table
from layerwise.statistics.two_way import TwoWay, two_way


@dataclass(frozen=True, eq=False)
class MeanDifference(Effect):
    """Mean of paired differences over seeds and users, such as the damage of one band minus another's.

    Args:
        values: differences, shape [seeds, units], in `unit`, finite, at least two units.
        unit: name of the metric, such as "NDCG@10".
    """

    values: FloatArray
    unit: str
    kind: ClassVar[str] = "mean-difference"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_table("values", self.values))

    @cached_property
    def summary(self) -> TwoWay:
        """Mean, standard error and degrees of freedom over seeds and users."""
        return two_way(self.values)

    @property
    def estimate(self) -> float:
        """Mean difference, in the metric's unit."""
        return self.summary.mean

    @property
    def num_seeds(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def num_units(self) -> int:
        """Number of users."""
        return int(self.values.shape[1])

    def against(self, edge: float) -> TwoWay:
        """The mean of values - edge."""
        return self.summary.minus(edge)

    def interval(self, level: float) -> Interval:
        """The t interval with two-way variance; a point when all values are equal."""
        return Interval(*symmetric_interval(self.summary, level), level)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Smallest detectable distance, in the metric's unit."""
        return detectable_distance(self.summary, alpha, power)

    def evidence(self) -> dict[str, FloatArray]:
        """The differences."""
        return {"values": self.values}

    def text(self) -> dict[str, str]:
        """The unit."""
        return {"unit": self.unit}

    def describe(self) -> str:
        """For example "+0.0123 NDCG@10"."""
        return f"{self.number(self.estimate)} {self.unit}"

    def number(self, value: float) -> str:
        """Three digits with sign."""
        return f"{value:+.3g}"

    def edge(self, value: float) -> str:
        """The bound with its unit."""
        return f"{value:g} {self.unit}"
