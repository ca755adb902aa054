"""Linear CKA: how alike two layers' states are, whatever their bases and scales."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from layerwise.data.arrays import FloatArray


def linear_cka(x: FloatArray, y: FloatArray, debiased: bool = False) -> float:
    """Linear centred kernel alignment of two representations of the same rows.

    Rotating, reflecting or scaling one of them as a whole does not change it; other linear maps do.

    Args:
        x: *rows x d1*.
        y: *rows x d2*.
        debiased: Estimates both kernels' dependence without bias. The plain value of independent states is not 0 but
            about d / rows for d equally used directions (.06 for 64 of them and 1,000 rows).

    Returns:
        In [0, 1], 1 for the same states up to rotation and scale; debiased at most 1 and about 0 for independent
        states, where it may fall below. `nan` where a side is constant, or where its debiased norm is not above 0.

    Raises:
        ValueError: If the rows do not match, or `debiased` is asked of fewer than 4.

    References:
        Kornblith et al. 2019, section 3 (the form over features, which needs no *rows x rows* matrix); debiased: Song
        et al. 2012, equation 5, as used by Nguyen et al. 2021 and Murphy et al. 2024.
    """
    return float(cka_matrix([x, y], debiased)[0, 1])


def cka_matrix(states: Sequence[FloatArray] | FloatArray, debiased: bool = False) -> NDArray[np.float64]:
    """Linear CKA of every pair of layers.

    Args:
        states: Per layer *rows x hidden*, or one array *num_layers x rows x hidden*.
        debiased: As in `linear_cka`.

    Returns:
        *num_layers x num_layers*, symmetric, 1 on the diagonal (`nan` where undefined).

    Raises:
        ValueError: As `linear_cka`.
    """
    if len(counts := {len(layer) for layer in states}) > 1:
        raise ValueError(f"all states must be of the same rows, got {sorted(counts)} of them")
    if debiased and min(counts, default=4) < 4:
        raise ValueError(f"a debiased estimate needs at least 4 rows, got {min(counts)}")
    centred = [_centred(layer) for layer in states]
    shared = np.empty((len(centred), len(centred)))
    for i, x in enumerate(centred):
        for j, y in enumerate(centred[: i + 1]):
            shared[i, j] = shared[j, i] = _debiased(x, y) if debiased else np.square(x.T @ y).sum()
    norms = np.sqrt(np.where(shared.diagonal() > 0, shared.diagonal(), np.nan))
    return shared / np.outer(norms, norms)  # type: ignore[no-any-return]


def _debiased(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Unbiased HSIC of centred rows, times n (n - 3), which cancels in the ratio.

    Song's sums over Gram matrices without their diagonals, written with the rows' squared lengths alone: of centred
    rows, every row of the Gram matrix sums to 0.
    """
    rows, lengths_x, lengths_y = len(x), np.square(x).sum(axis=1), np.square(y).sum(axis=1)
    diagonal = lengths_x @ lengths_y * rows / (rows - 2)
    return float(np.square(x.T @ y).sum() - diagonal + lengths_x.sum() * lengths_y.sum() / ((rows - 1) * (rows - 2)))


def _centred(states: FloatArray) -> NDArray[np.float64]:
    """Centred and of unit mean square, so that tiny states do not underflow; zeros where all rows are equal."""
    if not np.ptp(states, axis=0).any():
        return np.zeros(states.shape)
    wide = states.astype(np.float64)
    wide -= wide.mean(axis=0)
    return np.asarray(wide / np.sqrt(np.square(wide).mean()), dtype=np.float64)
