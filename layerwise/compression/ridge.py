"""Weighted ridge regression from accumulated sums, its strength chosen on held-out rows. Numbers in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STRENGTHS = tuple(10.0**exponent for exponent in range(-8, 2))
"""Candidates in units of the Gram matrix's mean eigenvalue; an infinite one, which changes nothing, always competes."""


@dataclass(frozen=True)
class Sums:
    """All that a least-squares problem needs to know of its rows, in fp64.

    Attributes:
        gram: Weighted sum of the features' outer products, *features x features*.
        cross: Weighted sum of the outer products of features and targets, *features x targets*.
        total: Weighted sum of the squared targets.
    """

    gram: Tensor
    cross: Tensor
    total: float

    @classmethod
    def of(cls, features: Tensor, targets: Tensor, weights: Tensor) -> "Sums":
        """The sums over rows: features *rows x features*, targets *rows x targets*, weights *rows*, none negative."""
        features, targets = features.double(), targets.double()
        weighted = features * weights.double()[:, None]
        total = float((weights.double() * targets.square().sum(-1)).sum())
        return cls(weighted.mT @ features, weighted.mT @ targets, total)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.gram + other.gram, self.cross + other.cross, self.total + other.total)

    def explained(self, coefficients: Tensor) -> float:
        """R squared of `coefficients` *features x targets* against predicting 0; `nan` if all targets are 0."""
        if self.total == 0:
            return float("nan")
        fitted = torch.sum(coefficients * (self.gram @ coefficients)) - 2 * torch.sum(coefficients * self.cross)
        return float(-fitted / self.total)


@dataclass(frozen=True)
class Ridge:
    """A fitted map.

    Attributes:
        coefficients: *features x targets*, fp64; fitted to all rows.
        strength: The chosen strength in units of the mean eigenvalue; infinite where no map beat predicting 0.
        explained: R squared on the held-out rows, of the map fitted to the others.
    """

    coefficients: Tensor
    strength: float
    explained: float


def ridge(fitted: Sums, held_out: Sums, strengths: Sequence[float] = STRENGTHS) -> Ridge:
    """The ridge regression whose strength explains most of the held-out rows; then fitted to all rows with it.

    Args:
        fitted: Rows that candidates are fitted to.
        held_out: Rows that choose among them.
        strengths: Candidates, in units of the mean eigenvalue of the fitted rows' Gram matrix, above 0.

    Returns:
        A map of zeros with infinite strength where no candidate explains anything, also where there are no rows.
    """
    zeros = torch.zeros_like(fitted.cross)
    candidates = [(held_out.explained(found), strength) for strength, found in _paths(fitted, strengths)]
    explained, strength = max(candidates, default=(0.0, float("inf")), key=lambda candidate: candidate[0])
    if not explained > 0:
        return Ridge(zeros, float("inf"), 0.0)
    ((_, coefficients),) = _paths(fitted + held_out, [strength])
    return Ridge(coefficients, strength, explained)


def _paths(sums: Sums, strengths: Sequence[float]) -> list[tuple[float, Tensor]]:
    """Solutions for several strengths from one decomposition."""
    values, vectors = torch.linalg.eigh(sums.gram)
    scale, projected = values.mean(), vectors.mT @ sums.cross
    if not scale > 0:
        return []
    return [(s, vectors @ (projected / (values.clamp(min=0) + s * scale)[:, None])) for s in strengths]
