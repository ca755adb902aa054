"""How much states say about a label, as far as a linear classifier can read it: a bound on mutual information."""

import numpy as np
from numpy.typing import NDArray

from layerwise.data.arrays import FloatArray, IntArray
from layerwise.importance.probes import logistic_probe


def mutual_information(
    train_states: FloatArray, train_labels: IntArray, test_states: FloatArray, test_labels: IntArray, num_classes: int
) -> NDArray[np.float64]:
    """What the states of each test row add to the log-probability of its label; the mean is the estimate.

    I(S; Y) = H(Y) - H(Y | S) is at least H(Y) - E[-log q(y | s)] for any classifier q: here the logistic probe, which
    never saw the test rows. H(Y) is measured on the same test rows, as the cross-entropy of the training labels'
    shares, so that both terms share their noise; with the shares of other labels it is above H(Y), and the bound
    holds as far as training and test labels are distributed alike.

    Args:
        train_states: *train rows x hidden*.
        train_labels: *train rows*, in [0, num_classes).
        test_states: *test rows x hidden*, of rows that are independent of the training ones.
        test_labels: *test rows*, in [0, num_classes).
        num_classes: At least 2; shares are (count + 1) / (rows + num_classes), those of a probe of useless states.

    Returns:
        log q(y | s) - log share(y), *test rows*, in nats; negative where the states mislead. The mean is at most
        log(num_classes) for equally frequent classes, and about 0 or below for states that say nothing linearly.

    Raises:
        ValueError: If labels are out of range, rows do not match, or a state is not finite.

    References:
        Barber and Agakov 2003, equation 3 (the bound); Pimentel et al. 2020, section 3 (probing as estimating
        information); Xu et al. 2020, definition 2: this is the V-information of linear softmax classifiers.
    """
    if len(test_states) != len(test_labels):
        raise ValueError(f"expected a label for each test state, got {len(test_labels)} for {len(test_states)}")
    if np.any((test_labels < 0) | (test_labels >= num_classes)):
        raise ValueError(f"test labels must lie within [0, {num_classes}), got {np.unique(test_labels)}")
    told = logistic_probe(train_states, train_labels, test_states, num_classes)
    return information_about(told, test_labels, train_labels)


def information_about(told: FloatArray, labels: IntArray, train_labels: IntArray) -> NDArray[np.float64]:
    """The same from a probe's log-probabilities of the classes, *rows x num_classes*, and the labels of these rows."""
    num_classes = told.shape[1]
    shares = (np.bincount(train_labels, minlength=num_classes) + 1) / (len(train_labels) + num_classes)
    return np.asarray(told[np.arange(len(labels)), labels] - np.log(shares)[labels], dtype=np.float64)
