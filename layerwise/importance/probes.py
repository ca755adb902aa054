"""Linear probes: what can be read from states by a linear map that has seen other rows. Numbers in, numbers out.

States are standardised by the training rows, the bias is not penalised, and both probes minimise a mean over rows plus
a penalty, so that a strength means the same for every number of rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from layerwise.data.arrays import FloatArray, IntArray

RIDGE_STRENGTHS = (*(10.0**exponent for exponent in range(-6, 3)), float("inf"))
"""Candidates in units of the mean eigenvalue of the standardised states; the infinite one predicts the mean."""
LOGISTIC_STRENGTHS = tuple(10.0**exponent for exponent in range(-4, 2))
HELD_OUT = 5  # one training row in so many chooses the strength
GRADIENT_TOLERANCE = 1e-6  # of the mean loss in nats, in coordinates whose curvature is about 1

Array = NDArray[np.float64]
Fit = Callable[[Array, NDArray[np.generic], float], "LinearHead"]
Loss = Callable[["LinearHead", Array, NDArray[np.generic]], float]


@dataclass(frozen=True)
class LinearHead:
    """A linear map of states.

    Attributes:
        weight: *outputs x hidden*.
        bias: *outputs*.
    """

    weight: Array
    bias: Array

    def logits(self, states: FloatArray) -> Array:
        """Outputs *rows x outputs* of states *rows x hidden*."""
        return states.astype(np.float64) @ self.weight.T + self.bias

    def log_probabilities(self, states: FloatArray) -> Array:
        """Logarithm of the softmax of the logits, *rows x outputs*, in nats."""
        return np.asarray(log_softmax(self.logits(states), axis=1), dtype=np.float64)


def ridge_probe(
    train_states: FloatArray, train_targets: FloatArray, test_states: FloatArray, strength: float | None = None
) -> Array:
    """Predictions of a ridge regression from states to targets, *test rows x outputs*.

    It minimises the mean over rows of the squared error, plus `strength` times the squared norm of the weights.

    Args:
        train_states: *train rows x hidden*, finite.
        train_targets: *train rows x outputs*, such as item vectors or 0/1 indicators of genres.
        test_states: *test rows x hidden*.
        strength: Above 0, `inf` predicts the mean; by default the one of `RIDGE_STRENGTHS` with the smallest squared
            error, summed over outputs, on a fifth of the training rows drawn with a fixed seed; it is then fitted to
            all of them. Rows of one user that fall on both sides make it weaker than a new user would want.

    Raises:
        ValueError: If a state is not finite, rows do not match, or the strength is not above 0.

    References:
        Alain and Bengio 2017, section 3 (linear probes of intermediate layers); Hastie et al. 2009, section 3.4.1.
    """
    targets = np.asarray(train_targets, dtype=np.float64)
    return _fitted(_ridge, _squared_error, train_states, targets, strength, RIDGE_STRENGTHS).logits(test_states)


def logistic_probe(
    train_states: FloatArray,
    train_labels: IntArray,
    test_states: FloatArray,
    num_classes: int,
    strength: float | None = None,
) -> Array:
    """Log-probabilities of the classes by `logistic_head`, *test rows x num_classes*, in nats."""
    return logistic_head(train_states, train_labels, num_classes, strength).log_probabilities(test_states)


def logistic_head(states: FloatArray, labels: IntArray, num_classes: int, strength: float | None = None) -> LinearHead:
    """Multinomial logistic regression from states to classes, as a head for the states as they are.

    It minimises the mean over rows of the negative log-likelihood in nats, plus half of `strength` times the squared
    norm of the weights. One row of each class at the mean state is added to the data (Laplace's rule of
    succession), so that a class without rows has a finite score, and states without information give the shares
    (count + 1) / (rows + num_classes).

    Args:
        states: *rows x hidden*, finite.
        labels: *rows*, in [0, num_classes).
        num_classes: At least 2.
        strength: Above 0 and finite; by default the one of `LOGISTIC_STRENGTHS` with the smallest loss on held-out
            rows, as in `ridge_probe`.

    Raises:
        ValueError: If a state is not finite, rows do not match, or labels, classes or strength are out of range.
        RuntimeError: If the optimiser does not converge.
    """
    if num_classes < 2 or np.any((labels < 0) | (labels >= num_classes)):
        raise ValueError(f"expected at least 2 classes and labels within [0, {num_classes}), got {np.unique(labels)}")
    if strength == np.inf:
        raise ValueError("expected a finite strength, got inf")

    def fit(rows: Array, classes: NDArray[np.generic], penalty: float) -> LinearHead:
        with_each_class = np.concatenate([classes, np.arange(num_classes)])
        at_the_mean = np.broadcast_to(rows.mean(axis=0), (num_classes, rows.shape[1]))
        return _logistic(np.concatenate([rows, at_the_mean]), np.eye(num_classes)[with_each_class], penalty)

    return _fitted(fit, _log_loss, states, labels, strength, LOGISTIC_STRENGTHS)


def _fitted(
    fit: Fit,
    loss: Loss,
    states: FloatArray,
    targets: NDArray[np.generic],
    strength: float | None,
    candidates: Sequence[float],
) -> LinearHead:
    """Standardises, chooses the strength where none is given, fits, and folds the standardisation into the head."""
    if len(states) != len(targets) or len(states) < 2:
        raise ValueError(f"expected a target for each of at least 2 states, got {len(targets)} for {len(states)}")
    if not np.isfinite(states).all():
        raise ValueError(f"states must be finite, got {np.count_nonzero(~np.isfinite(states))} values that are not")
    if strength is not None and not strength > 0:
        raise ValueError(f"strength must be above 0, got {strength}")
    states = states.astype(np.float64)
    mean, scale = states.mean(axis=0), np.where(np.ptp(states, axis=0) > 0, states.std(axis=0), 1.0)
    rows = (states - mean) / scale
    if strength is None:
        strength = _chosen(fit, loss, rows, targets, candidates)
    head = fit(rows, targets, strength)
    weight = head.weight / scale
    return LinearHead(weight, head.bias - weight @ mean)


def _chosen(fit: Fit, loss: Loss, rows: Array, targets: NDArray[np.generic], candidates: Sequence[float]) -> float:
    out = np.random.default_rng(0).permutation(len(rows)) < -(-len(rows) // HELD_OUT)
    heads = (fit(rows[~out], targets[~out], strength) for strength in candidates)
    return candidates[int(np.argmin([loss(head, rows[out], targets[out]) for head in heads]))]


def _squared_error(head: LinearHead, states: Array, targets: NDArray[np.generic]) -> float:
    return float(np.square(head.logits(states) - targets).sum())  # type: ignore[operator]


def _log_loss(head: LinearHead, states: Array, labels: NDArray[np.generic]) -> float:
    return -float(np.take_along_axis(head.log_probabilities(states), labels[:, None], axis=1).mean())  # type: ignore[arg-type]


def _ridge(states: Array, targets: NDArray[np.generic], strength: float) -> LinearHead:
    mean, centre = states.mean(axis=0), np.mean(targets, axis=0)  # type: ignore[arg-type]
    centred = states - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(states))
    projected = vectors.T @ (centred.T @ (targets - centre)) / len(states)
    weight = (vectors @ (projected / (values.clip(min=0) + strength)[:, None])).T
    return LinearHead(weight, centre - weight @ mean)


def _logistic(states: Array, indicators: Array, strength: float) -> LinearHead:
    """L-BFGS in the principal axes of the states, scaled by the curvature that the loss has at weights of 0.

    Rotation leaves the penalty as it is, scaling is undone; both only save steps: by the hundred where states are
    nearly collinear.
    """
    values, axes = np.linalg.eigh(np.cov(states.T, bias=True).reshape(2 * states.shape[1:]))
    design = np.column_stack([states @ axes, np.ones(len(states))])  # rows x (hidden + 1)
    shares = indicators.mean(axis=0)
    penalty = np.append(np.full(len(values), strength), 0.0)
    curvature = np.outer(shares * (1 - shares), np.append(values.clip(min=0), 1.0)) + penalty
    step, observed = curvature**-0.5, indicators.T @ design / len(design)  # both classes x (hidden + 1)

    def objective(flat: Array) -> tuple[float, Array]:
        head = flat.reshape(step.shape) * step
        logits = design @ head.T
        top = logits.max(axis=1, keepdims=True)
        odds = np.exp(logits - top)
        total = odds.sum(axis=1, keepdims=True)
        expected = (odds / total).T @ design / len(design)
        loss = np.mean(np.log(total) + top) - np.sum(head * observed) + np.sum(penalty * head**2) / 2
        return float(loss), ((expected - observed + penalty * head) * step).ravel()

    options = {"gtol": GRADIENT_TOLERANCE, "ftol": 0.0, "maxiter": 1000, "maxcor": 20}
    found = minimize(objective, np.zeros(step.size), jac=True, method="L-BFGS-B", options=options)  # type: ignore[call-overload]
    if np.abs(found.jac).max() > 100 * GRADIENT_TOLERANCE:
        raise RuntimeError(
            f"logistic regression stopped at a gradient of {np.abs(found.jac).max():.1e}: {found.message}"
        )
    head = found.x.reshape(step.shape) * step
    return LinearHead(head[:, :-1] @ axes.T, head[:, -1])
