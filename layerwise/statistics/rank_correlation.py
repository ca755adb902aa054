"""Rank correlation of layer scores with removal damage, with an error over seeds and users."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from layerwise.statistics.rank_effect import RankEffect, check_layers, spearman
from layerwise.statistics.tables import FloatArray, as_table


@dataclass(frozen=True, eq=False)
class RankCorrelation(RankEffect):
    """Mean over seeds of the Spearman correlation between a score per layer and the layer's removal damage.

    Seeds and users are samples; layers are not: the claim is about the layers of this architecture. Damage is
    a mean over users, and its noise pulls the correlation towards 0, less so with more users; the interval is
    about the correlation at this number of users. It keeps its level where the correlation is 0, the edge that
    claims are tested against (see `RankEffect`, also for its limit); between seeds that differ widely around a high
    correlation, Spearman is skewed, and five seeds cover 93 % at nominal 95 %.

    Args:
        scores: importance of every layer, shape [seeds, layers], at least three layers, finite.
        damage: loss in the metric when a layer is bypassed, shape [seeds, layers, users], at least two users.

    References:
        Spearman (1904), average ranks for ties. For the error see `RankEffect`.
    """

    scores: FloatArray
    damage: FloatArray
    unit: str = field(init=False, default="Spearman correlation")
    kind: ClassVar[str] = "rank-correlation"
    bound: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", as_table("scores", self.scores, axes=("seeds", "layers")))
        object.__setattr__(self, "damage", as_table("damage", self.damage, axes=("seeds", "layers", "users")))
        check_layers("scores", self.scores.shape, self.damage)

    def of_seeds(self, damage: FloatArray) -> FloatArray:
        """Spearman correlations, -1 to 1."""
        return spearman(self.scores, damage)

    @property
    def chance_variance(self) -> FloatArray:
        """1 / (layers - 1)."""
        return np.full(self.num_seeds, 1 / (self.damage.shape[1] - 1))

    def evidence(self) -> dict[str, FloatArray]:
        """Scores and damages."""
        return {"scores": self.scores, "damage": self.damage}

    def describe(self) -> str:
        """For example "Spearman 0.42"."""
        if math.isnan(self.estimate):
            return "Spearman undefined (all scores or all damages of a seed are equal)"
        return f"Spearman {self.number(self.estimate)}"

    def number(self, value: float) -> str:
        """Two decimals."""
        return f"{value:.2f}"
