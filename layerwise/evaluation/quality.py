"""Ranking quality of anything that scores a catalogue, on the targets of a split."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.data.splits import Split, Targets
from layerwise.evaluation.ranking import ranking_metrics

ROWS_AT_ONCE = 4096  # bounds the score matrix: 4,096 rows x 10,000 items in fp32 are 164 MB


class Scorer(Protocol):
    """Anything that scores the whole catalogue for a history."""

    def scores(self, histories: Sequence[IntArray]) -> NDArray[np.floating]:
        """Scores *len(histories) x num_items*; larger is better."""


def target_metrics(
    scorer: Scorer, split: Split, targets: Targets, ks: Sequence[int] = (5, 10)
) -> dict[str, FloatArray]:
    """One value per target and metric, each target ranked from its true prefix against the whole catalogue.

    Args:
        scorer: Model to judge.
        split: Where the histories come from; everything before a target is masked.
        targets: Events to be ranked.
        ks: Cut-offs.

    Returns:
        Metric name -> *len(targets)*, in the order of the targets; names as in `ranking_metrics`.
    """
    histories = split.histories(targets)
    parts = []
    for start in range(0, len(targets), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        scores = scorer.scores(histories[rows])
        parts.append(ranking_metrics(scores, targets.items[rows], histories[rows], ks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def validation_ndcg(split: Split) -> Callable[[Scorer], float]:
    """A function from a model to its mean NDCG@10 on the validation targets of the split."""

    def validate(scorer: Scorer) -> float:
        return float(target_metrics(scorer, split, split.validation, ks=(10,))["ndcg@10"].mean())

    return validate
