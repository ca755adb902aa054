"""Mean over independent trainings of one number per training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from layerwise.statistics.base import Effect, Interval, detectable_distance, symmetric_interval
from layerwise.statistics.tables import FloatArray, as_table
from layerwise.statistics.two_way import TwoWay, two_way


@dataclass(frozen=True, eq=False)
class SeedMean(Effect):
    """Mean over independent trainings of a number that no single user has, such as Kendall's W.

    Only the trainings are a sample: what the users of the test set add to each number is part of its scatter, but
    what they have in common for all trainings is not. The interval knows no bounds of the number: that of a
    Kendall's W may reach above 1.

    Args:
        values: one number per training, shape [seeds], in `unit`, finite, at least two seeds.
        unit: what follows the number in a sentence, such as "Kendall's W".
    """

    values: FloatArray
    unit: str
    kind: ClassVar[str] = "seed-mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_table("values", self.values, axes=("seeds",)))

    @cached_property
    def summary(self) -> TwoWay:
        """Mean, standard error and seeds - 1 degrees of freedom; only more seeds reduce the error."""
        return replace(two_way(self.values[None, :]), seed_share=1.0)

    @property
    def estimate(self) -> float:
        """Mean over seeds, in `unit`."""
        return self.summary.mean

    @property
    def num_seeds(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def num_units(self) -> int:
        """Always 1: each seed gives one number."""
        return 1

    def against(self, edge: float) -> TwoWay:
        """The mean minus the edge."""
        return self.summary.minus(edge)

    def interval(self, level: float) -> Interval:
        """The t interval with seeds - 1 degrees of freedom; a point when all values are equal."""
        return Interval(*symmetric_interval(self.summary, level), level)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Smallest detectable distance, in `unit`."""
        return detectable_distance(self.summary, alpha, power)

    def evidence(self) -> dict[str, FloatArray]:
        """The number of every seed."""
        return {"values": self.values}

    def text(self) -> dict[str, str]:
        """The unit."""
        return {"unit": self.unit}

    def sample(self) -> str:
        """The number of seeds."""
        return f"{self.num_seeds} seeds"

    def describe(self) -> str:
        """For example "0.873 Kendall's W"."""
        return f"{self.number(self.estimate)} {self.unit}"

    def number(self, value: float) -> str:
        """Three digits."""
        return f"{value:.3g}"

    def edge(self, value: float) -> str:
        """The bound with its unit."""
        return f"{value:g} {self.unit}"
