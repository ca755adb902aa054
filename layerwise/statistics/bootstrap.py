"""A bootstrap over users in place of user means, for numbers that are no mean over users."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from layerwise.statistics.tables import FloatArray

BOOTSTRAP_SAMPLES = 400  # the standard error is then known to about 4 %
BOOTSTRAP_SEED = 20_260_117  # fixed: the same evidence gives the same interval


@lru_cache(maxsize=4)  # a claim's cases have the same users, and a calibration judges them thousands of times
def drawn_counts(users: int) -> NDArray[np.int64]:
    """How often each user is drawn in each sample with replacement, shape [samples, users]; the same for every call."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    counts = rng.multinomial(users, np.full(users, 1 / users), size=BOOTSTRAP_SAMPLES)
    counts.flags.writeable = False
    return np.asarray(counts, dtype=np.int64)


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
