"""Whether a quantity follows an S over depth rather than a straight line."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares
from scipy.special import expit

from layerwise.statistics.tables import FloatArray, as_table, check_same_shape

LINE, LOGISTIC = 3, 5  # parameters that AICc counts: those of the curve and the residual variance
PERFECT = 1e-6  # smallest residual variance over the variance of the values: a fit to a thousandth of their spread
STEPS = 4  # starts per distance between layers
WIDTHS = 12  # starts from a step to nearly a line


def s_shape_gain(depth: npt.ArrayLike, values: npt.ArrayLike) -> float:
    """AICc of the best straight line minus that of the best logistic curve: above 0 where the S describes it better.

    The logistic is low + height / (1 + exp(-(depth - middle) / width)), rising or falling, with its middle
    within the layers and a width between a step from one layer to the next and the whole depth. It takes the place
    of a line only if it earns its two more parameters: with 8 layers its squared residuals must be 33 times
    smaller, with 12 layers 2.5 times, with 24 layers 1.3 times. A curve that only bends gains as well.

    Args:
        depth: place of every layer, shape [layers], strictly increasing, at least eight.
        values: the quantity there, shape [layers], finite, in any unit: shifting, scaling and mirroring it changes
            nothing.

    Returns:
        The gain, without unit. Residual variances count as no smaller than `PERFECT` times the variance of the
        values, so that two perfect fits differ by their parameters only; so they do for values that are all equal.

    Raises:
        ValueError: shapes that differ, fewer than eight layers (AICc divides by layers - 6), depths that do not
            increase, or numbers that are not finite.

    References:
        AICc: Hurvich and Tsai (1989), n log(RSS / n) + 2 k + 2 k (k + 1) / (n - k - 1), k with the variance.
        Low and height are solved for at each middle and width (variable projection, Golub and Pereyra 1973); these
        two are refined from the best point of a fixed grid.
    """
    x, y = as_table("depth", depth, axes=("layers",)), as_table("values", values, axes=("layers",))
    check_same_shape("depth", x, "values", y)
    if len(x) < LOGISTIC + 3:
        raise ValueError(f"a logistic against a line needs at least {LOGISTIC + 3} layers, got {len(x)}")
    if not (np.diff(x) > 0).all():
        raise ValueError(f"depth must increase strictly, got {x.tolist()}")
    spread = np.ptp(y)
    y = (y - y.mean()) / spread if spread else np.zeros_like(y)
    x = (x - x[0]) / (x[-1] - x[0])
    line = np.square(_residuals(x, y)).sum()
    return _aicc(line, y, LINE) - _aicc(_logistic(x, y), y, LOGISTIC)


def _aicc(squares: float, y: FloatArray, parameters: int) -> float:
    layers = len(y)
    variance = max(squares / layers, PERFECT * float(y.var())) or 1.0  # equal values: nothing is left to explain
    penalty = 2 * parameters * (1 + (parameters + 1) / (layers - parameters - 1))
    return layers * math.log(variance) + penalty


def _logistic(x: FloatArray, y: FloatArray) -> float:
    """Sum of squared residuals of the best logistic; x runs from 0 to 1."""
    gap = float(np.diff(x).min())
    lower, upper = np.array([0.0, math.log(gap / 20)]), np.array([1.0, 0.0])  # middle, log width

    def residuals(curve: FloatArray) -> FloatArray:
        return _residuals(expit((x - curve[0]) / math.exp(curve[1])), y)

    middles = np.linspace(lower[0], upper[0], STEPS * (len(x) - 1) + 1)
    grid = map(np.array, product(middles, np.linspace(lower[1], upper[1], WIDTHS)))
    start = min(grid, key=lambda curve: float(np.square(residuals(curve)).sum()))
    best = least_squares(residuals, start, bounds=(lower, upper))
    return min(2 * float(best.cost), float(np.square(residuals(start)).sum()))


def _residuals(shape: FloatArray, y: FloatArray) -> FloatArray:
    """What is left of y, which has mean 0, after the best multiple of a shape and a constant."""
    centred = shape - shape.mean()
    return np.asarray(y - centred * (centred @ y) / (centred @ centred), dtype=np.float64)
