"""Whether noise is where it is said to be, and what is stored of single targets and of noisy histories is true."""

from functools import lru_cache

import numpy as np

from layerwise.data.noise import replaced_share, with_noisy_events
from layerwise.data.splits import Split
from layerwise.lab.robustness import ARMS, LEVEL, arm_of, loss_by_noise, ndcg_under_noise
from layerwise.lab.spot_checks import METRICS, ROUNDING, SAME, USERS, Check, counted_metrics
from layerwise.lab.study import Study

TOLERANCE = 0.1  # of the declared share of noise, within which the share that was replaced must lie
NDCG = METRICS.index("ndcg@10")


def noise_checks(study: Study, share: float) -> list[Check]:
    """Whether histories were as noisy as is said, noise harms at all, and both arms rank from it as is stored."""
    return [_share_check(study, share), _harm_check(study), *(_noisy_ranking_check(study, share, arm) for arm in ARMS)]


@lru_cache(maxsize=8)
def target_check(study: Study, arm: str) -> Check:
    """Whether the values of single targets have the users' means that are stored, and checked, elsewhere."""
    models, users = arm_of(study, arm), study.split.test.users
    stored, single = study.quality(models)["ndcg@10"], study.target_ndcg(models)
    means = np.stack([[seed[users == user].mean() for user in np.unique(users)] for seed in single])
    differ = int((np.abs(means - stored) > SAME).sum())
    return (
        differ <= ROUNDING * stored.size,
        f"targets of the {arm} model must have the means that its users have elsewhere: {differ} of {stored.size} "
        "values differ",
    )


def _share_check(study: Study, share: float) -> Check:
    last, true = study.subject.max_length, study.split.histories(study.split.test)
    draws = [_noisy(study, share, seed).histories(study.split.test) for seed in study.tier.seeds]
    found = float(np.mean([replaced_share(read, true, last) for read in draws]))
    return (
        abs(found - share) <= TOLERANCE * share,
        f"{share:.0%} of the last {last} events must be replaced in what the models read: {found:.2%} are",
    )


def _harm_check(study: Study) -> Check:
    strongest = max(study.tier.noise)
    harm = loss_by_noise(study, "full", strongest)
    return (
        harm.interval(LEVEL).low > 0,
        f"noise must harm, else bearing it says nothing: at {strongest:.0%} the full model loses "
        f"{harm.sentence(harm.interval(LEVEL))}",
    )


@lru_cache(maxsize=8)
def _noisy_ranking_check(study: Study, share: float, arm: str) -> Check:
    """Whether stored metrics are those of the arm's models on the noise that both arms are said to read."""
    split, stored = study.split, ndcg_under_noise(study, arm, share)
    users = np.unique(split.test.users)
    rows = np.unique(np.linspace(0, len(users) - 1, USERS).astype(np.int64))
    counted = [
        counted_metrics(study.model(model), split, users[rows], read=_noisy(study, share, seed))[:, NDCG]
        for model, seed in zip(arm_of(study, arm), study.tier.seeds, strict=True)
    ]
    differ = int((np.abs(stored[:, rows] - np.stack(counted)) > SAME).sum())
    total = stored[:, rows].size
    return (
        differ <= ROUNDING * total,
        f"the stored ranking of the {arm} model with {share:.0%} noise must be what it gives where both read the same "
        f"noise, counted one by one: {differ} of {total} users differ",
    )


@lru_cache(maxsize=32)
def _noisy(study: Study, share: float, seed: int) -> Split:
    return with_noisy_events(study.split, share, seed)
