"""A selector that learned, from other models, how cheap scores and a layer's place foretell removal damage.

Everything is compared by rank within a model, so that models of different depth, scale and family teach one another.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]

PLACES = ("relative-depth", "near-start", "near-end", "later-stack")
"""What is known of a layer without any score: its depth within its stack from 0 to 1; 1, 1/2, 1/3 ... counted from the
stack's start and from its end, since damage is often concentrated there, whatever the depth; 1 in a second stack."""

STRENGTHS = tuple(10.0**exponent for exponent in range(-4, 2))
"""Candidates: the price of the squared weights in squared ranks per layer; ranks have a variance of about 1/12.
At the strong end each feature still counts by its own covariance with the damage: the order never becomes arbitrary."""


@dataclass(frozen=True)
class LearnedSelector:
    """A linear prediction of removal damage.

    Attributes:
        weights: By score or place (`PLACES`): how far a layer moves in its model's order of damage, which goes from 0
            to 1, when the feature goes from 0 to 1.
        strength: The chosen strength of the ridge penalty, one of `STRENGTHS`.
        explained: R squared on left-out groups against predicting all layers alike, a little optimistic since it
            chose the strength; `nan` if in no model one layer's damage differs from another's.
    """

    weights: Mapping[str, float]
    strength: float
    explained: float

    def predict(self, scores: Mapping[str, ArrayLike], depths: Sequence[int] | None = None) -> Floats:
        """Predicted rank of each layer's removal damage within its model, to be handed to `select_layers`.

        Args:
            scores: By name, one value per layer, *num_layers*; names that were not learned from are ignored.
            depths: Number of layers of each stack; one stack if left out.

        Returns:
            *num_layers*, with mean 0.5; 0 stands for the least and 1 for the largest damage, but may be exceeded.

        Raises:
            ValueError: If a score is missing or not finite, or lengths do not agree.
        """
        names = [name for name in self.weights if name not in PLACES]
        weights = np.array([self.weights[name] for name in (*names, *PLACES)])
        return np.asarray(0.5 + _features(scores, names, depths) @ weights)


def fit_selector(
    scores: Sequence[Mapping[str, ArrayLike]],
    damages: Sequence[ArrayLike],
    groups: Sequence[Hashable] | None = None,
    depths: Sequence[Sequence[int]] | None = None,
) -> LearnedSelector:
    """Ridge regression of damage on scores, both as ranks within the model, and on places; each model counts alike.

    Ranks lie in [0, 1] and ties share their average. All is centred within the model, so there is no intercept.
    The strength is the one that foretells left-out groups best.

    Args:
        scores: Of each model, by name, one value per layer, *num_layers*; all models have the same names.
        damages: Of each model, the loss in the metric when a layer is removed, *num_layers*; any unit.
        groups: Of each model, what it shares with others, such as its seed or family; each by itself if left out.
        depths: Of each model, the number of layers of each stack; one stack if left out.

    Raises:
        ValueError: If there are fewer than two groups, a score is missing or named like a place, a value is not
            finite, or lengths do not agree.

    References:
        Hoerl and Kennard 1970. The target is a rank, not the damage itself, since one layer's damage can exceed all
        others' together.
    """
    return _fit(_models(scores, damages, groups, depths))


def leave_one_out_predictions(
    scores: Sequence[Mapping[str, ArrayLike]],
    damages: Sequence[ArrayLike],
    groups: Sequence[Hashable] | None = None,
    depths: Sequence[Sequence[int]] | None = None,
) -> list[Floats]:
    """Each model's predicted damage, by a selector fitted to the models of all other groups.

    The strength, too, is chosen without the model's group. Arguments and errors are those of `fit_selector`, but
    there must be three groups.

    Returns:
        Per model, *num_layers*, as from `LearnedSelector.predict`.

    References:
        Cawley and Talbot 2010: a strength chosen with the test data makes its result too good.
    """
    models = _models(scores, damages, groups, depths)
    fitted = {group: _fit([m for m in models if m.group != group]) for group in {m.group: None for m in models}}
    return [fitted[model.group].predict(model.scores, model.depths) for model in models]


@dataclass(frozen=True)
class _Model:
    scores: Mapping[str, ArrayLike]
    damage: ArrayLike
    group: Hashable
    depths: Sequence[int] | None


def _models(
    scores: Sequence[Mapping[str, ArrayLike]],
    damages: Sequence[ArrayLike],
    groups: Sequence[Hashable] | None,
    depths: Sequence[Sequence[int]] | None,
) -> list[_Model]:
    labels = range(len(scores)) if groups is None else groups
    stacks: Sequence[Sequence[int] | None] = [None] * len(scores) if depths is None else depths
    if not len(scores) == len(damages) == len(labels) == len(stacks):
        raise ValueError(
            "each model needs scores, damages, a group and depths, "
            f"got {len(scores)}, {len(damages)}, {len(labels)} and {len(stacks)}"
        )
    return [_Model(*parts) for parts in zip(scores, damages, labels, stacks, strict=True)]


@dataclass(frozen=True)
class _Sums:
    """All that a least-squares problem needs to know of some models: sums over models of means over layers."""

    models: int
    gram: Floats  # features x features
    cross: Floats  # features
    total: float

    @classmethod
    def of(cls, model: _Model, names: Sequence[str]) -> "_Sums":
        features, target = _features(model.scores, names, model.depths), _centred_ranks(model.damage, "damages")
        if len(features) != len(target):
            raise ValueError(f"a model's scores and damages must be of one length, got {len(features)}, {len(target)}")
        size = len(target)
        return cls(1, features.T @ features / size, features.T @ target / size, float(target @ target) / size)

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.models + other.models, self.gram + other.gram, self.cross + other.cross, self.total + other.total
        )

    def solved(self, strength: float) -> Floats:
        """Weights that are best for these models."""
        penalty = self.models * strength * np.eye(len(self.cross))
        return np.asarray(np.linalg.solve(self.gram + penalty, self.cross))

    def error(self, weights: Floats) -> float:
        """Squared error of weights on these models."""
        return float(self.total - 2 * weights @ self.cross + weights @ self.gram @ weights)


def _fit(models: Sequence[_Model]) -> LearnedSelector:
    names = sorted({name for model in models for name in model.scores})
    if clash := set(names) & set(PLACES):
        raise ValueError(f"{sorted(clash)} are places of a layer and cannot be names of scores")
    groups: dict[Hashable, _Sums] = {}
    for model in models:
        sums = _Sums.of(model, names)
        groups[model.group] = groups[model.group] + sums if model.group in groups else sums
    if len(groups) < 2:
        raise ValueError(f"the strength is chosen on left-out groups and needs two to fit, got {list(groups)}")
    others = {left: reduce(add, (groups[group] for group in groups if group != left)) for left in groups}
    errors = {
        strength: sum(groups[left].error(others[left].solved(strength)) for left in groups) for strength in STRENGTHS
    }
    strength = min(reversed(STRENGTHS), key=errors.__getitem__)  # of equals the strongest
    everything = reduce(add, groups.values())
    weights = dict(zip((*names, *PLACES), everything.solved(strength).tolist(), strict=True))
    explained = 1 - errors[strength] / everything.total if everything.total > 0 else float("nan")
    return LearnedSelector(weights, strength, explained)


def _features(scores: Mapping[str, ArrayLike], names: Sequence[str], depths: Sequence[int] | None) -> Floats:
    """Ranks of the scores and places of the layers, *num_layers x features*, each with mean 0 within the model."""
    if missing := [name for name in names if name not in scores]:
        raise ValueError(f"scores {missing} are missing, got {sorted(scores)}")
    if not names and depths is None:
        raise ValueError("without any score the depths must be given")
    ranks = [_centred_ranks(scores[name], name) for name in names]
    places = _places([len(ranks[0])] if depths is None else depths)
    if lengths := {len(column) for column in ranks} - {len(places)}:
        raise ValueError(f"scores must be of one length, that of the depths {depths}, got {lengths | {len(places)}}")
    return np.column_stack([*ranks, places - places.mean(0)])


def _places(depths: Sequence[int]) -> Floats:
    """*num_layers x places*, in the order of `PLACES`."""
    return np.array(
        [
            (layer / max(1, depth - 1), 1 / (1 + layer), 1 / (depth - layer), stack > 0)
            for stack, depth in enumerate(depths)
            for layer in range(depth)
        ],
        dtype=np.float64,
    )


def _centred_ranks(values: ArrayLike, name: str) -> Floats:
    """Ranks from -0.5 to 0.5, ties sharing their average; 0 for a single layer."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{name} must be one finite number per layer, got {values.tolist()}")
    return np.asarray((rankdata(values) - (len(values) + 1) / 2) / max(1, len(values) - 1))
