"""What a student is trained on: the next item, and what its teacher says and does. Numbers only."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from layerwise.data.arrays import FloatArray


@dataclass(frozen=True)
class Objective:
    """Weights of the terms of a student's loss; a term of weight 0 is not computed.

    Attributes:
        observed: Of the cross-entropy of the next item.
        logits: Of the divergence from the teacher's distribution over the catalogue, at every target.
        temperature: Softens both distributions of that term, which is scaled by its square, so that gradients keep
            their size.
        states: Of the distance between the states that leave paired layers; the pairs share it by their weights.
        distance: `"relative"`, the squared distance over the teacher's mean square, or 1 minus the `"cosine"`.
        embeddings: Of the relative squared distance between what enters the first layers.
        scores: Of the squared difference between attention scores of paired layers.
        relations: Of the divergence of attention, and of relations between values, of paired layers.

    References:
        Hinton, Vinyals and Dean 2015, section 2 (logits). Sanh et al. 2019, section 2 (cosine). Jiao et al. 2020
        (TinyBERT), equations 7 to 9 (scores, states, embeddings; there distances are not relative). Wang et al. 2020
        (MiniLM), equations 4 to 6 (relations).
    """

    observed: float = 0.5
    logits: float = 0.5
    temperature: float = 2.0
    states: float = 0.0
    distance: Literal["relative", "cosine"] = "relative"
    embeddings: float = 0.0
    scores: float = 0.0
    relations: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "distance" and not 0 <= value < float("inf"):
                raise ValueError(f"{field.name} must be a finite number of at least 0, got {value}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.distance not in ("relative", "cosine"):
            raise ValueError(f'distance must be "relative" or "cosine", got {self.distance!r}')
        if not (self.observed or self.logits or self.watches_layers):
            raise ValueError("an objective needs a term with a weight above 0, got none")

    @property
    def watches_attention(self) -> bool:
        """Whether queries, keys and values are compared."""
        return self.scores + self.relations > 0

    @property
    def watches_layers(self) -> bool:
        """Whether anything inside the models is compared."""
        return self.watches_attention or self.states + self.embeddings > 0


@dataclass(frozen=True)
class Matching:
    """Which layers are compared, and how much each pair counts.

    Attributes:
        pairs: A student's and a teacher's layer, each counted through all stacks.
        weights: One per pair, not negative, of sum 1; None where they are learned beside the student: each is then in
            proportion to 1 over the running mean of its distance (after Kendall, Gal and Cipolla 2018, equation 7).
    """

    pairs: tuple[tuple[int, int], ...]
    weights: tuple[float, ...] | None

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        if len(self.weights) != len(self.pairs):
            raise ValueError(f"expected a weight for each of {len(self.pairs)} pairs of layers, got {self.weights}")
        if not (min(self.weights, default=0) >= 0 and abs(sum(self.weights) - 1) < 1e-6):
            raise ValueError(f"weights of pairs must not be negative and sum to 1, got {self.weights}")


NOTHING_MATCHED = Matching((), None)


def paired_ends(depths: Sequence[int], kept_layers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Each kept layer, as numbered in the student, with the teacher's last layer of the run that it stands for.

    A kept layer stands for itself and the removed ones behind it, so its output is compared with what enters the next
    kept layer. Of a uniform cut these are TinyBERT's pairs.

    Args:
        depths: Number of layers of each of the teacher's stacks.
        kept_layers: Strictly increasing, counted through all stacks.
    """
    edges = np.cumsum(depths)
    pairs = []
    for place, kept in enumerate(kept_layers):
        end = edges[np.searchsorted(edges, kept, side="right")]
        following = [layer for layer in kept_layers[place + 1 :] if layer < end]
        pairs.append((place, int(following[0] if following else end) - 1))
    return tuple(pairs)


def layer_weights(
    kind: str, pairs: Sequence[tuple[int, int]], importance: FloatArray | None = None, seed: int = 0
) -> tuple[float, ...] | None:
    """Weights of pairs of layers, of sum 1.

    Args:
        kind: `"uniform"`; `"rising"` or `"falling"` linearly with depth; `"random"`, uniform on the simplex;
            `"importance"`, in proportion to the teacher's layers; `"learned"`.
        pairs: A student's and a teacher's layer, in the order of the student's.
        importance: One score per layer of the teacher, not negative; for `"importance"`, where a pair counts as much
            as the layers from behind the previous pair's to its own.
        seed: Decides random weights.

    Returns:
        One weight per pair, or None for learned ones.

    Raises:
        ValueError: If the kind is unknown, or importance is absent, too short, negative, not finite or all zero.
    """
    number = len(pairs)
    raw: FloatArray
    match kind:
        case "uniform":
            raw = np.ones(number)
        case "rising":
            raw = np.arange(1.0, number + 1)
        case "falling":
            raw = np.arange(1.0, number + 1)[::-1]
        case "random":
            raw = np.random.default_rng(seed).dirichlet(np.ones(number))
        case "importance":
            raw = _of_runs(pairs, importance)
        case "learned":
            return None
        case _:
            known = "uniform, rising, falling, random, importance, learned"
            raise ValueError(f"weights of layers may be {known}, got {kind!r}")
    return tuple(float(value) for value in raw / raw.sum())


def _of_runs(pairs: Sequence[tuple[int, int]], importance: FloatArray | None) -> FloatArray:
    scores = np.asarray(importance if importance is not None else [], dtype=np.float64)
    if not (len(scores) and np.isfinite(scores).all() and scores.min() >= 0 and scores.sum() > 0):
        raise ValueError(f"importance must be finite, not negative and not all zero, got {scores.tolist()}")
    if pairs and len(scores) <= (last := max(teacher for _, teacher in pairs)):
        raise ValueError(
            f"importance must have a score for each of the teacher's layers, up to {last}, got {len(scores)}"
        )
    starts = [0, *(teacher + 1 for _, teacher in pairs[:-1])]
    return np.array([scores[a : b + 1].sum() for a, (_, b) in zip(starts, pairs, strict=True)])
