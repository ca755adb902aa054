"""Binary classification from probabilities: accuracy, precision, recall, F1 and AUC-ROC."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

THRESHOLD = 0.5  # a probability above it says yes
METRICS = ("accuracy", "precision", "recall", "f1", "auc-roc")


def classification_metrics(probability: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """The five metrics by name, 0 to 1; nan where a definition divides by nothing.

    Precision is undefined where nothing is called positive, recall and F1 where nothing is positive and (for F1)
    nothing is called so, AUC-ROC where one of the classes is missing. Equal probabilities count half in AUC-ROC.

    Args:
        probability: Of the positive class, *num_examples*, finite.
        labels: Whether an example is positive, *num_examples*; 0 and 1 or truth values.

    Raises:
        ValueError: For other shapes, no example, a probability outside [0, 1] or a label that is neither 0 nor 1.
    """
    chances, positive = np.asarray(probability, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if chances.shape != positive.shape or chances.ndim != 1 or not chances.size:
        raise ValueError(f"expected one probability per label, got shapes {chances.shape} and {positive.shape}")
    if not ((chances >= 0) & (chances <= 1)).all():
        raise ValueError(f"probabilities must lie in [0, 1], got {chances.min()} to {chances.max()}")
    if not np.isin(positive, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {np.unique(positive)[:5].tolist()}")
    called = chances > THRESHOLD
    hits, calls, positives = float(positive[called].sum()), float(called.sum()), float(positive.sum())
    negatives = len(positive) - positives
    above = float(rankdata(chances)[positive == 1].sum()) - positives * (positives + 1) / 2
    return {
        "accuracy": float((called == (positive == 1)).mean()),
        "precision": _ratio(hits, calls),
        "recall": _ratio(hits, positives),
        "f1": _ratio(2 * hits, calls + positives),
        "auc-roc": _ratio(above, positives * negatives),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
