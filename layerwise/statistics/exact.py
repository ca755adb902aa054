"""A number without sampling error, judged like every other effect."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from layerwise.statistics.base import Effect, Interval, check_level, detectable_distance
from layerwise.statistics.tables import FloatArray
from layerwise.statistics.two_way import TwoWay


@dataclass(frozen=True, eq=False)
class Exact(Effect):
    """A number without sampling error, such as parameters removed; its interval is the point itself.

    Args:
        value: the number, in `unit`, finite.
        unit: what follows the number in a sentence: "layers"; "% of parameters removed" for a value of 74.8.
    """

    value: float
    unit: str
    kind: ClassVar[str] = "exact"

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"value must be finite, got {self.value}")
        object.__setattr__(self, "value", float(self.value))

    @property
    def estimate(self) -> float:
        """The number itself."""
        return self.value

    @property
    def num_seeds(self) -> int:
        """Always 1."""
        return 1

    @property
    def num_units(self) -> int:
        """Always 1."""
        return 1

    def against(self, edge: float) -> TwoWay:
        """The value minus the edge, without error."""
        return TwoWay(self.value - edge, 0.0, math.inf, 0.0)

    def interval(self, level: float) -> Interval:
        """The point, at every level."""
        return Interval(self.value, self.value, check_level(level))

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Always 0: any distance is seen."""
        return detectable_distance(self.against(0.0), alpha, power)

    def evidence(self) -> dict[str, FloatArray]:
        """The number, shape [1]."""
        return {"value": np.array([self.value])}

    def text(self) -> dict[str, str]:
        """The unit."""
        return {"unit": self.unit}

    @classmethod
    def from_evidence(cls, arrays: Mapping[str, FloatArray], text: Mapping[str, str]) -> Self:
        """The effect from an array of one number."""
        return cls(float(arrays["value"].item()), **text)

    def sentence(self, interval: Interval | None = None) -> str:
        """The number with its unit; an interval would only repeat it."""
        return self.describe()

    def describe(self) -> str:
        """For example "74.8 % of parameters removed" or "3,145,728 parameters"."""
        return f"{self.number(self.value)} {self.unit}"

    def number(self, value: float) -> str:
        """Whole numbers in full, others with four digits."""
        return f"{value:,.0f}" if value.is_integer() else f"{value:,.4g}"

    def edge(self, value: float) -> str:
        """The bound, with a percent sign where the unit begins with one."""
        return f"{value:,.10g} %" if self.unit.startswith("%") else f"{value:,.10g}"
