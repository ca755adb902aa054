"""What every effect can do: estimate, interval, test against an edge, power, evidence, a sentence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from layerwise.statistics.tables import FloatArray
from layerwise.statistics.two_way import TwoWay, t_quantile


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval on the effect's displayed scale.

    Attributes:
        low: lower end, possibly -inf; nan when the estimate is undefined.
        high: upper end, possibly inf; nan when the estimate is undefined.
        level: confidence, between 0 and 1; each side leaves out half of the rest.
    """

    low: float
    high: float
    level: float


class Effect(ABC):
    """What a claim is about, as measured; the fields are the evidence, so that it can be judged again."""

    kind: ClassVar[str]  # name in claims.toml and in stored evidence
    unit: str

    @property
    @abstractmethod
    def estimate(self) -> float:
        """The effect's value on its displayed scale; nan where the evidence leaves it undefined."""

    @property
    @abstractmethod
    def num_seeds(self) -> int:
        """Number of independent trainings; 1 where the effect has none."""

    @property
    @abstractmethod
    def num_units(self) -> int:
        """Number of users or timing blocks; 1 where the effect has none."""

    @abstractmethod
    def against(self, edge: float) -> TwoWay:
        """A mean whose sign says on which side of an edge the effect lies, with its error (a linear form)."""

    @abstractmethod
    def interval(self, level: float) -> Interval:
        """The values that the two-sided t test of `against` at 1 - level does not reject."""

    @abstractmethod
    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """Smallest distance of the truth from an edge that the one-sided test at alpha finds with that power.

        Approximated by (t at 1 - alpha + t at power) * standard error, with quantiles of the central t instead
        of the noncentral one. On the displayed scale: a share for a retention, a factor for a speedup.
        """

    @abstractmethod
    def evidence(self) -> dict[str, FloatArray]:
        """The measured arrays, float64, by field name."""

    @abstractmethod
    def text(self) -> dict[str, str]:
        """The text fields that complete the evidence, by field name."""

    @abstractmethod
    def describe(self) -> str:
        """The estimate in plain English with its unit."""

    @abstractmethod
    def number(self, value: float) -> str:
        """A value on the displayed scale, rounded for an interval, without its unit."""

    @abstractmethod
    def edge(self, value: float) -> str:
        """A declared bound on the displayed scale, unrounded."""

    @classmethod
    def from_evidence(cls, arrays: Mapping[str, FloatArray], text: Mapping[str, str]) -> Self:
        """The effect whose `evidence` and `text` these are."""
        return cls(**arrays, **text)

    def growth(self, edge: float, alpha: float) -> float:
        """Factor by which the sample must grow until an edge is resolved, if the estimate stays where it is.

        The squared standard error falls as 1 / sample when every part of the variance shrinks alike; the degrees
        of freedom stay those of today, which errs on the large side. inf when the estimate sits on the edge.
        """
        form = self.against(edge)
        return float(np.square(np.divide(form.margin(1 - alpha), abs(form.mean)))) if form.mean else np.inf

    def sample(self) -> str:
        """What was sampled; one seed is said to speak for its checkpoint only."""
        if self.num_seeds == 1:
            return f"{self.num_units} users, these checkpoints only"
        return f"{self.num_seeds} seeds x {self.num_units} users"

    def sentence(self, interval: Interval | None = None) -> str:
        """The estimate in plain English; with an interval, that and the sample follow in brackets."""
        if interval is None:
            return self.describe()
        ends = f"{self.number(interval.low)} to {self.number(interval.high)}"
        return f"{self.describe()} ({100 * interval.level:.4g} % CI {ends}, {self.sample()})"


def symmetric_interval(summary: TwoWay, level: float) -> tuple[float, float]:
    """Ends of the t interval around a mean, in the mean's unit."""
    margin = summary.margin((1 + check_level(level)) / 2)
    return summary.mean - margin, summary.mean + margin


def detectable_distance(summary: TwoWay, alpha: float, power: float) -> float:
    """Distance that a one-sided test at alpha finds with that power, in the mean's unit; 0 without error."""
    check_alpha(alpha)
    if not alpha < power < 1:
        raise ValueError(f"power must lie between alpha and 1, got {power} with alpha {alpha}")
    return summary.margin(1 - alpha) + t_quantile(power, summary.df) * summary.standard_error


def check_level(level: float) -> float:
    """The level itself, if it is one."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, for example 0.95, got {level}")
    return level


def check_alpha(alpha: float) -> float:
    """The error rate itself, if it is one."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, for example 0.01, got {alpha}")
    return alpha
