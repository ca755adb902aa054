"""How many directions states use, and the two that they use most."""

import numpy as np
from numpy.typing import NDArray

from layerwise.data.arrays import FloatArray


def effective_rank(states: FloatArray) -> float:
    """The exponential of the entropy of the states' singular values, as shares of their sum.

    It counts directions, and one that is hardly used counts little: r equal singular values give r. These are the
    singular values themselves, as in the paper; entropy of their squares (the variances) would weigh small ones less.
    Rotation and scaling of the states do not change it.

    Args:
        states: *rows x hidden*; they are centred here, which the paper leaves to its reader.

    Returns:
        In [1, min(rows - 1, hidden)], no unit; `nan` if all rows are equal.

    References:
        Roy and Vetterli 2007, definition 1.
    """
    if not np.ptp(states, axis=0).any():
        return float("nan")
    values = np.linalg.svd(_centred(states), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def principal_plane(states: FloatArray) -> NDArray[np.float64]:
    """Coordinates in the two directions of most variance, for a picture.

    Args:
        states: *rows x hidden*, hidden at least 2.

    Returns:
        *rows x 2*, centred, in the unit of the states; the entry of a direction that is largest in absolute value is
        positive, so that the same states give the same picture.

    References:
        Jolliffe 2002, chapter 2 (principal components).
    """
    centred = _centred(states)
    _, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
    axes = vectors[:, [-1, -2]]
    largest = axes[np.abs(axes).argmax(axis=0), [0, 1]]
    return np.asarray(centred @ (axes * np.sign(largest)), dtype=np.float64)


def _centred(states: FloatArray) -> NDArray[np.float64]:
    wide = states.astype(np.float64)
    return wide - wide.mean(axis=0)  # type: ignore[no-any-return]
