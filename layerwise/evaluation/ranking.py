"""Ranking quality over the whole catalogue, as the exact expected value over score ties."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from layerwise.data.arrays import FloatArray, IntArray

CHUNK = 2**19  # scores copied at a time (2 MB in fp32): stays in the cache, bounds the memory


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the targets stand.

    With ties in random order, the rank is uniform over ``better + 1 .. better + 1 + tied``.

    Attributes:
        better: Number of candidates that score higher than the target. Shape ``[n]``.
        tied: Number of other candidates that score the same. Shape ``[n]``.
    """

    better: IntArray
    tied: IntArray

    def expected(self, gain: FloatArray) -> FloatArray:
        """Expected gain over the order of ties.

        Args:
            gain: Gain at rank 1, 2, ... Shape ``[num_items]``.

        Returns:
            Mean gain over the ranks that the target may take, float64. Shape ``[n]``.
        """
        total: FloatArray = np.concatenate([[0.0], np.cumsum(gain, dtype=np.float64)])
        mean: FloatArray = (total[self.better + 1 + self.tied] - total[self.better]) / (self.tied + 1)
        return mean


def ranks(scores: FloatArray, targets: IntArray, seen: Sequence[IntArray]) -> Ranks:
    """Ranks of the targets among all items that were not seen.

    Args:
        scores: Finite float32 or float64 scores, larger is better; not changed. Shape ``[n, num_items]``.
        targets: Item code that each row should rank first. Shape ``[n]``.
        seen: Item codes of each row's history, masked with -inf; repetitions are allowed. ``n`` arrays.

    Raises:
        TypeError: If scores are not float32 or float64, or targets or seen are not whole numbers.
        ValueError: If shapes disagree, a code is outside the catalogue, a score is not finite (its row is
            named) or a target was already seen.
    """
    scores, targets = _checked(scores, targets, seen)
    better, tied = np.empty(len(scores), dtype=np.int64), np.empty(len(scores), dtype=np.int64)
    for rows in _chunks(*scores.shape):
        block = scores[rows].copy()
        _require_finite(block, rows.start)
        _mask(block, seen[rows], targets[rows], rows.start)
        target = block[np.arange(len(block)), targets[rows]][:, None]
        better[rows] = np.count_nonzero(block > target, axis=1)
        tied[rows] = np.count_nonzero(block == target, axis=1) - 1
    return Ranks(better=better, tied=tied)


def ranking_metrics(
    scores: FloatArray, targets: IntArray, seen: Sequence[IntArray], ks: Sequence[int] = (5, 10)
) -> dict[str, FloatArray]:
    """Ranking metrics per row, against the whole catalogue, with their exact expected value over score ties.

    There is one target per row, so the ideal DCG is 1 and precision@k is hr@k / k by definition: it says
    nothing of its own. ``mrr`` is not cut off at any rank.

    Args:
        scores: As in :func:`ranks`. Shape ``[n, num_items]``.
        targets: As in :func:`ranks`. Shape ``[n]``.
        seen: As in :func:`ranks`.
        ks: Cut-offs, whole numbers from 1; one beyond the catalogue counts every rank.

    Returns:
        ``"ndcg@k"``, ``"hr@k"`` and ``"precision@k"`` for each k, and ``"mrr"``; float64 in [0, 1].
        Shape ``[n]`` each.

    Raises:
        TypeError: As in :func:`ranks`.
        ValueError: As in :func:`ranks`, or if a cut-off is not a whole number from 1.

    References:
        Definitions: Jaervelin & Kekaelaeinen 2002 with discount 1 / log2(rank + 1). Expected value over ties:
        McSherry & Najork, ECIR 2008.
    """
    if not all(isinstance(k, int | np.integer) and not isinstance(k, bool) and k >= 1 for k in ks):
        raise ValueError(f"ks must be whole numbers from 1, got {tuple(ks)}")
    found = ranks(scores, targets, seen)
    rank = np.arange(1, np.shape(scores)[1] + 1)
    metrics: dict[str, FloatArray] = {}
    for name, gain in _GAINS.items():
        metrics |= {f"{name}@{k}": found.expected(gain(rank, k) * (rank <= k)) for k in ks}
    return metrics | {"mrr": found.expected(1 / rank)}


_GAINS: dict[str, Callable[[IntArray, int], FloatArray]] = {
    "ndcg": lambda rank, k: 1 / np.log2(rank + 1),
    "hr": lambda rank, k: np.ones(len(rank)),
    "precision": lambda rank, k: np.full(len(rank), 1 / k),
}


def mean_by_user(values: FloatArray, users: IntArray) -> FloatArray:
    """Mean value of each user: the unit of replication when users have several targets.

    Args:
        values: One value per target. Shape ``[n]``.
        users: User of each target. Shape ``[n]``.

    Returns:
        One mean per distinct user, users ascending, float64.

    Raises:
        ValueError: If the two are not one-dimensional and equally long.
    """
    values, users = np.asarray(values), np.asarray(users)
    if values.ndim != 1 or values.shape != users.shape:
        raise ValueError(f"values and users must both have shape [n], got {values.shape} and {users.shape}")
    _, user = np.unique(users, return_inverse=True)
    return np.bincount(user, weights=values) / np.bincount(user)


def _checked(scores: FloatArray, targets: IntArray, seen: Sequence[IntArray]) -> tuple[FloatArray, IntArray]:
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.dtype not in (np.float32, np.float64):
        # Half precision cannot tell a catalogue's scores apart: ties that the model did not mean.
        raise TypeError(f"scores must be float32 or float64, got {scores.dtype}; compute the last product in float32")
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(f"scores must have shape [n, num_items], got {scores.shape}")
    if targets.dtype.kind not in "iu":
        raise TypeError(f"targets must be whole-number item codes, got {targets.dtype}")
    if targets.shape != scores.shape[:1] or len(seen) != len(scores):
        raise ValueError(
            f"need one target and one history per row of scores, got {targets.shape} targets and {len(seen)} "
            f"histories for {len(scores)} rows"
        )
    _require_codes(targets, scores.shape[1], "targets")
    return scores, targets


def _chunks(num_rows: int, num_items: int) -> Iterator[slice]:
    step = max(1, CHUNK // num_items)
    return (slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step))


def _require_codes(codes: IntArray, num_items: int, what: str) -> None:
    wrong = codes[(codes < 0) | (codes >= num_items)]
    if len(wrong):
        raise ValueError(f"{what} must be item codes in [0, {num_items}), got {wrong[0]}")


def _require_finite(block: FloatArray, first_row: int) -> None:
    finite = np.isfinite(block)
    if not finite.all():
        row, item = np.argwhere(~finite)[0]
        raise ValueError(
            f"scores must be finite, got {block[row, item]} in row {first_row + row}, item {item}; "
            "the model diverged or overflowed, its ranking has no meaning"
        )


def _mask(block: FloatArray, seen: Sequence[IntArray], targets: IntArray, first_row: int) -> None:
    """Put -inf where an item was seen."""
    rows = np.repeat(np.arange(len(block)), [len(history) for history in seen])
    if not len(rows):
        return
    items = np.concatenate([history for history in seen if len(history)])
    if items.dtype.kind not in "iu":
        raise TypeError(f"seen must hold whole-number item codes, got {items.dtype}")
    _require_codes(items, block.shape[1], "seen")
    repeated = np.flatnonzero(items == targets[rows])
    if len(repeated):
        row = rows[repeated[0]]
        raise ValueError(
            f"the target of row {first_row + row}, item {targets[row]}, is in its history and would be "
            "masked; leave such targets out, and count them"
        )
    block[rows, items] = -np.inf
