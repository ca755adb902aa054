"""Recommenders without gradients: what every trained model, full or compact, has to beat."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
from scipy import sparse

from layerwise.data.arrays import FloatArray, IntArray

Weights = TypeVar("Weights", bound=FloatArray | sparse.csr_array)


class Classic(ABC):
    """A recommender that is fitted by counting and scores any history."""

    @abstractmethod
    def fit(self, sequences: Sequence[IntArray], num_items: int) -> Self:
        """Fitted copy of this recommender; this one stays as it is.

        Args:
            sequences: Item codes of each user, oldest first.
            num_items: Size of the catalogue.
        """

    @abstractmethod
    def scores(self, histories: Sequence[IntArray]) -> FloatArray:
        """Score of every item after each history, float64. Shape ``[len(histories), num_items]``.

        Raises:
            ValueError: If this recommender is not fitted.
        """


@dataclass(frozen=True, eq=False)
class Popularity(Classic):
    """Score = number of events with the item in training, whatever the history."""

    counts: FloatArray | None = None

    def fit(self, sequences: Sequence[IntArray], num_items: int) -> Self:
        """Fitted copy; see :meth:`Classic.fit`."""
        return replace(self, counts=np.bincount(_joined(sequences, num_items), minlength=num_items) * 1.0)

    def scores(self, histories: Sequence[IntArray]) -> FloatArray:
        """The same counts for every history; see :meth:`Classic.scores`."""
        return np.tile(_fitted(self.counts), (len(histories), 1))


@dataclass(frozen=True, eq=False)
class Markov(Classic):
    """Score = how often the item directly followed the history's last item; all 0 for an empty history."""

    transitions: sparse.csr_array | None = None

    def fit(self, sequences: Sequence[IntArray], num_items: int) -> Self:
        """Fitted copy; see :meth:`Classic.fit`."""
        before = _joined([sequence[:-1] for sequence in sequences], num_items)
        after = _joined([sequence[1:] for sequence in sequences], num_items)
        pairs = sparse.coo_array((np.ones(len(before)), (before, after)), shape=(num_items, num_items))
        return replace(self, transitions=pairs.tocsr())

    def scores(self, histories: Sequence[IntArray]) -> FloatArray:
        """Counts of the last item's successors; see :meth:`Classic.scores`."""
        last = [history[-1:] for history in histories]
        transitions = _fitted(self.transitions)
        return np.asarray((_incidence(last, transitions.shape[0]) @ transitions).toarray())


@dataclass(frozen=True, eq=False)
class ItemKNN(Classic):
    """Score = sum of an item's cosine similarities to those of its k nearest items that are in the history.

    Two items are similar when the same users have them, at whatever time. Where similarities are equal, the
    item with the smaller code is nearer.

    References:
        Deshpande & Karypis, TOIS 2004.
    """

    k: int = 100
    weights: sparse.csr_array | None = None  # [history item, scored item]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1 neighbour, got {self.k}")

    def fit(self, sequences: Sequence[IntArray], num_items: int) -> Self:
        """Fitted copy; see :meth:`Classic.fit`."""
        seen = _incidence(sequences, num_items).sign()
        norms = np.sqrt(np.maximum(seen.sum(axis=0), 1))
        unit = (seen @ sparse.diags_array(1 / norms)).tocsc()
        blocks = np.array_split(np.arange(num_items), num_items // 500 + 1)  # bounds the memory
        return replace(self, weights=sparse.vstack([self._nearest(unit, block) for block in blocks]).T.tocsr())

    def _nearest(self, unit: sparse.csc_array, items: IntArray) -> sparse.csr_array:
        """Similarities to the k nearest items, 0 to all others. Shape ``[len(items), num_items]``."""
        similarity = (unit[:, items].T @ unit).toarray()
        similarity[np.arange(len(items)), items] = 0
        beyond = np.argsort(-similarity, axis=1, kind="stable")[:, self.k :]
        np.put_along_axis(similarity, beyond, 0, axis=1)
        return sparse.csr_array(similarity)

    def scores(self, histories: Sequence[IntArray]) -> FloatArray:
        """Summed similarities; see :meth:`Classic.scores`."""
        weights = _fitted(self.weights)
        return np.asarray((_incidence(histories, weights.shape[0]).sign() @ weights).toarray())


@dataclass(frozen=True, eq=False)
class Ease(Classic):
    """Score = linear regression of an item's presence on the presence of all others, in closed form.

    Needs ``num_items ** 2`` numbers of memory and the inverse of such a matrix.

    References:
        Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, equation 8.
    """

    l2: float = 250.0
    weights: FloatArray | None = None  # [history item, scored item]

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise ValueError(f"l2 must be above 0, got {self.l2}")

    def fit(self, sequences: Sequence[IntArray], num_items: int) -> Self:
        """Fitted copy; see :meth:`Classic.fit`."""
        seen = _incidence(sequences, num_items).sign()
        precision = np.linalg.inv((seen.T @ seen).toarray() + self.l2 * np.eye(num_items))
        weights = -precision / np.diag(precision)
        np.fill_diagonal(weights, 0)
        return replace(self, weights=weights)

    def scores(self, histories: Sequence[IntArray]) -> FloatArray:
        """Predicted presence; see :meth:`Classic.scores`."""
        weights = _fitted(self.weights)
        return _incidence(histories, len(weights)).sign() @ weights


def _incidence(sequences: Sequence[IntArray], num_items: int) -> sparse.csr_array:
    """How often each sequence holds each item. Shape ``[len(sequences), num_items]``."""
    rows = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
    items = _joined(sequences, num_items)
    counts = sparse.coo_array((np.ones(len(items)), (rows, items)), shape=(len(sequences), num_items))
    return counts.tocsr()


def _joined(sequences: Sequence[IntArray], num_items: int) -> IntArray:
    """All item codes, one sequence after the other."""
    items = np.concatenate([np.empty(0, dtype=np.int64), *sequences])
    if len(items) and not 0 <= items.min() <= items.max() < num_items:
        raise ValueError(f"item codes must lie in [0, {num_items}), got {items.min()} to {items.max()}")
    return items


def _fitted(weights: Weights | None) -> Weights:
    if weights is None:
        raise ValueError("this recommender is not fitted: use what fit(sequences, num_items) returns")
    return weights
