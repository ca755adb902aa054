"""Speedup: a ratio of latencies, tested as the mean log ratio of timing blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from layerwise.statistics.base import Effect, Interval, detectable_distance, symmetric_interval
from layerwise.statistics.tables import FloatArray, as_table, check_same_shape
from layerwise.statistics.two_way import TwoWay, two_way


@dataclass(frozen=True, eq=False)
class Speedup(Effect):
    """Latency of the full model over the compact model's, as a factor.

    The unit of replication is a block in which both were timed; the mean of the blocks' log ratios is tested.
    The estimate is then the ratios' geometric mean, and swapping the models gives its inverse.

    Args:
        full_ms: the full model's time in each block, shape [blocks], at least two, milliseconds, above 0.
        compact_ms: the compact model's in the same blocks, same shape and unit.
    """

    full_ms: FloatArray
    compact_ms: FloatArray
    unit: str = field(init=False, default="times as fast")
    kind: ClassVar[str] = "speedup"

    def __post_init__(self) -> None:
        for name in ("full_ms", "compact_ms"):
            times = as_table(name, getattr(self, name), axes=("blocks",))
            if times.min() <= 0:
                raise ValueError(f"{name} must be above 0 ms, got {times.min()} in block {times.argmin()}")
            object.__setattr__(self, name, times)
        check_same_shape("full_ms", self.full_ms, "compact_ms", self.compact_ms)

    @cached_property
    def summary(self) -> TwoWay:
        """Mean, standard error and degrees of freedom of the log ratio over blocks."""
        return two_way(np.log(self.full_ms / self.compact_ms)[None, :])

    @property
    def estimate(self) -> float:
        """Geometric mean of full over compact: 3 means three times as fast."""
        return math.exp(self.summary.mean)

    @property
    def num_seeds(self) -> int:
        """Always 1: one pair of models is timed."""
        return 1

    @property
    def num_units(self) -> int:
        """Number of timing blocks."""
        return len(self.full_ms)

    def against(self, edge: float) -> TwoWay:
        """The mean log ratio minus log(edge), for a factor above 0."""
        return self.summary.minus(math.log(edge) if edge > 0 else -math.inf)

    def interval(self, level: float) -> Interval:
        """The t interval of the mean log ratio, as factors."""
        low, high = symmetric_interval(self.summary, level)
        return Interval(float(np.exp(low)), float(np.exp(high)), level)

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Smallest detectable ratio of the truth to an edge, a factor of at least 1."""
        return float(np.exp(detectable_distance(self.summary, alpha, power)))

    def evidence(self) -> dict[str, FloatArray]:
        """The times of both models."""
        return {"full_ms": self.full_ms, "compact_ms": self.compact_ms}

    def text(self) -> dict[str, str]:
        """Nothing: the unit is always the same."""
        return {}

    def sample(self) -> str:
        """The number of blocks."""
        return f"{self.num_units} blocks"

    def describe(self) -> str:
        """For example "3.71x"."""
        return f"{self.number(self.estimate)}x"

    def number(self, value: float) -> str:
        """Two decimals."""
        return f"{value:.2f}"

    def edge(self, value: float) -> str:
        """For example "3x"."""
        return f"{value:g}x"


def speedup(full_ms: npt.ArrayLike, compact_ms: npt.ArrayLike) -> Speedup:
    """The speedup of a compact model over the full one, from times in the same blocks.

    Args:
        full_ms: shape [blocks], milliseconds, above 0; at least two blocks.
        compact_ms: same shape and unit.

    Returns:
        The effect; its estimate is above 1 when the compact model is faster.

    Raises:
        ValueError: shapes that differ, fewer than two blocks, times that are not above 0.
    """
    return Speedup(as_table("full_ms", full_ms, ("blocks",)), as_table("compact_ms", compact_ms, ("blocks",)))
