"""A bootstrap over users in place of user means, for numbers that are no mean over users."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from layerwise.statistics.tables import FloatArray

BOOTSTRAP_SAMPLES = 400  # the standard error is then known to about 4 %
BOOTSTRAP_SEED = 20_260_117  # fixed: the same evidence gives the same interval


def drawn_counts(users: int) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """How often each user is drawn in each of `BOOTSTRAP_SAMPLES` samples with replacement; the same for every call."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    chances = np.full(users, 1 / users)
    for _ in range(BOOTSTRAP_SAMPLES):
        yield rng.multinomial(users, chances)


def variance_parts_of_draws(per_seed: FloatArray, draws: FloatArray) -> FloatArray:
    """Variance of the mean over seeds from seeds, from users and from their interaction, shape [3], as for `combine`.

    Args:
        per_seed: the number of every seed, shape [seeds].
        draws: the same for samples of users, the same sample for all seeds, shape [samples, seeds].
    """
    users = draws.mean(axis=1).var(ddof=1)
    if len(per_seed) == 1:
        return np.array([0.0, users, 0.0])
    seeds = per_seed.var(ddof=1) / len(per_seed)
    within = draws.var(axis=0, ddof=1).mean()  # holds the interaction in full, `users` 1 / seeds of it
    return np.array([seeds, users, (within - users) / (len(per_seed) - 1)])
