"""By how much a layer score ranks removal damage better than rival scores do, with an error over seeds and users."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from layerwise.statistics.rank_effect import RankEffect, check_layers, spearman, standard_ranks
from layerwise.statistics.tables import FloatArray, as_table


@dataclass(frozen=True, eq=False)
class RankAdvantage(RankEffect):
    """Mean over seeds of a score's Spearman correlation with removal damage minus the mean of its rivals'.

    All are ranked against the same damage of the same users, so that what disturbs it disturbs both sides. Rivals
    are not a sample: the claim is about these.

    The error of pure chance (see `RankEffect`) is that of a damage which no score knows. Scores that know it equally
    well scatter less: four rivals of Spearman .65 each were beaten 1.7 times in 100 by t alone at .01 (a mean of four
    is steadier than one score, whose distribution is skewed), and .1 times with chance. Rivals that differ among
    themselves may scatter more; t alone then guards the level. An advantage of .72 over unrelated rivals is found in
    87 % with and without chance (four rivals, five seeds, 8 layers), over one in 54 instead of 57 %.

    Args:
        scores: importance of every layer, shape [seeds, layers], at least three layers, finite.
        rivals: the rivals' importance of the same layers, shape [rivals, seeds, layers], finite.
        damage: loss in the metric when a layer is bypassed, shape [seeds, layers, users], at least two users.

    References:
        Spearman (1904), average ranks for ties. For the error see `RankEffect`.
    """

    scores: FloatArray
    rivals: FloatArray
    damage: FloatArray
    unit: str = field(init=False, default="difference of Spearman correlations")
    kind: ClassVar[str] = "rank-advantage"
    bound: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", as_table("scores", self.scores, axes=("seeds", "layers")))
        object.__setattr__(self, "rivals", as_table("rivals", self.rivals, axes=("rivals", "seeds", "layers")))
        object.__setattr__(self, "damage", as_table("damage", self.damage, axes=("seeds", "layers", "users")))
        check_layers("scores", self.scores.shape, self.damage)
        check_layers("each of the rivals", self.rivals.shape[1:], self.damage)

    def of_seeds(self, damage: FloatArray) -> FloatArray:
        """Differences of Spearman correlations, -2 to 2; exactly 0 where all rivals rank as the score does."""
        own = spearman(self.scores, damage)
        theirs = spearman(self.rivals, damage[..., None, :, :])  # [..., rivals, seeds]
        return np.asarray((own[..., None, :] - theirs).mean(axis=-2), dtype=np.float64)

    @property
    def chance_variance(self) -> FloatArray:
        """Squared length of own minus mean rival ranks over layers - 1: 0 where all rivals rank as the score does."""
        differences = (standard_ranks(self.scores) - standard_ranks(self.rivals)).mean(axis=0)
        return np.asarray(np.square(differences).sum(axis=-1) / (self.damage.shape[1] - 1), dtype=np.float64)

    def evidence(self) -> dict[str, FloatArray]:
        """Scores, rivals and damages."""
        return {"scores": self.scores, "rivals": self.rivals, "damage": self.damage}

    def describe(self) -> str:
        """For example "Spearman +0.12 over the mean of 3 rivals"."""
        count = len(self.rivals)
        over = "its rival" if count == 1 else f"the mean of {count} rivals"
        if math.isnan(self.estimate):
            return f"Spearman over {over} undefined (all scores, a rival's or all damages of a seed are equal)"
        return f"Spearman {self.number(self.estimate)} over {over}"

    def number(self, value: float) -> str:
        """Two decimals with sign."""
        return f"{value:+.2f}"
